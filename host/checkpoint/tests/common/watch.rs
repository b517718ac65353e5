//! Watches a folder that must not change: bytes, mode and modification time of everything in it.

#![allow(dead_code)] // each test file uses its part

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    mode: u32,
    modified_ns: i128,
    bytes: Option<Vec<u8>>,
    link: Option<PathBuf>,
}

/// What a folder (or file) was. [`Watched::assert_unchanged`] compares with what it is now.
pub struct Watched {
    path: PathBuf,
    before: BTreeMap<PathBuf, State>,
}

impl Watched {
    pub fn new(path: &Path) -> Self {
        Watched { path: path.to_owned(), before: look(path) }
    }

    #[track_caller]
    pub fn assert_unchanged(&self) {
        let now = look(&self.path);
        for (path, before) in &self.before {
            assert_eq!(now.get(path), Some(before), "{} was changed", path.display());
        }
        assert_eq!(now.len(), self.before.len(), "something was added to {}", self.path.display());
    }
}

fn look(path: &Path) -> BTreeMap<PathBuf, State> {
    let mut found = BTreeMap::new();
    let mut todo = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).expect("what is watched exists");
        if metadata.is_dir() {
            todo.extend(fs::read_dir(&path).expect("it is listed").map(|entry| entry.expect("it is listed").path()));
        }
        let state = State {
            mode: metadata.mode(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
            bytes: metadata.is_file().then(|| fs::read(&path).expect("it is read")),
            link: fs::read_link(&path).ok(),
        };
        found.insert(path, state);
    }
    found
}

/// Names in a folder, hidden ones too, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("the folder is listed")
        .map(|entry| entry.expect("it is listed").file_name().into_string().expect("a UTF-8 name"))
        .collect();
    names.sort();
    names
}

impl Watched {
    /// As [`Watched::assert_unchanged`], but folders may have had a name added and removed.
    #[track_caller]
    pub fn assert_unchanged_but_for_times(&self) {
        let without_times = |states: &BTreeMap<PathBuf, State>| -> Vec<(PathBuf, u32, Option<Vec<u8>>)> {
            states.iter().map(|(path, state)| (path.clone(), state.mode, state.bytes.clone())).collect()
        };
        assert_eq!(without_times(&look(&self.path)), without_times(&self.before));
    }
}
