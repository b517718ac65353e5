//! `delhi.gelu`: y = x Phi(x) (or its tanh form), exactly; the backward uses a code of 1 to 4 bits per element.
//!
//! Which form is the table's: [`Activation::Gelu`] or [`Activation::GeluTanh`]. Layout, bytes, precision and the ladder of
//! versions: `code.rs`, which serves this op and `delhi.silu` alike.

use super::{Activation, CodeTable};
use crate::{Element, Exec, KernelError};

pub const OP: &str = "delhi.gelu";

/// y = gelu(x), nothing saved: what [`forward`] writes to `y`, bit for bit. x, y: \[n\].
///
/// # Errors
/// Where the lengths differ, `activation` is no GELU, or the CPU lacks `exec.isa`.
pub fn plain<T: Element>(exec: Exec, activation: Activation, x: &[T], y: &mut [T]) -> Result<(), KernelError> {
    is_gelu(OP, activation)?;
    T::code_plain(OP, exec, activation, x, y)
}

/// y = gelu(x), and the code of each x. x, y: \[n\]; codes: \[[`code_words`](super::code_words)(n, bits)\] u32.
///
/// # Errors
/// Where lengths do not fit, the table is no GELU's, or the CPU lacks `exec.isa`. Then nothing was written.
pub fn forward<T: Element>(
    exec: Exec,
    table: &CodeTable,
    x: &[T],
    y: &mut [T],
    codes: &mut [u32],
) -> Result<(), KernelError> {
    is_gelu(OP, table.activation())?;
    T::code_forward(OP, exec, table, x, y, codes)
}

/// dx = dy level\[code\]. dy, dx: \[n\]; codes from [`forward`] with the same table.
///
/// # Errors
/// As [`forward`].
pub fn backward<T: Element>(
    exec: Exec,
    table: &CodeTable,
    dy: &[T],
    codes: &[u32],
    dx: &mut [T],
) -> Result<(), KernelError> {
    is_gelu(OP, table.activation())?;
    T::code_backward(OP, exec, table, dy, codes, dx)
}

pub(super) fn is_gelu(op: &'static str, activation: Activation) -> Result<(), KernelError> {
    match activation {
        Activation::Gelu | Activation::GeluTanh => Ok(()),
        Activation::Silu => Err(KernelError::Activation { op, expected: "gelu or gelu_tanh", got: "silu" }),
    }
}
