//! One JSON list of objects, such as `json.dump(rows, file)` writes, on one line or on many.
//!
//! The list is never parsed at once: the end of each element is found by counting brackets outside of texts, and the element's
//! text is what is parsed. What is between elements must be one comma.

use super::{RawRow, ReadRows, RowMark, input::Input};
use crate::error::{Error, RowFault};

pub(crate) struct JsonList {
    input: Input,
    /// After the last element, before what separates it from the next.
    mark: RowMark,
    is_over: bool,
    limit_bytes: usize,
}

impl JsonList {
    /// Starts at a mark: the beginning of the file, or after an element.
    pub fn new(input: Input, mark: RowMark, limit_bytes: usize) -> Self {
        JsonList { input, mark, is_over: false, limit_bytes }
    }

    fn unsound(&self, message: impl Into<String>) -> Error {
        Error::Row { place: self.input.place(), fault: RowFault::Json { message: message.into() } }
    }

    /// The next byte that is no white space.
    fn next_byte(&mut self) -> Result<Option<u8>, Error> {
        loop {
            let next = self.input.peek()?;
            let Some(position) = next.iter().position(|byte| !is_space(*byte)) else {
                let count = next.len();
                if count == 0 {
                    return Ok(None);
                }
                self.input.pass(count);
                continue;
            };
            let byte = next[position];
            self.input.pass(position);
            return Ok(Some(byte));
        }
    }

    /// Goes to the next element; false at the end of the list.
    fn go_to_element(&mut self, is_first: bool) -> Result<bool, Error> {
        let separator = if is_first { b'[' } else { b',' };
        match self.next_byte()? {
            Some(byte) if byte == separator => self.input.pass(1),
            Some(b']') if !is_first => return self.end_list(),
            Some(_) if is_first => return Err(self.unsound("expected \"[\" at the start of the list")),
            Some(_) => return Err(self.unsound("expected \",\" or \"]\" after an element of the list")),
            None => return Err(self.cut_off()),
        }
        match self.next_byte()? {
            Some(b']') if is_first => self.end_list(),
            Some(b']' | b',') => Err(self.unsound("expected an element after a comma")),
            Some(_) => Ok(true),
            None => Err(self.cut_off()),
        }
    }

    fn end_list(&mut self) -> Result<bool, Error> {
        self.input.pass(1);
        match self.next_byte()? {
            None => Ok(false),
            Some(_) => Err(self.unsound("expected nothing after the list's \"]\"")),
        }
    }

    fn cut_off(&self) -> Error {
        self.unsound("the file ends before the list's \"]\": it was cut, or is still being written")
    }

    /// The text of the element that comes next; `None` where it is longer than a row may be.
    fn element(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut text = Vec::new();
        let mut bytes = 0;
        let mut scan = Scan::default();
        loop {
            let next = self.input.peek()?;
            if next.is_empty() {
                return Err(self.cut_off());
            }
            let end = next.iter().position(|byte| scan.ends_before(*byte));
            let count = end.unwrap_or(next.len());
            bytes += count;
            if bytes <= self.limit_bytes {
                text.extend_from_slice(&next[..count]);
            } else {
                text = Vec::new();
            }
            self.input.pass(count);
            if end.is_some() {
                return Ok((bytes <= self.limit_bytes).then_some(text));
            }
        }
    }
}

impl ReadRows for JsonList {
    fn next(&mut self) -> Result<Option<RawRow>, Error> {
        let mark = self.mark;
        if self.is_over || !self.go_to_element(mark.offset == 0)? {
            self.is_over = true;
            return Ok(None);
        }
        let (place, start) = (self.input.place(), self.input.mark().offset);
        let text = match self.element()? {
            None => Err(RowFault::TooLongRow { limit_bytes: self.limit_bytes }),
            Some(text) => String::from_utf8(text)
                .map_err(|error| RowFault::Utf8 { byte: start + error.utf8_error().valid_up_to() as u64 }),
        };
        self.mark = self.input.mark();
        Ok(Some(RawRow { mark, place, text }))
    }

    fn mark(&self) -> RowMark {
        self.mark
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Where in an element a byte stands. It decides only where the element ends; what is wrong inside, its parser says.
#[derive(Default)]
struct Scan {
    depth: usize,
    in_text: bool,
    is_escaped: bool,
    /// The element's brackets were closed, or its text was.
    is_complete: bool,
}

impl Scan {
    /// Whether the element ended before this byte.
    fn ends_before(&mut self, byte: u8) -> bool {
        if self.is_complete {
            return true;
        }
        if self.in_text {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => {
                    self.in_text = false;
                    self.is_complete = self.depth == 0;
                }
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_text = true,
            b'{' | b'[' => self.depth += 1,
            // Closes the list itself: the element was a number or a word.
            b']' | b'}' if self.depth == 0 => return true,
            b']' | b'}' => {
                self.depth -= 1;
                self.is_complete = self.depth == 0;
            }
            b',' if self.depth == 0 => return true,
            _ if self.depth == 0 && is_space(byte) => return true,
            _ => {}
        }
        false
    }
}
