//! The header: metadata and the list of tensors, checked in full before anything uses it.
//!
//! The bytes may be hostile. No count, length or offset in them is used before it has been compared with what is there,
//! and nothing is allocated by a count: tables grow as entries are found, and each entry costs bytes of the file.

use super::error::{GgufError, Problem};
use super::types::GgmlType;
use super::value::{Array, Value, ValueType};
use crate::header::fault_of_name;

/// Longest header that is read: a vocabulary of 262,144 tokens with its merges takes about 20 MiB.
pub const MAX_HEADER_BYTES: u64 = 100 << 20;
/// Most metadata keys; models have fewer than a hundred.
pub const MAX_KEYS: u64 = 1 << 16;
/// Most tensors; the largest mixtures of experts have some thousands.
pub const MAX_TENSORS: u64 = 1 << 20;
/// Largest alignment of the data section; 32 is the default.
const MAX_ALIGNMENT: u64 = 1 << 20;
const DEFAULT_ALIGNMENT: u64 = 32;
/// Longest name of a key (the format's own limit) or a tensor.
const MAX_NAME_BYTES: u64 = 65_535;

/// The header of a GGUF file, borrowing its bytes.
#[derive(Clone, Debug)]
pub struct Gguf<'a> {
    version: u32,
    keys: Vec<Key<'a>>,
    tensors: Vec<TensorInfo<'a>>,
    /// Indices into `tensors`, sorted by name.
    by_name: Vec<u32>,
    alignment: u64,
    header_bytes: u64,
    data_start: u64,
    data_end: u64,
    file_bytes: u64,
}

/// A metadata entry and where it stands in the file.
#[derive(Clone, Copy, Debug)]
struct Key<'a> {
    name: &'a str,
    value: Value<'a>,
    at: u64,
}

/// One tensor's name, shape, type and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    pub name: &'a str,
    pub dtype: GgmlType,
    /// Where its bytes start in the file.
    pub start: u64,
    /// Its size in the file.
    pub bytes: u64,
    /// Where its entry stands in the header.
    pub listed_at: u64,
    dims: [u64; 4],
    rank: u8,
}

impl TensorInfo<'_> {
    /// Sizes, slowest first as PyTorch and safetensors say them: `[out, in]`. The file has them the other way round.
    pub fn shape(&self) -> Vec<u64> {
        self.dims[..usize::from(self.rank)].iter().rev().copied().collect()
    }

    /// Number of elements; checked to fit when the file was parsed.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

/// Reads the header of a GGUF file that is in memory as a whole.
///
/// # Errors
/// Anything that is not a well-formed little-endian GGUF of version 2 or 3 whose tensors lie in the file, aligned, one
/// after the other, with unique names.
pub fn parse(bytes: &[u8]) -> Result<Gguf<'_>, GgufError> {
    match parse_prefix(bytes, bytes.len() as u64) {
        Ok(gguf) => Ok(gguf),
        Err(Stop::Bad(error)) => Err(error),
        Err(Stop::NeedMore) => unreachable!("the prefix is the whole file"),
    }
}

/// Why the header could not be read from a prefix of the file.
pub(super) enum Stop {
    /// The file goes on, and more of it is needed.
    NeedMore,
    Bad(GgufError),
}

impl From<GgufError> for Stop {
    fn from(error: GgufError) -> Self {
        Stop::Bad(error)
    }
}

/// As [`parse`], from the first bytes of a file of `file_bytes` bytes.
pub(super) fn parse_prefix(prefix: &[u8], file_bytes: u64) -> Result<Gguf<'_>, Stop> {
    let mut cursor = Cursor { prefix, at: 0, file_bytes };

    let magic = cursor.take(4, || "magic".into())?;
    if magic != b"GGUF" {
        let found = magic.escape_ascii().to_string();
        return Err(GgufError::new(0, "magic", Problem::NotGguf { found }).into());
    }
    let version = cursor.u32(|| "version".into())?;
    match version {
        2 | 3 => {}
        // A small number in the other byte order.
        found if found.swap_bytes() < 1 << 16 => {
            return Err(GgufError::new(4, "version", Problem::BigEndian { found }).into());
        }
        found => return Err(GgufError::new(4, "version", Problem::Version { found }).into()),
    }
    let tensor_count = cursor.count(MAX_TENSORS, || "tensor count".into())?;
    let key_count = cursor.count(MAX_KEYS, || "key count".into())?;

    let mut keys = Vec::new();
    for index in 0..key_count {
        let at = cursor.at;
        let name = cursor.name(|| format!("key {index}"))?;
        let field = || format!("key {}", shown(name));
        let type_at = cursor.at;
        let code = cursor.u32(field)?;
        let value_type = ValueType::from_code(code)
            .ok_or_else(|| GgufError::new(type_at, field(), Problem::UnknownValueType { found: code }))?;
        let value = cursor.value(value_type, &field)?;
        keys.push(Key { name, value, at });
    }
    refuse_duplicates(&keys, |key| (key.at, key.name), "key")?;

    let mut found = Vec::new();
    for index in 0..tensor_count {
        found.push(cursor.tensor(index)?);
    }
    let by_name = refuse_duplicates(&found, |entry| (entry.info.listed_at, entry.info.name), "tensor")?;

    let header_bytes = cursor.at;
    let alignment = match keys.iter().find(|key| key.name == "general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(key) => alignment_of(key)?,
    };
    // Both at most 2^63: the header lies in a file, and files end below i64::MAX.
    let data_start = header_bytes.saturating_add(alignment - 1) / alignment * alignment;
    let data_end = place(&mut found, data_start, alignment, file_bytes)?;
    let tensors = found.into_iter().map(|tensor| tensor.info).collect();
    Ok(Gguf { version, keys, tensors, by_name, alignment, header_bytes, data_start, data_end, file_bytes })
}

