//! A GGUF file on disk: its header in memory, its weights read piece by piece where they are asked for.
//!
//! Plain reads, no mapping: the header is at most 100 MiB, tensors are read once, in order, and a file that another
//! process cuts short while we read it is an error here and would be a SIGBUS there.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::error::{GgufError, Problem};
use super::info::GgufInfo;
use super::reader::{Gguf, MAX_HEADER_BYTES, Stop, TensorInfo, parse_prefix};
use crate::open::regular_file;

/// An open GGUF file whose header has been checked.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: File,
    file_bytes: u64,
    modified: Option<SystemTime>,
    /// The header.
    prefix: Vec<u8>,
    info: GgufInfo,
}

impl GgufFile {
    /// Opens `path` and checks its header; reads no weights.
    ///
    /// # Errors
    /// [`Problem::Open`] where the file is missing, unreadable or no regular file, else as [`parse`](super::parse).
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let (file, metadata) =
            regular_file(path).map_err(|error| GgufError::unplaced("file", Problem::Open(error)).in_file(path))?;
        let (file_bytes, mut prefix) = (metadata.len(), Vec::new());

        // The header does not say its own length. Each round reads four times as much, so all rounds together cost
        // little more than the last.
        let mut wanted = 1 << 20;
        loop {
            let known = prefix.len();
            let len = wanted.min(file_bytes).min(MAX_HEADER_BYTES);
            prefix.resize(usize::try_from(len).expect("at most MAX_HEADER_BYTES"), 0);
            file.read_exact_at(&mut prefix[known..], known as u64)
                .map_err(|error| GgufError::new(known as u64, "header", Problem::Io(error)).in_file(path))?;
            match parse_prefix(&prefix, file_bytes) {
                Ok(gguf) => {
                    let (info, header_bytes) = (GgufInfo::of(&gguf), gguf.header_bytes());
                    prefix.truncate(usize::try_from(header_bytes).expect("a part of the prefix"));
                    prefix.shrink_to_fit();
                    let modified = metadata.modified().ok();
                    return Ok(Self { path: path.to_owned(), file, file_bytes, modified, prefix, info });
                }
                Err(Stop::NeedMore) => wanted *= 4,
                Err(Stop::Bad(error)) => return Err(error.in_file(path)),
            }
        }
    }

    /// What the header says, summed up when the file was opened.
    pub fn info(&self) -> &GgufInfo {
        &self.info
    }

    /// The header, read again: a file of very many tensors takes a while.
    pub fn header(&self) -> Gguf<'_> {
        match parse_prefix(&self.prefix, self.file_bytes) {
            Ok(gguf) => gguf,
            Err(_) => unreachable!("the same bytes were read without error when the file was opened"),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads `out.len()` bytes of a tensor, from byte `at` of it on.
    pub(super) fn read_tensor(&self, tensor: &TensorInfo<'_>, at: u64, out: &mut [u8]) -> Result<(), GgufError> {
        let start = tensor.start + at;
        self.file.read_exact_at(out, start).map_err(|error| {
            GgufError::new(start, format!("tensor {}", tensor.name), Problem::Io(error)).in_file(&self.path)
        })
    }

    /// Fails where another program has written to the file since it was opened: what was read may be a mixture.
    pub(super) fn check_unchanged(&self) -> Result<(), GgufError> {
        let changed = match self.file.metadata() {
            Ok(now) => now.len() != self.file_bytes || now.modified().ok() != self.modified,
            Err(_) => true,
        };
        if changed {
            return Err(GgufError::unplaced("file", Problem::Changed).in_file(&self.path));
        }
        Ok(())
    }
}
