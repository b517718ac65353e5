//! The end of a file, which says what is in it: columns, row groups, and where their chunks lie.
//!
//! Specification: <https://github.com/apache/parquet-format>, `parquet.thrift`.

use super::{
    Fault,
    schema::{Node, Physical, Schema},
    thrift::{Kind, Thrift},
};
use crate::source::Bytes;

pub(super) const MAGIC: &[u8; 4] = b"PAR1";
/// Largest footer that is read: a file of 100,000 chunks has one of about 10 MiB.
const MAX_FOOTER_BYTES: u64 = 64 << 20;
/// Columns and groups of them. An element takes a byte in the footer, and two hundred in memory.
const MOST_ELEMENTS: usize = 1 << 18;

/// A column or a group as the footer lists it.
#[derive(Debug, Default)]
pub(super) struct Element {
    pub name: String,
    physical: Option<i64>,
    pub repetition: i64,
    pub children: Option<u64>,
    pub is_list: bool,
    pub is_unsigned: bool,
}

impl Element {
    pub fn physical(&self) -> Option<Physical> {
        Some(match self.physical? {
            0 => Physical::Boolean,
            1 => Physical::Int32,
            2 => Physical::Int64,
            4 => Physical::Float,
            5 => Physical::Double,
            6 => Physical::ByteArray,
            // 96-bit times and values of a fixed length hold no text.
            _ => return None,
        })
    }

