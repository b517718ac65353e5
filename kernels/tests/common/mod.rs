//! Data for the kernel tests: seeded, with every awkward value in it.

#![allow(dead_code, reason = "each test file uses its part")]

use unswag_kernels::Element;

/// A small generator (SplitMix64), so that the cases are the same everywhere.
pub struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In (0, 1].
    pub fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box & Muller).
    pub fn normal(&mut self) -> f64 {
        let (radius, angle) = ((-2.0 * self.unit().ln()).sqrt(), std::f64::consts::TAU * self.unit());
        radius * angle.cos()
    }

    pub fn normals<T: Element>(&mut self, n: usize) -> Vec<T> {
        (0..n).map(|_| T::from_f32(self.normal() as f32)).collect()
    }
}

/// Zeros, denormals, extremes, infinities, NaN, and values on both sides of where `exp` over- and underflows.
pub const AWKWARD: [f32; 24] = [
    0.0,
    -0.0,
    1e-45,
    -1e-45,
    1e-39,
    -1e-39,
    f32::MIN_POSITIVE,
    -f32::MIN_POSITIVE,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    88.7,
    -88.7,
    88.8,
    -88.8,
    104.0,
    -104.0,
    16.0,
    -16.0,
    65504.0,
    6e-8,
    -0.743275,
];

/// Normal data of several scales with awkward values strewn in.
pub fn awkward<T: Element>(seed: u64, n: usize) -> Vec<T> {
    let mut random = Seeded(seed);
    (0..n)
        .map(|i| {
            let value = match i % 7 {
                0 => AWKWARD[random.next() as usize % AWKWARD.len()],
                1 => random.normal() as f32 * 20.0,
                2 => random.normal() as f32 * 1e-3,
                _ => random.normal() as f32,
            };
            T::from_f32(value)
        })
        .collect()
}

/// Equal bits; NaNs are equal whatever their payload, which IEEE leaves open.
pub fn same<T: Element>(a: &[T], b: &[T]) -> Result<(), String> {
    assert_eq!(a.len(), b.len());
    match (0..a.len()).find(|i| !same_bits(a[*i].to_f32(), b[*i].to_f32())) {
        None => Ok(()),
        Some(i) => Err(format!("element {i}: {:?} and {:?}", a[i], b[i])),
    }
}

pub fn same_bits(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

/// A slice of `n` elements that starts `offset` elements into its allocation.
pub fn shifted<T: Element>(values: &[T], offset: usize) -> Vec<T> {
    let mut all = vec![T::ZERO; offset];
    all.extend_from_slice(values);
    all
}

/// The largest relative error of one rounding to `T`.
pub fn unit<T: Element>() -> f64 {
    match T::NAME {
        "f32" => (-24f64).exp2(),
        "bf16" => (-8f64).exp2(),
        "f16" => (-11f64).exp2(),
        other => panic!("no unit for {other}"),
    }
}

/// The relative error that an f32 sum of `n` terms in 32 accumulators may have, of the sum of the terms' magnitudes.
pub fn sum_error(n: usize) -> f64 {
    (n as f64 / 32.0 + 8.0) * (-24f64).exp2()
}

/// Every instruction set on one thread, and the best on none and on three.
pub fn execs() -> Vec<unswag_kernels::Exec> {
    use unswag_kernels::{Exec, Isa};
    let mut execs: Vec<Exec> = Isa::available().into_iter().map(|isa| Exec { isa, threads: 1 }).collect();
    execs.push(Exec::new(0));
    execs.push(Exec::new(3));
    execs
}

pub fn widened<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| f64::from(value.to_f32())).collect()
}

/// The first element of `got` that is further than `tolerance(i)` from `expected`.
pub fn far<T: Element>(got: &[T], expected: &[f64], tolerance: impl Fn(usize) -> f64) -> Option<String> {
    assert_eq!(got.len(), expected.len());
    let off = |i: usize| (f64::from(got[i].to_f32()) - expected[i]).abs();
    // Written so that a NaN is far.
    let is_near = |i: usize| off(i) <= tolerance(i);
    let at = (0..got.len()).find(|&i| !is_near(i))?;
    Some(format!("element {at}: {:?}, expected {}, off {:e} of {:e}", got[at], expected[at], off(at), tolerance(at)))
}

/// The gradient of `loss` by central differences with a step fit for f64.
pub fn numerical_gradient(at: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut at = at.to_vec();
    let mut gradient = Vec::with_capacity(at.len());
    for i in 0..at.len() {
        let (value, step) = (at[i], 1e-5 * at[i].abs().max(1.0));
        at[i] = value + step;
        let above = loss(&at);
        at[i] = value - step;
        let below = loss(&at);
        at[i] = value;
        gradient.push((above - below) / (2.0 * step));
    }
    gradient
}

/// A golden file: little-endian values, one tensor after the other.
pub struct Golden<'a>(pub &'a [u8]);

impl Golden<'_> {
    /// The next `n` values of two bytes, as bf16.
    pub fn bf16(&mut self, n: usize) -> Vec<half::bf16> {
        let (values, rest) = self.0.split_at(2 * n);
        self.0 = rest;
        values.as_chunks::<2>().0.iter().map(|bytes| half::bf16::from_le_bytes(*bytes)).collect()
    }

    /// The next `n` values of four bytes, as f32.
    pub fn f32(&mut self, n: usize) -> Vec<f32> {
        let (values, rest) = self.0.split_at(4 * n);
        self.0 = rest;
        values.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }
}
