//! A block of scores: its place in the sequence, and which keys each of its queries sees.

use std::ops::Range;

use super::{OP, dispatch::Done};
use crate::{KernelError, error::length};

/// One matrix of scores, and how scores become logits. All matrices of a call share it: they are heads of one sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block<'a> {
    /// Queries.
    pub rows: usize,
    /// Keys.
    pub cols: usize,
    /// Position of the first query in the sequence.
    pub first_query: usize,
    /// Position of the first key.
    pub first_key: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// A query sees no later key.
    pub causal: bool,
    /// Keys that a query sees, itself included; only with `causal`.
    pub sliding_window: Option<usize>,
    /// Scores become cap tanh(score / cap) after the scale.
    pub logit_softcap: Option<f32>,
    /// A query sees the keys of its own document.
    pub documents: Option<Documents<'a>>,
}

/// Which document each token of a packed sequence belongs to: numbers that never decrease along the sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Documents<'a> {
    /// \[rows\].
    pub queries: &'a [u32],
    /// \[cols\].
    pub keys: &'a [u32],
}

impl Default for Block<'_> {
    /// No rows, no columns, no mask, a scale of 1.
    fn default() -> Self {
        Block {
            rows: 0,
            cols: 0,
            first_query: 0,
            first_key: 0,
            scale: 1.0,
            causal: false,
            sliding_window: None,
            logit_softcap: None,
            documents: None,
        }
    }
}

impl Block<'_> {
    /// The columns that a row sees. They are one range, because documents lie together.
    ///
    /// # Panics
    /// If `row` is not below `rows`, or the block is one that [`super::forward`] refuses.
    pub fn visible(&self, row: usize) -> Range<usize> {
        let (mut start, mut end) = (0, self.cols);
        if self.causal {
            // Keys first_key + column <= first_query + row, and the last `window` of them.
            let seen = (self.first_query + row + 1).saturating_sub(self.first_key);
            end = end.min(seen);
            if let Some(window) = self.sliding_window {
                start = (self.first_query + row + 1).saturating_sub(window).saturating_sub(self.first_key);
            }
        }
        if let Some(Documents { queries, keys }) = self.documents {
            let document = queries[row];
            start = start.max(keys.partition_point(|key| *key < document));
            end = end.min(keys.partition_point(|key| *key <= document));
        }
        start.min(end)..end
    }

    pub(crate) fn check(&self) -> Done {
        let refuse = |argument, expected: &str, got: String| {
            Err(KernelError::Argument { op: OP, argument, expected: expected.into(), got })
        };
        let positive = |value: f32| value.is_finite() && value > 0.0;
        if !positive(self.scale) {
            return refuse("scale", "finite and above 0", self.scale.to_string());
        }
        if let Some(cap) = self.logit_softcap
            && !positive(cap)
        {
            return refuse("logit_softcap", "finite and above 0", cap.to_string());
        }
        if let Some(window) = self.sliding_window
            && (window == 0 || !self.causal)
        {
            return refuse("sliding_window", "at least 1, and with `causal`", window.to_string());
        }
        for (argument, first, n) in
            [("first_query", self.first_query, self.rows), ("first_key", self.first_key, self.cols)]
        {
            if first.checked_add(n).is_none_or(|end| end == usize::MAX) {
                return refuse(argument, "a position that fits the address space", first.to_string());
            }
        }
        if let Some(Documents { queries, keys }) = self.documents {
            length(OP, "documents.queries", self.rows, queries.len())?;
            length(OP, "documents.keys", self.cols, keys.len())?;
            for (argument, documents) in [("documents.queries", queries), ("documents.keys", keys)] {
                if let Some(at) = documents.windows(2).position(|pair| pair[0] > pair[1]) {
                    let got = format!("{} after {} at {}", documents[at + 1], documents[at], at + 1);
                    return refuse(argument, "numbers that never decrease", got);
                }
            }
        }
        Ok(())
    }
}