impl<'a> Gguf<'a> {
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Metadata in the order of the file.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = (&'a str, &Value<'a>)> {
        self.keys.iter().map(|key| (key.name, &key.value))
    }

    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.keys.iter().find(|found| found.name == key).map(|found| &found.value)
    }

    /// Where a key's entry starts in the file.
    pub fn offset_of(&self, key: &str) -> Option<u64> {
        self.keys.iter().find(|found| found.name == key).map(|found| found.at)
    }

    /// Tensors in the order of the file.
    pub fn tensors(&self) -> &[TensorInfo<'a>] {
        &self.tensors
    }

    pub fn tensor(&self, name: &str) -> Option<&TensorInfo<'a>> {
        let found = self.by_name.binary_search_by_key(&name, |&index| self.tensors[index as usize].name).ok()?;
        Some(&self.tensors[self.by_name[found] as usize])
    }

    /// Where tensors start: every offset is a multiple of this.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Bytes before the padding that comes before the data section.
    pub fn header_bytes(&self) -> u64 {
        self.header_bytes
    }

    /// Where the data section starts.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// Bytes of the file after the last tensor: padding, as a rule.
    pub fn trailing_bytes(&self) -> u64 {
        self.file_bytes.saturating_sub(self.data_end)
    }

    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Elements of all tensors together.
    pub fn parameters(&self) -> u64 {
        // Tensors lie side by side in a file of less than 2^63 bytes, and no type packs eight elements into a byte.
        self.tensors.iter().fold(0u64, |sum, tensor| sum.saturating_add(tensor.elements()))
    }
}

/// As much of a name as a message shows. Names are printable by then.
pub(super) fn shown(name: &str) -> &str {
    const SHOWN_CHARS: usize = 100;
    name.char_indices().nth(SHOWN_CHARS).map_or(name, |(cut, _)| &name[..cut])
}

/// A tensor entry before its place in the file is known to be right.
struct Entry<'a> {
    info: TensorInfo<'a>,
    /// Where in the header the offset stands.
    offset_at: u64,
    /// From the start of the data section.
    offset: u64,
}

struct Cursor<'a> {
    prefix: &'a [u8],
    at: u64,
    file_bytes: u64,
}

