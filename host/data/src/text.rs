//! Texts that are read by position: a range of bytes of a file, and a text in memory.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    error::{Error, Place},
    files,
    seams::TextSource,
};

/// Longest search for an end of line where a file is split.
const SEARCH_BYTES: usize = 1 << 20;

/// Bytes `start..end` of a file of text.
#[derive(Clone, Debug)]
pub(crate) struct FileText {
    pub file: Arc<File>,
    pub path: PathBuf,
    pub start: u64,
    pub end: u64,
}

impl TextSource for FileText {
    const IS_TEXT_FILE: bool = true;

    fn len_bytes(&self) -> u64 {
        self.end - self.start
    }

    fn read(&self, start: u64, most_bytes: usize) -> Result<String, Error> {
        let left = self.len_bytes().saturating_sub(start);
        let want = most_bytes.min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut bytes = vec![0; want];
        let from = self.start + start;
        let count = files::read_up_to(&self.file, &mut bytes, from)
            .map_err(|source| Error::io(&self.path, "read it", source))?;
        if count < want {
            return Err(Error::Changed { path: self.path.clone() });
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let is_cut = error.utf8_error().error_len().is_none() && (want as u64) < left && valid > 0;
                if !is_cut {
                    let byte = from + valid as u64;
                    return Err(Error::Utf8 { place: files::place_of(&self.file, &self.path, byte), byte });
                }
                let mut bytes = error.into_bytes();
                bytes.truncate(valid);
                Ok(String::from_utf8(bytes).expect("this much was found to be UTF-8"))
            }
        }
    }

    fn locate(&self, start: u64, error: Error) -> Error {
        match error {
            Error::Encode { message, .. } => {
                Error::Encode { place: files::place_of(&self.file, &self.path, self.start + start), message }
            }
            error => error,
        }
    }
}

/// A text in memory, and the line that it comes from.
#[derive(Clone, Debug)]
pub(crate) struct MemoryText {
    pub text: Arc<str>,
    pub place: Place,
}

impl TextSource for MemoryText {
    const IS_TEXT_FILE: bool = false;

    fn len_bytes(&self) -> u64 {
        self.text.len() as u64
    }

    fn read(&self, start: u64, most_bytes: usize) -> Result<String, Error> {
        let start = usize::try_from(start).ok().filter(|start| self.text.is_char_boundary(*start));
        let start = start.ok_or_else(|| Error::Position { why: "a window starts inside of a character".to_owned() })?;
        let end = self.text.floor_char_boundary(self.text.len().min(start.saturating_add(most_bytes)));
        Ok(self.text[start..end].to_owned())
    }

    fn locate(&self, _start: u64, error: Error) -> Error {
        match error {
            Error::Encode { message, .. } => Error::Encode { place: self.place.clone(), message },
            error => error,
        }
    }
}

/// Where the tail of a text file begins: after the first end of line from `at` on, else at the next whole character.
pub(crate) fn cut_after(file: &File, path: &Path, at: u64, len_bytes: u64) -> Result<u64, Error> {
    if at == 0 || at >= len_bytes {
        return Ok(at.min(len_bytes));
    }
    let left = usize::try_from(len_bytes - at).unwrap_or(usize::MAX);
    let mut bytes = vec![0; SEARCH_BYTES.min(left)];
    let count = files::read_up_to(file, &mut bytes, at).map_err(|source| Error::io(path, "read it", source))?;
    let found = bytes[..count].iter().position(|byte| *byte == b'\n').map(|position| position + 1);
    let is_start = |byte: &u8| *byte & 0b1100_0000 != 0b1000_0000;
    let offset = found.or_else(|| bytes[..count].iter().position(is_start)).unwrap_or(count);
    Ok(at + offset as u64)
}
