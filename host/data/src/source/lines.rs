//! JSON lines: one object a line. A line that is too long, or not UTF-8, is a fault of its row; the next line is read as if it
//! were sound.

use super::{RawRow, ReadRows, RowMark, input::Input};
use crate::error::{Error, RowFault};

pub(crate) struct Lines {
    input: Input,
    buffer: Vec<u8>,
    limit_bytes: usize,
}

impl Lines {
    pub fn new(input: Input, limit_bytes: usize) -> Self {
        Lines { input, buffer: Vec::new(), limit_bytes }
    }

    /// Reads a line into the buffer: its bytes, of which at most the limit of a row is stored.
    fn read_line(&mut self) -> Result<u64, Error> {
        self.buffer.clear();
        let mut bytes = 0;
        loop {
            let next = self.input.peek()?;
            let (count, is_end) = match next.iter().position(|byte| *byte == b'\n') {
                Some(position) => (position + 1, true),
                None => (next.len(), next.is_empty()),
            };
            let room = (self.limit_bytes + 1).saturating_sub(self.buffer.len());
            self.buffer.extend_from_slice(&next[..count.min(room)]);
            self.input.pass(count);
            bytes += count as u64;
            if is_end {
                return Ok(bytes);
            }
        }
    }
}

impl ReadRows for Lines {
    fn next(&mut self) -> Result<Option<RawRow>, Error> {
        loop {
            let (mark, place) = (self.input.mark(), self.input.place());
            if self.read_line()? == 0 {
                return Ok(None);
            }
            if self.buffer.len() > self.limit_bytes {
                self.buffer = Vec::new();
                let text = Err(RowFault::TooLongRow { limit_bytes: self.limit_bytes });
                return Ok(Some(RawRow { mark, place, text }));
            }
            let text = match std::str::from_utf8(&self.buffer) {
                Ok(text) => text,
                Err(error) => {
                    let byte = mark.offset + error.valid_up_to() as u64;
                    return Ok(Some(RawRow { mark, place, text: Err(RowFault::Utf8 { byte }) }));
                }
            };
            if !text.trim().is_empty() {
                return Ok(Some(RawRow { mark, place, text: Ok(text.to_owned()) }));
            }
        }
    }

    fn mark(&self) -> RowMark {
        self.input.mark()
    }
}
