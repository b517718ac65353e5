//! `delhi.silu`: y = x sigmoid(x), exactly; the backward uses a code of 1 to 4 bits per element in place of x.
//!
//! Layout, bytes, precision and the ladder of versions: `code.rs`, which serves this op and `delhi.gelu` alike.

use super::{Activation, CodeTable};
use crate::{Element, Exec, KernelError};

pub const OP: &str = "delhi.silu";

/// y = silu(x), nothing saved: what [`forward`] writes to `y`, bit for bit. x, y: \[n\].
///
/// # Errors
/// Where the lengths differ, or the CPU lacks `exec.isa`.
pub fn plain<T: Element>(exec: Exec, x: &[T], y: &mut [T]) -> Result<(), KernelError> {
    T::code_plain(OP, exec, Activation::Silu, x, y)
}

/// y = silu(x), and the code of each x. x, y: \[n\]; codes: \[[`code_words`](super::code_words)(n, bits)\] u32.
///
/// # Errors
/// Where lengths do not fit, the table is another activation's, or the CPU lacks `exec.isa`. Then nothing was written.
///
/// ```
/// use unswag_kernels::{Exec, delhi::{Activation, Weighting, code_words, silu, tables}};
/// let table = tables::table(Activation::Silu, 2, &Weighting::Normal)?;
/// let x = [-3.0f32, -0.5, 0.5, 3.0];
/// let (mut y, mut codes, mut dx) = ([0.0; 4], vec![0; code_words(4, 2).unwrap()], [0.0; 4]);
/// silu::forward(Exec::new(1), &table, &x, &mut y, &mut codes)?;
/// assert_eq!(codes, [0b11_10_01_00]);
/// silu::backward(Exec::new(1), &table, &[1.0; 4], &codes, &mut dx)?;
/// assert_eq!(&dx, table.levels());
/// # Ok::<(), unswag_kernels::KernelError>(())
/// ```
pub fn forward<T: Element>(
    exec: Exec,
    table: &CodeTable,
    x: &[T],
    y: &mut [T],
    codes: &mut [u32],
) -> Result<(), KernelError> {
    of_silu(table)?;
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
    of_silu(table)?;
    T::code_backward(OP, exec, table, dy, codes, dx)
}

fn of_silu(table: &CodeTable) -> Result<(), KernelError> {
    match table.activation() {
        Activation::Silu => Ok(()),
        other => Err(KernelError::Activation { op: OP, expected: "silu", got: other.name() }),
    }
}
