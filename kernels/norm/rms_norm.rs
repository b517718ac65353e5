//! y = x rsqrt(mean(x^2) + eps) weight over rows of `hidden` elements. Zhang & Sennrich 2019.
//!
//! Layout: x, y, dy, dx \[rows, hidden\] contiguous; weight \[hidden\]; rstd \[rows\] f32.
//! Bytes per element, e bytes wide: forward 2e; with the residual 4e; backward 3e, and 4e where it adds.
//! Precision: f32 inside. The forward rounds where transformers does, so that a bf16 model agrees with it: with `unit_offset`
//! off, as `LlamaRMSNorm`, x rstd is rounded to the element type and then multiplied by the weight, and rounded again; with it,
//! as `Gemma2RMSNorm`, x rstd (1 + weight) is rounded once. Bits can differ from transformers' only through the order of the
//! sum in rstd, by an ulp of f32. The backward rounds once, at the store.
//! NaN: a NaN or an infinity in a row makes that row's y and dx NaN (an infinite element; its finite neighbours give 0 times
//! the weight), and no other row's.
//!
//! The ladder: 1. `reference.rs`; 2. sixteen lanes, two passes over each row, the second reading from L1.
//! This file must not allocate, and checks every length before the first store.

use super::{
    columns,
    dispatch::{Done, RmsBackward, RmsForward},
};
use crate::{
    Element, Exec, KernelError,
    error::{elements, length},
    rows::{Pair, load, padded, rows_per_task, splat, store, total},
    simd::{Body, Simd},
};

pub const OP: &str = "rms_norm";

/// What is normalised, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Elements of a row; for a norm over groups, the group.
    pub hidden: usize,
    /// Added under the root.
    pub eps: f32,
    /// The factor is 1 + weight, as in Gemma.
    pub unit_offset: bool,
}

/// Where a backward puts dx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Over what was there.
    Set,
    /// Added, in f32 and rounded once, to what was there: the gradient that came past the norm on the residual stream.
    Add,
}

/// y and rstd = 1 / sqrt(mean(x^2) + eps). x, y: \[rows, hidden\]; weight: \[hidden\]; rstd: \[rows\].
///
/// # Errors
/// Where lengths do not fit, `hidden` is 0, or the CPU lacks `exec.isa`. Then nothing was written.
///
/// ```
/// use unswag_kernels::{Exec, norm::rms_norm};
/// let config = rms_norm::Config { hidden: 2, eps: 0.0, unit_offset: false };
/// let (mut y, mut rstd) = ([0.0f32; 2], [0.0; 1]);
/// rms_norm::forward(Exec::new(1), &config, &[1.0, 7.0], &[1.0, 2.0], &mut y, &mut rstd)?;
/// assert_eq!((y, rstd), ([0.2, 2.8], [0.2]));
/// # Ok::<(), unswag_kernels::KernelError>(())
/// ```
pub fn forward<T: Element>(
    exec: Exec,
    config: &Config,
    x: &[T],
    weight: &[T],
    y: &mut [T],
    rstd: &mut [f32],
) -> Result<(), KernelError> {
    check(config, weight.len(), rstd.len(), [("x", x.len()), ("y", y.len()), ("y", y.len())])?;
    T::rms_forward(exec, config, RmsForward { source: Source::Plain(x), weight, y, rstd })
}

/// s = x + r, rounded to the element type, and y = rms_norm(s). x, r, s, y: \[rows, hidden\]; rest as [`forward`].
///
/// # Errors
/// As [`forward`].
pub fn forward_add<T: Element>(
    exec: Exec,
    config: &Config,
    [x, r]: [&[T]; 2],
    weight: &[T],
    s: &mut [T],
    y: &mut [T],
    rstd: &mut [f32],
) -> Result<(), KernelError> {
    check(config, weight.len(), rstd.len(), [("x", x.len()), ("r", r.len()), ("s", s.len())])?;
    length(OP, "y", x.len(), y.len())?;
    T::rms_forward(exec, config, RmsForward { source: Source::Add(x, r, s), weight, y, rstd })
}

/// [`forward_add`] with x and s in one place: s += r, then y = rms_norm(s).
///
/// # Errors
/// As [`forward`].
pub fn forward_add_in_place<T: Element>(
    exec: Exec,
    config: &Config,
    s: &mut [T],
    r: &[T],
    weight: &[T],
    y: &mut [T],
    rstd: &mut [f32],
) -> Result<(), KernelError> {
    check(config, weight.len(), rstd.len(), [("s", s.len()), ("r", r.len()), ("y", y.len())])?;
    T::rms_forward(exec, config, RmsForward { source: Source::AddInPlace(s, r), weight, y, rstd })
}

