//! Slices against the configuration they are said to be of.

use unswag_kernel_plan::attention::Problem;

use super::{Attention, Done, OP, mask::Mask};
use crate::{KernelError, error::length};

pub(super) fn rows(config: &Attention<'_>) -> usize {
    config.batch * config.seq
}

/// Of one sequence.
pub(super) fn mask<'a>(config: &Attention<'a>, sequence: usize) -> Mask<'a> {
    let seq = config.seq;
    Mask {
        seq,
        causal: config.causal,
        sliding_window: config.sliding_window,
        documents: config.documents.map(|documents| &documents[sequence * seq..(sequence + 1) * seq]),
    }
}

pub(super) fn check(config: &Attention<'_>) -> Done {
    let refused = |problem: Problem| {
        let Problem { argument, expected, got } = problem;
        KernelError::Argument { op: OP, argument, expected, got }
    };
    config.check().map_err(refused)
}

pub(super) fn check_inputs<T>(config: &Attention<'_>, [q, k, v]: [&[T]; 3]) -> Done {
    let rows = rows(config);
    length(OP, "q", rows * config.heads * config.head_dim, q.len())?;
    length(OP, "k", rows * config.kv_heads * config.head_dim, k.len())?;
    length(OP, "v", rows * config.kv_heads * config.v_head_dim, v.len())
}
