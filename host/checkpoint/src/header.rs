//! The header of a safetensors file: eight bytes of length (little-endian), then a JSON object of tensors.
//!
//! The input comes from anyone. It must never be trusted for a size, an offset or an allocation: every number is checked
//! against the file's real length before use, memory stays within a few times the header's own text, and work is linear.
//! Stricter than the `safetensors` crate, which takes duplicate names (the last wins), unknown fields and hostile names.
//! Format: <https://huggingface.co/docs/safetensors/index#format>.

use std::collections::BTreeMap;

use unswag_abi::doc::Dtype;

use crate::{
    table::{Full, TensorInfo, TensorTable},
    text::{Quoted, is_invisible},
};

mod json;

/// Bytes of the length that a file starts with.
pub const LENGTH_BYTES: u64 = 8;
/// Largest header taken, as in the `safetensors` crate.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Most tensors in one file; the largest models in use have some 100,000, over hundreds of files.
pub const MAX_TENSORS: usize = 1 << 20;
/// Most sizes of all shapes together: eight dimensions for each of the most tensors.
pub const MAX_SIZES: usize = 8 * MAX_TENSORS;
/// Most entries of `__metadata__`, and most bytes of their text.
pub const MAX_METADATA_ENTRIES: usize = 1 << 16;
pub const MAX_METADATA_BYTES: usize = 16 << 20;

/// What a sound header says.
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// The tensors; ranges are counted from the start of the file.
    pub tensors: TensorTable,
    /// `__metadata__`: free text by key.
    pub metadata: BTreeMap<String, String>,
    /// Bytes before the first tensor: the length field and the header's text.
    pub bytes: u64,
}

/// Why a header is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    #[error(
        "the file has {file_bytes} bytes, a safetensors file has at least 10; it is empty or cut off: download it again"
    )]
    TooShort { file_bytes: u64 },
    #[error(
        "byte 0: the header's length is {header_bytes} bytes, but the file ends after {file_bytes}; it is cut off or not a \
         safetensors file: download it again"
    )]
    BeyondFile { header_bytes: u64, file_bytes: u64 },
    #[error(
        "byte 0: the header's length is {header_bytes} bytes, at most {MAX_HEADER_BYTES} are allowed; this is not a \
         safetensors file, or a hostile one"
    )]
    TooLong { header_bytes: u64 },
    #[error("byte 8: a header starts with '{{', found byte {found:#04x}; this is not a safetensors file")]
    NotAnObject { found: u8 },
    #[error("byte {offset}: the header is not UTF-8; the file is damaged: download it again")]
    NotUtf8 { offset: u64 },
    #[error("byte {offset}: {message}; the header is damaged: download the file again")]
    Json { offset: u64, message: String },
    #[error("byte {offset}: tensor {tensor}: {fault}")]
    Entry { offset: u64, tensor: Quoted, fault: TensorFault },
    #[error("tensor {tensor}: {fault}")]
    Tensor { tensor: Quoted, fault: TensorFault },
    #[error("__metadata__: {what}; the file is damaged or hostile")]
    Metadata { what: String },
    #[error("byte {offset}: more than {limit} {what}; no model needs so many: the file is hostile")]
    TooMany { offset: u64, what: &'static str, limit: usize },
    #[error(
        "bytes {start}..{end} belong to no tensor; safetensors files have no gaps, so the header is damaged: download the \
         file again"
    )]
    Gap { start: u64, end: u64 },
}

