//! `cross_entropy`: the loss of each row of logits against its target, and its gradient over the logits themselves.
//!
//! Math: lse = ln(sum(exp(x))), loss = lse - x\[target\], dx = (exp(x - lse) - \[column = target\]) scale.
//! Layout: logits \[rows, vocab\] contiguous, f32, bf16 or f16; targets \[rows\] i64; loss, lse \[rows\] f32.
//! Bytes per element, e bytes wide: forward e, backward 2e, both at once 2e: a row is read once from memory and again from the
//! cache. The gradient takes the place of the logits, so that no second \[rows, vocab\] exists.
//! Precision: f32 inside; the sum in the order of `rows.rs`; its logarithm, lse and loss in f64 until they are stored; the
//! gradient rounded once. A soft cap on the logits is the caller's: before, and its derivative after.
//! A target of `ignore_index` costs nothing: loss 0, lse 0, and a gradient of zeros whatever the logits are.
//! NaN: a NaN or +inf among a row's logits makes that row's loss, lse and gradient NaN, and no other row's. -inf has the
//! probability 0; as the target it makes the loss +inf and leaves the gradient finite. A row of nothing but -inf is NaN.
//!
//! The ladder: 1. `reference.rs`; 2. sixteen lanes, three passes over each row: maximum, sum, gradient.
//! This file must not allocate, and checks every length and target before the first store.

mod dispatch;
pub mod reference;

pub(crate) use dispatch::Kernels;
use dispatch::{Backward, Done, Forward, Fused};

use crate::{
    Element, Exec, KernelError,
    error::{elements, length},
    math,
    rows::{Pair, first, load, padded, rows_per_task, splat, store, total},
    simd::{Body, Simd, math::Exp},
};

pub const OP: &str = "cross_entropy";

/// The target that torch and transformers use for "none".
pub const IGNORE_INDEX: i64 = -100;

/// What the targets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Logits of a row.
    pub vocab: usize,
    /// The target of rows that do not count: [`IGNORE_INDEX`].
    pub ignore_index: i64,
}

/// loss and lse. logits: \[rows, vocab\]; targets, loss, lse: \[rows\]. lse is 0 where the row is ignored.
///
/// # Errors
/// Where lengths do not fit, a target is not in 0..vocab nor `ignore_index`, or the CPU lacks `exec.isa`. Then nothing was
/// written.
pub fn forward<T: Element>(
    exec: Exec,
    config: &Config,
    logits: &[T],
    targets: &[i64],
    loss: &mut [f32],
    lse: &mut [f32],
) -> Result<(), KernelError> {
    check(config, logits.len(), targets)?;
    length(OP, "loss", targets.len(), loss.len())?;
    length(OP, "lse", targets.len(), lse.len())?;
    T::cross_entropy_forward(exec, config, Forward { logits, targets, loss, lse })
}

/// logits become (softmax(logits) - onehot(target)) scale, by the lse of [`forward`]. `scale` is usually 1 / the number of
/// rows that count.
///
/// # Errors
/// As [`forward`].
pub fn backward<T: Element>(
    exec: Exec,
    config: &Config,
    logits: &mut [T],
    targets: &[i64],
    lse: &[f32],
    scale: f32,
) -> Result<(), KernelError> {
    check(config, logits.len(), targets)?;
    length(OP, "lse", targets.len(), lse.len())?;
    T::cross_entropy_backward(exec, config, Backward { logits, targets, lse, scale })
}

/// [`forward`] and [`backward`] in one pass over memory, the same bits.
///
/// # Errors
/// As [`forward`].
///
/// ```
/// use unswag_kernels::{Exec, cross_entropy};
/// let config = cross_entropy::Config { vocab: 2, ignore_index: cross_entropy::IGNORE_INDEX };
/// let (mut logits, mut loss, mut lse) = ([3.0f32, 3.0, 1.0, 2.0], [0.0; 2], [0.0; 2]);
/// cross_entropy::forward_backward(Exec::new(1), &config, &mut logits, &[1, -100], 1.0, &mut loss, &mut lse)?;
/// assert_eq!(logits, [0.5, -0.5, 0.0, 0.0]);
/// assert_eq!(loss, [std::f32::consts::LN_2, 0.0]);
/// # Ok::<(), unswag_kernels::KernelError>(())
/// ```
pub fn forward_backward<T: Element>(
    exec: Exec,
    config: &Config,
    logits: &mut [T],
    targets: &[i64],
    scale: f32,
    loss: &mut [f32],
    lse: &mut [f32],
) -> Result<(), KernelError> {
    check(config, logits.len(), targets)?;
    length(OP, "loss", targets.len(), loss.len())?;
    length(OP, "lse", targets.len(), lse.len())?;
    T::cross_entropy_fused(exec, config, Fused { logits, targets, scale, loss, lse })
}

