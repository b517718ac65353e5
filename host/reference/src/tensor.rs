//! A tensor as bytes with a type, as plugins are given it.

use half::{bf16, f16};
use unswag_abi::doc::{Dtype, Meta};

/// Little-endian elements in row-major order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub meta: Meta,
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// The elements in f32: exact for the float types; integers must be below 2^24.
    pub(crate) fn to_f32(&self) -> Result<Vec<f32>, String> {
        fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            bytes.as_chunks::<N>().0.iter().map(|bytes| value(*bytes)).collect()
        }
        let expected = self.meta.bytes();
        if expected != Some(self.bytes.len() as u64) {
            return Err(format!("{} {:?} does not have {} bytes", self.meta.dtype, self.meta.shape, self.bytes.len()));
        }
        Ok(match self.meta.dtype {
            Dtype::F32 => each(&self.bytes, f32::from_le_bytes),
            Dtype::Bf16 => each(&self.bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            Dtype::F16 => each(&self.bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Dtype::I64 => each(&self.bytes, |bytes| i64::from_le_bytes(bytes) as f32),
            Dtype::I32 => each(&self.bytes, |bytes| i32::from_le_bytes(bytes) as f32),
            Dtype::U32 => each(&self.bytes, |bytes| u32::from_le_bytes(bytes) as f32),
            other => return Err(format!("the engine does not compute in {other}")),
        })
    }

    /// The elements nearest to `values`, ties to even.
    pub(crate) fn from_f32(meta: &Meta, values: &[f32]) -> Result<Self, String> {
        let bytes = match meta.dtype {
            Dtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Dtype::Bf16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
            Dtype::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
            Dtype::I64 => values.iter().flat_map(|&value| (value as i64).to_le_bytes()).collect(),
            Dtype::I32 => values.iter().flat_map(|&value| (value as i32).to_le_bytes()).collect(),
            Dtype::U32 => values.iter().flat_map(|&value| (value as u32).to_le_bytes()).collect(),
            other => return Err(format!("the engine does not compute in {other}")),
        };
        Ok(Self { meta: meta.clone(), bytes })
    }
}

/// The value of `dtype` nearest to `value`.
pub(crate) fn rounded(dtype: Dtype, value: f32) -> f32 {
    match dtype {
        Dtype::Bf16 => bf16::from_f32(value).to_f32(),
        Dtype::F16 => f16::from_f32(value).to_f32(),
        _ => value,
    }
}
