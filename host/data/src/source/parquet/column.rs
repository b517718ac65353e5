//! A column of a row group, value by value. One page of it is in memory, and its dictionary; how much the columns of a file
//! hold together is bounded, because any number of them may say that they lie in the same few bytes.

use std::{cell::Cell, io::Read, rc::Rc};

use super::{
    Fault,
    encoding::{Deltas, Hybrid, LengthTexts, PrefixTexts},
    footer::Chunk,
    schema::{Leaf, Physical},
    thrift::{Kind, Thrift},
};
use crate::source::{Bytes, MAX_ROW_BYTES};

/// Largest page, decompressed: a row's text lies in one page.
const MAX_PAGE_BYTES: usize = 128 << 20;
/// Pages and dictionaries of all columns that are open.
const MAX_OPEN_BYTES: usize = 4 * MAX_PAGE_BYTES;
/// At least so much of that, however short rows may be.
const LEAST_OPEN_BYTES: usize = 64 << 20;
/// Values of a page. Writers put 20,000 rows into one, or a megabyte.
const MOST_PAGE_VALUES: u64 = 1 << 24;
/// A page's header, but for statistics that hold a long text.
const HEADER_BYTES: [usize; 2] = [4 << 10, 4 << 20];

/// Where the next value stands in its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Levels {
    pub repetition: u16,
    pub definition: u16,
}

pub(super) enum Value<'a> {
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Bytes(&'a [u8]),
}

/// The bytes that the open pages of a file's columns take together.
#[derive(Clone, Debug)]
pub(super) struct OpenPages {
    bytes: Rc<Cell<usize>>,
    most: usize,
}

impl OpenPages {
    /// For rows of at most this size.
    pub fn new(limit_bytes: usize) -> Self {
        OpenPages {
            bytes: Rc::default(),
            most: MAX_OPEN_BYTES.min(limit_bytes.saturating_mul(8).max(LEAST_OPEN_BYTES)),
        }
    }
}

/// A part of [`OpenPages`], which is given back when it is dropped.
#[derive(Debug)]
struct Share {
    pages: OpenPages,
    bytes: usize,
}

impl Share {
    fn of(pages: &OpenPages) -> Self {
        Share { pages: pages.clone(), bytes: 0 }
    }

    /// Charges this number of bytes in place of those that it has.
    fn set(&mut self, bytes: usize) -> Result<(), Fault> {
        let together = self.pages.bytes.get() - self.bytes + bytes;
        if together > self.pages.most {
            let most = self.pages.most;
            let found = format!("its columns have pages of {together} bytes together, at most {most} are read");
            return Err(Fault::Unsupported(found));
        }
        self.pages.bytes.set(together);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.pages.bytes.set(self.pages.bytes.get() - self.bytes);
    }
}

pub(super) struct Column {
    bytes: Bytes,
    leaf: Leaf,
    codec: Codec,
    /// Of the chunk: the bytes that are left.
    at: u64,
    end: u64,
    values_left: u64,
    page: Vec<u8>,
    page_share: Share,
    dictionary_share: Share,
    page_values_left: u64,
    repetitions: Hybrid,
    definitions: Hybrid,
    values: Values,
    dictionary: Dictionary,
    next: Option<Levels>,
}

/// How the values of the page are stored, and where in it the next one is.
#[derive(Debug)]
enum Values {
    Plain { at: usize, bit: u64 },
    Dictionary(Hybrid),
    Booleans(Hybrid),
    Deltas(Deltas),
    LengthTexts(LengthTexts),
    PrefixTexts(PrefixTexts),
}

