//! Who could have written a lock file: only what no other user could have put there is trusted.
//!
//! The file must be the user's own or root's, and not writable by everyone. The same holds for each folder above it, since a user
//! who may write to a folder can put another file in its place. A folder that everyone may write to is fine where it is sticky (`/tmp`): only
//! the owner of a file can replace that file there.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use super::LockError;

/// `S_ISVTX`.
const STICKY: u32 = 0o1000;

/// Checks an open lock file, and the folders that it lies in.
pub(super) fn check(path: &Path, file: &Metadata) -> Result<(), LockError> {
    let untrusted = |fault: &str, remedy: String| {
        Err(LockError::Untrusted { path: path.to_owned(), fault: fault.to_owned(), remedy })
    };
    if file.mode() & 0o002 != 0 {
        return untrusted("everyone may write to it", format!("run `chmod o-w {}`", path.display()));
    }
    if !is_trusted_owner(file.uid()) {
        let fault = format!("it belongs to another user (number {})", file.uid());
        return untrusted(&fault, "move it away, and add the plugins again".to_owned());
    }
    check_folder(path)
}

/// Checks the folders above a lock file, links resolved.
pub(super) fn check_folder(path: &Path) -> Result<(), LockError> {
    let io_error = |source| LockError::Io { path: path.to_owned(), source };
    let folder = fs::canonicalize(path.parent().unwrap_or(Path::new("/"))).map_err(io_error)?;
    for ancestor in folder.ancestors() {
        let metadata = fs::metadata(ancestor).map_err(io_error)?;
        let is_open = metadata.mode() & 0o002 != 0 && metadata.mode() & STICKY == 0;
        let fault = match (is_open, is_trusted_owner(metadata.uid())) {
            (true, _) => format!("everyone may write to the folder {}", ancestor.display()),
            (false, false) => {
                format!("the folder {} belongs to another user (number {})", ancestor.display(), metadata.uid())
            }
            (false, true) => continue,
        };
        let remedy = match is_open {
            true => format!("run `chmod o-w {}`", ancestor.display()),
            false => "set UNSWAG_HOME to a folder of your own".to_owned(),
        };
        return Err(LockError::Untrusted { path: path.to_owned(), fault, remedy });
    }
    Ok(())
}

/// The user, root, or a user whose number this user namespace has no name for: what a container shows of the system outside.
fn is_trusted_owner(uid: u32) -> bool {
    uid == rustix::process::geteuid().as_raw() || uid == 0 || is_unmapped(uid)
}

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
