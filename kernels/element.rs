//! The element types that kernels read and write: f32, bf16, f16. All arithmetic is in f32, rounded once at the store.

use half::{bf16, f16};

use crate::{
    Exec, Isa, KernelError, cross_entropy,
    delhi::{Activation, CodeTable, Config, Saved, SavedMut, Shape, code, gated},
    elementwise, norm, rope,
    simd::{self, Body, Simd},
};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
}

/// An element type of tensors. Sealed: f32, [`bf16`], [`f16`].
pub trait Element:
    Copy
    + Send
    + Sync
    + PartialEq
    + std::fmt::Debug
    + Kernels
    + norm::Kernels
    + rope::Kernels
    + cross_entropy::Kernels
    + elementwise::Kernels
    + sealed::Sealed
    + 'static
{
    /// The name that error messages, benches and cases use.
    const NAME: &'static str;
    /// Positive zero.
    const ZERO: Self;

    /// The value in f32, exactly. A signalling NaN may come back quiet.
    fn to_f32(self) -> f32;
    /// The nearest value, ties to even; denormals kept; a NaN stays a NaN.
    fn from_f32(value: f32) -> Self;

    #[doc(hidden)]
    fn load<S: Simd>(s: S, from: &[Self; 16]) -> S::F;
    /// The lanes as they would come back after a store.
    #[doc(hidden)]
    fn round<S: Simd>(s: S, value: S::F) -> S::F;
    /// Stores 32 lanes. `stream` asks to go around the caches; the caller has found `to` aligned to 64 bytes.
    #[doc(hidden)]
    fn store<S: Simd>(s: S, to: &mut [Self; 32], low: S::F, high: S::F, stream: bool);
    #[doc(hidden)]
    fn launch<B: Body>(isa: Isa, body: B);
}

/// The ops, compiled here once per element type: a generic function would be compiled again, and in a debug build without
/// optimisation, in every crate that calls it.
pub trait Kernels: Sized {
    fn code_plain(op: Op, exec: Exec, activation: Activation, x: &[Self], y: &mut [Self]) -> Done;
    fn code_forward(op: Op, exec: Exec, table: &CodeTable, x: &[Self], y: &mut [Self], codes: &mut [u32]) -> Done;
    fn code_backward(op: Op, exec: Exec, table: &CodeTable, dy: &[Self], codes: &[u32], dx: &mut [Self]) -> Done;
    fn gated_plain(op: Op, exec: Exec, activation: Activation, g: &[Self], u: &[Self], h: &mut [Self]) -> Done;
    fn gated_exact_backward(
        op: Op,
        exec: Exec,
        activation: Activation,
        inputs: [&[Self]; 3],
        outputs: [&mut [Self]; 2],
    ) -> Done;
    fn gated_forward(
        op: Op,
        exec: Exec,
        how: How<'_>,
        g: &[Self],
        u: &[Self],
        h: &mut [Self],
        saved: SavedMut<'_>,
    ) -> Done;
    fn gated_backward(
        op: Op,
        exec: Exec,
        how: How<'_>,
        dh: &[Self],
        saved: Saved<'_>,
        dg: &mut [Self],
        du: &mut [Self],
    ) -> Done;
    fn gated_rematerialize(op: Op, exec: Exec, how: How<'_>, saved: Saved<'_>, h: &mut [Self]) -> Done;
}

type Op = &'static str;
type Done = Result<(), KernelError>;

/// What a gated op needs to know beside its tensors.
#[derive(Clone, Copy)]
pub struct How<'a> {
    pub activation: Activation,
    pub shape: Shape,
    pub config: &'a Config,
}

macro_rules! kernels {
    ($($T:ty),*) => {$(
        impl Kernels for $T {
            fn code_plain(op: Op, exec: Exec, activation: Activation, x: &[Self], y: &mut [Self]) -> Done {
                code::plain(op, exec, activation, x, y)
            }
            fn code_forward(
                op: Op,
                exec: Exec,
                table: &CodeTable,
                x: &[Self],
                y: &mut [Self],
                codes: &mut [u32],
            ) -> Done {
                code::forward(op, exec, table, x, y, codes)
            }
            fn code_backward(
                op: Op,
                exec: Exec,
                table: &CodeTable,
                dy: &[Self],
                codes: &[u32],
                dx: &mut [Self],
            ) -> Done {
                code::backward(op, exec, table, dy, codes, dx)
            }
            fn gated_plain(op: Op, exec: Exec, activation: Activation, g: &[Self], u: &[Self], h: &mut [Self]) -> Done {
                gated::plain(op, exec, activation, g, u, h)
            }
            fn gated_exact_backward(
                op: Op,
                exec: Exec,
                activation: Activation,
                inputs: [&[Self]; 3],
                outputs: [&mut [Self]; 2],
            ) -> Done {
                gated::exact_backward(op, exec, activation, inputs, outputs)
            }
            fn gated_forward(
                op: Op,
                exec: Exec,
                how: How<'_>,
                g: &[Self],
                u: &[Self],
                h: &mut [Self],
                saved: SavedMut<'_>,
            ) -> Done {
                gated::forward(op, exec, how, g, u, h, saved)
            }
            fn gated_backward(
                op: Op,
                exec: Exec,
                how: How<'_>,
                dh: &[Self],
                saved: Saved<'_>,
                dg: &mut [Self],
                du: &mut [Self],
            ) -> Done {
                gated::backward(op, exec, how, dh, saved, dg, du)
            }
            fn gated_rematerialize(op: Op, exec: Exec, how: How<'_>, saved: Saved<'_>, h: &mut [Self]) -> Done {
                gated::rematerialize(op, exec, how, saved, h)
            }
        }
    )*};
}
kernels!(f32, bf16, f16);

impl Element for f32 {
    const NAME: &'static str = "f32";
    const ZERO: Self = 0.0;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; 16]) -> S::F {
        s.load_f32(from)
    }
    #[inline(always)]
    fn round<S: Simd>(_: S, value: S::F) -> S::F {
        value
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, to: &mut [Self; 32], low: S::F, high: S::F, stream: bool) {
        s.store_f32(to, low, high, stream);
    }
    #[inline(always)]
    fn launch<B: Body>(isa: Isa, body: B) {
        simd::launch_without_bf16(isa, body);
    }
}

impl Element for bf16 {
    const NAME: &'static str = "bf16";
    const ZERO: Self = bf16::ZERO;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; 16]) -> S::F {
        s.load_bf16(from)
    }
    #[inline(always)]
    fn round<S: Simd>(s: S, value: S::F) -> S::F {
        s.round_bf16(value)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, to: &mut [Self; 32], low: S::F, high: S::F, stream: bool) {
        s.store_bf16(to, low, high, stream);
    }
    #[inline(always)]
    fn launch<B: Body>(isa: Isa, body: B) {
        simd::launch(isa, body);
    }
}

impl Element for f16 {
    const NAME: &'static str = "f16";
    const ZERO: Self = f16::ZERO;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[Self; 16]) -> S::F {
        s.load_f16(from)
    }
    #[inline(always)]
    fn round<S: Simd>(s: S, value: S::F) -> S::F {
        s.round_f16(value)
    }
    #[inline(always)]
    fn store<S: Simd>(s: S, to: &mut [Self; 32], low: S::F, high: S::F, stream: bool) {
        s.store_f16(to, low, high, stream);
    }
    #[inline(always)]
    fn launch<B: Body>(isa: Isa, body: B) {
        simd::launch_without_bf16(isa, body);
    }
}
