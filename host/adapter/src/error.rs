use std::path::PathBuf;

use unswag_checkpoint::WriteError;

/// Why an adapter cannot be opened, does not fit, or was not merged.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    #[error(transparent)]
    Checkpoint(#[from] unswag_checkpoint::Error),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("{}: cannot read it", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: {what}: expected {expected}, got {got}", path.display())]
    Config { path: PathBuf, what: String, expected: String, got: String },
    #[error("{}: tensor {name}: expected {expected}, got {got}; the adapter is damaged, or no LoRA or DoRA adapter", path.display())]
    Tensor { path: PathBuf, name: String, expected: String, got: String },
    #[error("{}: module {module}: expected a base weight {expected}, got {got}; it was made for another model", path.display())]
    Base { path: PathBuf, module: String, expected: String, got: String },
    #[error(
        "{}: merging it changes no weight: {why}; nothing was written",
        path.display()
    )]
    NoChange { path: PathBuf, why: String },
    #[error("{}: module {module}: merged, an element of its weight is not finite; nothing was written", path.display())]
    NotFinite { path: PathBuf, module: String },
    #[error(
        "{}: its record holds patches that change what the model computes, and they would be lost; merge into the plain base, \
         then operate on the result",
        path.display()
    )]
    Patched { path: PathBuf },
}