/// The page of a chunk's distinct values, and where each begins.
#[derive(Debug, Default)]
struct Dictionary {
    page: Vec<u8>,
    starts: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
enum Codec {
    None,
    Snappy,
    Gzip,
    Zstd,
}

#[derive(Debug, Default)]
struct PageHeader {
    kind: i64,
    uncompressed_bytes: u64,
    compressed_bytes: u64,
    crc: Option<i64>,
    values: u64,
    encoding: i64,
    level_encodings: [i64; 2],
    /// Of a page of version 2: the bytes of its repetition and definition levels, and whether its values are compressed.
    v2: Option<([u64; 2], bool)>,
}

impl Column {
    pub fn open(bytes: &Bytes, leaf: &Leaf, chunk: Chunk, pages: &OpenPages) -> Result<Self, Fault> {
        let unsupported = |what: &str| Fault::Unsupported(format!("column {:?} is {what}", leaf.path));
        let codec = match chunk.codec {
            0 => Codec::None,
            1 => Codec::Snappy,
            2 => Codec::Gzip,
            6 => Codec::Zstd,
            3 => return Err(unsupported("compressed with LZO")),
            4 => return Err(unsupported("compressed with Brotli")),
            5 | 7 => return Err(unsupported("compressed with LZ4")),
            other => return Err(unsupported(&format!("compressed with codec {other}"))),
        };
        if leaf.physical.is_none() {
            return Err(unsupported("of a type that holds no text"));
        }
        Ok(Column {
            bytes: bytes.clone(),
            leaf: leaf.clone(),
            codec,
            at: chunk.start,
            end: chunk.start + chunk.bytes,
            values_left: chunk.values,
            page: Vec::new(),
            page_share: Share::of(pages),
            dictionary_share: Share::of(pages),
            page_values_left: 0,
            repetitions: Hybrid::default(),
            definitions: Hybrid::default(),
            values: Values::Plain { at: 0, bit: 0 },
            dictionary: Dictionary::default(),
            next: None,
        })
    }

    pub fn path(&self) -> &str {
        &self.leaf.path
    }

    /// The levels of the next value; `None` at the end of the chunk.
    pub fn peek(&mut self) -> Result<Option<Levels>, Fault> {
        if self.next.is_none() {
            while self.page_values_left == 0 {
                if self.values_left == 0 {
                    return Ok(None);
                }
                self.next_page()?;
            }
            self.page_values_left -= 1;
            let repetition = self.repetitions.next(&self.page)?;
            let definition = self.definitions.next(&self.page)?;
            let (most_repetition, most_definition) = (self.leaf.max_repetition, self.leaf.max_definition);
            if repetition > most_repetition.into() || definition > most_definition.into() {
                return Err(Fault::damaged("a value is nested deeper than its column"));
            }
            self.next = Some(Levels { repetition: repetition as u16, definition: definition as u16 });
        }
        Ok(self.next)
    }

    /// The next value.
    pub fn take(&mut self) -> Result<Value<'_>, Fault> {
        let levels = self.peek()?.ok_or_else(|| Fault::damaged("a column ends before its row group"))?;
        self.next = None;
        if levels.definition < self.leaf.max_definition {
            return Ok(Value::Null);
        }
        self.value()
    }

