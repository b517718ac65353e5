//! A checkpoint in memory, and what of it is trained.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use unswag_abi::doc::{Dtype, Graph};
use unswag_data::Batch;
use unswag_engine::{Adapter, Backend, ParamInfo, Params, Plan, PluginOps, Program, Trainable};
use unswag_loader::Log;
use unswag_surgery::{Model, open_recorded};
use unswag_torch::{Torch, TorchTensor};

use crate::{LoraConfig, TrainError, TrainingArguments, batch::for_engine, memory};

/// A checkpoint whose graph is known and whose weights are not yet read.
pub struct UnswagModel {
    model: Model,
    /// Of the plugins whose ops the model has.
    ops: Rc<dyn PluginOps>,
    dtype: Dtype,
    /// Bytes of this process that were in memory before a weight was read.
    resident_before: Option<u64>,
}

impl UnswagModel {
    /// Opens a file or a folder as Hugging Face's `from_pretrained` does. A folder that surgery wrote is opened by its record:
    /// what was rewritten stays rewritten.
    ///
    /// # Errors
    /// No sound checkpoint, no config, a family that no builder knows, or an unsound record.
    pub fn from_pretrained(path: &Path) -> Result<Self, TrainError> {
        let model = Model::open(path, None)?;
        // Their lines go nowhere: what matters of them is an error.
        let log: Log = Arc::new(|_, _| ());
        let ops = model.record.as_ref().map(|record| open_recorded(&record.steps, &log)).transpose()?;
        let ops: Rc<dyn PluginOps> = Rc::new(ops.unwrap_or_default());
        let mut dtypes = model.graph.params.values().map(|param| param.dtype);
        let dtype = dtypes.find(|dtype| dtype.is_float()).unwrap_or(Dtype::F32);
        let resident_before = memory::resident().map(|[now, _]| now);
        Ok(UnswagModel { model, ops, dtype, resident_before })
    }

    /// Computes in this element type, whatever the file's.
    pub fn with_dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = dtype;
        self
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
    pub fn for_training(self, config: LoraConfig) -> Result<TrainingModel, TrainError> {
        let (program, adapters) = self.with_adapters(&config)?;
        let first = first_weights(&program, &adapters, config.seed);
        let mut masters = Vec::new();
        for (adapter, [a, b]) in adapters.iter().zip(first) {
            let [a_name, b_name] = adapter.peft_names();
            masters.push(Master { name: a_name, param: adapter.a, decays: true, values: a });
            masters.push(Master { name: b_name, param: adapter.b, decays: true, values: b });
        }
        self.load(program, adapters, masters, config)
    }

    /// Reads the weights to compute with them alone, with an adapter that PEFT or this crate wrote, or without.
    ///
    /// # Errors
    /// The adapter is unsound or does not fit, a file cannot be read, or no memory.
    pub fn for_inference(self, adapter: Option<&Path>) -> Result<TrainingModel, TrainError> {
        let Some(path) = adapter else {
            let mut program = Program::with_plugins(&self.model.graph, Trainable::Nothing, self.ops.clone())?;
            program.set_dtype(self.dtype);
            return self.load(program, Vec::new(), Vec::new(), LoraConfig::default());
        };
        let saved = unswag_adapter::Adapter::open(path)?;
        let ranks: BTreeSet<u64> = saved.modules().iter().map(|module| module.r).collect();
        let [r] = ranks.iter().copied().collect::<Vec<_>>()[..] else {
            return Err(TrainError::Argument {
                what: "the ranks of the adapter's modules",
                expected: "one for all".into(),
                got: format!("{ranks:?}"),
            });
        };
        let config = LoraConfig {
            r,
            lora_alpha: saved.lora_alpha(),
            use_rslora: saved.use_rslora(),
            target_modules: saved.modules().iter().map(|module| module.module.clone()).collect(),
            seed: 0,
        };
        let (program, adapters) = self.with_adapters(&config)?;
        let mut masters = Vec::new();
        for module in saved.modules() {
            let fits = |adapter: &&Adapter| {
                let shape = |param: usize| program.params()[param].shape;
                adapter.module == module.module
                    && shape(adapter.a) == [r, module.input]
                    && shape(adapter.b) == [module.output, r]
            };
            let Some(adapter) = adapters.iter().find(fits) else {
                return Err(TrainError::Argument {
                    what: "the adapter's modules",
                    expected: "linear layers of this model, of the adapter's sizes".into(),
                    got: format!("{} with {} inputs and {} outputs", module.module, module.input, module.output),
                });
            };
            let [a, b] = saved.matrices(module)?;
            let [a_name, b_name] = adapter.peft_names();
            for (name, param, values) in [(a_name, adapter.a, a), (b_name, adapter.b, b)] {
                let values = values.into_iter().map(|value| value as f32).collect();
                masters.push(Master { name, param, decays: true, values });
            }
        }
        self.load(program, adapters, masters, config)
    }

