//! Parquet: columns of text, numbers, lists and structures, one row at a time.
//!
//! A column is read page by page, so what is in memory is a page of each needed column, and its dictionary. Every size in the
//! file is compared with what is there before memory is taken for it. The crate `parquet` was left out for this: it takes
//! what a page's header says, and panics or runs out of memory where that is wrong. It also adds 105 s of CPU to a build.
//!
//! Read are the types that hold text, integers, floats and booleans, in the encodings of pyarrow, polars, DuckDB and Spark,
//! uncompressed or compressed with Snappy, zstd or gzip. Anything else is an error that says so.

mod assemble;
mod column;
mod encoding;
mod footer;
mod schema;
mod thrift;

use std::{
    io,
    path::{Path, PathBuf},
};

use self::{
    column::{Column, OpenPages},
    footer::{Footer, RowGroup},
    schema::{Node, Schema},
};
use super::{Bytes, RawRow, ReadRows, RowMark};
use crate::error::{Error, Place, RowFault};

/// Why a file cannot be read further.
#[derive(Debug)]
enum Fault {
    Io(io::Error),
    /// It ends within a value.
    CutOff,
    Damaged(String),
    /// It may be sound, and is not read.
    Unsupported(String),
    TooLongRow {
        limit_bytes: usize,
    },
    NotText(String),
}

impl Fault {
    fn damaged(message: impl Into<String>) -> Self {
        Fault::Damaged(message.into())
    }

    fn at(self, path: &Path, row: u64) -> Error {
        let place = Place { path: path.to_owned(), line: row.saturating_add(1) };
        let damaged = |place, message| Error::Damaged { place, what: "Parquet", message };
        match self {
            Fault::Io(error) => Error::io(path, "read it", error),
            Fault::CutOff => damaged(place, "it ends within a value".to_owned()),
            Fault::Damaged(message) => damaged(place, message),
            Fault::Unsupported(found) => Error::UnknownFormat {
                path: path.to_owned(),
                found: format!("this Parquet file ({found})"),
                next: "write it with pyarrow's or polars' defaults, or as JSON lines",
            },
            Fault::TooLongRow { limit_bytes } => Error::Row { place, fault: RowFault::TooLongRow { limit_bytes } },
            Fault::NotText(field) => Error::Row { place, fault: RowFault::NotUtf8 { field } },
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Fault::Io(error)
    }
}

/// The names of a file's columns.
///
/// # Errors
/// The footer cannot be read.
pub(super) fn columns(bytes: Bytes, path: &Path) -> Result<Vec<String>, Error> {
    let footer = Footer::read(&bytes, |_| false).map_err(|fault| fault.at(path, 0))?;
    Ok(footer.schema.columns.into_iter().map(|column| column.name).collect())
}

pub(super) struct ParquetRows {
    bytes: Bytes,
    path: PathBuf,
    schema: Schema,
    /// Top-level columns that are read.
    columns: Vec<Node>,
    groups: std::vec::IntoIter<RowGroup>,
    /// Of the group that is open: the readers of the leaves that are read, by the leaf's index, and the rows left.
    leaves: Vec<Option<Column>>,
    rows_left: u64,
    row: u64,
    is_over: bool,
    open_pages: OpenPages,
    limit_bytes: usize,
}

impl ParquetRows {
    /// Opens a file at a row.
    pub fn open(
        bytes: Bytes,
        path: &Path,
        row: u64,
        columns: Option<&[String]>,
        limit_bytes: usize,
    ) -> Result<Self, Error> {
        Self::start(bytes, path, row, columns, limit_bytes).map_err(|fault| fault.at(path, row))
    }

    fn start(
        bytes: Bytes,
        path: &Path,
        row: u64,
        columns: Option<&[String]>,
        limit_bytes: usize,
    ) -> Result<Self, Fault> {
        let is_needed = |node: &Node| columns.is_none_or(|columns| columns.contains(&node.name));
        let footer = Footer::read(&bytes, is_needed)?;
        let columns = footer.schema.columns.iter().filter(|node| is_needed(node)).cloned().collect();
        let leaves = footer.schema.leaves.iter().map(|_| None).collect();
        let mut rows = ParquetRows {
            bytes,
            path: path.to_owned(),
            schema: footer.schema,
            columns,
            groups: footer.groups.into_iter(),
            leaves,
            rows_left: 0,
            row: 0,
            is_over: false,
            open_pages: OpenPages::new(limit_bytes),
            limit_bytes,
        };
        rows.go_to(row)?;
        Ok(rows)
    }

    /// Groups before the row are not opened; the rows before it in its group are read and dropped.
    fn go_to(&mut self, row: u64) -> Result<(), Fault> {
        while let Some(group) = self.groups.as_slice().first() {
            if self.row.saturating_add(group.rows) > row {
                break;
            }
            self.row = self.row.saturating_add(group.rows);
            self.groups.next();
        }
        while self.row < row && self.next_row()?.is_some() {}
        Ok(())
    }

    /// Opens the next group that has rows; false at the end.
    fn open_group(&mut self) -> Result<bool, Fault> {
        let Some(group) = self.groups.find(|group| group.rows > 0) else { return Ok(false) };
        let mut chunks = group.chunks.into_iter();
        for node in &self.columns {
            for index in node.first_leaf..node.first_leaf + node.leaves {
                let chunk = chunks.next().ok_or_else(|| Fault::damaged("a row group lacks a column"))?;
                // The column of the last group goes first, and its pages with it.
                self.leaves[index] = None;
                let leaf = &self.schema.leaves[index];
                self.leaves[index] = Some(Column::open(&self.bytes, leaf, chunk, &self.open_pages)?);
            }
        }
        self.rows_left = group.rows;
        Ok(true)
    }

    fn next_row(&mut self) -> Result<Option<String>, Fault> {
        if self.rows_left == 0 && !self.open_group()? {
            return Ok(None);
        }
        let object = assemble::row(&self.columns, &mut self.leaves, self.limit_bytes)?;
        self.rows_left -= 1;
        self.row += 1;
        if self.rows_left == 0 {
            for leaf in self.leaves.iter_mut().flatten() {
                if leaf.peek()?.is_some() {
                    return Err(Fault::damaged("a column has more values than its row group has rows"));
                }
            }
        }
        Ok(Some(object))
    }
}

impl ReadRows for ParquetRows {
    fn next(&mut self) -> Result<Option<RawRow>, Error> {
        if self.is_over {
            return Ok(None);
        }
        let mark = self.mark();
        let place = Place { path: self.path.clone(), line: self.row + 1 };
        let next = self.next_row();
        // What comes after a fault has no place in a row.
        self.is_over = !matches!(next, Ok(Some(_)));
        let text = next.map_err(|fault| fault.at(&self.path, mark.offset))?;
        Ok(text.map(|text| RawRow { mark, place, text: Ok(text) }))
    }

    fn mark(&self) -> RowMark {
        RowMark { offset: self.row, lines: self.row }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_position_behind_every_row_is_the_end_or_an_error() {
        let fixture = include_bytes!("../../tests/parquet/plain.parquet");
        for (bytes, is_sound) in [(&fixture[..], true), (&fixture[..1000], false)] {
            let rows = ParquetRows::open(Bytes::Memory(Arc::from(bytes)), Path::new("rows"), u64::MAX, None, 1 << 20);
            assert_eq!(rows.is_ok(), is_sound);
            assert!(rows.is_err() || rows.is_ok_and(|mut rows| matches!(rows.next(), Ok(None))));
        }
    }
}
