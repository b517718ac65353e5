//! `softmax`: the element-wise half of attention that is cut into blocks of scores; the products are the caller's.
//!
//! For a block of scores of queries against keys, q k^T before any scale, one or many matrices of them:
//!
//! 1. [`forward`] turns scores x into weights p = exp(z - max), z = scale x or cap tanh(scale x / cap), and carries each row's
//!    running `max` and `sum` on; by `rescale` = exp(old max - max) the caller multiplies what it has of the output
//!    ([`rescale()`] does), then adds p v. After the last block [`finish`] divides by the sum and gives lse = max + ln(sum).
//! 2. [`delta()`] is each row's sum of dy y; [`backward`] makes, from the raw scores, lse, delta and dp = dy v^T, the
//!    probabilities p = exp(z - lse) in place of the scores and dx = p (dp - delta) dz/dx in place of dp. Milakov & Gimelshein
//!    2018; Dao et al. 2022.
//!
//! Masks: causal, sliding window, documents ([`Block`]); what a query does not see gets a p and a dx of zero, and costs one
//! store. A row that sees nothing keeps max = -inf and sum = 0; [`finish`] makes its output zeros and its lse -inf.
//! Attention sinks: start with max = the head's sink and sum = 1 in place of -inf and 0.
//! Layout: scores, dp \[matrices, rows, cols\] contiguous; max, sum, rescale, lse, delta \[matrices, rows\] f32.
//! Bytes per visible element, e bytes wide: forward 2e (a row is read again from the cache), backward 4e.
//! Precision: f32 inside, sums in the order of `rows.rs` and of p before its rounding; p and dx rounded once.
//! NaN: a NaN or +inf among the scores that a query sees makes its sum NaN, so its output and lse; -inf has the weight 0. Scores
//! that a query does not see never matter.
//!
//! The ladder: 1. `reference.rs`; 2. sixteen lanes over the visible part of each row: maximum, then exp and sum. `exp` is the
//! cost. This file must not allocate, and checks every length before the first store.

mod block;
mod dispatch;
pub mod reference;

pub use block::{Block, Documents};
pub(crate) use dispatch::Kernels;
use dispatch::{Backward, Done, Finish, Forward};

use crate::{
    Element, Exec, KernelError,
    cross_entropy::{exp_minus, maximum, shift},
    error::{elements, length},
    math,
    rows::{Pair, first, load, padded, rows_per_task, splat, store, total},
    simd::{Body, Simd, math::Tanh},
};

pub const OP: &str = "softmax";

/// Scores become weights; max, sum and rescale as in the module's header. For the first block of a row max is -inf and sum 0
/// (its rescale is then 0).
///
/// # Errors
/// Where lengths do not fit, `block` is not sound, or the CPU lacks `exec.isa`. Then nothing was written.
///
/// ```
/// use unswag_kernels::{Exec, softmax};
/// // Two queries against two keys, causal: the first sees one key.
/// let block = softmax::Block { rows: 2, cols: 2, scale: 1.0, causal: true, ..softmax::Block::default() };
/// let mut scores = [5.0f32, 6.0, 7.0, 7.0];
/// let (mut max, mut sum, mut rescale) = ([f32::NEG_INFINITY; 2], [0.0; 2], [0.0; 2]);
/// softmax::forward(Exec::new(1), &block, &mut scores, &mut max, &mut sum, &mut rescale)?;
/// assert_eq!((scores, max, sum), ([1.0, 0.0, 1.0, 1.0], [5.0, 7.0], [1.0, 2.0]));
/// # Ok::<(), unswag_kernels::KernelError>(())
/// ```
pub fn forward<T: Element>(
    exec: Exec,
    block: &Block<'_>,
    scores: &mut [T],
    max: &mut [f32],
    sum: &mut [f32],
    rescale: &mut [f32],
) -> Result<(), KernelError> {
    check(block, scores.len(), [("max", max.len()), ("sum", sum.len()), ("rescale", rescale.len())])?;
    T::softmax_forward(exec, block, Forward { scores, max, sum, rescale })
}

/// y /= sum, and lse = max + ln(sum). y: \[rows, cols\], the output that was summed up; max, sum, lse: \[rows\].
///
/// # Errors
/// Where lengths do not fit, or the CPU lacks `exec.isa`. Then nothing was written.
pub fn finish<T: Element>(
    exec: Exec,
    cols: usize,
    y: &mut [T],
    max: &[f32],
    sum: &[f32],
    lse: &mut [f32],
) -> Result<(), KernelError> {
    length(OP, "y", elements(OP, sum.len(), cols)?, y.len())?;
    length(OP, "max", sum.len(), max.len())?;
    length(OP, "lse", sum.len(), lse.len())?;
    T::softmax_finish(exec, cols, Finish { y, max, sum, lse })
}

