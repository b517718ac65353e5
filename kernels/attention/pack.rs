//! Operands as tiles read them: words in rows, turned, or down columns; what is missing is zero.

use super::Word;
use crate::simd::Simd;

/// Rows of a head in a tensor of all heads.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a, T> {
    pub elements: &'a [T],
    /// Elements from row to row.
    pub stride: usize,
    /// The head's first element in a row.
    pub first: usize,
    pub width: usize,
}

impl<'a, T: Word> Strided<'a, T> {
    /// Of a tensor \[rows, heads width\].
    pub(super) fn head(elements: &'a [T], [heads, head]: [usize; 2], width: usize) -> Self {
        Strided { elements, stride: heads * width, first: head * width, width }
    }

    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &'a [T] {
        &self.elements[row * self.stride + self.first..][..self.width]
    }
}

#[inline(always)]
fn word<T: Word>(elements: &[T]) -> u32 {
    match *elements {
        [low, high] => low.to_bits() | high.to_bits() << 16,
        [one] => one.to_bits(),
        _ => 0,
    }
}

/// `to` \[padded, words\].
#[inline(always)]
pub(super) fn rows<S: Simd, T: Word>(
    s: S,
    x: Strided<'_, T>,
    [first, count]: [usize; 2],
    words: usize,
    to: &mut [u32],
) {
    for (r, to) in to.chunks_exact_mut(words).enumerate() {
        if r >= count {
            to.fill(0);
            continue;
        }
        let row = x.row(first + r);
        let (blocks, rest) = to.as_chunks_mut::<16>();
        let done = 16 * T::PER_WORD * blocks.len();
        for (i, to) in blocks.iter_mut().enumerate() {
            s.store_i(to, T::load_words(s, &row[16 * T::PER_WORD * i..]));
        }
        for (to, elements) in rest.iter_mut().zip(row[done.min(row.len())..].chunks(T::PER_WORD)) {
            *to = word(elements);
        }
    }
}

/// `to` \[words, padded\]: sixteen rows become sixteen lanes.
#[inline(always)]
pub(super) fn turned<S: Simd, T: Word>(
    s: S,
    x: Strided<'_, T>,
    [first, count]: [usize; 2],
    padded: usize,
    to: &mut [u32],
) {
    let words = x.width.div_ceil(T::PER_WORD);
    for row in (0..padded).step_by(16) {
        for block in (0..words).step_by(16) {
            let mut lines = [s.splat_i(0); 16];
            for (r, line) in lines.iter_mut().enumerate() {
                if row + r < count {
                    *line = line_of(s, &x.row(first + row + r)[block * T::PER_WORD..]);
                }
            }
            let lines = s.transpose(lines);
            for (w, line) in lines.into_iter().enumerate().take(words - block) {
                super::tile::put(s, to, (block + w) * padded + row, s.as_f(line));
            }
        }
    }
}

/// Sixteen words of a row, zeros beyond its end.
#[inline(always)]
fn line_of<S: Simd, T: Word>(s: S, row: &[T]) -> S::I {
    if row.len() >= 16 * T::PER_WORD {
        return T::load_words(s, row);
    }
    let mut words = [0; 16];
    for (to, elements) in words.iter_mut().zip(row.chunks(T::PER_WORD)) {
        *to = word(elements);
    }
    s.load_i(&words)
}

/// `to` \[padded / elements in a word, lanes\]: as many rows side by side as a word holds.
#[inline(always)]
pub(super) fn columns<T: Word>(x: Strided<'_, T>, [first, count]: [usize; 2], lanes: usize, to: &mut [u32]) {
    for (line, to) in to.chunks_exact_mut(lanes).enumerate() {
        let row = line * T::PER_WORD;
        if row >= count {
            to.fill(0);
            continue;
        }
        let upper = x.row(first + row);
        to[upper.len()..].fill(0);
        if T::PER_WORD == 1 || row + 1 >= count {
            for (to, upper) in to.iter_mut().zip(upper) {
                *to = upper.to_bits();
            }
            continue;
        }
        for ((to, upper), lower) in to.iter_mut().zip(upper).zip(x.row(first + row + 1)) {
            *to = upper.to_bits() | lower.to_bits() << 16;
        }
    }
}

/// Sum of a b.
#[inline(always)]
pub(super) fn dot<S: Simd, T: Word>(s: S, a: &[T], b: &[T]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut sum = s.splat(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = s.fma(T::load(s, a), T::load(s, b), sum);
    }
    a_rest.iter().zip(b_rest).fold(s.reduce_add(sum), |sum, (a, b)| a.to_f32().mul_add(b.to_f32(), sum))
}

/// Writes f32 sums, times a factor, as elements.
#[inline(always)]
pub(super) fn put_row<S: Simd, T: Word>(s: S, sums: &[u32], factor: f32, to: &mut [T]) {
    let (blocks, rest) = to.as_chunks_mut::<32>();
    let done = 32 * blocks.len();
    for (i, to) in blocks.iter_mut().enumerate() {
        let low = s.mul(super::tile::get(s, sums, 32 * i), s.splat(factor));
        let high = s.mul(super::tile::get(s, sums, 32 * i + 16), s.splat(factor));
        T::store(s, to, low, high, false);
    }
    for (to, sum) in rest.iter_mut().zip(&sums[done..]) {
        *to = T::from_f32(f32::from_bits(*sum) * factor);
    }
}
