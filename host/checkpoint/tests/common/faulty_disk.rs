//! A disk on which the n-th change fails, for the tests of safe writing.

#![allow(dead_code)] // each test file uses its part

use std::{
    fs::File,
    io,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use rustix::io::Errno;
use unswag_checkpoint::{Disk, RealDisk};

/// How the chosen change fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// With an error, and so do all changes after it but removals: a full disk stays full.
    Error(Errno),
    /// Once, with an error.
    Once(Errno),
    /// Writes and copies do one byte and succeed; others work.
    Short,
    /// The process is killed before the change is made.
    Kill,
}

/// [`RealDisk`], but for change number `at` (from 0).
pub struct FaultyDisk {
    at: usize,
    fault: Fault,
    changes: AtomicUsize,
}

impl FaultyDisk {
    pub fn new(at: usize, fault: Fault) -> Self {
        FaultyDisk { at, fault, changes: AtomicUsize::new(0) }
    }

    /// A disk on which nothing fails.
    pub fn sound() -> Self {
        FaultyDisk::new(usize::MAX, Fault::Short)
    }

    /// Whether the fault came to be used.
    pub fn reached(&self) -> bool {
        self.changes.load(Ordering::SeqCst) > self.at
    }

    /// Counts a change; `Ok(true)` asks it to be short.
    fn change(&self) -> io::Result<bool> {
        let number = self.changes.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::Error(errno) if number >= self.at => Err(errno.into()),
            Fault::Once(errno) if number == self.at => Err(errno.into()),
            Fault::Short => Ok(number >= self.at),
            Fault::Kill if number == self.at => {
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
                unreachable!("SIGKILL does not return")
            }
            _ => Ok(false),
        }
    }

    /// Freeing space works on a full disk, but not on a broken one or after a kill.
    fn removal(&self) -> io::Result<()> {
        match self.fault {
            Fault::Kill => self.change().map(drop),
            Fault::Error(errno) if errno == Errno::IO && self.reached() => Err(errno.into()),
            _ => Ok(()),
        }
    }
}

impl Disk for FaultyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        RealDisk.create_dir(path)
    }

    fn create_file(&self, path: &Path) -> io::Result<File> {
        self.change()?;
        RealDisk.create_file(path)
    }

    fn open_lock(&self, path: &Path) -> io::Result<File> {
        self.change()?;
        RealDisk.open_lock(path)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let is_short = self.change()? && bytes.len() > 1;
        // Half, so that a large write ends in reasonable time.
        RealDisk.write_at(file, if is_short { &bytes[..bytes.len() / 2] } else { bytes }, offset)
    }

    fn copy_range(&self, from: &File, from_offset: u64, to: &File, to_offset: u64, bytes: u64) -> io::Result<u64> {
        let is_short = self.change()? && bytes > 1;
        RealDisk.copy_range(from, from_offset, to, to_offset, if is_short { bytes / 2 } else { bytes })
    }

    fn clone_file(&self, _: &File, _: &File) -> io::Result<()> {
        // Never available, so that copies are tested on every file system.
        Err(Errno::OPNOTSUPP.into())
    }

    fn set_len(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.change()?;
        RealDisk.set_len(file, bytes)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?;
        RealDisk.hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?;
        RealDisk.rename(from, to)
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        self.change()?;
        RealDisk.exchange(a, b)
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.change()?;
        RealDisk.set_mode(path, mode)
    }

    // Not really waited for: no test cuts the power, and hundreds of waits take long.
    fn sync(&self, _: &File) -> io::Result<()> {
        self.change().map(drop)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        self.change().map(drop)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.removal()?;
        RealDisk.remove_file(path)
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        self.removal()?;
        RealDisk.remove_tree(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(path)
    }
}