/// dx = rstd (g - n mean(g n)), g = dy factor, n = x rstd, factor = weight or 1 + weight; x is what was normalised.
/// dy, x, dx: \[rows, hidden\]; weight: \[hidden\]; rstd: \[rows\], the forward's.
///
/// # Errors
/// As [`forward`].
pub fn backward<T: Element>(
    exec: Exec,
    config: &Config,
    [dy, x]: [&[T]; 2],
    weight: &[T],
    rstd: &[f32],
    dx: &mut [T],
    write: Write,
) -> Result<(), KernelError> {
    check(config, weight.len(), rstd.len(), [("dy", dy.len()), ("x", x.len()), ("dx", dx.len())])?;
    T::rms_backward(exec, config, RmsBackward { dy, x, weight, rstd, dx, write })
}

/// dweight += sum over rows of dy n, n being what the forward multiplied by the factor. dweight: \[hidden\] f32.
///
/// # Errors
/// As [`forward`].
pub fn weight_gradient<T: Element>(
    exec: Exec,
    config: &Config,
    [dy, x]: [&[T]; 2],
    rstd: &[f32],
    dweight: &mut [f32],
) -> Result<(), KernelError> {
    check(config, dweight.len(), rstd.len(), [("dy", dy.len()), ("x", x.len()), ("x", x.len())])?;
    let rounded = !config.unit_offset;
    T::columns(exec, columns::Args { dy, x, mean: None, rstd, rounded, dweight, dbias: None })
}

fn check(config: &Config, weight: usize, rows: usize, slices: [(&'static str, usize); 3]) -> Done {
    super::dispatch::check_row(OP, config.hidden, config.eps)?;
    length(OP, "weight", config.hidden, weight)?;
    let expected = elements(OP, rows, config.hidden)?;
    slices.into_iter().try_for_each(|(name, got)| length(OP, name, expected, got))
}

/// Where the rows to normalise come from.
pub(crate) enum Source<'a, T> {
    Plain(&'a [T]),
    /// x, r, and s = x + r.
    Add(&'a [T], &'a [T], &'a mut [T]),
    /// s, which is x before, and r.
    AddInPlace(&'a mut [T], &'a [T]),
}

pub(super) fn forward_rows<T: Element>(exec: Exec, config: &Config, args: RmsForward<'_, T>) -> Done {
    let RmsForward { source, weight, y, rstd } = args;
    let (hidden, config) = (config.hidden, *config);
    let take = rows_per_task(hidden);
    let (tasks, cut) = (rstd.len().div_ceil(take), take * hidden);
    let out = y.chunks_mut(cut).zip(rstd.chunks_mut(take));
    match source {
        Source::Plain(x) => exec.for_each(tasks, x.chunks(cut).zip(out), |(x, (y, rstd))| {
            T::launch(exec.isa, Forward { config, x, weight, y, rstd });
        }),
        Source::Add(x, r, sum) => {
            let work = x.chunks(cut).zip(r.chunks(cut)).zip(sum.chunks_mut(cut)).zip(out);
            exec.for_each(tasks, work, |(((x, r), sum), (y, rstd))| {
                // The copy stays in the cache: a chunk is some 64 KiB.
                sum.copy_from_slice(x);
                T::launch(exec.isa, ForwardAdd { config, sum, r, weight, y, rstd });
            })
        }
        Source::AddInPlace(sum, r) => {
            exec.for_each(tasks, sum.chunks_mut(cut).zip(r.chunks(cut)).zip(out), |((sum, r), (y, rstd))| {
                T::launch(exec.isa, ForwardAdd { config, sum, r, weight, y, rstd });
            })
        }
    }
}

struct Forward<'a, T> {
    config: Config,
    x: &'a [T],
    weight: &'a [T],
    y: &'a mut [T],
    rstd: &'a mut [f32],
}

impl<T: Element> Body for Forward<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Config { hidden, .. } = self.config;
        for ((x, y), rstd) in self.x.chunks_exact(hidden).zip(self.y.chunks_exact_mut(hidden)).zip(self.rstd) {
            *rstd = rstd_of(&self.config, square_sum(s, x));
            scaled(s, &self.config, x, self.weight, y, *rstd);
        }
    }
}

