//! From what the data gives to what the engine reads.

use unswag_data::{Batch as Rows, IGNORED};
use unswag_engine::Batch;

/// Labels stand at the token that is to be predicted; targets at the token that predicts it, one before. Nothing predicts the
/// first token of a document.
pub(crate) fn for_engine(rows: &Rows) -> Batch {
    let target = |at: usize| {
        let is_last = (at + 1).is_multiple_of(rows.cols.max(1));
        let is_cut = is_last || rows.document_ids[at + 1] != rows.document_ids[at];
        if is_cut { IGNORED } else { rows.labels[at + 1] }
    };
    // One document a row is the plain causal mask.
    let has_several = rows.document_ids.iter().any(|&document| document != 0);
    Batch {
        batch: rows.rows as u64,
        seq: rows.cols as u64,
        input_ids: rows.input_ids.clone(),
        position_ids: rows.position_ids.clone(),
        targets: (0..rows.labels.len()).map(target).collect(),
        document_ids: if has_several { rows.document_ids.clone() } else { Vec::new() },
    }
}
