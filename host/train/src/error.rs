use std::path::PathBuf;

use unswag_checkpoint::WriteError;
use unswag_engine::EngineError;
use unswag_kernels::KernelError;
use unswag_surgery::ModelError;

/// Why a model could not be opened, trained or saved.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Checkpoint(#[from] unswag_checkpoint::Error),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("{what}: expected {expected}, got {got}")]
    Argument { what: &'static str, expected: String, got: String },
    #[error(
        "step {step}: the loss or a gradient was not finite {in_a_row} times in a row, and nothing was learned from those \
         steps; lower the learning rate (it is {learning_rate:e}), or look at the data that this step reads"
    )]
    NotFinite { step: u64, in_a_row: u64, learning_rate: f64 },
    #[error(
        "{}: {found} is there, and is no part of an adapter: a folder is replaced only where it holds nothing else; give another",
        path.display()
    )]
    NotAnAdapter { path: PathBuf, found: String },
    #[error("adapter weight {name} is not finite, and was not saved")]
    BadWeight { name: String },
}
