//! Bytes that are read by position: a file's, or a slice's where a test or a fuzzer has them.

use std::{
    fs::File,
    io::{self, Read},
    sync::Arc,
};

use crate::files;

#[derive(Clone, Debug)]
pub(crate) enum Bytes {
    File(Arc<File>),
    Memory(Arc<[u8]>),
}

impl Bytes {
    pub fn len(&self) -> io::Result<u64> {
        Ok(match self {
            Bytes::File(file) => file.metadata()?.len(),
            Bytes::Memory(bytes) => bytes.len() as u64,
        })
    }

    /// Fills what it can of `buffer` from `offset`; less only at the end.
    pub fn read_up_to(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Bytes::File(file) => files::read_up_to(file, buffer, offset),
            Bytes::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let count = buffer.len().min(bytes.len() - start);
                buffer[..count].copy_from_slice(&bytes[start..start + count]);
                Ok(count)
            }
        }
    }
}

/// Reads on from a position.
#[derive(Debug)]
pub(crate) struct From {
    pub bytes: Bytes,
    pub at: u64,
}

impl Read for From {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read_up_to(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
