//! `delhi.silu` and `delhi.gelu`: y = act(x) with a code of x packed beside it; dx = dy level\[code\].
//!
//! Layout: x, y, dy, dx contiguous, of any length and alignment; codes as in `delhi`'s header, 64 elements being 2 b words.
//! Bytes: the forward reads n e and writes n e + n b/8; the backward reads n e + n b/8 and writes n e (e bytes per element).
//! Precision: f32 inside, rounded once; every instruction set gives the reference's bits.
//! NaN: a code of 0, and NaN in y. So the backward at that element is finite; the loss has seen the NaN already.
//!
//! The ladder (measured figures in `kernels/README.md`):
//! 1. reference: bit by bit.
//! 2. sixteen lanes, codes found by binary search among the borders with selects (b compares in place of 2^b - 1), kept as bit
//!    planes in integer registers and woven by `pdep` (AVX-512) or a 256-entry table: no code ever becomes a vector lane.
//! 3. streamed stores for calls whose output outgrows the cache: without them each output line is read before it is written.
//!
//! Unaligned slices take version 2. This file must not allocate, and checks every length before the first store.

use std::marker::PhantomData;

use super::{Activation, CodeTable, code_words};
use crate::{
    Element, Exec, KernelError,
    error::length,
    simd::{Body, Simd, is_aligned_for_stream, math::Function},
};

/// Elements that a task takes at a time: enough to hide the taking, small enough to balance two cores.
const CHUNK: usize = 1 << 16;

/// Calls that write this much go around the caches: half of a common last-level cache, beyond which the reader of the
/// output would not find it there anyway.
pub(super) const STREAM_FROM_BYTES: usize = 16 << 20;

pub(super) fn should_stream<T>(outputs: &[&[T]]) -> bool {
    outputs.iter().map(|output| size_of_val(*output)).sum::<usize>() >= STREAM_FROM_BYTES
        && outputs.iter().all(|output| is_aligned_for_stream(output))
}

/// Calls `$f::<.., $A, ..>` for an activation known at run time.
macro_rules! with_activation {
    ($activation:expr, $A:ident => $call:expr) => {
        match $activation {
            $crate::delhi::Activation::Silu => {
                type $A = $crate::simd::math::Silu;
                $call
            }
            $crate::delhi::Activation::Gelu => {
                type $A = $crate::simd::math::Gelu;
                $call
            }
            $crate::delhi::Activation::GeluTanh => {
                type $A = $crate::simd::math::GeluTanh;
                $call
            }
        }
    };
}
pub(super) use with_activation;

/// y = act(x), nothing saved.
pub(crate) fn plain<T: Element>(
    op: &'static str,
    exec: Exec,
    activation: Activation,
    x: &[T],
    y: &mut [T],
) -> Result<(), KernelError> {
    length(op, "y", x.len(), y.len())?;
    let stream = should_stream(&[y]);
    let chunks = x.len().div_ceil(CHUNK);
    let work = x.chunks(CHUNK).zip(y.chunks_mut(CHUNK));
    with_activation!(activation, A => exec.for_each(chunks, work, |(x, y)| {
        T::launch(exec.isa, Plain::<T, A> { x, y, stream, activation: PhantomData });
    }))
}

/// y = act(x), codes of x.
pub(crate) fn forward<T: Element>(
    op: &'static str,
    exec: Exec,
    table: &CodeTable,
    x: &[T],
    y: &mut [T],
    codes: &mut [u32],
) -> Result<(), KernelError> {
    length(op, "y", x.len(), y.len())?;
    length(op, "codes", words(op, x.len(), table)?, codes.len())?;
    match table.bits() {
        1 => forward_bits::<T, 1>(exec, table, x, y, codes),
        2 => forward_bits::<T, 2>(exec, table, x, y, codes),
        3 => forward_bits::<T, 3>(exec, table, x, y, codes),
        _ => forward_bits::<T, 4>(exec, table, x, y, codes),
    }
}

