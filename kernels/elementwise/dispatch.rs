//! The element-wise ops compiled once per element type.

use half::{bf16, f16};

use super::{Mask, cast_chunks, drop_rows, map_chunks, mul_rows};
use crate::{Exec, KernelError};

pub(crate) type Done = Result<(), KernelError>;

/// What becomes of an element a, given b (a itself where there is no second operand).
#[derive(Clone, Copy)]
pub enum Map {
    Relu,
    ReluBackward,
    Add,
    Scale(f32),
}

/// See `element::Kernels`: the same for these ops.
pub trait Kernels: Sized {
    fn map(exec: Exec, map: Map, a: &mut [Self], b: Option<&[Self]>) -> Done;
    fn mul_columns(exec: Exec, x: &mut [Self], factors: &[f32]) -> Done;
    fn dropout(exec: Exec, mask: Mask, cols: usize, from: &[Self], to: &mut [Self]) -> Done;
    fn widen(exec: Exec, from: &[Self], to: &mut [f32]) -> Done;
    fn narrow(exec: Exec, from: &[f32], to: &mut [Self]) -> Done;
}

macro_rules! kernels {
    ($($T:ty),*) => {$(
        impl Kernels for $T {
            fn map(exec: Exec, map: Map, a: &mut [Self], b: Option<&[Self]>) -> Done {
                map_chunks(exec, map, a, b)
            }
            fn mul_columns(exec: Exec, x: &mut [Self], factors: &[f32]) -> Done {
                mul_rows(exec, x, factors)
            }
            fn dropout(exec: Exec, mask: Mask, cols: usize, from: &[Self], to: &mut [Self]) -> Done {
                drop_rows(exec, mask, cols, from, to)
            }
            fn widen(exec: Exec, from: &[Self], to: &mut [f32]) -> Done {
                cast_chunks(exec, from, to)
            }
            fn narrow(exec: Exec, from: &[f32], to: &mut [Self]) -> Done {
                cast_chunks(exec, from, to)
            }
        }
    )*};
}
kernels!(f32, bf16, f16);
