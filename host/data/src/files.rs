//! The files that data is read from: patterns resolved, regular files only, read by position and never changed.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value};

use crate::{
    error::{Error, Place},
    source::{self, BYTE_ORDER_MARK, Bytes},
};

/// Bytes at either end of a file that identify it.
const SAMPLE_BYTES: u64 = 64 << 10;
/// Largest of the small JSON files beside a model that is read.
/// A tokenizer_config.json that lists 65,000 added tokens has 11 MB.
pub(crate) const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// How a data file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The whole file is one document.
    Text,
    /// Each line is a JSON object.
    JsonLines,
    /// One JSON list of objects.
    JsonList,
    /// A header and rows, with this byte between fields.
    Delimited(u8),
    Parquet,
}

#[derive(Clone, Debug)]
pub(crate) struct DataFile {
    pub path: PathBuf,
    pub bytes: u64,
    pub format: Format,
    pub is_gzip: bool,
    /// BLAKE3 over the size and both ends: tells files apart without reading them.
    pub digest: [u8; 32],
}

/// Resolves paths and glob patterns to files, in the order given, each pattern's matches sorted, none twice.
///
/// # Errors
/// A pattern that matches nothing, a path that is no regular file.
pub(crate) fn resolve(patterns: &[String]) -> Result<Vec<DataFile>, Error> {
    let mut files: Vec<DataFile> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for pattern in patterns {
        // A name that exists is that file, whatever characters it has.
        let paths = if Path::new(pattern).exists() {
            vec![PathBuf::from(pattern)]
        } else if pattern.contains(['*', '?', '[']) {
            matches_of(pattern)?
        } else {
            return Err(Error::Missing { path: pattern.into() });
        };
        for path in paths {
            let canonical = path.canonicalize().map_err(|source| Error::io(&path, "find it", source))?;
            if seen.insert(canonical) {
                files.push(DataFile::look(path)?);
            }
        }
    }
    if files.is_empty() {
        return Err(Error::NoFiles);
    }
    Ok(files)
}

fn matches_of(pattern: &str) -> Result<Vec<PathBuf>, Error> {
    let found = glob::glob(pattern)
        .map_err(|error| Error::Pattern { pattern: pattern.to_owned(), message: error.msg.to_owned() })?;
    let mut paths = Vec::new();
    for entry in found {
        let path = entry.map_err(|error| Error::io(error.path().to_owned(), "list it", error.into()))?;
        // `folder/*` means the files in it.
        if !path.is_dir() {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(Error::NoMatch { pattern: pattern.to_owned() });
    }
    paths.sort();
    Ok(paths)
}

impl DataFile {
    fn look(path: PathBuf) -> Result<Self, Error> {
        let (file, bytes) = open_regular(&path)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes.to_le_bytes());
        for start in [0, bytes.saturating_sub(SAMPLE_BYTES)] {
            let mut sample = vec![0; SAMPLE_BYTES.min(bytes) as usize];
            file.read_exact_at(&mut sample, start).map_err(|source| Error::io(&path, "read it", source))?;
            hasher.update(&sample);
        }
        let (format, is_gzip) = format_of(Bytes::File(Arc::new(file)), &path)?;
        Ok(DataFile { path, bytes, format, is_gzip, digest: *hasher.finalize().as_bytes() })
    }

    /// Opens it again.
    ///
    /// # Errors
    /// It is gone, or no longer as long as it was.
    pub fn open(&self) -> Result<File, Error> {
        let (file, bytes) = open_regular(&self.path)?;
        if bytes != self.bytes {
            return Err(Error::Changed { path: self.path.clone() });
        }
        Ok(file)
    }
}

