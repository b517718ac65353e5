//! What every task knows: its place, the sizes of what it packs, and which keys its queries see.

use super::{Attention, KEYS, LINE, QUERIES, Word, tile::ROWS};

/// A task's queries: of all heads that share a key, in one sequence.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub sequence: usize,
    pub kv_head: usize,
    /// Which block of [`QUERIES`].
    pub block: usize,
}

impl Place {
    pub(super) fn count(config: &Attention<'_>) -> usize {
        config.batch * config.kv_heads * config.seq.div_ceil(QUERIES)
    }

    /// The last queries of a head first: under a causal mask they are the most work.
    pub(super) fn all(config: &Attention<'_>) -> impl Iterator<Item = Place> + Send + use<> {
        let (heads, blocks) = (config.kv_heads, config.seq.div_ceil(QUERIES));
        (0..Place::count(config)).map(move |index| Place {
            sequence: index / blocks / heads,
            kv_head: index / blocks % heads,
            block: blocks - 1 - index % blocks,
        })
    }

    pub(super) fn first_query(&self) -> usize {
        self.block * QUERIES
    }
}

/// Words of what is packed for one key, query or value, and of the scratch that holds it all.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Words of a query or key; of a value.
    pub q_words: usize,
    pub v_words: usize,
    /// Lanes of the same.
    pub q_lanes: usize,
    pub v_lanes: usize,
    /// Elements in a word.
    pub per_word: usize,
    pub group: usize,
    /// Scratch of a task.
    pub forward: usize,
    pub backward: usize,
    /// The sums of dk and dv, in f32.
    pub sums: usize,
}

impl Sizes {
    pub(super) fn of<T: Word>(config: &Attention<'_>) -> Self {
        let (d, dv, group) = (config.head_dim, config.v_head_dim, config.group());
        let (q_words, v_words) = (d.div_ceil(T::PER_WORD), dv.div_ceil(T::PER_WORD));
        let (q_lanes, v_lanes) = (d.next_multiple_of(16), dv.next_multiple_of(16));
        let mut sizes = Sizes {
            q_words,
            v_words,
            q_lanes,
            v_lanes,
            per_word: T::PER_WORD,
            group,
            forward: 0,
            backward: 0,
            sums: 0,
        };
        sizes.forward = sizes.forward_parts().iter().map(|part| part.next_multiple_of(LINE)).sum();
        sizes.backward = sizes.backward_parts().iter().map(|part| part.next_multiple_of(LINE)).sum();
        let blocks = config.batch * config.kv_heads * config.seq.div_ceil(KEYS);
        sizes.sums = blocks * sizes.sums_of_block();
        sizes
    }

    /// The sums of one block of keys.
    pub(super) fn sums_of_block(&self) -> usize {
        KEYS * (self.q_lanes + self.v_lanes)
    }

    /// Queries; keys turned; values in columns; sums of y; maxima; sums; a tile's scores; its weights.
    pub(super) fn forward_parts(&self) -> [usize; 8] {
        let queries = self.group * QUERIES;
        [
            queries * self.q_words,
            self.q_words * KEYS,
            KEYS / self.per_word * self.v_lanes,
            queries * self.v_lanes,
            queries,
            queries * 16,
            ROWS * KEYS,
            ROWS * KEYS / self.per_word,
        ]
    }

    /// q and dy in rows; q and dy in columns; lse; delta; dq; keys and values turned; keys in columns; ds of a tile in rows; p and
    /// ds of a head in columns; dk and dv.
    pub(super) fn backward_parts(&self) -> [usize; 15] {
        let (queries, per) = (self.group * QUERIES, self.per_word);
        [
            queries * self.q_words,
            queries * self.v_words,
            queries / per * self.q_lanes,
            queries / per * self.v_lanes,
            queries,
            queries,
            queries * self.q_lanes,
            KEYS * self.q_words,
            KEYS * self.v_words,
            KEYS / per * self.q_lanes,
            ROWS * KEYS / per,
            QUERIES / per * KEYS,
            QUERIES / per * KEYS,
            KEYS * self.q_lanes,
            KEYS * self.v_lanes,
        ]
    }
}

/// Cuts the scratch into parts, each on a line of the cache.
pub(super) fn cut<const N: usize>(mut scratch: &mut [u32], parts: [usize; N]) -> [&mut [u32]; N] {
    parts.map(|part| {
        let (piece, rest) = std::mem::take(&mut scratch).split_at_mut(part.next_multiple_of(LINE));
        scratch = rest;
        &mut piece[..part]
    })
}

/// A range of keys, from and to.
pub(super) type Keys = [usize; 2];

/// The keys that each query of a task sees; and each tile of queries, all in all.
pub(super) struct Seen {
    pub rows: [Keys; QUERIES],
    pub tiles: [Keys; QUERIES / ROWS],
}

impl Seen {
    pub(super) fn of(config: &Attention<'_>, place: &Place) -> Self {
        let mask = config.mask(place.sequence);
        let mut seen = Seen { rows: [[0; 2]; QUERIES], tiles: [[0; 2]; QUERIES / ROWS] };
        for (r, keys) in seen.rows.iter_mut().enumerate() {
            let query = place.first_query() + r;
            if query < config.seq {
                let visible = mask.visible(query);
                *keys = [visible.start, visible.end];
            }
        }
        for (tile, rows) in seen.tiles.iter_mut().zip(seen.rows.chunks_exact(ROWS)) {
            *tile = hull(rows);
        }
        seen
    }

    /// The keys that any query sees.
    pub(super) fn keys(&self) -> Keys {
        hull(&self.tiles)
    }
}

fn hull(ranges: &[Keys]) -> Keys {
    let filled = || ranges.iter().filter(|[start, end]| start < end);
    match (filled().map(|range| range[0]).min(), filled().map(|range| range[1]).max()) {
        (Some(start), Some(end)) => [start, end],
        _ => [0, 0],
    }
}

/// What of a range lies in the block of keys from `first` on, counted from there.
pub(super) fn within([start, end]: Keys, first: usize) -> Keys {
    [start.max(first) - first, end.clamp(first, first + KEYS) - first].map(|key| key.min(KEYS))
}