/// y\[row\] *= factors\[row\]. y: \[rows, cols\]. A factor of 0 clears the row, whatever is in it.
///
/// # Errors
/// As [`finish`].
pub fn rescale<T: Element>(exec: Exec, cols: usize, y: &mut [T], factors: &[f32]) -> Result<(), KernelError> {
    length(OP, "y", elements(OP, factors.len(), cols)?, y.len())?;
    T::softmax_rescale(exec, cols, y, factors)
}

/// delta\[row\] = sum of dy y. dy, y: \[rows, cols\].
///
/// # Errors
/// As [`finish`].
pub fn delta<T: Element>(exec: Exec, cols: usize, dy: &[T], y: &[T], delta: &mut [f32]) -> Result<(), KernelError> {
    length(OP, "dy", elements(OP, delta.len(), cols)?, dy.len())?;
    length(OP, "y", dy.len(), y.len())?;
    T::softmax_delta(exec, cols, [dy, y], delta)
}

/// Raw scores become probabilities, and dp becomes the gradient of the raw scores. lse: of [`finish`]; delta: of [`delta`].
///
/// # Errors
/// As [`forward`].
pub fn backward<T: Element>(
    exec: Exec,
    block: &Block<'_>,
    scores: &mut [T],
    dp: &mut [T],
    lse: &[f32],
    delta: &[f32],
) -> Result<(), KernelError> {
    check(block, scores.len(), [("lse", lse.len()), ("delta", delta.len()), ("delta", delta.len())])?;
    length(OP, "dp", scores.len(), dp.len())?;
    T::softmax_backward(exec, block, Backward { scores, dp, lse, delta })
}

fn check(block: &Block<'_>, scores: usize, rows: [(&'static str, usize); 3]) -> Done {
    block.check()?;
    let matrix = elements(OP, block.rows, block.cols)?;
    // Without columns the statistics alone say how many matrices there are.
    let all = scores.checked_div(matrix).map_or(rows[0].1, |matrices| matrices * block.rows);
    length(OP, "scores", elements(OP, all, block.cols)?, scores)?;
    if block.rows > 0 && !all.is_multiple_of(block.rows) || block.rows == 0 && all > 0 {
        return Err(KernelError::Length { op: OP, argument: rows[0].0, expected: block.rows, got: all });
    }
    rows.into_iter().try_for_each(|(name, got)| length(OP, name, all, got))
}

fn forward_rows<T: Element>(exec: Exec, block: &Block<'_>, args: Forward<'_, T>) -> Done {
    let Forward { scores, max, sum, rescale } = args;
    exec.check()?;
    if block.cols == 0 {
        // Nothing is seen: only what there is stays as it is.
        for (factor, max) in rescale.iter_mut().zip(max) {
            *factor = math::exp(*max - shift(*max));
        }
        return Ok(());
    }
    let take = rows_per_task(block.cols);
    let statistics = max.chunks_mut(take).zip(sum.chunks_mut(take)).zip(rescale.chunks_mut(take));
    let tasks = statistics.len();
    let work = scores.chunks_mut(take * block.cols).zip(statistics).enumerate();
    exec.for_each(tasks, work, |(at, (scores, ((max, sum), rescale)))| {
        let args = Forward { scores, max, sum, rescale };
        T::launch(exec.isa, ForwardRows { block, first_row: at * take, args });
    })
}

fn backward_rows<T: Element>(exec: Exec, block: &Block<'_>, args: Backward<'_, T>) -> Done {
    let Backward { scores, dp, lse, delta } = args;
    exec.check()?;
    if block.cols == 0 {
        return Ok(());
    }
    let take = rows_per_task(block.cols);
    let cut = take * block.cols;
    let statistics = lse.chunks(take).zip(delta.chunks(take));
    let tasks = statistics.len();
    let work = scores.chunks_mut(cut).zip(dp.chunks_mut(cut)).zip(statistics).enumerate();
    exec.for_each(tasks, work, |(at, ((scores, dp), (lse, delta)))| {
        let args = Backward { scores, dp, lse, delta };
        T::launch(exec.isa, BackwardRows { block, first_row: at * take, args });
    })
}

fn finish_rows<T: Element>(exec: Exec, cols: usize, args: Finish<'_, T>) -> Done {
    let Finish { y, max, sum, lse } = args;
    exec.check()?;
    for ((lse, max), sum) in lse.iter_mut().zip(max).zip(sum) {
        *lse = (f64::from(*max) + math::ln(*sum)) as f32;
    }
    if cols == 0 {
        return Ok(());
    }
    let take = rows_per_task(cols);
    let work = y.chunks_mut(take * cols).zip(sum.chunks(take));
    exec.for_each(sum.len().div_ceil(take), work, |(y, factors)| {
        T::launch(exec.isa, RescaleRows { cols, y, factors, divide: true });
    })
}

