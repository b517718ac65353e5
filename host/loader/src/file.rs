//! A plugin's file, read once: what is checked, hashed, probed and loaded is one and the same run of bytes.
//!
//! Input: a path from the user or from a lock file. This must never run what it reads, and never go back to the path: the
//! file may be another by then.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::{
    digest::Sha256,
    elf::{self, NotAPlugin},
};

/// The largest plugin that is read. A plugin with all its device code as text has a few megabytes.
pub const MAX_PLUGIN_BYTES: u64 = 512 << 20;

/// Enough to tell what a file is, so that something huge that is no plugin costs no memory.
const HEAD_BYTES: u64 = 16 << 20;

/// The bytes of a library that looks like a plugin for this machine, and their SHA-256. Nothing of it has run.
#[derive(Clone)]
pub struct PluginFile {
    path: PathBuf,
    bytes: Vec<u8>,
    sha256: Sha256,
}

/// Why a file could not be read as a plugin.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("plugin {}: cannot be read: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },

    #[error("plugin {}: {found}, not a file", path.display())]
    NotAFile { path: PathBuf, found: &'static str },

    #[error("plugin {}: {bytes} bytes; a plugin has at most {MAX_PLUGIN_BYTES}", path.display())]
    TooLarge { path: PathBuf, bytes: u64 },

    #[error("plugin {}: {reason}", path.display())]
    NotAPlugin { path: PathBuf, reason: NotAPlugin },
}

impl PluginFile {
    /// Reads and checks the library at `path`. A symbolic link is followed, once, here: [`PluginFile::path`] is its target.
    ///
    /// # Errors
    /// [`FileError`]: the path cannot be read, is no regular file, or is not a complete plugin library for this machine.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let given = path.as_ref();
        let io_error = |source| FileError::Io { path: given.to_owned(), source };
        let path = std::fs::canonicalize(given).map_err(io_error)?;
        // O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(&path)
            .map_err(io_error)?;
        let metadata = file.metadata().map_err(io_error)?;
        if !metadata.is_file() {
            let kind = metadata.file_type();
            let found = match () {
                () if kind.is_dir() => "a folder",
                () if kind.is_fifo() => "a named pipe",
                () if kind.is_socket() => "a socket",
                () => "a device",
            };
            return Err(FileError::NotAFile { path, found });
        }
        let bytes = read_plugin(file, metadata.len(), &path)?;
        let sha256 = Sha256::of(&bytes);
        Ok(Self { path, bytes, sha256 })
    }

    /// Where it was read from, with links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn sha256(&self) -> Sha256 {
        self.sha256
    }
}

fn read_plugin(file: File, file_bytes: u64, path: &Path) -> Result<Vec<u8>, FileError> {
    let not_a_plugin = |reason| FileError::NotAPlugin { path: path.to_owned(), reason };
    let io_error = |source| FileError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    (&file).take(HEAD_BYTES).read_to_end(&mut bytes).map_err(io_error)?;
    elf::check_identity(&bytes).map_err(not_a_plugin)?;
    if file_bytes > MAX_PLUGIN_BYTES {
        return Err(FileError::TooLarge { path: path.to_owned(), bytes: file_bytes });
    }
    bytes
        .try_reserve_exact(usize::try_from(file_bytes).unwrap_or(0).saturating_sub(bytes.len()))
        .map_err(|error| io_error(io::Error::new(io::ErrorKind::OutOfMemory, error)))?;
    // One byte more than allowed, so that a file that grows while it is read is noticed.
    let read_bytes = bytes.len() as u64;
    (&file).take(MAX_PLUGIN_BYTES + 1 - read_bytes).read_to_end(&mut bytes).map_err(io_error)?;
    if bytes.len() as u64 > MAX_PLUGIN_BYTES {
        return Err(FileError::TooLarge { path: path.to_owned(), bytes: bytes.len() as u64 });
    }
    elf::check_plugin_library(&bytes).map_err(not_a_plugin)?;
    Ok(bytes)
}

impl std::fmt::Debug for PluginFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginFile")
            .field("path", &self.path)
            .field("bytes", &self.bytes.len())
            .field("sha256", &self.sha256)
            .finish()
    }
}