fn check(config: &Config, logits: usize, targets: &[i64]) -> Done {
    if config.vocab == 0 {
        let (expected, got) = ("at least 1".into(), "0".into());
        return Err(KernelError::Argument { op: OP, argument: "vocab", expected, got });
    }
    length(OP, "logits", elements(OP, targets.len(), config.vocab)?, logits)?;
    let is_bad = |target: i64| target != config.ignore_index && column(config, target).is_none();
    let Some(row) = targets.iter().position(|&target| is_bad(target)) else { return Ok(()) };
    let expected = format!("from 0 to {}, or {} for none", config.vocab - 1, config.ignore_index);
    Err(KernelError::Argument { op: OP, argument: "targets", expected, got: format!("{} at row {row}", targets[row]) })
}

/// The target's column; `None` where it is ignored (or, in [`check`], is none).
#[inline(always)]
fn column(config: &Config, target: i64) -> Option<usize> {
    if target == config.ignore_index {
        return None;
    }
    usize::try_from(target).ok().filter(|&column| column < config.vocab)
}

fn forward_rows<T: Element>(exec: Exec, config: &Config, args: Forward<'_, T>) -> Done {
    let Forward { logits, targets, loss, lse } = args;
    let take = rows_per_task(config.vocab);
    let work = logits.chunks(take * config.vocab).zip(targets.chunks(take));
    let work = work.zip(loss.chunks_mut(take).zip(lse.chunks_mut(take)));
    exec.for_each(targets.len().div_ceil(take), work, |((logits, targets), (loss, lse))| {
        T::launch(exec.isa, ForwardRows { config: *config, args: Forward { logits, targets, loss, lse } });
    })
}

fn backward_rows<T: Element>(exec: Exec, config: &Config, args: Backward<'_, T>) -> Done {
    let Backward { logits, targets, lse, scale } = args;
    let take = rows_per_task(config.vocab);
    let work = logits.chunks_mut(take * config.vocab).zip(targets.chunks(take)).zip(lse.chunks(take));
    exec.for_each(targets.len().div_ceil(take), work, |((logits, targets), lse)| {
        T::launch(exec.isa, BackwardRows { config: *config, args: Backward { logits, targets, lse, scale } });
    })
}

fn fused_rows<T: Element>(exec: Exec, config: &Config, args: Fused<'_, T>) -> Done {
    let Fused { logits, targets, scale, loss, lse } = args;
    let take = rows_per_task(config.vocab);
    let work = logits.chunks_mut(take * config.vocab).zip(targets.chunks(take));
    let work = work.zip(loss.chunks_mut(take).zip(lse.chunks_mut(take)));
    exec.for_each(targets.len().div_ceil(take), work, |((logits, targets), (loss, lse))| {
        T::launch(exec.isa, FusedRows { config: *config, args: Fused { logits, targets, scale, loss, lse } });
    })
}

struct ForwardRows<'a, T> {
    config: Config,
    args: Forward<'a, T>,
}

impl<T: Element> Body for ForwardRows<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Forward { logits, targets, loss, lse } = self.args;
        let rows = logits.chunks_exact(self.config.vocab).zip(targets);
        for ((row, target), (loss, lse)) in rows.zip(loss.iter_mut().zip(lse)) {
            [*loss, *lse] = match column(&self.config, *target) {
                None => [0.0; 2],
                Some(column) => loss_and_lse(s, row, column),
            };
        }
    }
}

struct BackwardRows<'a, T> {
    config: Config,
    args: Backward<'a, T>,
}

