//! One block of queries: its dq, and its part of every dk and dv that it reaches.

use super::{
    Attention, Cells, KEYS, Place, QUERIES, Sizes, Word,
    pack::{self, Strided},
    task::{Seen, cut, within},
    tile::{self, CHUNK, Lanes, ROWS, Rows},
    turns::Turns,
    weights::{self, Gradients, Logit, differentiate},
};
use crate::simd::{Body, Simd};

pub(super) struct Task<'a, T> {
    pub config: &'a Attention<'a>,
    pub sizes: &'a Sizes,
    pub place: Place,
    pub dy: &'a [T],
    pub saved: [&'a [T]; 4],
    pub lse: &'a [f32],
    pub scratch: &'a mut [u32],
    pub sums: &'a Cells<'a, u32>,
    pub turns: &'a Turns,
    pub gradients: [&'a Cells<'a, T>; 3],
}

/// What the task has of its queries: q and dy in rows and in columns, lse and delta; and dq.
struct Queries<'a> {
    q: &'a mut [u32],
    dy: &'a mut [u32],
    q_columns: &'a mut [u32],
    dy_columns: &'a mut [u32],
    lse: &'a mut [u32],
    delta: &'a mut [u32],
    dq: &'a mut [u32],
}

/// A block of keys: turned keys and values, keys in columns.
struct Packed<'a> {
    keys: &'a [u32],
    values: &'a [u32],
    key_columns: &'a [u32],
}

/// What is made of one head and block of keys, and the sums over heads.
struct Made<'a> {
    /// ds of a tile, in rows.
    ds_rows: &'a mut [u32],
    /// p and ds of all tiles, in columns.
    p: &'a mut [u32],
    ds: &'a mut [u32],
    dk: &'a mut [u32],
    dv: &'a mut [u32],
}

impl<T: Word> Body for Task<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Task { config, sizes, place, scratch, turns, gradients: [to_dq, to_dk, to_dv], sums, .. } = self;
        let _guard = turns.guard();
        let [q, dy, q_columns, dy_columns, lse, delta, dq, keys, values, key_columns, ds_rows, p, ds, dk, dv] =
            cut(scratch, sizes.backward_parts());
        let mut queries = Queries { q, dy, q_columns, dy_columns, lse, delta, dq };
        pack_queries(s, &self.place, config, sizes, self.dy, self.saved, self.lse, &mut queries);
        let mut made = Made { ds_rows, p, ds, dk, dv };
        let seen = Seen::of(config, &place);
        let [start, end] = seen.keys();
        for block in start / KEYS..end.div_ceil(KEYS) {
            let first = block * KEYS;
            let row = place.sequence * config.seq + first;
            let here = [row, KEYS.min(config.seq - first)];
            let of = |x, width| Strided::head(x, [config.kv_heads, place.kv_head], width);
            let (k, v) = (of(self.saved[1], config.head_dim), of(self.saved[2], config.v_head_dim));
            pack::turned(s, k, here, KEYS, keys);
            pack::turned(s, v, here, KEYS, values);
            pack::columns(k, here, sizes.q_lanes, key_columns);
            made.dk.fill(0);
            made.dv.fill(0);
            for head in 0..sizes.group {
                let packed = Packed { keys, values, key_columns };
                differentiate_scores::<S, T>(s, config, sizes, head, &seen, first, &mut queries, &packed, &mut made);
                sum_up::<S, T>(s, sizes, head, &seen, first, &queries, &mut made);
            }
            let [is_first, is_last] = turns.ends(&place, block);
            turns.wait(&place, block);
            // SAFETY: it is this task's turn.
            let sums = unsafe { sums.cell(turns.index(&place, block)) };
            let (dk_sum, dv_sum) = sums.split_at_mut(KEYS * sizes.q_lanes);
            for (sum, part) in [(dk_sum, &mut *made.dk), (dv_sum, &mut *made.dv)] {
                match [is_first, is_last] {
                    [true, true] => {}
                    [true, false] => sum.copy_from_slice(part),
                    [false, true] => add(s, part, sum),
                    [false, false] => add(s, sum, part),
                }
            }
            if is_last {
                for r in 0..here[1] {
                    let cell = (row + r) * config.kv_heads + place.kv_head;
                    // SAFETY: a key is in one block, and one task is the last of its head's.
                    let (dk, dv) = unsafe { (to_dk.cell(cell), to_dv.cell(cell)) };
                    pack::put_row(s, &made.dk[r * sizes.q_lanes..], 1.0, dk);
                    pack::put_row(s, &made.dv[r * sizes.v_lanes..], 1.0, dv);
                }
            }
            turns.done(&place, block);
        }
        for head in 0..sizes.group {
            for r in 0..QUERIES.min(config.seq - place.first_query()) {
                let row = place.sequence * config.seq + place.first_query() + r;
                // SAFETY: a head's query is in one task.
                let to = unsafe { to_dq.cell(row * config.heads + place.kv_head * sizes.group + head) };
                pack::put_row(s, &queries.dq[(head * QUERIES + r) * sizes.q_lanes..], 1.0, to);
            }
        }
    }
}

