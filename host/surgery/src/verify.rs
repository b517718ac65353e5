//! Whether a result of surgery is what its record says: every byte, and the graph.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;
use unswag_checkpoint::{Progress, hash_file};

use crate::{
    model::{Model, ModelError, read_record},
    record::{self, Record},
};

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub what: String,
    /// What is wrong; `None` where nothing is.
    pub fault: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub checks: Vec<Check>,
    /// Files in the folder that the record does not name: not faults, but not vouched for either.
    pub unrecorded: Vec<String>,
}

impl Report {
    pub fn is_sound(&self) -> bool {
        self.checks.iter().all(|check| check.fault.is_none())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("{}: expected a folder that `unswag surgery` wrote, got no {} in it", path.display(), record::FILE_NAME)]
    NoRecord { path: PathBuf },
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("{}: cannot list it", path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("stopped")]
    Cancelled,
}

/// Bytes that [`verify`] will read and report as progress.
pub fn verify_bytes(record: &Record, base: bool) -> u64 {
    let own: u64 = record.files.iter().map(|file| file.bytes).sum();
    let bases: u64 = if base { record.base.files.iter().map(|file| file.bytes).sum() } else { 0 };
    own + bases
}

/// The record of a folder that must have one.
///
/// # Errors
/// There is none, or it is unsound.
pub fn record_of(path: &Path) -> Result<Record, VerifyError> {
    read_record(path)?.ok_or_else(|| VerifyError::NoRecord { path: path.to_owned() })
}

/// Checks the folder at `path`, and the base's files too where `base`.
///
/// # Errors
/// There is no sound record, or the work was stopped. What differs from the record is in the report, not an error.
pub fn verify(path: &Path, base: bool, progress: &Progress<'_>) -> Result<Report, VerifyError> {
    let record = record_of(path)?;
    let mut checks = Vec::new();
    for file in &record.files {
        let fault = file_fault(&path.join(&file.name), file.bytes, &file.blake3, progress)?;
        checks.push(Check { what: file.name.clone(), fault });
    }
    let fault = Model::open(path, None).err().map(|error| chain(&error));
    checks.push(Check { what: "the graph rebuilds from the record".to_owned(), fault });
    if base {
        let base_path = Path::new(&record.base.path);
        let folder = if base_path.is_file() { base_path.parent().unwrap_or(base_path) } else { base_path };
        for file in &record.base.files {
            let fault = file_fault(&folder.join(&file.name), file.bytes, &file.blake3, progress)?;
            checks.push(Check { what: format!("base: {}", file.name), fault });
        }
    }
    let unrecorded = unrecorded(path, &record).map_err(|source| VerifyError::List { path: path.to_owned(), source })?;
    Ok(Report { checks, unrecorded })
}

/// Names of what is in a folder beside the files that its record lists, in order.
pub(crate) fn unrecorded(folder: &Path, record: &Record) -> io::Result<Vec<String>> {
    let named: BTreeSet<&str> = record.files.iter().map(|file| file.name.as_str()).chain([record::FILE_NAME]).collect();
    let mut unrecorded = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // A folder under a file's name is not that file.
        if !named.contains(name.as_str()) || entry.file_type()?.is_dir() {
            unrecorded.push(name);
        }
    }
    unrecorded.sort();
    Ok(unrecorded)
}

/// What is wrong with a file that should have this size and hash.
pub(crate) fn file_fault(
    path: &Path,
    bytes: u64,
    blake3: &str,
    progress: &Progress<'_>,
) -> Result<Option<String>, VerifyError> {
    let found = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return Ok(Some("expected a file, got something else".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some("missing".to_owned())),
        Err(error) => return Ok(Some(error.to_string())),
    };
    if found != bytes {
        return Ok(Some(format!("expected {bytes} bytes, got {found}")));
    }
    match hash_file(path, progress) {
        Ok(hash) if hash.to_hex().as_str() == blake3 => Ok(None),
        Ok(hash) => Ok(Some(format!("expected BLAKE3 {}…, got {}…", short(blake3), short(hash.to_hex().as_str())))),
        Err(unswag_checkpoint::Error::Cancelled) => Err(VerifyError::Cancelled),
        Err(error) => Ok(Some(chain(&error))),
    }
}

fn short(hex: &str) -> &str {
    hex.get(..12).unwrap_or(hex)
}

/// An error with all its causes, as one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
