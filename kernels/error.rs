//! What a kernel refuses. Every variant says what, where, expected, got, and what to do.

use crate::Isa;

/// A call that no kernel can run. Nothing was written.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A slice has the wrong number of elements.
    #[error("{op}: `{argument}` needs {expected} elements, got {got}; size it with the op's own plan")]
    Length { op: &'static str, argument: &'static str, expected: usize, got: usize },
    /// The sizes of a call multiply to more than this machine can address.
    #[error("{op}: {what} does not fit the address space; split the call")]
    Overflow { op: &'static str, what: String },
    /// A derivative code of this many bits does not exist.
    #[error("{op}: bits must be 1, 2, 3 or 4, got {got}")]
    Bits { op: &'static str, got: u32 },
    /// A group size that the packed layout cannot hold.
    #[error("{op}: the group size must be a multiple of 32 from 32 to 1024, got {got}; 64 is the default")]
    Group { op: &'static str, got: usize },
    /// A table made for one activation was given to another op.
    #[error("{op}: the table was made for {got}, expected one for {expected}; make it with `delhi::tables::table`")]
    Activation { op: &'static str, expected: &'static str, got: &'static str },
    /// A calibration histogram that describes no distribution.
    #[error("calibration histogram: {reason}; write it again from activations of this layer")]
    Histogram { reason: String },
    /// An argument has a value that the op is not defined for.
    #[error("{op}: `{argument}` must be {expected}, got {got}")]
    Argument { op: &'static str, argument: &'static str, expected: String, got: String },
    /// The chosen instruction set is not on this CPU.
    #[error("{isa:?} kernels asked for, but this CPU has no {isa:?}; use `Isa::best()`")]
    IsaUnavailable { isa: Isa },
    /// No such name.
    #[error("unknown {what} `{got}`: expected one of {expected}")]
    Name { what: &'static str, expected: &'static str, got: String },
}

/// rows x cols, or the error that says that it overflows.
pub(crate) fn elements(op: &'static str, rows: usize, cols: usize) -> Result<usize, KernelError> {
    rows.checked_mul(cols).ok_or_else(|| KernelError::Overflow { op, what: format!("{rows} rows of {cols}") })
}

/// Checks one slice's length.
pub(crate) fn length(op: &'static str, argument: &'static str, expected: usize, got: usize) -> Result<(), KernelError> {
    if expected == got {
        return Ok(());
    }
    Err(KernelError::Length { op, argument, expected, got })
}
