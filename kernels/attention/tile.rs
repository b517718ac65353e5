//! A product whose sums stay in registers: 6 rows by 64 lanes with AVX-512, 24 sums in 32 registers; by 16 with AVX2, 12 in 16.

pub(super) use unswag_kernel_plan::attention::ROWS;

use super::Word;
use crate::simd::Simd;

/// Lanes of a tile.
pub(super) const CHUNK: usize = 64;

/// The rows of a product: words of row r lie at r `lead`, or, turned, word w of all rows at w `lead`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub words: &'a [u32],
    pub lead: usize,
}

/// The lanes of a product: word w of all lanes at w `lead`.
#[derive(Clone, Copy)]
pub(super) struct Lanes<'a> {
    pub words: &'a [u32],
    pub lead: usize,
}

#[inline(always)]
fn lanes<S: Simd>(s: S, words: &[u32], at: usize) -> S::I {
    s.load_i(whole(words[at..].first_chunk()))
}

/// Every size is one of whole vectors.
#[inline(always)]
pub(super) fn whole<T>(vector: Option<T>) -> T {
    let Some(vector) = vector else { unreachable!("part of a vector") };
    vector
}

/// sums += rows lanes over `count` words.
#[inline(always)]
pub(super) fn multiply<S: Simd, T: Word, const C: usize, const TURNED: bool>(
    s: S,
    sums: &mut [[S::F; C]; ROWS],
    rows: Rows<'_>,
    of_lanes: Lanes<'_>,
    count: usize,
) {
    let end = |start: usize| start + if TURNED { (count - 1) * rows.lead + ROWS } else { count };
    if count == 0 {
        return;
    }
    let mut cut = [&rows.words[..0]; ROWS];
    for (r, cut) in cut.iter_mut().enumerate() {
        *cut = if TURNED { &rows.words[..end(0)] } else { &rows.words[r * rows.lead..end(r * rows.lead)] };
    }
    for w in 0..count {
        let line = &of_lanes.words[w * of_lanes.lead..][..16 * C];
        let mut b = [s.splat_i(0); C];
        for (c, b) in b.iter_mut().enumerate() {
            *b = lanes(s, line, 16 * c);
        }
        let turned = if TURNED { &cut[0][w * rows.lead..][..ROWS] } else { cut[0] };
        for r in 0..ROWS {
            let a = s.splat_i(if TURNED { turned[r] } else { cut[r][w] });
            for c in 0..C {
                sums[r][c] = T::dot(s, sums[r][c], a, b[c]);
            }
        }
    }
}

/// The sums of a tile of [`CHUNK`] lanes.
#[inline(always)]
pub(super) fn product<S: Simd, T: Word>(s: S, rows: Rows<'_>, of_lanes: Lanes<'_>, count: usize) -> [[S::F; 4]; ROWS] {
    let mut sums = [[s.splat(0.0); 4]; ROWS];
    if S::TILE == 4 {
        multiply::<S, T, 4, false>(s, &mut sums, rows, of_lanes, count);
        return sums;
    }
    for c in 0..4 {
        let mut column = [[s.splat(0.0); 1]; ROWS];
        let here = Lanes { words: &of_lanes.words[16 * c..], lead: of_lanes.lead };
        multiply::<S, T, 1, false>(s, &mut column, rows, here, count);
        for (sums, [sum]) in sums.iter_mut().zip(column) {
            sums[c] = sum;
        }
    }
    sums
}

/// `to` \[ROWS, lead\] f32 bits: to factors + rows lanes, over all of `lead` lanes (a multiple of 16).
#[inline(always)]
pub(super) fn add_product<S: Simd, T: Word, const TURNED: bool>(
    s: S,
    to: &mut [u32],
    factors: Option<&[f32; ROWS]>,
    rows: Rows<'_>,
    of_lanes: Lanes<'_>,
    count: usize,
) {
    let mut first = 0;
    while first < of_lanes.lead {
        let here = Lanes { words: &of_lanes.words[first..], lead: of_lanes.lead };
        let to = &mut to[first..];
        match ((of_lanes.lead - first) / 16).min(S::TILE) {
            1 => add_columns::<S, T, 1, TURNED>(s, to, factors, rows, here, count),
            2 => add_columns::<S, T, 2, TURNED>(s, to, factors, rows, here, count),
            3 => add_columns::<S, T, 3, TURNED>(s, to, factors, rows, here, count),
            _ => add_columns::<S, T, 4, TURNED>(s, to, factors, rows, here, count),
        }
        first += 16 * S::TILE;
    }
}

#[inline(always)]
fn add_columns<S: Simd, T: Word, const C: usize, const TURNED: bool>(
    s: S,
    to: &mut [u32],
    factors: Option<&[f32; ROWS]>,
    rows: Rows<'_>,
    of_lanes: Lanes<'_>,
    count: usize,
) {
    let mut sums = [[s.splat(0.0); C]; ROWS];
    for (r, sums) in sums.iter_mut().enumerate() {
        for (c, sum) in sums.iter_mut().enumerate() {
            *sum = s.as_f(lanes(s, to, r * of_lanes.lead + 16 * c));
        }
    }
    if let Some(factors) = factors {
        for (sums, factor) in sums.iter_mut().zip(factors) {
            for sum in sums {
                *sum = s.mul(*sum, s.splat(*factor));
            }
        }
    }
    multiply::<S, T, C, TURNED>(s, &mut sums, rows, of_lanes, count);
    for (r, sums) in sums.iter().enumerate() {
        for (c, sum) in sums.iter().enumerate() {
            put(s, to, r * of_lanes.lead + 16 * c, *sum);
        }
    }
}

/// Writes sixteen sums as f32 bits.
#[inline(always)]
pub(super) fn put<S: Simd>(s: S, to: &mut [u32], at: usize, value: S::F) {
    s.store_i(whole(to[at..].first_chunk_mut()), s.as_i(value));
}

/// Sixteen f32 from their bits.
#[inline(always)]
pub(super) fn get<S: Simd>(s: S, from: &[u32], at: usize) -> S::F {
    s.as_f(lanes(s, from, at))
}
