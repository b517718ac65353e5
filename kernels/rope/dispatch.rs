//! `rope` compiled once per element type.

use half::{bf16, f16};

use super::{Config, turn_rows};
use crate::{Exec, KernelError};

pub(crate) type Done = Result<(), KernelError>;

#[derive(Clone, Copy)]
pub enum Direction {
    Forward,
    Backward,
}

pub struct Args<'a, T> {
    /// What to copy into `x` first; `None` where it is there.
    pub(super) from: Option<&'a [T]>,
    pub(super) cos: &'a [T],
    pub(super) sin: &'a [T],
    pub(super) x: &'a mut [T],
    pub(super) direction: Direction,
}

/// See `element::Kernels`: the same for this op.
pub trait Kernels: Sized {
    fn rope(exec: Exec, config: &Config, args: Args<'_, Self>) -> Done;
}

macro_rules! kernels {
    ($($T:ty),*) => {$(
        impl Kernels for $T {
            fn rope(exec: Exec, config: &Config, args: Args<'_, Self>) -> Done {
                turn_rows(exec, config, args)
            }
        }
    )*};
}
kernels!(f32, bf16, f16);
