//! From scores to weights and their gradients, in registers. Logits are in units of ln(2), so that 2^x serves for e^x.

use super::{
    Attention, KEYS, Word,
    task::Keys,
    tile::{CHUNK, ROWS, get},
};
use crate::simd::{Simd, math::Tanh};

/// 2^r on |r| <= 1/2, highest degree first; relative error 2^-22.2 in f32.
const EXP2: [f32; 6] = [0.001_327_647_1, 0.009_675_541, 0.055_507_13, 0.240_221_2, 0.693_146_94, 1.000_000_1];
/// Below this 2^x is zero: half the least denormal.
const LOW: f32 = -150.0;

/// 2^x for x up to 150; NaN in, NaN out.
#[inline(always)]
fn exp2<S: Simd>(s: S, x: S::F) -> S::F {
    let x = s.max(s.splat(LOW), x);
    let n = s.round(x);
    let r = s.sub(x, n);
    let mut p = s.splat(EXP2[0]);
    for c in &EXP2[1..] {
        p = s.fma(p, r, s.splat(*c));
    }
    s.scale(p, n)
}

/// The logit of a score.
#[derive(Clone, Copy)]
pub(super) struct Logit {
    /// The logit is so many times the score; or, capped, the argument of tanh is.
    factor: f32,
    /// The logit is so many times tanh.
    cap: Option<f32>,
    /// As the caller gave it.
    scale: f32,
}

impl Logit {
    pub(super) fn of(config: &Attention<'_>) -> Self {
        let log2_e = std::f32::consts::LOG2_E;
        match config.logit_softcap {
            None => Logit { factor: config.scale * log2_e, cap: None, scale: config.scale },
            Some(cap) => Logit { factor: config.scale / cap, cap: Some(cap * log2_e), scale: config.scale },
        }
    }

    /// Logit - `base`.
    #[inline(always)]
    fn above<S: Simd>(self, s: S, score: S::F, base: S::F) -> S::F {
        match self.cap {
            None => s.fma(score, s.splat(self.factor), s.neg(base)),
            Some(cap) => s.sub(s.mul(self.tanh(s, score), s.splat(cap)), base),
        }
    }

    #[inline(always)]
    fn tanh<S: Simd>(self, s: S, score: S::F) -> S::F {
        s.value::<Tanh>(s.mul(score, s.splat(self.factor)))
    }

    /// The logit's slope: times the score's gradient.
    #[inline(always)]
    fn slope<S: Simd>(self, s: S, score: S::F) -> S::F {
        let scale = s.splat(self.scale);
        match self.cap {
            None => scale,
            Some(_) => {
                let t = self.tanh(s, score);
                s.fnma(s.mul(t, t), scale, scale)
            }
        }
    }
}

/// `value` in the lanes of keys from `first` on that are seen, `otherwise` in the others.
#[inline(always)]
fn seen_only<S: Simd>(s: S, value: S::F, otherwise: f32, [start, end]: Keys, first: usize) -> S::F {
    if start <= first && first + 16 <= end {
        return value;
    }
    let (lane, otherwise) = (s.to_f32(s.iota()), s.splat(otherwise));
    // Keys of a block are few: exact in f32.
    let place = |key: usize| s.splat(key as f32 - first as f32);
    let value = s.select(s.ge(lane, place(start)), value, otherwise);
    s.select(s.ge(lane, place(end)), otherwise, value)
}

/// A row's softmax so far.
pub(super) struct Running<'a> {
    /// The greatest logit.
    pub max: &'a mut u32,
    /// The sum in sixteen lanes.
    pub sum: &'a mut [u32],
}

