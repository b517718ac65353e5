//! Normal deviates that are the same for the same seed on every machine.

use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng};
use rand_distr::{Distribution, Normal};

use super::{
    EvalError, Tensor,
    tensor::{buffer, elements},
};

/// Independent N(0, std^2) values, in row-major order from one ChaCha12 stream.
pub fn normal(shape: &[u64], std: f64, seed: u64) -> Result<Tensor, EvalError> {
    let distribution = Normal::new(0.0, std).map_err(|_| EvalError::Shape {
        op: "normal",
        expected: "a finite standard deviation".into(),
        got: std.to_string(),
    })?;
    let count = elements("normal", shape)?;
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let mut data = buffer("normal", count)?;
    data.extend((0..count).map(|_| distribution.sample(&mut rng)));
    Ok(Tensor { shape: shape.iter().map(|&size| size as usize).collect(), data })
}
