//! A model and what of it a run would train, before a weight of the model is read: what `--dry-run` shows, and what a run is checked
//! against before surgery writes the model.

use std::{borrow::Cow, path::Path};

use serde_json::{Map, Value as Json, json};
use unswag_abi::doc::{Dtype, Graph};
use unswag_checkpoint::Checkpoint;
use unswag_engine::{Adapter, Nf4, Plan, Program};

use crate::{
    LoraConfig, Schedule, TrainError, TrainingArguments, Tuning, UnswagModel, memory,
    peft_names::{modules_to_save, target_modules},
    settings::{BASE, SAVED, Subject, TARGETS},
};

/// What a run's weights begin as.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// New adapters, or the model's own weights.
    New(&'a Tuning),
    /// The adapter of a folder, with its rank, its scale and its layers.
    Adapter { folder: &'a Path, lora_dropout: f64, seed: u64 },
}

/// A model and what of it is trained.
pub struct PlannedModel<'a> {
    pub(crate) model: &'a UnswagModel,
    pub(crate) graph: Cow<'a, Graph>,
    pub(crate) program: Program,
    pub(crate) adapters: Vec<Adapter>,
    pub(crate) tuning: Tuning,
    pub(crate) dtype: Dtype,
    pub(crate) nf4: Option<Nf4>,
    pub(crate) is_written: bool,
}

impl PlannedModel<'_> {
    /// What of the model is trained; of an adapter, what its files come to.
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// Elements that would be trained.
    pub fn trainable_parameters(&self) -> u64 {
        let params = self.program.params().iter().enumerate();
        let trained = params.filter(|(index, _)| self.program.is_trainable(*index));
        trained.map(|(_, info)| info.shape.iter().product::<u64>()).sum()
    }

    /// What a step on rows of this length takes, and how it is run: the step is run on sizes alone.
    ///
    /// # Errors
    /// A memory budget that nothing fits.
    pub fn plan(&self, arguments: &TrainingArguments, row_tokens: u64) -> Result<Plan, TrainError> {
        memory::plan(&self.program, self.dtype, arguments, row_tokens)
    }

    /// Bytes of the optimizer's state that go to a file.
    pub(crate) fn paged_bytes(&self, arguments: &TrainingArguments) -> u64 {
        memory::optimizer_state(arguments).paged_bytes(&self.program)
    }

    pub(crate) fn model(&self) -> &UnswagModel {
        self.model
    }

    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.model.model().checkpoint
    }

    pub(crate) fn lora(&self) -> Option<&LoraConfig> {
        match &self.tuning {
            Tuning::Lora(config) => Some(config),
            Tuning::Full => None,
        }
    }

    /// What a run's numbers depend on, and the settings that are not known yet: the weights' hash, and of a model that surgery has
    /// still to write, what its files decide.
    pub(crate) fn settings(
        &self,
        arguments: &TrainingArguments,
        schedule: &Schedule,
    ) -> (Map<String, Json>, &'static [&'static str]) {
        let subject = Subject { dtype: self.dtype, nf4: self.nf4, lora: self.lora() };
        let mut settings = subject.settings(arguments, schedule);
        if !self.is_written {
            return (settings, &[BASE, TARGETS, SAVED]);
        }
        if let Some(lora) = self.lora() {
            let targets = target_modules(&self.graph, self.checkpoint(), &self.adapters);
            settings.insert(TARGETS.to_owned(), json!(targets));
            if !lora.modules_to_save.is_empty() {
                let saved = modules_to_save(&lora.modules_to_save, &self.graph, &self.program);
                settings.insert(SAVED.to_owned(), json!(saved));
            }
        }
        (settings, &[BASE])
    }
}
