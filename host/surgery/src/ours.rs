//! Whether a folder may be replaced by a new result: whether all that is in it is what surgery wrote there.
//!
//! A user edits a result under the names that surgery gave its files (`tokenizer_config.json`, `README.md`). So names alone do not say
//! whose a file is: its size and BLAKE3 are compared with the record's.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use unswag_checkpoint::Progress;

use crate::{
    model::read_record,
    record::{File, Record},
    verify::{VerifyError, file_fault, unrecorded},
    write::SurgeryError,
};

/// The record of a folder that holds nothing but what the record lists.
///
/// # Errors
/// There is no sound record, or there is something else in the folder.
pub(crate) fn only_recorded(folder: &Path) -> Result<Record, SurgeryError> {
    let Ok(Some(record)) = read_record(folder) else {
        return Err(SurgeryError::NotOurs { path: folder.to_owned() });
    };
    let foreign = unrecorded(folder, &record);
    let foreign = foreign.map_err(|source| SurgeryError::List { path: folder.to_owned(), source })?;
    if foreign.is_empty() {
        return Ok(record);
    }
    Err(SurgeryError::Foreign { path: folder.to_owned(), foreign })
}

/// A folder whose files were all found to be as they were written.
pub(crate) struct Unchanged {
    folder: PathBuf,
    files: Vec<(File, Option<Stamp>)>,
}

/// What a file's content does not change without. Not the time of the last change of its inode: a further hard link sets that.
#[derive(PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// `None` where there is no file.
    fn of(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Ok(file) => Ok(Some(Self {
                device: file.dev(),
                inode: file.ino(),
                bytes: file.len(),
                modified: (file.mtime(), file.mtime_nsec()),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Unchanged {
    /// Compares every file of `folder` with its record: reads all of them. A file that is missing is nothing to lose. `stop` is asked
    /// now and then whether to go on, and is given no bytes.
    ///
    /// # Errors
    /// [`SurgeryError::Changed`], or the work was stopped.
    pub(crate) fn check(folder: &Path, record: &Record, stop: &Progress<'_>) -> Result<Self, SurgeryError> {
        let mut files = Vec::with_capacity(record.files.len());
        let mut changed = Vec::new();
        for file in &record.files {
            let path = folder.join(&file.name);
            // Before the file is read, so that a change while it is read shows later.
            let stamp = Stamp::of(&path).map_err(|source| SurgeryError::List { path: path.clone(), source })?;
            if stamp.is_some() && is_changed(&path, file, stop)? {
                changed.push(file.name.clone());
            }
            files.push((file.clone(), stamp));
        }
        if changed.is_empty() {
            return Ok(Self { folder: folder.to_owned(), files });
        }
        Err(SurgeryError::Changed { path: folder.to_owned(), changed })
    }

    /// Whether it still is so, some time later: only what was touched meanwhile is read.
    ///
    /// # Errors
    /// As [`Unchanged::check`].
    pub(crate) fn still(&self, stop: &Progress<'_>) -> Result<(), SurgeryError> {
        let mut changed = Vec::new();
        for (file, before) in &self.files {
            let path = self.folder.join(&file.name);
            let now = Stamp::of(&path).map_err(|source| SurgeryError::List { path: path.clone(), source })?;
            if now.is_some() && now != *before && is_changed(&path, file, stop)? {
                changed.push(file.name.clone());
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        Err(SurgeryError::Changed { path: self.folder.clone(), changed })
    }
}

fn is_changed(path: &Path, file: &File, stop: &Progress<'_>) -> Result<bool, SurgeryError> {
    match file_fault(path, file.bytes, &file.blake3, &|_| stop(0)) {
        Ok(fault) => Ok(fault.is_some()),
        Err(VerifyError::Cancelled) => Err(unswag_checkpoint::Error::Cancelled.into()),
        // Nothing else is an error of it; what could not be read is not known to be ours.
        Err(_) => Ok(true),
    }
}
