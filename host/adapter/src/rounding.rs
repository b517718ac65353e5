//! From f64 to the element type of a weight, to nearest or stochastically.

use half::{bf16, f16};
use unswag_abi::doc::Dtype;

use crate::float;

/// How a merged weight is rounded to its element type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest value, ties to even.
    #[default]
    Nearest,
    /// Up or down at random, each with the probability that makes the mean right, so that changes below half a unit in the last
    /// place arrive on average. A function of the seed, the tensor's name and the element's index: the same on every machine.
    Stochastic { seed: u64 },
}

impl Rounding {
    /// For the elements of one tensor.
    pub(crate) fn of_tensor(self, name: &str) -> Rounder {
        match self {
            Rounding::Nearest => Rounder(None),
            Rounding::Stochastic { seed } => {
                // FNV-1a.
                let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
                });
                Rounder(Some(mix(seed ^ hash)))
            }
        }
    }
}

/// Rounds the elements of one tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounder(Option<u64>);

impl Rounder {
    /// Writes one element, little-endian, and returns what was written.
    pub fn write(self, dtype: Dtype, value: f64, index: usize, place: &mut [u8]) -> f64 {
        let nearest = float::encode(dtype, value, place);
        let Some(seed) = self.0.filter(|_| nearest != value && nearest.is_finite()) else { return nearest };
        let Some(other) = neighbour(dtype, nearest, value > nearest) else { return nearest };
        // 53 bits are what an f64 between 0 and 1 holds.
        let unit = (mix(seed.wrapping_add(index as u64)) >> 11) as f64 / (1u64 << 53) as f64;
        let share = (value - nearest) / (other - nearest);
        if unit < share { float::encode(dtype, other, place) } else { nearest }
    }
}

/// The next value above or below; `None` where there is none that is finite, or the type is as wide as needed.
fn neighbour(dtype: Dtype, value: f64, above: bool) -> Option<f64> {
    let step = |bits: u16, is_zero: bool| match (is_zero, above == (bits >> 15 == 0)) {
        (true, _) => u16::from(!above) << 15 | 1,
        (false, true) => bits + 1,
        (false, false) => bits - 1,
    };
    let next = match dtype {
        Dtype::Bf16 => bf16::from_bits(step(bf16::from_f64(value).to_bits(), value == 0.0)).to_f64(),
        Dtype::F16 => f16::from_bits(step(f16::from_f64(value).to_bits(), value == 0.0)).to_f64(),
        _ => return None,
    };
    next.is_finite().then_some(next)
}

/// The finaliser of SplitMix64. Steele et al. 2014.
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stochastic_rounding_takes_one_of_the_two_neighbours_and_is_right_on_average() {
        let rounder = Rounding::Stochastic { seed: 1 }.of_tensor("w");
        for (dtype, value) in
            [(Dtype::Bf16, 1.0 + 1.0 / 1024.0), (Dtype::Bf16, -3.001), (Dtype::F16, 1e-9), (Dtype::F16, 0.1)]
        {
            let mut place = [0; 2];
            let all: Vec<f64> = (0..20_000).map(|index| rounder.write(dtype, value, index, &mut place)).collect();
            let mut kinds = all.clone();
            kinds.sort_by(f64::total_cmp);
            kinds.dedup();
            assert!(kinds.len() == 2 && kinds[0] < value && value < kinds[1], "{value}: {kinds:?}");
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let off = (mean - value).abs() / (kinds[1] - kinds[0]);
            assert!(off < 0.02, "{value}: {mean}, off by {off} of a unit in the last place");
        }
        let mut place = [0; 2];
        assert_eq!(rounder.write(Dtype::Bf16, 1.5, 0, &mut place), 1.5, "what the type holds is not moved");
    }
}
