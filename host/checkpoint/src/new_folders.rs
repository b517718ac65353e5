//! Folders that a command creates for its output, and removes where nothing came to stand in them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A folder and those above it, as far as they were missing. When this is dropped, those that are still empty are removed: a
/// command that is refused leaves nothing.
#[derive(Debug)]
pub struct NewFolders {
    /// Innermost first.
    created: Vec<PathBuf>,
}

impl NewFolders {
    /// # Errors
    /// A folder cannot be created; those above it are removed.
    pub fn create(path: &Path) -> io::Result<Self> {
        let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let created = path.ancestors().take_while(missing).map(Path::to_owned).collect();
        let folders = NewFolders { created };
        fs::create_dir_all(path)?;
        Ok(folders)
    }
}

impl Drop for NewFolders {
    fn drop(&mut self) {
        for path in &self.created {
            // Of a folder with something in it this is refused.
            if fs::remove_dir(path).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_folders_stay_only_where_something_stands_in_them() {
        let temp = tempfile::tempdir().expect("a folder");
        let (kept, empty) = (temp.path().join("kept/a/b"), temp.path().join("empty/a"));
        let folders = [&kept, &empty].map(|path| NewFolders::create(path).expect("created"));
        fs::write(kept.parent().expect("a/").join("file"), "1").expect("written");
        drop(folders);
        assert!(!kept.exists() && kept.parent().expect("a/").exists() && !temp.path().join("empty").exists());
        // A folder that was there stays, empty or not.
        drop(NewFolders::create(temp.path()).expect("there"));
        assert!(temp.path().exists());
        // What was created above a folder that cannot be is removed.
        assert!(NewFolders::create(&temp.path().join("kept/a/file/c")).is_err());
        assert!(NewFolders::create(&temp.path().join("x").join("y\0")).is_err() && !temp.path().join("x").exists());
    }
}