    fn read(thrift: &mut Thrift) -> Result<Self, Fault> {
        let mut element = Element::default();
        thrift.fields(|thrift, id, kind| {
            match (id, kind) {
                (1, Kind::Integer) => element.physical = Some(thrift.integer()?),
                (3, Kind::Integer) => element.repetition = thrift.integer()?,
                (4, Kind::Binary) => element.name = thrift.text()?,
                (5, Kind::Integer) => element.children = Some(thrift.size()?),
                // The older way to say what values mean: 3 is a list, 11 to 14 are unsigned integers.
                (6, Kind::Integer) => {
                    let converted = thrift.integer()?;
                    element.is_list |= converted == 3;
                    element.is_unsigned |= (11..=14).contains(&converted);
                }
                // The newer way: a union of which field 3 is a list.
                (10, Kind::Struct) => thrift.fields(|_, id, _| {
                    element.is_list |= id == 3;
                    Ok(false)
                })?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(element)
    }
}

/// A column's part of a row group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chunk {
    pub codec: i64,
    pub values: u64,
    pub start: u64,
    pub bytes: u64,
}

#[derive(Debug)]
pub(super) struct RowGroup {
    pub rows: u64,
    /// One for each leaf that is read.
    pub chunks: Vec<Chunk>,
}

#[derive(Debug)]
pub(super) struct Footer {
    pub schema: Schema,
    pub groups: Vec<RowGroup>,
}

impl Footer {
    /// Reads the footer; of chunks, those in the columns that are `needed`.
    pub fn read(bytes: &Bytes, needed: impl Fn(&Node) -> bool) -> Result<Self, Fault> {
        let file_bytes = bytes.len()?;
        let mut tail = [0; 8];
        let tail_start = file_bytes.checked_sub(8).filter(|start| *start >= 4).ok_or_else(no_end)?;
        bytes.read_up_to(&mut tail, tail_start)?;
        if tail[4..] == *b"PARE" {
            return Err(Fault::Unsupported("it is encrypted".to_owned()));
        }
        if tail[4..] != *MAGIC {
            return Err(no_end());
        }
        let footer_bytes = u64::from(u32::from_le_bytes(tail[..4].try_into().expect("four of eight bytes")));
        let start = tail_start.checked_sub(footer_bytes).filter(|start| *start >= 4);
        let start = start.ok_or_else(|| Fault::damaged("its footer is longer than the file"))?;
        if footer_bytes > MAX_FOOTER_BYTES {
            return Err(Fault::Unsupported(format!(
                "its footer has {footer_bytes} bytes, at most {MAX_FOOTER_BYTES} are read"
            )));
        }
        let mut footer = vec![0; footer_bytes as usize];
        bytes.read_up_to(&mut footer, start)?;
        Self::parse(&footer, start, needed)
    }

    fn parse(footer: &[u8], data_end: u64, needed: impl Fn(&Node) -> bool) -> Result<Self, Fault> {
        let mut schema = None;
        let mut needed_leaves = Vec::new();
        let mut groups = Vec::new();
        Thrift::new(footer).fields(|thrift, id, kind| {
            match (id, kind) {
                (2, Kind::List) => {
                    let mut elements = Vec::new();
                    thrift.elements(|thrift, _| {
                        if elements.len() == MOST_ELEMENTS {
                            let found = format!("it has more than {MOST_ELEMENTS} columns and groups of columns");
                            return Err(Fault::Unsupported(found));
                        }
                        elements.push(Element::read(thrift)?);
                        Ok(())
                    })?;
                    let found = Schema::new(&elements)?;
                    needed_leaves = found.needed_leaves(&needed);
                    schema = Some(found);
                }
                (4, Kind::List) => {
                    if schema.is_none() {
                        return Err(Fault::damaged("its footer has no columns"));
                    }
                    thrift.elements(|thrift, _| {
                        groups.push(RowGroup::read(thrift, data_end, &needed_leaves)?);
                        Ok(())
                    })?;
                }
                (8, _) => return Err(Fault::Unsupported("it is encrypted".to_owned())),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let schema = schema.ok_or_else(|| Fault::damaged("its footer has no columns"))?;
        Ok(Footer { schema, groups })
    }
}

fn no_end() -> Fault {
    Fault::damaged("it does not end as a Parquet file does: it was cut, or is still being written")
}

impl RowGroup {
    fn read(thrift: &mut Thrift, data_end: u64, needed_leaves: &[bool]) -> Result<Self, Fault> {
        let mut rows = None;
        let mut chunks = Vec::new();
        let mut leaf = 0;
        thrift.fields(|thrift, id, kind| {
            match (id, kind) {
                (1, Kind::List) => thrift.elements(|thrift, _| {
                    let is_needed = needed_leaves.get(leaf) == Some(&true);
                    let chunk = Chunk::read(thrift, data_end, is_needed)?;
                    chunks.extend(is_needed.then_some(chunk));
                    leaf += 1;
                    Ok(())
                })?,
                (3, Kind::Integer) => rows = Some(thrift.size()?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if leaf != needed_leaves.len() {
            let message = format!("a row group has {leaf} columns, expected {}", needed_leaves.len());
            return Err(Fault::damaged(message));
        }
        let rows = rows.ok_or_else(|| Fault::damaged("a row group does not say how many rows it has"))?;
        // Nothing in the file would bound them.
        if rows > 0 && needed_leaves.is_empty() {
            return Err(Fault::damaged("it has rows and no columns"));
        }
        Ok(RowGroup { rows, chunks })
    }
}

impl Chunk {
    fn read(thrift: &mut Thrift, data_end: u64, is_needed: bool) -> Result<Self, Fault> {
        let mut chunk = Chunk::default();
        let (mut data, mut dictionary, mut is_elsewhere, mut has_metadata) = (0, None, false, false);
        thrift.fields(|thrift, id, kind| {
            match (id, kind) {
                (1, Kind::Binary) => is_elsewhere = !thrift.binary()?.is_empty(),
                (3, Kind::Struct) => {
                    has_metadata = true;
                    thrift.fields(|thrift, id, kind| {
                        match (id, kind) {
                            (4, Kind::Integer) => chunk.codec = thrift.integer()?,
                            (5, Kind::Integer) => chunk.values = thrift.size()?,
                            (7, Kind::Integer) => chunk.bytes = thrift.size()?,
                            (9, Kind::Integer) => data = thrift.size()?,
                            (11, Kind::Integer) => dictionary = Some(thrift.size()?),
                            _ => return Ok(false),
                        }
                        Ok(true)
                    })?;
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if !is_needed {
            return Ok(chunk);
        }
        if is_elsewhere {
            return Err(Fault::Unsupported("a column lies in another file".to_owned()));
        }
        // Some writers say 0 where there is no dictionary.
        chunk.start = dictionary.filter(|start| (4..data).contains(start)).unwrap_or(data);
        let is_inside = chunk.start >= 4 && chunk.start.checked_add(chunk.bytes).is_some_and(|end| end <= data_end);
        if !has_metadata || !is_inside {
            return Err(Fault::damaged("a column does not lie where its footer says"));
        }
        Ok(chunk)
    }
}
