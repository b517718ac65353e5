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

/// Elements that are decoded at once: a vocabulary's matrix is never held in f64.
const CHUNK: usize = 1 << 16;

/// Bytes of a type's elements, some at a time.
fn chunks(dtype: Dtype, bytes: &[u8]) -> impl Iterator<Item = Vec<f64>> {
    bytes.chunks(CHUNK * dtype.bytes().max(1) as usize).map(move |chunk| decode(dtype, chunk))
}

/// Whether two tensors hold the same numbers.
pub(crate) fn is_same(a: (Dtype, &[u8]), b: (Dtype, &[u8])) -> bool {
    if a.0 == b.0 {
        return a.1 == b.1;
    }
    let elements = |(dtype, bytes): (Dtype, &[u8])| bytes.len() / dtype.bytes().max(1) as usize;
    elements(a) == elements(b) && chunks(a.0, a.1).eq(chunks(b.0, b.1))
}

/// The first element that is NaN or infinite, and its index.
pub(crate) fn first_not_finite(dtype: Dtype, bytes: &[u8]) -> Option<(usize, f64)> {
    let faulty = |(at, values): (usize, Vec<f64>)| {
        let index = values.iter().position(|value| !value.is_finite())?;
        Some((at * CHUNK + index, values[index]))
    };
    chunks(dtype, bytes).enumerate().find_map(faulty)
}

/// Writes one element, rounded to nearest and little-endian, and returns what was written.
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
