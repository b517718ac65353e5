//! What every task knows: its place, the sizes of what it packs, and which keys its queries see.

use unswag_kernel_plan::attention::{KEYS, LINE, QUERIES, ROWS};

use super::{Attention, config::mask};

/// A task's queries: of all heads that share a key, in one sequence.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub sequence: usize,
    pub kv_head: usize,
    /// Which block of [`QUERIES`].
    pub block: usize,
}

impl Place {
    /// The last queries of a head first: under a causal mask they are the most work.
    pub(super) fn all(config: &Attention<'_>) -> impl Iterator<Item = Place> + Send + use<> {
        let (heads, blocks) = (config.kv_heads, config.seq.div_ceil(QUERIES));
        (0..config.tasks()).map(move |index| Place {
            sequence: index / blocks / heads,
            kv_head: index / blocks % heads,
            block: blocks - 1 - index % blocks,
        })
    }

    pub(super) fn first_query(&self) -> usize {
        self.block * QUERIES
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
        let mask = mask(config, place.sequence);
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
