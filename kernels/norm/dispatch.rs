//! The norms compiled once per element type, and what both check.

use half::{bf16, f16};

use super::{
    columns, layer_norm,
    rms_norm::{self, Source, Write},
};
use crate::{Exec, KernelError};

pub(crate) type Done = Result<(), KernelError>;

pub struct RmsForward<'a, T> {
    pub(super) source: Source<'a, T>,
    pub(super) weight: &'a [T],
    pub(super) y: &'a mut [T],
    pub(super) rstd: &'a mut [f32],
}

pub struct RmsBackward<'a, T> {
    pub(super) dy: &'a [T],
    pub(super) x: &'a [T],
    pub(super) weight: &'a [T],
    pub(super) rstd: &'a [f32],
    pub(super) dx: &'a mut [T],
    pub(super) write: Write,
}

pub struct LayerForward<'a, T> {
    pub(super) x: &'a [T],
    pub(super) weight: &'a [T],
    pub(super) bias: Option<&'a [T]>,
    pub(super) y: &'a mut [T],
    pub(super) mean: &'a mut [f32],
    pub(super) rstd: &'a mut [f32],
}

pub struct LayerBackward<'a, T> {
    pub(super) dy: &'a [T],
    pub(super) x: &'a [T],
    pub(super) weight: &'a [T],
    pub(super) mean: &'a [f32],
    pub(super) rstd: &'a [f32],
    pub(super) dx: &'a mut [T],
    pub(super) write: Write,
}

/// See `element::Kernels`: the same for these ops.
pub trait Kernels: Sized {
    fn rms_forward(exec: Exec, config: &rms_norm::Config, args: RmsForward<'_, Self>) -> Done;
    fn rms_backward(exec: Exec, config: &rms_norm::Config, args: RmsBackward<'_, Self>) -> Done;
    fn layer_forward(exec: Exec, config: &layer_norm::Config, args: LayerForward<'_, Self>) -> Done;
    fn layer_backward(exec: Exec, config: &layer_norm::Config, args: LayerBackward<'_, Self>) -> Done;
    fn columns(exec: Exec, args: columns::Args<'_, Self>) -> Done;
}

macro_rules! kernels {
    ($($T:ty),*) => {$(
        impl Kernels for $T {
            fn rms_forward(exec: Exec, config: &rms_norm::Config, args: RmsForward<'_, Self>) -> Done {
                rms_norm::forward_rows(exec, config, args)
            }
            fn rms_backward(exec: Exec, config: &rms_norm::Config, args: RmsBackward<'_, Self>) -> Done {
                rms_norm::backward_rows(exec, config, args)
            }
            fn layer_forward(exec: Exec, config: &layer_norm::Config, args: LayerForward<'_, Self>) -> Done {
                layer_norm::forward_rows(exec, config, args)
            }
            fn layer_backward(exec: Exec, config: &layer_norm::Config, args: LayerBackward<'_, Self>) -> Done {
                layer_norm::backward_rows(exec, config, args)
            }
            fn columns(exec: Exec, args: columns::Args<'_, Self>) -> Done {
                columns::accumulate(exec, args)
            }
        }
    )*};
}
kernels!(f32, bf16, f16);

/// A row has elements, and what is added under the root is a number that keeps it real.
pub(super) fn check_row(op: &'static str, hidden: usize, eps: f32) -> Done {
    if hidden == 0 {
        let (expected, got) = ("at least 1".into(), hidden.to_string());
        return Err(KernelError::Argument { op, argument: "hidden", expected, got });
    }
    if !(eps.is_finite() && eps >= 0.0) {
        let expected = "a finite number that is not negative".into();
        return Err(KernelError::Argument { op, argument: "eps", expected, got: eps.to_string() });
    }
    Ok(())
}
