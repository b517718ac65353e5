//! PEFT's adapter folder: `adapter_config.json` and `adapter_model.safetensors`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use unswag_abi::doc::{Dtype, Graph};
use unswag_adapter::{BASE_QUANTIZATION, LoraTargets};
use unswag_checkpoint::{
    Commit, Disk, Existing, How, NewTensor, Staging, TensorData, Written, pytorch_metadata, silent,
};
use unswag_engine::LoraLayer;

use crate::{TrainError, TrainingModel, folder::first_other};

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
    /// Last parts of module paths, full paths, or `all-linear`. Each must match a linear layer.
    pub target_modules: Vec<String>,
    /// Ranks of layers that have another than `r`, by regular expressions for the ends of their paths; the first that matches counts.
    pub rank_pattern: Vec<(String, u64)>,
    /// Likewise alphas.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Ends of the paths of modules that are trained with all their weights, and saved beside the adapters.
    pub modules_to_save: Vec<String>,
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
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            modules_to_save: Vec::new(),
            seed: 42,
        }
    }
}

impl LoraConfig {
    /// What PEFT's rules go by.
    pub fn targets(&self) -> LoraTargets<'_> {
        LoraTargets {
            target_modules: &self.target_modules,
            r: self.r,
            lora_alpha: self.lora_alpha,
            use_rslora: self.use_rslora,
            rank_pattern: &self.rank_pattern,
            alpha_pattern: &self.alpha_pattern,
            modules_to_save: &self.modules_to_save,
        }
    }

    /// The layers of a graph that get an adapter.
    ///
    /// # Errors
    /// A rank or an alpha that cannot be, a dropout that drops all, no target, or a name that no layer has.
    pub(crate) fn layers(&self, graph: &Graph) -> Result<Vec<LoraLayer>, TrainError> {
        self.check_dropout()?;
        if self.target_modules.is_empty() {
            let expected = "at least one module name, or all-linear".into();
            return Err(TrainError::Argument { what: "target_modules", expected, got: "none".into() });
        }
        let selected = self.targets().select(graph)?;
        let layer = |selected: unswag_adapter::SelectedLayer| LoraLayer {
            module: selected.layer.path,
            r: selected.r,
            scale: selected.scale,
            dropout: self.lora_dropout,
            dora: self.use_dora,
        };
        Ok(selected.into_iter().map(layer).collect())
    }

    /// # Errors
    /// A dropout that drops all.
    pub(crate) fn check_dropout(&self) -> Result<(), TrainError> {
        if (0.0..1.0).contains(&self.lora_dropout) {
            return Ok(());
        }
        let (expected, got) = ("at least 0 and below 1".into(), self.lora_dropout.to_string());
        Err(TrainError::Argument { what: "lora_dropout", expected, got })
    }

    /// Positions of the graph's parameters that are fully trained.
    ///
    /// # Errors
    /// A name that no module with parameters has.
    pub(crate) fn saved_params(&self, graph: &Graph) -> Result<Vec<usize>, TrainError> {
        let names = self.targets().saved_params(graph)?;
        Ok(names.iter().filter_map(|name| graph.params.get_index_of(name)).collect())
    }
}

/// A model card: PEFT writes one, a user may, and training never does. What is written into an adapter's folder keeps it.
const README: &str = "README.md";

/// What makes up an adapter's folder.
const FILES: [&str; 3] = [CONFIG, WEIGHTS, README];

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
    carry_readme(folder, &mut staging)?;
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
    let mut metadata = pytorch_metadata();
    if let Some(nf4) = model.nf4() {
        let how = if nf4.double_quant { "nf4_double_quant" } else { "nf4" };
        metadata.insert(BASE_QUANTIZATION.to_owned(), how.to_owned());
    }
    let weights = write_tensors(model, WEIGHTS, &metadata, staging)?;
    let config = serde_json::to_vec_pretty(&PeftConfig::of(model, config)).expect("numbers and words are JSON");
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
    write_tensors(model, name, &pytorch_metadata(), staging)
}

fn write_tensors(
    model: &TrainingModel,
    name: &str,
    metadata: &BTreeMap<String, String>,
    staging: &mut Staging<'_>,
) -> Result<Written, TrainError> {
    model.check_finite()?;
    let mut tensors = Vec::new();
    for master in &model.masters {
        let names = std::iter::once(&master.name).chain(&master.other_names);
        tensors.extend(names.map(|name| f32_tensor(name.clone(), master.shape.clone(), &master.values)));
    }
    Ok(staging.write_safetensors(name, metadata, tensors, &silent)?)
}

/// A tensor whose bytes are made when it is written.
pub(crate) fn f32_tensor(name: String, shape: Vec<u64>, values: &[f32]) -> NewTensor<'_> {
    let make = || Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect());
    NewTensor { name, dtype: Dtype::F32, shape, data: TensorData::Make(Box::new(make)) }
}

