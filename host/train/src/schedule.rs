//! The learning rate of each step, as transformers' `get_scheduler` has it.
//!
//! Source: `transformers.optimization`. A step's rate is what the scheduler gives before it: the first step of a warm-up has 0.

use serde::{Deserialize, Serialize};

/// Transformers' names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerType {
    Constant,
    ConstantWithWarmup,
    #[default]
    Linear,
    Cosine,
    InverseSqrt,
}

/// A schedule over a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub kind: SchedulerType,
    pub warmup_steps: u64,
    pub total_steps: u64,
}

impl Schedule {
    /// What the learning rate is multiplied by in this step, counted from 0.
    ///
    /// ```text
    /// warm-up: step / warmup_steps                   of all but `constant`
    /// linear:  (total - step) / (total - warmup)
    /// cosine:  (1 + cos(pi (step - warmup) / (total - warmup))) / 2
    /// inverse_sqrt: 1 / sqrt((step + shift) / timescale), timescale = warmup, or 10,000; shift = timescale - warmup
    /// ```
    pub fn factor(&self, step: u64) -> f64 {
        let (warmup, total) = (self.warmup_steps as f64, self.total_steps as f64);
        let at = step as f64;
        if self.kind != SchedulerType::Constant && step < self.warmup_steps {
            return at / warmup.max(1.0);
        }
        let rest = (total - warmup).max(1.0);
        match self.kind {
            SchedulerType::Constant | SchedulerType::ConstantWithWarmup => 1.0,
            SchedulerType::Linear => ((total - at) / rest).max(0.0),
            SchedulerType::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * ((at - warmup) / rest)).cos())).max(0.0),
            SchedulerType::InverseSqrt => {
                let timescale = if self.warmup_steps == 0 { 10_000.0 } else { warmup };
                let shift = timescale - warmup;
                1.0 / ((at + shift) / timescale).sqrt()
            }
        }
    }

    /// Whether a step's rate is the same however long the run is.
    pub fn ignores_the_end(&self) -> bool {
        !matches!(self.kind, SchedulerType::Linear | SchedulerType::Cosine)
    }
}