impl<'a> Cursor<'a> {
    /// The next `len` bytes. What does not fit the file is an error before anyone asks for more of the file.
    fn take(&mut self, len: u64, field: impl Fn() -> String) -> Result<&'a [u8], Stop> {
        let available = self.file_bytes - self.at;
        if len > available {
            return Err(GgufError::new(self.at, field(), Problem::Truncated { needed: len, available }).into());
        }
        let end = self.at + len;
        if end > MAX_HEADER_BYTES {
            let problem = Problem::TooMany { found: end, limit: MAX_HEADER_BYTES };
            return Err(GgufError::new(self.at, format!("{}: bytes of header", field()), problem).into());
        }
        let bytes = usize::try_from(self.at)
            .ok()
            .zip(usize::try_from(end).ok())
            .and_then(|(start, end)| self.prefix.get(start..end))
            .ok_or(Stop::NeedMore)?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, field: impl Fn() -> String) -> Result<[u8; N], Stop> {
        let bytes = self.take(N as u64, field)?;
        Ok(bytes.try_into().expect("take returns as many bytes as it was asked for"))
    }

    fn u32(&mut self, field: impl Fn() -> String) -> Result<u32, Stop> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    fn u64(&mut self, field: impl Fn() -> String) -> Result<u64, Stop> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    fn count(&mut self, limit: u64, field: impl Fn() -> String) -> Result<u64, Stop> {
        let at = self.at;
        let found = self.u64(&field)?;
        if found > limit {
            return Err(GgufError::new(at, field(), Problem::TooMany { found, limit }).into());
        }
        Ok(found)
    }

    fn string(&mut self, field: &impl Fn() -> String) -> Result<&'a str, Stop> {
        let len = self.u64(|| format!("{}: length", field()))?;
        let at = self.at;
        let bytes = self.take(len, field)?;
        std::str::from_utf8(bytes).map_err(|error| {
            let problem = Problem::NotUtf8 { bad_byte: error.valid_up_to() as u64, bytes: len };
            GgufError::new(at, field(), problem).into()
        })
    }

    /// A name of a key or a tensor: short, not empty, printable.
    fn name(&mut self, field: impl Fn() -> String) -> Result<&'a str, Stop> {
        let at = self.at;
        let len = self.u64(|| format!("{}: name length", field()))?;
        if len > MAX_NAME_BYTES {
            let problem = Problem::TooMany { found: len, limit: MAX_NAME_BYTES };
            return Err(GgufError::new(at, format!("{}: name length", field()), problem).into());
        }
        self.at = at;
        let name = self.string(&|| format!("{}: name", field()))?;
        if let Some(why) = fault_of_name(name) {
            let problem = Problem::BadName { name: shown(name).to_owned(), why };
            return Err(GgufError::new(at, format!("{}: name", field()), problem).into());
        }
        Ok(name)
    }

    fn value(&mut self, value_type: ValueType, field: &impl Fn() -> String) -> Result<Value<'a>, Stop> {
        let at = self.at;
        Ok(match value_type {
            ValueType::U8 => Value::U8(u8::from_le_bytes(self.array(field)?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(self.array(field)?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(self.array(field)?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(self.array(field)?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(self.array(field)?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(self.array(field)?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(self.array(field)?)),
            ValueType::U64 => Value::U64(u64::from_le_bytes(self.array(field)?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(self.array(field)?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(self.array(field)?)),
            ValueType::Bool => match self.array::<1>(field)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [found] => return Err(GgufError::new(at, field(), Problem::BadBool { found }).into()),
            },
            ValueType::String => Value::String(self.string(field)?),
            ValueType::Array => Value::Array(self.value_array(field)?),
        })
    }

    fn value_array(&mut self, field: &impl Fn() -> String) -> Result<Array<'a>, Stop> {
        let at = self.at;
        let code = self.u32(|| format!("{}: element type", field()))?;
        let element = ValueType::from_code(code)
            .ok_or_else(|| GgufError::new(at, field(), Problem::UnknownValueType { found: code }))?;
        let at = self.at;
        let len = self.u64(|| format!("{}: length", field()))?;
        let start = self.at;
        match element {
            ValueType::Array => return Err(GgufError::new(at, field(), Problem::NestedArray).into()),
            ValueType::String => {
                for index in 0..len {
                    self.string(&|| format!("{}: element {index}", field()))?;
                }
            }
            _ => {
                let each = element.bytes().expect("only strings and arrays have no fixed size");
                // A count that overflows is as wrong as one beyond the file, and reported as that.
                let bytes = self.take(len.saturating_mul(each), field)?;
                if element == ValueType::Bool
                    && let Some(index) = bytes.iter().position(|&byte| byte > 1)
                {
                    let problem = Problem::BadBool { found: bytes[index] };
                    return Err(GgufError::new(start + index as u64, field(), problem).into());
                }
            }
        }
        // Both ends were in the prefix when they were read.
        let bytes = &self.prefix[start as usize..self.at as usize];
        Ok(Array { element, len, bytes })
    }

    fn tensor(&mut self, index: u64) -> Result<Entry<'a>, Stop> {
        let at = self.at;
        let name = self.name(|| format!("tensor {index}"))?;
        let field = |part: &str| format!("tensor {}: {part}", shown(name));

        let rank_at = self.at;
        let rank = self.u32(|| field("rank"))?;
        if rank > 4 {
            return Err(GgufError::new(rank_at, field("rank"), Problem::Rank { found: rank }).into());
        }
        let mut dims = [1u64; 4];
        let shape_at = self.at;
        for dim in dims.iter_mut().take(rank as usize) {
            *dim = self.u64(|| field("shape"))?;
        }
        let elements = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
        // As ggml counts them, in signed 64 bits.
        let elements = elements.filter(|&elements| i64::try_from(elements).is_ok());

        let type_at = self.at;
        let code = self.u32(|| field("element type"))?;
        let dtype = GgmlType::from_code(code)
            .ok_or_else(|| GgufError::new(type_at, field("element type"), Problem::UnknownType { code }))?;
        let shape_overflow = || {
            let shape = dims[..rank as usize].iter().rev().copied().collect();
            GgufError::new(shape_at, field("shape"), Problem::ShapeOverflow { shape })
        };
        let elements = elements.ok_or_else(shape_overflow)?;
        if dims[0] % dtype.block_elements() != 0 {
            let problem = Problem::PartialBlock { dtype, row: dims[0], block: dtype.block_elements() };
            return Err(GgufError::new(shape_at, field("shape"), problem).into());
        }
        let bytes = dtype.bytes_of(elements).ok_or_else(shape_overflow)?;

        let offset_at = self.at;
        let offset = self.u64(|| field("offset"))?;
        // `start` is set when the data section's place is known.
        let info = TensorInfo { name, dtype, start: 0, bytes, listed_at: at, dims, rank: rank as u8 };
        Ok(Entry { info, offset_at, offset })
    }
}

fn alignment_of(key: &Key<'_>) -> Result<u64, GgufError> {
    let refused = |problem| GgufError::new(key.at, "key general.alignment", problem);
    let Some(found) = key.value.as_u64() else {
        let found = key.value.value_type().to_string();
        return Err(refused(Problem::WrongType { expected: "an integer", found }));
    };
    if !found.is_power_of_two() || found > MAX_ALIGNMENT {
        return Err(refused(Problem::Alignment { found, limit: MAX_ALIGNMENT }));
    }
    Ok(found)
}

/// Checks that names are unique; returns the indices in the order of the names. Sorting keeps this linear enough for a
/// million entries and, unlike a hash table, small.
fn refuse_duplicates<T>(
    entries: &[T],
    name_of: impl for<'t> Fn(&'t T) -> (u64, &'t str),
    what: &str,
) -> Result<Vec<u32>, GgufError> {
    let mut order: Vec<u32> = (0..entries.len() as u32).collect();
    order.sort_unstable_by_key(|&index| (name_of(&entries[index as usize]).1, index));
    for pair in order.windows(2) {
        let (first, second) = (name_of(&entries[pair[0] as usize]), name_of(&entries[pair[1] as usize]));
        if first.1 == second.1 {
            let problem = Problem::Duplicate { name: shown(second.1).to_owned(), first: pair[0].into() };
            return Err(GgufError::new(second.0, format!("{what} {}", pair[1]), problem));
        }
    }
    Ok(order)
}

/// Checks offsets and sets `start`; returns where the last tensor ends. Tensors must lie as ggml itself demands: each
/// where the one before ended, rounded up to the alignment. The order of the list is left free.
fn place(entries: &mut [Entry<'_>], data_start: u64, alignment: u64, file_bytes: u64) -> Result<u64, GgufError> {
    let available = file_bytes.saturating_sub(data_start);
    for entry in entries.iter_mut() {
        let (offset, bytes) = (entry.offset, entry.info.bytes);
        let field = || format!("tensor {}: offset", shown(entry.info.name));
        if offset % alignment != 0 {
            return Err(GgufError::new(entry.offset_at, field(), Problem::Unaligned { offset, alignment }));
        }
        if offset.checked_add(bytes).is_none_or(|end| end > available) {
            let problem = Problem::OutOfRange { offset, bytes, available };
            return Err(GgufError::new(entry.offset_at, field(), problem));
        }
        // Cannot overflow: the sum above is within the data section, and that within the file.
        entry.info.start = data_start + offset;
    }

    let mut order: Vec<u32> = (0..entries.len() as u32).collect();
    order.sort_unstable_by_key(|&index| {
        let entry = &entries[index as usize];
        (entry.offset, entry.info.bytes)
    });
    let mut end = 0;
    let mut before: Option<&Entry<'_>> = None;
    for entry in order.iter().map(|&index| &entries[index as usize]) {
        let field = || format!("tensor {}: offset", shown(entry.info.name));
        let expected = end + (alignment - end % alignment) % alignment;
        if entry.offset < end
            && let Some(other) = before
        {
            let problem = Problem::Overlap {
                start: entry.info.start,
                end: entry.info.start + entry.info.bytes,
                other: shown(other.info.name).to_owned(),
                other_start: other.info.start,
                other_end: other.info.start + other.info.bytes,
            };
            return Err(GgufError::new(entry.offset_at, field(), problem));
        }
        if entry.offset != expected {
            let after = before.map_or("the header".to_owned(), |other| shown(other.info.name).to_owned());
            let problem = Problem::Gap { start: entry.info.start, expected: data_start + expected, after };
            return Err(GgufError::new(entry.offset_at, field(), problem));
        }
        end = entry.offset + entry.info.bytes;
        before = Some(entry);
    }
    Ok(data_start + end)
}
