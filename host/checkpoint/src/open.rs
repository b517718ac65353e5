//! Opens files that may be anything: never blocks on a pipe, never reads a device, never reads past a limit.

use std::{
    fs::{File, Metadata, OpenOptions},
    io,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use crate::error::Error;

/// Which file it is, how long and of when, so that a later look can tell whether it is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub device: u64,
    pub inode: u64,
    pub bytes: u64,
    modified: (i64, i64),
}

impl Identity {
    pub fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Identity { device: metadata.dev(), inode: metadata.ino(), bytes: metadata.len(), modified }
    }
}

/// Opens a regular file for reading, at once, whatever stands in its place.
///
/// # Errors
/// It is missing, unreadable, or not a regular file.
pub fn regular_file(path: &Path) -> Result<(File, Metadata), Error> {
    // Without O_NONBLOCK, opening a named pipe waits for a writer that may never come.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|source| Error::io(path, "open it for reading", source))?;
    let metadata = file.metadata().map_err(|source| Error::io(path, "get its size", source))?;
    if !metadata.is_file() {
        return Err(Error::NotAFile { path: path.to_owned(), found: kind_of(&metadata) });
    }
    Ok((file, metadata))
}

pub(crate) fn kind_of(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_dir() {
        "folder"
    } else if kind.is_fifo() {
        "named pipe"
    } else if kind.is_socket() {
        "socket"
    } else if kind.is_block_device() || kind.is_char_device() {
        "device"
    } else if kind.is_symlink() {
        "symbolic link"
    } else {
        "file"
    }
}

/// Fills `buffer` from `offset`; fewer bytes there are an error of kind `UnexpectedEof`.
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(buffer, offset)
}

/// Reads up to `buffer.len()` bytes from the start, fewer where the file is shorter.
pub(crate) fn read_start(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
