//! The specification of the element-wise ops.

use super::Mask;
use crate::Element;

/// [`super::relu`].
pub fn relu<T: Element>(x: &mut [T]) {
    for x in x {
        if x.to_f32() <= 0.0 {
            *x = T::ZERO;
        }
    }
}

/// [`super::relu_backward`].
pub fn relu_backward<T: Element>(y: &[T], dy: &mut [T]) {
    for (y, dy) in y.iter().zip(dy) {
        if y.to_f32() <= 0.0 {
            *dy = T::ZERO;
        }
    }
}

/// [`super::add`].
pub fn add<T: Element>(a: &mut [T], b: &[T]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a = T::from_f32(a.to_f32() + b.to_f32());
    }
}

/// [`super::scale`].
pub fn scale<T: Element>(x: &mut [T], by: f32) {
    for x in x {
        *x = T::from_f32(x.to_f32() * by);
    }
}

/// [`super::mul_columns`].
pub fn mul_columns<T: Element>(x: &mut [T], factors: &[f32]) {
    for (index, x) in x.iter_mut().enumerate() {
        *x = T::from_f32(x.to_f32() * factors[index % factors.len()]);
    }
}

/// [`super::dropout`].
pub fn dropout<T: Element>(mask: Mask, cols: usize, from: &[T], to: &mut [T]) {
    for (index, (from, to)) in from.iter().zip(to).enumerate() {
        let number = mask.row(index / cols).at(index % cols);
        *to = if number >= mask.p { T::from_f32(from.to_f32() * mask.scale) } else { T::ZERO };
    }
}

/// [`super::to_f32`] and [`super::from_f32`].
pub fn cast<A: Element, B: Element>(from: &[A], to: &mut [B]) {
    for (from, to) in from.iter().zip(to) {
        *to = B::from_f32(from.to_f32());
    }
}
