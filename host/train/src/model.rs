//! A checkpoint in memory, and what of it is trained.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use unswag_abi::doc::{Device, Dtype, Graph};
use unswag_adapter::{AdapterSpec, ParamSource};
use unswag_engine::{
    Adapter, Backend, LoraLayer, Nf4, ParamInfo, Params, PluginOps, Program, Storage, Trainable, dora_norms,
};
use unswag_loader::Log;
use unswag_surgery::{Model, Operation, open_recorded};
use unswag_torch::{Torch, TorchTensor};

use crate::{
    LoraConfig, PlannedModel, Start, TrainError, TrainingModel, Tuning, full,
    masters::{adapter_masters, first_weights, graph_masters, saved_values},
    memory::{self, Resident},
};

/// A checkpoint whose graph is known and whose weights are not yet read.
pub struct UnswagModel {
    model: Model,
    /// Of the plugins whose ops the model has.
    ops: Rc<dyn PluginOps>,
    dtype: Dtype,
    nf4: Option<Nf4>,
    torch: Torch,
    /// Whether the checkpoint is the one that will be trained, and not one that surgery has still to rewrite.
    is_written: bool,
}

/// An adapter's files, and the program that trains or computes what they hold.
struct Saved {
    spec: AdapterSpec,
    graph: Graph,
    program: Program,
    adapters: Vec<Adapter>,
    config: LoraConfig,
}

impl UnswagModel {
    /// Opens a file or a folder as Hugging Face's `from_pretrained` does. A folder that surgery wrote is opened by its record:
    /// what was rewritten stays rewritten. What its plugins say besides errors goes nowhere.
    ///
    /// # Errors
    /// No sound checkpoint, no config, a family that no builder knows, an unsound record, or a plugin that no lock file names.
    pub fn from_pretrained(path: &Path) -> Result<Self, TrainError> {
        let log: Log = Arc::new(|_, _| ());
        Self::from_pretrained_with_log(path, &log)
    }

    /// As [`UnswagModel::from_pretrained`]; what the plugins say to the user goes to `log`, for as long as the model lives.
    ///
    /// # Errors
    /// As [`UnswagModel::from_pretrained`].
    pub fn from_pretrained_with_log(path: &Path, log: &Log) -> Result<Self, TrainError> {
        let model = Model::open(path, None)?;
        let ops = model.record.as_ref().map(|record| open_recorded(&record.steps, log)).transpose()?;
        Ok(Self::with_ops(model, Rc::new(ops.unwrap_or_default())))
    }

    /// The model at `path` as an operation on it would leave it: its training can be planned before its weights are written.
    ///
    /// # Errors
    /// As [`UnswagModel::from_pretrained`].
    pub fn after_operation(path: &Path, operation: &Operation<'_>, log: &Log) -> Result<Self, TrainError> {
        let mut model = Model::open(path, None)?;
        let earlier = model.record.iter().flat_map(|record| &record.steps);
        let steps: Vec<_> = earlier.chain(&operation.steps).cloned().collect();
        model.graph = operation.after.clone();
        let model = Self::with_ops(model, Rc::new(open_recorded(&steps, log)?));
        Ok(UnswagModel { is_written: false, ..model })
    }

    fn with_ops(model: Model, ops: Rc<dyn PluginOps>) -> Self {
        let mut dtypes = model.graph.params.values().map(|param| param.dtype);
        let dtype = dtypes.find(|dtype| dtype.is_float()).unwrap_or(Dtype::F32);
        UnswagModel { model, ops, dtype, nf4: None, torch: Torch::cpu(), is_written: true }
    }

