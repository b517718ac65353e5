//! The gradients of a norm's weight and bias: sums down the columns, into the caller's f32 accumulators.
//!
//! Math: dweight\[c\] += sum over rows of dy n, dbias\[c\] += sum of dy; n = (x - mean) rstd.
//! Order: rows are summed in blocks of [`BLOCK`], and the blocks one after the other; tasks take columns, never rows, so
//! neither the thread count nor the width of a task's strip changes a sum.
//! Bytes: 2e per element read. This file must not allocate.

use super::dispatch::Done;
use crate::{
    Element, Exec,
    rows::{Pair, load, padded, store},
    simd::{Body, Simd},
};

/// Rows whose sum is taken before it is added to the total: the error grows with rows / BLOCK + BLOCK, not with rows.
pub(super) const BLOCK: usize = 64;
/// Columns that a task takes: a few cache lines of each row.
const STRIP: usize = 256;

pub struct Args<'a, T> {
    pub(super) dy: &'a [T],
    pub(super) x: &'a [T],
    pub(super) mean: Option<&'a [f32]>,
    pub(super) rstd: &'a [f32],
    /// n is rounded to the element type before it is multiplied, as in the forward.
    pub(super) rounded: bool,
    pub(super) dweight: &'a mut [f32],
    pub(super) dbias: Option<&'a mut [f32]>,
}

pub(super) fn accumulate<T: Element>(exec: Exec, args: Args<'_, T>) -> Done {
    let Args { dy, x, mean, rstd, rounded, dweight, dbias } = args;
    let hidden = dweight.len();
    let tasks = hidden.div_ceil(STRIP);
    // Without a bias every strip gets an empty one.
    let mut biases = dbias.map(|dbias| dbias.chunks_mut(STRIP));
    let strips = dweight.chunks_mut(STRIP).enumerate();
    let work = strips.map(move |(at, dweight)| {
        let dbias: &mut [f32] = biases.as_mut().and_then(Iterator::next).unwrap_or_default();
        (at, dweight, dbias)
    });
    exec.for_each(tasks, work, |(at, dweight, dbias)| {
        let first = at * STRIP;
        if dbias.is_empty() {
            T::launch(exec.isa, Strip::<T, false> { hidden, first, dy, x, mean, rstd, rounded, dweight, dbias });
        } else {
            T::launch(exec.isa, Strip::<T, true> { hidden, first, dy, x, mean, rstd, rounded, dweight, dbias });
        }
    })
}

struct Strip<'a, T, const BIAS: bool> {
    hidden: usize,
    first: usize,
    dy: &'a [T],
    x: &'a [T],
    mean: Option<&'a [f32]>,
    rstd: &'a [f32],
    rounded: bool,
    dweight: &'a mut [f32],
    dbias: &'a mut [f32],
}

impl<T: Element, const BIAS: bool> Body for Strip<'_, T, BIAS> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let columns = self.first..self.first + self.dweight.len();
        let rows = self.rstd.len();
        for start in (0..rows).step_by(BLOCK) {
            let (mut weight_sums, mut bias_sums) = ([[0.0f32; 32]; STRIP / 32], [[0.0f32; 32]; STRIP / 32]);
            for row in start..rows.min(start + BLOCK) {
                let rstd = s.splat(self.rstd[row]);
                let mean = s.splat(self.mean.map_or(0.0, |mean| mean[row]));
                let at = row * self.hidden;
                let (dy_blocks, dy_tail) = self.dy[at..][columns.clone()].as_chunks::<32>();
                let (x_blocks, x_tail) = self.x[at..][columns.clone()].as_chunks::<32>();
                let sums = weight_sums.iter_mut().zip(&mut bias_sums);
                for ((dy, x), (weight, bias)) in dy_blocks.iter().zip(x_blocks).zip(sums) {
                    add::<S, T, BIAS>(s, [dy, x], mean, rstd, self.rounded, [weight, bias]);
                }
                if !dy_tail.is_empty() {
                    let last = dy_blocks.len();
                    let sums = [&mut weight_sums[last], &mut bias_sums[last]];
                    add::<S, T, BIAS>(s, [&padded(dy_tail), &padded(x_tail)], mean, rstd, self.rounded, sums);
                }
            }
            for (total, sum) in self.dweight.iter_mut().zip(weight_sums.as_flattened()) {
                *total += sum;
            }
            // Empty where there is no bias.
            for (total, sum) in self.dbias.iter_mut().zip(bias_sums.as_flattened()) {
                *total += sum;
            }
        }
    }
}

#[inline(always)]
fn add<S: Simd, T: Element, const BIAS: bool>(
    s: S,
    [dy, x]: [&[T; 32]; 2],
    mean: S::F,
    rstd: S::F,
    rounded: bool,
    [weight, bias]: [&mut [f32; 32]; 2],
) {
    let (dy, x): (Pair<S>, Pair<S>) = (load(s, dy), load(s, x));
    let n = [s.mul(s.sub(x[0], mean), rstd), s.mul(s.sub(x[1], mean), rstd)];
    let n = if rounded { [T::round(s, n[0]), T::round(s, n[1])] } else { n };
    let old: Pair<S> = load(s, weight);
    store(s, weight, [s.fma(dy[0], n[0], old[0]), s.fma(dy[1], n[1], old[1])]);
    if BIAS {
        let old: Pair<S> = load(s, bias);
        store(s, bias, [s.add(dy[0], old[0]), s.add(dy[1], old[1])]);
    }
}
