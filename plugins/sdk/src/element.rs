//! Which Rust type the elements of a tensor of some dtype are read as.

use unswag_abi::doc::Dtype;

mod sealed {
    pub trait Sealed {}
}

/// A type that tensor elements can be read as. Every bit pattern is a valid value, so any bytes the host hands over are.
///
/// # Safety
/// Sealed: implemented here only, for plain numbers.
pub unsafe trait Element:
    sealed::Sealed + Copy + Default + Send + Sync + PartialEq + std::fmt::Debug + 'static
{
    /// The dtype that a new tensor of this type gets.
    const DTYPE: Dtype;

    /// Whether a tensor of `dtype` may be read as this type.
    fn reads(dtype: Dtype) -> bool {
        dtype == Self::DTYPE
    }
}

macro_rules! elements {
    ($($ty:ty => $dtype:ident),+ $(,)?) => {$(
        impl sealed::Sealed for $ty {}
        // SAFETY: a plain number: no padding, no invalid bit pattern, size and alignment as the dtype's.
        unsafe impl Element for $ty {
            const DTYPE: Dtype = Dtype::$dtype;
        }
    )+};
}

elements! {
    i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64,
    f32 => F32, f64 => F64, half::f16 => F16, half::bf16 => Bf16,
}

impl sealed::Sealed for u8 {}
// SAFETY: as above. A bool tensor is read as bytes because a byte of 2 would not be a valid `bool`.
unsafe impl Element for u8 {
    const DTYPE: Dtype = Dtype::U8;

    fn reads(dtype: Dtype) -> bool {
        matches!(dtype, Dtype::U8 | Dtype::Bool)
    }
}

/// A float type that a kernel computes on, through f32: what a kernel generic over `f32`, `bf16` and `f16` needs.
pub trait Float: Element {
    fn to_f32(self) -> f32;
    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
}

impl Float for f32 {
    fn to_f32(self) -> f32 {
        self
    }

    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Float for half::bf16 {
    fn to_f32(self) -> f32 {
        half::bf16::to_f32(self)
    }

    fn from_f32(value: f32) -> Self {
        half::bf16::from_f32(value)
    }
}

impl Float for half::f16 {
    fn to_f32(self) -> f32 {
        half::f16::to_f32(self)
    }

    fn from_f32(value: f32) -> Self {
        half::f16::from_f32(value)
    }
}