/// A row of scores \[KEYS\] becomes weights, in the columns of `chunks` (whole chunks that hold `seen`). What the row had before is to be
/// multiplied by what is returned.
#[inline(always)]
pub(super) fn weigh<S: Simd, T: Word>(
    s: S,
    logit: Logit,
    scores: &[u32],
    weights: &mut [u32],
    seen: Keys,
    [from, to]: Keys,
    running: Running<'_>,
) -> f32 {
    let old = f32::from_bits(*running.max);
    let mut greatest = s.splat(f32::NEG_INFINITY);
    for key in (from..to).step_by(16) {
        let score = seen_only(s, get(s, scores, key), f32::NEG_INFINITY, seen, key);
        greatest = s.max(score, greatest);
    }
    let greatest = s.reduce_max(greatest);
    let new = match seen[0] < seen[1] && greatest > f32::NEG_INFINITY {
        true => s.reduce_max(logit.above(s, s.splat(greatest), s.splat(0.0))).max(old),
        false => old,
    };
    // A row without weights yet has no maximum to be above.
    let base = s.splat(if new == f32::NEG_INFINITY { 0.0 } else { new });
    let factor = if new == old { 1.0 } else { s.reduce_max(exp2(s, s.sub(s.splat(old), base))) };
    let mut sum = s.mul(get(s, running.sum, 0), s.splat(factor));
    for key in (from..to).step_by(32) {
        let low = weight(s, logit, get(s, scores, key), base, seen, key);
        let high = weight(s, logit, get(s, scores, key + 16), base, seen, key + 16);
        sum = s.add(sum, s.add(low, high));
        T::put_row(s, &mut weights[key / T::PER_WORD..], low, high);
    }
    super::tile::put(s, running.sum, 0, sum);
    *running.max = new.to_bits();
    factor
}

#[inline(always)]
fn weight<S: Simd>(s: S, logit: Logit, score: S::F, base: S::F, seen: Keys, key: usize) -> S::F {
    seen_only(s, exp2(s, logit.above(s, score, base)), 0.0, seen, key)
}

/// Where a tile's p and ds go.
pub(super) struct Gradients<'a> {
    /// ds \[ROWS, KEYS\] in rows of words.
    pub rows: &'a mut [u32],
    /// p and ds \[ROWS, KEYS\], words down columns.
    pub p: &'a mut [u32],
    pub ds: &'a mut [u32],
}

/// What a tile's rows had in the forward, and how their outputs' gradients lie.
pub(super) struct Rows<'a> {
    /// In units of ln(2).
    pub lse: &'a [u32],
    pub delta: &'a [u32],
    pub seen: &'a [Keys],
}

/// p = 2^(logit - lse), ds = p (dp - delta) slope for the chunk of keys from `first` on.
#[inline(always)]
pub(super) fn differentiate<S: Simd, T: Word, const MASKED: bool>(
    s: S,
    logit: Logit,
    scores: &[[S::F; 4]; ROWS],
    dp: &[[S::F; 4]; ROWS],
    rows: &Rows<'_>,
    first: usize,
    to: Gradients<'_>,
) {
    for pair in 0..ROWS / 2 {
        for half in 0..2 {
            // Of sixteen columns after the other: the upper row's and the lower's.
            let mut ds = [[s.splat(0.0); 2]; 2];
            for (c, ds) in ds.iter_mut().enumerate() {
                let column = 2 * half + c;
                let (r, key) = (2 * pair, first + 16 * column);
                let upper = gradient::<S, MASKED>(s, logit, [scores[r][column], dp[r][column]], rows, r, key);
                let lower =
                    gradient::<S, MASKED>(s, logit, [scores[r + 1][column], dp[r + 1][column]], rows, r + 1, key);
                let at = 2 * pair / T::PER_WORD * KEYS + first + 16 * column;
                T::put_column(s, &mut to.p[at..], KEYS, upper.0, lower.0);
                T::put_column(s, &mut to.ds[at..], KEYS, upper.1, lower.1);
                *ds = [upper.1, lower.1];
            }
            let at = 2 * pair * KEYS + first + CHUNK / 2 * half;
            T::put_row(s, &mut to.rows[at / T::PER_WORD..], ds[0][0], ds[1][0]);
            T::put_row(s, &mut to.rows[(at + KEYS) / T::PER_WORD..], ds[0][1], ds[1][1]);
        }
    }
}

/// p and ds of sixteen keys of row r.
#[inline(always)]
fn gradient<S: Simd, const MASKED: bool>(
    s: S,
    logit: Logit,
    [score, dp]: [S::F; 2],
    rows: &Rows<'_>,
    r: usize,
    key: usize,
) -> (S::F, S::F) {
    let (lse, delta) = (s.splat(f32::from_bits(rows.lse[r])), s.splat(f32::from_bits(rows.delta[r])));
    let p = exp2(s, logit.above(s, score, lse));
    let ds = s.mul(s.mul(p, logit.slope(s, score)), s.sub(dp, delta));
    if MASKED {
        let seen = rows.seen[r];
        return (seen_only(s, p, 0.0, seen, key), seen_only(s, ds, 0.0, seen, key));
    }
    (p, ds)
}
