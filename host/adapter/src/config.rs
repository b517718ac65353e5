//! `adapter_config.json`: which of PEFT's settings are computed here, which change nothing, and that no other is in use.
//!
//! A setting is refused by name unless it is known to change nothing, so that a method that came to PEFT after this was written is
//! not taken for plain LoRA.

use std::{collections::BTreeMap, io::Read, path::Path};

use serde::Deserialize;
use serde_json::Value as Json;
use unswag_checkpoint::regular_file;

use crate::AdapterError;

const MAX_BYTES: u64 = 16 << 20;

/// Characters of a setting's value in a message.
const SHOWN_CHARS: usize = 200;

/// The settings that are computed here.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    peft_type: String,
    /// Of every module: ranks of their own (`rank_pattern`) are refused. The tensors say it where this does not.
    pub r: Option<u64>,
    pub lora_alpha: f64,
    #[serde(default)]
    pub use_rslora: bool,
    #[serde(default)]
    pub use_dora: bool,
    #[serde(default)]
    pub fan_in_fan_out: bool,
    #[serde(flatten)]
    others: BTreeMap<String, Json>,
}

/// Settings of `peft.LoraConfig` that change nothing of what a saved adapter computes.
const WITHOUT_EFFECT: &[&str] = &[
    // Whence it came.
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "task_type",
    // Which layers have an adapter: the tensors' names say it.
    "exclude_modules",
    "layers_pattern",
    "layers_to_transform",
    "target_modules",
    // For training alone.
    "lora_dropout",
    "runtime_config",
    // How the first values were found. `init_lora_weights` says whether the base's weights were changed for it.
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_ga_config",
    // Read only beside `use_qalora` and `megatron_config`, which are refused.
    "megatron_core",
    "qalora_group_size",
];

/// First values that leave the base's weights as they are. Others (pissa, olora, corda, loftq) take from the base what they give the
/// adapter, so that it does not fit the base as it was published.
const INITS: &[&str] = &["gaussian", "eva", "orthogonal"];

impl Config {
    /// # Errors
    /// No such file, no settings of PEFT's, or one in use that is not computed here.
    pub fn read(path: &Path) -> Result<Self, AdapterError> {
        let refused = |what: &str, expected: &str, got: String| AdapterError::Config {
            path: path.to_owned(),
            what: what.to_owned(),
            expected: expected.to_owned(),
            got,
        };
        let (file, _) = regular_file(path)?;
        let mut text = Vec::new();
        let read = file.take(MAX_BYTES + 1).read_to_end(&mut text);
        read.map_err(|source| AdapterError::Io { path: path.to_owned(), source })?;
        if text.len() as u64 > MAX_BYTES {
            return Err(refused("its size", "at most 16 MiB", "more".into()));
        }
        let config: Config = serde_json::from_slice(&text)
            .map_err(|error| refused("its text", "PEFT's settings as JSON", error.to_string()))?;
        if config.peft_type != "LORA" {
            return Err(refused("peft_type", "LORA", config.peft_type));
        }
        if !config.lora_alpha.is_finite() {
            return Err(refused("lora_alpha", "a finite number", config.lora_alpha.to_string()));
        }
        for (name, value) in &config.others {
            if let Some(expected) = expected(name, value) {
                return Err(refused(name, expected, value.to_string().chars().take(SHOWN_CHARS).collect()));
            }
        }
        Ok(config)
    }
}

/// What is expected of a setting that is not computed here, where it has another value.
fn expected(name: &str, value: &Json) -> Option<&'static str> {
    if name == "init_lora_weights" {
        let keeps_base = value.is_null() || value.is_boolean() || INITS.iter().any(|init| value == init);
        return (!keeps_base).then_some("one that leaves the base's weights as they are");
    }
    let is_allowed = WITHOUT_EFFECT.contains(&name) || is_unused(value);
    (!is_allowed)
        .then_some("it not to be used, since LoRA, rsLoRA and DoRA are all that is computed here; let PEFT merge it")
}

/// As PEFT writes a setting that nobody asked for.
fn is_unused(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => true,
        Json::Array(list) => list.is_empty(),
        Json::Object(map) => map.is_empty(),
        Json::String(text) => text == "none",
        _ => false,
    }
}