/// What is wrong with one tensor of a header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorFault {
    #[error("this name cannot be used: {why}; the file is hostile")]
    Name { why: &'static str },
    #[error("the name stands twice in the header; which of the two is meant cannot be known, so write the file again")]
    Duplicate,
    #[error("field {field:?} is missing; expected dtype, shape and data_offsets")]
    Missing { field: &'static str },
    #[error("field {field:?} stands twice")]
    Twice { field: &'static str },
    #[error("unknown field {field}; expected dtype, shape and data_offsets")]
    UnknownField { field: Quoted },
    #[error("dtype {dtype} is not supported; supported are {}. Convert the tensor to one of these", supported())]
    Unsupported { dtype: &'static str },
    #[error("dtype {dtype} is unknown; supported are {}", supported())]
    UnknownDtype { dtype: Quoted },
    #[error("more than {} dimensions; the header is damaged or hostile", TensorTable::MAX_RANK)]
    Rank,
    #[error("{dtype} {shape:?} is more than 2^64 bytes; the header is damaged or hostile")]
    Overflow { dtype: Dtype, shape: Vec<u64> },
    #[error("data_offsets [{begin}, {end}] end before they begin; the header is damaged")]
    Reversed { begin: u64, end: u64 },
    #[error(
        "data_offsets [{begin}, {end}] reach past the {data_bytes} bytes of data in the file, which is cut off or damaged: \
         download it again"
    )]
    OutOfRange { begin: u64, end: u64, data_bytes: u64 },
    #[error("{dtype} {shape:?} takes {expected_bytes} bytes, but its data_offsets [{begin}, {end}] hold {}", end - begin)]
    Size { dtype: Dtype, shape: Vec<u64>, expected_bytes: u64, begin: u64, end: u64 },
    #[error("its bytes, from byte {start} of the file, lie over those of tensor {other}, which end at {other_end}")]
    Overlap { start: u64, other: Quoted, other_end: u64 },
}

fn supported() -> String {
    Dtype::ALL.map(Dtype::name).join(", ")
}

/// Dtypes that the format knows and this program does not read, as the `safetensors` crate 0.8 spells them.
const UNSUPPORTED: [&str; 7] = ["F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"];

/// The length of the header's text, from the first bytes of a file of `file_bytes` bytes.
///
/// # Errors
/// The file is too short, or the length is beyond the file or beyond [`MAX_HEADER_BYTES`].
pub fn header_length(start_of_file: &[u8], file_bytes: u64) -> Result<u64, HeaderError> {
    let Some(length) = start_of_file.first_chunk::<8>().filter(|_| file_bytes >= LENGTH_BYTES + 2) else {
        return Err(HeaderError::TooShort { file_bytes });
    };
    let header_bytes = u64::from_le_bytes(*length);
    if header_bytes > MAX_HEADER_BYTES {
        return Err(HeaderError::TooLong { header_bytes });
    }
    if header_bytes > file_bytes - LENGTH_BYTES {
        return Err(HeaderError::BeyondFile { header_bytes, file_bytes });
    }
    Ok(header_bytes)
}

/// Reads and checks the header of a safetensors file of `file_bytes` bytes, of which `start_of_file` holds at least the
/// length field and the header's text.
///
/// # Errors
/// Whatever is not a sound header, with its byte or its tensor; see [`HeaderError`].
///
/// ```
/// let text = br#"{"w":{"dtype":"F16","shape":[2,1],"data_offsets":[0,4]}}"#;
/// let data = [0x00, 0x3c, 0x00, 0x40]; // 1 and 2
/// let file = [&(text.len() as u64).to_le_bytes(), &text[..], &data].concat();
/// let header = unswag_checkpoint::parse_header(&file, file.len() as u64)?;
/// let w = header.tensors.get("w").expect("the header lists w");
/// assert_eq!((w.shape, w.range), ([2, 1].as_slice(), 64..68));
/// # Ok::<(), unswag_checkpoint::HeaderError>(())
/// ```
pub fn parse_header(start_of_file: &[u8], file_bytes: u64) -> Result<Header, HeaderError> {
    let header_bytes = header_length(start_of_file, file_bytes)?;
    let text_end = (LENGTH_BYTES + header_bytes) as usize;
    let Some(text) = start_of_file.get(LENGTH_BYTES as usize..text_end) else {
        return Err(HeaderError::BeyondFile { header_bytes, file_bytes: start_of_file.len() as u64 });
    };
    match text.first() {
        Some(b'{') => {}
        found => return Err(HeaderError::NotAnObject { found: found.copied().unwrap_or(0) }),
    }
    let text = std::str::from_utf8(text)
        .map_err(|error| HeaderError::NotUtf8 { offset: LENGTH_BYTES + error.valid_up_to() as u64 })?;

    let data_start = LENGTH_BYTES + header_bytes;
    let mut header = json::read(text, data_start, file_bytes)?;
    header.bytes = data_start;
    header
        .tensors
        .index()
        .map_err(|name| HeaderError::Tensor { tensor: Quoted::new(&name), fault: TensorFault::Duplicate })?;
    check_layout(&header.tensors, data_start, file_bytes)?;
    Ok(header)
}

/// The rows, sorted by offset, must follow each other without overlap or gap up to the end of the file.
fn check_layout(tensors: &TensorTable, data_start: u64, file_bytes: u64) -> Result<(), HeaderError> {
    let mut cursor = data_start;
    let mut before = None;
    for row in tensors.rows() {
        if row.start < cursor {
            let other = before.map_or("", |other| tensors.name(other));
            return Err(HeaderError::Tensor {
                tensor: tensors.name(row).into(),
                fault: TensorFault::Overlap { start: row.start, other: other.into(), other_end: cursor },
            });
        }
        if row.start > cursor {
            return Err(HeaderError::Gap { start: cursor, end: row.start });
        }
        cursor = row.end;
        before = Some(row);
    }
    if cursor < file_bytes {
        return Err(HeaderError::Gap { start: cursor, end: file_bytes });
    }
    Ok(())
}

/// Names are not paths, but they end in messages, in index files and in the records of other tools: what could mislead
/// there is refused.
///
/// # Errors
/// The name is empty, too long, holds control or invisible characters, or looks like a path out of a folder.
pub fn check_name(name: &str) -> Result<(), TensorFault> {
    fault_of_name(name).map_or(Ok(()), |why| Err(TensorFault::Name { why }))
}

/// Why a name of a tensor, in any format, cannot be used, or `None` where it can.
pub(crate) fn fault_of_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > TensorTable::MAX_NAME_BYTES {
        Some("it is longer than 4096 bytes")
    } else if name.chars().any(is_invisible) {
        Some("it holds control or invisible characters")
    } else if name.starts_with(['/', '\\']) {
        Some("it looks like an absolute path")
    } else if name.split(['/', '\\']).any(|part| part == "..") {
        Some("it looks like a path out of its folder")
    } else {
        None
    }
}

