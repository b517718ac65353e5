//! The files of a data set, and what the rows of each are. Decided once, before the first step, from headers and first rows.

use std::sync::Arc;

use crate::{
    columns::{Columns, Shape, UnreadColumn},
    error::{Error, RowFault},
    files::{self, DataFile, Format},
    record,
    source::{self, RowMark},
};

/// Rows of JSON that are looked at for their columns, where the first have none that are known.
const ROWS_LOOKED_AT: usize = 100;

/// What a data set is read as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataKind {
    /// Documents, in this column where they are rows.
    Text { column: Option<String> },
    /// Texts of which a part is learned.
    Completions,
    /// Conversations for a chat template.
    Conversations,
}

/// A file, and how it is read.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DataDescription {
    pub path: std::path::PathBuf,
    /// `text`, `json_lines`, `json_list`, `csv`, `tsv` or `parquet`; with `_gzip` after it where it is compressed.
    pub format: String,
    /// What the rows are, in a word or two; `None` where the file has no rows.
    pub rows_are: Option<String>,
    /// Columns that are read, and those that are left alone.
    pub columns: Vec<String>,
    pub other_columns: Vec<String>,
    /// Those of them that may hold content.
    pub unread_columns: Vec<UnreadColumn>,
}

/// Files, and what their rows are.
#[derive(Default)]
pub struct DataSet {
    pub(crate) files: Arc<Vec<DataFile>>,
    reads: Arc<Vec<Option<RowRead>>>,
    is_chat: bool,
}

/// How the rows of a file are read.
#[derive(Debug)]
pub(crate) struct RowRead {
    pub shape: Shape,
    /// Columns of the header, or of the first row.
    has: Vec<String>,
    used: Vec<String>,
    unread: Vec<UnreadColumn>,
    has_header: bool,
}

impl RowRead {
    /// The columns that a reader needs; without a header, rows are read as they are.
    fn needed(&self) -> Option<&[String]> {
        self.has_header.then_some(&self.used[..])
    }
}

impl DataSet {
    /// Looks at files, given as paths or glob patterns. `is_chat` is whether their rows are rendered as conversations.
    ///
    /// # Errors
    /// A file that cannot be read, or whose columns are ambiguous.
    pub fn open(patterns: &[String], columns: &Columns, is_chat: bool) -> Result<Self, Error> {
        let files = files::resolve(patterns)?;
        let reads = files.iter().map(|file| look(file, columns, is_chat)).collect::<Result<_, _>>()?;
        Ok(DataSet { files: Arc::new(files), reads: Arc::new(reads), is_chat })
    }

    /// What the files are together.
    ///
    /// # Errors
    /// They are not of one kind.
    pub fn kind(&self) -> Result<DataKind, Error> {
        let mut first: Option<(&DataFile, DataKind, &'static str)> = None;
        for (file, read) in self.files.iter().zip(self.reads.iter()) {
            let (kind, name) = match read.as_ref().map(|read| &read.shape) {
                // A file without rows is of any kind.
                None if file.format != Format::Text => continue,
                None => (DataKind::Text { column: None }, "text"),
                Some(_) if self.is_chat => (DataKind::Conversations, "conversations"),
                Some(Shape::Text { text }) => (DataKind::Text { column: Some(text.clone()) }, "text"),
                Some(shape) => (DataKind::Completions, shape.name()),
            };
            let Some((other, known, found)) = &mut first else {
                first = Some((file, kind, name));
                continue;
            };
            match (&*known, &kind) {
                (DataKind::Text { column: None }, DataKind::Text { .. }) => *known = kind,
                (DataKind::Text { .. }, DataKind::Text { column: None }) => {}
                (known, kind) if known == kind => {}
                _ => {
                    let (first, path) = (other.path.clone(), file.path.clone());
                    return Err(Error::MixedRows { first, other: found, path, found: name });
                }
            }
        }
        Ok(first.map_or(DataKind::Text { column: None }, |(_, kind, _)| kind))
    }

    pub fn describe(&self) -> Vec<DataDescription> {
        let describe = |(file, read): (&DataFile, &Option<RowRead>)| {
            let format = match file.format {
                Format::Text => "text",
                Format::JsonLines => "json_lines",
                Format::JsonList => "json_list",
                Format::Delimited(b'\t') => "tsv",
                Format::Delimited(_) => "csv",
                Format::Parquet => "parquet",
            };
            let read = read.as_ref();
            let columns = read.map(|read| read.used.clone()).unwrap_or_default();
            let other_columns = read.into_iter().flat_map(|read| &read.has).filter(|name| !columns.contains(name));
            DataDescription {
                path: file.path.clone(),
                format: format!("{format}{}", if file.is_gzip { "_gzip" } else { "" }),
                rows_are: read.map(|read| read.shape.name().to_owned()),
                other_columns: other_columns.cloned().collect(),
                unread_columns: read.map(|read| read.unread.clone()).unwrap_or_default(),
                columns,
            }
        };
        self.files.iter().zip(self.reads.iter()).map(describe).collect()
    }

    /// How rows of a file are read.
    ///
    /// # Errors
    /// The file had no rows when it was looked at.
    pub(crate) fn shape(&self, file: usize) -> Result<&Shape, Error> {
        let read = self.reads[file].as_ref().map(|read| &read.shape);
        read.ok_or_else(|| Error::Changed { path: self.files[file].path.clone() })
    }

    /// The columns that a reader of a file needs; `None` for all.
    pub(crate) fn needed(&self, file: usize) -> Option<&[String]> {
        self.reads[file].as_ref().and_then(RowRead::needed)
    }

    /// Stands for how its files are read where loaders are compared.
    pub(crate) fn shapes(&self) -> Vec<String> {
        self.reads.iter().map(|read| format!("{:?}", read.as_ref().map(|read| &read.shape))).collect()
    }
}

/// What the rows of a file are; `None` for text, and where there is no row.
fn look(file: &DataFile, columns: &Columns, is_chat: bool) -> Result<Option<RowRead>, Error> {
    let read = |shape: Shape, has: Vec<String>, has_header| {
        let unread = columns.unread(&shape, &has, is_chat);
        Some(RowRead { used: shape.columns(&has, is_chat), unread, shape, has, has_header })
    };
    let unknown = |why, has| Error::Columns { path: file.path.clone(), why, has };
    // With a chat template, a file of text is read as lines of JSON.
    if file.format == Format::Text && !is_chat {
        return Ok(None);
    }
    if let Some(has) = source::header(file)? {
        if has.is_empty() {
            return Ok(None);
        }
        return match columns.shape(&has, is_chat) {
            Ok(shape) => Ok(read(shape, has, true)),
            Err(why) => Err(unknown(why, has)),
        };
    }
    let mut rows = source::open(file, RowMark::default(), None)?;
    let mut first_fault: Option<Error> = None;
    for _ in 0..ROWS_LOOKED_AT {
        let Some(row) = rows.next()? else { break };
        let object = row.text.and_then(|text| record::parse(&text));
        let fault = match object.map(|object| record::names(&object)) {
            Ok(has) => match columns.shape(&has, is_chat) {
                Ok(shape) => return Ok(read(shape, has, false)),
                Err(why) => unknown(why, has),
            },
            Err(RowFault::Json { .. }) if file.format == Format::Text => {
                Error::Row { place: row.place, fault: RowFault::NotRows }
            }
            Err(fault) => Error::Row { place: row.place, fault },
        };
        first_fault.get_or_insert(fault);
    }
    match first_fault {
        Some(fault) => Err(fault),
        None => Ok(None),
    }
}