/// What a file is, by its name, and by its first bytes where names leave it open.
fn format_of(bytes: Bytes, path: &Path) -> Result<(Format, bool), Error> {
    let extension = |path: &Path| path.extension()?.to_str().map(str::to_ascii_lowercase);
    let mut magic = [0; 2];
    bytes.read_up_to(&mut magic, 0).map_err(|source| Error::io(path, "read it", source))?;
    // No text begins with these bytes: a file that does is gzip, whatever it is called.
    let is_gzip = magic == [0x1f, 0x8b];
    let mut kind = extension(path);
    if is_gzip && kind.as_deref() == Some("gz") {
        kind = extension(Path::new(path.file_stem().unwrap_or_default()));
    }
    let unknown = |found: &str, next| Error::UnknownFormat { path: path.to_owned(), found: found.to_owned(), next };
    let start = || source::first_bytes(bytes.clone(), path, is_gzip);
    let format = match kind.as_deref() {
        Some("jsonl" | "ndjson" | "json") => match start()?.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'[') => Format::JsonList,
            _ => Format::JsonLines,
        },
        Some("csv") => Format::Delimited(source::find_delimiter(&start()?, b',')),
        Some("tsv" | "tab") => Format::Delimited(source::find_delimiter(&start()?, b'\t')),
        Some("parquet") if is_gzip => {
            return Err(unknown("Parquet inside of gzip", "decompress it with gunzip: Parquet is compressed inside"));
        }
        Some("parquet") => Format::Parquet,
        Some(kind @ ("zip" | "bz2" | "xz" | "zst" | "tar" | "tgz" | "7z")) => {
            return Err(unknown(kind, "unpack it; of compressed files, those of gzip are read"));
        }
        Some(kind @ ("arrow" | "feather" | "xlsx" | "xls" | "orc" | "avro" | "pkl" | "npy")) => {
            return Err(unknown(kind, "convert it to JSON lines, CSV or Parquet"));
        }
        _ if is_gzip => {
            let next =
                "decompress it with gunzip; of compressed files, .jsonl.gz, .json.gz, .csv.gz and .tsv.gz are read";
            return Err(unknown("compressed text", next));
        }
        _ => Format::Text,
    };
    Ok((format, is_gzip))
}

/// Opens a regular file at once, whatever stands in its place, and says how long it is.
fn open_regular(path: &Path) -> Result<(File, u64), Error> {
    // Without O_NONBLOCK, opening a named pipe waits for a writer that may never come.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|source| Error::io(path, "open it for reading", source))?;
    let metadata = file.metadata().map_err(|source| Error::io(path, "get its size", source))?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a folder" } else { "a pipe or a device" };
        return Err(Error::NotAFile { path: path.to_owned(), found });
    }
    Ok((file, metadata.len()))
}

/// A small file, whole.
///
/// # Errors
/// It is missing, no regular file, or larger than `limit_bytes`.
pub(crate) fn read_small(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, Error> {
    let (file, bytes) = open_regular(path)?;
    if bytes > limit_bytes {
        return Err(Error::TooLarge { path: path.to_owned(), bytes, limit: limit_bytes });
    }
    let mut content = vec![0; bytes as usize];
    file.read_exact_at(&mut content, 0).map_err(|source| Error::io(path, "read it", source))?;
    Ok(content)
}

/// A JSON object beside a model; `None` where the file is not there.
pub(crate) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, Error> {
    let content = match read_small(path, MAX_CONFIG_BYTES) {
        Ok(content) => content,
        Err(Error::Missing { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    object(path, &content).map(Some)
}

/// The JSON object that a file holds.
pub(crate) fn object(path: &Path, content: &[u8]) -> Result<Map<String, Value>, Error> {
    let content = content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content);
    serde_json::from_slice(content).map_err(|error| Error::Json { path: path.to_owned(), message: error.to_string() })
}

/// Fills what it can of `buffer` from `offset`; less only at the end of the file.
pub(crate) fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The line that holds byte `offset`. Reads the file from its start: only for an error message.
pub(crate) fn place_of(file: &File, path: &Path, offset: u64) -> Place {
    let mut line = 1;
    let mut at = 0;
    let mut buffer = vec![0; 64 << 10];
    while at < offset {
        let want = buffer.len().min(usize::try_from(offset - at).unwrap_or(usize::MAX));
        // The message is about another fault; without a line number it still names the file.
        let Ok(count @ 1..) = read_up_to(file, &mut buffer[..want], at) else { break };
        line += buffer[..count].iter().filter(|byte| **byte == b'\n').count() as u64;
        at += count as u64;
    }
    Place { path: path.to_owned(), line }
}
