//! Typed look-ups in a GGUF's metadata: each failure names the key, where it stands and what was expected.

use super::error::{GgufError, Problem};
use super::reader::Gguf;
use super::value::{Array, Value, ValueType};

/// Largest size a model may state: dimensions beyond are damage, and products of two of these fit 64 bits.
const MAX_SIZE: u64 = (1 << 31) - 1;

/// The metadata of one file. Keys starting with `.` are the architecture's own: `.block_count` is `llama.block_count`.
#[derive(Clone, Copy)]
pub(super) struct Metadata<'g, 'a> {
    pub gguf: &'g Gguf<'a>,
    pub architecture: &'a str,
}

impl<'g, 'a> Metadata<'g, 'a> {
    pub fn of(gguf: &'g Gguf<'a>) -> Result<Self, GgufError> {
        let unnamed = Self { gguf, architecture: "" };
        let architecture = unnamed.text("general.architecture")?.ok_or_else(|| {
            unnamed.missing("general.architecture", "it says which model this is; the file is no model or is damaged")
        })?;
        Ok(Self { gguf, architecture })
    }

    fn full(&self, key: &str) -> String {
        if key.starts_with('.') { format!("{}{key}", self.architecture) } else { key.to_owned() }
    }

    pub fn get(&self, key: &str) -> Option<&'g Value<'a>> {
        self.gguf.get(&self.full(key))
    }

    /// An error about a key.
    pub fn error(&self, key: &str, problem: Problem) -> GgufError {
        let key = self.full(key);
        match self.gguf.offset_of(&key) {
            Some(offset) => GgufError::new(offset, format!("key {key}"), problem),
            None => GgufError::unplaced(format!("key {key}"), problem),
        }
    }

    pub fn missing(&self, key: &str, next: &str) -> GgufError {
        self.error(key, Problem::MissingKey { next: next.to_owned() })
    }

    pub fn wrong(&self, key: &str, expected: impl Into<String>, found: impl ToString) -> GgufError {
        self.error(key, Problem::WrongValue { expected: expected.into(), found: found.to_string() })
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&'g Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || {
            let found = format!("{} {value}", value.value_type());
            self.error(key, Problem::WrongType { expected, found })
        };
        read(value).map(Some).ok_or_else(wrong)
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.typed(key, "a string", Value::as_str)
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a boolean", Value::as_bool)
    }

    /// A finite f32.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        let value = self.typed(key, "an f32", Value::as_f32)?;
        match value {
            Some(value) if !value.is_finite() => Err(self.wrong(key, "a finite number", value)),
            _ => Ok(value),
        }
    }

    /// An integer that is not negative.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "an integer that is not negative", Value::as_u64)
    }

    /// A size from 1 to 2^31-1. Some writers store one per layer; that is read where all are the same.
    pub fn size(&self, key: &str) -> Result<Option<u64>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let size = match value.as_array().and_then(|array| array.integers()) {
            None => self.u64(key)?,
            Some(mut each) => {
                let first = each.next();
                if let Some(other) = each.find(|other| Some(*other) != first) {
                    let found = format!("{} in one layer and {other} in another", first.unwrap_or_default());
                    return Err(self.wrong(key, "the same size in every layer", found));
                }
                first.and_then(|first| u64::try_from(first).ok())
            }
        };
        match size {
            Some(size) if (1..=MAX_SIZE).contains(&size) => Ok(Some(size)),
            Some(size) => Err(self.wrong(key, format!("1 to {MAX_SIZE}"), size)),
            None => Err(self.wrong(key, format!("1 to {MAX_SIZE}"), value)),
        }
    }

    /// As [`Self::size`], where the file must have it.
    pub fn needed_size(&self, key: &str) -> Result<u64, GgufError> {
        self.size(key)?.ok_or_else(|| self.missing(key, "convert the model again with a current llama.cpp"))
    }

    pub fn array(&self, key: &str, element: ValueType) -> Result<Option<Array<'a>>, GgufError> {
        let Some(array) = self.typed(key, "an array", Value::as_array)? else { return Ok(None) };
        // Some writers store token types as u32 and some as i32.
        let same = array.element() == element
            || (element == ValueType::I32 && array.integers().is_some())
            || (array.is_empty() && element == ValueType::String);
        if !same {
            let found = Value::Array(array).to_string();
            return Err(self.error(key, Problem::WrongType { expected: element.name(), found }));
        }
        Ok(Some(array))
    }
}
