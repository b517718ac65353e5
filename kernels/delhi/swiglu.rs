//! `delhi.swiglu`: h = silu(g) u, exactly; the backward from g and u, or from both at 8, 4 or 2 bits.
//!
//! Layout, bytes, precision and the ladder of versions: `gated.rs`, which serves this op and `delhi.geglu` alike.

use super::{Activation, Config, Saved, SavedMut, Shape};
use crate::{Element, Exec, KernelError, element::How};

pub const OP: &str = "delhi.swiglu";

/// h = silu(g) u, nothing saved: what [`forward`] writes to `h`, bit for bit. g, u, h: \[n\].
///
/// # Errors
/// Where the lengths differ, or the CPU lacks `exec.isa`.
pub fn plain<T: Element>(exec: Exec, g: &[T], u: &[T], h: &mut [T]) -> Result<(), KernelError> {
    T::gated_plain(OP, exec, Activation::Silu, g, u, h)
}

/// h = silu(g) u; g and u saved in groups. g, u, h: \[rows, cols\]; `saved` sized by
/// [`saved_sizes`](super::saved_sizes), and all empty in mode `exact`, where the caller keeps g and u.
///
/// # Errors
/// Where lengths or group size do not fit, or the CPU lacks `exec.isa`. Then nothing was written.
pub fn forward<T: Element>(
    exec: Exec,
    shape: Shape,
    config: &Config,
    g: &[T],
    u: &[T],
    h: &mut [T],
    saved: SavedMut<'_>,
) -> Result<(), KernelError> {
    T::gated_forward(OP, exec, How { activation: Activation::Silu, shape, config }, g, u, h, saved)
}

/// dg = (dh u) silu'(g), du = dh silu(g), at the saved g and u. dh, dg, du: \[rows, cols\].
///
/// # Errors
/// As [`forward`], and in mode `exact`: that is [`exact_backward`].
pub fn backward<T: Element>(
    exec: Exec,
    shape: Shape,
    config: &Config,
    dh: &[T],
    saved: Saved<'_>,
    dg: &mut [T],
    du: &mut [T],
) -> Result<(), KernelError> {
    T::gated_backward(OP, exec, How { activation: Activation::Silu, shape, config }, dh, saved, dg, du)
}

/// dg = (dh u) silu'(g), du = dh silu(g). All \[n\]. Mode `exact`, where h comes again from [`plain`].
///
/// # Errors
/// Where the lengths differ, or the CPU lacks `exec.isa`.
pub fn exact_backward<T: Element>(
    exec: Exec,
    dh: &[T],
    g: &[T],
    u: &[T],
    dg: &mut [T],
    du: &mut [T],
) -> Result<(), KernelError> {
    T::gated_exact_backward(OP, exec, Activation::Silu, [dh, g, u], [dg, du])
}

/// h = silu(g) u at the saved g and u: not the forward's h, but the one that fits the saved codes. h: \[rows, cols\].
///
/// # Errors
/// As [`backward`].
pub fn rematerialize<T: Element>(
    exec: Exec,
    shape: Shape,
    config: &Config,
    saved: Saved<'_>,
    h: &mut [T],
) -> Result<(), KernelError> {
    T::gated_rematerialize(OP, exec, How { activation: Activation::Silu, shape, config }, saved, h)
}
