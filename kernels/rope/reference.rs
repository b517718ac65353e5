//! The specification of `rope`: a pair at a time.

use super::Config;
use crate::Element;

/// [`super::forward`].
pub fn forward<T: Element>(config: &Config, cos: &[T], sin: &[T], x: &mut [T]) {
    turn(config, cos, sin, x, |[a, b], [cos_a, cos_b, sin_a, sin_b]| {
        [sum(product(a, cos_a), product(negative(b), sin_a)), sum(product(b, cos_b), product(a, sin_b))]
    });
}

/// [`super::backward`].
pub fn backward<T: Element>(config: &Config, cos: &[T], sin: &[T], dy: &mut [T]) {
    turn(config, cos, sin, dy, |[a, b], [cos_a, cos_b, sin_a, sin_b]| {
        [sum(product(a, cos_a), product(b, sin_b)), sum(product(b, cos_b), negative(product(a, sin_a)))]
    });
}

fn product<T: Element>(a: T, b: T) -> T {
    T::from_f32(a.to_f32() * b.to_f32())
}

fn sum<T: Element>(a: T, b: T) -> T {
    T::from_f32(a.to_f32() + b.to_f32())
}

fn negative<T: Element>(a: T) -> T {
    T::from_f32(-a.to_f32())
}

/// Calls `f` with every pair and its cosines and sines.
fn turn<T: Element>(config: &Config, cos: &[T], sin: &[T], x: &mut [T], f: impl Fn([T; 2], [T; 4]) -> [T; 2]) {
    let Config { heads, head_dim, dim, interleaved } = *config;
    let half = dim / 2;
    for (token, x) in x.chunks_exact_mut(heads * head_dim).enumerate() {
        for head in x.chunks_exact_mut(head_dim) {
            for i in 0..half {
                let (at_a, at_b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, half + i) };
                let (angle_a, angle_b) = (token * dim + i, token * dim + if interleaved { i } else { half + i });
                let angles = [cos[angle_a], cos[angle_b], sin[angle_a], sin[angle_b]];
                [head[at_a], head[at_b]] = f([head[at_a], head[at_b]], angles);
            }
        }
    }
}
