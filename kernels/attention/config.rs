//! What an attention is: its sizes, its mask, and which keys each query sees.

use super::{Done, OP, mask::Mask};
use crate::{
    KernelError,
    error::{elements, length},
};

/// An attention over `batch` sequences of `seq` tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention<'a> {
    pub batch: usize,
    pub seq: usize,
    /// A multiple of `kv_heads`: so many heads of queries share a key.
    pub heads: usize,
    pub kv_heads: usize,
    /// Of a query and a key.
    pub head_dim: usize,
    pub v_head_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// A query sees no later key.
    pub causal: bool,
    /// Keys that a query sees, itself included; only with `causal`.
    pub sliding_window: Option<usize>,
    /// Scores become cap tanh(score / cap) after the scale.
    pub logit_softcap: Option<f32>,
    /// Which document each token is of, \[batch seq\], never decreasing in a sequence: a query sees the keys of its own.
    pub documents: Option<&'a [u32]>,
}

impl Default for Attention<'_> {
    /// One sequence without tokens, one head without elements, no mask, a scale of 1.
    fn default() -> Self {
        Attention {
            batch: 1,
            seq: 0,
            heads: 1,
            kv_heads: 1,
            head_dim: 0,
            v_head_dim: 0,
            scale: 1.0,
            causal: false,
            sliding_window: None,
            logit_softcap: None,
            documents: None,
        }
    }
}

impl<'a> Attention<'a> {
    pub(super) fn rows(&self) -> usize {
        self.batch * self.seq
    }

    /// Heads of queries that share a key.
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Of one sequence.
    pub(super) fn mask(&self, sequence: usize) -> Mask<'a> {
        Mask {
            seq: self.seq,
            causal: self.causal,
            sliding_window: self.sliding_window,
            documents: self.documents.map(|documents| &documents[sequence * self.seq..(sequence + 1) * self.seq]),
        }
    }

    pub(super) fn check(&self) -> Done {
        let refuse = |argument, expected: &str, got: String| {
            Err(KernelError::Argument { op: OP, argument, expected: expected.into(), got })
        };
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) || self.heads == 0 {
            return refuse("heads", "a multiple of kv_heads, and both above 0", self.heads.to_string());
        }
        for (argument, size) in [("head_dim", self.head_dim), ("v_head_dim", self.v_head_dim)] {
            if size == 0 {
                return refuse(argument, "above 0", size.to_string());
            }
        }
        for (argument, value) in [("scale", Some(self.scale)), ("logit_softcap", self.logit_softcap)] {
            if let Some(value) = value.filter(|value| !value.is_finite() || *value <= 0.0) {
                return refuse(argument, "finite and above 0", value.to_string());
            }
        }
        let rows = elements(OP, self.batch, self.seq)?;
        let widest = elements(OP, self.heads, self.head_dim.max(self.v_head_dim))?;
        elements(OP, rows, widest)?;
        if let Some(documents) = self.documents {
            length(OP, "documents", rows, documents.len())?;
        }
        (0..self.batch).try_for_each(|sequence| self.mask(sequence).check())
    }

    pub(super) fn check_inputs<T>(&self, [q, k, v]: [&[T]; 3]) -> Done {
        let rows = self.rows();
        length(OP, "q", rows * self.heads * self.head_dim, q.len())?;
        length(OP, "k", rows * self.kv_heads * self.head_dim, k.len())?;
        length(OP, "v", rows * self.kv_heads * self.v_head_dim, v.len())
    }
}
