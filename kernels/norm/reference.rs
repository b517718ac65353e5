//! The specification of the norms: a row at a time, in f32, every sum in the order that `rows.rs` states.

use super::{columns::BLOCK, layer_norm, rms_norm, rms_norm::Write};
use crate::{Element, rows::Sum};

/// A row's factor: weight, or 1 + weight.
fn factor(config: &rms_norm::Config, weight: f32) -> f32 {
    if config.unit_offset { 1.0 + weight } else { weight }
}

/// What the forward multiplies by the factor.
fn normalised<T: Element>(config: &rms_norm::Config, x: T, rstd: f32) -> f32 {
    let n = x.to_f32() * rstd;
    if config.unit_offset { n } else { T::from_f32(n).to_f32() }
}

/// [`rms_norm::forward`].
pub fn rms_forward<T: Element>(config: &rms_norm::Config, x: &[T], weight: &[T], y: &mut [T], rstd: &mut [f32]) {
    let rows = x.chunks_exact(config.hidden).zip(y.chunks_exact_mut(config.hidden));
    for ((x, y), rstd) in rows.zip(rstd) {
        let square_sum = Sum::products(x.iter().map(|x| (x.to_f32(), x.to_f32())));
        *rstd = rms_norm::rstd_of(config, square_sum);
        for ((x, w), y) in x.iter().zip(weight).zip(y) {
            *y = T::from_f32(normalised(config, *x, *rstd) * factor(config, w.to_f32()));
        }
    }
}

/// s = x + r as [`rms_norm::forward_add`] has it.
pub fn add<T: Element>(x: &[T], r: &[T], s: &mut [T]) {
    for ((x, r), s) in x.iter().zip(r).zip(s) {
        *s = T::from_f32(x.to_f32() + r.to_f32());
    }
}

/// [`rms_norm::backward`].
pub fn rms_backward<T: Element>(
    config: &rms_norm::Config,
    [dy, x]: [&[T]; 2],
    weight: &[T],
    rstd: &[f32],
    dx: &mut [T],
    write: Write,
) {
    let hidden = config.hidden;
    let rows = dy.chunks_exact(hidden).zip(x.chunks_exact(hidden)).zip(dx.chunks_exact_mut(hidden));
    for (((dy, x), dx), rstd) in rows.zip(rstd) {
        let g = |i: usize| dy[i].to_f32() * factor(config, weight[i].to_f32());
        let n = |i: usize| x[i].to_f32() * rstd;
        let mean = Sum::products((0..hidden).map(|i| (g(i), n(i)))) / hidden as f32;
        for (i, dx) in dx.iter_mut().enumerate() {
            *dx = written(*dx, (-n(i)).mul_add(mean, g(i)), *rstd, write);
        }
    }
}

fn written<T: Element>(old: T, value: f32, rstd: f32, write: Write) -> T {
    T::from_f32(match write {
        Write::Set => rstd * value,
        Write::Add => rstd.mul_add(value, old.to_f32()),
    })
}

/// [`rms_norm::weight_gradient`].
pub fn rms_weight_gradient<T: Element>(
    config: &rms_norm::Config,
    [dy, x]: [&[T]; 2],
    rstd: &[f32],
    dweight: &mut [f32],
) {
    let hidden = config.hidden;
    for (column, total) in dweight.iter_mut().enumerate() {
        for (block, rstd) in rstd.chunks(BLOCK).enumerate() {
            let mut sum = 0.0f32;
            for (row, rstd) in rstd.iter().enumerate() {
                let at = (block * BLOCK + row) * hidden + column;
                sum = dy[at].to_f32().mul_add(normalised(config, x[at], *rstd), sum);
            }
            *total += sum;
        }
    }
}

/// [`layer_norm::forward`].
pub fn layer_forward<T: Element>(
    config: &layer_norm::Config,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    y: &mut [T],
    [mean, rstd]: [&mut [f32]; 2],
) {
    let hidden = config.hidden;
    let rows = x.chunks_exact(hidden).zip(y.chunks_exact_mut(hidden));
    for ((x, y), (mean, rstd)) in rows.zip(mean.iter_mut().zip(rstd)) {
        *mean = Sum::of(x.iter().map(|x| x.to_f32())) / hidden as f32;
        let d = |i: usize| x[i].to_f32() - *mean;
        let variance = Sum::products((0..hidden).map(|i| (d(i), d(i)))) / hidden as f32;
        *rstd = 1.0 / (variance + config.eps).sqrt();
        for i in 0..hidden {
            let n = d(i) * *rstd;
            y[i] = T::from_f32(match bias {
                None => n * weight[i].to_f32(),
                Some(bias) => n.mul_add(weight[i].to_f32(), bias[i].to_f32()),
            });
        }
    }
}

/// [`layer_norm::backward`].
pub fn layer_backward<T: Element>(
    config: &layer_norm::Config,
    [dy, x]: [&[T]; 2],
    weight: &[T],
    [mean, rstd]: [&[f32]; 2],
    dx: &mut [T],
    write: Write,
) {
    let hidden = config.hidden;
    let rows = dy.chunks_exact(hidden).zip(x.chunks_exact(hidden)).zip(dx.chunks_exact_mut(hidden));
    for (((dy, x), dx), (mean, rstd)) in rows.zip(mean.iter().zip(rstd)) {
        let g = |i: usize| dy[i].to_f32() * weight[i].to_f32();
        let n = |i: usize| (x[i].to_f32() - mean) * rstd;
        let g_mean = Sum::of((0..hidden).map(g)) / hidden as f32;
        let product_mean = Sum::products((0..hidden).map(|i| (g(i), n(i)))) / hidden as f32;
        for (i, dx) in dx.iter_mut().enumerate() {
            *dx = written(*dx, (-n(i)).mul_add(product_mean, g(i) - g_mean), *rstd, write);
        }
    }
}

/// [`layer_norm::weight_gradient`].
pub fn layer_weight_gradient<T: Element>(
    config: &layer_norm::Config,
    [dy, x]: [&[T]; 2],
    [mean, rstd]: [&[f32]; 2],
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    let hidden = config.hidden;
    for column in 0..hidden {
        for start in (0..rstd.len()).step_by(BLOCK) {
            let (mut weight_sum, mut bias_sum) = (0.0f32, 0.0f32);
            for row in start..rstd.len().min(start + BLOCK) {
                let at = row * hidden + column;
                let n = (x[at].to_f32() - mean[row]) * rstd[row];
                weight_sum = dy[at].to_f32().mul_add(n, weight_sum);
                bias_sum += dy[at].to_f32();
            }
            dweight[column] += weight_sum;
            dbias[column] += bias_sum;
        }
    }
}
