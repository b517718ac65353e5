//! Which keys each query of a sequence sees.

use std::ops::Range;

/// The scores of one sequence, and what of them is seen.
#[derive(Clone, Copy)]
pub(super) struct Mask<'a> {
    /// Queries, and keys.
    pub seq: usize,
    pub causal: bool,
    pub sliding_window: Option<usize>,
    /// \[seq\].
    pub documents: Option<&'a [u32]>,
}

impl Mask<'_> {
    /// The keys that a query sees. They are one range, because documents lie together.
    pub(super) fn visible(&self, query: usize) -> Range<usize> {
        let (mut start, mut end) = (0, self.seq);
        if self.causal {
            end = end.min(query + 1);
            if let Some(window) = self.sliding_window {
                start = (query + 1).saturating_sub(window);
            }
        }
        if let Some(documents) = self.documents {
            let document = documents[query];
            start = start.max(documents.partition_point(|other| *other < document));
            end = end.min(documents.partition_point(|other| *other <= document));
        }
        start..end
    }
}
