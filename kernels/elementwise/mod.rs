//! The plain element-wise ops: relu, the residual sum, scaling, by columns too, dropout, and conversion between element types.
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
    random::RowRandom,
    rows::{Pair, load, padded, rows_per_task, store},
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

/// x\[i, j\] = x\[i, j\] factors\[j\], in place. x: \[rows, cols\]; factors: \[cols\].
///
/// # Errors
/// Where the length of x is not a multiple of the factors', or the CPU lacks `exec.isa`. Then nothing was written.
pub fn mul_columns<T: Element>(exec: Exec, x: &mut [T], factors: &[f32]) -> Result<(), KernelError> {
    length("mul_columns", "x", x.len().next_multiple_of(factors.len().max(1)), x.len())?;
    T::mul_columns(exec, x, factors)
}

/// Which elements dropout drops, and what the others are multiplied by.
#[derive(Clone, Copy, Debug)]
pub struct Mask {
    p: f32,
    scale: f32,
    seed: u64,
    first_row: u64,
}

impl Mask {
    /// Each element is dropped with probability `p`, in steps of 2^-24, and the others grow to make up for it. Which ones is
    /// a function of `seed`, row and column alone, the first row being number `first_row`.
    pub fn new(p: f64, seed: u64, first_row: u64) -> Self {
        let p = p.clamp(0.0, 1.0);
        // Where all are dropped nothing is multiplied.
        let scale = if p < 1.0 { (1.0 / (1.0 - p)) as f32 } else { 0.0 };
        Mask { p: p as f32, scale, seed, first_row }
    }

    fn row(self, row: usize) -> RowRandom {
        RowRandom::new(self.seed, 0, 0, self.first_row.wrapping_add(row as u64))
    }
}

/// to = from / (1 - p), and 0 where the mask drops the element, whatever it was. from, to: \[rows, cols\].
///
/// # Errors
/// As [`relu_backward`]; also where the length is not a multiple of `cols`.
pub fn dropout<T: Element>(exec: Exec, mask: Mask, cols: usize, from: &[T], to: &mut [T]) -> Result<(), KernelError> {
    length("dropout", "to", from.len(), to.len())?;
    length("dropout", "from", from.len().next_multiple_of(cols.max(1)), from.len())?;
    T::dropout(exec, mask, cols.max(1), from, to)
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

fn mul_rows<T: Element>(exec: Exec, x: &mut [T], factors: &[f32]) -> Done {
    let rows = rows_per_task(factors.len()) * factors.len().max(1);
    exec.for_each(x.len().div_ceil(rows), x.chunks_mut(rows), |x| T::launch(exec.isa, Columns { x, factors }))
}

struct Columns<'a, T> {
    x: &'a mut [T],
    factors: &'a [f32],
}

impl<T: Element> Body for Columns<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (factors, last) = self.factors.as_chunks::<32>();
        let times = |x: Pair<S>, factors: &[f32; 32]| {
            let factors = load(s, factors);
            [s.mul(x[0], factors[0]), s.mul(x[1], factors[1])]
        };
        for x in self.x.chunks_mut(self.factors.len().max(1)) {
            let (blocks, tail) = x.as_chunks_mut::<32>();
            for (x, factors) in blocks.iter_mut().zip(factors) {
                let value = times(load(s, x), factors);
                store(s, x, value);
            }
            if !tail.is_empty() {
                let mut x = padded(tail);
                let value = times(load(s, &x), &padded(last));
                store(s, &mut x, value);
                tail.copy_from_slice(&x[..tail.len()]);
            }
        }
    }
}

fn drop_rows<T: Element>(exec: Exec, mask: Mask, cols: usize, from: &[T], to: &mut [T]) -> Done {
    let rows = rows_per_task(cols);
    let work = from.chunks(rows * cols).zip(to.chunks_mut(rows * cols)).enumerate();
    exec.for_each(from.len().div_ceil(rows * cols), work, |(task, (from, to))| {
        T::launch(exec.isa, Dropout { mask, first_row: task * rows, cols, from, to })
    })
}

struct Dropout<'a, T> {
    mask: Mask,
    first_row: usize,
    cols: usize,
    from: &'a [T],
    to: &'a mut [T],
}

impl<T: Element> Body for Dropout<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Dropout { mask, first_row, cols, from, to } = self;
        let dropped = |random: RowRandom, from: &[T; 32], to: &mut [T; 32], column: usize| {
            let (p, scale, zero) = (s.splat(mask.p), s.splat(mask.scale), s.splat(0.0));
            let part = |half: usize, x: S::F| {
                let keeps = s.ge(random.lanes(s, column + 16 * half), p);
                s.select(keeps, s.mul(x, scale), zero)
            };
            let [low, high] = load(s, from);
            store(s, to, [part(0, low), part(1, high)]);
        };
        for (row, (from, to)) in from.chunks(cols).zip(to.chunks_mut(cols)).enumerate() {
            let random = mask.row(first_row + row);
            let (blocks, tail) = from.as_chunks::<32>();
            let (to_blocks, to_tail) = to.as_chunks_mut::<32>();
            for (index, (from, to)) in blocks.iter().zip(to_blocks).enumerate() {
                dropped(random, from, to, 32 * index);
            }
            if !tail.is_empty() {
                let mut to = [T::ZERO; 32];
                dropped(random, &padded(tail), &mut to, 32 * blocks.len());
                to_tail.copy_from_slice(&to[..tail.len()]);
            }
        }
    }
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