/// Checks one tensor's numbers against each other and the file; returns its bytes as counted from the file's start.
fn check_tensor(
    dtype: Dtype,
    shape: &[u64],
    [begin, end]: [u64; 2],
    data_start: u64,
    file_bytes: u64,
) -> Result<std::ops::Range<u64>, TensorFault> {
    if end < begin {
        return Err(TensorFault::Reversed { begin, end });
    }
    let data_bytes = file_bytes - data_start;
    if end > data_bytes {
        return Err(TensorFault::OutOfRange { begin, end, data_bytes });
    }
    // As the `safetensors` crate multiplies: a product that overflows is refused even where a later size is 0.
    let expected = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
    let Some(expected_bytes) =
        expected.and_then(|elements| elements.checked_mul(8 * dtype.bytes())).map(|bits| bits / 8)
    else {
        return Err(TensorFault::Overflow { dtype, shape: shape.to_vec() });
    };
    if expected_bytes != end - begin {
        return Err(TensorFault::Size { dtype, shape: shape.to_vec(), expected_bytes, begin, end });
    }
    Ok(data_start + begin..data_start + end)
}

impl Header {
    /// Tensors in file order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorInfo<'_>> + Clone {
        self.tensors.iter()
    }
}

impl From<Full> for &'static str {
    fn from(full: Full) -> Self {
        match full {
            Full::Names => "bytes of tensor names",
            Full::Sizes => "sizes of shapes",
        }
    }
}