/// dx = dy level\[code\].
pub(crate) fn backward<T: Element>(
    op: &'static str,
    exec: Exec,
    table: &CodeTable,
    dy: &[T],
    codes: &[u32],
    dx: &mut [T],
) -> Result<(), KernelError> {
    length(op, "dx", dy.len(), dx.len())?;
    length(op, "codes", words(op, dy.len(), table)?, codes.len())?;
    match table.bits() {
        1 => backward_bits::<T, 1>(exec, table, dy, codes, dx),
        2 => backward_bits::<T, 2>(exec, table, dy, codes, dx),
        3 => backward_bits::<T, 3>(exec, table, dy, codes, dx),
        _ => backward_bits::<T, 4>(exec, table, dy, codes, dx),
    }
}

fn words(op: &'static str, elements: usize, table: &CodeTable) -> Result<usize, KernelError> {
    code_words(elements, table.bits())
        .ok_or_else(|| KernelError::Overflow { op, what: format!("{elements} codes of {} bits", table.bits()) })
}

fn forward_bits<T: Element, const B: usize>(
    exec: Exec,
    table: &CodeTable,
    x: &[T],
    y: &mut [T],
    codes: &mut [u32],
) -> Result<(), KernelError> {
    let stream = should_stream(&[y]);
    let borders = &table.padded_borders();
    let chunks = x.len().div_ceil(CHUNK);
    let work = x.chunks(CHUNK).zip(y.chunks_mut(CHUNK)).zip(codes.chunks_mut(CHUNK * B / 32));
    with_activation!(table.activation(), A => exec.for_each(chunks, work, |((x, y), codes)| {
        T::launch(exec.isa, Forward::<T, A, B> { borders, x, y, codes, stream, activation: PhantomData });
    }))
}

fn backward_bits<T: Element, const B: usize>(
    exec: Exec,
    table: &CodeTable,
    dy: &[T],
    codes: &[u32],
    dx: &mut [T],
) -> Result<(), KernelError> {
    let stream = should_stream(&[dx]);
    let levels = &table.repeated_levels();
    let chunks = dy.len().div_ceil(CHUNK);
    let work = dy.chunks(CHUNK).zip(codes.chunks(CHUNK * B / 32)).zip(dx.chunks_mut(CHUNK));
    exec.for_each(chunks, work, |((dy, codes), dx)| {
        T::launch(exec.isa, Backward::<T, B> { levels, dy, codes, dx, stream });
    })
}

struct Plain<'a, T, A> {
    x: &'a [T],
    y: &'a mut [T],
    stream: bool,
    activation: PhantomData<A>,
}

impl<T: Element, A: Function> Body for Plain<'_, T, A> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (x_blocks, x_tail) = self.x.as_chunks::<32>();
        let (y_blocks, y_tail) = self.y.as_chunks_mut::<32>();
        for (x, y) in x_blocks.iter().zip(y_blocks) {
            plain_block::<S, T, A>(s, x, y, self.stream);
        }
        if !x_tail.is_empty() {
            let (x, mut y) = (padded(x_tail), [T::ZERO; 32]);
            plain_block::<S, T, A>(s, &x, &mut y, false);
            y_tail.copy_from_slice(&y[..x_tail.len()]);
        }
        if self.stream {
            s.fence();
        }
    }
}

#[inline(always)]
fn plain_block<S: Simd, T: Element, A: Function>(s: S, x: &[T; 32], y: &mut [T; 32], stream: bool) {
    let x = x.as_chunks::<16>().0;
    let low = s.value::<A>(T::load(s, &x[0]));
    let high = s.value::<A>(T::load(s, &x[1]));
    T::store(s, y, low, high, stream);
}

/// `tail` followed by zeros.
#[inline(always)]
pub(super) fn padded<T: Element, const N: usize>(tail: &[T]) -> [T; N] {
    let mut block = [T::ZERO; N];
    block[..tail.len()].copy_from_slice(tail);
    block
}

