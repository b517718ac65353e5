//! y = (x - mean) rstd weight + bias over rows of `hidden` elements, rstd = 1 / sqrt(var + eps). Ba et al. 2016.
//!
//! Layout: x, y, dy, dx \[rows, hidden\] contiguous; weight, bias \[hidden\]; mean, rstd \[rows\] f32.
//! Bytes per element, e bytes wide: forward 2e; backward 3e, and 4e where it adds.
//! Precision: f32 inside, rounded once at the store, as `torch.nn.LayerNorm` does; the variance is the mean of (x - mean)^2, so
//! that a large mean costs no digits. Bits can differ from torch's by the order of its sums and by its order of products.
//! NaN: a NaN or an infinity in a row makes the whole row's y and dx NaN, and no other row's.
//!
//! The ladder: 1. `reference.rs`; 2. sixteen lanes, three passes over each row, all but the first reading from L1.
//! This file must not allocate, and checks every length before the first store.

use super::{
    columns,
    dispatch::{Done, LayerBackward, LayerForward},
    rms_norm::{Write, dot, into},
};
use crate::{
    Element, Exec, KernelError,
    error::{elements, length},
    rows::{Pair, first, load, padded, rows_per_task, splat, store, total},
    simd::{Body, Simd},
};

pub const OP: &str = "layer_norm";

/// What is normalised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Elements of a row.
    pub hidden: usize,
    /// Added under the root.
    pub eps: f32,
}

/// y, mean and rstd. x, y: \[rows, hidden\]; weight, bias: \[hidden\]; mean, rstd: \[rows\].
///
/// # Errors
/// Where lengths do not fit, `hidden` is 0, or the CPU lacks `exec.isa`. Then nothing was written.
pub fn forward<T: Element>(
    exec: Exec,
    config: &Config,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    y: &mut [T],
    [mean, rstd]: [&mut [f32]; 2],
) -> Result<(), KernelError> {
    let bias_len = bias.map_or(config.hidden, <[T]>::len);
    check(config, [weight.len(), bias_len], [mean.len(), rstd.len()], [("x", x.len()), ("y", y.len())])?;
    T::layer_forward(exec, config, LayerForward { x, weight, bias, y, mean, rstd })
}

/// dx = rstd (g - mean(g) - n mean(g n)), g = dy weight, n = (x - mean) rstd. dy, x, dx: \[rows, hidden\]; mean, rstd: \[rows\],
/// the forward's.
///
/// # Errors
/// As [`forward`].
pub fn backward<T: Element>(
    exec: Exec,
    config: &Config,
    [dy, x]: [&[T]; 2],
    weight: &[T],
    [mean, rstd]: [&[f32]; 2],
    dx: &mut [T],
    write: Write,
) -> Result<(), KernelError> {
    let weights = [weight.len(), config.hidden];
    check(config, weights, [mean.len(), rstd.len()], [("dy", dy.len()), ("x", x.len())])?;
    length(OP, "dx", x.len(), dx.len())?;
    T::layer_backward(exec, config, LayerBackward { dy, x, weight, mean, rstd, dx, write })
}

/// dweight += sum over rows of dy n; dbias += sum over rows of dy. dweight, dbias: \[hidden\] f32.
///
/// # Errors
/// As [`forward`].
pub fn weight_gradient<T: Element>(
    exec: Exec,
    config: &Config,
    [dy, x]: [&[T]; 2],
    [mean, rstd]: [&[f32]; 2],
    dweight: &mut [f32],
    dbias: Option<&mut [f32]>,
) -> Result<(), KernelError> {
    let weights = [dweight.len(), dbias.as_ref().map_or(config.hidden, |dbias| dbias.len())];
    check(config, weights, [mean.len(), rstd.len()], [("dy", dy.len()), ("x", x.len())])?;
    T::columns(exec, columns::Args { dy, x, mean: Some(mean), rstd, rounded: false, dweight, dbias })
}

