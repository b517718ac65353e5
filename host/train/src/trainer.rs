//! Optimizer steps: gradients of one or more batches, clipped, and AdamW on the adapters.

use unswag_data::Batch;
use unswag_engine::{Grads, IGNORED, Policy, Step};
use unswag_kernels::{
    Exec,
    optim::{AdamW, Step as OptimizerStep},
};

use crate::{LoraModel, TrainError, batch::for_engine};

/// Settings under transformers' names, with its defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingArguments {
    pub learning_rate: f64,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    pub weight_decay: f64,
    /// The gradient's norm over all adapters is brought down to this; 0 leaves it alone.
    pub max_grad_norm: f64,
    pub gradient_checkpointing: bool,
    pub seed: u64,
    /// Steps whose loss or gradient is not finite are skipped; so many in a row are an error.
    pub max_skipped_in_a_row: u64,
}

impl Default for TrainingArguments {
    fn default() -> Self {
        TrainingArguments {
            learning_rate: 5e-5,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            gradient_checkpointing: false,
            seed: 42,
            max_skipped_in_a_row: 5,
        }
    }
}

/// What one optimizer step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// From 1.
    pub step: u64,
    /// In nats per token, before the step.
    pub loss: f64,
    /// Before clipping.
    pub grad_norm: f64,
    /// Whether loss or gradient was not finite, so that nothing was learned.
    pub skipped: bool,
    /// The most bytes that tensors took during the step.
    pub peak_bytes: u64,
}

/// Trains a model's adapters.
pub struct Trainer {
    model: LoraModel,
    arguments: TrainingArguments,
    /// First and second moment of each master.
    moments: Vec<[Vec<f32>; 2]>,
    step: u64,
    skipped_in_a_row: u64,
    /// Steps that AdamW took: a skipped one does not count for its bias correction.
    updates: u64,
}

impl Trainer {
    pub fn new(model: LoraModel, arguments: TrainingArguments) -> Self {
        let moments = model.masters.iter().map(|master| [vec![0.0; master.len()], vec![0.0; master.len()]]).collect();
        Trainer { model, arguments, moments, step: 0, skipped_in_a_row: 0, updates: 0 }
    }

    pub fn model(&self) -> &LoraModel {
        &self.model
    }

    /// One optimizer step over the gradients of all `batches`, at this learning rate. The loss is the mean over the tokens of
    /// all batches that count, so that how they are cut into batches does not matter.
    ///
    /// # Errors
    /// A batch that does not fit or packs documents, no memory, or too many steps in a row that were not finite.
    pub fn step(&mut self, batches: &[Batch], learning_rate: f64) -> Result<StepReport, TrainError> {
        let batches = batches.iter().map(for_engine).collect::<Result<Vec<_>, _>>()?;
        self.step += 1;
        let counted = batches.iter().flat_map(|batch| &batch.targets).filter(|target| **target != IGNORED).count();
        let policy = if self.arguments.gradient_checkpointing { Policy::Recompute } else { Policy::Keep };
        let model = &self.model;
        let mut grads = Grads::new(&model.program);
        let meter = model.torch.meter();
        meter.reset_peak();
        let mut loss = 0.0;
        for (index, batch) in batches.iter().enumerate() {
            let step = Step {
                policies: vec![policy; model.program.blocks()],
                seed: self.arguments.seed ^ self.step.wrapping_mul(0xd129_0d3f_2a4b_5c6d) ^ index as u64,
                loss_count: Some(counted as u64),
                ..Step::default()
            };
            loss += model.program.step(&model.torch, &model.params, batch, &step, &mut grads)?;
        }
        let peak_bytes = meter.peak();
        let mut gradients = Vec::new();
        for master in 0..model.masters.len() {
            let grad = grads.get(model.param_of(master)).map(|grad| grad.to_f32()).transpose()?;
            gradients.push(grad.unwrap_or_else(|| vec![0.0; model.masters[master].len()]));
        }
        drop(grads);
        let squares = gradients.iter().flatten().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>();
        let grad_norm = squares.sqrt();
        let skipped = !(loss.is_finite() && grad_norm.is_finite());
        if skipped {
            self.skipped_in_a_row += 1;
            if self.skipped_in_a_row >= self.arguments.max_skipped_in_a_row {
                let (step, in_a_row) = (self.step, self.skipped_in_a_row);
                return Err(TrainError::NotFinite { step, in_a_row, learning_rate });
            }
        } else {
            self.skipped_in_a_row = 0;
            self.update(&gradients, grad_norm, learning_rate)?;
        }
        Ok(StepReport { step: self.step, loss, grad_norm, skipped, peak_bytes })
    }

    fn update(&mut self, gradients: &[Vec<f32>], grad_norm: f64, learning_rate: f64) -> Result<(), TrainError> {
        let arguments = &self.arguments;
        self.updates += 1;
        // torch's clip_grad_norm_ adds 1e-6 to the norm and never scales up.
        let clip = match arguments.max_grad_norm {
            most if most > 0.0 => (most / (grad_norm + 1e-6)).min(1.0),
            _ => 1.0,
        };
        let step = OptimizerStep { number: self.updates, learning_rate, grad_scale: clip as f32 };
        let adam = AdamW {
            beta1: arguments.adam_beta1,
            beta2: arguments.adam_beta2,
            eps: arguments.adam_epsilon,
            weight_decay: arguments.weight_decay,
        };
        let exec = Exec::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
        for ((master, gradient), [m, v]) in self.model.masters.iter_mut().zip(gradients).zip(&mut self.moments) {
            adam.step(exec, step, master, gradient, m, v)?;
        }
        self.model.refresh()
    }
}