fn rescale_rows<T: Element>(exec: Exec, cols: usize, y: &mut [T], factors: &[f32]) -> Done {
    exec.check()?;
    if cols == 0 {
        return Ok(());
    }
    let take = rows_per_task(cols);
    let work = y.chunks_mut(take * cols).zip(factors.chunks(take));
    exec.for_each(factors.len().div_ceil(take), work, |(y, factors)| {
        T::launch(exec.isa, RescaleRows { cols, y, factors, divide: false });
    })
}

fn delta_rows<T: Element>(exec: Exec, cols: usize, [dy, y]: [&[T]; 2], delta: &mut [f32]) -> Done {
    exec.check()?;
    if cols == 0 {
        delta.fill(0.0);
        return Ok(());
    }
    let take = rows_per_task(cols);
    let tasks = delta.len().div_ceil(take);
    let work = dy.chunks(take * cols).zip(y.chunks(take * cols)).zip(delta.chunks_mut(take));
    exec.for_each(tasks, work, |((dy, y), delta)| {
        T::launch(exec.isa, DeltaRows { cols, dy, y, delta });
    })
}

struct ForwardRows<'a, T> {
    block: &'a Block<'a>,
    first_row: usize,
    args: Forward<'a, T>,
}

impl<T: Element> Body for ForwardRows<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Forward { scores, max, sum, rescale } = self.args;
        let statistics = max.iter_mut().zip(sum).zip(rescale).enumerate();
        for (row, (at, ((max, sum), rescale))) in scores.chunks_exact_mut(self.block.cols).zip(statistics) {
            let seen = self.block.visible((self.first_row + at) % self.block.rows);
            let (before, rest) = row.split_at_mut(seen.start);
            let (row, after) = rest.split_at_mut(seen.end - seen.start);
            before.fill(T::ZERO);
            after.fill(T::ZERO);
            let new_max = {
                let greatest = self.block.scaled(s, splat(s, maximum(s, row)));
                let greatest = s.reduce_max(greatest[0]);
                // -inf stays: a soft cap would make it finite, but a row without elements has none.
                if !row.is_empty() && greatest > *max { greatest } else { *max }
            };
            *rescale = math::exp(*max - shift(new_max));
            *max = new_max;
            *sum = *sum * *rescale + weights(s, self.block, row, shift(new_max));
        }
    }
}

/// x becomes exp(z - shift); their sum before rounding.
#[inline(always)]
fn weights<S: Simd, T: Element>(s: S, block: &Block<'_>, row: &mut [T], shift: f32) -> f32 {
    let (mut sums, shift) = (splat(s, 0.0), s.splat(shift));
    let (blocks, tail) = row.as_chunks_mut::<32>();
    for x in blocks {
        let p = exp_minus(s, block.scaled(s, load(s, x)), shift);
        sums = [s.add(sums[0], p[0]), s.add(sums[1], p[1])];
        store(s, x, p);
    }
    if !tail.is_empty() {
        let mut x = padded(tail);
        let p = exp_minus(s, block.scaled(s, load(s, &x)), shift);
        let p = first(s, p, tail.len(), 0.0);
        sums = [s.add(sums[0], p[0]), s.add(sums[1], p[1])];
        store(s, &mut x, p);
        tail.copy_from_slice(&x[..tail.len()]);
    }
    total(s, sums)
}

struct BackwardRows<'a, T> {
    block: &'a Block<'a>,
    first_row: usize,
    args: Backward<'a, T>,
}

impl<T: Element> Body for BackwardRows<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Backward { scores, dp, lse, delta } = self.args;
        let cols = self.block.cols;
        let statistics = lse.iter().zip(delta).enumerate();
        let rows = scores.chunks_exact_mut(cols).zip(dp.chunks_exact_mut(cols));
        for ((scores, dp), (at, (lse, delta))) in rows.zip(statistics) {
            let seen = self.block.visible((self.first_row + at) % self.block.rows);
            for row in [&mut *scores, &mut *dp] {
                row[..seen.start].fill(T::ZERO);
                row[seen.end..].fill(T::ZERO);
            }
            let (lse, delta) = (s.splat(shift(*lse)), s.splat(*delta));
            let (x_blocks, x_tail) = scores[seen.clone()].as_chunks_mut::<32>();
            let (dp_blocks, dp_tail) = dp[seen].as_chunks_mut::<32>();
            for (x, dp) in x_blocks.iter_mut().zip(dp_blocks) {
                gradients(s, self.block, x, dp, lse, delta);
            }
            if !x_tail.is_empty() {
                let (mut x, mut d) = (padded(x_tail), padded(dp_tail));
                gradients(s, self.block, &mut x, &mut d, lse, delta);
                x_tail.copy_from_slice(&x[..x_tail.len()]);
                dp_tail.copy_from_slice(&d[..dp_tail.len()]);
            }
        }
    }
}

