//! A file's text as a stream that knows where it stands, decompressed where the file is gzip.

use std::{
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::bufread::MultiGzDecoder;

use super::{Bytes, RowMark, bytes::From};
use crate::error::{Error, Place};

const BUFFER_BYTES: usize = 64 << 10;
pub(crate) const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

pub(crate) struct Input {
    stream: Box<dyn BufRead>,
    path: PathBuf,
    is_gzip: bool,
    mark: RowMark,
}

impl Input {
    /// Starts at a mark. A compressed file is decompressed up to it.
    pub fn open(bytes: Bytes, path: &Path, is_gzip: bool, mark: RowMark) -> Result<Self, Error> {
        let mut stream: Box<dyn BufRead> = match is_gzip {
            false => Box::new(BufReader::with_capacity(BUFFER_BYTES, From { bytes, at: mark.offset })),
            true => {
                let compressed = BufReader::with_capacity(BUFFER_BYTES, From { bytes, at: 0 });
                Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(compressed)))
            }
        };
        if is_gzip {
            io::copy(&mut (&mut stream).take(mark.offset), &mut io::sink())
                .map_err(|error| unreadable(path, is_gzip, mark, error))?;
        }
        let mut input = Input { stream, path: path.to_owned(), is_gzip, mark };
        if mark.offset == 0 && input.peek()?.starts_with(BYTE_ORDER_MARK) {
            input.pass(BYTE_ORDER_MARK.len());
        }
        Ok(input)
    }

    /// The bytes that come next, some of them; empty at the end.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn peek(&mut self) -> Result<&[u8], Error> {
        // An interrupted read is tried until it succeeds, as `Read::read_exact` does.
        loop {
            match self.stream.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(&self.path, self.is_gzip, self.mark, error)),
                Ok(_) => break,
            }
        }
        // What is in the buffer is returned as it is: this does not read.
        self.stream.fill_buf().map_err(|error| unreadable(&self.path, self.is_gzip, self.mark, error))
    }

    /// Goes over bytes that [`Input::peek`] showed.
    pub fn pass(&mut self, count: usize) {
        let passed = self.stream.fill_buf().unwrap_or_default().get(..count).unwrap_or_default();
        self.mark.lines += passed.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.mark.offset += count as u64;
        self.stream.consume(count);
    }

    pub fn mark(&self) -> RowMark {
        self.mark
    }

    /// The line that is read.
    pub fn place(&self) -> Place {
        Place { path: self.path.clone(), line: self.mark.lines + 1 }
    }
}

fn unreadable(path: &Path, is_gzip: bool, mark: RowMark, error: io::Error) -> Error {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    if is_gzip && matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof) {
        let place = Place { path: path.to_owned(), line: mark.lines + 1 };
        return Error::Damaged { place, what: "gzip", message: error.to_string() };
    }
    Error::io(path, "read it", error)
}