    /// What a step on rows of so many tokens takes, and how it is run, without reading a weight: the step is run on sizes alone.
    ///
    /// # Errors
    /// As [`UnswagModel::for_training`], but for files; a memory budget that nothing fits.
    pub fn plan(
        &self,
        config: &LoraConfig,
        arguments: &TrainingArguments,
        row_tokens: u64,
    ) -> Result<Plan, TrainError> {
        let (program, _) = self.with_adapters(config)?;
        memory::plan(&program, self.dtype, arguments, row_tokens)
    }

    /// Elements that these adapters have.
    ///
    /// # Errors
    /// As [`UnswagModel::for_training`], but for files.
    pub fn trainable_parameters(&self, config: &LoraConfig) -> Result<u64, TrainError> {
        let (program, adapters) = self.with_adapters(config)?;
        let elements = |param: usize| program.params()[param].shape.iter().product::<u64>();
        Ok(adapters.iter().map(|adapter| elements(adapter.a) + elements(adapter.b)).sum())
    }

    /// The model's checkpoint and graph, for surgery.
    pub fn model(&self) -> &Model {
        &self.model
    }

    fn with_adapters(&self, config: &LoraConfig) -> Result<(Program, Vec<Adapter>), TrainError> {
        let mut program = Program::with_plugins(&self.model.graph, Trainable::Nothing, self.ops.clone())?;
        program.set_dtype(self.dtype);
        let adapters = program.add_lora(&config.spec()?)?;
        Ok((program, adapters))
    }

    /// Reads each weight into memory of libtorch's, one at a time: the file is not mapped, so nothing is held twice.
    fn load(
        self,
        program: Program,
        adapters: Vec<Adapter>,
        masters: Vec<Master>,
        config: LoraConfig,
    ) -> Result<TrainingModel, TrainError> {
        let torch = Torch::cpu();
        let graph_params = self.model.graph.params.len();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&serde_json::to_vec(&self.model.graph).expect("a graph is a document"));
        let mut buffer = Vec::new();
        let params = Params::load(&program, |index, info| -> Result<TorchTensor, TrainError> {
            if index < graph_params {
                return self.read(&torch, info, &mut buffer, &mut hasher);
            }
            let master = masters.iter().find(|master| master.param == index).expect("every adapter has its masters");
            Ok(torch.tensor_from_f32(info.shape, info.dtype, &|| master.values.clone())?)
        })?;
        let (dtype, base_digest) = (self.dtype, hasher.finalize().to_hex().to_string());
        let resident_before = self.resident_before;
        let Model { path, graph, .. } = self.model;
        Ok(TrainingModel {
            dtype,
            path,
            graph,
            program,
            torch,
            params,
            adapters,
            masters,
            config,
            base_digest,
            resident_before,
        })
    }

    fn read(
        &self,
        torch: &Torch,
        info: &ParamInfo,
        buffer: &mut Vec<u8>,
        hasher: &mut blake3::Hasher,
    ) -> Result<TorchTensor, TrainError> {
        let stored = self.model.graph.params[&info.name].dtype;
        self.model.checkpoint.read(&info.name, buffer)?;
        hasher.update(format!("{} {stored} {:?}\n", info.name, info.shape).as_bytes()).update(buffer);
        let tensor = torch.tensor_from_bytes(info.shape, stored, buffer)?;
        Ok(if stored == info.dtype { tensor } else { torch.cast(&tensor, info.dtype)? })
    }
}

