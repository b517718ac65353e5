//! A checkpoint in memory, and the adapters on it.

use std::path::{Path, PathBuf};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use unswag_abi::doc::{Dtype, Graph};
use unswag_data::Batch;
use unswag_engine::{Adapter, Backend, ParamInfo, Params, Program, Trainable};
use unswag_surgery::Model;
use unswag_torch::{Torch, TorchTensor};

use crate::{LoraConfig, TrainError, batch::for_engine};

/// A checkpoint whose graph is known and whose weights are not yet read.
pub struct UnswagModel {
    model: Model,
    dtype: Dtype,
}

impl UnswagModel {
    /// Opens a file or a folder as Hugging Face's `from_pretrained` does. A folder that surgery wrote is opened by its record:
    /// what was rewritten stays rewritten.
    ///
    /// # Errors
    /// No sound checkpoint, no config, a family that no builder knows, or an unsound record.
    pub fn from_pretrained(path: &Path) -> Result<Self, TrainError> {
        let model = Model::open(path, None)?;
        let mut dtypes = model.graph.params.values().map(|param| param.dtype);
        let dtype = dtypes.find(|dtype| dtype.is_float()).unwrap_or(Dtype::F32);
        Ok(UnswagModel { model, dtype })
    }

    /// Computes in this element type, whatever the file's.
    pub fn with_dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = dtype;
        self
    }

    /// Reads the weights and puts adapters on them.
    ///
    /// # Errors
    /// Settings that cannot be, no layer that matches, a file that cannot be read, or no memory.
    pub fn for_training(self, config: LoraConfig) -> Result<LoraModel, TrainError> {
        let mut program = Program::new(&self.model.graph, Trainable::Nothing)?;
        program.set_dtype(self.dtype);
        let adapters = program.add_lora(&config.spec()?)?;
        let torch = Torch::cpu();
        let masters = first_weights(&program, &adapters, config.seed);
        let graph_params = self.model.graph.params.len();
        let params = Params::load(&program, |index, info| -> Result<TorchTensor, TrainError> {
            match index.checked_sub(graph_params) {
                None => self.load(&torch, info),
                Some(at) => Ok(torch.tensor_from_f32(info.shape, info.dtype, &|| masters[at].clone())?),
            }
        })?;
        let Model { path, graph, .. } = self.model;
        Ok(LoraModel { path, graph, program, torch, params, adapters, masters, config })
    }

    fn load(&self, torch: &Torch, info: &ParamInfo) -> Result<TorchTensor, TrainError> {
        let stored = self.model.graph.params[&info.name].dtype;
        let tensor = torch.tensor_from_bytes(info.shape, stored, self.model.checkpoint.data(&info.name)?)?;
        Ok(if stored == info.dtype { tensor } else { torch.cast(&tensor, info.dtype)? })
    }
}

/// PEFT's: A uniform within 1 / sqrt(in) (`kaiming_uniform_` with a = sqrt(5)), B zero.
fn first_weights(program: &Program, adapters: &[Adapter], seed: u64) -> Vec<Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut masters = Vec::new();
    for adapter in adapters {
        let [rows, columns] = program.params()[adapter.a].shape;
        let bound = 1.0 / (columns as f64).sqrt();
        // 24 bits are what an f32 between 0 and 1 holds.
        let uniform = |bits: u32| f64::from(bits >> 8) / f64::from(1u32 << 24);
        masters.push((0..rows * columns).map(|_| (bound * (2.0 * uniform(random.next_u32()) - 1.0)) as f32).collect());
        let [rows, columns] = program.params()[adapter.b].shape;
        masters.push(vec![0.0; (rows * columns) as usize]);
    }
    masters
}

/// A model with adapters, ready to be trained.
pub struct LoraModel {
    path: PathBuf,
    graph: Graph,
    pub(crate) program: Program,
    pub(crate) torch: Torch,
    pub(crate) params: Params<TorchTensor>,
    adapters: Vec<Adapter>,
    /// A and B of each adapter in turn, in f32.
    pub(crate) masters: Vec<Vec<f32>>,
    config: LoraConfig,
}

impl LoraModel {
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    pub fn base_path(&self) -> &Path {
        &self.path
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
        self.masters.iter().map(|master| master.len() as u64).sum()
    }

    /// The logits of every token, \[rows, vocabulary\], in f32.
    ///
    /// # Errors
    /// A batch that does not fit, or no memory.
    pub fn logits(&self, batch: &Batch) -> Result<Vec<f32>, TrainError> {
        Ok(self.program.forward(&self.torch, &self.params, &for_engine(batch)?)?.to_f32()?)
    }

    /// Position of a master's parameter in the program.
    pub(crate) fn param_of(&self, master: usize) -> usize {
        let adapter = &self.adapters[master / 2];
        if master.is_multiple_of(2) { adapter.a } else { adapter.b }
    }

    /// Rounds the masters into what the steps compute with.
    pub(crate) fn refresh(&mut self) -> Result<(), TrainError> {
        for index in 0..self.masters.len() {
            let param = self.param_of(index);
            let info = &self.program.params()[param];
            let tensor = self.torch.tensor_from_f32(info.shape, info.dtype, &|| self.masters[index].clone())?;
            self.params.tensors_mut()[param] = tensor;
        }
        Ok(())
    }

    /// PEFT's names of A and B of each adapter, with their shapes and values.
    #[expect(clippy::type_complexity, reason = "names and weights, two of each")]
    pub(crate) fn adapter_weights(&self) -> impl Iterator<Item = ([String; 2], [([u64; 2], &[f32]); 2])> {
        self.adapters.iter().enumerate().map(|(index, adapter)| {
            let weight = |param: usize, master: usize| (self.program.params()[param].shape, &self.masters[master][..]);
            (adapter.peft_names(), [weight(adapter.a, 2 * index), weight(adapter.b, 2 * index + 1)])
        })
    }

    /// Paths of the linear layers, the head among them.
    pub(crate) fn linear_modules(&self) -> impl Iterator<Item = &str> {
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
