//! Readers for every row format; each yields one row at a time and can start at any row.
//!
//! A row leaves its reader as the text of one JSON object, whatever the file is, so that what follows (columns, templates,
//! the split) knows one form only. A reader holds one row, and for Parquet the pages that the row lies in; never a file.
//! Within a file, a row's mark is enough to resume reading.

mod bytes;
mod delimited;
mod input;
mod json_list;
mod lines;
mod parquet;
mod probe;

use std::{path::Path, sync::Arc};

pub(crate) use bytes::Bytes;
pub(crate) use delimited::find_delimiter;
pub(crate) use input::BYTE_ORDER_MARK;
pub(crate) use probe::first_bytes;
pub use probe::{ProbeFormat, read_rows};

use crate::{
    corpus::{Cursor, file_order},
    error::{Error, Place, RowFault},
    files::{DataFile, Format},
};

/// Longest row that is read: a row is held in memory.
pub(crate) const MAX_ROW_BYTES: usize = 64 << 20;

/// Where a row begins; the unit depends on the format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowMark {
    /// Bytes of the file before it, of the decompressed ones where it is compressed; in Parquet, rows.
    pub offset: u64,
    /// Lines before it; in Parquet, rows.
    pub lines: u64,
}

/// A row as its reader found it.
#[derive(Debug)]
pub(crate) struct RawRow {
    /// Reading from here yields this row.
    pub mark: RowMark,
    pub place: Place,
    /// A JSON object's text, or what is wrong with the row.
    pub text: Result<String, RowFault>,
}

/// A reader of one file.
pub(crate) trait ReadRows {
    /// The next row; `None` at the end of the file.
    ///
    /// # Errors
    /// The file cannot be read further: damaged, not text, or it breaks off.
    fn next(&mut self) -> Result<Option<RawRow>, Error>;

    /// Where the next row begins.
    fn mark(&self) -> RowMark;
}

/// Opens a file of rows at a mark. `columns` are the only ones that are needed; without them, all.
///
/// # Errors
/// The file cannot be read, or is not what its name says.
pub(crate) fn open(file: &DataFile, mark: RowMark, columns: Option<&[String]>) -> Result<Box<dyn ReadRows>, Error> {
    let bytes = Bytes::File(Arc::new(file.open()?));
    reader(bytes, &file.path, (file.format, file.is_gzip), mark, columns, MAX_ROW_BYTES)
}

fn reader(
    bytes: Bytes,
    path: &Path,
    (format, is_gzip): (Format, bool),
    mark: RowMark,
    columns: Option<&[String]>,
    limit_bytes: usize,
) -> Result<Box<dyn ReadRows>, Error> {
    if format == Format::Parquet {
        return Ok(Box::new(parquet::ParquetRows::open(bytes, path, mark.offset, columns, limit_bytes)?));
    }
    let input = |mark| input::Input::open(bytes.clone(), path, is_gzip, mark);
    Ok(match format {
        Format::JsonList => Box::new(json_list::JsonList::new(input(mark)?, mark, limit_bytes)),
        Format::Delimited(delimiter) => {
            let header = delimited::Header::read(input(RowMark::default())?, delimiter, limit_bytes)?;
            Box::new(delimited::Delimited::new(input(header.first_row(mark))?, header, limit_bytes))
        }
        Format::JsonLines | Format::Text => Box::new(lines::Lines::new(input(mark)?, limit_bytes)),
        Format::Parquet => unreachable!("handled above"),
    })
}

/// The columns that a file's header names; `None` for a format whose rows name their own.
///
/// # Errors
/// The header cannot be read.
pub(crate) fn header(file: &DataFile) -> Result<Option<Vec<String>>, Error> {
    let bytes = Bytes::File(Arc::new(file.open()?));
    Ok(match file.format {
        Format::Parquet => Some(parquet::columns(bytes, &file.path)?),
        Format::Delimited(delimiter) => {
            let input = input::Input::open(bytes, &file.path, file.is_gzip, RowMark::default())?;
            Some(delimited::Header::read(input, delimiter, MAX_ROW_BYTES)?.names().to_vec())
        }
        Format::JsonLines | Format::JsonList | Format::Text => None,
    })
}

/// The rows of files one after the other, in the order of an epoch.
pub(crate) struct RowFiles {
    files: Arc<Vec<DataFile>>,
    order: Vec<usize>,
    file: usize,
    mark: RowMark,
    reader: Option<Box<dyn ReadRows>>,
}

impl RowFiles {
    pub fn new(files: Arc<Vec<DataFile>>, shuffle_seed: Option<u64>, epoch: u64) -> Self {
        let order = file_order(files.len(), shuffle_seed, epoch);
        RowFiles { files, order, file: 0, mark: RowMark::default(), reader: None }
    }

    /// The next row, and the index of its file. `columns` says which columns of a file are needed.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn next<'a>(
        &mut self,
        columns: impl Fn(usize) -> Option<&'a [String]>,
    ) -> Result<Option<(usize, RawRow)>, Error> {
        while let Some(&index) = self.order.get(self.file) {
            let reader = match &mut self.reader {
                Some(reader) => reader,
                closed => closed.insert(open(&self.files[index], self.mark, columns(index))?),
            };
            let row = reader.next()?;
            self.mark = reader.mark();
            if let Some(row) = row {
                return Ok(Some((index, row)));
            }
            self.skip_file();
        }
        Ok(None)
    }

    /// Goes to the next file: behind a fault of this one that is not a row's, the borders of rows are unknown.
    pub fn skip_file(&mut self) {
        (self.file, self.mark, self.reader) = (self.file + 1, RowMark::default(), None);
    }

    pub fn cursor(&self) -> Cursor {
        Cursor { file: self.file as u64, offset: self.mark.offset, line: self.mark.lines + 1, inside: None }
    }

    /// Goes to where [`RowFiles::cursor`] was taken, in the same epoch.
    ///
    /// # Errors
    /// There is no such file.
    pub fn seek(&mut self, cursor: &Cursor) -> Result<(), Error> {
        let file = usize::try_from(cursor.file).ok().filter(|file| *file <= self.order.len());
        self.file = file.ok_or_else(|| Error::Position {
            why: format!("file index {} of {} files", cursor.file, self.order.len()),
        })?;
        (self.mark, self.reader) = (cursor.mark(), None);
        Ok(())
    }
}
