//! One writer per output: an advisory lock on a small file beside it, which the system releases when its holder dies.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::{disk::Disk, write_error::WriteError};

pub(crate) struct OutputLock<'d> {
    file: File,
    path: PathBuf,
    disk: &'d dyn Disk,
}

impl<'d> OutputLock<'d> {
    /// Takes the lock at `path`, which guards `out`, or fails at once where another holds it.
    pub fn take(path: PathBuf, out: &Path, disk: &'d dyn Disk) -> Result<Self, WriteError> {
        loop {
            let failed = |source| WriteError::io(&path, "make the lock file beside the output", source);
            let file = disk.open_lock(&path).map_err(failed)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(WriteError::Busy { path: out.to_owned() }),
                Err(errno) => return Err(failed(errno.into())),
            }
            // The holder before may have removed the file between our opening and our locking it; then the lock is on a
            // file that nobody else can see, and the next writer would take another one.
            let ours = file.metadata().map_err(failed)?;
            match fs::symlink_metadata(&path) {
                Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                    return Ok(OutputLock { file, path, disk });
                }
                _ => continue,
            }
        }
    }
}

impl Drop for OutputLock<'_> {
    fn drop(&mut self) {
        // Removed while still held, so no other writer can hold this very file; if removing fails it is only litter.
        let _ = self.disk.remove_file(&self.path);
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}
