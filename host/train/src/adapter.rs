//! PEFT's adapter folder: `adapter_config.json` and `adapter_model.safetensors`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;
use unswag_abi::doc::Dtype;
use unswag_checkpoint::{Commit, Disk, Existing, NewTensor, Staging, TensorData, Written, pytorch_metadata, silent};
use unswag_engine::LoraSpec;

use crate::{TrainError, TrainingModel};

/// LoRA's settings under PEFT's names, with PEFT's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    pub r: u64,
    pub lora_alpha: f64,
    /// The share of the adapters' inputs that is dropped in training.
    pub lora_dropout: f64,
    /// Scales by alpha / sqrt(r) instead of alpha / r.
    pub use_rslora: bool,
    /// Trains each output's magnitude apart from its direction (DoRA).
    pub use_dora: bool,
    /// Last parts of module paths, or `all-linear`.
    pub target_modules: Vec<String>,
    /// Of the adapters' first weights.
    pub seed: u64,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            target_modules: vec!["all-linear".into()],
            seed: 42,
        }
    }
}

impl LoraConfig {
    /// # Errors
    /// A rank of 0, an alpha that is no positive number, a dropout that drops all, or no target.
    pub(crate) fn spec(&self) -> Result<LoraSpec, TrainError> {
        let wrong =
            |what, expected: &str, got: String| Err(TrainError::Argument { what, expected: expected.into(), got });
        if self.r == 0 || self.r > 1 << 16 {
            return wrong("r", "1 to 65536", self.r.to_string());
        }
        if !(self.lora_alpha.is_finite() && self.lora_alpha > 0.0) {
            return wrong("lora_alpha", "a number above 0", self.lora_alpha.to_string());
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return wrong("lora_dropout", "at least 0 and below 1", self.lora_dropout.to_string());
        }
        if self.target_modules.is_empty() {
            return wrong("target_modules", "at least one module name, or all-linear", "none".into());
        }
        Ok(LoraSpec {
            r: self.r,
            alpha: self.lora_alpha,
            rank_stabilized: self.use_rslora,
            dropout: self.lora_dropout,
            dora: self.use_dora,
            targets: self.target_modules.clone(),
        })
    }
}

/// What makes up an adapter's folder. PEFT adds a README of its own.
const FILES: [&str; 3] = [CONFIG, WEIGHTS, "README.md"];

pub(crate) const CONFIG: &str = "adapter_config.json";
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";

/// Writes the adapter so that PEFT loads it. An adapter that stood at `folder` is replaced in one step, or stays as it was.
///
/// # Errors
/// The model has no adapters, a weight is not finite, the folder holds something that is no adapter's, or the disk refuses.
pub fn save_adapter(model: &TrainingModel, folder: &Path, disk: &dyn Disk) -> Result<(), TrainError> {
    let config = model.lora().ok_or(TrainError::NoAdapters)?;
    let mut staging = Staging::begin(folder, &[model.base_path()], existing(folder)?, disk)?;
    write_adapter(model, config, &mut staging)?;
    staging.commit(Commit::default())?;
    Ok(())
}

/// Writes the adapter's two files into a folder in the making.
///
/// # Errors
/// A weight is not finite, or the disk refuses.
pub(crate) fn write_adapter(
    model: &TrainingModel,
    config: &LoraConfig,
    staging: &mut Staging<'_>,
) -> Result<Vec<Written>, TrainError> {
    let weights = write_masters(model, WEIGHTS, staging)?;
    let config = serde_json::to_vec_pretty(&peft_config(model, config)).expect("numbers and words are JSON");
    Ok(vec![weights, staging.write(CONFIG, &config)?])
}

/// Writes what is trained, in f32.
///
/// # Errors
/// A weight is not finite, or the disk refuses.
pub(crate) fn write_masters(
    model: &TrainingModel,
    name: &str,
    staging: &mut Staging<'_>,
) -> Result<Written, TrainError> {
    model.check_finite()?;
    let masters = model.masters.iter();
    let tensors = masters.map(|master| f32_tensor(master.name.clone(), master.shape.clone(), &master.values)).collect();
    Ok(staging.write_safetensors(name, &pytorch_metadata(), tensors, &silent)?)
}

/// A tensor whose bytes are made when it is written.
pub(crate) fn f32_tensor(name: String, shape: Vec<u64>, values: &[f32]) -> NewTensor<'_> {
    let make = || Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect());
    NewTensor { name, dtype: Dtype::F32, shape, data: TensorData::Make(Box::new(make)) }
}

/// Whether what stands at the folder may go: an earlier adapter and nothing else.
pub(crate) fn existing(folder: &Path) -> Result<Existing, TrainError> {
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

fn peft_config(model: &TrainingModel, config: &LoraConfig) -> serde_json::Value {
    let targets = model.target_modules();
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.base_path().display().to_string(),
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
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