    fn value(&mut self) -> Result<Value<'_>, Fault> {
        let physical = self.leaf.physical.expect("a column of another type is not opened");
        let is_unsigned = self.leaf.is_unsigned;
        match &mut self.values {
            Values::Plain { at, bit } => plain(&self.page, at, bit, physical, is_unsigned),
            Values::Dictionary(indices) => {
                let index = indices.next(&self.page)?;
                let start = usize::try_from(index).ok().and_then(|index| self.dictionary.starts.get(index));
                let mut at =
                    *start.ok_or_else(|| Fault::damaged("a value is not in its column's dictionary"))? as usize;
                plain(&self.dictionary.page, &mut at, &mut 0, physical, is_unsigned)
            }
            Values::Booleans(bits) => Ok(Value::Boolean(bits.next(&self.page)? == 1)),
            Values::Deltas(integers) => {
                let value = integers.next(&self.page)?;
                // Differences of 32-bit numbers wrap at 32 bits.
                let value = if physical == Physical::Int32 { i64::from(value as i32) } else { value };
                Ok(Value::Integer(if is_unsigned { unsigned(value, physical)? } else { value }))
            }
            Values::LengthTexts(texts) => {
                let range = texts.next(&self.page)?;
                Ok(Value::Bytes(&self.page[range]))
            }
            Values::PrefixTexts(texts) => {
                texts.next(&self.page, MAX_ROW_BYTES)?;
                Ok(Value::Bytes(&texts.text))
            }
        }
    }

    fn next_page(&mut self) -> Result<(), Fault> {
        let header = self.read_header()?;
        let damaged = |what: &str| Err(Fault::damaged(format!("a page of column {:?} {what}", self.leaf.path)));
        if header.compressed_bytes > self.end - self.at {
            return damaged("is longer than its column");
        }
        let (compressed_bytes, uncompressed_bytes) = (header.compressed_bytes, header.uncompressed_bytes);
        if compressed_bytes.max(uncompressed_bytes) > MAX_PAGE_BYTES as u64 {
            let bytes = compressed_bytes.max(uncompressed_bytes);
            let found =
                format!("column {:?} has a page of {bytes} bytes, at most {MAX_PAGE_BYTES} are read", self.leaf.path);
            return Err(Fault::Unsupported(found));
        }
        let start = self.at;
        self.at += compressed_bytes;
        // 1 is an index page.
        if !matches!(header.kind, 0 | 2 | 3) {
            return Ok(());
        }
        let most_bytes = compressed_bytes.max(uncompressed_bytes) as usize;
        if header.kind == 2 {
            self.dictionary = Dictionary::default();
            // And where each value of it begins: four bytes, as the shortest value has.
            self.dictionary_share.set(2 * most_bytes)?;
        } else {
            self.page = Vec::new();
            self.page_share.set(most_bytes)?;
        }
        let mut compressed = vec![0; compressed_bytes as usize];
        if self.bytes.read_up_to(&mut compressed, start)? < compressed.len() {
            return Err(Fault::CutOff);
        }
        if let Some(crc) = header.crc {
            let mut hash = flate2::Crc::new();
            hash.update(&compressed);
            if hash.sum() != crc as u32 {
                return damaged("is not what was written: its checksum differs");
            }
        }
        if header.kind == 2 {
            let page = self.decompress(compressed, uncompressed_bytes as usize)?;
            return self.read_dictionary(page, header.values);
        }
        if header.values > MOST_PAGE_VALUES {
            let found = format!("column {:?} has a page of {} values", self.leaf.path, header.values);
            return Err(Fault::Unsupported(found));
        }
        self.values_left = match self.values_left.checked_sub(header.values) {
            Some(left) => left,
            None => return damaged("has more values than its column"),
        };
        self.page_values_left = header.values;
        let at = match header.v2 {
            None => self.open_v1(&header, compressed)?,
            Some((level_bytes, is_compressed)) => self.open_v2(&header, compressed, level_bytes, is_compressed)?,
        };
        self.open_values(header.encoding, at, header.values)
    }

    fn read_header(&mut self) -> Result<PageHeader, Fault> {
        for most in HEADER_BYTES {
            let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            let mut bytes = vec![0; most.min(left)];
            let count = self.bytes.read_up_to(&mut bytes, self.at)?;
            let mut thrift = Thrift::new(&bytes[..count]);
            match PageHeader::read(&mut thrift) {
                Ok(header) => {
                    self.at += thrift.at() as u64;
                    return Ok(header);
                }
                Err(Fault::CutOff) if most < left => {}
                Err(fault) => return Err(fault),
            }
        }
        Err(Fault::damaged(format!("the header of a page of column {:?} exceeds the limit", self.leaf.path)))
    }

    fn decompress(&self, compressed: Vec<u8>, bytes: usize) -> Result<Vec<u8>, Fault> {
        let damaged =
            |why: &str| Fault::damaged(format!("a page of column {:?} cannot be decompressed: {why}", self.leaf.path));
        let read = |stream: &mut dyn Read| -> Result<Vec<u8>, Fault> {
            // Grows with what comes out, not with what was announced.
            let mut page = Vec::new();
            stream.take(bytes as u64 + 1).read_to_end(&mut page).map_err(|error| damaged(&error.to_string()))?;
            Ok(page)
        };
        let page = match self.codec {
            Codec::None => compressed,
            Codec::Gzip => read(&mut flate2::read::MultiGzDecoder::new(&compressed[..]))?,
            Codec::Zstd => zstd(&compressed, bytes).map_err(|error| damaged(&error.to_string()))?,
            Codec::Snappy => {
                // No three bytes of Snappy are more than 64 of text.
                if snap::raw::decompress_len(&compressed).ok() != Some(bytes) || bytes / 64 > compressed.len() {
                    return Err(damaged("its size differs from the page header"));
                }
                let mut page = vec![0; bytes];
                let mut decoder = snap::raw::Decoder::new();
                decoder.decompress(&compressed, &mut page).map_err(|error| damaged(&error.to_string()))?;
                page
            }
        };
        if page.len() != bytes {
            return Err(damaged(&format!("expected {bytes} bytes, found {}", page.len())));
        }
        Ok(page)
    }

    fn read_dictionary(&mut self, page: Vec<u8>, values: u64) -> Result<(), Fault> {
        let physical = self.leaf.physical.expect("a column of another type is not opened");
        // Bits have no dictionary. Every other value takes bytes, so the page bounds how many there are.
        if physical == Physical::Boolean {
            return Err(Fault::damaged(format!("column {:?} has a dictionary of booleans", self.leaf.path)));
        }
        let mut starts = Vec::new();
        let mut at = 0;
        for _ in 0..values {
            starts.push(at as u32);
            plain(&page, &mut at, &mut 0, physical, false)?;
        }
        self.dictionary = Dictionary { page, starts };
        Ok(())
    }

    /// A page of version 1: levels, each preceded by its length, and values, all compressed together.
    fn open_v1(&mut self, header: &PageHeader, compressed: Vec<u8>) -> Result<usize, Fault> {
        self.page = self.decompress(compressed, header.uncompressed_bytes as usize)?;
        let mut at = 0;
        let mut levels = |most: u16, encoding: i64| {
            if most == 0 {
                return Ok(Hybrid::default());
            }
            // 3 is RLE; 4 is what writers before 2013 had.
            if encoding != 3 {
                return Err(Fault::Unsupported(format!("levels in encoding {encoding}")));
            }
            let size = self.page.get(at..at + 4).ok_or(Fault::CutOff)?;
            let size = u32::from_le_bytes(size.try_into().expect("four bytes")) as usize;
            let (start, end) = (at + 4, (at + 4).saturating_add(size));
            at = end;
            Hybrid::new(start, end, bit_width(most))
        };
        self.repetitions = levels(self.leaf.max_repetition, header.level_encodings[0])?;
        self.definitions = levels(self.leaf.max_definition, header.level_encodings[1])?;
        Ok(at)
    }

    /// A page of version 2: levels as they are, and values that may be compressed.
    fn open_v2(
        &mut self,
        header: &PageHeader,
        mut compressed: Vec<u8>,
        [repetition_bytes, definition_bytes]: [u64; 2],
        is_compressed: bool,
    ) -> Result<usize, Fault> {
        let level_bytes = repetition_bytes.saturating_add(definition_bytes);
        if level_bytes > compressed.len() as u64 || level_bytes > header.uncompressed_bytes {
            return Err(Fault::CutOff);
        }
        let (repetition_bytes, level_bytes) = (repetition_bytes as usize, level_bytes as usize);
        let value_bytes = header.uncompressed_bytes as usize - level_bytes;
        let values = compressed.split_off(level_bytes);
        // A page of nulls alone may have nothing that could be decompressed.
        let values = match is_compressed && value_bytes > 0 {
            true => self.decompress(values, value_bytes)?,
            false => values,
        };
        self.page = compressed;
        self.page.extend(values);
        let levels = |most: u16, start, end| match most {
            0 => Ok(Hybrid::default()),
            most => Hybrid::new(start, end, bit_width(most)),
        };
        self.repetitions = levels(self.leaf.max_repetition, 0, repetition_bytes)?;
        self.definitions = levels(self.leaf.max_definition, repetition_bytes, level_bytes)?;
        Ok(level_bytes)
    }

    fn open_values(&mut self, encoding: i64, at: usize, most: u64) -> Result<(), Fault> {
        let physical = self.leaf.physical.expect("a column of another type is not opened");
        let is_integer = matches!(physical, Physical::Int32 | Physical::Int64);
        let is_text = physical == Physical::ByteArray;
        let page = &self.page;
        // A page without values may have no bytes at all for them.
        if at >= page.len() {
            self.values = Values::Plain { at, bit: 0 };
            return Ok(());
        }
        self.values = match encoding {
            0 => Values::Plain { at, bit: 0 },
            // Two names of one encoding: the width of the indices, and the indices.
            2 | 8 => Values::Dictionary(Hybrid::new(at + 1, page.len(), page[at].into())?),
            3 if physical == Physical::Boolean => Values::Booleans(Hybrid::new(at + 4, page.len(), 1)?),
            5 if is_integer => Values::Deltas(Deltas::new(page, at, most)?),
            6 if is_text => Values::LengthTexts(LengthTexts::new(page, at, most)?),
            7 if is_text => Values::PrefixTexts(PrefixTexts::new(page, at, most)?),
            _ => {
                let found = format!("column {:?} is in encoding {encoding}", self.leaf.path);
                return Err(Fault::Unsupported(found));
            }
        };
        Ok(())
    }
}

