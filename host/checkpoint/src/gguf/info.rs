//! What `unswag inspect` says of a GGUF file: its header, summed up. Reads no weights.

use serde::Serialize;

use super::reader::Gguf;

/// A GGUF file in a few lines.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GgufInfo {
    pub version: u32,
    /// `general.architecture`.
    pub architecture: Option<String>,
    /// `general.name`.
    pub name: Option<String>,
    pub file_bytes: u64,
    pub header_bytes: u64,
    pub alignment: u64,
    /// Elements of all tensors.
    pub parameters: u64,
    pub tensors: u64,
    /// How many tensors and bytes each element type has, largest first.
    pub types: Vec<TypeCount>,
    /// Every key, in the order of the file.
    pub metadata: Vec<MetadataInfo>,
}

/// The tensors of one element type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TypeCount {
    pub dtype: &'static str,
    pub tensors: u64,
    pub bytes: u64,
    /// Whether the import can read it.
    pub supported: bool,
}

/// One metadata key: long texts are cut, arrays are their type and length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MetadataInfo {
    pub key: String,
    pub value_type: &'static str,
    pub value: String,
}

impl GgufInfo {
    pub fn of(gguf: &Gguf<'_>) -> Self {
        let text = |key| gguf.get(key).and_then(|value| value.as_str()).map(str::to_owned);
        let mut types: Vec<TypeCount> = Vec::new();
        for tensor in gguf.tensors() {
            let name = tensor.dtype.name();
            let index = types.iter().position(|count| count.dtype == name).unwrap_or_else(|| {
                types.push(TypeCount { dtype: name, tensors: 0, bytes: 0, supported: tensor.dtype.is_supported() });
                types.len() - 1
            });
            types[index].tensors += 1;
            types[index].bytes += tensor.bytes;
        }
        types.sort_by_key(|count| std::cmp::Reverse(count.bytes));
        let metadata = gguf.keys().map(|(key, value)| MetadataInfo {
            key: key.to_owned(),
            value_type: value.value_type().name(),
            value: value.to_string(),
        });
        Self {
            version: gguf.version(),
            architecture: text("general.architecture"),
            name: text("general.name"),
            file_bytes: gguf.file_bytes(),
            header_bytes: gguf.header_bytes(),
            alignment: gguf.alignment(),
            parameters: gguf.parameters(),
            tensors: gguf.tensors().len() as u64,
            types,
            metadata: metadata.collect(),
        }
    }
}