impl<T: Element> Body for BackwardRows<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Backward { logits, targets, lse, scale } = self.args;
        for ((row, target), lse) in logits.chunks_exact_mut(self.config.vocab).zip(targets).zip(lse) {
            match column(&self.config, *target) {
                None => row.fill(T::ZERO),
                Some(column) => gradient(s, row, column, *lse, scale),
            }
        }
    }
}

struct FusedRows<'a, T> {
    config: Config,
    args: Fused<'a, T>,
}

impl<T: Element> Body for FusedRows<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Fused { logits, targets, scale, loss, lse } = self.args;
        let rows = logits.chunks_exact_mut(self.config.vocab).zip(targets);
        for ((row, target), (loss, lse)) in rows.zip(loss.iter_mut().zip(lse)) {
            match column(&self.config, *target) {
                None => {
                    [*loss, *lse] = [0.0; 2];
                    row.fill(T::ZERO);
                }
                Some(column) => {
                    [*loss, *lse] = loss_and_lse(s, row, column);
                    gradient(s, row, column, *lse, scale);
                }
            }
        }
    }
}

#[inline(always)]
fn loss_and_lse<S: Simd, T: Element>(s: S, row: &[T], column: usize) -> [f32; 2] {
    let max = shift(maximum(s, row));
    let log_sum = math::ln(sum_of_exp(s, row, max));
    let target = row[column].to_f32();
    [(f64::from(max) - f64::from(target) + log_sum) as f32, (f64::from(max) + log_sum) as f32]
}

/// What is subtracted before `exp`: the maximum, or 0 where that is -inf, so that -inf stays a probability of 0.
#[inline(always)]
pub(crate) fn shift(max: f32) -> f32 {
    if max == f32::NEG_INFINITY { 0.0 } else { max }
}

/// The greatest element; NaNs are passed over.
#[inline(always)]
pub(crate) fn maximum<S: Simd, T: Element>(s: S, row: &[T]) -> f32 {
    let mut max = splat(s, f32::NEG_INFINITY);
    let (blocks, tail) = row.as_chunks::<32>();
    for block in blocks {
        let x = load(s, block);
        max = [s.max(x[0], max[0]), s.max(x[1], max[1])];
    }
    if !tail.is_empty() {
        let x = first(s, load(s, &padded(tail)), tail.len(), f32::NEG_INFINITY);
        max = [s.max(x[0], max[0]), s.max(x[1], max[1])];
    }
    s.reduce_max(s.max(max[0], max[1]))
}

#[inline(always)]
fn sum_of_exp<S: Simd, T: Element>(s: S, row: &[T], max: f32) -> f32 {
    let (mut sums, max) = (splat(s, 0.0), s.splat(max));
    let (blocks, tail) = row.as_chunks::<32>();
    for block in blocks {
        let e = exp_minus(s, load(s, block), max);
        sums = [s.add(sums[0], e[0]), s.add(sums[1], e[1])];
    }
    if !tail.is_empty() {
        let e = first(s, exp_minus(s, load(s, &padded(tail)), max), tail.len(), 0.0);
        sums = [s.add(sums[0], e[0]), s.add(sums[1], e[1])];
    }
    total(s, sums)
}

/// exp(x - shift).
#[inline(always)]
pub(crate) fn exp_minus<S: Simd>(s: S, x: Pair<S>, shift: S::F) -> Pair<S> {
    [s.value::<Exp>(s.sub(x[0], shift)), s.value::<Exp>(s.sub(x[1], shift))]
}

#[inline(always)]
fn gradient<S: Simd, T: Element>(s: S, row: &mut [T], column: usize, lse: f32, scale: f32) {
    let at_target = (math::exp(row[column].to_f32() - lse) - 1.0) * scale;
    let (wide_lse, wide_scale) = (s.splat(lse), s.splat(scale));
    let (blocks, tail) = row.as_chunks_mut::<32>();
    for block in blocks {
        let p = exp_minus(s, load(s, block), wide_lse);
        store(s, block, [s.mul(p[0], wide_scale), s.mul(p[1], wide_scale)]);
    }
    if !tail.is_empty() {
        let mut block = padded(tail);
        let p = exp_minus(s, load(s, &block), wide_lse);
        store(s, &mut block, [s.mul(p[0], wide_scale), s.mul(p[1], wide_scale)]);
        tail.copy_from_slice(&block[..tail.len()]);
    }
    row[column] = T::from_f32(at_target);
}
