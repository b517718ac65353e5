//! What the ops on rows share: blocks of 32 elements, the order of a row's sum, and how rows are dealt to threads.
//!
//! **The order of a sum.** Element i of a row goes to accumulator i mod 32, by fused multiply-add where it is a product; a
//! row's end is filled up with zeros. Then accumulator i takes i + 16, and of the sixteen, i takes i + 8, + 4, + 2, + 1. This
//! is what a vector unit does at no cost, it is the same on all of them, and its error grows with n / 32 and not with n.
//!
//! Nothing here may depend on the thread count: only whole rows are dealt.

use crate::{Element, simd::Simd};

/// Elements that a task takes at a time, about.
const CHUNK: usize = 1 << 15;

/// 32 lanes.
pub(crate) type Pair<S> = [<S as Simd>::F; 2];

/// Rows of `cols` elements that a task takes at a time.
pub(crate) fn rows_per_task(cols: usize) -> usize {
    (CHUNK / cols.max(1)).max(1)
}

#[inline(always)]
pub(crate) fn load<S: Simd, T: Element>(s: S, from: &[T; 32]) -> Pair<S> {
    let halves = from.as_chunks::<16>().0;
    [T::load(s, &halves[0]), T::load(s, &halves[1])]
}

#[inline(always)]
pub(crate) fn store<S: Simd, T: Element>(s: S, to: &mut [T; 32], value: Pair<S>) {
    T::store(s, to, value[0], value[1], false);
}

#[inline(always)]
pub(crate) fn splat<S: Simd>(s: S, value: f32) -> Pair<S> {
    [s.splat(value); 2]
}

/// The end of a row, filled up with zeros.
#[inline(always)]
pub(crate) fn padded<T: Element>(from: &[T]) -> [T; 32] {
    let mut block = [T::ZERO; 32];
    block[..from.len()].copy_from_slice(from);
    block
}

/// The first `n` lanes of 32, and `otherwise` in the others.
#[inline(always)]
pub(crate) fn first<S: Simd>(s: S, value: Pair<S>, n: usize, otherwise: f32) -> Pair<S> {
    let (otherwise, n) = (s.splat(otherwise), s.splat(n as f32));
    let low = s.to_f32(s.iota());
    let high = s.add(low, s.splat(16.0));
    [s.select(s.ge(low, n), otherwise, value[0]), s.select(s.ge(high, n), otherwise, value[1])]
}

/// The sum of 32 accumulators.
#[inline(always)]
pub(crate) fn total<S: Simd>(s: S, sums: Pair<S>) -> f32 {
    s.reduce_add(s.add(sums[0], sums[1]))
}

/// The reference's form of a row's sum: 32 accumulators, folded in halves.
pub(crate) struct Sum([f32; 32]);

impl Sum {
    /// The sum of a b.
    pub(crate) fn products(terms: impl Iterator<Item = (f32, f32)>) -> f32 {
        let mut sums = [0.0f32; 32];
        for (i, (a, b)) in terms.enumerate() {
            sums[i % 32] = a.mul_add(b, sums[i % 32]);
        }
        Sum(sums).fold()
    }

    /// The sum of the terms.
    pub(crate) fn of(terms: impl Iterator<Item = f32>) -> f32 {
        let mut sums = [0.0f32; 32];
        for (i, term) in terms.enumerate() {
            sums[i % 32] += term;
        }
        Sum(sums).fold()
    }

    fn fold(mut self) -> f32 {
        for width in [16, 8, 4, 2, 1] {
            for i in 0..width {
                self.0[i] += self.0[i + width];
            }
        }
        self.0[0]
    }
}