fn check(
    config: &Config,
    [weight, bias]: [usize; 2],
    [mean, rstd]: [usize; 2],
    slices: [(&'static str, usize); 2],
) -> Done {
    super::dispatch::check_row(OP, config.hidden, config.eps)?;
    length(OP, "weight", config.hidden, weight)?;
    length(OP, "bias", config.hidden, bias)?;
    length(OP, "mean", rstd, mean)?;
    let expected = elements(OP, rstd, config.hidden)?;
    slices.into_iter().try_for_each(|(name, got)| length(OP, name, expected, got))
}

pub(super) fn forward_rows<T: Element>(exec: Exec, config: &Config, args: LayerForward<'_, T>) -> Done {
    let LayerForward { x, weight, bias, y, mean, rstd } = args;
    let (hidden, config) = (config.hidden, *config);
    let take = rows_per_task(hidden);
    let (tasks, cut) = (rstd.len().div_ceil(take), take * hidden);
    let work = x.chunks(cut).zip(y.chunks_mut(cut)).zip(mean.chunks_mut(take).zip(rstd.chunks_mut(take)));
    exec.for_each(tasks, work, |((x, y), (mean, rstd))| {
        T::launch(exec.isa, Forward { config, x, weight, bias, y, mean, rstd });
    })
}

struct Forward<'a, T> {
    config: Config,
    x: &'a [T],
    weight: &'a [T],
    bias: Option<&'a [T]>,
    y: &'a mut [T],
    mean: &'a mut [f32],
    rstd: &'a mut [f32],
}

impl<T: Element> Body for Forward<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Config { hidden, eps } = self.config;
        let statistics = self.mean.iter_mut().zip(self.rstd);
        let rows = self.x.chunks_exact(hidden).zip(self.y.chunks_exact_mut(hidden));
        let (w_blocks, w_tail) = self.weight.as_chunks::<32>();
        let w_padded = padded(w_tail);
        for ((x, y), (mean, rstd)) in rows.zip(statistics) {
            let (x_blocks, x_tail) = x.as_chunks::<32>();
            let x_padded = padded(x_tail);
            let mut sums = splat(s, 0.0);
            for x in x_blocks {
                let x = load(s, x);
                sums = [s.add(sums[0], x[0]), s.add(sums[1], x[1])];
            }
            if !x_tail.is_empty() {
                let x = load(s, &x_padded);
                sums = [s.add(sums[0], x[0]), s.add(sums[1], x[1])];
            }
            *mean = total(s, sums) / hidden as f32;
            let m = s.splat(*mean);
            let mut sums = splat(s, 0.0);
            for x in x_blocks {
                let d = centred(s, load(s, x), m);
                sums = dot(s, sums, [d, d]);
            }
            if !x_tail.is_empty() {
                // The filling must stay zero, not become -mean.
                let d = first(s, centred(s, load(s, &x_padded), m), x_tail.len(), 0.0);
                sums = dot(s, sums, [d, d]);
            }
            *rstd = 1.0 / (total(s, sums) / hidden as f32 + eps).sqrt();
            let r = s.splat(*rstd);
            let (y_blocks, y_tail) = y.as_chunks_mut::<32>();
            for (at, ((x, w), y)) in x_blocks.iter().zip(w_blocks).zip(y_blocks).enumerate() {
                let bias = self.bias.map(|bias| &bias.as_chunks::<32>().0[at]);
                store(s, y, affine(s, [x, w], bias, m, r));
            }
            if !x_tail.is_empty() {
                let mut block = [T::ZERO; 32];
                let bias = self.bias.map(|bias| padded(bias.as_chunks::<32>().1));
                store(s, &mut block, affine(s, [&x_padded, &w_padded], bias.as_ref(), m, r));
                y_tail.copy_from_slice(&block[..y_tail.len()]);
            }
        }
    }
}

#[inline(always)]
fn centred<S: Simd>(s: S, x: Pair<S>, mean: S::F) -> Pair<S> {
    [s.sub(x[0], mean), s.sub(x[1], mean)]
}

#[inline(always)]
fn affine<S: Simd, T: Element>(s: S, [x, w]: [&[T; 32]; 2], bias: Option<&[T; 32]>, mean: S::F, rstd: S::F) -> Pair<S> {
    let (d, w) = (centred(s, load(s, x), mean), load(s, w));
    let n = [s.mul(d[0], rstd), s.mul(d[1], rstd)];
    match bias {
        None => [s.mul(n[0], w[0]), s.mul(n[1], w[1])],
        Some(bias) => {
            let b = load(s, bias);
            [s.fma(n[0], w[0], b[0]), s.fma(n[1], w[1], b[1])]
        }
    }
}

