//! What can be wrong with a GGUF file or its import, each with the file, the byte offset and the field it is about.

use std::fmt;
use std::path::{Path, PathBuf};

use super::types::{GgmlType, retired};
use super::value::ValueType;

/// A GGUF file that cannot be read or imported: where, and what.
#[derive(Debug)]
pub struct GgufError {
    /// `None` where the bytes did not come from a file ([`parse`](super::parse)).
    pub file: Option<PathBuf>,
    /// Where in the file the field starts; `None` where the problem is not at one place.
    pub offset: Option<u64>,
    /// The field: `tensor count`, `key 3`, `tensor blk.0.attn_q.weight: offset`, ….
    pub field: String,
    pub problem: Box<Problem>,
}

impl GgufError {
    pub(super) fn new(offset: u64, field: impl Into<String>, problem: Problem) -> Self {
        Self { file: None, offset: Some(offset), field: field.into(), problem: Box::new(problem) }
    }

    pub(super) fn unplaced(field: impl Into<String>, problem: Problem) -> Self {
        Self { file: None, offset: None, field: field.into(), problem: Box::new(problem) }
    }

    /// Says which file the bytes came from; the innermost caller who knows wins.
    pub(super) fn in_file(mut self, path: &Path) -> Self {
        self.file.get_or_insert_with(|| path.to_owned());
        self
    }
}

impl std::error::Error for GgufError {
    /// What lies behind the problem; the problem itself is part of the message.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.problem)
    }
}

impl fmt::Display for GgufError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Problem::Open(error) = &*self.problem {
            return error.fmt(f);
        }
        match &self.file {
            Some(file) => write!(f, "{}: ", file.display())?,
            None => f.write_str("GGUF: ")?,
        }
        if let Some(offset) = self.offset {
            write!(f, "byte {offset}: ")?;
        }
        write!(f, "{}: {}", self.field, self.problem)
    }
}

/// What is wrong: expected, found, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    #[error("expected the four bytes \"GGUF\", found {found:?}; this is not a GGUF file")]
    NotGguf { found: String },
    #[error(
        "the version reads {found} in this machine's byte order, so the file is big-endian; convert it to \
         little-endian with llama.cpp's gguf_convert_endian.py"
    )]
    BigEndian { found: u32 },
    #[error("version {found} is not supported, expected 2 or 3; convert the model again with a current llama.cpp")]
    Version { found: u32 },
    #[error("needs {needed} bytes and the file has {available} left; the file is truncated or its lengths are wrong")]
    Truncated { needed: u64, available: u64 },
    #[error("{found} is more than the {limit} that unswag reads; the file is damaged")]
    TooMany { found: u64, limit: u64 },
    #[error("the text is not UTF-8 (first bad byte at {bad_byte} of {bytes}); the file is damaged")]
    NotUtf8 { bad_byte: u64, bytes: u64 },
    #[error("the name {name:?} cannot be used: {why}; the file is damaged or hostile")]
    BadName { name: String, why: &'static str },
    #[error("{name:?} stands twice, first as number {first}; every name must be unique")]
    Duplicate { name: String, first: u64 },
    #[error("value type {found} does not exist, expected 0 to 12; the file is damaged or newer than version 3")]
    UnknownValueType { found: u32 },
    #[error("an array of arrays; the format's readers take arrays of numbers, booleans and strings only")]
    NestedArray,
    #[error("a boolean is stored as {found}, expected 0 or 1; the file is damaged")]
    BadBool { found: u8 },
    #[error("the alignment is {found}, expected a power of two from 1 to {limit}; the file is damaged")]
    Alignment { found: u64, limit: u64 },
    #[error("{found} dimensions, expected at most 4; the file is damaged")]
    Rank { found: u32 },
    #[error("the shape {shape:?} does not fit 64 bits of elements; the file is damaged")]
    ShapeOverflow { shape: Vec<u64> },
    #[error("rows of {row} elements are no whole number of {dtype} blocks of {block}; the file is damaged")]
    PartialBlock { dtype: GgmlType, row: u64, block: u64 },
    #[error("{}", unknown_type(*code))]
    UnknownType { code: u32 },
    #[error("offset {offset} is not a multiple of the file's alignment {alignment}; the file is damaged")]
    Unaligned { offset: u64, alignment: u64 },
    #[error(
        "offset {offset} and size {bytes} end beyond the {available} bytes of the data section; the file is truncated \
         or its offsets are wrong"
    )]
    OutOfRange { offset: u64, bytes: u64, available: u64 },
    #[error("its bytes {start}..{end} overlap those of {other}, {other_start}..{other_end}; the offsets are wrong")]
    Overlap { start: u64, end: u64, other: String, other_start: u64, other_end: u64 },
    #[error("starts at {start} where {expected} is due after {after}; the offsets or the sizes are wrong")]
    Gap { start: u64, expected: u64, after: String },

    #[error("is missing; {next}")]
    MissingKey { next: String },
    #[error("is {found}, expected {expected}; convert the model again with a current llama.cpp")]
    WrongType { expected: &'static str, found: String },
    #[error("is {found}, expected {expected}; the metadata is damaged or for another kind of model")]
    WrongValue { expected: String, found: String },
    #[error(
        "{found:?} cannot be imported; supported are {} (Mistral files say \"llama\")",
        super::SUPPORTED_ARCHITECTURES.join(", ")
    )]
    UnsupportedArchitecture { found: String },
    #[error(
        "is stored as {dtype}, which is not supported; requantise the model to one of {}",
        GgmlType::supported_names()
    )]
    UnsupportedType { dtype: GgmlType },
    #[error("{what} cannot be imported; {next}")]
    Unsupported { what: String, next: String },
    #[error("this file is part {part} of {count}; merge the parts with llama.cpp's `llama-gguf-split --merge` first")]
    Split { part: u64, count: u64 },
    #[error("the tensor is missing, expected shape {expected:?}; the file is incomplete or not a {model_type} model")]
    MissingTensor { expected: Vec<u64>, model_type: &'static str },
    #[error("expected shape {expected:?} from the metadata, found {found:?}; the file is damaged")]
    Shape { expected: Vec<u64>, found: Vec<u64> },
    #[error("a {model_type} model has no such tensor; unswag will not drop weights it does not understand")]
    UnknownTensor { model_type: &'static str },
    #[error("it changed while it was read; let the other program finish and run it again")]
    Changed,
    /// The file cannot be opened at all; the message names it.
    #[error(transparent)]
    Open(crate::Error),
    #[error("cannot read it")]
    Io(#[source] std::io::Error),
}

fn unknown_type(code: u32) -> String {
    match retired(code) {
        Some(name) => format!(
            "element type {code} ({name}) is no longer part of the format; requantise the model with a current llama.cpp"
        ),
        None => format!(
            "element type {code} is unknown; the file is damaged or newer than this reader, which imports {}",
            GgmlType::supported_names()
        ),
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
