use std::path::PathBuf;

use unswag_checkpoint::WriteError;

/// Why an adapter cannot be opened, does not fit, or was not merged.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    #[error(transparent)]
    Checkpoint(#[from] unswag_checkpoint::Error),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("{}: expected an adapter's folder, with adapter_config.json in it; {next}", path.display())]
    NoAdapter { path: PathBuf, next: String },
    #[error("{}: cannot read it", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: {what}: expected {expected}, got {got}", path.display())]
    Config { path: PathBuf, what: String, expected: String, got: String },
    #[error("{}: {fault}; the file is damaged", path.display())]
    Header { path: PathBuf, fault: unswag_checkpoint::HeaderError },
    #[error("{}: tensor {name}: expected {expected}, got {got}; the adapter is damaged, or no LoRA or DoRA adapter of this model", path.display())]
    Tensor { path: PathBuf, name: String, expected: String, got: String },
    #[error("{}: module {module}: expected a base layer {expected}, got {got}; the adapter belongs to another model", path.display())]
    Base { path: PathBuf, module: String, expected: String, got: String },
    #[error(
        "{setting}: no linear layer of this model is named {name:?}{}; it has {known}",
        near.as_ref().map_or(String::new(), |near| format!(" (did you mean {near:?}?)"))
    )]
    NoTarget { setting: &'static str, name: String, near: Option<String>, known: String },
    #[error(
        "{setting}: no module of this model that has weights is named {name:?}{}; it has {known}",
        near.as_ref().map_or(String::new(), |near| format!(" (did you mean {near:?}?)"))
    )]
    NoModule { setting: &'static str, name: String, near: Option<String>, known: String },
    #[error(
        "{setting}: {name:?} is an embedding, which LoRA is not computed for; train all its weights with --modules-to-save {name}"
    )]
    Embedding { setting: &'static str, name: String },
    #[error("{setting}: {what}: expected {expected}, got {got}")]
    Setting { setting: &'static str, what: String, expected: String, got: String },
    #[error(
        "{}: merging it changes no weight: {why}; nothing was written",
        path.display()
    )]
    NoChange { path: PathBuf, why: String },
    #[error("{}: tensor {name}: element {index} is {value}; the adapter is damaged, or its training diverged", path.display())]
    NotFinite { path: PathBuf, name: String, index: usize, value: f64 },
    #[error(
        "{}: module {module}: merged, element {index} of its weight is {value:e}, which {dtype} cannot hold; nothing was written{}",
        path.display(), if *dtype == unswag_abi::doc::Dtype::F32 { "" } else { "; merge with --dtype float32" }
    )]
    Overflow { path: PathBuf, module: String, index: usize, value: f64, dtype: unswag_abi::doc::Dtype },
    #[error(
        "{}: its record holds patches that change what the model computes, and they would be lost; merge into the plain base, \
         then operate on the result",
        path.display()
    )]
    Patched { path: PathBuf },
}
