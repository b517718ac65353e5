//! Lines of a JSONL file: numbered, bounded, and read again from any of them.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    path::PathBuf,
};

use serde_json::{Map, Value};

use crate::{
    error::{Error, Place, RowFault},
    files::DataFile,
};

/// Longest line that is read: a row is held in memory.
const MAX_LINE_BYTES: usize = 64 << 20;

pub(crate) struct Lines {
    reader: BufReader<File>,
    path: PathBuf,
    /// Start and number of the next line.
    offset: u64,
    line: u64,
    buffer: Vec<u8>,
}

/// A row: a line that holds something.
#[derive(Debug)]
pub(crate) struct RawRow {
    pub offset: u64,
    pub place: Place,
    /// The line, or what is wrong with it.
    pub text: Result<String, RowFault>,
}

impl Lines {
    /// Starts at the line numbered `line`, whose first byte is `offset`.
    pub fn open(file: &DataFile, offset: u64, line: u64) -> Result<Self, Error> {
        let mut opened = file.open()?;
        opened.seek(SeekFrom::Start(offset)).map_err(|source| Error::io(&file.path, "read it", source))?;
        Ok(Lines { reader: BufReader::new(opened), path: file.path.clone(), offset, line, buffer: Vec::new() })
    }

    /// The next row; lines of white space are passed over. `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read, or is not UTF-8.
    pub fn next(&mut self) -> Result<Option<RawRow>, Error> {
        loop {
            let (offset, place) = (self.offset, Place { path: self.path.clone(), line: self.line });
            self.buffer.clear();
            let limit = MAX_LINE_BYTES as u64 + 1;
            let read = (&mut self.reader).take(limit).read_until(b'\n', &mut self.buffer);
            let mut count = read.map_err(|source| Error::io(&self.path, "read it", source))? as u64;
            if count == 0 {
                return Ok(None);
            }
            let is_too_long = self.buffer.len() > MAX_LINE_BYTES;
            if is_too_long && self.buffer.last() != Some(&b'\n') {
                count += self.pass_over_line()?;
            }
            self.offset += count;
            self.line += 1;
            if is_too_long {
                self.buffer = Vec::new();
                let text = Err(RowFault::TooLongLine { limit_bytes: MAX_LINE_BYTES });
                return Ok(Some(RawRow { offset, place, text }));
            }
            let text = match std::str::from_utf8(&self.buffer) {
                Ok(text) => text,
                Err(error) => return Err(Error::Utf8 { place, byte: offset + error.valid_up_to() as u64 }),
            };
            let text = if offset == 0 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
            if text.trim().is_empty() {
                continue;
            }
            return Ok(Some(RawRow { offset, place, text: Ok(text.to_owned()) }));
        }
    }

    fn pass_over_line(&mut self) -> Result<u64, Error> {
        let mut passed = 0;
        loop {
            let bytes = self.reader.fill_buf().map_err(|source| Error::io(&self.path, "read it", source))?;
            let (count, is_end) = match bytes.iter().position(|byte| *byte == b'\n') {
                Some(position) => (position + 1, true),
                None => (bytes.len(), bytes.is_empty()),
            };
            self.reader.consume(count);
            passed += count as u64;
            if is_end {
                return Ok(passed);
            }
        }
    }

    /// Start and number of the next line.
    pub fn at(&self) -> (u64, u64) {
        (self.offset, self.line)
    }
}

/// What a value is, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The text in a field of a row.
pub(crate) fn text_field(row: &str, field: &str) -> Result<String, RowFault> {
    let mut object: Map<String, Value> = match serde_json::from_str(row) {
        Ok(Value::Object(object)) => object,
        Ok(other) => return Err(RowFault::NotAnObject { found: kind(&other) }),
        Err(error) => return Err(RowFault::Json { message: error.to_string() }),
    };
    match object.get_mut(field).map(Value::take) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(RowFault::FieldKind { field: field.to_owned(), expected: "a text", found: kind(&other) }),
        None => Err(RowFault::NoField {
            field: field.to_owned(),
            expected: "the row's text",
            has: object.keys().cloned().collect(),
        }),
    }
}
