use std::{io, path::PathBuf};

use unswag_checkpoint::WriteError;
use unswag_engine::EngineError;
use unswag_kernels::KernelError;
use unswag_pager::PagerError;
use unswag_surgery::{ModelError, OpenError};

use crate::Change;

/// Why a model could not be opened, trained or saved.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Checkpoint(#[from] unswag_checkpoint::Error),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Plugin(#[from] OpenError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("{name}")]
    Weight { name: String, source: Box<EngineError> },
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Pager(#[from] PagerError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Adapter(Box<unswag_adapter::AdapterError>),
    #[error(transparent)]
    Data(#[from] unswag_data::Error),
    #[error("{}: cannot {action}", path.display())]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    #[error("{what}: expected {expected}, got {got}")]
    Argument { what: &'static str, expected: String, got: String },
    #[error(
        "step {step}: {what} is not finite, {in_a_row} times in a row, and those steps updated no weight; {why}; or \
         lower the learning rate (it is {learning_rate:e}), or look at the data that this step reads"
    )]
    NotFinite { step: u64, what: String, in_a_row: u64, learning_rate: f64, why: String },
    #[error("{what} is not finite; {why}")]
    ResultNotFinite { what: String, why: String },
    #[error(
        "no step of {steps} updated a weight: in each the loss or a gradient was not finite, in the last one {what}; {why}; \
         nothing was published"
    )]
    NothingLearned { steps: u64, what: String, why: String },
    #[error("{what} take {needed}, this machine has {available} of memory left for this process; {next}")]
    Memory { what: &'static str, needed: String, available: String, next: &'static str },
    #[error(
        "{}: contains {found}, which is not part of an adapter; move it away or choose another folder",
        path.display()
    )]
    NotAnAdapter { path: PathBuf, found: String },
    #[error("{}: contains {found}, which is not a file of the model; move it away or choose another folder", path.display())]
    NotAModel { path: PathBuf, found: String },
    #[error("weight {name} is not finite, and was not saved; lower the learning rate, or use --dtype float32")]
    BadWeight { name: String },
    #[error(
        "{}: {found} is there, of an earlier run; continue it with --resume-from-checkpoint auto, replace it with --force, or give another folder",
        path.display()
    )]
    EarlierRun { path: PathBuf, found: String },
    #[error(
        "{}: contains {found}, but no complete checkpoint to resume from; nothing was changed; choose another folder (a \
         new run can start from the weights of an adapter: --adapter), or move that away to start a new run",
        path.display()
    )]
    NothingToGoOnFrom { path: PathBuf, found: String },
    #[error(
        "{}: later checkpoints are beside it, up to {last}, and this run would be mixed with theirs; remove them, or give another folder \
         and keep both",
        path.display()
    )]
    LaterCheckpoints { path: PathBuf, last: String },
    #[error(
        "only adapters were trained, and the model's own weights are as they were; write the adapters with save_adapter"
    )]
    OnlyAdapters,
    #[error("the model has no adapters: all of it is trained; write it with save_model")]
    NoAdapters,
    #[error(
        "{}: full fine-tuning is not supported for model type {model_type}, which surgery changed; train adapters",
        path.display()
    )]
    OwnModelType { path: PathBuf, model_type: String },
    #[error("{}: another run is writing here; wait for it, or give another folder", path.display())]
    Busy { path: PathBuf },
    #[error("{}: {why}", path.display())]
    NotACheckpoint { path: PathBuf, why: String },
    #[error("{fault}; {used} is used instead")]
    PassedOver { fault: Box<TrainError>, used: String },
    #[error("{}: expected a folder to write into, got something else; give another path", path.display())]
    NotAFolder { path: PathBuf },
    #[error(
        "{}: it was written with other settings: {}; {next}",
        path.display(),
        changes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    OtherSettings { path: PathBuf, changes: Vec<Change>, next: String },
    #[error("no row of the data has a token that a loss is taken on; look at it with `unswag preprocess --debug`")]
    NothingSupervised,
    #[error(
        "{}: {what} will take {needed} and {free} are free; {next}", path.display()
    )]
    DiskSpace { path: PathBuf, what: &'static str, needed: String, free: String, next: &'static str },
}

impl From<unswag_adapter::AdapterError> for TrainError {
    fn from(error: unswag_adapter::AdapterError) -> Self {
        TrainError::Adapter(Box::new(error))
    }
}

impl TrainError {
    /// Whether a result is not finite, so that there is no number to show.
    pub fn is_not_finite(&self) -> bool {
        use TrainError::*;
        matches!(self, NotFinite { .. } | ResultNotFinite { .. } | NothingLearned { .. } | BadWeight { .. })
    }

    /// Whether it is the disk's lack of space, which can be mended while the run waits.
    pub fn is_disk_full(&self) -> bool {
        let is_full =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match self {
            TrainError::Write(WriteError::DiskFull { .. } | WriteError::NoSpace { .. }) => true,
            TrainError::Io { source, .. } => is_full(source),
            TrainError::Pager(error) => error.is_disk_full(),
            _ => false,
        }
    }
}
