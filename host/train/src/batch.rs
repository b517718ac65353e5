//! From what the data gives to what the engine reads.

use unswag_data::{Batch as Rows, DataLoader, IGNORED, Row};
use unswag_engine::Batch;

use crate::TrainError;

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

/// The batches of one optimizer step and their tokens: `count` of them, but never across the end of an epoch.
///
/// # Errors
/// Data with a fault, or an epoch without a token that a loss is taken on.
pub(crate) fn take_batches(
    data: &mut dyn DataLoader,
    rows: usize,
    count: usize,
) -> Result<(Vec<Rows>, u64), TrainError> {
    let mut ends = 0;
    loop {
        let (mut batches, mut tokens, mut supervised) = (Vec::new(), 0, 0);
        while batches.len() < count {
            let mut taken: Vec<Row> = Vec::new();
            while taken.len() < rows
                && let Some(row) = data.next_row()?
            {
                taken.push(row);
            }
            if taken.is_empty() {
                break;
            }
            tokens += taken.iter().map(|row| row.len() as u64).sum::<u64>();
            supervised += taken.iter().map(Row::supervised_tokens).sum::<usize>();
            // What fills a short row is never attended to or learned, so any id of the vocabulary will do.
            batches.push(Rows::new(&taken, 0));
        }
        // A step that no loss is taken on would teach nothing: the last block of an epoch can be a single token.
        if supervised > 0 {
            return Ok((batches, tokens));
        }
        if batches.is_empty() {
            ends += 1;
            if ends > 1 {
                return Err(TrainError::NothingSupervised);
            }
            data.start_epoch(data.epoch() + 1);
        }
    }
}
