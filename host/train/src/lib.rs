//! Training: a checkpoint, adapters on it, data, and optimizer steps until it is done.
//!
//! ```text
//! UnswagModel::from_pretrained(path) ──► for_training(LoraConfig) ──► UnswagTrainer::new(model, arguments, data, folder)
//!                                                                          │ resume(…), train(observer)
//!                                                                          ▼
//!                                              folder: adapter/, metrics.jsonl, runs/, checkpoint-N/
//! ```
//!
//! The base's weights are read once and never changed. Adapters are held in f32 and rounded to the base's element type for
//! each step, as PEFT's autocast does; gradients are f32. What is saved is PEFT's format. [`Trainer`] is the steps alone, for
//! whoever has a loop of their own. `examples/finetune.rs` is all of it on one page; a test runs it.

mod adapter;
mod arguments;
mod batch;
mod best;
mod checkpoint;
mod error;
mod evaluate;
mod fidelity;
mod finite;
mod folder;
mod full;
mod generate;
mod logs;
mod masters;
mod memory;
mod metrics;
mod model;
mod optimizer;
mod peft_names;
mod planned_model;
mod preparation;
mod run;
mod saved_date;
mod schedule;
mod settings;
mod space;
mod tensorboard;
mod trainer;
mod training_model;
mod tuning;
mod unswag_trainer;

pub use adapter::{LoraConfig, save_adapter};
pub use arguments::{Optim, TrainingArguments, Warmup};
pub use error::TrainError;
pub use evaluate::{EvalReport, evaluate};
pub use fidelity::{Exact, FidelityReport, GradientError, LayerFidelity, ModuleFidelity};
pub use full::save_model;
pub use generate::{Generated, Sampling, generate};
pub use metrics::{METRICS, StepMetrics};
pub use model::UnswagModel;
pub use planned_model::{PlannedModel, Start};
pub use preparation::{CheckedRun, PlannedRun, refuse_earlier_run};
pub use run::{Observer, Resume, Resumed, RunPlan, RunReport};
pub use saved_date::saved_template_date;
pub use schedule::{Schedule, SchedulerType};
pub use settings::{Allowed, Change};
pub use trainer::{Progress, StepReport, Trainer};
pub use training_model::TrainingModel;
pub use tuning::Tuning;
pub use unswag_engine::{Nf4, Plan};
pub use unswag_trainer::UnswagTrainer;
