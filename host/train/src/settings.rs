//! The settings that a run's numbers depend on: as a checkpoint holds them, and which of them may differ when the run resumes.
//!
//! Three kinds: those that a run may change at will, as with transformers, and which are only reported (its length); those that change
//! its numbers and must be allowed by name; and those that decide which tensors there are, which never change within a run.

use std::{
    collections::BTreeSet,
    fmt::{self, Display, Formatter},
    path::Path,
};

use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use unswag_abi::doc::Dtype;
use unswag_engine::Nf4;

use crate::{LoraConfig, Schedule, TrainError, Trainer, TrainingArguments, Warmup};

/// What may differ once it is allowed by name. All else decides which tensors a checkpoint has.
const CHANGEABLE: [&str; 17] = [
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "seed",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "dtype",
    "lora_dropout",
    "memory_budget",
    "offload",
    "max_steps",
    DATA,
];

// Settings that depend on the model's files.
pub(crate) const BASE: &str = "the base's graph and weights";
pub(crate) const TARGETS: &str = "lora_target_modules";
pub(crate) const SAVED: &str = "modules_to_save";

/// What a run's length is called among the settings.
const MAX_STEPS: &str = "max_steps";

/// The data's name among the settings.
pub(crate) const DATA: &str = "data";

/// A setting that differs between a checkpoint and the run that resumes from it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    pub setting: String,
    pub then: Json,
    pub now: Json,
}

impl Display for Change {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let shown = |value: &Json| match value {
            Json::Null => "not set".to_owned(),
            Json::String(text) => text.clone(),
            other => other.to_string(),
        };
        let (then, now) = (shown(&self.then), shown(&self.now));
        match self.setting.as_str() {
            DATA => f.write_str(
                "data differs: the files, the tokenizer, or an option that decides the rows and their order (--chat, --block-size, \
                 --overlap, --packing, --overlong, a column, --validation-split, --no-shuffle, --shuffle-window, --seed)",
            ),
            // Its value is a digest, which says nothing to a reader.
            BASE => f.write_str("the base model (graph or weights) differs"),
            MAX_STEPS => write!(f, "max_steps was {then} and is {now}; the learning rate follows the schedule of {now} steps"),
            setting => write!(f, "{setting} was {then} and is {now}"),
        }
    }
}

/// The names of the settings that may differ from those of the checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed(BTreeSet<String>);

impl Allowed {
    /// # Errors
    /// A name of no setting that could be changed.
    pub fn new(names: impl IntoIterator<Item = String>) -> Result<Self, TrainError> {
        let names: BTreeSet<String> = names.into_iter().map(|name| name.replace('-', "_")).collect();
        match names.iter().find(|name| !CHANGEABLE.contains(&name.as_str())) {
            Some(name) => Err(TrainError::Argument {
                what: "allow_changed",
                expected: format!("names among {}", CHANGEABLE.join(", ")),
                got: name.clone(),
            }),
            None => Ok(Allowed(names)),
        }
    }
}

/// What differs between a checkpoint and the run that is to resume from it.
///
/// # Errors
/// Something differs that was not allowed, or that cannot.
pub(crate) fn compare(
    path: &Path,
    [saved, now]: [&Map<String, Json>; 2],
    warmup: Warmup,
    allowed: &Allowed,
) -> Result<Vec<Change>, TrainError> {
    let names: BTreeSet<&String> = saved.keys().chain(now.keys()).collect();
    let value = |settings: &Map<String, Json>, name: &str| settings.get(name).cloned().unwrap_or(Json::Null);
    let change = |name: &String| Change { setting: name.clone(), then: value(saved, name), now: value(now, name) };
    let changes: Vec<Change> = names.into_iter().map(change).filter(|change| change.then != change.now).collect();
    let is_free = |change: &&Change| match change.setting.as_str() {
        // A longer or a shorter run was asked for by giving its length.
        MAX_STEPS => true,
        // As a share of the steps it follows from their number.
        "warmup_steps" => matches!(warmup, Warmup::Ratio(_)),
        name => allowed.0.contains(name),
    };
    if changes.iter().all(|change| is_free(&change)) {
        return Ok(changes);
    }
    let fixed = changes.iter().filter(|change| !CHANGEABLE.contains(&change.setting.as_str()));
    let fixed: Vec<&str> = fixed.map(|change| change.setting.as_str()).collect();
    let next = match fixed.as_slice() {
        [] => {
            let names = changes.iter().filter(|change| !is_free(change)).map(|change| change.setting.as_str());
            let others = allowed.0.iter().map(String::as_str);
            let names: BTreeSet<&str> = names.chain(others).collect();
            format!("to continue with the new values: --allow-changed {}", Vec::from_iter(names).join(","))
        }
        [BASE] => "use the base of the checkpoint, or start a new run with --adapter".to_owned(),
        fixed => format!(
            "{} cannot change within a run: use the values of the checkpoint, or start a new run (with --adapter, from the weights of an adapter)",
            fixed.join(", ")
        ),
    };
    // What may differ is no reason for the refusal.
    let changes = changes.iter().filter(|change| !is_free(change)).cloned().collect();
    Err(TrainError::OtherSettings { path: path.to_owned(), changes, next })
}

