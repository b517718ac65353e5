//! Quantisation in blocks: 8 bits on a dynamic map (the states of 8-bit optimizers) and NF4 (the frozen weights of QLoRA).
//!
//! A block shares one f32 scale, the largest magnitude in it; an element is the code of the map's value that lies nearest to
//! element / scale. Maps, layout and scales are those of bitsandbytes, so its files and states can be read and written:
//!
//! * [`dynamic`]: the maps of 256 values, signed and unsigned. Dettmers 2015, arXiv:1511.04561.
//! * [`blockwise`]: 8-bit codes, blocks of [`BLOCK`] elements.
//! * [`nf4`]: 16 levels, blocks of [`nf4::BLOCK`], two codes a byte with the first in the high nibble; and the scales
//!   themselves in 8 bits ("double quantisation"). Dettmers et al. 2023, arXiv:2305.14314.
//!
//! **Ties.** A value exactly between two of the map takes the lower one. **Scale.** Elements are multiplied by 1 / scale, where
//! a scale below [`LEAST_SCALE`] counts as that. **Not a number.** A block with a NaN or an infinity in it gets the scale NaN
//! and codes of 0, so all of it comes back as NaN: what is not a number is never turned into one.
//!
//! bitsandbytes' own 8-bit quantiser on the CPU (0.50) looks codes up at 16 bits of the value, and so misses the nearest code
//! within 2^-15 of a border: zero becomes the fourth value above it. Its CUDA kernels, its portable path and this one take
//! the nearest.
//!
//! [`reference`] is the specification. Nothing here may allocate, or panic on what a caller passes.

pub mod blockwise;
pub mod dynamic;
mod floats;
pub mod nf4;
pub mod reference;

pub use dynamic::DynamicMap;
pub use floats::Float;
pub(crate) use floats::{Floats, FloatsMut};

use crate::simd::Simd;

/// Elements per 8-bit block.
pub const BLOCK: usize = 256;

/// Scales are divided by as if they were at least this: 1 / scale would overflow soon below.
pub const LEAST_SCALE: f32 = 1e-38;

/// Elements that a task takes at a time: whole blocks, enough to hide the taking.
pub(crate) const CHUNK: usize = 1 << 14;

/// What one block is multiplied by before its codes are looked up.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    /// The block's largest magnitude, or NaN where an element is not finite.
    pub absmax: f32,
    /// 1 / absmax; 0 where that is NaN.
    pub inverse: f32,
}

impl Scale {
    #[inline(always)]
    pub fn of<S: Simd, const N: usize>(s: S, block: &[f32; N]) -> Scale {
        let (mut most, mut poison) = (s.splat(0.0), s.splat(0.0));
        for lanes in block.as_chunks::<16>().0 {
            let value = s.load_f32(lanes);
            most = s.max(s.abs(value), most);
            // 0 v is NaN where v is NaN or infinite, and stays in the sum.
            poison = s.add(poison, s.mul(value, s.splat(0.0)));
        }
        if s.bits(s.ge(poison, s.splat(0.0))) != 0xffff {
            return Scale { absmax: f32::NAN, inverse: 0.0 };
        }
        let absmax = s.reduce_max(most);
        Scale { absmax, inverse: 1.0 / absmax.max(LEAST_SCALE) }
    }
}
