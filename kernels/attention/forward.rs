//! One block of queries: running maximum and sum, and the values summed up.

use super::{
    Attention, Cells, KEYS, Place, QUERIES, Sizes, Word,
    pack::{self, Strided},
    task::{Keys, Seen, cut, within},
    tile::{self, CHUNK, Lanes, ROWS, Rows},
    weights::{Logit, Running, weigh},
};
use crate::{
    math,
    simd::{Body, Simd},
};

pub(super) struct Task<'a, T> {
    pub config: &'a Attention<'a>,
    pub sizes: &'a Sizes,
    pub place: Place,
    pub qkv: [&'a [T]; 3],
    pub sinks: Option<&'a [f32]>,
    pub scratch: &'a mut [u32],
    pub y: &'a Cells<'a, T>,
    pub lse: &'a Cells<'a, f32>,
}

/// What the task has of its queries.
struct Work<'a> {
    queries: &'a [u32],
    y: &'a mut [u32],
    max: &'a mut [u32],
    sum: &'a mut [u32],
    scores: &'a mut [u32],
    weights: &'a mut [u32],
}

impl<T: Word> Body for Task<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Task { config, sizes, place, qkv: [q, k, v], sinks, scratch, y: to, lse } = self;
        let [queries, keys, values, y, max, sum, scores, weights] = cut(scratch, sizes.forward_parts());
        let row = place.sequence * config.seq + place.first_query();
        let count = QUERIES.min(config.seq - place.first_query());
        let first_head = place.kv_head * sizes.group;
        for (head, queries) in queries.chunks_exact_mut(QUERIES * sizes.q_words).enumerate() {
            let q = Strided::head(q, [config.heads, first_head + head], config.head_dim);
            pack::rows(s, q, [row, count], sizes.q_words, queries);
        }
        y.fill(0);
        max.fill(f32::NEG_INFINITY.to_bits());
        sum.fill(0);
        if let Some(sinks) = sinks {
            let rows = max.chunks_exact_mut(QUERIES).zip(sum.chunks_exact_mut(QUERIES * 16));
            for ((max, sum), sink) in rows.zip(&sinks[first_head..]) {
                max.fill((sink * std::f32::consts::LOG2_E).to_bits());
                sum.chunks_exact_mut(16).for_each(|lanes| lanes[0] = 1.0_f32.to_bits());
            }
        }
        let seen = Seen::of(config, &place);
        let [start, end] = seen.keys();
        let mut work = Work { queries, y, max, sum, scores, weights };
        for first in (start / KEYS * KEYS..end).step_by(KEYS) {
            let here = [place.sequence * config.seq + first, KEYS.min(config.seq - first)];
            let of = |x, width| Strided::head(x, [config.kv_heads, place.kv_head], width);
            pack::turned(s, of(k, config.head_dim), here, KEYS, keys);
            pack::columns(of(v, config.v_head_dim), here, sizes.v_lanes, values);
            for head in 0..sizes.group {
                attend::<S, T>(s, config, sizes, &mut work, head, &seen, first, [keys, values]);
            }
        }
        for head in 0..sizes.group {
            for r in 0..count {
                let (at, cell) = (head * QUERIES + r, (row + r) * config.heads + first_head + head);
                let sum = s.reduce_add(tile::get(s, work.sum, 16 * at));
                // What sees nothing has zeros.
                let factor = if sum == 0.0 { 0.0 } else { 1.0 / sum };
                // SAFETY: a head's query is in one task.
                let (to, lse) = unsafe { (to.cell(cell), lse.cell(cell)) };
                pack::put_row(s, &work.y[at * sizes.v_lanes..], factor, to);
                let log = f64::from(f32::from_bits(work.max[at])) * std::f64::consts::LN_2;
                lse[0] = (log + math::ln(sum)) as f32;
            }
        }
    }
}

/// All tiles of a head against a block of keys.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one loop of the task, apart for reading")]
fn attend<S: Simd, T: Word>(
    s: S,
    config: &Attention<'_>,
    sizes: &Sizes,
    work: &mut Work<'_>,
    head: usize,
    seen: &Seen,
    first: usize,
    [keys, values]: [&[u32]; 2],
) {
    let logit = Logit::of(config);
    for (tile, range) in seen.tiles.iter().enumerate() {
        let [start, end] = within(*range, first);
        if start >= end {
            continue;
        }
        let columns: Keys = [start / CHUNK * CHUNK, end.next_multiple_of(CHUNK)];
        let row = head * QUERIES + tile * ROWS;
        let queries = Rows { words: &work.queries[row * sizes.q_words..], lead: sizes.q_words };
        for column in (columns[0]..columns[1]).step_by(CHUNK) {
            let keys = Lanes { words: &keys[column..], lead: KEYS };
            let scores = tile::product::<S, T>(s, queries, keys, sizes.q_words);
            for (r, scores) in scores.iter().enumerate() {
                for (c, score) in scores.iter().enumerate() {
                    tile::put(s, work.scores, r * KEYS + column + 16 * c, *score);
                }
            }
        }
        let mut factors = [1.0; ROWS];
        let lead = KEYS / T::PER_WORD;
        for (r, factor) in factors.iter_mut().enumerate() {
            let running =
                Running { max: &mut work.max[row + r], sum: &mut work.sum[16 * (row + r)..16 * (row + r + 1)] };
            let (scores, weights) = (&work.scores[r * KEYS..][..KEYS], &mut work.weights[r * lead..][..lead]);
            let seen = within(seen.rows[tile * ROWS + r], first);
            *factor = weigh::<S, T>(s, logit, scores, weights, seen, columns, running);
        }
        let factors = factors.iter().any(|factor| *factor != 1.0).then_some(&factors);
        let [from, to] = columns.map(|column| column / T::PER_WORD);
        let weights = Rows { words: &work.weights[from..], lead };
        let values = Lanes { words: &values[from * sizes.v_lanes..], lead: sizes.v_lanes };
        let y = &mut work.y[row * sizes.v_lanes..][..ROWS * sizes.v_lanes];
        tile::add_product::<S, T, false>(s, y, factors, weights, values, to - from);
    }
}
