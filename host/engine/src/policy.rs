//! What a block keeps for its backward, and where.

use serde::Serialize;

/// What a block keeps for its backward.
///
/// A policy changes no result but by the order in which rows are summed: all but the tiled ones give the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// All that its nodes ask for.
    #[default]
    Keep,
    /// The same, but for what norms and activations make: they make it again, for each who asks, from what they keep anyway. It
    /// costs no product.
    Selective,
    /// As [`Policy::Keep`], but of a stretch of nodes that work row by row around an activation (the MLP) only what comes into it. They
    /// run on [`crate::Step::tile_rows`] rows at a time, and again in the backward, so that what they make never exists whole.
    Tile,
    /// What comes into the block; the rest is computed again.
    Recompute,
    /// Both: what comes into the block, and the MLP in stretches when it is computed again. It takes no more arithmetic than
    /// [`Policy::Recompute`].
    RecomputeTile,
    /// As [`Policy::Recompute`], what comes into the block being written to a [`crate::Store`] until its backward is due.
    Offload,
    /// As [`Policy::RecomputeTile`], with a [`crate::Store`].
    OffloadTile,
}

impl Policy {
    pub const ALL: [Policy; 7] = [
        Policy::Keep,
        Policy::Selective,
        Policy::Tile,
        Policy::Recompute,
        Policy::RecomputeTile,
        Policy::Offload,
        Policy::OffloadTile,
    ];

    /// Those that need no [`crate::Store`].
    pub const IN_MEMORY: [Policy; 5] =
        [Policy::Keep, Policy::Selective, Policy::Tile, Policy::Recompute, Policy::RecomputeTile];

    /// What every block follows where none is searched for: making norms and activations again costs next to nothing.
    pub fn unsearched(gradient_checkpointing: bool) -> Self {
        if gradient_checkpointing { Policy::Recompute } else { Policy::Selective }
    }

    pub fn name(self) -> &'static str {
        match self {
            Policy::Keep => "keep",
            Policy::Selective => "selective",
            Policy::Tile => "tile",
            Policy::Recompute => "recompute",
            Policy::RecomputeTile => "recompute_tile",
            Policy::Offload => "offload",
            Policy::OffloadTile => "offload_tile",
        }
    }

    /// Whether the block is computed again.
    pub fn recomputes(self) -> bool {
        !matches!(self, Policy::Keep | Policy::Selective | Policy::Tile)
    }

    pub fn tiles(self) -> bool {
        matches!(self, Policy::Tile | Policy::RecomputeTile | Policy::OffloadTile)
    }

    pub fn offloads(self) -> bool {
        matches!(self, Policy::Offload | Policy::OffloadTile)
    }
}
