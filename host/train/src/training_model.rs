//! A checkpoint whose weights are in memory, with what of it is trained.

use std::path::{Path, PathBuf};

use unswag_abi::doc::{Dtype, Graph};
use unswag_checkpoint::Checkpoint;
use unswag_data::Batch;
use unswag_engine::{Adapter, Cache, Nf4, Params, Program};
use unswag_torch::{Torch, TorchTensor};

use crate::{
    LoraConfig, TrainError, Tuning,
    batch::for_engine,
    masters::Master,
    memory::Resident,
    model::{bases, check_outside},
    peft_names::{modules_to_save, target_modules},
};

/// A model whose weights are in memory, ready to be trained.
pub struct TrainingModel {
    pub(crate) path: PathBuf,
    /// Where the checkpoint was that surgery rewrote, where it did.
    pub(crate) record_base: Option<PathBuf>,
    pub(crate) graph: Graph,
    pub(crate) program: Program,
    pub(crate) torch: Torch,
    pub(crate) params: Params<TorchTensor>,
    pub(crate) adapters: Vec<Adapter>,
    pub(crate) masters: Vec<Master>,
    pub(crate) tuning: Tuning,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) dtype: Dtype,
    pub(crate) nf4: Option<Nf4>,
    pub(crate) base_digest: String,
    /// What of this process was in memory before a weight was read.
    pub(crate) resident_before: Option<Resident>,
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

    /// PEFT's `target_modules`.
    pub(crate) fn target_modules(&self) -> Vec<String> {
        target_modules(&self.graph, &self.checkpoint, &self.adapters)
    }

    /// PEFT's `modules_to_save`: what was asked for, and what shares a matrix with it.
    pub(crate) fn modules_to_save(&self) -> Vec<String> {
        let asked = self.lora().map(|config| config.modules_to_save.as_slice()).unwrap_or_default();
        modules_to_save(asked, &self.graph, &self.program)
    }

    /// Whether the adapted layers store their weight \[in, out\], which PEFT's configuration states.
    pub(crate) fn is_stored_transposed(&self) -> bool {
        let linear = self.graph.nodes.iter().find(|node| node.kind == "linear");
        linear.and_then(|node| node.attrs.get("transposed")).and_then(serde_json::Value::as_bool).unwrap_or(false)
    }
}
