//! Which keys each query of a sequence sees.

use std::ops::Range;

use super::{Done, OP};
use crate::KernelError;

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

    pub(super) fn check(&self) -> Done {
        let refuse = |argument, expected: &str, got: String| {
            Err(KernelError::Argument { op: OP, argument, expected: expected.into(), got })
        };
        if let Some(window) = self.sliding_window
            && (window == 0 || !self.causal)
        {
            return refuse("sliding_window", "at least 1, and with `causal`", window.to_string());
        }
        if let Some(documents) = self.documents
            && let Some(at) = documents.windows(2).position(|pair| pair[0] > pair[1])
        {
            let got = format!("{} after {} at {}", documents[at + 1], documents[at], at + 1);
            return refuse("documents", "numbers that never decrease", got);
        }
        Ok(())
    }
}