    /// Computes in this element type, whatever the file's.
    pub fn with_dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = dtype;
        self
    }

    /// Holds the weights of linear layers in four bits (QLoRA), as transformers' `load_in_4bit` with `nf4` does: all but the head.
    /// Products take their elements in [`UnswagModel::dtype`].
    pub fn with_4bit(mut self, nf4: Nf4) -> Self {
        self.nf4 = Some(nf4);
        self
    }

    /// Computes on this device; on the CPU without it.
    ///
    /// # Errors
    /// There is no such device, or libtorch does not know it.
    pub fn with_device(mut self, device: Device) -> Result<Self, TrainError> {
        self.torch = Torch::on(device)?;
        Ok(self)
    }

    /// The element type that is computed in.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The folder that the weights lie in, and the tokenizer beside them.
    pub fn root(&self) -> &Path {
        self.model.checkpoint.root()
    }

    /// Reads the weights and puts adapters on them.
    ///
    /// # Errors
    /// Settings that cannot be, no layer that matches, a file that cannot be read, or no memory.
    pub fn for_training(self, tuning: impl Into<Tuning>) -> Result<TrainingModel, TrainError> {
        let tuning = tuning.into();
        let (program, adapters) = self.tuned(&tuning)?;
        let first = match &tuning {
            Tuning::Lora(config) => first_weights(&program, &adapters, config.seed),
            Tuning::Full => BTreeMap::new(),
        };
        self.load(program, adapters, first, tuning, None)
    }

    /// Reads the weights to compute with them alone, with an adapter that PEFT or this crate wrote, or without.
    ///
    /// # Errors
    /// The adapter is unsound or does not fit, a file cannot be read, or no memory.
    pub fn for_inference(self, adapter: Option<&Path>) -> Result<TrainingModel, TrainError> {
        let Some(path) = adapter else {
            let program = self.program(Trainable::Nothing)?;
            return self.load(program, Vec::new(), BTreeMap::new(), LoraConfig::default().into(), None);
        };
        self.with_saved(path, 0.0, 0, false)
    }

    /// Reads the weights to train an adapter further that PEFT or this crate wrote: its layers, ranks and scales, and the modules that
    /// it has whole. The optimizer's state starts at zero. The seed is the run's.
    ///
    /// # Errors
    /// The adapter is unsound or does not fit, a dropout that drops all, a file cannot be read, or no memory.
    pub fn for_training_from(self, adapter: &Path, lora_dropout: f64, seed: u64) -> Result<TrainingModel, TrainError> {
        self.with_saved(adapter, lora_dropout, seed, true)
    }

    fn with_saved(mut self, path: &Path, dropout: f64, seed: u64, trains: bool) -> Result<TrainingModel, TrainError> {
        let Saved { spec, graph, program, adapters, config } = self.saved(path, dropout, seed, trains)?;
        self.model.graph = graph;
        let values = saved_values(&spec, &adapters)?;
        self.load(program, adapters, values, config.into(), Some(&spec))
    }

    fn saved(&self, path: &Path, dropout: f64, seed: u64, trains: bool) -> Result<Saved, TrainError> {
        // The dropout is checked as that of new adapters is.
        LoraConfig { lora_dropout: dropout, ..LoraConfig::default() }.check_dropout()?;
        let spec = AdapterSpec::open(path, &self.model.graph, &self.model.checkpoint)?;
        let graph = spec.graph(&self.model.graph);
        let config = LoraConfig { lora_dropout: dropout, seed, ..config_of(&spec) };
        let layer = |adapted: &unswag_adapter::AdaptedLayer| LoraLayer {
            module: adapted.layer.path.clone(),
            r: adapted.r,
            scale: adapted.scale,
            dropout,
            dora: adapted.has_magnitude,
        };
        let layers: Vec<LoraLayer> = spec.layers().iter().map(layer).collect();
        let mut program = self.program_of(&graph, Trainable::Nothing)?;
        let adapters = program.add_adapters(&layers)?;
        if trains {
            program.train_params(&config.saved_params(&graph)?)?;
        }
        Ok(Saved { spec, graph, program, adapters, config })
    }

    /// What an adapter says of itself that a user should know, in sentences.
    ///
    /// # Errors
    /// The adapter is unsound or does not fit.
    pub fn adapter_notes(&self, adapter: &Path) -> Result<Vec<String>, TrainError> {
        Ok(AdapterSpec::open(adapter, &self.model.graph, &self.model.checkpoint)?.notes().to_vec())
    }

    /// What a run would train, without reading a weight of the model.
    ///
    /// # Errors
    /// As [`UnswagModel::for_training`] or [`UnswagModel::for_training_from`], but for the weights' files and memory.
    pub fn planned(&self, start: &Start<'_>) -> Result<PlannedModel<'_>, TrainError> {
        let (graph, program, adapters, tuning) = match *start {
            Start::New(tuning) => {
                let (program, adapters) = self.tuned(tuning)?;
                (Cow::Borrowed(&self.model.graph), program, adapters, tuning.clone())
            }
            Start::Adapter { folder, lora_dropout, seed } => {
                let Saved { graph, program, adapters, config, .. } = self.saved(folder, lora_dropout, seed, true)?;
                (Cow::Owned(graph), program, adapters, config.into())
            }
        };
        let (dtype, nf4, is_written) = (self.dtype, self.nf4, self.is_written);
        Ok(PlannedModel { model: self, graph, program, adapters, tuning, dtype, nf4, is_written })
    }

    /// Whether a run may write into this folder, which need not be there: never into the model's, nor into the checkpoint that
    /// surgery rewrote. Nothing is created.
    ///
    /// # Errors
    /// It lies in one of them.
    pub fn check_output(&self, folder: &Path) -> Result<(), TrainError> {
        check_outside(folder, &bases(&self.model.path, record_base(&self.model).as_deref()))
    }

    /// The model's checkpoint and graph, for surgery.
    pub fn model(&self) -> &Model {
        &self.model
    }

    fn program(&self, trainable: Trainable) -> Result<Program, TrainError> {
        self.program_of(&self.model.graph, trainable)
    }

    /// The program of the model's graph, or of that with an adapter's own parameters.
    fn program_of(&self, graph: &Graph, trainable: Trainable) -> Result<Program, TrainError> {
        // What an op was not found to stand for is not relied on: generation's KV cache would be wrong for an op that mixes rows.
        program(&self.model.verified(graph), self.ops.clone(), trainable, self.dtype, self.nf4)
    }

    fn with_adapters(&self, config: &LoraConfig) -> Result<(Program, Vec<Adapter>), TrainError> {
        let mut program = self.program(Trainable::Nothing)?;
        let adapters = program.add_adapters(&config.layers(&self.model.graph)?)?;
        program.train_params(&config.saved_params(&self.model.graph)?)?;
        Ok((program, adapters))
    }

    fn tuned(&self, tuning: &Tuning) -> Result<(Program, Vec<Adapter>), TrainError> {
        match tuning {
            Tuning::Lora(config) => self.with_adapters(config),
            Tuning::Full => {
                full::check_base(&self.model.checkpoint)?;
                Ok((self.program(Trainable::Everything)?, Vec::new()))
            }
        }
    }

    /// Reads each weight into memory of libtorch's, one at a time: the file is not mapped, so nothing is held twice. Adapters
    /// begin with `first`, by the place of their parameters; a magnitude that has no first values, with the weights' norms.
    fn load(
        self,
        program: Program,
        adapters: Vec<Adapter>,
        mut first: BTreeMap<usize, Vec<f32>>,
        tuning: Tuning,
        spec: Option<&AdapterSpec>,
    ) -> Result<TrainingModel, TrainError> {
        let torch = self.torch.clone();
        memory::require_weights(&program, &torch)?;
        let resident_before = Resident::now();
        let graph_params = self.model.graph.params.len();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&serde_json::to_vec(&self.model.graph).expect("a graph is a document"));
        let mut buffer = Vec::new();
        let mut params = Params::load(&program, |index, info| -> Result<TorchTensor, TrainError> {
            if index >= graph_params {
                return Ok(match first.get(&index) {
                    Some(values) => torch.tensor_from_f32(info.shape, info.dtype, &|| values.clone())?,
                    None => torch.zeros(info.shape, info.dtype)?,
                });
            }
            let source = spec.and_then(|spec| Some((spec, spec.source(&info.name)?)));
            let stored = match source {
                Some((spec, ParamSource::Adapter(replaced))) => {
                    torch.tensor_from_bytes(info.shape, replaced.dtype, &spec.replacement(replaced)?)?
                }
                Some((_, ParamSource::Base(name))) => self.read(&torch, info, name, &mut buffer, &mut hasher)?,
                None => self.read(&torch, info, &info.name, &mut buffer, &mut hasher)?,
            };
            if program.is_trainable(index) {
                first.insert(index, stored.to_f32()?);
            }
            held(&torch, info, stored)
        })?;
        for adapter in &adapters {
            let Some(magnitude) = adapter.magnitude.filter(|param| !first.contains_key(param)) else { continue };
            let [weight, a, b] = [adapter.weight, adapter.a, adapter.b].map(|param| &params.tensors()[param]);
            let norms = dora_norms(&torch, (weight, adapter.weight_view), adapter.scale, [a, b])?;
            first.insert(magnitude, norms.to_f32()?);
            params.tensors_mut()[magnitude] = norms;
        }
        let masters = match &tuning {
            Tuning::Lora(_) => adapter_masters(&self.model.graph, &program, &adapters, first),
            Tuning::Full => graph_masters(&self.model.graph, first),
        };
        let (dtype, nf4, base_digest) = (self.dtype, self.nf4, hasher.finalize().to_hex().to_string());
        let record_base = record_base(&self.model);
        let Model { path, graph, checkpoint, .. } = self.model;
        Ok(TrainingModel {
            dtype,
            nf4,
            path,
            record_base,
            graph,
            checkpoint,
            program,
            torch,
            params,
            adapters,
            masters,
            tuning,
            base_digest,
            resident_before,
        })
    }

    fn read(
        &self,
        torch: &Torch,
        info: &ParamInfo,
        tensor: &str,
        buffer: &mut Vec<u8>,
        hasher: &mut blake3::Hasher,
    ) -> Result<TorchTensor, TrainError> {
        let stored = self.model.graph.params[&info.name].dtype;
        self.model.checkpoint.read(tensor, buffer)?;
        hasher.update(format!("{} {stored} {:?}\n", info.name, info.shape).as_bytes()).update(buffer);
        Ok(torch.tensor_from_bytes(info.shape, stored, buffer)?)
    }
}

