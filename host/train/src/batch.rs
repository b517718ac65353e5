//! From what the data gives to what the engine reads.

use unswag_data::{Batch as Rows, IGNORED};
use unswag_engine::Batch;

use crate::TrainError;

/// Labels stand at the token that is to be predicted; targets at the token that predicts it, one before.
///
/// # Errors
/// Documents packed behind each other in a row, each with its own loss: attention would see across their borders. A row's
/// filling is a document of its own that no loss is taken on, and nothing before it sees it.
pub(crate) fn for_engine(rows: &Rows) -> Result<Batch, TrainError> {
    let mut targets = Vec::with_capacity(rows.labels.len());
    for at in 0..rows.labels.len() {
        let is_last = (at + 1) % rows.cols.max(1) == 0;
        let target = if is_last { IGNORED } else { rows.labels[at + 1] };
        if target != IGNORED && rows.document_ids[at + 1] != 0 {
            return Err(TrainError::Argument {
                what: "the documents of a row",
                expected: "one, until attention keeps packed documents apart".into(),
                got: format!("{} at token {} of row {}", rows.document_ids[at + 1] + 1, at % rows.cols, at / rows.cols),
            });
        }
        targets.push(target);
    }
    Ok(Batch {
        batch: rows.rows as u64,
        seq: rows.cols as u64,
        input_ids: rows.input_ids.clone(),
        position_ids: rows.position_ids.clone(),
        targets,
    })
}