/// to += part.
#[inline(always)]
fn add<S: Simd>(s: S, to: &mut [u32], part: &[u32]) {
    for at in (0..to.len()).step_by(16) {
        let sum = s.add(tile::get(s, to, at), tile::get(s, part, at));
        tile::put(s, to, at, sum);
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one loop of the task, apart for reading")]
fn pack_queries<S: Simd, T: Word>(
    s: S,
    place: &Place,
    config: &Attention<'_>,
    sizes: &Sizes,
    dy: &[T],
    [q, _, _, y]: [&[T]; 4],
    lse: &[f32],
    to: &mut Queries<'_>,
) {
    let row = place.sequence * config.seq + place.first_query();
    let count = QUERIES.min(config.seq - place.first_query());
    for index in 0..sizes.group {
        let head = place.kv_head * sizes.group + index;
        let of = |x, width| Strided::<T>::head(x, [config.heads, head], width);
        let (q, dy, y) = (of(q, config.head_dim), of(dy, config.v_head_dim), of(y, config.v_head_dim));
        let part = |size: usize| index * QUERIES * size..(index + 1) * QUERIES * size;
        let lines = |size: usize| {
            let size = QUERIES / T::PER_WORD * size;
            index * size..(index + 1) * size
        };
        pack::rows(s, q, [row, count], sizes.q_words, &mut to.q[part(sizes.q_words)]);
        pack::rows(s, dy, [row, count], sizes.v_words, &mut to.dy[part(sizes.v_words)]);
        pack::columns(q, [row, count], sizes.q_lanes, &mut to.q_columns[lines(sizes.q_lanes)]);
        pack::columns(dy, [row, count], sizes.v_lanes, &mut to.dy_columns[lines(sizes.v_lanes)]);
        to.lse[part(1)].fill(0);
        to.delta[part(1)].fill(0);
        for r in 0..count {
            let lse = lse[(row + r) * config.heads + head] * std::f32::consts::LOG2_E;
            to.lse[index * QUERIES + r] = lse.to_bits();
            to.delta[index * QUERIES + r] = pack::dot(s, dy.row(row + r), y.row(row + r)).to_bits();
        }
    }
    to.dq.fill(0);
}

/// p and ds of a head, and its dq.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one loop of the task, apart for reading")]
fn differentiate_scores<S: Simd, T: Word>(
    s: S,
    config: &Attention<'_>,
    sizes: &Sizes,
    head: usize,
    seen: &Seen,
    first: usize,
    queries: &mut Queries<'_>,
    packed: &Packed<'_>,
    made: &mut Made<'_>,
) {
    let logit = Logit::of(config);
    let lead = KEYS / T::PER_WORD;
    for (tile, range) in seen.tiles.iter().enumerate() {
        let [start, end] = within(*range, first);
        if start >= end {
            continue;
        }
        let columns = [start / CHUNK * CHUNK, end.next_multiple_of(CHUNK)];
        let row = head * QUERIES + tile * ROWS;
        let q = Rows { words: &queries.q[row * sizes.q_words..], lead: sizes.q_words };
        let dy = Rows { words: &queries.dy[row * sizes.v_words..], lead: sizes.v_words };
        let mut seen_here = [[0; 2]; ROWS];
        for (here, rows) in seen_here.iter_mut().zip(&seen.rows[tile * ROWS..]) {
            *here = within(*rows, first);
        }
        let line = tile * ROWS / T::PER_WORD * KEYS..(tile + 1) * ROWS / T::PER_WORD * KEYS;
        let (p, ds) = (&mut made.p[line.clone()], &mut made.ds[line]);
        // The sums over queries take whole tiles of keys, which can reach over a chunk's end.
        for line in p.chunks_exact_mut(KEYS).chain(ds.chunks_exact_mut(KEYS)) {
            line[..columns[0]].fill(0);
            line[columns[1]..].fill(0);
        }
        let rows = weights::Rows { lse: &queries.lse[row..], delta: &queries.delta[row..], seen: &seen_here };
        for column in (columns[0]..columns[1]).step_by(CHUNK) {
            let of = |words| Lanes { words, lead: KEYS };
            let scores = tile::product::<S, T>(s, q, of(&packed.keys[column..]), sizes.q_words);
            let dp = tile::product::<S, T>(s, dy, of(&packed.values[column..]), sizes.v_words);
            let to = Gradients { rows: made.ds_rows, p, ds };
            let is_whole = |[start, end]: &[usize; 2]| *start <= column && column + CHUNK <= *end;
            if seen_here.iter().all(is_whole) {
                differentiate::<S, T, false>(s, logit, &scores, &dp, &rows, column, to);
            } else {
                differentiate::<S, T, true>(s, logit, &scores, &dp, &rows, column, to);
            }
        }
        let [from, to] = columns.map(|column| column / T::PER_WORD);
        let ds = Rows { words: &made.ds_rows[from..], lead };
        let keys = Lanes { words: &packed.key_columns[from * sizes.q_lanes..], lead: sizes.q_lanes };
        let dq = &mut queries.dq[row * sizes.q_lanes..][..ROWS * sizes.q_lanes];
        tile::add_product::<S, T, false>(s, dq, None, ds, keys, to - from);
    }
}

/// dv += p^T dy and dk += ds^T q, a tile of keys at a time.
#[inline(always)]
fn sum_up<S: Simd, T: Word>(
    s: S,
    sizes: &Sizes,
    head: usize,
    seen: &Seen,
    first: usize,
    queries: &Queries<'_>,
    made: &mut Made<'_>,
) {
    let lines = QUERIES / T::PER_WORD;
    for key in (0..KEYS).step_by(ROWS) {
        let sees = |range: &[usize; 2]| range[0] < first + key + ROWS && range[1] > first + key;
        let Some(from) = seen.tiles.iter().position(sees) else { continue };
        let to = seen.tiles.iter().rposition(sees).unwrap_or(from) + 1;
        let [from, to] = [from, to].map(|tile| tile * ROWS / T::PER_WORD);
        for (weights, columns, lanes, sums) in [
            (&*made.p, &*queries.dy_columns, sizes.v_lanes, &mut *made.dv),
            (&*made.ds, &*queries.q_columns, sizes.q_lanes, &mut *made.dk),
        ] {
            let rows = Rows { words: &weights[from * KEYS + key..], lead: KEYS };
            let lanes = Lanes { words: &columns[(head * lines + from) * lanes..], lead: lanes };
            let sums = &mut sums[key * lanes.lead..][..ROWS * lanes.lead];
            tile::add_product::<S, T, true>(s, sums, None, rows, lanes, to - from);
        }
    }
}
