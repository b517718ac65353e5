//! The output folder: whose it is, and what killed runs left in it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use unswag_checkpoint::Disk;

/// Whether both name one folder.
pub(crate) fn is_same(a: Option<&Path>, b: &Path) -> bool {
    // The parent of a plain name is the empty path.
    let a = a.map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path });
    a.is_some_and(|a| matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b))
}

/// Whether both folders' free space is the same. What cannot be asked is taken for another disk.
pub(crate) fn is_one_disk(a: &Path, b: &Path) -> bool {
    let disk = |path: &Path| path.metadata().ok().map(|found| found.dev());
    disk(a).is_some() && disk(a) == disk(b)
}

/// The first entry of a folder that is no regular file under one of these names.
pub(crate) fn first_other(folder: &Path, is_known: impl Fn(&str) -> bool) -> Option<String> {
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_known(&name) || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            return Some(name);
        }
    }
    None
}

/// Removes a folder in one step, seen from outside: it loses its name first, and a kill in between leaves a hidden folder that the
/// next run in the parent folder removes.
///
/// # Errors
/// It cannot be removed.
pub(crate) fn remove_in_one_step(path: &Path, disk: &dyn Disk) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let hidden = path.with_file_name(format!("{LITTER}{name}{TEMPORARY}removed"));
    let unless_gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    // What an earlier attempt left there would be in the way.
    unless_gone(disk.remove_tree(&hidden))?;
    unless_gone(disk.rename(path, &hidden))?;
    unless_gone(disk.remove_tree(&hidden))
}

/// How hidden names begin, of outputs in the making and of what is being removed.
const LITTER: &str = ".unswag-";
const TEMPORARY: &str = ".tmp-";

/// Removes what a killed run left of checkpoints in the making or being removed. The folder is locked, so no living run owns any of it.
pub(crate) fn remove_litter(folder: &Path, disk: &dyn Disk) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let Some(name) = name.to_str().filter(|name| name.starts_with(LITTER)) else { continue };
        let Ok(kind) = entry.file_type() else { continue };
        // What cannot be removed now is in nobody's way.
        if name.contains(TEMPORARY) && kind.is_dir() {
            let _ = disk.remove_tree(&path);
        }
        // Another command may be writing something of its own in here: its lock is held.
        if name.ends_with(".lock") && kind.is_file() && File::open(&path).is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = disk.remove_file(&path);
        }
    }
}
