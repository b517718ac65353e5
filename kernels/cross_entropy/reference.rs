//! The specification of `cross_entropy`: a row at a time, in f32, the sum in the order that `rows.rs` states.

use super::{Config, column, shift};
use crate::{Element, math, rows::Sum};

/// [`super::forward`].
pub fn forward<T: Element>(config: &Config, logits: &[T], targets: &[i64], loss: &mut [f32], lse: &mut [f32]) {
    for (row, target) in targets.iter().enumerate() {
        let Some(column) = column(config, *target) else {
            (loss[row], lse[row]) = (0.0, 0.0);
            continue;
        };
        let x = |i: usize| logits[row * config.vocab + i].to_f32();
        let max = shift((0..config.vocab).map(x).fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a }));
        let log_sum = math::ln(Sum::of((0..config.vocab).map(|i| math::exp(x(i) - max))));
        loss[row] = (f64::from(max) - f64::from(x(column)) + log_sum) as f32;
        lse[row] = (f64::from(max) + log_sum) as f32;
    }
}

/// [`super::backward`].
pub fn backward<T: Element>(config: &Config, logits: &mut [T], targets: &[i64], lse: &[f32], scale: f32) {
    for ((row, target), lse) in logits.chunks_exact_mut(config.vocab).zip(targets).zip(lse) {
        let Some(column) = column(config, *target) else {
            row.fill(T::ZERO);
            continue;
        };
        for (i, x) in row.iter_mut().enumerate() {
            let p = math::exp(x.to_f32() - lse);
            *x = T::from_f32(if i == column { (p - 1.0) * scale } else { p * scale });
        }
    }
}
