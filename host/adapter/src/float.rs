//! Elements of a safetensors file as f64 and back, rounded once, to nearest.

use half::{bf16, f16};
use unswag_abi::doc::Dtype;

/// Whether elements of this type can be merged into.
pub(crate) fn is_known(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F64 | Dtype::F16 | Dtype::Bf16)
}

/// Little-endian elements; those of a type that is not known are none.
pub(crate) fn decode(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f64()).collect(),
        Dtype::Bf16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f64()).collect(),
        _ => Vec::new(),
    }
}

/// Writes one element, rounded to nearest and little-endian, and gives back what was written.
pub fn encode(dtype: Dtype, value: f64, bytes: &mut [u8]) -> f64 {
    match dtype {
        Dtype::F32 => {
            let rounded = value as f32;
            bytes.copy_from_slice(&rounded.to_le_bytes());
            f64::from(rounded)
        }
        Dtype::F16 => {
            let rounded = f16::from_f64(value);
            bytes.copy_from_slice(&rounded.to_le_bytes());
            rounded.to_f64()
        }
        Dtype::Bf16 => {
            let rounded = bf16::from_f64(value);
            bytes.copy_from_slice(&rounded.to_le_bytes());
            rounded.to_f64()
        }
        _ => {
            bytes.copy_from_slice(&value.to_le_bytes());
            value
        }
    }
}
