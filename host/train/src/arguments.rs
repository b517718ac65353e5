//! What a user chooses about a run, under transformers' names and with its defaults.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Schedule, SchedulerType, TrainError, optimizer::Paged};

/// Which optimizer, under transformers' names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Optim {
    /// AdamW with f32 state.
    #[default]
    #[serde(rename = "adamw_torch")]
    AdamwTorch,
    /// AdamW with 8-bit state.
    #[serde(rename = "adamw_8bit")]
    Adamw8bit,
    /// Lion with f32 state.
    #[serde(rename = "lion_32bit")]
    Lion32bit,
    /// Lion with 8-bit state.
    #[serde(rename = "lion_8bit")]
    Lion8bit,
    /// AdamW with f32 state, of which as much is in memory as [`TrainingArguments::optim_memory_budget`] says.
    #[serde(rename = "paged_adamw_32bit", alias = "paged_adamw")]
    PagedAdamw32bit,
    /// AdamW with 8-bit state, likewise.
    #[serde(rename = "paged_adamw_8bit")]
    PagedAdamw8bit,
    /// Lion with f32 state, likewise.
    #[serde(rename = "paged_lion_32bit")]
    PagedLion32bit,
    /// Lion with 8-bit state, likewise.
    #[serde(rename = "paged_lion_8bit")]
    PagedLion8bit,
}

impl Optim {
    /// Whether the state is kept in 8 bits, for tensors that are large enough.
    pub fn is_8bit(self) -> bool {
        matches!(self, Optim::Adamw8bit | Optim::Lion8bit | Optim::PagedAdamw8bit | Optim::PagedLion8bit)
    }

    pub fn is_lion(self) -> bool {
        matches!(self, Optim::Lion32bit | Optim::Lion8bit | Optim::PagedLion32bit | Optim::PagedLion8bit)
    }

    /// Whether state that is larger than its budget lies in a file. The numbers are those of the form that is not paged.
    pub fn is_paged(self) -> bool {
        use Optim::*;
        matches!(self, PagedAdamw32bit | PagedAdamw8bit | PagedLion32bit | PagedLion8bit)
    }
}

/// Settings of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingArguments {
    pub optim: Optim,
    pub learning_rate: f64,
    pub lr_scheduler_type: SchedulerType,
    pub warmup: Warmup,
    pub weight_decay: f64,
    pub adam_beta1: f64,
    /// 0.999 where `None`, and 0.99 for Lion.
    pub adam_beta2: Option<f64>,
    pub adam_epsilon: f64,
    /// The gradient's norm over all that is trained is brought down to this; 0 leaves it alone.
    pub max_grad_norm: f64,
    /// Every block keeps only what comes into it, and computes the rest again.
    pub gradient_checkpointing: bool,
    /// The most tokens that a row has. Where it is given, a step on the longest batch is planned before the first one.
    pub max_row_tokens: Option<u64>,
    /// Bytes that tensors and optimizer state may take: each block then keeps what makes the step fastest within it.
    pub memory_budget: Option<u64>,
    /// A folder on a disk, for what blocks keep where the budget asks for it, and for a paged optimizer's state; the latter goes
    /// to the run's own folder where there is none.
    pub offload_folder: Option<PathBuf>,
    /// Bytes of a paged optimizer's state that may be in memory at once. State that is no larger is not paged.
    pub optim_memory_budget: u64,
    pub seed: u64,
    /// Optimizer steps; so many as `num_train_epochs` says where `None`.
    pub max_steps: Option<u64>,
    pub num_train_epochs: f64,
    /// Rows of a batch.
    pub per_device_train_batch_size: u64,
    /// Batches of an optimizer step; fewer at the end of an epoch.
    pub gradient_accumulation_steps: u64,
    /// A checkpoint every so many steps; 0 for none.
    pub save_steps: u64,
    /// Checkpoints that are kept.
    pub save_total_limit: Option<u64>,
    /// The validation loss every so many steps, where there is validation data; 0 for the end alone.
    pub eval_steps: u64,
    /// What is finished at the end are the weights of the lowest validation loss, not the last ones. Each new best is saved as a
    /// checkpoint, which `save_total_limit` does not remove.
    pub load_best_model_at_end: bool,
    /// The run ends early when this many measurements in a row did not lower the validation loss.
    pub early_stopping_patience: Option<u64>,
    /// By how much a measurement must be lower to count as lower, in nats.
    pub early_stopping_threshold: f64,
    /// Steps whose loss or gradient is not finite are skipped; so many in a row are an error.
    pub max_skipped_in_a_row: u64,
}

