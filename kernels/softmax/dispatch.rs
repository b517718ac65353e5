//! `softmax` compiled once per element type.

use half::{bf16, f16};

use super::{Block, backward_rows, delta_rows, finish_rows, forward_rows, rescale_rows};
use crate::{Exec, KernelError};

pub(crate) type Done = Result<(), KernelError>;

pub struct Forward<'a, T> {
    pub(super) scores: &'a mut [T],
    pub(super) max: &'a mut [f32],
    pub(super) sum: &'a mut [f32],
    pub(super) rescale: &'a mut [f32],
}

pub struct Backward<'a, T> {
    pub(super) scores: &'a mut [T],
    pub(super) dp: &'a mut [T],
    pub(super) lse: &'a [f32],
    pub(super) delta: &'a [f32],
}

pub struct Finish<'a, T> {
    pub(super) y: &'a mut [T],
    pub(super) max: &'a [f32],
    pub(super) sum: &'a [f32],
    pub(super) lse: &'a mut [f32],
}

/// See `element::Kernels`: the same for this op.
pub trait Kernels: Sized {
    fn softmax_forward(exec: Exec, block: &Block<'_>, args: Forward<'_, Self>) -> Done;
    fn softmax_backward(exec: Exec, block: &Block<'_>, args: Backward<'_, Self>) -> Done;
    fn softmax_finish(exec: Exec, cols: usize, args: Finish<'_, Self>) -> Done;
    fn softmax_rescale(exec: Exec, cols: usize, y: &mut [Self], factors: &[f32]) -> Done;
    fn softmax_delta(exec: Exec, cols: usize, outputs: [&[Self]; 2], delta: &mut [f32]) -> Done;
}

macro_rules! kernels {
    ($($T:ty),*) => {$(
        impl Kernels for $T {
            fn softmax_forward(exec: Exec, block: &Block<'_>, args: Forward<'_, Self>) -> Done {
                forward_rows(exec, block, args)
            }
            fn softmax_backward(exec: Exec, block: &Block<'_>, args: Backward<'_, Self>) -> Done {
                backward_rows(exec, block, args)
            }
            fn softmax_finish(exec: Exec, cols: usize, args: Finish<'_, Self>) -> Done {
                finish_rows(exec, cols, args)
            }
            fn softmax_rescale(exec: Exec, cols: usize, y: &mut [Self], factors: &[f32]) -> Done {
                rescale_rows(exec, cols, y, factors)
            }
            fn softmax_delta(exec: Exec, cols: usize, outputs: [&[Self]; 2], delta: &mut [f32]) -> Done {
                delta_rows(exec, cols, outputs, delta)
            }
        }
    )*};
}
kernels!(f32, bf16, f16);
