//! The element types that tiles multiply, 32 bits at a time.

use half::bf16;

use super::{
    Kernels,
    tile::{put, whole},
};
use crate::{Element, simd::Simd};

/// An element type of [`super::forward`]: f32 or bf16.
pub trait Word: Element + Kernels {
    /// Elements in 32 bits.
    const PER_WORD: usize;

    /// The element's bits, in the low end.
    #[doc(hidden)]
    fn to_bits(self) -> u32;
    /// The first sixteen words of a row, which has as many.
    #[doc(hidden)]
    fn load_words<S: Simd>(s: S, row: &[Self]) -> S::I;
    /// sum + a b, elements of a lane multiplied pairwise.
    #[doc(hidden)]
    fn dot<S: Simd>(s: S, sum: S::F, a: S::I, b: S::I) -> S::F;
    /// Writes 32 values of a row as words, one after the other.
    #[doc(hidden)]
    fn put_row<S: Simd>(s: S, to: &mut [u32], low: S::F, high: S::F);
    /// Writes sixteen values of two rows, so that a word goes down a column: bf16 side by side, f32 in two rows `lead` apart.
    #[doc(hidden)]
    fn put_column<S: Simd>(s: S, to: &mut [u32], lead: usize, upper: S::F, lower: S::F);
}

impl Word for f32 {
    const PER_WORD: usize = 1;

    #[inline(always)]
    fn to_bits(self) -> u32 {
        f32::to_bits(self)
    }
    #[inline(always)]
    fn load_words<S: Simd>(s: S, row: &[Self]) -> S::I {
        s.as_i(s.load_f32(whole(row.first_chunk())))
    }
    #[inline(always)]
    fn dot<S: Simd>(s: S, sum: S::F, a: S::I, b: S::I) -> S::F {
        s.fma(s.as_f(a), s.as_f(b), sum)
    }
    #[inline(always)]
    fn put_row<S: Simd>(s: S, to: &mut [u32], low: S::F, high: S::F) {
        put(s, to, 0, low);
        put(s, to, 16, high);
    }
    #[inline(always)]
    fn put_column<S: Simd>(s: S, to: &mut [u32], lead: usize, upper: S::F, lower: S::F) {
        put(s, to, 0, upper);
        put(s, to, lead, lower);
    }
}

impl Word for bf16 {
    const PER_WORD: usize = 2;

    #[inline(always)]
    fn to_bits(self) -> u32 {
        u32::from(bf16::to_bits(self))
    }
    #[inline(always)]
    fn load_words<S: Simd>(s: S, row: &[Self]) -> S::I {
        s.load_pairs(whole(row.first_chunk()))
    }
    #[inline(always)]
    fn dot<S: Simd>(s: S, sum: S::F, a: S::I, b: S::I) -> S::F {
        s.dot_bf16(sum, a, b)
    }
    #[inline(always)]
    fn put_row<S: Simd>(s: S, to: &mut [u32], low: S::F, high: S::F) {
        put(s, to, 0, s.as_f(s.row_bf16(low, high)));
    }
    #[inline(always)]
    fn put_column<S: Simd>(s: S, to: &mut [u32], _: usize, upper: S::F, lower: S::F) {
        put(s, to, 0, s.as_f(s.pair_bf16(upper, lower)));
    }
}
