//! The element types of GGUF tensors: ggml's codes, names and block sizes. A table; it reads nothing.

/// How a tensor's elements are stored. Codes, names and sizes as `enum ggml_type` and `ggml-common.h` define them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)]
#[non_exhaustive]
pub enum GgmlType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ2_XXS,
    IQ2_XS,
    IQ3_XXS,
    IQ1_S,
    IQ4_NL,
    IQ3_S,
    IQ2_S,
    IQ4_XS,
    I8,
    I16,
    I32,
    I64,
    F64,
    IQ1_M,
    BF16,
    TQ1_0,
    TQ2_0,
    MXFP4,
}

struct Row {
    ty: GgmlType,
    code: u32,
    name: &'static str,
    block_elements: u64,
    block_bytes: u64,
    supported: bool,
}

const fn row(
    ty: GgmlType,
    code: u32,
    name: &'static str,
    block_elements: u64,
    block_bytes: u64,
    supported: bool,
) -> Row {
    Row { ty, code, name, block_elements, block_bytes, supported }
}

/// In the order of the enum, so that a type finds its row by its discriminant (a test holds this). Sizes are written as
/// the sums of the block's fields.
const TABLE: [Row; 32] = [
    row(GgmlType::F32, 0, "F32", 1, 4, true),
    row(GgmlType::F16, 1, "F16", 1, 2, true),
    row(GgmlType::Q4_0, 2, "Q4_0", 32, 2 + 16, true),
    row(GgmlType::Q4_1, 3, "Q4_1", 32, 2 + 2 + 16, true),
    row(GgmlType::Q5_0, 6, "Q5_0", 32, 2 + 4 + 16, true),
    row(GgmlType::Q5_1, 7, "Q5_1", 32, 2 + 2 + 4 + 16, true),
    row(GgmlType::Q8_0, 8, "Q8_0", 32, 2 + 32, true),
    // Two halves since ggml's change of 2024; the Python package still says two floats. No tool stores weights so.
    row(GgmlType::Q8_1, 9, "Q8_1", 32, 2 + 2 + 32, true),
    row(GgmlType::Q2_K, 10, "Q2_K", 256, 16 + 64 + 2 + 2, true),
    row(GgmlType::Q3_K, 11, "Q3_K", 256, 32 + 64 + 12 + 2, true),
    row(GgmlType::Q4_K, 12, "Q4_K", 256, 2 + 2 + 12 + 128, true),
    row(GgmlType::Q5_K, 13, "Q5_K", 256, 2 + 2 + 12 + 32 + 128, true),
    row(GgmlType::Q6_K, 14, "Q6_K", 256, 128 + 64 + 16 + 2, true),
    row(GgmlType::Q8_K, 15, "Q8_K", 256, 4 + 256 + 32, true),
    row(GgmlType::IQ2_XXS, 16, "IQ2_XXS", 256, 2 + 64, false),
    row(GgmlType::IQ2_XS, 17, "IQ2_XS", 256, 2 + 64 + 8, false),
    row(GgmlType::IQ3_XXS, 18, "IQ3_XXS", 256, 2 + 64 + 32, false),
    row(GgmlType::IQ1_S, 19, "IQ1_S", 256, 2 + 32 + 16, false),
    row(GgmlType::IQ4_NL, 20, "IQ4_NL", 32, 2 + 16, true),
    row(GgmlType::IQ3_S, 21, "IQ3_S", 256, 2 + 64 + 8 + 32 + 4, false),
    row(GgmlType::IQ2_S, 22, "IQ2_S", 256, 2 + 64 + 8 + 8, false),
    row(GgmlType::IQ4_XS, 23, "IQ4_XS", 256, 2 + 2 + 4 + 128, true),
    row(GgmlType::I8, 24, "I8", 1, 1, true),
    row(GgmlType::I16, 25, "I16", 1, 2, true),
    row(GgmlType::I32, 26, "I32", 1, 4, true),
    row(GgmlType::I64, 27, "I64", 1, 8, true),
    row(GgmlType::F64, 28, "F64", 1, 8, true),
    row(GgmlType::IQ1_M, 29, "IQ1_M", 256, 32 + 16 + 8, false),
    row(GgmlType::BF16, 30, "BF16", 1, 2, true),
    row(GgmlType::TQ1_0, 34, "TQ1_0", 256, 48 + 4 + 2, false),
    row(GgmlType::TQ2_0, 35, "TQ2_0", 256, 64 + 2, false),
    row(GgmlType::MXFP4, 39, "MXFP4", 32, 1 + 16, false),
];

impl GgmlType {
    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// Every type this reader knows the size of, whether it can dequantise it or not.
    pub fn all() -> impl Iterator<Item = GgmlType> {
        TABLE.iter().map(|row| row.ty)
    }

    /// The type with ggml's number `code`.
    pub fn from_code(code: u32) -> Option<Self> {
        TABLE.iter().find(|row| row.code == code).map(|row| row.ty)
    }

    /// ggml's number for the type.
    pub fn code(self) -> u32 {
        self.row().code
    }

    /// As ggml spells it: `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Elements that are stored together; a row of a tensor holds whole blocks.
    pub fn block_elements(self) -> u64 {
        self.row().block_elements
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> u64 {
        self.row().block_bytes
    }

    /// Whether [`dequantize`](super::dequantize) can read it.
    pub fn is_supported(self) -> bool {
        self.row().supported
    }

    /// Bytes of `elements` elements; `None` where they are no whole number of blocks or the size overflows.
    pub fn bytes_of(self, elements: u64) -> Option<u64> {
        elements
            .is_multiple_of(self.block_elements())
            .then(|| (elements / self.block_elements()).checked_mul(self.block_bytes()))
            .flatten()
    }

    /// The types that can be imported, for messages.
    pub(super) fn supported_names() -> String {
        let names: Vec<_> = TABLE.iter().filter(|row| row.supported).map(|row| row.name).collect();
        names.join(", ")
    }
}

/// What ggml once used a code for that it no longer reads, for a message better than "unknown".
pub(super) fn retired(code: u32) -> Option<&'static str> {
    Some(match code {
        4 => "Q4_2",
        5 => "Q4_3",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        _ => return None,
    })
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_finds_its_own_row() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.ty as usize, index, "{}", row.name);
            assert_eq!(GgmlType::from_code(row.code), Some(row.ty));
            assert_eq!(retired(row.code), None);
        }
    }
}
