//! A checkpoint in memory, and what of it is trained.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use unswag_abi::doc::{Device, Dtype, Graph};
use unswag_adapter::{AdapterSpec, ParamSource};
use unswag_checkpoint::Checkpoint;
use unswag_data::Batch;
use unswag_engine::{
    Adapter, Backend, Cache, LoraLayer, Nf4, ParamInfo, Params, Plan, PluginOps, Program, Storage, Trainable,
    dora_norms,
};
use unswag_loader::Log;
use unswag_surgery::{Model, Operation, open_recorded};
use unswag_torch::{Torch, TorchTensor};

use crate::{
    LoraConfig, TrainError, TrainingArguments, Tuning, batch::for_engine, full, memory, memory::Resident, tuning,
};

/// A checkpoint whose graph is known and whose weights are not yet read.
pub struct UnswagModel {
    model: Model,
    /// Of the plugins whose ops the model has.
    ops: Rc<dyn PluginOps>,
    dtype: Dtype,
    nf4: Option<Nf4>,
    torch: Torch,
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
        Ok(Self::with_ops(model, Rc::new(open_recorded(&steps, log)?)))
    }

    fn with_ops(model: Model, ops: Rc<dyn PluginOps>) -> Self {
        let mut dtypes = model.graph.params.values().map(|param| param.dtype);
        let dtype = dtypes.find(|dtype| dtype.is_float()).unwrap_or(Dtype::F32);
        UnswagModel { model, ops, dtype, nf4: None, torch: Torch::cpu() }
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
        // The dropout is checked as that of new adapters is.
        LoraConfig { lora_dropout, ..LoraConfig::default() }.layers(&self.model.graph)?;
        self.with_saved(adapter, lora_dropout, seed, true)
    }

    fn with_saved(mut self, path: &Path, dropout: f64, seed: u64, trains: bool) -> Result<TrainingModel, TrainError> {
        let spec = AdapterSpec::open(path, &self.model.graph, &self.model.checkpoint)?;
        self.model.graph = spec.graph(&self.model.graph);
        let config = LoraConfig { lora_dropout: dropout, seed, ..config_of(&spec) };
        let layer = |adapted: &unswag_adapter::AdaptedLayer| LoraLayer {
            module: adapted.layer.path.clone(),
            r: adapted.r,
            scale: adapted.scale,
            dropout,
            dora: adapted.has_magnitude,
        };
        let layers: Vec<LoraLayer> = spec.layers().iter().map(layer).collect();
        let mut program = self.program(Trainable::Nothing)?;
        let adapters = program.add_adapters(&layers)?;
        if trains {
            program.train_params(&config.saved_params(&self.model.graph)?)?;
        }
        let values = saved_values(&spec, &adapters)?;
        self.load(program, adapters, values, config.into(), Some(&spec))
    }

    /// What an adapter says of itself that a user should know, in sentences.
    ///
    /// # Errors
    /// The adapter is unsound or does not fit.
    pub fn adapter_notes(&self, adapter: &Path) -> Result<Vec<String>, TrainError> {
        Ok(AdapterSpec::open(adapter, &self.model.graph, &self.model.checkpoint)?.notes().to_vec())
    }

    /// What a step on rows of so many tokens takes, and how it is run, without reading a weight: the step is run on sizes alone.
    ///
    /// # Errors
    /// As [`UnswagModel::for_training`], but for files; a memory budget that nothing fits.
    pub fn plan(&self, tuning: &Tuning, arguments: &TrainingArguments, row_tokens: u64) -> Result<Plan, TrainError> {
        let (program, _) = self.tuned(tuning)?;
        memory::plan(&program, self.dtype, arguments, row_tokens)
    }

    /// Elements that would be trained.
    ///
    /// # Errors
    /// As [`UnswagModel::for_training`], but for files.
    pub fn trainable_parameters(&self, tuning: &Tuning) -> Result<u64, TrainError> {
        let (program, _) = self.tuned(tuning)?;
        let params = program.params().iter().enumerate().filter(|(index, _)| program.is_trainable(*index));
        Ok(params.map(|(_, info)| info.shape.iter().product::<u64>()).sum())
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
        program(&self.model.graph, self.ops.clone(), trainable, self.dtype, self.nf4)
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
fn bases<'a>(model: &'a Path, record_base: Option<&'a Path>) -> Vec<&'a Path> {
    std::iter::once(model).chain(record_base).collect()
}

fn check_outside(folder: &Path, bases: &[&Path]) -> Result<(), TrainError> {
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

/// The values that an adapter's files have for the program's parameters.
fn saved_values(spec: &AdapterSpec, adapters: &[Adapter]) -> Result<BTreeMap<usize, Vec<f32>>, TrainError> {
    let mut values = BTreeMap::new();
    // Both are in the graph's order.
    for (adapted, adapter) in spec.layers().iter().zip(adapters) {
        let [a, b] = spec.matrices(adapted)?;
        let magnitude = adapter.magnitude.zip(spec.magnitude(adapted)?);
        for (param, read) in [(adapter.a, a), (adapter.b, b)].into_iter().chain(magnitude) {
            values.insert(param, read.into_iter().map(|value| value as f32).collect());
        }
    }
    Ok(values)
}

/// In the order of the files: each adapter's tensors after the other's, then the fully trained modules.
fn adapter_masters(
    graph: &Graph,
    program: &Program,
    adapters: &[Adapter],
    mut values: BTreeMap<usize, Vec<f32>>,
) -> Vec<Master> {
    let tensors = adapters.iter().flat_map(|adapter| {
        let tensor = |(name, param): (String, usize)| (name, param, Some(param) == adapter.magnitude);
        adapter.peft_tensors().into_iter().map(tensor)
    });
    let master = |(name, param, is_vector): (String, usize, bool)| {
        let [rows, columns] = program.params()[param].shape;
        let shape = if is_vector { vec![columns] } else { vec![rows, columns] };
        Some(Master { name, other_names: Vec::new(), param, shape, decays: true, values: values.remove(&param)? })
    };
    let mut masters: Vec<Master> = tensors.filter_map(master).collect();
    let whole = values.into_iter().filter(|(param, _)| *param < graph.params.len());
    masters.extend(whole.filter_map(|(param, values)| saved_master(graph, param, values)));
    masters
}

/// A fully trained parameter. A tied matrix is trained once and saved for each of its modules, because PEFT trains and loads
/// them apart.
fn saved_master(graph: &Graph, param: usize, values: Vec<f32>) -> Option<Master> {
    let (name, info) = graph.params.get_index(param)?;
    let roles = |node: &unswag_abi::doc::Node| {
        let role = node.params.iter().find(|(_, param)| *param == name).map(|(role, _)| role.clone())?;
        Some(format!("base_model.model.{}.{role}", node.path))
    };
    let mut names = graph.nodes.iter().filter_map(roles);
    let first = names.next()?;
    let (shape, decays) = (info.shape.clone(), tuning::decays(graph, name));
    Some(Master { name: first, other_names: names.collect(), param, shape, decays, values })
}

fn graph_masters(graph: &Graph, values: BTreeMap<usize, Vec<f32>>) -> Vec<Master> {
    let master = |(param, values)| {
        let (name, info) = graph.params.get_index(param)?;
        let shape = info.shape.clone();
        let (name, decays) = (name.clone(), tuning::decays(graph, name));
        Some(Master { name, other_names: Vec::new(), param, shape, decays, values })
    };
    values.into_iter().filter_map(master).collect()
}

/// PEFT's: A uniform within 1 / sqrt(in) (`kaiming_uniform_` with a = sqrt(5)), B zero. By the place of the parameter.
fn first_weights(program: &Program, adapters: &[Adapter], seed: u64) -> BTreeMap<usize, Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut made = BTreeMap::new();
    for adapter in adapters {
        let [rows, columns] = program.params()[adapter.a].shape;
        let bound = 1.0 / (columns as f64).sqrt();
        // 24 bits are what an f32 between 0 and 1 holds.
        let uniform = |bits: u32| f64::from(bits >> 8) / f64::from(1u32 << 24);
        let a = (0..rows * columns).map(|_| (bound * (2.0 * uniform(random.next_u32()) - 1.0)) as f32).collect();
        let [rows, columns] = program.params()[adapter.b].shape;
        made.insert(adapter.a, a);
        made.insert(adapter.b, vec![0.0; (rows * columns) as usize]);
    }
    made
}

/// A trained tensor as the optimizer sees it: in f32, whatever the steps compute in.
#[derive(Clone, Debug)]
pub(crate) struct Master {
    /// What files call it.
    pub name: String,
    /// Under these names an adapter's file has it too.
    pub other_names: Vec<String>,
    /// Its position among the program's parameters.
    pub param: usize,
    /// As files have it.
    pub shape: Vec<u64>,
    /// Whether weight decay applies to it.
    pub decays: bool,
    pub values: Vec<f32>,
}

/// A model whose weights are in memory, ready to be trained.
pub struct TrainingModel {
    path: PathBuf,
    /// Where the checkpoint was that surgery rewrote, where it did.
    record_base: Option<PathBuf>,
    graph: Graph,
    pub(crate) program: Program,
    pub(crate) torch: Torch,
    pub(crate) params: Params<TorchTensor>,
    adapters: Vec<Adapter>,
    pub(crate) masters: Vec<Master>,
    tuning: Tuning,
    checkpoint: Checkpoint,
    dtype: Dtype,
    nf4: Option<Nf4>,
    base_digest: String,
    /// What of this process was in memory before a weight was read.
    resident_before: Option<Resident>,
}

impl TrainingModel {
    /// What of it is trained.
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// The adapters' settings, where adapters are what is trained.
    pub fn lora(&self) -> Option<&LoraConfig> {
        match &self.tuning {
            Tuning::Lora(config) => Some(config),
            Tuning::Full => None,
        }
    }

    /// The base's files.
    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The element type that steps compute in.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// How the weights of linear layers are held, where not as they are.
    pub fn nf4(&self) -> Option<Nf4> {
        self.nf4
    }

    pub fn base_path(&self) -> &Path {
        &self.path
    }

    /// As [`UnswagModel::check_output`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn check_output(&self, folder: &Path) -> Result<(), TrainError> {
        check_outside(folder, &bases(&self.path, self.record_base.as_deref()))
    }

    /// The folder that the base's weights lie in, links resolved.
    pub(crate) fn checkpoint_root(&self) -> &Path {
        self.checkpoint.root()
    }

    /// By how much this process's resident memory grew at most since the first weight was read, pages of libraries' files aside.
    /// `None` where the system does not say.
    pub fn resident_growth_bytes(&self) -> Option<u64> {
        self.resident_before.as_ref()?.growth_bytes()
    }

    /// BLAKE3 over the base's graph, which says what is computed from the weights, and the weights' names, types, shapes and bytes.
    pub fn base_digest(&self) -> &str {
        &self.base_digest
    }

    pub fn adapters(&self) -> &[Adapter] {
        &self.adapters
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Bytes of the tensors that are alive, and the most that were.
    pub fn torch(&self) -> &Torch {
        &self.torch
    }

    /// Elements that are trained.
    pub fn trainable_parameters(&self) -> u64 {
        self.masters.iter().map(|master| master.values.len() as u64).sum()
    }

    /// The logits of every token, \[rows, vocabulary\], in f32.
    ///
    /// # Errors
    /// A batch that does not fit, or no memory.
    pub fn logits(&self, batch: &Batch) -> Result<Vec<f32>, TrainError> {
        Ok(self.program.forward(&self.torch, &self.params, &for_engine(batch))?.to_f32()?)
    }

    /// Keeps nothing yet.
    pub fn cache(&self) -> Cache<TorchTensor> {
        Cache::new(&self.program)
    }

    /// The logits after the last of these tokens, \[vocabulary\], in f32. What the cache has of the text is not computed again.
    ///
    /// # Errors
    /// No token, fewer than the cache has, or no memory.
    pub fn next_logits(&self, input_ids: &[u32], cache: &mut Cache<TorchTensor>) -> Result<Vec<f32>, TrainError> {
        Ok(self.program.next_logits(&self.torch, &self.params, input_ids, cache)?.to_f32()?)
    }

    /// # Errors
    /// A trained value is not finite.
    pub(crate) fn check_finite(&self) -> Result<(), TrainError> {
        match self.masters.iter().find(|master| !master.values.iter().all(|value| value.is_finite())) {
            Some(master) => Err(TrainError::BadWeight { name: master.name.clone() }),
            None => Ok(()),
        }
    }

    /// Rounds the masters into what the steps compute with.
    pub(crate) fn refresh(&mut self) -> Result<(), TrainError> {
        for master in &self.masters {
            self.torch.fill_from_f32(&self.params.tensors()[master.param], &master.values)?;
        }
        Ok(())
    }

    /// What PEFT is to match the trained modules by: last parts of paths where every module of that name has an adapter, else full
    /// paths.
    pub(crate) fn target_modules(&self) -> Vec<String> {
        let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
        let adapted: BTreeSet<&str> = self.adapters.iter().map(|adapter| adapter.module.as_str()).collect();
        let linear = self.graph.nodes.iter().filter(|node| node.kind == "linear").map(|node| node.path.as_str());
        let without = linear.filter(|module| !adapted.contains(module)).map(last);
        // Modules that the graph leaves out, such as those of a multimodal model's images, PEFT sees all the same.
        let others = self.checkpoint.tensors().filter(|tensor| !self.graph.params.contains_key(tensor.name));
        let others = others.filter_map(|tensor| tensor.name.strip_suffix(".weight").map(last));
        let without: BTreeSet<String> = without.chain(others).collect();
        let names: BTreeSet<String> = adapted.iter().map(|module| last(module)).collect();
        match names.is_disjoint(&without) {
            true => names.into_iter().collect(),
            false => adapted.into_iter().map(str::to_owned).collect(),
        }
    }

    /// PEFT's `modules_to_save`: what was asked for, and what shares a matrix with it.
    pub(crate) fn modules_to_save(&self) -> Vec<String> {
        let asked = self.lora().map(|config| config.modules_to_save.clone()).unwrap_or_default();
        let shared = self.masters.iter().filter(|master| !master.other_names.is_empty());
        let names = shared.flat_map(|master| std::iter::once(&master.name).chain(&master.other_names));
        let modules = names.filter_map(|name| name.strip_prefix("base_model.model.")?.rsplit_once('.'));
        let more = modules.map(|(module, _)| module.to_owned());
        let mut saved: Vec<String> = asked.clone();
        saved.extend(more.filter(|module| !asked.iter().any(|name| module.ends_with(name.as_str()))));
        saved
    }

    /// Whether the adapted layers store their weight \[in, out\], which PEFT wants to be told.
    pub(crate) fn is_stored_transposed(&self) -> bool {
        let linear = self.graph.nodes.iter().find(|node| node.kind == "linear");
        linear.and_then(|node| node.attrs.get("transposed")).and_then(serde_json::Value::as_bool).unwrap_or(false)
    }
}