fn record_base(model: &Model) -> Option<PathBuf> {
    model.record.as_ref().map(|record| PathBuf::from(&record.base.path))
}

/// What a run reads and never changes.
pub(crate) fn bases<'a>(model: &'a Path, record_base: Option<&'a Path>) -> Vec<&'a Path> {
    std::iter::once(model).chain(record_base).collect()
}

pub(crate) fn check_outside(folder: &Path, bases: &[&Path]) -> Result<(), TrainError> {
    Ok(unswag_checkpoint::check_outside(folder, bases)?)
}

/// A weight as the program holds it.
fn held(torch: &Torch, info: &ParamInfo, read: TorchTensor) -> Result<TorchTensor, TrainError> {
    match info.storage {
        // From the elements as the file has them: the codes do not depend on what is computed in.
        Storage::Nf4(nf4) => {
            let named = |source| TrainError::Weight { name: info.name.clone(), source: Box::new(source) };
            torch.quantize(&read, info.dtype, nf4).map_err(named)
        }
        Storage::Plain if torch.dtype(&read) == info.dtype => Ok(read),
        Storage::Plain => Ok(torch.cast(&read, info.dtype)?),
    }
}

/// The graph's program, its weights stored as they are asked for.
pub(crate) fn program(
    graph: &Graph,
    ops: Rc<dyn PluginOps>,
    trainable: Trainable,
    dtype: Dtype,
    nf4: Option<Nf4>,
) -> Result<Program, TrainError> {
    let mut program = Program::with_plugins(graph, trainable, ops)?;
    program.set_dtype(dtype);
    if let Some(nf4) = nf4 {
        program.quantize_linears(nf4)?;
    }
    Ok(program)
}

