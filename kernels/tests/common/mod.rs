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
