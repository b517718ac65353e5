//! The plain element-wise ops: relu, the residual sum, scaling, and conversion between element types.
//!
//! Layout: contiguous slices of any length and alignment. Bytes per element, e bytes wide: in place 2e, with a second operand
//! 3e. Precision: f32 inside, rounded once at the store, as torch does.
//! NaN: comes through every op. relu(-0) is 0. Where y is NaN, relu's backward passes dy on, as torch's does.
//!
//! The ladder: 1. `reference.rs`; 2. sixteen lanes. This file must not allocate, and checks every length before the first
//! store.

mod dispatch;
pub mod reference;

pub(crate) use dispatch::Kernels;
use dispatch::{Done, Map};

use crate::{
    Element, Exec, KernelError,
    error::length,
    rows::{Pair, load, padded, store},
    simd::{Body, Simd},
};

/// Elements that a task takes at a time.
const CHUNK: usize = 1 << 15;

/// x = max(x, 0), in place. x: \[n\].
///
/// # Errors
/// Where the CPU lacks `exec.isa`.
pub fn relu<T: Element>(exec: Exec, x: &mut [T]) -> Result<(), KernelError> {
    T::map(exec, Map::Relu, x, None)
}

/// dy = 0 where y <= 0, in place. y: what [`relu`] left; y, dy: \[n\].
///
/// # Errors
/// Where the lengths differ, or the CPU lacks `exec.isa`. Then nothing was written.
pub fn relu_backward<T: Element>(exec: Exec, y: &[T], dy: &mut [T]) -> Result<(), KernelError> {
    length("relu", "y", dy.len(), y.len())?;
    T::map(exec, Map::ReluBackward, dy, Some(y))
}

/// a = a + b, in place. a, b: \[n\].
///
/// # Errors
/// As [`relu_backward`].
///
/// ```
/// use unswag_kernels::{Exec, elementwise};
/// let mut a = [1.0f32, 2.0];
/// elementwise::add(Exec::new(1), &mut a, &[0.5, -2.0])?;
/// assert_eq!(a, [1.5, 0.0]);
/// # Ok::<(), unswag_kernels::KernelError>(())
/// ```
pub fn add<T: Element>(exec: Exec, a: &mut [T], b: &[T]) -> Result<(), KernelError> {
    length("add", "b", a.len(), b.len())?;
    T::map(exec, Map::Add, a, Some(b))
}

/// x = x by, in place. x: \[n\].
///
/// # Errors
/// As [`relu`].
pub fn scale<T: Element>(exec: Exec, x: &mut [T], by: f32) -> Result<(), KernelError> {
    T::map(exec, Map::Scale(by), x, None)
}

/// to = from in f32, exactly. from, to: \[n\].
///
/// # Errors
/// As [`relu_backward`].
pub fn to_f32<T: Element>(exec: Exec, from: &[T], to: &mut [f32]) -> Result<(), KernelError> {
    length("cast", "to", from.len(), to.len())?;
    T::widen(exec, from, to)
}

/// to = the nearest value to from, ties to even; denormals are kept. from, to: \[n\].
///
/// # Errors
/// As [`relu_backward`].
pub fn from_f32<T: Element>(exec: Exec, from: &[f32], to: &mut [T]) -> Result<(), KernelError> {
    length("cast", "to", from.len(), to.len())?;
    T::narrow(exec, from, to)
}

fn map_chunks<T: Element>(exec: Exec, map: Map, a: &mut [T], b: Option<&[T]>) -> Done {
    let tasks = a.len().div_ceil(CHUNK);
    match b {
        None => exec.for_each(tasks, a.chunks_mut(CHUNK), |a| T::launch(exec.isa, Unary { map, a })),
        Some(b) => {
            let work = a.chunks_mut(CHUNK).zip(b.chunks(CHUNK));
            exec.for_each(tasks, work, |(a, b)| T::launch(exec.isa, Binary { map, a, b }))
        }
    }
}

fn cast_chunks<A: Element, B: Element>(exec: Exec, from: &[A], to: &mut [B]) -> Done {
    let work = from.chunks(CHUNK).zip(to.chunks_mut(CHUNK));
    exec.for_each(from.len().div_ceil(CHUNK), work, |(from, to)| B::launch(exec.isa, Cast { from, to }))
}

struct Unary<'a, T> {
    map: Map,
    a: &'a mut [T],
}

impl<T: Element> Body for Unary<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (blocks, tail) = self.a.as_chunks_mut::<32>();
        for a in blocks {
            let value = mapped(s, self.map, load(s, a), load(s, a));
            store(s, a, value);
        }
        if !tail.is_empty() {
            let mut a = padded(tail);
            let value = mapped(s, self.map, load(s, &a), load(s, &a));
            store(s, &mut a, value);
            tail.copy_from_slice(&a[..tail.len()]);
        }
    }
}

struct Binary<'a, T> {
    map: Map,
    a: &'a mut [T],
    b: &'a [T],
}

impl<T: Element> Body for Binary<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (blocks, tail) = self.a.as_chunks_mut::<32>();
        let (b_blocks, b_tail) = self.b.as_chunks::<32>();
        for (a, b) in blocks.iter_mut().zip(b_blocks) {
            let value = mapped(s, self.map, load(s, a), load(s, b));
            store(s, a, value);
        }
        if !tail.is_empty() {
            let mut a = padded(tail);
            let value = mapped(s, self.map, load(s, &a), load(s, &padded(b_tail)));
            store(s, &mut a, value);
            tail.copy_from_slice(&a[..tail.len()]);
        }
    }
}

#[inline(always)]
fn mapped<S: Simd>(s: S, map: Map, a: Pair<S>, b: Pair<S>) -> Pair<S> {
    let zero = s.splat(0.0);
    match map {
        Map::Relu | Map::ReluBackward => {
            [s.select(s.ge(zero, b[0]), zero, a[0]), s.select(s.ge(zero, b[1]), zero, a[1])]
        }
        Map::Add => [s.add(a[0], b[0]), s.add(a[1], b[1])],
        Map::Scale(by) => [s.mul(a[0], s.splat(by)), s.mul(a[1], s.splat(by))],
    }
}

struct Cast<'a, A, B> {
    from: &'a [A],
    to: &'a mut [B],
}

impl<A: Element, B: Element> Body for Cast<'_, A, B> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (from_blocks, from_tail) = self.from.as_chunks::<32>();
        let (to_blocks, to_tail) = self.to.as_chunks_mut::<32>();
        for (from, to) in from_blocks.iter().zip(to_blocks) {
            store(s, to, load(s, from));
        }
        if !from_tail.is_empty() {
            let mut to = [B::ZERO; 32];
            store(s, &mut to, load(s, &padded(from_tail)));
            to_tail.copy_from_slice(&to[..from_tail.len()]);
        }
    }
}
