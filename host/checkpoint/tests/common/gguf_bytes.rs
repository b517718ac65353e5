//! Builds GGUF files byte by byte, well-formed or not, for the tests. Knows the format only from its specification.

#![allow(dead_code)] // each test file uses its part

/// A file under construction: the counts are those of what was added, unless overridden.
#[derive(Clone, Default)]
pub struct Builder {
    pub version: u32,
    pub key_count: Option<u64>,
    pub tensor_count: Option<u64>,
    keys: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
    alignment: usize,
}

pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;

pub fn string(text: &str) -> Vec<u8> {
    raw_string(text.as_bytes())
}

pub fn raw_string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// An array value: element type, count, elements.
pub fn array(element: u32, elements: &[Vec<u8>]) -> Vec<u8> {
    [element.to_le_bytes().to_vec(), (elements.len() as u64).to_le_bytes().to_vec(), elements.concat()].concat()
}

impl Builder {
    pub fn new() -> Self {
        Self { version: 3, alignment: 32, ..Self::default() }
    }

    /// A key of any value type, its bytes given.
    pub fn raw_key(mut self, key: &[u8], code: u32, value: &[u8]) -> Self {
        self.keys.push([raw_string(key), code.to_le_bytes().to_vec(), value.to_vec()].concat());
        self
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.raw_key(key.as_bytes(), 4, &value.to_le_bytes())
    }

    pub fn f32(self, key: &str, value: f32) -> Self {
        self.raw_key(key.as_bytes(), 6, &value.to_le_bytes())
    }

    pub fn bool(self, key: &str, value: bool) -> Self {
        self.raw_key(key.as_bytes(), 7, &[value.into()])
    }

    pub fn text(self, key: &str, value: &str) -> Self {
        self.raw_key(key.as_bytes(), STRING, &string(value))
    }

    pub fn texts<S: AsRef<str>>(self, key: &str, values: &[S]) -> Self {
        let elements: Vec<_> = values.iter().map(|value| string(value.as_ref())).collect();
        self.raw_key(key.as_bytes(), ARRAY, &array(STRING, &elements))
    }

    pub fn i32s(self, key: &str, values: &[i32]) -> Self {
        let elements: Vec<_> = values.iter().map(|value| value.to_le_bytes().to_vec()).collect();
        self.raw_key(key.as_bytes(), ARRAY, &array(5, &elements))
    }

    pub fn f32s(self, key: &str, values: &[f32]) -> Self {
        let elements: Vec<_> = values.iter().map(|value| value.to_le_bytes().to_vec()).collect();
        self.raw_key(key.as_bytes(), ARRAY, &array(6, &elements))
    }

    pub fn alignment(mut self, alignment: u32) -> Self {
        self.alignment = alignment as usize;
        self.u32("general.alignment", alignment)
    }

    /// A tensor entry with everything stated by the caller; `dims` fastest first, as the file has them.
    pub fn raw_tensor(mut self, name: &[u8], dims: &[u64], code: u32, offset: u64) -> Self {
        let dims_bytes: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
        let rank = (dims.len() as u32).to_le_bytes().to_vec();
        let tail = [code.to_le_bytes().to_vec(), offset.to_le_bytes().to_vec()].concat();
        self.tensors.push([raw_string(name), rank, dims_bytes, tail].concat());
        self
    }

    /// A tensor and its bytes, placed where it belongs. `shape` slowest first, as PyTorch has it.
    pub fn tensor(mut self, name: &str, shape: &[u64], code: u32, bytes: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(self.alignment), 0);
        let offset = self.data.len() as u64;
        self.data.extend_from_slice(bytes);
        let dims: Vec<u64> = shape.iter().rev().copied().collect();
        self.raw_tensor(name.as_bytes(), &dims, code, offset)
    }

    pub fn f32_tensor(self, name: &str, shape: &[u64], values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<u64>(), values.len() as u64, "{name}");
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, shape, 0, &bytes)
    }

    /// Bytes of data beyond those of `tensor`.
    pub fn data(mut self, bytes: usize) -> Self {
        self.data.resize(self.data.len() + bytes, 0);
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        file.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        file.extend(self.keys.concat());
        file.extend(self.tensors.concat());
        if self.alignment > 0 {
            file.resize(file.len().next_multiple_of(self.alignment), 0);
        }
        file.extend(&self.data);
        file
    }
}
