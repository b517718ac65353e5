//! Why a checkpoint could not be turned into a graph: which field or tensor, what was expected, what was found, what to do.

use thiserror::Error;
use unswag_abi::doc::Dtype;

/// The refusal of [`super::build`]. Nothing is built when one of these is returned.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum BuildError {
    #[error(
        "config: model_type: expected one of {supported}, found none and no known architecture; \
         is this the model's own config.json?"
    )]
    NoModelType { supported: String },

    #[error("config: model_type: expected one of {supported}, found {found}{}", or_nearest(.nearest))]
    UnknownModelType { found: String, supported: String, nearest: Option<String> },

    #[error("config: {field}: expected {expected}, found {found}; correct the field in config.json")]
    Field { field: String, expected: String, found: String },

    #[error("config: {field}: {found} is not supported: {next}")]
    Unsupported { field: String, found: String, next: String },

    #[error(
        "config: {field}: expected at most {tensors} layers, since the checkpoint has {tensors} tensors, found {stated}; \
         the config belongs to another model"
    )]
    TooManyLayers { field: String, stated: u64, tensors: u64 },

    #[error("checkpoint: {name} is missing: {node} expects it with shape {}{}; {hint}", shape(.expected), nearest_tensor(.nearest))]
    MissingTensor {
        name: String,
        /// Path of the node that needs it.
        node: String,
        expected: Vec<u64>,
        nearest: Option<String>,
        hint: String,
    },

    #[error(
        "checkpoint: {name}: {node} expects shape {}, found {}; the config and the weights belong to different models, \
         or the file is damaged",
        shape(.expected), shape(.found)
    )]
    Shape { name: String, node: String, expected: Vec<u64>, found: Vec<u64> },

    #[error(
        "checkpoint: {name}: expected a dtype to compute in (F64, F32, F16 or BF16), found {found}; \
         this looks like a quantised checkpoint: convert it to one of those first"
    )]
    TensorDtype { name: String, found: Dtype },

    #[error("checkpoint: {name}: found twice; a tensor's name must be its own")]
    DuplicateTensor { name: String },
}

/// `[49152, 576]`, cut short where a hostile file gives a thousand dimensions.
pub(super) fn shape(sizes: &[u64]) -> String {
    const SHOWN: usize = 8;
    let mut text: Vec<String> = sizes.iter().take(SHOWN).map(u64::to_string).collect();
    if sizes.len() > SHOWN {
        text.push(format!("... {} dimensions", sizes.len()));
    }
    format!("[{}]", text.join(", "))
}

/// A name from a file, made fit to print: what a terminal would act on is escaped, absurd lengths are cut.
pub(super) fn printable(name: &str) -> String {
    const SHOWN: usize = 200;
    let mut escaped = String::new();
    for char in name.chars().take(SHOWN) {
        match char {
            '"' | '\'' | '\\' => escaped.push(char),
            other => escaped.extend(other.escape_debug()),
        }
    }
    if name.chars().nth(SHOWN).is_some() { format!("{escaped}... ({} bytes)", name.len()) } else { escaped }
}

fn or_nearest(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!("; did you mean {name}?"),
        None => String::new(),
    }
}

fn nearest_tensor(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!(" (the nearest name that nothing uses is {name})"),
        None => String::new(),
    }
}
