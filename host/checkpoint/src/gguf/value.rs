//! Metadata values. Arrays stay what they are in the file, bytes, and are decoded as they are walked: a vocabulary of
//! 262,144 strings costs no allocation here.

/// What a metadata value is, by the format's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    pub fn from_code(code: u32) -> Option<Self> {
        use ValueType::*;
        const BY_CODE: [ValueType; 13] = [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64];
        BY_CODE.get(usize::try_from(code).ok()?).copied()
    }

    /// Bytes of one value; `None` for strings and arrays, which say their own length.
    pub fn bytes(self) -> Option<u64> {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            String | Array => None,
        }
    }

    pub fn name(self) -> &'static str {
        use ValueType::*;
        match self {
            U8 => "u8",
            I8 => "i8",
            U16 => "u16",
            I16 => "i16",
            U32 => "u32",
            I32 => "i32",
            F32 => "f32",
            Bool => "bool",
            String => "string",
            Array => "array",
            U64 => "u64",
            I64 => "i64",
            F64 => "f64",
        }
    }
}

/// One metadata value, borrowing the header's bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// Any integer that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(value) => Some(value.into()),
            Value::U16(value) => Some(value.into()),
            Value::U32(value) => Some(value.into()),
            Value::U64(value) => Some(value),
            Value::I8(value) => u64::try_from(value).ok(),
            Value::I16(value) => u64::try_from(value).ok(),
            Value::I32(value) => u64::try_from(value).ok(),
            Value::I64(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Value::F32(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&'a str> {
        match *self {
            Value::String(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<Array<'a>> {
        match *self {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }
}

impl std::fmt::Display for Value<'_> {
    /// For people: text quoted and cut, arrays as type and length.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN_CHARS: usize = 80;
        match self {
            Value::U8(value) => write!(f, "{value}"),
            Value::I8(value) => write!(f, "{value}"),
            Value::U16(value) => write!(f, "{value}"),
            Value::I16(value) => write!(f, "{value}"),
            Value::U32(value) => write!(f, "{value}"),
            Value::I32(value) => write!(f, "{value}"),
            Value::F32(value) => write!(f, "{value}"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::U64(value) => write!(f, "{value}"),
            Value::I64(value) => write!(f, "{value}"),
            Value::F64(value) => write!(f, "{value}"),
            Value::String(text) => match text.char_indices().nth(SHOWN_CHARS) {
                Some((cut, _)) => write!(f, "{:?}… ({} bytes)", &text[..cut], text.len()),
                None => write!(f, "{text:?}"),
            },
            Value::Array(array) => write!(f, "[{}; {}]", array.element, array.len),
        }
    }
}

/// An array of scalars or strings. Its bytes were checked when the file was parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Array<'a> {
    pub(super) element: ValueType,
    pub(super) len: u64,
    pub(super) bytes: &'a [u8],
}

impl<'a> Array<'a> {
    pub fn element(&self) -> ValueType {
        self.element
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements, where they are strings.
    pub fn strings(&self) -> Option<impl Iterator<Item = &'a str> + use<'a>> {
        (self.element == ValueType::String).then(|| {
            let mut rest = self.bytes;
            std::iter::from_fn(move || {
                let (len, after) = rest.split_first_chunk::<8>()?;
                // The parser has seen every length and every byte, so these hold; if not, the walk just ends.
                let (text, after) = after.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
                rest = after;
                std::str::from_utf8(text).ok()
            })
        })
    }

    /// The elements, where they are integers.
    pub fn integers(&self) -> Option<impl Iterator<Item = i64> + use<'a>> {
        let (element, bytes) = (self.element, self.bytes);
        let wide = match element {
            ValueType::U8 | ValueType::I8 => 1,
            ValueType::U16 | ValueType::I16 => 2,
            ValueType::U32 | ValueType::I32 => 4,
            ValueType::I64 | ValueType::U64 => 8,
            _ => return None,
        };
        let signed = matches!(element, ValueType::I8 | ValueType::I16 | ValueType::I32 | ValueType::I64);
        Some(bytes.chunks_exact(wide).map(move |chunk| {
            let fill = if signed && chunk[wide - 1] & 0x80 != 0 { 0xFF } else { 0 };
            let mut full = [fill; 8];
            full[..wide].copy_from_slice(chunk);
            // A u64 beyond i64 is saturated: no array of the format holds counts of that size.
            if signed { i64::from_le_bytes(full) } else { u64::from_le_bytes(full).min(i64::MAX as u64) as i64 }
        }))
    }

    /// The elements, where they are f32.
    pub fn floats(&self) -> Option<impl Iterator<Item = f32> + use<'a>> {
        let bytes = self.bytes;
        (self.element == ValueType::F32).then(|| {
            let (chunks, _) = bytes.as_chunks::<4>();
            chunks.iter().map(|chunk| f32::from_le_bytes(*chunk))
        })
    }
}