pub(super) fn backward_rows<T: Element>(exec: Exec, config: &Config, args: LayerBackward<'_, T>) -> Done {
    let LayerBackward { dy, x, weight, mean, rstd, dx, write } = args;
    let hidden = config.hidden;
    let take = rows_per_task(hidden);
    let (tasks, cut) = (rstd.len().div_ceil(take), take * hidden);
    let statistics = mean.chunks(take).zip(rstd.chunks(take));
    let work = dy.chunks(cut).zip(x.chunks(cut)).zip(statistics).zip(dx.chunks_mut(cut));
    exec.for_each(tasks, work, |(((dy, x), (mean, rstd)), dx)| {
        T::launch(exec.isa, Backward { hidden, dy, x, weight, mean, rstd, dx, write });
    })
}

struct Backward<'a, T> {
    hidden: usize,
    dy: &'a [T],
    x: &'a [T],
    weight: &'a [T],
    mean: &'a [f32],
    rstd: &'a [f32],
    dx: &'a mut [T],
    write: Write,
}

impl<T: Element> Body for Backward<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let hidden = self.hidden;
        let statistics = self.mean.iter().zip(self.rstd);
        let rows = self.dy.chunks_exact(hidden).zip(self.x.chunks_exact(hidden)).zip(statistics);
        let (w_blocks, w_tail) = self.weight.as_chunks::<32>();
        let w_padded = padded(w_tail);
        for (((dy, x), (mean, rstd)), dx) in rows.zip(self.dx.chunks_exact_mut(hidden)) {
            let (mean, rstd) = (s.splat(*mean), s.splat(*rstd));
            let (dy_blocks, dy_tail) = dy.as_chunks::<32>();
            let (x_blocks, x_tail) = x.as_chunks::<32>();
            let (dx_blocks, dx_tail) = dx.as_chunks_mut::<32>();
            let (dy_padded, x_padded) = (padded(dy_tail), padded(x_tail));
            let (mut g_sums, mut products) = (splat(s, 0.0), splat(s, 0.0));
            for ((dy, x), w) in dy_blocks.iter().zip(x_blocks).zip(w_blocks) {
                let [g, n] = terms(s, [dy, x, w], mean, rstd);
                g_sums = [s.add(g_sums[0], g[0]), s.add(g_sums[1], g[1])];
                products = dot(s, products, [g, n]);
            }
            if !dy_tail.is_empty() {
                // Where the filling's n is not zero, its g is.
                let [g, n] = terms(s, [&dy_padded, &x_padded, &w_padded], mean, rstd);
                g_sums = [s.add(g_sums[0], g[0]), s.add(g_sums[1], g[1])];
                products = dot(s, products, [g, n]);
            }
            let g_mean = s.splat(total(s, g_sums) / hidden as f32);
            let product_mean = s.splat(total(s, products) / hidden as f32);
            for (((dy, x), w), dx) in dy_blocks.iter().zip(x_blocks).zip(w_blocks).zip(dx_blocks) {
                let value = rest(s, terms(s, [dy, x, w], mean, rstd), g_mean, product_mean);
                into(s, dx, value, rstd, self.write);
            }
            if !dy_tail.is_empty() {
                let mut block = padded(dx_tail);
                let terms = terms(s, [&dy_padded, &x_padded, &w_padded], mean, rstd);
                into(s, &mut block, rest(s, terms, g_mean, product_mean), rstd, self.write);
                dx_tail.copy_from_slice(&block[..dx_tail.len()]);
            }
        }
    }
}

/// g = dy weight and n = (x - mean) rstd.
#[inline(always)]
fn terms<S: Simd, T: Element>(s: S, [dy, x, w]: [&[T; 32]; 3], mean: S::F, rstd: S::F) -> [Pair<S>; 2] {
    let (dy, w, d) = (load(s, dy), load(s, w), centred(s, load(s, x), mean));
    [[s.mul(dy[0], w[0]), s.mul(dy[1], w[1])], [s.mul(d[0], rstd), s.mul(d[1], rstd)]]
}

/// g - mean(g) - n mean(g n).
#[inline(always)]
fn rest<S: Simd>(s: S, [g, n]: [Pair<S>; 2], g_mean: S::F, product_mean: S::F) -> Pair<S> {
    [s.fnma(n[0], product_mean, s.sub(g[0], g_mean)), s.fnma(n[1], product_mean, s.sub(g[1], g_mean))]
}
