//! What a rendering may take, and what it fails with.

use std::sync::Arc;

/// Why a template cannot be read, or a rendering fails: in words, with the template's line where it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Error {
    pub message: String,
    pub line: Option<u32>,
}

impl Error {
    pub fn new(message: impl Into<String>) -> Self {
        Error { message: message.into(), line: None }
    }

    /// The same, at this line where none is known yet.
    pub fn at(mut self, line: u32) -> Self {
        self.line.get_or_insert(line);
        self
    }
}

impl From<super::value::TooDeep> for Error {
    fn from(_: super::value::TooDeep) -> Self {
        Error::new(format!("nested too deeply: a value of more than {} levels", super::value::MAX_DEPTH))
    }
}

/// Most that one rendering may take. Both are counted, not measured, so that the same template always has the same result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Operations: an expression, a compared item, or [`BYTES_PER_STEP`] bytes that are read or written.
    pub steps: u64,
    /// Bytes of all texts, lists and mappings that the template makes, those that it drops included.
    pub bytes: u64,
    /// Bytes of the text that it writes.
    pub output_bytes: u64,
}

/// Bytes of text that count as one step.
const BYTES_PER_STEP: u64 = 64;

impl Limits {
    /// For variables of this size. A template of a conversation of ten thousand turns takes about one million steps.
    pub fn for_input(bytes: usize) -> Self {
        let bytes = bytes as u64;
        Limits { steps: 10_000_000 + bytes, bytes: (64 << 20) + 4 * bytes, output_bytes: (16 << 20) + 2 * bytes }
    }
}

/// What is left of the limits.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    steps: u64,
    bytes: u64,
}

impl Budget {
    pub fn new(limits: Limits) -> Self {
        Budget { limits, steps: 0, bytes: 0 }
    }

    /// Counts operations.
    pub fn steps(&mut self, count: usize) -> Result<(), Error> {
        self.steps = self.steps.saturating_add(count as u64);
        if self.steps > self.limits.steps {
            return Err(Error::new(format!("the template takes more than {} steps; it may loop", self.limits.steps)));
        }
        Ok(())
    }

    /// Counts bytes that an operation reads.
    pub fn read(&mut self, bytes: usize) -> Result<(), Error> {
        self.steps(bytes / BYTES_PER_STEP as usize)
    }

    /// Counts bytes that a value is about to take.
    pub fn take(&mut self, bytes: usize) -> Result<(), Error> {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.bytes > self.limits.bytes {
            return Err(Error::new(format!("the template makes more than {} bytes", self.limits.bytes)));
        }
        self.read(bytes)
    }

    /// Counts items that a list is about to have.
    pub fn items(&mut self, count: usize) -> Result<(), Error> {
        self.take(count.saturating_mul(size_of::<super::value::Value>()))?;
        self.steps(count / 8)
    }

    /// Refuses a text of more than this.
    pub fn output(&self, bytes: usize) -> Result<(), Error> {
        if bytes as u64 > self.limits.output_bytes {
            return Err(Error::new(format!("the template writes more than {} bytes", self.limits.output_bytes)));
        }
        Ok(())
    }

    /// A text that counts.
    pub fn text(&mut self, text: impl Into<Arc<str>> + AsRef<str>) -> Result<super::value::Value, Error> {
        self.take(text.as_ref().len())?;
        Ok(super::value::Value::Str(text.into()))
    }
}