/// What a run's numbers depend on, by the names users know. What changes none of them is left out: how often is saved or
/// logged, and whether activations are saved or recomputed.
pub(crate) fn settings(trainer: &Trainer, schedule: &Schedule) -> Map<String, Json> {
    let model = trainer.model();
    let subject = Subject { dtype: model.dtype(), nf4: model.nf4(), lora: model.lora() };
    let mut settings = subject.settings(trainer.arguments(), schedule);
    settings.insert(BASE.to_owned(), json!(model.base_digest()));
    if let Some(lora) = model.lora() {
        settings.insert(TARGETS.to_owned(), json!(model.target_modules()));
        if !lora.modules_to_save.is_empty() {
            settings.insert(SAVED.to_owned(), json!(model.modules_to_save()));
        }
    }
    settings
}

/// What is trained, as far as it is known without the model's files.
pub(crate) struct Subject<'a> {
    pub dtype: Dtype,
    pub nf4: Option<Nf4>,
    /// The adapters; `None` where all is trained.
    pub lora: Option<&'a LoraConfig>,
}

impl Subject<'_> {
    /// All settings but those that depend on the model's files.
    pub fn settings(&self, arguments: &TrainingArguments, schedule: &Schedule) -> Map<String, Json> {
        let mut settings = json!({
            "optim": arguments.optim,
            "learning_rate": arguments.learning_rate,
            "lr_scheduler_type": arguments.lr_scheduler_type,
            "warmup_steps": schedule.warmup_steps,
            "weight_decay": arguments.weight_decay,
            "adam_beta1": arguments.adam_beta1,
            "adam_beta2": arguments.beta2(),
            "adam_epsilon": arguments.adam_epsilon,
            "max_grad_norm": arguments.max_grad_norm,
            "seed": arguments.seed,
            "per_device_train_batch_size": arguments.per_device_train_batch_size,
            "gradient_accumulation_steps": arguments.gradient_accumulation_steps,
            "dtype": self.dtype,
        });
        match &self.lora {
            None => settings["full_finetuning"] = json!(true),
            Some(lora) => {
                settings["lora_r"] = json!(lora.r);
                settings["lora_alpha"] = json!(lora.lora_alpha);
                settings["lora_dropout"] = json!(lora.lora_dropout);
                settings["use_rslora"] = json!(lora.use_rslora);
                settings["use_dora"] = json!(lora.use_dora);
                if !lora.rank_pattern.is_empty() {
                    settings["rank_pattern"] = json!(lora.rank_pattern);
                }
                if !lora.alpha_pattern.is_empty() {
                    settings["alpha_pattern"] = json!(lora.alpha_pattern);
                }
            }
        }
        if let Some(nf4) = self.nf4 {
            settings["load_in_4bit"] = json!("nf4");
            settings["bnb_4bit_use_double_quant"] = json!(nf4.double_quant);
        }
        // Tiles sum in another order, and where there are some depends on it.
        if let Some(budget) = arguments.memory_budget {
            settings["memory_budget"] = json!(budget);
            settings["offload"] = json!(arguments.offload_folder.is_some());
        }
        if !schedule.ignores_the_end() {
            settings[MAX_STEPS] = json!(schedule.total_steps);
        }
        match settings {
            Json::Object(settings) => settings,
            _ => unreachable!("an object is an object"),
        }
    }
}
