//! Optimizer steps: gradients of one or more batches, clipped, and the optimizer's step on what is trained.
//!
//! A step is a function of the masters, the optimizer's state, the step's number and its batches: nothing else is carried from
//! one to the next, and that is what a checkpoint holds.

use std::path::Path;

use unswag_data::Batch;
use unswag_engine::{Grads, IGNORED, Step};
use unswag_kernels::{Exec, optim::Step as OptimizerStep};
use unswag_torch::TorchTensor;

use crate::{
    TrainError, TrainingArguments, TrainingModel,
    batch::for_engine,
    memory::Memory,
    optimizer::{States, Trained, Update},
};

/// What one optimizer step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// From 1.
    pub step: u64,
    /// In nats per token, before the step.
    pub loss: f64,
    /// Before clipping.
    pub grad_norm: f64,
    /// Whether loss or gradient was not finite, so that no weight was updated.
    pub skipped: bool,
    /// Which of them was not: the loss, or the gradient of a tensor.
    pub not_finite: Option<String>,
    /// The most bytes that tensors took during the step, and the optimizer beside them.
    pub peak_bytes: u64,
}

/// How far a run is, apart from its tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    pub step: u64,
    /// Steps that the optimizer took: a skipped one does not count for Adam's bias correction.
    pub updates: u64,
    pub skipped_in_a_row: u64,
    /// Steps that updated no weight.
    pub skipped_steps: u64,
}

/// Takes a model's optimizer steps.
pub struct Trainer {
    pub(crate) model: TrainingModel,
    pub(crate) arguments: TrainingArguments,
    /// Of the masters, in their order.
    pub(crate) states: States,
    memory: Memory,
    pub(crate) progress: Progress,
    /// Whether an update failed in the middle, so that the masters are of no step.
    damaged: bool,
}

impl Trainer {
    /// A paged optimizer's state goes to the arguments' `offload_folder`, which must be there.
    ///
    /// # Errors
    /// A setting that cannot be.
    pub fn new(model: TrainingModel, arguments: TrainingArguments) -> Result<Self, TrainError> {
        Trainer::in_folder(model, arguments, None)
    }

    /// The same, with a folder for paged state where the arguments name none. It need not be there yet.
    pub(crate) fn in_folder(
        model: TrainingModel,
        arguments: TrainingArguments,
        folder: Option<&Path>,
    ) -> Result<Self, TrainError> {
        arguments.check()?;
        let states = States::new(&arguments, folder, model.masters.iter().map(|master| master.values.len()))?;
        let memory = Memory::of(&model, &arguments)?;
        Ok(Trainer { model, arguments, states, memory, progress: Progress::default(), damaged: false })
    }

    pub fn model(&self) -> &TrainingModel {
        &self.model
    }

    pub fn arguments(&self) -> &TrainingArguments {
        &self.arguments
    }

    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Whether an update failed in the middle: then what is in memory belongs to no step, and is not worth saving.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// What is in memory belongs to no step of this run from here on.
    pub(crate) fn set_damaged(&mut self) {
        self.damaged = true;
    }

    /// The most bytes of tensors and of the optimizer that a step was planned to take, where the length of rows was given: what
    /// `unswag plan` calls the peak, and what a memory budget bounds.
    pub fn planned_peak_bytes(&self) -> Option<u64> {
        self.memory.planned_bytes
    }

    /// The same with what operations take within a call, and libtorch's own: by so much the process should grow.
    pub fn planned_growth_bytes(&self) -> Option<u64> {
        self.memory.planned_growth_bytes
    }

    /// Bytes of the optimizer in memory: the trained tensors in f32, and its moments, of which a paged one has its budget in memory.
    pub fn optimizer_bytes(&self) -> u64 {
        let moments = match &self.states {
            States::Resident(_) => self.states.bytes(),
            States::Paged(_) => self.states.bytes().min(self.arguments.optim_memory_budget),
        };
        4 * self.model.trainable_parameters() + moments
    }

    /// Bytes of the optimizer's state, wherever it lies.
    pub fn state_bytes(&self) -> u64 {
        self.states.bytes()
    }

