//! Who could have written a lock file: only what no other user could have put there is trusted.
//!
//! The file must be the user's own or root's, and not writable by everyone. The same holds for each folder above it, since a user
//! who may write to a folder can put another file in its place. A folder that everyone may write to is fine where it is sticky (`/tmp`): only
//! the owner of a file can replace that file there.
//!
//! The path is walked as it is given: each symbolic link on it lies in a folder, and a user who may write to that folder decides where the
//! link leads.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use super::LockError;

/// `S_ISVTX`.
const STICKY: u32 = 0o1000;

/// As many links as Linux follows on one path.
const MAX_LINKS: usize = 40;

/// Checks an open lock file, and the folders and links that lead to it.
pub(super) fn check(path: &Path, file: &Metadata) -> Result<(), LockError> {
    let untrusted = |fault: &str, remedy: String| {
        Err(LockError::Untrusted { path: path.to_owned(), fault: fault.to_owned(), remedy })
    };
    if file.mode() & 0o002 != 0 {
        return untrusted("everyone may write to it", format!("run `chmod o-w {}`", path.display()));
    }
    if !is_user_or_root(file.uid()) {
        let fault = format!("it belongs to another user (number {})", file.uid());
        return untrusted(&fault, "move it away, and add the plugins again".to_owned());
    }
    let found = walk(path)?;
    let is_same = fs::metadata(&found).is_ok_and(|found| (found.dev(), found.ino()) == (file.dev(), file.ino()));
    match is_same {
        true => Ok(()),
        false => untrusted("it was replaced while it was read", "try once more".to_owned()),
    }
}

/// Checks the folders and links that lead to a lock file, which need not be there.
pub(super) fn check_folder(path: &Path) -> Result<(), LockError> {
    walk(path).map(drop)
}

/// Follows `path` component by component, and returns the path without links.
fn walk(path: &Path) -> Result<PathBuf, LockError> {
    let io_error = |source| LockError::Io { path: path.to_owned(), source };
    let given = std::path::absolute(path).map_err(io_error)?;
    let mut left: VecDeque<OsString> = names(&given).collect();
    let mut at = PathBuf::from("/");
    let mut links = 0;
    let mut is_unmapped_trusted = true;
    while let Some(name) = left.pop_front() {
        is_unmapped_trusted = check_holder(path, &at, is_unmapped_trusted)?;
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let metadata = match fs::symlink_metadata(&next) {
            Ok(metadata) => metadata,
            // The lock file itself may be missing; a folder may not.
            Err(error) if error.kind() == io::ErrorKind::NotFound && left.is_empty() => return Ok(next),
            Err(error) => return Err(io_error(error)),
        };
        if !metadata.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(io_error(io::Error::from_raw_os_error(libc::ELOOP)));
        }
        let uid = metadata.uid();
        // The link that is the lock file itself must have an owner who is known.
        let is_trusted = is_user_or_root(uid) || (is_unmapped_trusted && !left.is_empty() && is_unmapped(uid));
        if !is_trusted {
            let fault = format!("the symbolic link {} belongs to another user (number {uid})", next.display());
            return Err(untrusted(path, fault, "set UNSWAG_HOME to a folder of your own".to_owned()));
        }
        let target = fs::read_link(&next).map_err(io_error)?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        left = names(&target).chain(left).collect();
    }
    Ok(at)
}

/// The components of a path, its root left out.
fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// Checks a folder on the way to the lock file at `path`. `is_unmapped_trusted`: only trusted users could have put the folder there.
/// Returns whether that holds of what is in it.
fn check_holder(path: &Path, folder: &Path, is_unmapped_trusted: bool) -> Result<bool, LockError> {
    let metadata = fs::metadata(folder).map_err(|source| LockError::Io { path: path.to_owned(), source })?;
    let is_open = metadata.mode() & 0o002 != 0;
    if is_open && metadata.mode() & STICKY == 0 {
        let fault = format!("everyone may write to the folder {}", folder.display());
        return Err(untrusted(path, fault, format!("run `chmod o-w {}`", folder.display())));
    }
    let uid = metadata.uid();
    let is_trusted = is_user_or_root(uid) || (is_unmapped_trusted && is_unmapped(uid));
    if !is_trusted {
        let fault = format!("the folder {} belongs to another user (number {uid})", folder.display());
        return Err(untrusted(path, fault, "set UNSWAG_HOME to a folder of your own".to_owned()));
    }
    Ok(!is_open)
}

fn untrusted(path: &Path, fault: String, remedy: String) -> LockError {
    LockError::Untrusted { path: path.to_owned(), fault, remedy }
}

fn is_user_or_root(uid: u32) -> bool {
    uid == rustix::process::geteuid().as_raw() || uid == 0
}

/// A user whose number this user namespace has no name for: what a container shows of the system outside. Every user outside has this
/// number, so it says nothing about a lock file, nor about what lies in a folder that everyone may write to.
fn is_unmapped(uid: u32) -> bool {
    let number = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok());
    if number("/proc/sys/kernel/overflowuid") != Some(uid) {
        return false;
    }
    // Outside of a user namespace every number is mapped, and this is an ordinary user.
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let is_whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
    !is_whole
}