struct ForwardAdd<'a, T> {
    config: Config,
    sum: &'a mut [T],
    r: &'a [T],
    weight: &'a [T],
    y: &'a mut [T],
    rstd: &'a mut [f32],
}

impl<T: Element> Body for ForwardAdd<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Config { hidden, .. } = self.config;
        let rows = self.sum.chunks_exact_mut(hidden).zip(self.r.chunks_exact(hidden));
        for (((sum, r), y), rstd) in rows.zip(self.y.chunks_exact_mut(hidden)).zip(self.rstd) {
            *rstd = rstd_of(&self.config, add_and_square_sum(s, sum, r));
            scaled(s, &self.config, sum, self.weight, y, *rstd);
        }
    }
}

/// 1 / sqrt(mean + eps), each operation rounded: as `torch.rsqrt` on a CPU.
#[inline(always)]
pub(super) fn rstd_of(config: &Config, square_sum: f32) -> f32 {
    1.0 / (square_sum / config.hidden as f32 + config.eps).sqrt()
}

#[inline(always)]
fn square_sum<S: Simd, T: Element>(s: S, x: &[T]) -> f32 {
    let mut sums = splat(s, 0.0);
    let (blocks, tail) = x.as_chunks::<32>();
    for block in blocks {
        sums = add_squares(s, sums, load(s, block));
    }
    if !tail.is_empty() {
        sums = add_squares(s, sums, load(s, &padded(tail)));
    }
    total(s, sums)
}

#[inline(always)]
fn add_squares<S: Simd>(s: S, sums: Pair<S>, x: Pair<S>) -> Pair<S> {
    [s.fma(x[0], x[0], sums[0]), s.fma(x[1], x[1], sums[1])]
}

/// sum += r; the sum of its squares.
#[inline(always)]
fn add_and_square_sum<S: Simd, T: Element>(s: S, sum: &mut [T], r: &[T]) -> f32 {
    let mut sums = splat(s, 0.0);
    let (blocks, tail) = sum.as_chunks_mut::<32>();
    let (r_blocks, r_tail) = r.as_chunks::<32>();
    for (sum, r) in blocks.iter_mut().zip(r_blocks) {
        let added = rounded_sum::<S, T>(s, load(s, sum), load(s, r));
        sums = add_squares(s, sums, added);
        store(s, sum, added);
    }
    if !tail.is_empty() {
        let mut block = padded(tail);
        let added = rounded_sum::<S, T>(s, load(s, &block), load(s, &padded(r_tail)));
        sums = add_squares(s, sums, added);
        store(s, &mut block, added);
        tail.copy_from_slice(&block[..tail.len()]);
    }
    total(s, sums)
}

#[inline(always)]
fn rounded_sum<S: Simd, T: Element>(s: S, a: Pair<S>, b: Pair<S>) -> Pair<S> {
    [T::round(s, s.add(a[0], b[0])), T::round(s, s.add(a[1], b[1]))]
}

#[inline(always)]
fn scaled<S: Simd, T: Element>(s: S, config: &Config, x: &[T], weight: &[T], y: &mut [T], rstd: f32) {
    let rstd = s.splat(rstd);
    let (y_blocks, y_tail) = y.as_chunks_mut::<32>();
    let (x_blocks, x_tail) = x.as_chunks::<32>();
    let (w_blocks, w_tail) = weight.as_chunks::<32>();
    for ((x, w), y) in x_blocks.iter().zip(w_blocks).zip(y_blocks) {
        store(s, y, scaled_block::<S, T>(s, config, load(s, x), load(s, w), rstd));
    }
    if !x_tail.is_empty() {
        let mut block = [T::ZERO; 32];
        let (x, w) = (load(s, &padded(x_tail)), load(s, &padded(w_tail)));
        store(s, &mut block, scaled_block::<S, T>(s, config, x, w, rstd));
        y_tail.copy_from_slice(&block[..x_tail.len()]);
    }
}

#[inline(always)]
fn scaled_block<S: Simd, T: Element>(s: S, config: &Config, x: Pair<S>, w: Pair<S>, rstd: S::F) -> Pair<S> {
    let n = [s.mul(x[0], rstd), s.mul(x[1], rstd)];
    let f = factor(s, config, w);
    if config.unit_offset {
        return [s.mul(n[0], f[0]), s.mul(n[1], f[1])];
    }
    [s.mul(f[0], T::round(s, n[0])), s.mul(f[1], T::round(s, n[1]))]
}