/// Steps in which the learning rate rises.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warmup {
    Steps(u64),
    /// A share of all steps.
    Ratio(f64),
}

impl Default for TrainingArguments {
    fn default() -> Self {
        TrainingArguments {
            optim: Optim::default(),
            learning_rate: 5e-5,
            lr_scheduler_type: SchedulerType::default(),
            warmup: Warmup::Steps(0),
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: None,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            gradient_checkpointing: false,
            max_row_tokens: None,
            memory_budget: None,
            offload_folder: None,
            optim_memory_budget: 256 << 20,
            seed: 42,
            max_steps: None,
            num_train_epochs: 3.0,
            per_device_train_batch_size: 1,
            gradient_accumulation_steps: 1,
            save_steps: 500,
            save_total_limit: None,
            eval_steps: 0,
            load_best_model_at_end: false,
            early_stopping_patience: None,
            early_stopping_threshold: 0.0,
            max_skipped_in_a_row: 5,
        }
    }
}

impl TrainingArguments {
    /// # Errors
    /// A value that cannot be.
    pub fn check(&self) -> Result<(), TrainError> {
        let beta2 = self.beta2();
        let numbers = [
            ("learning_rate", self.learning_rate, self.learning_rate >= 0.0, "a number, at least 0"),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0.0, "a number, at least 0"),
            ("adam_beta1", self.adam_beta1, (0.0..1.0).contains(&self.adam_beta1), "at least 0 and below 1"),
            ("adam_beta2", beta2, (0.0..1.0).contains(&beta2), "at least 0 and below 1"),
            ("adam_epsilon", self.adam_epsilon, self.adam_epsilon >= 0.0, "a number, at least 0"),
            ("max_grad_norm", self.max_grad_norm, self.max_grad_norm >= 0.0, "a number, at least 0"),
            (
                "early_stopping_threshold",
                self.early_stopping_threshold,
                self.early_stopping_threshold >= 0.0,
                "a number, at least 0",
            ),
            ("num_train_epochs", self.num_train_epochs, self.num_train_epochs > 0.0, "a number above 0"),
        ];
        for (what, got, holds, expected) in numbers {
            if !(holds && got.is_finite()) {
                return Err(TrainError::Argument { what, expected: expected.into(), got: got.to_string() });
            }
        }
        if let Warmup::Ratio(ratio) = self.warmup
            && !(0.0..=1.0).contains(&ratio)
        {
            return Err(TrainError::Argument {
                what: "warmup_ratio",
                expected: "0 to 1".into(),
                got: ratio.to_string(),
            });
        }
        if self.optim.is_paged() && self.optim_memory_budget < Paged::LEAST_BUDGET {
            return Err(TrainError::Argument {
                what: "optim_memory_budget",
                expected: format!("at least {} bytes", Paged::LEAST_BUDGET),
                got: self.optim_memory_budget.to_string(),
            });
        }
        let counts = [
            ("max_steps", self.max_steps.unwrap_or(1)),
            ("per_device_train_batch_size", self.per_device_train_batch_size),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps),
            ("save_total_limit", self.save_total_limit.unwrap_or(1)),
            ("early_stopping_patience", self.early_stopping_patience.unwrap_or(1)),
        ];
        match counts.into_iter().find(|(_, count)| *count == 0) {
            Some((what, _)) => Err(TrainError::Argument { what, expected: "at least 1".into(), got: "0".into() }),
            None => Ok(()),
        }
    }

    pub(crate) fn beta2(&self) -> f64 {
        self.adam_beta2.unwrap_or(if self.optim.is_lion() { 0.99 } else { 0.999 })
    }

    /// Optimizer steps of a run whose epochs have so many rows.
    pub fn steps(&self, rows_per_epoch: u64) -> u64 {
        let steps = self.steps_per_epoch(rows_per_epoch);
        self.max_steps.unwrap_or((steps as f64 * self.num_train_epochs).ceil() as u64)
    }

    /// Optimizer steps of one epoch with this number of rows.
    pub fn steps_per_epoch(&self, rows_per_epoch: u64) -> u64 {
        let batches = rows_per_epoch.div_ceil(self.per_device_train_batch_size.max(1));
        batches.div_ceil(self.gradient_accumulation_steps.max(1))
    }

    /// The schedule of a run of so many steps.
    pub fn schedule(&self, total_steps: u64) -> Schedule {
        let warmup_steps = match self.warmup {
            Warmup::Steps(steps) => steps,
            Warmup::Ratio(ratio) => (ratio * total_steps as f64).ceil() as u64,
        };
        Schedule { kind: self.lr_scheduler_type, warmup_steps, total_steps }
    }
}
