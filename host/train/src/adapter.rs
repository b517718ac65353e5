//! PEFT's adapter folder: `adapter_config.json` and `adapter_model.safetensors`.

use std::{borrow::Cow, collections::BTreeSet, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::json;
use unswag_abi::doc::Dtype;
use unswag_checkpoint::{Commit, Disk, Existing, NewTensor, Staging, TensorData, pytorch_metadata, silent};
use unswag_engine::LoraSpec;

use crate::{LoraModel, TrainError};

/// LoRA's settings under PEFT's names, with PEFT's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    pub r: u64,
    pub lora_alpha: f64,
    /// Scales by alpha / sqrt(r) instead of alpha / r.
    pub use_rslora: bool,
    /// Last parts of module paths, or `all-linear`.
    pub target_modules: Vec<String>,
    /// Of the adapters' first weights.
    pub seed: u64,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig { r: 8, lora_alpha: 8.0, use_rslora: false, target_modules: vec!["all-linear".into()], seed: 42 }
    }
}

impl LoraConfig {
    /// # Errors
    /// A rank of 0, an alpha that is no positive number, or no target.
    pub(crate) fn spec(&self) -> Result<LoraSpec, TrainError> {
        let wrong =
            |what, expected: &str, got: String| Err(TrainError::Argument { what, expected: expected.into(), got });
        if self.r == 0 || self.r > 1 << 16 {
            return wrong("r", "1 to 65536", self.r.to_string());
        }
        if !(self.lora_alpha.is_finite() && self.lora_alpha > 0.0) {
            return wrong("lora_alpha", "a number above 0", self.lora_alpha.to_string());
        }
        if self.target_modules.is_empty() {
            return wrong("target_modules", "at least one module name, or all-linear", "none".into());
        }
        Ok(LoraSpec {
            r: self.r,
            alpha: self.lora_alpha,
            rank_stabilized: self.use_rslora,
            targets: self.target_modules.clone(),
        })
    }
}

/// What makes up an adapter's folder. PEFT adds a README of its own.
const FILES: [&str; 3] = ["adapter_config.json", "adapter_model.safetensors", "README.md"];

/// Writes the adapter so that PEFT loads it. An adapter that stood at `folder` is replaced in one step, or stays as it was.
///
/// # Errors
/// A weight is not finite, the folder holds something that is no adapter's, or the disk refuses.
pub fn save_adapter(model: &LoraModel, folder: &Path, disk: &dyn Disk) -> Result<(), TrainError> {
    let mut tensors = Vec::new();
    for (names, weights) in model.adapter_weights() {
        for (name, (shape, values)) in names.into_iter().zip(weights) {
            if !values.iter().all(|value| value.is_finite()) {
                return Err(TrainError::BadWeight { name });
            }
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let data = TensorData::Bytes(Cow::Owned(bytes));
            tensors.push(NewTensor { name, dtype: Dtype::F32, shape: shape.to_vec(), data });
        }
    }
    let mut staging = Staging::begin(folder, &[model.base_path()], existing(folder)?, disk)?;
    staging.write_safetensors("adapter_model.safetensors", &pytorch_metadata(), tensors, &silent)?;
    let config = serde_json::to_vec_pretty(&peft_config(model)).expect("numbers and words are JSON");
    staging.write("adapter_config.json", &config)?;
    staging.commit(Commit::default())?;
    Ok(())
}

/// Whether what stands at the folder may go: an earlier adapter and nothing else.
fn existing(folder: &Path) -> Result<Existing, TrainError> {
    // What cannot be listed is refused by the staging, with its reason.
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Existing::Refuse) };
    for entry in entries.flatten() {
        let found = entry.file_name().to_string_lossy().into_owned();
        if !FILES.contains(&found.as_str()) {
            return Err(TrainError::NotAnAdapter { path: folder.to_owned(), found });
        }
    }
    Ok(Existing::Replace)
}

fn peft_config(model: &LoraModel) -> serde_json::Value {
    let config = model.config();
    let targets = target_modules(model);
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.base_path().display().to_string(),
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": 0.0,
        "use_rslora": config.use_rslora,
        "use_dora": false,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": model.is_stored_transposed(),
        "inference_mode": true,
        "init_lora_weights": true,
        "modules_to_save": null,
        "rank_pattern": {},
        "alpha_pattern": {},
    })
}

/// PEFT matches these names itself, and must find the modules that were trained and no other: last parts of paths where
/// every linear layer of that name has an adapter, else whole paths.
fn target_modules(model: &LoraModel) -> Vec<String> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
    let adapted: BTreeSet<&str> = model.adapters().iter().map(|adapter| adapter.module.as_str()).collect();
    let without: BTreeSet<String> =
        model.linear_modules().filter(|module| !adapted.contains(module)).map(last).collect();
    let names: BTreeSet<String> = adapted.iter().map(|module| last(module)).collect();
    match names.is_disjoint(&without) {
        true => names.into_iter().collect(),
        false => adapted.into_iter().map(str::to_owned).collect(),
    }
}