#[inline(always)]
fn gradients<S: Simd, T: Element>(s: S, block: &Block<'_>, x: &mut [T; 32], dp: &mut [T; 32], lse: S::F, delta: S::F) {
    let (z, slope) = block.scaled_with_slope(s, load(s, x));
    let p = exp_minus(s, z, lse);
    let d = load(s, dp);
    store(s, x, p);
    let d = [s.mul(p[0], s.sub(d[0], delta)), s.mul(p[1], s.sub(d[1], delta))];
    store(s, dp, [s.mul(d[0], slope[0]), s.mul(d[1], slope[1])]);
}

impl Block<'_> {
    /// z of the raw scores.
    #[inline(always)]
    fn scaled<S: Simd>(&self, s: S, x: Pair<S>) -> Pair<S> {
        let scale = s.splat(self.scale);
        let z = [s.mul(x[0], scale), s.mul(x[1], scale)];
        let Some(cap) = self.logit_softcap else { return z };
        let cap = s.splat(cap);
        let t = [s.value::<Tanh>(s.div(z[0], cap)), s.value::<Tanh>(s.div(z[1], cap))];
        [s.mul(cap, t[0]), s.mul(cap, t[1])]
    }

    /// z of the raw scores, and dz/dx.
    #[inline(always)]
    fn scaled_with_slope<S: Simd>(&self, s: S, x: Pair<S>) -> (Pair<S>, Pair<S>) {
        let scale = s.splat(self.scale);
        let z = [s.mul(x[0], scale), s.mul(x[1], scale)];
        let Some(cap) = self.logit_softcap else { return (z, [scale; 2]) };
        let cap = s.splat(cap);
        let (low, low_slope) = s.with_derivative::<Tanh>(s.div(z[0], cap));
        let (high, high_slope) = s.with_derivative::<Tanh>(s.div(z[1], cap));
        ([s.mul(cap, low), s.mul(cap, high)], [s.mul(scale, low_slope), s.mul(scale, high_slope)])
    }
}

struct RescaleRows<'a, T> {
    cols: usize,
    y: &'a mut [T],
    factors: &'a [f32],
    /// By 1 / the factor.
    divide: bool,
}

impl<T: Element> Body for RescaleRows<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (row, factor) in self.y.chunks_exact_mut(self.cols).zip(self.factors) {
            if *factor == 0.0 {
                row.fill(T::ZERO);
                continue;
            }
            let factor = s.splat(if self.divide { 1.0 / factor } else { *factor });
            let (blocks, tail) = row.as_chunks_mut::<32>();
            for y in blocks {
                let value = load(s, y);
                store(s, y, [s.mul(value[0], factor), s.mul(value[1], factor)]);
            }
            if !tail.is_empty() {
                let mut y = padded(tail);
                let value = load(s, &y);
                store(s, &mut y, [s.mul(value[0], factor), s.mul(value[1], factor)]);
                tail.copy_from_slice(&y[..tail.len()]);
            }
        }
    }
}

struct DeltaRows<'a, T> {
    cols: usize,
    dy: &'a [T],
    y: &'a [T],
    delta: &'a mut [f32],
}

impl<T: Element> Body for DeltaRows<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.dy.chunks_exact(self.cols).zip(self.y.chunks_exact(self.cols));
        for ((dy, y), delta) in rows.zip(self.delta) {
            let mut sums = splat(s, 0.0);
            let (dy_blocks, dy_tail) = dy.as_chunks::<32>();
            let (y_blocks, y_tail) = y.as_chunks::<32>();
            for (dy, y) in dy_blocks.iter().zip(y_blocks) {
                let (dy, y) = (load(s, dy), load(s, y));
                sums = [s.fma(dy[0], y[0], sums[0]), s.fma(dy[1], y[1], sums[1])];
            }
            if !dy_tail.is_empty() {
                let (dy, y) = (load(s, &padded(dy_tail)), load(s, &padded(y_tail)));
                sums = [s.fma(dy[0], y[0], sums[0]), s.fma(dy[1], y[1], sums[1])];
            }
            *delta = total(s, sums);
        }
    }
}