struct Forward<'a, T, A, const B: usize> {
    borders: &'a [f32; 16],
    x: &'a [T],
    y: &'a mut [T],
    codes: &'a mut [u32],
    stream: bool,
    activation: PhantomData<A>,
}

impl<T: Element, A: Function, const B: usize> Body for Forward<'_, T, A, B> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut borders = [s.splat(0.0); 16];
        for (lanes, border) in borders.iter_mut().zip(self.borders) {
            *lanes = s.splat(*border);
        }
        let (x_blocks, x_tail) = self.x.as_chunks::<64>();
        let (y_blocks, y_tail) = self.y.as_chunks_mut::<64>();
        let (code_blocks, code_tail) = self.codes.split_at_mut(2 * B * x_blocks.len());
        let code_blocks = code_blocks.chunks_exact_mut(2 * B);
        for ((x, y), codes) in x_blocks.iter().zip(y_blocks).zip(code_blocks) {
            let planes = forward_block::<S, T, A, B>(s, &borders, x, y, self.stream);
            for (words, woven) in codes.as_chunks_mut::<2>().0.iter_mut().zip(s.weave(planes)) {
                *words = [woven as u32, (woven >> 32) as u32];
            }
        }
        if !x_tail.is_empty() {
            let (x, mut y) = (padded(x_tail), [T::ZERO; 64]);
            let mut planes = forward_block::<S, T, A, B>(s, &borders, &x, &mut y, false);
            y_tail.copy_from_slice(&y[..x_tail.len()]);
            for plane in &mut planes {
                *plane &= (1 << x_tail.len()) - 1;
            }
            for (at, word) in code_tail.iter_mut().enumerate() {
                *word = (s.weave(planes)[at / 2] >> (32 * (at % 2))) as u32;
            }
        }
        if self.stream {
            s.fence();
        }
    }
}

/// 64 elements of y, and the bit planes of their codes.
#[inline(always)]
fn forward_block<S: Simd, T: Element, A: Function, const B: usize>(
    s: S,
    borders: &[S::F; 16],
    x: &[T; 64],
    y: &mut [T; 64],
    stream: bool,
) -> [u64; B] {
    let x = x.as_chunks::<32>().0;
    let y = y.as_chunks_mut::<32>().0;
    let mut planes = [0; B];
    for pair in 0..2 {
        let halves = x[pair].as_chunks::<16>().0;
        let (low, high) = (T::load(s, &halves[0]), T::load(s, &halves[1]));
        let low_bits = code_bits::<S, B>(s, borders, low);
        let high_bits = code_bits::<S, B>(s, borders, high);
        for plane in 0..B {
            planes[plane] |= u64::from(low_bits[plane] | high_bits[plane] << 16) << (32 * pair);
        }
        T::store(s, &mut y[pair], s.value::<A>(low), s.value::<A>(high), stream);
    }
    planes
}

