//! A sealed memory file: bytes that can be opened as a library and that nobody, this process included, can change any more.
//!
//! There is no fallback to a file on disk. Where memory files cannot be executed (`vm.memfd_noexec=2`), an administrator
//! decided that nothing is to run from memory, and a copy under a temporary name would go around that decision.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd},
    path::PathBuf,
    thread,
    time::Duration,
};

use memmap2::{Mmap, MmapOptions};
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::Errno,
};

/// Together two seconds.
const SEAL_TRIES: u32 = 100;
const SEAL_PAUSE: Duration = Duration::from_millis(20);

/// A complete, sealed copy of a library in memory.
pub(crate) struct SealedLibrary(File);

/// Why no such copy could be made.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(
        "this system runs nothing from memory files (vm.memfd_noexec=2), which is how a plugin is loaded; \
         ask for `sysctl vm.memfd_noexec=1`"
    )]
    NotExecutable,

    #[error("the plugin's bytes cannot be put into a sealed memory file: {0}")]
    Io(#[from] io::Error),
}

impl SealedLibrary {
    pub fn new(bytes: &[u8]) -> Result<Self, SealError> {
        let mut file = MemoryFile::create()?;
        file.file().write_all(bytes)?;
        Ok(file.seal()?)
    }

    /// Its bytes, in the pages that the library is loaded from.
    pub fn map(&self) -> io::Result<Mmap> {
        // SAFETY: a sealed file neither changes nor shrinks.
        unsafe { MmapOptions::new().map_copy_read_only(&self.0) }
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// The path under which this process can open it, as long as `self` lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// Leaves it open until the process ends. A program that this process starts does not inherit it.
    pub fn keep_open(self) {
        let _ = self.0.into_raw_fd();
    }

    pub fn into_fd(self) -> OwnedFd {
        self.0.into()
    }
}

/// One that is written still.
pub(crate) struct MemoryFile(File);

impl MemoryFile {
    pub fn create() -> Result<Self, SealError> {
        Ok(Self(create()?.into()))
    }

    pub fn file(&mut self) -> &mut File {
        &mut self.0
    }

    pub fn seal(self) -> io::Result<SealedLibrary> {
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        let mut sealed = fcntl_add_seals(&self.0, seals);
        // The kernel may hold a page for a moment, to reclaim or to move it: no file is sealed against writing meanwhile.
        for _ in 0..SEAL_TRIES {
            if sealed != Err(Errno::BUSY) {
                break;
            }
            thread::sleep(SEAL_PAUSE);
            sealed = fcntl_add_seals(&self.0, seals);
        }
        sealed?;
        Ok(SealedLibrary(self.0))
    }
}

fn create() -> Result<OwnedFd, SealError> {
    let name = c"unswag-plugin";
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Since Linux 6.3 a memory file should say whether it is to be executed; before, the flag is unknown.
    match memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => Ok(memfd_create(name, flags).map_err(io::Error::from)?),
        Err(Errno::ACCESS) => Err(SealError::NotExecutable),
        other => Ok(other.map_err(io::Error::from)?),
    }
}
