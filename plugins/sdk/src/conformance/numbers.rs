//! Numbers to try kernels on, the same in every run, and measures of how far two lists of numbers are apart.

use unswag_abi::doc::{Dtype, OpCall};

use crate::{error::Error, tensor::TensorBuf};

/// SplitMix64 (Steele, Lea & Flood 2014), and normal deviates of it by Box and Muller.
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In (0, 1]: never 0, whose logarithm is infinite.
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    pub fn normal(&mut self) -> f64 {
        let (radius, angle) = ((-2.0 * self.unit().ln()).sqrt(), std::f64::consts::TAU * self.unit());
        radius * angle.cos()
    }

    /// So many normal deviates, none within `gap` of 0: activation functions may have a kink there.
    pub fn normals(&mut self, count: usize, gap: f64) -> Vec<f64> {
        let mut next = || loop {
            let value = self.normal();
            if value.abs() >= gap {
                return value;
            }
        };
        (0..count).map(|_| next()).collect()
    }
}

/// A tensor per input of the call: normal deviates where it is of floats, else zeros.
pub(super) fn inputs(call: &OpCall, seed: u64) -> Result<Vec<TensorBuf>, Error> {
    tensors(&call.inputs, seed)
}

/// A tensor per description: normal deviates where it is of floats, else zeros.
pub(super) fn tensors(metas: &[unswag_abi::doc::Meta], seed: u64) -> Result<Vec<TensorBuf>, Error> {
    let mut random = Random::new(seed);
    let mut tensors = Vec::with_capacity(metas.len());
    for meta in metas {
        let elements = meta.elements().ok_or_else(|| crate::error!("{:?} does not fit in memory", meta.shape))?;
        tensors.push(if is_computed(meta.dtype) {
            TensorBuf::from_f64(meta.dtype, &random.normals(elements as usize, 0.01), &meta.shape)?
        } else {
            TensorBuf::zeros(meta)?
        });
    }
    Ok(tensors)
}

/// The float types that kernels compute on.
pub(super) fn is_computed(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F64 | Dtype::Bf16 | Dtype::F16)
}

/// The distance from 1 to the next number, and the smallest normal number that kernels are held to: below it they may
/// flush to zero (f16 is computed in f32, so only its own smallest step counts).
pub(super) fn precision(dtype: Dtype) -> (f64, f64) {
    match dtype {
        Dtype::F64 => (f64::EPSILON, f64::MIN_POSITIVE),
        Dtype::Bf16 => (f64::from(half::bf16::EPSILON), f64::from(half::bf16::MIN_POSITIVE)),
        Dtype::F16 => (f64::from(half::f16::EPSILON), f64::from(half::f16::MIN_POSITIVE_SUBNORMAL)),
        _ => (f64::from(f32::EPSILON), f64::from(f32::MIN_POSITIVE)),
    }
}

/// How well one list of numbers points where another does, and how far it is off: `|a - b| / |b|`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closeness {
    pub cosine: f64,
    pub relative_error: f64,
}

pub(super) fn closeness(measured: &[f64], truth: &[f64]) -> Closeness {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (size, true_size) = (dot(measured, measured).sqrt(), dot(truth, truth).sqrt());
    let off = measured.iter().zip(truth).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
    if true_size == 0.0 {
        // Nothing to point along: right only where it is nothing too.
        let right = size == 0.0;
        return Closeness {
            cosine: if right { 1.0 } else { 0.0 },
            relative_error: if right { 0.0 } else { f64::INFINITY },
        };
    }
    let cosine = if size == 0.0 { 0.0 } else { dot(measured, truth) / (size * true_size) };
    Closeness { cosine, relative_error: off / true_size }
}

impl std::fmt::Display for Closeness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cosine {:.5}, relative error {:.1e}", self.cosine, self.relative_error)
    }
}