/// PEFT's: A uniform within 1 / sqrt(in) (`kaiming_uniform_` with a = sqrt(5)), B zero.
fn first_weights(program: &Program, adapters: &[Adapter], seed: u64) -> Vec<[Vec<f32>; 2]> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut made = Vec::new();
    for adapter in adapters {
        let [rows, columns] = program.params()[adapter.a].shape;
        let bound = 1.0 / (columns as f64).sqrt();
        // 24 bits are what an f32 between 0 and 1 holds.
        let uniform = |bits: u32| f64::from(bits >> 8) / f64::from(1u32 << 24);
        let a = (0..rows * columns).map(|_| (bound * (2.0 * uniform(random.next_u32()) - 1.0)) as f32).collect();
        let [rows, columns] = program.params()[adapter.b].shape;
        made.push([a, vec![0.0; (rows * columns) as usize]]);
    }
    made
}

/// A trained tensor as the optimizer sees it: in f32, whatever the steps compute in.
#[derive(Clone, Debug)]
pub(crate) struct Master {
    /// What files call it.
    pub name: String,
    /// Its position among the program's parameters.
    pub param: usize,
    /// Whether weight decay applies to it.
    pub decays: bool,
    pub values: Vec<f32>,
}

/// A model with adapters, ready to be trained.
pub struct TrainingModel {
    path: PathBuf,
    graph: Graph,
    pub(crate) program: Program,
    pub(crate) torch: Torch,
    pub(crate) params: Params<TorchTensor>,
    adapters: Vec<Adapter>,
    pub(crate) masters: Vec<Master>,
    config: LoraConfig,
    dtype: Dtype,
    base_digest: String,
    resident_before: Option<u64>,
}

impl TrainingModel {
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The element type that steps compute in.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub fn base_path(&self) -> &Path {
        &self.path
    }

    /// By how much this process's resident memory grew at most since the model was opened. `None` where the system does not
    /// say.
    pub fn resident_growth_bytes(&self) -> Option<u64> {
        let [_, most] = memory::resident()?;
        most.checked_sub(self.resident_before?)
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

    /// The logits of the last token, \[vocabulary\], in f32.
    pub(crate) fn last_logits(&self, batch: &unswag_engine::Batch) -> Result<Vec<f32>, TrainError> {
        let logits = self.program.forward(&self.torch, &self.params, batch)?;
        let [rows, _] = self.torch.shape(&logits);
        Ok(self.torch.rows(&logits, rows - 1, 1).to_f32()?)
    }

    /// The shape of a trained tensor.
    pub(crate) fn shape(&self, master: &Master) -> [u64; 2] {
        self.program.params()[master.param].shape
    }

    /// Rounds the masters into what the steps compute with.
    pub(crate) fn refresh(&mut self) -> Result<(), TrainError> {
        for master in &self.masters {
            let info = &self.program.params()[master.param];
            let tensor = self.torch.tensor_from_f32(info.shape, info.dtype, &|| master.values.clone())?;
            self.params.tensors_mut()[master.param] = tensor;
        }
        Ok(())
    }

    /// What PEFT is to match the trained modules by: last parts of paths where every linear layer of that name has an
    /// adapter, else whole paths.
    pub(crate) fn target_modules(&self) -> Vec<String> {
        let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
        let adapted: BTreeSet<&str> = self.adapters.iter().map(|adapter| adapter.module.as_str()).collect();
        let without: BTreeSet<String> =
            self.linear_modules().filter(|module| !adapted.contains(module)).map(last).collect();
        let names: BTreeSet<String> = adapted.iter().map(|module| last(module)).collect();
        match names.is_disjoint(&without) {
            true => names.into_iter().collect(),
            false => adapted.into_iter().map(str::to_owned).collect(),
        }
    }

    /// Paths of the linear layers, the head among them.
    fn linear_modules(&self) -> impl Iterator<Item = &str> {
        let linear = self.graph.nodes.iter().filter(|node| node.kind == "linear");
        let weights = linear.filter_map(|node| node.params.get("weight"));
        weights.map(|name| name.strip_suffix(".weight").unwrap_or(name))
    }

    /// Whether the adapted layers store their weight \[in, out\], which PEFT wants to be told.
    pub(crate) fn is_stored_transposed(&self) -> bool {
        let linear = self.graph.nodes.iter().find(|node| node.kind == "linear");
        linear.and_then(|node| node.attrs.get("transposed")).and_then(serde_json::Value::as_bool).unwrap_or(false)
    }
}
