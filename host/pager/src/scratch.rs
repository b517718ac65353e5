//! A file for what does not fit into memory, gone with the process however that ends.
//!
//! It has no name. It is written and read, not mapped: a full disk is an error here and would be a signal there, and what is
//! not mapped is never resident. The system keeps what was written in memory that it can take back at any time, so that what
//! is wanted again soon comes from there.
//!
//! Never on a file system that is memory itself: nothing would be gained.

use std::{
    fs::File,
    io,
    num::NonZeroU64,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Advice, FallocateFlags, fadvise, fallocate, fstatfs},
    io::Errno,
};

use crate::PagerError;

/// File systems in memory, by the numbers in Linux's `magic.h`.
const TMPFS_MAGIC: u64 = 0x0102_1994;
const RAMFS_MAGIC: u64 = 0x8584_58f6;

/// A file without a name in a folder.
#[derive(Debug)]
pub struct ScratchFile {
    folder: PathBuf,
    file: File,
}

impl ScratchFile {
    /// # Errors
    /// A folder that cannot be written, or one that is kept in memory.
    pub fn new(folder: &Path) -> Result<Self, PagerError> {
        let open = |source| PagerError::Open { folder: folder.to_owned(), source };
        let file = tempfile::tempfile_in(folder).map_err(open)?;
        let kind = fstatfs(&file).map_err(|error| open(error.into()))?.f_type as u64;
        if [TMPFS_MAGIC, RAMFS_MAGIC].contains(&kind) {
            return Err(PagerError::InMemory { folder: folder.to_owned() });
        }
        Ok(ScratchFile { folder: folder.to_owned(), file })
    }

    /// Takes the space now, so that no later write within it finds the disk full. Where the file system cannot, the file only
    /// gets its length.
    ///
    /// # Errors
    /// The disk has not as much.
    pub fn reserve(&self, bytes: u64) -> Result<(), PagerError> {
        if bytes == 0 {
            return Ok(());
        }
        let reserved = match fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.file.set_len(bytes),
            other => other.map_err(io::Error::from),
        };
        reserved.map_err(|source| PagerError::Reserve { folder: self.folder.clone(), bytes, source })
    }

    /// # Errors
    /// The disk refuses.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), PagerError> {
        let failed = |source| PagerError::Write { folder: self.folder.clone(), bytes: bytes.len() as u64, source };
        self.file.write_all_at(bytes, offset).map_err(failed)
    }

    /// # Errors
    /// The disk refuses, or the file ends before `into` is full.
    pub fn read_at(&self, into: &mut [u8], offset: u64) -> Result<(), PagerError> {
        let bytes = into.len() as u64;
        let failed = |source| PagerError::Read { folder: self.folder.clone(), bytes, source };
        self.file.read_exact_at(into, offset).map_err(failed)
    }

    /// These bytes will be read soon.
    pub fn will_read(&self, bytes: u64, offset: u64) {
        // A hint: where it is not taken, they only come later.
        let _ = fadvise(&self.file, offset, NonZeroU64::new(bytes), Advice::WillNeed);
    }
}
