//! Element types, between the documents' names and DLPack's codes. Both sides of the boundary must agree on this table.

use crate::{doc::Dtype, frame::DlDataType};

/// DLPack's `DLDataTypeCode`.
const INT: u8 = 0;
const UINT: u8 = 1;
const FLOAT: u8 = 2;
const BFLOAT: u8 = 4;
const BOOL: u8 = 6;
/// `kDLFloat8_e4m3fn`: what safetensors and PyTorch call `F8_E4M3`.
const FLOAT8_E4M3FN: u8 = 10;
const FLOAT8_E5M2: u8 = 12;

impl From<Dtype> for DlDataType {
    fn from(dtype: Dtype) -> Self {
        let code = match dtype {
            Dtype::Bool => BOOL,
            Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64 => UINT,
            Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64 => INT,
            Dtype::F16 | Dtype::F32 | Dtype::F64 => FLOAT,
            Dtype::Bf16 => BFLOAT,
            Dtype::F8E4M3 => FLOAT8_E4M3FN,
            Dtype::F8E5M2 => FLOAT8_E5M2,
        };
        Self { code, bits: (dtype.bytes() * 8) as u8, lanes: 1 }
    }
}

impl DlDataType {
    /// The element type of this code, or `None` where the documents have no name for it.
    pub fn dtype(self) -> Option<Dtype> {
        Dtype::ALL.into_iter().find(|&dtype| DlDataType::from(dtype) == self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_survives_the_way_to_dlpack_and_back() {
        for dtype in Dtype::ALL {
            assert_eq!(DlDataType::from(dtype).dtype(), Some(dtype));
        }
    }

    #[test]
    fn a_vector_of_lanes_is_no_element_type() {
        assert_eq!(DlDataType { code: FLOAT, bits: 32, lanes: 4 }.dtype(), None);
    }
}
