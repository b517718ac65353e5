//! A plugin's file, read once: what is checked, hashed, probed and loaded is one and the same run of bytes.
//!
//! Input: a path from the user or from a lock file. This must never run what it reads, and never go back to the path: the
//! file may be another by then.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::Mmap;

use crate::{
    digest::Sha256,
    elf::{self, NotAPlugin},
    memfd::{MemoryFile, SealError, SealedLibrary},
};

/// The largest plugin that is read. A plugin with all its device code as text has a few megabytes.
pub const MAX_PLUGIN_BYTES: u64 = 512 << 20;

/// Enough to tell what a file is, so that something huge that is no plugin costs no memory.
const HEAD_BYTES: u64 = 16 << 20;

/// The bytes of a library that looks like a plugin for this machine, and their SHA-256. Nothing of it has run.
#[derive(Clone)]
pub struct PluginFile {
    path: PathBuf,
    memory: Arc<Memory>,
    sha256: Sha256,
}

/// Where the bytes are.
enum Memory {
    /// In a file that this process, or a child of it, can open as a library: they are copied once.
    Sealed { library: SealedLibrary, bytes: Mmap },
    /// Where this system has no such files: they can be looked at, and not run.
    Plain(Vec<u8>),
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
        let memory = match MemoryFile::create() {
            Ok(into) => copy_plugin(&file, metadata.len(), into, &path)?,
            Err(_) => Memory::Plain(read_plugin(&file, metadata.len(), &path)?),
        };
        let sha256 = Sha256::of(memory.bytes());
        Ok(Self { path, memory: Arc::new(memory), sha256 })
    }

    /// Where it was read from, with links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn bytes(&self) -> &[u8] {
        self.memory.bytes()
    }

    pub fn sha256(&self) -> Sha256 {
        self.sha256
    }

    /// The bytes as a file that can be opened as a library.
    pub(crate) fn sealed(&self) -> Result<SealedLibrary, SealError> {
        match self.memory.as_ref() {
            Memory::Sealed { library, .. } => Ok(library.try_clone()?),
            Memory::Plain(bytes) => SealedLibrary::new(bytes),
        }
    }
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Memory::Sealed { bytes, .. } => bytes,
            Memory::Plain(bytes) => bytes,
        }
    }
}

fn copy_plugin(file: &File, file_bytes: u64, mut into: MemoryFile, path: &Path) -> Result<Memory, FileError> {
    let io_error = |source| FileError::Io { path: path.to_owned(), source };
    let mut head = Vec::new();
    if file_bytes > HEAD_BYTES {
        file.take(HEAD_BYTES).read_to_end(&mut head).map_err(io_error)?;
        check_head(&head, file_bytes, path)?;
        into.file().write_all(&head).map_err(io_error)?;
    }
    // The kernel copies from one file to the other: no byte passes through this process's memory.
    let rest = io::copy(&mut file.take(MAX_PLUGIN_BYTES + 1 - head.len() as u64), into.file()).map_err(io_error)?;
    check_size(head.len() as u64 + rest, path)?;
    let library = into.seal().map_err(io_error)?;
    let bytes = library.map().map_err(io_error)?;
    check(&bytes, path)?;
    Ok(Memory::Sealed { library, bytes })
}

fn read_plugin(file: &File, file_bytes: u64, path: &Path) -> Result<Vec<u8>, FileError> {
    let io_error = |source| FileError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    file.take(HEAD_BYTES).read_to_end(&mut bytes).map_err(io_error)?;
    check_head(&bytes, file_bytes, path)?;
    bytes
        .try_reserve_exact(usize::try_from(file_bytes).unwrap_or(0).saturating_sub(bytes.len()))
        .map_err(|error| io_error(io::Error::new(io::ErrorKind::OutOfMemory, error)))?;
    let head_bytes = bytes.len() as u64;
    file.take(MAX_PLUGIN_BYTES + 1 - head_bytes).read_to_end(&mut bytes).map_err(io_error)?;
    check_size(bytes.len() as u64, path)?;
    check(&bytes, path)?;
    Ok(bytes)
}

/// Before the rest of a large file is read.
fn check_head(head: &[u8], file_bytes: u64, path: &Path) -> Result<(), FileError> {
    elf::check_identity(head).map_err(|reason| FileError::NotAPlugin { path: path.to_owned(), reason })?;
    check_size(file_bytes, path)
}

/// Of a file that grows while it is read, one byte more than allowed is read.
fn check_size(bytes: u64, path: &Path) -> Result<(), FileError> {
    match bytes > MAX_PLUGIN_BYTES {
        true => Err(FileError::TooLarge { path: path.to_owned(), bytes }),
        false => Ok(()),
    }
}

fn check(bytes: &[u8], path: &Path) -> Result<(), FileError> {
    elf::check_plugin_library(bytes).map_err(|reason| FileError::NotAPlugin { path: path.to_owned(), reason })
}

impl std::fmt::Debug for PluginFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginFile")
            .field("path", &self.path)
            .field("bytes", &self.bytes().len())
            .field("sha256", &self.sha256)
            .finish()
    }
}
