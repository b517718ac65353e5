//! Carries bytes from one file to another: shared blocks where the file system can, else copied by the kernel, else read
//! and written. A whole file is hashed on the other cores while it is copied.

use std::{
    fs::{File, Metadata},
    io,
    num::NonZero,
    ops::ControlFlow,
    os::unix::fs::MetadataExt,
    panic::resume_unwind,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

use crate::{
    disk::Disk,
    hash::{Gate, Hash, Progress, hash_open_file},
    open,
    write_error::WriteError,
};

/// How a file that stays as it is gets into the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Shared blocks where the file system can, else a copy. The output is independent of the base.
    CopyOrReflink,
    /// A second name for the base's own file. Whoever later writes the output in place destroys the base with it.
    Link,
}

/// What was done in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transferred {
    Reflinked,
    Copied,
    Linked,
}

/// Copied between two reports of progress: 0.5 to 5 ms of work, and the hashing threads find it in the cache.
const STEP_BYTES: u64 = 8 << 20;
/// For reading and writing where the kernel cannot copy.
const BUFFER_BYTES: usize = 1 << 20;

/// A source that was opened for a transfer.
pub(crate) struct Source<'p> {
    pub path: &'p Path,
    pub file: File,
    pub metadata: Metadata,
}

impl<'p> Source<'p> {
    pub fn open(path: &'p Path) -> Result<Self, WriteError> {
        let (file, metadata) = open::regular_file(path)?;
        Ok(Source { path, file, metadata })
    }

    pub fn bytes(&self) -> u64 {
        self.metadata.len()
    }

    /// An error where the file is no longer what it was when it was opened.
    pub fn check_unchanged(&self) -> Result<(), WriteError> {
        let now = self.file.metadata().map_err(|source| WriteError::io(self.path, "look at it again", source))?;
        let state = |metadata: &Metadata| (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        if state(&now) != state(&self.metadata) {
            return Err(WriteError::SourceChanged { path: self.path.to_owned() });
        }
        Ok(())
    }

    /// BLAKE3 of the whole file.
    pub fn hash(&self, progress: &Progress<'_>) -> Result<Hash, WriteError> {
        let hash = hash_open_file(&self.file, self.bytes(), threads(), &Gate::open(), progress);
        self.hashed(hash)
    }

    fn hashed(&self, hash: io::Result<Option<Hash>>) -> Result<Hash, WriteError> {
        match hash {
            Ok(Some(hash)) => Ok(hash),
            Ok(None) => Err(WriteError::Cancelled),
            Err(error) => Err(self.read_error(error)),
        }
    }

    fn read_error(&self, error: io::Error) -> WriteError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => WriteError::SourceChanged { path: self.path.to_owned() },
            _ => WriteError::io(self.path, "read it", error),
        }
    }
}

/// Threads for hashing a file that nothing else works on.
pub(crate) fn threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Where bytes go.
pub(crate) struct Target<'t> {
    pub path: &'t Path,
    pub file: &'t File,
    pub disk: &'t dyn Disk,
}

/// Copies all of `source` into the empty file `target`, hashing it behind the copy.
pub(crate) fn copy_and_hash(
    source: &Source<'_>,
    target: &Target<'_>,
    progress: &Progress<'_>,
) -> Result<Hash, WriteError> {
    let gate = Gate::at(0);
    let failed = AtomicBool::new(false);
    let go_on = |_| match failed.load(Ordering::Relaxed) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let hashers = threads().saturating_sub(1).max(1);
    let (copied, hashed) = thread::scope(|scope| {
        let hasher = scope.spawn(|| hash_open_file(&source.file, source.bytes(), hashers, &gate, &go_on));
        // Opened again whatever happens here, a panic of `progress` included: the scope waits for the hashers.
        let release = Release { gate: &gate, failed: &failed };
        let copied = copy_data(source, target, &gate, progress);
        failed.store(copied.is_err(), Ordering::Relaxed);
        drop(release);
        (copied, hasher.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    copied?;
    source.check_unchanged()?;
    source.hashed(hashed)
}

struct Release<'g> {
    gate: &'g Gate,
    failed: &'g AtomicBool,
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.failed.store(true, Ordering::Relaxed);
        }
        self.gate.move_to(u64::MAX);
    }
}