/// The bits of the codes of sixteen values: bit i of `[p]` is bit p of lane i's code. Binary search: at each depth, the masks
/// so far pick which border to compare with.
///
/// Written out, because as loops over the candidates the four-bit search stayed a loop over memory: 14 times slower.
#[inline(always)]
pub(crate) fn code_bits<S: Simd, const B: usize>(s: S, borders: &[S::F; 16], value: S::F) -> [u32; B] {
    /// The border at the path that the masks take: the first mask chooses between the halves of the list.
    macro_rules! pick {
        ([$only:literal]) => {
            borders[$only]
        };
        ([$below:literal, $above:literal], $m:ident) => {
            s.select($m, borders[$above], borders[$below])
        };
        ([$a:literal, $b:literal, $c:literal, $d:literal], $m:ident, $n:ident) => {
            s.select($m, pick!([$c, $d], $n), pick!([$a, $b], $n))
        };
        ([$a:literal, $b:literal, $c:literal, $d:literal, $e:literal, $f:literal, $g:literal, $h:literal], $m:ident, $n:ident, $o:ident) => {
            s.select($m, pick!([$e, $f, $g, $h], $n, $o), pick!([$a, $b, $c, $d], $n, $o))
        };
    }
    let mut bits = [0; B];
    match B {
        1 => bits[0] = s.bits(s.ge(value, pick!([0]))),
        2 => {
            let m1 = s.ge(value, pick!([1]));
            let m0 = s.ge(value, pick!([0, 2], m1));
            (bits[1], bits[0]) = (s.bits(m1), s.bits(m0));
        }
        3 => {
            let m2 = s.ge(value, pick!([3]));
            let m1 = s.ge(value, pick!([1, 5], m2));
            let m0 = s.ge(value, pick!([0, 2, 4, 6], m2, m1));
            (bits[2], bits[1], bits[0]) = (s.bits(m2), s.bits(m1), s.bits(m0));
        }
        _ => {
            let m3 = s.ge(value, pick!([7]));
            let m2 = s.ge(value, pick!([3, 11], m3));
            let m1 = s.ge(value, pick!([1, 5, 9, 13], m3, m2));
            let m0 = s.ge(value, pick!([0, 2, 4, 6, 8, 10, 12, 14], m3, m2, m1));
            (bits[3], bits[2], bits[1], bits[0]) = (s.bits(m3), s.bits(m2), s.bits(m1), s.bits(m0));
        }
    }
    bits
}

struct Backward<'a, T, const B: usize> {
    levels: &'a [f32; 16],
    dy: &'a [T],
    codes: &'a [u32],
    dx: &'a mut [T],
    stream: bool,
}

impl<T: Element, const B: usize> Body for Backward<'_, T, B> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (dy_blocks, dy_tail) = self.dy.as_chunks::<64>();
        let (dx_blocks, dx_tail) = self.dx.as_chunks_mut::<64>();
        let (code_blocks, code_tail) = self.codes.split_at(2 * B * dy_blocks.len());
        let code_blocks = code_blocks.chunks_exact(2 * B);
        for ((dy, dx), codes) in dy_blocks.iter().zip(dx_blocks).zip(code_blocks) {
            backward_block::<S, T, B>(s, self.levels, dy, codes, dx, self.stream);
        }
        if !dy_tail.is_empty() {
            let (dy, mut dx, mut codes) = (padded(dy_tail), [T::ZERO; 64], [0; 8]);
            codes[..code_tail.len()].copy_from_slice(code_tail);
            backward_block::<S, T, B>(s, self.levels, &dy, &codes[..2 * B], &mut dx, false);
            dx_tail.copy_from_slice(&dx[..dy_tail.len()]);
        }
        if self.stream {
            s.fence();
        }
    }
}

#[inline(always)]
fn backward_block<S: Simd, T: Element, const B: usize>(
    s: S,
    levels: &[f32; 16],
    dy: &[T; 64],
    codes: &[u32],
    dx: &mut [T; 64],
    stream: bool,
) {
    let dy = dy.as_chunks::<32>().0;
    let dx = dx.as_chunks_mut::<32>().0;
    for pair in 0..2 {
        let halves = dy[pair].as_chunks::<16>().0;
        let low = s.lookup::<B>(levels, sixteen_codes::<B>(codes, 2 * pair));
        let high = s.lookup::<B>(levels, sixteen_codes::<B>(codes, 2 * pair + 1));
        let low = s.mul(T::load(s, &halves[0]), low);
        let high = s.mul(T::load(s, &halves[1]), high);
        T::store(s, &mut dx[pair], low, high, stream);
    }
}

/// The 16 B bits of the `at`-th sixteen codes of a block, in the low bits.
#[inline(always)]
fn sixteen_codes<const B: usize>(words: &[u32], at: usize) -> u64 {
    let bit = 16 * B * at;
    let low = u64::from(words[bit / 32]);
    let high = words.get(bit / 32 + 1).map_or(0, |word| u64::from(*word));
    (low | high << 32) >> (bit % 32)
}
