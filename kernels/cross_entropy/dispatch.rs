//! `cross_entropy` compiled once per element type.

use half::{bf16, f16};

use super::{Config, backward_rows, forward_rows, fused_rows};
use crate::{Exec, KernelError};

pub(crate) type Done = Result<(), KernelError>;

pub struct Forward<'a, T> {
    pub(super) logits: &'a [T],
    pub(super) targets: &'a [i64],
    pub(super) loss: &'a mut [f32],
    pub(super) lse: &'a mut [f32],
}

pub struct Backward<'a, T> {
    pub(super) logits: &'a mut [T],
    pub(super) targets: &'a [i64],
    pub(super) lse: &'a [f32],
    pub(super) scale: f32,
}

pub struct Fused<'a, T> {
    pub(super) logits: &'a mut [T],
    pub(super) targets: &'a [i64],
    pub(super) scale: f32,
    pub(super) loss: &'a mut [f32],
    pub(super) lse: &'a mut [f32],
}

/// See `element::Kernels`: the same for this op.
pub trait Kernels: Sized {
    fn cross_entropy_forward(exec: Exec, config: &Config, args: Forward<'_, Self>) -> Done;
    fn cross_entropy_backward(exec: Exec, config: &Config, args: Backward<'_, Self>) -> Done;
    fn cross_entropy_fused(exec: Exec, config: &Config, args: Fused<'_, Self>) -> Done;
}

macro_rules! kernels {
    ($($T:ty),*) => {$(
        impl Kernels for $T {
            fn cross_entropy_forward(exec: Exec, config: &Config, args: Forward<'_, Self>) -> Done {
                forward_rows(exec, config, args)
            }
            fn cross_entropy_backward(exec: Exec, config: &Config, args: Backward<'_, Self>) -> Done {
                backward_rows(exec, config, args)
            }
            fn cross_entropy_fused(exec: Exec, config: &Config, args: Fused<'_, Self>) -> Done {
                fused_rows(exec, config, args)
            }
        }
    )*};
}
kernels!(f32, bf16, f16);
