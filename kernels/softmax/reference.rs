//! The specification of `softmax`: a row at a time, in f32, sums in the order that `rows.rs` states.

use super::Block;
use crate::{Element, cross_entropy::shift, math, rows::Sum};

/// z, and dz/dx.
fn scaled(block: &Block<'_>, x: f32) -> (f32, f32) {
    let z = x * block.scale;
    let Some(cap) = block.logit_softcap else { return (z, block.scale) };
    let t = math::tanh(z / cap);
    (cap * t, block.scale * (-t).mul_add(t, 1.0))
}

/// [`super::forward`].
pub fn forward<T: Element>(block: &Block<'_>, scores: &mut [T], max: &mut [f32], sum: &mut [f32], rescale: &mut [f32]) {
    for row in 0..max.len() {
        let scores = &mut scores[row * block.cols..][..block.cols];
        let seen = block.visible(row % block.rows);
        let logit = |x: &T| scaled(block, x.to_f32()).0;
        let is_greater = |a: f32, b: f32| if b > a { b } else { a };
        let raw = scores[seen.clone()].iter().map(|x| x.to_f32()).fold(f32::NEG_INFINITY, is_greater);
        let new_max = if seen.is_empty() { max[row] } else { is_greater(max[row], scaled(block, raw).0) };
        rescale[row] = math::exp(max[row] - shift(new_max));
        max[row] = new_max;
        let p = |x: &T| math::exp(logit(x) - shift(new_max));
        sum[row] = sum[row] * rescale[row] + Sum::of(scores[seen.clone()].iter().map(p));
        for (i, x) in scores.iter_mut().enumerate() {
            *x = if seen.contains(&i) { T::from_f32(p(x)) } else { T::ZERO };
        }
    }
}

/// [`super::finish`].
pub fn finish<T: Element>(cols: usize, y: &mut [T], max: &[f32], sum: &[f32], lse: &mut [f32]) {
    for row in 0..sum.len() {
        lse[row] = (f64::from(max[row]) + math::ln(sum[row])) as f32;
        for y in &mut y[row * cols..][..cols] {
            *y = if sum[row] == 0.0 { T::ZERO } else { T::from_f32(y.to_f32() * (1.0 / sum[row])) };
        }
    }
}

/// [`super::rescale`].
pub fn rescale<T: Element>(cols: usize, y: &mut [T], factors: &[f32]) {
    for (row, factor) in factors.iter().enumerate() {
        for y in &mut y[row * cols..][..cols] {
            *y = if *factor == 0.0 { T::ZERO } else { T::from_f32(y.to_f32() * factor) };
        }
    }
}

/// [`super::delta`].
pub fn delta<T: Element>(cols: usize, dy: &[T], y: &[T], delta: &mut [f32]) {
    for (row, delta) in delta.iter_mut().enumerate() {
        let rows = row * cols..(row + 1) * cols;
        *delta = Sum::products(dy[rows.clone()].iter().zip(&y[rows]).map(|(dy, y)| (dy.to_f32(), y.to_f32())));
    }
}

/// [`super::backward`].
pub fn backward<T: Element>(block: &Block<'_>, scores: &mut [T], dp: &mut [T], lse: &[f32], delta: &[f32]) {
    for row in 0..lse.len() {
        let seen = block.visible(row % block.rows);
        for column in 0..block.cols {
            let at = row * block.cols + column;
            if !seen.contains(&column) {
                (scores[at], dp[at]) = (T::ZERO, T::ZERO);
                continue;
            }
            let (z, slope) = scaled(block, scores[at].to_f32());
            let p = math::exp(z - shift(lse[row]));
            scores[at] = T::from_f32(p);
            dp[at] = T::from_f32(p * (dp[at].to_f32() - delta[row]) * slope);
        }
    }
}
