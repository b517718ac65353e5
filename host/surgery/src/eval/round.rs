//! Between a checkpoint's bytes and the evaluator's f64.
//!
//! f64 to bf16 and f16 is one rounding to nearest even, from the f64 itself: by way of f32 it would be two.

use half::{bf16, f16};
use unswag_abi::doc::{Dtype, Meta};

use super::Tensor;

/// The tensor's values, widened to f64 (exact), or the dtype where it holds no floating-point numbers.
pub fn decode(meta: &Meta, bytes: &[u8]) -> Result<Tensor, Dtype> {
    fn widen<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        bytes.as_chunks::<N>().0.iter().map(|chunk| f(*chunk)).collect()
    }
    let data = match meta.dtype {
        Dtype::F64 => widen(bytes, f64::from_le_bytes),
        Dtype::F32 => widen(bytes, |b| f64::from(f32::from_le_bytes(b))),
        Dtype::F16 => widen(bytes, |b| f16::from_le_bytes(b).to_f64()),
        Dtype::Bf16 => widen(bytes, |b| bf16::from_le_bytes(b).to_f64()),
        other => return Err(other),
    };
    Ok(Tensor { shape: meta.shape.iter().map(|&size| size as usize).collect(), data })
}

/// The tensor's values rounded to `dtype`, row-major and little-endian, or the dtype where it is not a float.
pub fn encode(tensor: &Tensor, dtype: Dtype) -> Result<Vec<u8>, Dtype> {
    fn narrow<const N: usize>(data: &[f64], f: impl Fn(f64) -> [u8; N]) -> Vec<u8> {
        data.iter().flat_map(|&x| f(x)).collect()
    }
    Ok(match dtype {
        Dtype::F64 => narrow(&tensor.data, f64::to_le_bytes),
        Dtype::F32 => narrow(&tensor.data, |x| (x as f32).to_le_bytes()),
        Dtype::F16 => narrow(&tensor.data, |x| f16::from_f64(x).to_le_bytes()),
        Dtype::Bf16 => narrow(&tensor.data, |x| bf16_from_f64(x).to_le_bytes()),
        other => return Err(other),
    })
}

/// One rounding. f64 to f32 is made to *round to odd* first (the last bit is set where anything was lost), after which
/// rounding to the 16 bits fewer of bf16 gives the same as rounding once. Boldo & Melquiond 2008.
fn bf16_from_f64(x: f64) -> bf16 {
    let nearest = x as f32;
    if nearest.is_nan() || f64::from(nearest) == x {
        return bf16::from_f32(nearest);
    }
    // Truncate towards zero: step back one where the conversion rounded away from it.
    let away = f64::from(nearest).abs() > x.abs();
    let truncated = nearest.to_bits() - u32::from(away);
    bf16::from_f32(f32::from_bits(truncated | 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(data: &[f64]) -> Tensor {
        Tensor { shape: vec![data.len()], data: data.to_vec() }
    }

    #[test]
    fn bf16_is_rounded_once() {
        // Just above the middle between two bf16 numbers by less than an f32 can tell: twice rounded it goes to even, down.
        let x = 1.0 + 2f64.powi(-8) + 2f64.powi(-40);
        assert_eq!(bf16_from_f64(x), bf16::from_f32(1.0 + 2f32.powi(-7)));
        assert_eq!(bf16::from_f32(x as f32), bf16::from_f32(1.0), "the case would not tell the two apart");
        assert_eq!(bf16_from_f64(-x), bf16::from_f32(-1.0 - 2f32.powi(-7)));
        assert_eq!(bf16_from_f64(1e300), bf16::INFINITY);
        assert!(bf16_from_f64(f64::NAN).is_nan());
    }

    #[test]
    fn floats_come_back_as_they_were() {
        let values = [0.0, -0.0, 1.5, -3.25, f64::INFINITY, f64::NEG_INFINITY, 2f64.powi(-14)];
        for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16] {
            let bytes = encode(&tensor(&values), dtype).unwrap();
            assert_eq!(bytes.len() as u64, values.len() as u64 * dtype.bytes());
            let back = decode(&Meta { dtype, shape: vec![values.len() as u64] }, &bytes).unwrap();
            let bits = |t: &Tensor| t.data.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&back), bits(&tensor(&values)), "{dtype}");
        }
    }

    #[test]
    fn integers_are_refused_by_name() {
        assert_eq!(encode(&tensor(&[1.0]), Dtype::I64), Err(Dtype::I64));
        assert_eq!(decode(&Meta { dtype: Dtype::U8, shape: vec![1] }, &[1]), Err(Dtype::U8));
    }
}
