//! The best validation loss of a run, and early stopping as in transformers' `EarlyStoppingCallback`.

use serde::{Deserialize, Serialize};

/// The lowest validation loss so far. A checkpoint holds it, so that a resumed run knows it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Best {
    pub eval_loss: f64,
    /// After which it was measured.
    pub step: u64,
    /// Measurements since the last one that was lower than the best before it by more than the threshold.
    pub waited: u64,
}

impl Best {
    /// The best after another measurement.
    pub fn after(before: Option<Best>, step: u64, eval_loss: f64, threshold: f64) -> Best {
        let Some(best) = before else { return Best { eval_loss, step, waited: 0 } };
        let waited = if best.eval_loss - eval_loss > threshold { 0 } else { best.waited + 1 };
        match eval_loss < best.eval_loss {
            true => Best { eval_loss, step, waited },
            false => Best { waited, ..best },
        }
    }
}