/// The settings that an adapter's files come to. Layers of another rank or scale than most have patterns of their own paths.
fn config_of(spec: &AdapterSpec) -> LoraConfig {
    let r = spec.r().or_else(|| spec.layers().first().map(|adapted| adapted.r)).unwrap_or(1);
    let use_rslora = spec.use_rslora();
    let by_path = |adapted: &unswag_adapter::AdaptedLayer| adapted.layer.path.clone();
    let ranks = spec.layers().iter().filter(|adapted| adapted.r != r).map(|adapted| (by_path(adapted), adapted.r));
    let alpha = |adapted: &unswag_adapter::AdaptedLayer| {
        let divisor = if use_rslora { (adapted.r as f64).sqrt() } else { adapted.r as f64 };
        adapted.scale * divisor
    };
    let is_other = |alpha: f64| (alpha - spec.lora_alpha()).abs() > 1e-9 * spec.lora_alpha();
    let alphas = spec.layers().iter().map(|adapted| (by_path(adapted), alpha(adapted)));
    LoraConfig {
        r,
        lora_alpha: spec.lora_alpha(),
        lora_dropout: 0.0,
        use_rslora,
        use_dora: spec.use_dora(),
        target_modules: spec.layers().iter().map(by_path).collect(),
        rank_pattern: ranks.collect(),
        alpha_pattern: alphas.filter(|(_, alpha)| is_other(*alpha)).collect(),
        modules_to_save: spec.modules_to_save().to_vec(),
        seed: 0,
    }
}
