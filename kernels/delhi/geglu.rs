//! `delhi.geglu`: h = gelu(g) u, exactly; the backward from g and u, or from both at 8, 4 or 2 bits.
//!
//! `activation` says which GELU ([`Activation::Gelu`] or [`Activation::GeluTanh`]). Layout, bytes, precision and the ladder of
//! versions: `gated.rs`, which serves this op and `delhi.swiglu` alike.

use super::{Activation, Config, Saved, SavedMut, Shape, gelu::is_gelu};
use crate::{Element, Exec, KernelError, element::How};

pub const OP: &str = "delhi.geglu";

/// h = gelu(g) u, nothing saved: what [`forward`] writes to `h`, bit for bit. g, u, h: \[n\].
///
/// # Errors
/// Where the lengths differ, `activation` is no GELU, or the CPU lacks `exec.isa`.
pub fn plain<T: Element>(exec: Exec, activation: Activation, g: &[T], u: &[T], h: &mut [T]) -> Result<(), KernelError> {
    is_gelu(OP, activation)?;
    T::gated_plain(OP, exec, activation, g, u, h)
}

/// h = gelu(g) u; g and u saved in groups. g, u, h: \[rows, cols\]; `saved` sized by
/// [`saved_sizes`](super::saved_sizes), and all empty in mode `exact`, where the caller keeps g and u.
///
/// # Errors
/// Where lengths or group size do not fit, `activation` is no GELU, or the CPU lacks `exec.isa`. Then nothing was written.
#[allow(clippy::too_many_arguments, reason = "two inputs, one output, what is saved, and how")]
pub fn forward<T: Element>(
    exec: Exec,
    activation: Activation,
    shape: Shape,
    config: &Config,
    g: &[T],
    u: &[T],
    h: &mut [T],
    saved: SavedMut<'_>,
) -> Result<(), KernelError> {
    is_gelu(OP, activation)?;
    T::gated_forward(OP, exec, How { activation, shape, config }, g, u, h, saved)
}

/// dg = (dh u) gelu'(g), du = dh gelu(g), at the saved g and u. dh, dg, du: \[rows, cols\].
///
/// # Errors
/// As [`forward`], and in mode `exact`: that is [`exact_backward`].
#[allow(clippy::too_many_arguments, reason = "one input, what was saved, two outputs, and how")]
pub fn backward<T: Element>(
    exec: Exec,
    activation: Activation,
    shape: Shape,
    config: &Config,
    dh: &[T],
    saved: Saved<'_>,
    dg: &mut [T],
    du: &mut [T],
) -> Result<(), KernelError> {
    is_gelu(OP, activation)?;
    T::gated_backward(OP, exec, How { activation, shape, config }, dh, saved, dg, du)
}

/// dg = (dh u) gelu'(g), du = dh gelu(g). All \[n\]. Mode `exact`, where h comes again from [`plain`].
///
/// # Errors
/// Where the lengths differ, `activation` is no GELU, or the CPU lacks `exec.isa`.
pub fn exact_backward<T: Element>(
    exec: Exec,
    activation: Activation,
    dh: &[T],
    g: &[T],
    u: &[T],
    dg: &mut [T],
    du: &mut [T],
) -> Result<(), KernelError> {
    is_gelu(OP, activation)?;
    T::gated_exact_backward(OP, exec, activation, [dh, g, u], [dg, du])
}

/// h = gelu(g) u at the saved g and u: not the forward's h, but the one that fits the saved codes. h: \[rows, cols\].
///
/// # Errors
/// As [`backward`].
pub fn rematerialize<T: Element>(
    exec: Exec,
    activation: Activation,
    shape: Shape,
    config: &Config,
    saved: Saved<'_>,
    h: &mut [T],
) -> Result<(), KernelError> {
    is_gelu(OP, activation)?;
    T::gated_rematerialize(OP, exec, How { activation, shape, config }, saved, h)
}