/// Whether what stands at the folder may go: an earlier adapter and nothing else. Its README is carried over.
///
/// # Errors
/// Something else stands there.
pub(crate) fn existing(folder: &Path) -> Result<Existing, TrainError> {
    // What cannot be listed is refused by the staging, with its reason.
    if std::fs::read_dir(folder).is_err() {
        return Ok(Existing::Refuse);
    }
    match first_other(folder, |name| FILES.contains(&name)) {
        Some(found) => Err(TrainError::NotAnAdapter { path: folder.to_owned(), found }),
        None => Ok(Existing::Replace),
    }
}

/// The README in an adapter's folder, where there is one.
pub(crate) fn readme(folder: &Path) -> Option<PathBuf> {
    Some(folder.join(README)).filter(|path| path.is_file())
}

/// Whether a folder is there with more in it than a README.
pub(crate) fn is_more_than_a_readme(folder: &Path) -> bool {
    match std::fs::read_dir(folder) {
        Ok(entries) => readme(folder).is_none() || entries.count() > 1,
        Err(_) => folder.exists(),
    }
}

/// Takes all but the README out of an adapter's folder, in one step.
///
/// # Errors
/// Something else than an adapter stands there, or the disk refuses.
pub(crate) fn reduce_to_readme(folder: &Path, bases: &[&Path], disk: &dyn Disk) -> Result<(), TrainError> {
    let mut staging = Staging::begin(folder, bases, existing(folder)?, disk)?;
    carry_readme(folder, &mut staging)?;
    staging.commit(Commit::default())?;
    Ok(())
}

fn carry_readme(folder: &Path, staging: &mut Staging<'_>) -> Result<(), TrainError> {
    if let Some(readme) = readme(folder) {
        staging.transfer(&readme, README, How::CopyOrReflink, &silent)?;
    }
    Ok(())
}

/// `adapter_config.json`, under PEFT's names.
#[derive(Serialize)]
struct PeftConfig<'a> {
    peft_type: &'a str,
    task_type: &'a str,
    base_model_name_or_path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    r: u64,
    lora_alpha: f64,
    lora_dropout: f64,
    use_rslora: bool,
    use_dora: bool,
    target_modules: Vec<String>,
    bias: &'a str,
    fan_in_fan_out: bool,
    inference_mode: bool,
    init_lora_weights: bool,
    modules_to_save: Option<Vec<String>>,
    /// In the order in which they were given: the first that matches counts, in PEFT too.
    rank_pattern: IndexMap<&'a str, u64>,
    alpha_pattern: IndexMap<&'a str, f64>,
}

impl<'a> PeftConfig<'a> {
    fn of(model: &TrainingModel, config: &'a LoraConfig) -> Self {
        let base = BaseName::of(model.checkpoint_root());
        PeftConfig {
            peft_type: "LORA",
            task_type: "CAUSAL_LM",
            base_model_name_or_path: base.name,
            revision: base.revision,
            r: config.r,
            lora_alpha: config.lora_alpha,
            lora_dropout: config.lora_dropout,
            use_rslora: config.use_rslora,
            use_dora: config.use_dora,
            target_modules: model.target_modules(),
            bias: "none",
            fan_in_fan_out: model.is_stored_transposed(),
            inference_mode: true,
            init_lora_weights: true,
            modules_to_save: Some(model.modules_to_save()).filter(|saved| !saved.is_empty()),
            rank_pattern: by_name(&config.rank_pattern),
            alpha_pattern: by_name(&config.alpha_pattern),
        }
    }
}

fn by_name<T: Copy>(entries: &[(String, T)]) -> IndexMap<&str, T> {
    let mut map = IndexMap::new();
    for (name, value) in entries {
        map.entry(name.as_str()).or_insert(*value);
    }
    map
}

/// What `base_model_name_or_path` says, so that it is found from any working directory.
struct BaseName {
    name: String,
    revision: Option<String>,
}

impl BaseName {
    /// A snapshot in the hub's cache (`models--ORG--NAME/snapshots/COMMIT`) is named by its id and commit, which other machines
    /// have too; any other folder by its absolute path.
    fn of(root: &Path) -> Self {
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        let name_of = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
        let snapshot = || {
            let (revision, snapshots) = (name_of(&root)?, root.parent()?);
            let repo = name_of(snapshots.parent()?)?;
            let name = repo.strip_prefix("models--").filter(|_| snapshots.ends_with("snapshots"))?.replace("--", "/");
            Some(BaseName { name, revision: Some(revision) })
        };
        snapshot().unwrap_or_else(|| BaseName { name: root.display().to_string(), revision: None })
    }
}
