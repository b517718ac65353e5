//! Slices of any element type behind one type, so that a body is compiled once per instruction set and not once more for
//! every element type of every argument.
//!
//! The match on the type is made once per sixteen lanes; it always goes the same way, and costs nothing that shows.

use half::{bf16, f16};

use crate::{Element, simd::Simd};

/// An element type whose slices these kernels take: f32, [`bf16`], [`f16`].
pub trait Float: Element {
    #[doc(hidden)]
    fn floats(slice: &[Self]) -> Floats<'_>;
    #[doc(hidden)]
    fn floats_mut(slice: &mut [Self]) -> FloatsMut<'_>;
}

/// A slice to read.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub enum Floats<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

/// A slice to write, or to read and write.
#[doc(hidden)]
pub enum FloatsMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
    F16(&'a mut [f16]),
}

macro_rules! float {
    ($($T:ty => $variant:ident),*) => {$(
        impl Float for $T {
            fn floats(slice: &[Self]) -> Floats<'_> {
                Floats::$variant(slice)
            }
            fn floats_mut(slice: &mut [Self]) -> FloatsMut<'_> {
                FloatsMut::$variant(slice)
            }
        }
    )*};
}
float!(f32 => F32, bf16 => Bf16, f16 => F16);

/// `$body` with `$slice` bound to the slice, whatever its type.
macro_rules! each {
    ($value:expr, $Enum:ident, $slice:ident => $body:expr) => {
        match $value {
            $Enum::F32($slice) => $body,
            $Enum::Bf16($slice) => $body,
            $Enum::F16($slice) => $body,
        }
    };
}

impl<'a> Floats<'a> {
    pub(crate) fn len(&self) -> usize {
        each!(self, Floats, slice => slice.len())
    }

    /// Pieces of `size` elements, the last one shorter.
    pub(crate) fn chunks(mut self, size: usize) -> impl Iterator<Item = Floats<'a>> + Send {
        std::iter::from_fn(move || {
            let size = size.min(self.len());
            if size == 0 {
                return None;
            }
            match &mut self {
                Floats::F32(slice) => slice.split_off(..size).map(Floats::F32),
                Floats::Bf16(slice) => slice.split_off(..size).map(Floats::Bf16),
                Floats::F16(slice) => slice.split_off(..size).map(Floats::F16),
            }
        })
    }

    /// Elements `at ..` into the first lanes of `to`; the rest of `to` becomes zero.
    #[inline(always)]
    pub(crate) fn read<S: Simd, const N: usize>(&self, s: S, at: usize, to: &mut [f32; N]) {
        each!(self, Floats, slice => read(s, slice, at, to));
    }
}

impl<'a> FloatsMut<'a> {
    pub(crate) fn len(&self) -> usize {
        each!(self, FloatsMut, slice => slice.len())
    }

    pub(crate) fn chunks(mut self, size: usize) -> impl Iterator<Item = FloatsMut<'a>> + Send {
        std::iter::from_fn(move || {
            let size = size.min(self.len());
            if size == 0 {
                return None;
            }
            match &mut self {
                FloatsMut::F32(slice) => slice.split_off_mut(..size).map(FloatsMut::F32),
                FloatsMut::Bf16(slice) => slice.split_off_mut(..size).map(FloatsMut::Bf16),
                FloatsMut::F16(slice) => slice.split_off_mut(..size).map(FloatsMut::F16),
            }
        })
    }

    #[inline(always)]
    pub(crate) fn read<S: Simd, const N: usize>(&self, s: S, at: usize, to: &mut [f32; N]) {
        each!(self, FloatsMut, slice => read(s, slice, at, to));
    }

    /// The first lanes of `from` to elements `at ..`, as many as there are.
    #[inline(always)]
    pub(crate) fn write<S: Simd, const N: usize>(&mut self, s: S, at: usize, from: &[f32; N]) {
        each!(self, FloatsMut, slice => write(s, slice, at, from));
    }
}

#[inline(always)]
fn read<T: Element, S: Simd, const N: usize>(s: S, from: &[T], at: usize, to: &mut [f32; N]) {
    let from = &from[at..];
    if let Some(whole) = from.first_chunk::<N>() {
        let from = whole.as_chunks::<32>().0;
        for (from, to) in from.iter().zip(to.as_chunks_mut::<32>().0) {
            let from = from.as_chunks::<16>().0;
            s.store_f32(to, T::load(s, &from[0]), T::load(s, &from[1]), false);
        }
        return;
    }
    for (i, to) in to.iter_mut().enumerate() {
        *to = from.get(i).map_or(0.0, |value| value.to_f32());
    }
}

#[inline(always)]
fn write<T: Element, S: Simd, const N: usize>(s: S, to: &mut [T], at: usize, from: &[f32; N]) {
    let to = &mut to[at..];
    if let Some(whole) = to.first_chunk_mut::<N>() {
        let to = whole.as_chunks_mut::<32>().0;
        for (from, to) in from.as_chunks::<32>().0.iter().zip(to) {
            let from = from.as_chunks::<16>().0;
            T::store(s, to, s.load_f32(&from[0]), s.load_f32(&from[1]), false);
        }
        return;
    }
    for (to, from) in to.iter_mut().zip(from) {
        *to = T::from_f32(*from);
    }
}