impl PageHeader {
    fn read(thrift: &mut Thrift) -> Result<Self, Fault> {
        let mut header = PageHeader::default();
        thrift.fields(|thrift, id, kind| {
            match (id, kind) {
                (1, Kind::Integer) => header.kind = thrift.integer()?,
                (2, Kind::Integer) => header.uncompressed_bytes = thrift.size()?,
                (3, Kind::Integer) => header.compressed_bytes = thrift.size()?,
                (4, Kind::Integer) => header.crc = Some(thrift.integer()?),
                (5 | 7, Kind::Struct) => thrift.fields(|thrift, id, kind| {
                    match (id, kind) {
                        (1, Kind::Integer) => header.values = thrift.size()?,
                        (2, Kind::Integer) => header.encoding = thrift.integer()?,
                        (3, Kind::Integer) => header.level_encodings[1] = thrift.integer()?,
                        (4, Kind::Integer) => header.level_encodings[0] = thrift.integer()?,
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?,
                (8, Kind::Struct) => {
                    let (mut level_bytes, mut is_compressed) = ([0; 2], true);
                    thrift.fields(|thrift, id, kind| {
                        match (id, kind) {
                            (1, Kind::Integer) => header.values = thrift.size()?,
                            (4, Kind::Integer) => header.encoding = thrift.integer()?,
                            (5, Kind::Integer) => level_bytes[1] = thrift.size()?,
                            (6, Kind::Integer) => level_bytes[0] = thrift.size()?,
                            (7, kind) => is_compressed = kind != Kind::False,
                            _ => return Ok(false),
                        }
                        // A boolean's value is its type: there is nothing to pass over.
                        Ok(true)
                    })?;
                    header.v2 = Some((level_bytes, is_compressed));
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(header)
    }
}

/// At most `bytes` of a page's content. Room is made as it is filled, and not as it was announced.
fn zstd(compressed: &[u8], bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut room = bytes.min(compressed.len().saturating_mul(16).saturating_add(64 << 10));
    loop {
        match zstd::bulk::decompress(compressed, room) {
            Err(_) if room < bytes => room = bytes.min(room.saturating_mul(8)),
            result => return result,
        }
    }
}

/// A value as it is, lowest byte first; texts behind their length, booleans as bits.
fn plain<'a>(
    page: &'a [u8],
    at: &mut usize,
    bit: &mut u64,
    physical: Physical,
    is_unsigned: bool,
) -> Result<Value<'a>, Fault> {
    if physical == Physical::Boolean {
        let byte = page.get(*at + (*bit / 8) as usize).ok_or(Fault::CutOff)?;
        let value = byte >> (*bit % 8) & 1 == 1;
        *bit += 1;
        return Ok(Value::Boolean(value));
    }
    let size = match physical {
        Physical::Int64 | Physical::Double => 8,
        _ => 4,
    };
    let bytes = page.get(*at..*at + size).ok_or(Fault::CutOff)?;
    *at += size;
    let four = || <[u8; 4]>::try_from(&bytes[..4]).expect("four bytes or more");
    let eight = || <[u8; 8]>::try_from(bytes).expect("eight bytes");
    let integer = |value| Ok(Value::Integer(if is_unsigned { unsigned(value, physical)? } else { value }));
    match physical {
        Physical::Int32 => integer(i32::from_le_bytes(four()).into()),
        Physical::Int64 => integer(i64::from_le_bytes(eight())),
        Physical::Float => Ok(Value::Float(f32::from_le_bytes(four()).into())),
        Physical::Double => Ok(Value::Float(f64::from_le_bytes(eight()))),
        Physical::Boolean | Physical::ByteArray => {
            let count = u32::from_le_bytes(four()) as usize;
            let bytes = page[*at..].get(..count).ok_or(Fault::CutOff)?;
            *at += count;
            Ok(Value::Bytes(bytes))
        }
    }
}

/// An unsigned integer that was stored as a signed one of the same bits.
fn unsigned(value: i64, physical: Physical) -> Result<i64, Fault> {
    match physical {
        Physical::Int32 => Ok(i64::from(value as u32)),
        _ if value < 0 => Err(Fault::Unsupported("an integer of more than 63 bits".to_owned())),
        _ => Ok(value),
    }
}

/// Bits that numbers up to this take.
fn bit_width(most: u16) -> u32 {
    u16::BITS - most.leading_zeros()
}
