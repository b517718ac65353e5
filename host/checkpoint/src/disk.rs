//! Everything that changes a disk goes through [`Disk`], so that a test can make the n-th change fail and see what is left.
//!
//! The methods are single system calls: what to do when one fails, or does less than asked, is decided by the callers.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::fs::{CWD, OFlags, RenameFlags};

/// The changes that this crate makes to a file system.
pub trait Disk: Sync {
    /// Makes a folder with the usual mode (0777 less the umask).
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a new file with the usual mode (0666 less the umask), open for reading and writing. It must not exist.
    fn create_file(&self, path: &Path) -> io::Result<File>;
    /// Opens the file whose lock guards an output, making it where it is missing; a link there is not followed.
    fn open_lock(&self, path: &Path) -> io::Result<File>;
    /// Writes up to `bytes.len()` bytes at `offset` and says how many.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Copies up to `bytes` bytes inside the kernel and says how many; 0 only at the source's end.
    fn copy_range(&self, from: &File, from_offset: u64, to: &File, to_offset: u64, bytes: u64) -> io::Result<u64>;
    /// Makes `to` share all of `from`'s blocks until one of them is written.
    fn clone_file(&self, from: &File, to: &File) -> io::Result<()>;
    fn set_len(&self, file: &File, bytes: u64) -> io::Result<()>;
    /// A second name for the file at `from`; `from` is not followed if it is a link.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Swaps two names in one step.
    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()>;
    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Waits until the file's bytes are on the device.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Waits until the folder's names are on the device.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder and all in it; links are removed, never followed.
    fn remove_tree(&self, path: &Path) -> io::Result<()>;
    /// Bytes that this user may still write to the file system of `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Writes all of `bytes` at `offset`, however many calls that takes.
    fn write_all_at(&self, file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(file, bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The system's own calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create_file(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(path)
    }

    fn open_lock(&self, path: &Path) -> io::Result<File> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags)
            .open(path)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        file.write_at(bytes, offset)
    }

    fn copy_range(
        &self,
        from: &File,
        mut from_offset: u64,
        to: &File,
        mut to_offset: u64,
        bytes: u64,
    ) -> io::Result<u64> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let count = rustix::fs::copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), bytes)?;
        Ok(count as u64)
    }

    fn clone_file(&self, from: &File, to: &File) -> io::Result<()> {
        Ok(rustix::fs::ioctl_ficlone(to, from)?)
    }

    fn set_len(&self, file: &File, bytes: u64) -> io::Result<()> {
        file.set_len(bytes)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        Ok(rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match File::open(path)?.sync_all() {
            // Some network and user-space file systems cannot do this for a folder, and have nothing to wait for.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            result => result,
        }
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}
