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
/// Data with a fault or without a supervised token, or no memory.
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
        rows += taken.len() as u64;
        let supervised = taken.iter().map(Row::supervised_tokens).sum::<usize>() as u64;
        if supervised == 0 {
            continue;
        }
        tokens += supervised;
        // The sum over the tokens, not their mean.
        let step = Step { loss_count: Some(1), ..Step::default() };
        sum += model.program.loss(&model.torch, &model.params, &for_engine(&Batch::new(&taken, 0)), &step)?;
    }
    if tokens == 0 {
        return Err(TrainError::NothingSupervised);
    }
    let loss = sum / tokens as f64;
    Ok(Some(EvalReport { loss, perplexity: loss.exp(), tokens, rows }))
}
