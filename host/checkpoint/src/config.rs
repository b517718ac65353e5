//! Reads `config.json`: a JSON object, bounded in size and in what it can cost as a tree.

use std::{
    fs,
    path::{Path, PathBuf},
};

use unswag_abi::doc::Attrs;

use crate::{error::Error, open};

/// Largest `config.json` read; real ones stay under 100 KB.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// Most objects and lists in it. An empty object costs two bytes of text and some 600 as a tree, so bytes alone are no bound.
const MAX_CONTAINERS: usize = 50_000;

/// Reads the configuration at `path`.
///
/// # Errors
/// The file cannot be read, is too large, is not JSON, or is not an object.
pub(crate) fn read(path: &Path) -> Result<Attrs, Error> {
    let refuse = |what: String| Error::Config { path: path.to_owned(), what };
    let (file, metadata) = open::regular_file(path)?;
    if metadata.len() > MAX_CONFIG_BYTES {
        return Err(refuse(format!("{} bytes, at most {MAX_CONFIG_BYTES} are read", metadata.len())));
    }
    let mut text = vec![0; metadata.len() as usize];
    open::read_exact_at(&file, &mut text, 0).map_err(|source| Error::io(path, "read it", source))?;
    // Counts brackets in strings too: real files have a few hundred of both.
    if text.iter().filter(|byte| matches!(byte, b'{' | b'[')).count() > MAX_CONTAINERS {
        return Err(refuse(format!("more than {MAX_CONTAINERS} objects and lists")));
    }
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&text);
    serde_json::from_slice(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => refuse(format!("not an object ({error})")),
        _ => refuse(format!("not valid JSON: {error}")),
    })
}

/// `config.json` in `folder`, if there is one.
pub(crate) fn beside(folder: &Path) -> Option<PathBuf> {
    let path = folder.join("config.json");
    fs::metadata(&path).is_ok().then_some(path)
}
