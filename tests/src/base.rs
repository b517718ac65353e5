//! A guard around a checkpoint that must not change.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, thread};

/// What a file or folder is, down to its bytes.
#[derive(Debug, PartialEq, Eq)]
struct State {
    /// A file's BLAKE3, a symbolic link's target, a folder's name for itself.
    content: String,
    mode: u32,
    mtime_ns: i128,
    inode: u64,
    uid_gid: (u32, u32),
}

/// Records a checkpoint's files (names, bytes, modes, times to the nanosecond, inodes) and panics when dropped if one of
/// them changed, or one came or went.
///
/// The link count and the time of the last status change are left out: a hard link to a weight file changes both, which is
/// what `--link` is asked for.
#[derive(Debug)]
pub struct Base {
    path: PathBuf,
    before: BTreeMap<PathBuf, State>,
}

impl Base {
    /// Guards a folder and all it holds, or one file.
    ///
    /// # Panics
    /// Where it cannot be read.
    pub fn guard(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let before = snapshot(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Base { path, before }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What changed since, one line each.
    pub fn changes(&self) -> Vec<String> {
        let after = match snapshot(&self.path) {
            Ok(after) => after,
            Err(error) => return vec![format!("{}: {error}", self.path.display())],
        };
        let mut changes = Vec::new();
        for (path, before) in &self.before {
            match after.get(path) {
                None => changes.push(format!("{}: gone", path.display())),
                Some(now) if now != before => changes.push(format!("{}: was {before:?}, is {now:?}", path.display())),
                Some(_) => {}
            }
        }
        let new = after.keys().filter(|path| !self.before.contains_key(*path));
        changes.extend(new.map(|path| format!("{}: new", path.display())));
        changes
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        let changes = self.changes();
        assert!(changes.is_empty(), "the base was changed:\n{}", changes.join("\n"));
    }
}

fn snapshot(root: &Path) -> io::Result<BTreeMap<PathBuf, State>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = fs::symlink_metadata(&path)?;
        let content = if meta.is_symlink() {
            let target = fs::read_link(&path)?;
            // A hub cache's snapshot links to its blobs: what the link leads to must stay as it was too.
            if let Ok(blob) = fs::canonicalize(&path)
                && blob.is_file()
                && !found.contains_key(&blob)
            {
                pending.push(blob);
            }
            format!("link to {}", target.display())
        } else if meta.is_dir() {
            for entry in fs::read_dir(&path)? {
                pending.push(entry?.path());
            }
            "folder".to_owned()
        } else {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(fs::File::open(&path)?)?;
            hasher.finalize().to_hex().to_string()
        };
        let state = State {
            content,
            mode: meta.mode(),
            mtime_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
            inode: meta.ino(),
            uid_gid: (meta.uid(), meta.gid()),
        };
        found.insert(path, state);
    }
    Ok(found)
}
