//! CSV and TSV: a header that names the columns, then rows; fields may be quoted, and hold line ends then.
//!
//! `csv-core` reads the format itself. What it leaves open is decided here: a row has as many fields as the header, a quote
//! that is opened is closed, and a row has a limit.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::{RawRow, ReadRows, RowMark, input::Input};
use crate::error::{Error, Place, RowFault};

/// Columns of a file, more than any data set has.
const MOST_COLUMNS: usize = 4096;
/// A record's bytes at first; the limit of a row is more.
const FIRST_BYTES: usize = 4 << 10;

/// The delimiter of a file, from the start of it: the first of `usual`, `;` and a tab that is in the header, for programs
/// write `;` where a comma is the decimal point.
pub(crate) fn find_delimiter(start: &[u8], usual: u8) -> u8 {
    let header = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    [usual, b';', b'\t'].into_iter().find(|delimiter| header.contains(delimiter)).unwrap_or(usual)
}

/// A record as `csv-core` leaves it: the fields' bytes one after another, and where each ends.
struct Records {
    input: Input,
    machine: Reader,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    limit_bytes: usize,
}

/// What was read.
enum Record {
    /// A record of this many fields.
    Fields(usize),
    TooLong,
    End,
}

impl Records {
    fn new(input: Input, delimiter: u8, limit_bytes: usize) -> Self {
        let machine = ReaderBuilder::new().delimiter(delimiter).build();
        Records { input, machine, bytes: vec![0; FIRST_BYTES], ends: vec![0; 64], limit_bytes }
    }

    /// The next record, the place of its first line and the mark that it begins at.
    fn next(&mut self) -> Result<(RowMark, Place, Record), Error> {
        self.pass_line_ends()?;
        let (mark, place) = (self.input.mark(), self.input.place());
        // Of the output that is filled; a record that is too long is read to its end, and forgotten.
        let (mut bytes, mut ends, mut is_too_long) = (0, 0, false);
        loop {
            let next = self.input.peek()?;
            // At the end, a line end closes the last record. Where it is a part of a field, the field's quote is open.
            let is_at_end = next.is_empty();
            let next = if is_at_end { b"\n" } else { next };
            let (result, read, written, found) =
                self.machine.read_record(next, &mut self.bytes[bytes..], &mut self.ends[ends..]);
            if !is_at_end {
                self.input.pass(read);
            }
            (bytes, ends) = (bytes + written, ends + found);
            match result {
                ReadRecordResult::InputEmpty if is_at_end && written > 0 => {
                    let message = "a quote is opened and not closed before the file ends";
                    return Err(Error::Row { place, fault: RowFault::Delimited { message: message.to_owned() } });
                }
                ReadRecordResult::InputEmpty if is_at_end => return Ok((mark, place, Record::End)),
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if self.bytes.len() >= self.limit_bytes => {
                    (is_too_long, bytes) = (true, 0)
                }
                ReadRecordResult::OutputFull => self.bytes.resize((self.bytes.len() * 2).min(self.limit_bytes), 0),
                ReadRecordResult::OutputEndsFull if self.ends.len() >= MOST_COLUMNS => (is_too_long, ends) = (true, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record if is_too_long => {
                    self.bytes = vec![0; FIRST_BYTES];
                    return Ok((mark, place, Record::TooLong));
                }
                ReadRecordResult::Record => return Ok((mark, place, Record::Fields(ends))),
                ReadRecordResult::End => return Ok((mark, place, Record::End)),
            }
        }
    }

    /// Goes over empty lines, so that a record's mark and line are those of its first byte.
    fn pass_line_ends(&mut self) -> Result<(), Error> {
        loop {
            let next = self.input.peek()?;
            let count = next.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            let goes_on = count > 0 && count == next.len();
            self.input.pass(count);
            if !goes_on {
                return Ok(());
            }
        }
    }

    fn field(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }
}

/// The names of the columns, and where the rows begin.
pub(crate) struct Header {
    names: Vec<String>,
    delimiter: u8,
    end: RowMark,
}

impl Header {
    /// # Errors
    /// There is no header, it is not text, or it names a column twice.
    pub fn read(input: Input, delimiter: u8, limit_bytes: usize) -> Result<Self, Error> {
        let mut records = Records::new(input, delimiter, limit_bytes);
        let (mark, place, record) = records.next()?;
        let unsound = |message: &str| Error::Row {
            place: place.clone(),
            fault: RowFault::Delimited { message: message.to_owned() },
        };
        let count = match record {
            Record::Fields(count) => count,
            Record::TooLong => {
                return Err(unsound(
                    "expected a line that names the columns, and found one that is longer than a row may be",
                ));
            }
            Record::End => 0,
        };
        let mut names: Vec<String> = Vec::with_capacity(count);
        for index in 0..count {
            let name = std::str::from_utf8(records.field(index))
                .map_err(|_| Error::Utf8 { place: place.clone(), byte: mark.offset })?;
            let name = name.trim();
            if !name.is_empty() && names.iter().any(|other| other == name) {
                return Err(unsound(&format!("two columns are called {name:?}; rename one")));
            }
            names.push(name.to_owned());
        }
        Ok(Header { names, delimiter, end: records.input.mark() })
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// A mark, or where the first row begins if it is before that.
    pub fn first_row(&self, mark: RowMark) -> RowMark {
        if mark.offset < self.end.offset { self.end } else { mark }
    }
}

pub(crate) struct Delimited {
    records: Records,
    header: Header,
}

impl Delimited {
    pub fn new(input: Input, header: Header, limit_bytes: usize) -> Self {
        Delimited { records: Records::new(input, header.delimiter, limit_bytes), header }
    }

    /// The record as a JSON object, each field a text.
    fn object(&self, count: usize) -> Result<String, RowFault> {
        let names = &self.header.names;
        if count != names.len() {
            let message = format!(
                "expected {} fields, as the header has, found {count}; quote a field that holds the delimiter or a line end",
                names.len()
            );
            return Err(RowFault::Delimited { message });
        }
        let mut object = String::from("{");
        for (index, name) in names.iter().enumerate() {
            let field = std::str::from_utf8(self.records.field(index)).map_err(|_| RowFault::Field {
                field: name.clone(),
                what: "not UTF-8; convert the file, for example with iconv -t UTF-8".to_owned(),
            })?;
            object.push_str(if index == 0 { "" } else { "," });
            push_json_text(&mut object, name);
            object.push(':');
            push_json_text(&mut object, field);
        }
        object.push('}');
        Ok(object)
    }
}

/// Writes a text as JSON has it.
pub(super) fn push_json_text(out: &mut String, text: &str) {
    out.push_str(&serde_json::to_string(text).expect("a text is written whatever is in it"));
}

impl ReadRows for Delimited {
    fn next(&mut self) -> Result<Option<RawRow>, Error> {
        let (mark, place, record) = self.records.next()?;
        let text = match record {
            Record::End => return Ok(None),
            Record::TooLong => Err(RowFault::TooLongRow { limit_bytes: self.records.limit_bytes }),
            Record::Fields(count) => self.object(count),
        };
        Ok(Some(RawRow { mark, place, text }))
    }

    fn mark(&self) -> RowMark {
        self.records.input.mark()
    }
}
