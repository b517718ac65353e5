//! Training: a checkpoint, adapters on it, and optimizer steps.
//!
//! ```text
//! UnswagModel::from_pretrained(path) ──► for_training(LoraConfig) ──► Trainer::step(batches) ──► save_adapter(folder)
//! ```
//!
//! The base's weights are read once and never changed. Adapters are held in f32 and rounded to the base's element type for
//! each step, as PEFT's autocast does; gradients and optimizer state are f32. What is saved is PEFT's format.

mod adapter;
mod batch;
mod error;
mod model;
mod trainer;

pub use adapter::{LoraConfig, save_adapter};
pub use error::TrainError;
pub use model::{LoraModel, UnswagModel};
pub use trainer::{StepReport, Trainer, TrainingArguments};
