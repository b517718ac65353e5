//! The loss of a model on data, without learning from it.

use unswag_data::{Batch, DataLoader, Row};
use unswag_engine::Step;

use crate::{Observer, TrainError, TrainingModel, batch::for_engine};

/// What a model is worth on data.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct EvalReport {
    /// Mean of -log p over the tokens that count, in nats.
    pub loss: f64,
    /// e^loss.
    pub perplexity: f64,
    /// Tokens that a loss was taken on.
    pub tokens: u64,
    pub rows: u64,
}

/// One epoch of the data, in batches of so many rows; the loader is left where it ends. `None` where the observer stops it.
///
/// # Errors
/// Data with a fault or without a supervised token, a loss that is not finite, or no memory.
pub fn evaluate(
    model: &TrainingModel,
    data: &mut dyn DataLoader,
    batch_rows: usize,
    observer: &mut dyn Observer,
) -> Result<Option<EvalReport>, TrainError> {
    data.start_epoch(0);
    let (mut sum, mut tokens, mut rows) = (0.0, 0, 0);
    loop {
        if observer.wants_stop() {
            return Ok(None);
        }
        let mut taken: Vec<Row> = Vec::new();
        while taken.len() < batch_rows.max(1)
            && let Some(row) = data.next_row()?
        {
            taken.push(row);
        }
        if taken.is_empty() {
            break;
        }
        let first_row = rows + 1;
        rows += taken.len() as u64;
        let supervised = taken.iter().map(Row::supervised_tokens).sum::<usize>() as u64;
        if supervised == 0 {
            continue;
        }
        tokens += supervised;
        // The sum over the tokens, not their mean.
        let step = Step { loss_count: Some(1), ..Step::default() };
        let loss = model.program.loss(&model.torch, &model.params, &for_engine(&Batch::new(&taken, 0)), &step)?;
        if !loss.is_finite() {
            let what = match taken.len() {
                1 => format!("the loss of row {first_row}"),
                _ => format!("the loss of rows {first_row} to {rows}"),
            };
            return Err(TrainError::ResultNotFinite { what, why: model.why_not_finite() });
        }
        sum += loss;
        observer.measured(rows, sum, tokens);
    }
    if tokens == 0 {
        return Err(TrainError::NothingSupervised);
    }
    let loss = sum / tokens as f64;
    Ok(Some(EvalReport { loss, perplexity: loss.exp(), tokens, rows }))
}