    /// One optimizer step over the gradients of all `batches`, at this learning rate. The loss is the mean over the tokens of
    /// all batches that count, so that how they are cut into batches does not matter.
    ///
    /// # Errors
    /// A batch that does not fit, no memory, or too many steps in a row that were not finite.
    pub fn step(&mut self, batches: &[Batch], learning_rate: f64) -> Result<StepReport, TrainError> {
        let report = self.step_unless(batches, learning_rate, &mut || false)?;
        Ok(report.expect("nothing stops it"))
    }

    /// The same, given up before any batch at which `stops` says so: then nothing has changed, and there is no report.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn step_unless(
        &mut self,
        batches: &[Batch],
        learning_rate: f64,
        stops: &mut dyn FnMut() -> bool,
    ) -> Result<Option<StepReport>, TrainError> {
        let batches: Vec<_> = batches.iter().map(for_engine).collect();
        let number = self.progress.step + 1;
        let counted = batches.iter().flat_map(|batch| &batch.targets).filter(|target| **target != IGNORED).count();
        let model = &self.model;
        let mut grads = Grads::new(&model.program);
        let meter = model.torch.meter();
        meter.reset_peak();
        let mut loss = 0.0;
        for (index, batch) in batches.iter().enumerate() {
            if stops() {
                return Ok(None);
            }
            let step = Step {
                policies: self.memory.policies.clone(),
                seed: self.arguments.seed ^ number.wrapping_mul(0xd129_0d3f_2a4b_5c6d) ^ index as u64,
                loss_count: Some(counted as u64),
                ..Step::default()
            };
            let (program, torch, params) = (&model.program, &model.torch, &model.params);
            loss += match &mut self.memory.store {
                Some(store) => program.step_with_store(torch, params, batch, &step, &mut grads, store)?,
                None => program.step(torch, params, batch, &step, &mut grads)?,
            };
        }
        let peak_bytes = meter.peak() + self.optimizer_bytes();
        let mut not_finite = (!loss.is_finite()).then(|| "the loss".to_owned());
        let mut squares = 0.0;
        for master in &model.masters {
            if let Some(grad) = grads.get(master.param) {
                let sum = grad.with_f32(|grad| grad.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>())?;
                if !sum.is_finite() {
                    not_finite.get_or_insert_with(|| format!("the gradient of {}", master.name));
                }
                squares += sum;
            }
        }
        let grad_norm = squares.sqrt();
        if let Some(what) = &not_finite {
            let in_a_row = self.progress.skipped_in_a_row + 1;
            if in_a_row >= self.arguments.max_skipped_in_a_row {
                let (what, why) = (what.clone(), model.why_not_finite());
                return Err(TrainError::NotFinite { step: number, what, in_a_row, learning_rate, why });
            }
            self.progress.skipped_in_a_row = in_a_row;
            self.progress.skipped_steps += 1;
        } else {
            self.damaged = true;
            self.update(&grads, grad_norm, learning_rate)?;
            self.damaged = false;
            self.progress.skipped_in_a_row = 0;
            self.progress.updates += 1;
        }
        // Last: whatever fails before leaves the run at the step before.
        self.progress.step = number;
        let skipped = not_finite.is_some();
        Ok(Some(StepReport { step: number, loss, grad_norm, skipped, not_finite, peak_bytes }))
    }

    fn update(&mut self, grads: &Grads<TorchTensor>, grad_norm: f64, learning_rate: f64) -> Result<(), TrainError> {
        // torch's clip_grad_norm_ adds 1e-6 to the norm and never scales up.
        let clip = match self.arguments.max_grad_norm {
            most if most > 0.0 => (most / (grad_norm + 1e-6)).min(1.0),
            _ => 1.0,
        };
        let step = OptimizerStep { number: self.progress.updates + 1, learning_rate, grad_scale: clip as f32 };
        let exec = Exec::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
        let update = Update { arguments: &self.arguments, exec, step };
        for (tensor, master) in self.model.masters.iter_mut().enumerate() {
            // As in torch: what no gradient reached is left as it is.
            let Some(grad) = grads.get(master.param) else { continue };
            let (states, decays, params) = (&mut self.states, master.decays, &mut master.values);
            grad.with_f32(|grads| states.step(tensor, &update, Trained { params, grads, decays }))??;
        }
        self.model.refresh()
    }
}