/// Copies what is data and leaves holes, so a sparse file stays sparse.
fn copy_data(source: &Source<'_>, target: &Target<'_>, gate: &Gate, progress: &Progress<'_>) -> Result<(), WriteError> {
    let bytes = source.bytes();
    let report = |done: u64, step: u64| {
        gate.move_to(done);
        progress(step)
    };
    let mut offset = 0;
    while offset < bytes {
        let (data_start, data_end) = next_data(source, offset);
        if data_start > offset && report(data_start, data_start - offset).is_break() {
            return Err(WriteError::Cancelled);
        }
        offset = data_start;
        if offset < data_end {
            copy_range(source, offset, target, offset, data_end - offset, &|done, step| report(offset + done, step))?;
            offset = data_end;
        }
    }
    let set = target.disk.set_len(target.file, bytes);
    set.map_err(|error| WriteError::io(target.path, "set its length", error))
}

/// The next stretch of data at or after `offset`. Where the file system does not tell holes, all is data.
fn next_data(source: &Source<'_>, offset: u64) -> (u64, u64) {
    let bytes = source.bytes();
    // Asked only where fewer blocks are allocated than the length needs.
    if source.metadata.blocks().saturating_mul(512) >= bytes {
        return (offset, bytes);
    }
    match seek(&source.file, SeekFrom::Data(offset)) {
        Ok(start) => {
            let end = seek(&source.file, SeekFrom::Hole(start)).unwrap_or(bytes);
            (start.clamp(offset, bytes), end.clamp(start.min(bytes), bytes))
        }
        Err(Errno::NXIO) => (bytes, bytes),
        Err(_) => (offset, bytes),
    }
}

/// Copies `bytes` bytes from `from_offset` of `source` to `to_offset` of `target`. `report` hears the bytes done in all and
/// since the last call.
pub(crate) fn copy_range(
    source: &Source<'_>,
    from_offset: u64,
    target: &Target<'_>,
    to_offset: u64,
    bytes: u64,
    report: &dyn Fn(u64, u64) -> ControlFlow<()>,
) -> Result<(), WriteError> {
    let mut in_kernel = true;
    let mut buffer = Vec::new();
    let mut done = 0;
    while done < bytes {
        let step = STEP_BYTES.min(bytes - done);
        let mut count = 0;
        if in_kernel {
            match target.disk.copy_range(&source.file, from_offset + done, target.file, to_offset + done, step) {
                Ok(copied) => count = copied,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if !kernel_can_copy(&error) => {}
                Err(error) => return Err(WriteError::io(target.path, "copy into it", error)),
            }
            // Nothing copied before the end: this file system does not do it after all, or the source was cut short,
            // which reading will tell.
            in_kernel = count > 0;
        }
        if !in_kernel {
            buffer.resize(BUFFER_BYTES, 0);
            count = step.min(BUFFER_BYTES as u64);
            let piece = &mut buffer[..count as usize];
            open::read_exact_at(&source.file, piece, from_offset + done).map_err(|error| source.read_error(error))?;
            let written = target.disk.write_all_at(target.file, piece, to_offset + done);
            written.map_err(|error| WriteError::io(target.path, "write it", error))?;
        }
        done += count;
        if report(done, count).is_break() {
            return Err(WriteError::Cancelled);
        }
    }
    Ok(())
}

/// Whether an error of `copy_file_range` is about this copy, and not about these two files being unfit for it.
fn kernel_can_copy(error: &io::Error) -> bool {
    let unfit = [Errno::XDEV, Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::PERM, Errno::BADF, Errno::TXTBSY];
    !error.raw_os_error().is_some_and(|code| unfit.iter().any(|errno| errno.raw_os_error() == code))
}