/// weight, or 1 + weight.
#[inline(always)]
fn factor<S: Simd>(s: S, config: &Config, w: Pair<S>) -> Pair<S> {
    if config.unit_offset {
        let one = s.splat(1.0);
        return [s.add(one, w[0]), s.add(one, w[1])];
    }
    w
}

pub(super) fn backward_rows<T: Element>(exec: Exec, config: &Config, args: RmsBackward<'_, T>) -> Done {
    let RmsBackward { dy, x, weight, rstd, dx, write } = args;
    let (hidden, config) = (config.hidden, *config);
    let take = rows_per_task(hidden);
    let (tasks, cut) = (rstd.len().div_ceil(take), take * hidden);
    let work = dy.chunks(cut).zip(x.chunks(cut)).zip(rstd.chunks(take)).zip(dx.chunks_mut(cut));
    exec.for_each(tasks, work, |(((dy, x), rstd), dx)| {
        T::launch(exec.isa, Backward { config, dy, x, weight, rstd, dx, write });
    })
}

struct Backward<'a, T> {
    config: Config,
    dy: &'a [T],
    x: &'a [T],
    weight: &'a [T],
    rstd: &'a [f32],
    dx: &'a mut [T],
    write: Write,
}

impl<T: Element> Body for Backward<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let hidden = self.config.hidden;
        let rows = self.dy.chunks_exact(hidden).zip(self.x.chunks_exact(hidden)).zip(self.rstd);
        let (w_blocks, w_tail) = self.weight.as_chunks::<32>();
        let w_padded = padded(w_tail);
        for (((dy, x), rstd), dx) in rows.zip(self.dx.chunks_exact_mut(hidden)) {
            let rstd = s.splat(*rstd);
            let (dy_blocks, dy_tail) = dy.as_chunks::<32>();
            let (x_blocks, x_tail) = x.as_chunks::<32>();
            let (dx_blocks, dx_tail) = dx.as_chunks_mut::<32>();
            let (dy_padded, x_padded) = (padded(dy_tail), padded(x_tail));
            let mut sums = splat(s, 0.0);
            for ((dy, x), w) in dy_blocks.iter().zip(x_blocks).zip(w_blocks) {
                sums = dot(s, sums, terms(s, &self.config, [dy, x, w], rstd));
            }
            if !dy_tail.is_empty() {
                sums = dot(s, sums, terms(s, &self.config, [&dy_padded, &x_padded, &w_padded], rstd));
            }
            let mean = s.splat(total(s, sums) / hidden as f32);
            for (((dy, x), w), dx) in dy_blocks.iter().zip(x_blocks).zip(w_blocks).zip(dx_blocks) {
                let [g, n] = terms(s, &self.config, [dy, x, w], rstd);
                into(s, dx, [s.fnma(n[0], mean, g[0]), s.fnma(n[1], mean, g[1])], rstd, self.write);
            }
            if !dy_tail.is_empty() {
                let mut block = padded(dx_tail);
                let [g, n] = terms(s, &self.config, [&dy_padded, &x_padded, &w_padded], rstd);
                into(s, &mut block, [s.fnma(n[0], mean, g[0]), s.fnma(n[1], mean, g[1])], rstd, self.write);
                dx_tail.copy_from_slice(&block[..dx_tail.len()]);
            }
        }
    }
}

/// g = dy factor and n = x rstd.
#[inline(always)]
fn terms<S: Simd, T: Element>(s: S, config: &Config, [dy, x, w]: [&[T; 32]; 3], rstd: S::F) -> [Pair<S>; 2] {
    let (dy, x, f) = (load(s, dy), load(s, x), factor(s, config, load(s, w)));
    [[s.mul(dy[0], f[0]), s.mul(dy[1], f[1])], [s.mul(x[0], rstd), s.mul(x[1], rstd)]]
}

#[inline(always)]
pub(super) fn dot<S: Simd>(s: S, sums: Pair<S>, [a, b]: [Pair<S>; 2]) -> Pair<S> {
    [s.fma(a[0], b[0], sums[0]), s.fma(a[1], b[1], sums[1])]
}

/// dx = rstd value, or dx + rstd value.
#[inline(always)]
pub(super) fn into<S: Simd, T: Element>(s: S, dx: &mut [T; 32], value: Pair<S>, rstd: S::F, write: Write) {
    let value = match write {
        Write::Set => [s.mul(rstd, value[0]), s.mul(rstd, value[1])],
        Write::Add => {
            let old = load(s, dx);
            [s.fma(rstd, value[0], old[0]), s.fma(rstd, value[1], old[1])]
        }
    };
    store(s, dx, value);
}
