//! A run seen from outside: where it begins, what it will do, what it did, and who hears of it.

use std::path::{Path, PathBuf};

use crate::{Change, TrainError, metrics::StepMetrics};

/// Where a run begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// At the newest whole checkpoint of the output folder; at the start where there is none.
    Auto,
    /// At this checkpoint.
    From(PathBuf),
}

/// Where a run went on.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Resumed {
    pub path: PathBuf,
    /// What differs between the checkpoint and this run, and was allowed to.
    pub changes: Vec<Change>,
}

/// What a run will do, known before its first step.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct RunPlan {
    pub trainable_parameters: u64,
    pub first_step: u64,
    pub total_steps: u64,
    /// Rows of an epoch, where they had to be counted.
    pub rows_per_epoch: Option<u64>,
    pub checkpoint_bytes: u64,
    /// The most bytes that tensors and the optimizer will take in a step, where the length of rows is known.
    pub planned_peak_bytes: Option<u64>,
    /// The most that checkpoints and what is finished take on the disk at once.
    pub disk_bytes: u64,
    /// Bytes of the file that the optimizer's state lies in where it is paged. It is gone when the run ends.
    pub paged_bytes: u64,
}

/// How a run ended. The names are defined in docs/metrics.md.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct RunReport {
    pub steps: u64,
    pub skipped_steps: u64,
    /// The mean over the steps of this call that learned something, in nats per token.
    pub train_loss: Option<f64>,
    /// How many steps that mean is over.
    pub train_loss_steps: u64,
    /// Of the last step.
    pub last_loss: Option<f64>,
    /// The validation loss that was measured last.
    pub eval_loss: Option<f64>,
    /// The lowest validation loss of the run, and the step after which it was measured.
    pub best_eval_loss: Option<f64>,
    pub best_step: Option<u64>,
    /// The finished adapter; `None` where the run was stopped, or all was trained.
    pub adapter: Option<PathBuf>,
    /// The finished model, where all was trained.
    pub model: Option<PathBuf>,
    /// The newest checkpoint that this run wrote.
    pub checkpoint: Option<PathBuf>,
    pub stopped: bool,
    /// Whether the validation loss no longer improved, so that the run ended before its last step.
    pub stopped_early: bool,
    /// The checkpoint that the run went on from, and what differed.
    pub resumed: Option<Resumed>,
    /// Tokens read in this run, and the time that its steps took.
    pub tokens: u64,
    pub train_seconds: f64,
    /// The most bytes that tensors and the optimizer took, and were planned to take.
    pub peak_bytes: u64,
    pub planned_peak_bytes: Option<u64>,
    /// The optimizer's share of them: the trained tensors in f32, and its moments.
    pub optimizer_bytes: u64,
    /// By how much the process's resident memory grew at most since the first weight was read, code aside, and was planned to grow:
    /// the peak, what operations take within one call, and libtorch's own.
    pub resident_growth_bytes: Option<u64>,
    pub planned_growth_bytes: Option<u64>,
}

/// Hears what a run does, and can stop it.
pub trait Observer {
    fn started(&mut self, _plan: &RunPlan) {}
    /// A step is done and its metrics are written.
    fn stepped(&mut self, _metrics: &StepMetrics) {}
    /// A checkpoint or the adapter stands.
    fn saved(&mut self, _path: &Path) {}
    /// Something that does not end the run: a checkpoint that is not whole was passed over, an old one could not be removed.
    fn warned(&mut self, _warning: &TrainError) {}
    /// So many rows of a measurement are through, with the sum of their loss in nats and the tokens it was taken on.
    fn measured(&mut self, _rows: u64, _loss_sum: f64, _tokens: u64) {}
    /// Asked between batches: whether to write a checkpoint and end.
    fn wants_stop(&mut self) -> bool {
        false
    }
    /// The disk is full: whether to try again. Whoever says yes waits first.
    fn tries_again(&mut self, _error: &TrainError) -> bool {
        false
    }
}

/// Hears nothing.
impl Observer for () {}
