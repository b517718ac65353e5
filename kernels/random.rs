//! Random numbers by position: the same (seed, offset, stream, row, column) gives the same number on any thread, in any
//! order, so a recompute repeats the first pass bit for bit.
//!
//! A row's 64-bit key comes from SplitMix64 (Steele, Lea, Flood 2014) over the coordinates; a column's 32 bits come from
//! a two-round multiply-xorshift hash of column and key (constants of hash-prospector's `lowbias32`). This decides
//! rounding, nothing else: it is not for cryptography.

use crate::simd::Simd;

const COLUMN_STEP: u32 = 0x9E37_79B9;
const ROUND_1: u32 = 0x7feb_352d;
const ROUND_2: u32 = 0x846c_a68b;

/// 2^-24: 24 random bits to a number in [0, 1).
const UNIT: f32 = 1.0 / 16_777_216.0;

fn split_mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The numbers of one row of one stream.
#[derive(Clone, Copy)]
pub(crate) struct RowRandom {
    add: u32,
    xor: u32,
}

impl RowRandom {
    pub(crate) fn new(seed: u64, offset: u64, stream: u64, row: u64) -> Self {
        let key = split_mix(split_mix(split_mix(seed).wrapping_add(offset)).wrapping_add(stream))
            .wrapping_add(row.wrapping_mul(0xD1B5_4A32_D192_ED03));
        let key = split_mix(key);
        Self { add: key as u32, xor: (key >> 32) as u32 }
    }

    /// A number in [0, 1), a multiple of 2^-24. Columns repeat after 2^32.
    pub(crate) fn at(self, column: usize) -> f32 {
        let mut h = ((column as u32).wrapping_mul(COLUMN_STEP) ^ self.xor).wrapping_add(self.add);
        h ^= h >> 16;
        h = h.wrapping_mul(ROUND_1);
        h ^= h >> 15;
        h = h.wrapping_mul(ROUND_2);
        h ^= h >> 16;
        (h >> 8) as f32 * UNIT
    }

    /// `at` for sixteen columns from `column`.
    #[inline(always)]
    pub(crate) fn lanes<S: Simd>(self, s: S, column: usize) -> S::F {
        let columns = s.add_i(s.splat_i(column as u32), s.iota());
        let mut h =
            s.add_i(s.xor_i(s.mul_i(columns, s.splat_i(COLUMN_STEP)), s.splat_i(self.xor)), s.splat_i(self.add));
        h = s.xor_i(h, s.shr_i::<16>(h));
        h = s.mul_i(h, s.splat_i(ROUND_1));
        h = s.xor_i(h, s.shr_i::<15>(h));
        h = s.mul_i(h, s.splat_i(ROUND_2));
        h = s.xor_i(h, s.shr_i::<16>(h));
        s.mul(s.to_f32(s.shr_i::<8>(h)), s.splat(UNIT))
    }
}
