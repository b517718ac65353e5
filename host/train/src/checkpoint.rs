//! A run's checkpoint: `checkpoint-N`, a folder from which the run goes on as if it had never stopped.
//!
//! ```text
//! adapter_model.safetensors, adapter_config.json   the adapters in f32: PEFT loads the folder as it is
//! model.safetensors                                instead of these, where all is trained: every weight in f32
//! optimizer.safetensors                            each tensor's exp_avg and exp_avg_sq, in f32 or as 8-bit codes and scales
//! trainer_state.json                               step, position in the data, settings, and the hash of every other file
//! ```
//!
//! The folder appears whole or not at all, and its hashes tell if it was damaged since. One that is not whole is never gone on
//! from, and settings that a run depends on must be those it was started with.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use unswag_abi::doc::Dtype;
use unswag_checkpoint::{
    Checkpoint, Commit, Disk, Existing, NewTensor, Sink, Staging, TensorData, WriteError, Written, hash_file,
    pytorch_metadata, regular_file, silent,
};
use unswag_data::Position;

use crate::{
    Schedule, TrainError, Trainer,
    adapter::{self, write_adapter, write_masters},
    model::Master,
    optimizer::{MOMENTS, Part, States},
    trainer::Progress,
};

const STATE: &str = "trainer_state.json";
const OPTIMIZER: &str = "optimizer.safetensors";
const PREFIX: &str = "checkpoint-";
const FORMAT: u64 = 1;
/// A position in the data holds at most an overlap's tokens.
const MAX_STATE_BYTES: u64 = 1 << 30;
const MODEL: &str = "model.safetensors";
const FILES: [&str; 5] = [adapter::CONFIG, adapter::WEIGHTS, MODEL, OPTIMIZER, STATE];

/// What `trainer_state.json` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrainerState {
    format: u64,
    pub progress: Progress,
    pub position: Position,
    settings: Map<String, Json>,
    files: BTreeMap<String, FileState>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileState {
    bytes: u64,
    blake3: String,
}

/// What a run's numbers depend on, by the names users know. What changes none of them is left out: how often is saved or
/// logged, and whether activations are kept or computed again.
pub(crate) fn settings(trainer: &Trainer, schedule: &Schedule) -> Map<String, Json> {
    let (arguments, model) = (trainer.arguments(), trainer.model());
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
        "dtype": model.dtype(),
        "the base's graph and weights": model.base_digest(),
    });
    match model.lora() {
        None => settings["full_finetuning"] = json!(true),
        Some(lora) => {
            settings["lora_r"] = json!(lora.r);
            settings["lora_alpha"] = json!(lora.lora_alpha);
            settings["lora_dropout"] = json!(lora.lora_dropout);
            settings["use_rslora"] = json!(lora.use_rslora);
            settings["use_dora"] = json!(lora.use_dora);
            settings["lora_target_modules"] = json!(model.target_modules());
        }
    }
    if let Some(nf4) = model.nf4() {
        settings["load_in_4bit"] = json!("nf4");
        settings["bnb_4bit_use_double_quant"] = json!(nf4.double_quant);
    }
    // Tiles sum in another order, and where there are some depends on it.
    if let Some(budget) = arguments.memory_budget {
        settings["memory_budget"] = json!(budget);
        settings["offload"] = json!(arguments.offload_folder.is_some());
    }
    if !schedule.ignores_the_end() {
        settings["max_steps"] = json!(schedule.total_steps);
    }
    match settings {
        Json::Object(settings) => settings,
        _ => unreachable!("an object is an object"),
    }
}

/// Bytes that a checkpoint takes, headers and settings included.
pub(crate) fn checkpoint_bytes(trainer: &Trainer) -> u64 {
    let names: u64 = trainer.model.masters.iter().map(|master| master.name.len() as u64 + 256).sum();
    4 * trainer.model.trainable_parameters() + trainer.state_bytes() + 4 * names + (1 << 20)
}

/// Writes `checkpoint-N` into the run's folder, in one step.
///
/// # Errors
/// A weight or a state is not finite, or the disk refuses; then nothing has changed.
pub(crate) fn save(
    trainer: &mut Trainer,
    position: &Position,
    settings: Map<String, Json>,
    folder: &Path,
    disk: &dyn Disk,
) -> Result<PathBuf, TrainError> {
    let path = folder.join(format!("{PREFIX}{}", trainer.progress.step));
    let mut staging = Staging::begin(&path, &[], existing(&path)?, disk)?;
    staging.require_space(checkpoint_bytes(trainer))?;
    let mut written = match trainer.model.lora() {
        Some(config) => write_adapter(&trainer.model, config, &mut staging)?,
        None => vec![write_masters(&trainer.model, MODEL, &mut staging)?],
    };
    let states = RefCell::new(&mut trainer.states);
    let tensors = optimizer_tensors(&trainer.model.masters, &states);
    let optimizer = staging.write_safetensors(OPTIMIZER, &pytorch_metadata(), tensors, &silent);
    written.push(optimizer.map_err(optimizer_error)?);
    let file = |written: &Written| {
        (written.name.clone(), FileState { bytes: written.bytes, blake3: written.hash.to_hex().to_string() })
    };
    let state = TrainerState {
        format: FORMAT,
        progress: trainer.progress,
        position: position.clone(),
        settings,
        files: written.iter().map(file).collect(),
    };
    staging.write(STATE, &serde_json::to_vec_pretty(&state).expect("plain data is JSON"))?;
    staging.commit(Commit::default())?;
    Ok(path)
}

/// Whether what stands there may go: a checkpoint, whole or not, and nothing else.
fn existing(path: &Path) -> Result<Existing, TrainError> {
    let Ok(entries) = fs::read_dir(path) else { return Ok(Existing::Refuse) };
    for entry in entries.flatten() {
        let found = entry.file_name().to_string_lossy().into_owned();
        if !FILES.contains(&found.as_str()) {
            let why = format!("{found} is there, which is no part of a checkpoint; move it away");
            return Err(TrainError::NotACheckpoint { path: path.to_owned(), why });
        }
    }
    Ok(Existing::Replace)
}

/// The optimizer's state, which need not be in memory: each tensor is handed on in pieces when its turn comes.
fn optimizer_tensors<'a>(masters: &'a [Master], states: &'a RefCell<&mut States>) -> Vec<NewTensor<'a>> {
    let tensor = |part: Part| {
        let name = part_name(masters, &part);
        let (dtype, shape) = (part.field.dtype(), vec![part.count as u64]);
        let of = name.clone();
        let stream = move |sink: &mut Sink<'_>| {
            states.borrow_mut().read(&part, |bytes| {
                if dtype == Dtype::F32 && !all_finite(bytes) {
                    return Err(TrainError::BadWeight { name: of.clone() }.into());
                }
                sink(bytes)
            })
        };
        NewTensor { name, dtype, shape, data: TensorData::Stream(Box::new(stream)) }
    };
    states.borrow().parts().into_iter().map(tensor).collect()
}

fn part_name(masters: &[Master], part: &Part) -> String {
    format!("{}.{}{}", masters[part.tensor].name, MOMENTS[part.moment], part.field.suffix())
}

fn all_finite(f32s: &[u8]) -> bool {
    f32s.as_chunks::<4>().0.iter().all(|bytes| f32::from_le_bytes(*bytes).is_finite())
}

/// What went wrong while state was handed on is told as itself.
fn optimizer_error(error: WriteError) -> TrainError {
    match error {
        WriteError::Produce { tensor, source } => match source.downcast::<TrainError>() {
            Ok(error) => *error,
            Err(source) => WriteError::Produce { tensor, source }.into(),
        },
        error => error.into(),
    }
}

/// The checkpoints of a folder, oldest first, whole or not.
pub(crate) fn list(folder: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let number = |path: PathBuf| {
        let name = path.file_name()?.to_str()?;
        let number = name.strip_prefix(PREFIX)?.parse().ok()?;
        (name == format!("{PREFIX}{number}") && path.is_dir()).then_some((number, path))
    };
    let mut found: Vec<_> = entries.flatten().filter_map(|entry| number(entry.path())).collect();
    found.sort();
    found
}

/// Removes the oldest checkpoints until so many are left, `newest` among them.
///
/// # Errors
/// One cannot be removed.
pub(crate) fn prune(folder: &Path, keep: u64, newest: &Path, disk: &dyn Disk) -> Result<(), TrainError> {
    let mut others: Vec<_> = list(folder).into_iter().map(|(_, path)| path).filter(|path| path != newest).collect();
    while others.len() as u64 >= keep.max(1) {
        let path = others.remove(0);
        // The state goes first: without it the folder is no checkpoint any more, however much of it is left.
        let removed = existing(&path)
            .and_then(|_| remove(disk.remove_file(&path.join(STATE)), &path))
            .and_then(|()| remove(disk.remove_tree(&path), &path));
        removed?;
    }
    Ok(())
}

fn remove(result: std::io::Result<()>, path: &Path) -> Result<(), TrainError> {
    match result {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(TrainError::Io { path: path.to_owned(), action: "remove it", source })
        }
        _ => Ok(()),
    }
}

/// Reads a checkpoint's state, and holds every file against its hash.
///
/// # Errors
/// It is not whole, or no checkpoint.
pub(crate) fn open(path: &Path) -> Result<TrainerState, TrainError> {
    let not = |why: String| TrainError::NotACheckpoint { path: path.to_owned(), why };
    let state_path = path.join(STATE);
    let (file, metadata) = regular_file(&state_path)?;
    if metadata.len() > MAX_STATE_BYTES {
        return Err(not(format!("{STATE} has {} bytes, and at most {MAX_STATE_BYTES} are expected", metadata.len())));
    }
    let mut text = Vec::new();
    let read = file.take(MAX_STATE_BYTES).read_to_end(&mut text);
    read.map_err(|source| TrainError::Io { path: state_path, action: "read it", source })?;
    let state: TrainerState = serde_json::from_slice(&text).map_err(|error| not(format!("{STATE}: {error}")))?;
    if state.format != FORMAT {
        return Err(not(format!("it is of format {}, expected {FORMAT}", state.format)));
    }
    let weights: &[&str] = match state.settings.contains_key("full_finetuning") {
        true => &[MODEL],
        false => &[adapter::CONFIG, adapter::WEIGHTS],
    };
    for name in weights.iter().chain(&[OPTIMIZER]) {
        let Some(expected) = state.files.get(*name) else { return Err(not(format!("{STATE} has no hash of {name}"))) };
        let found = hash_file(path.join(name), &silent)?.to_hex().to_string();
        if found != expected.blake3 {
            return Err(not(format!(
                "{name} is not what was written: expected BLAKE3 {}, got {found}",
                expected.blake3
            )));
        }
    }
    Ok(state)
}

/// Whether a trainer can go on from a checkpoint.
///
/// # Errors
/// It was written with other settings, on another base or by another data set.
pub(crate) fn check(
    path: &Path,
    state: &TrainerState,
    settings: &Map<String, Json>,
    fingerprint: &str,
) -> Result<(), TrainError> {
    let other = |setting: &str, saved: &Json, now: &Json| TrainError::OtherSettings {
        path: path.to_owned(),
        setting: setting.to_owned(),
        saved: saved.to_string(),
        now: now.to_string(),
    };
    let names: std::collections::BTreeSet<&String> = state.settings.keys().chain(settings.keys()).collect();
    for name in names {
        let value = |settings: &Map<String, Json>| settings.get(name).cloned().unwrap_or(Json::Null);
        let (saved, now) = (value(&state.settings), value(settings));
        if saved != now {
            return Err(other(name, &saved, &now));
        }
    }
    if state.position.fingerprint != fingerprint {
        return Err(other(
            "data (files, tokenizer or how they are cut)",
            &json!(state.position.fingerprint),
            &json!(fingerprint),
        ));
    }
    Ok(())
}

/// Puts a trainer where the checkpoint was written.
///
/// # Errors
/// Its tensors do not fit, or a file cannot be read.
pub(crate) fn restore(trainer: &mut Trainer, path: &Path, state: &TrainerState) -> Result<(), TrainError> {
    let weights = Tensors::open(path, if trainer.model.lora().is_some() { adapter::WEIGHTS } else { MODEL })?;
    let optimizer = Tensors::open(path, OPTIMIZER)?;
    let Trainer { model, states, .. } = trainer;
    for part in states.parts() {
        optimizer.find(&part_name(&model.masters, &part), part.field.dtype(), part.count)?;
    }
    for master in &mut model.masters {
        weights.read_f32(&master.name, &mut master.values)?;
    }
    states.fill(|part, at, bytes| {
        let name = part_name(&model.masters, part);
        let (file, begin) = optimizer.find(&name, part.field.dtype(), part.count)?;
        Ok(optimizer.file.read_range(file, begin + at as u64, bytes)?)
    })?;
    trainer.progress = state.progress;
    trainer.model.refresh()
}

/// A file of tensors that must be as the trainer expects them.
struct Tensors {
    path: PathBuf,
    file: Checkpoint,
}

impl Tensors {
    fn open(folder: &Path, name: &str) -> Result<Self, TrainError> {
        let path = folder.join(name);
        let file = Checkpoint::open(&path)?;
        Ok(Tensors { path, file })
    }

    /// The file that a tensor is in, and where it begins there.
    fn find(&self, name: &str, dtype: Dtype, elements: usize) -> Result<(usize, u64), TrainError> {
        let tensor = self.file.tensor(name);
        let found = tensor.as_ref().map(|tensor| (tensor.dtype, tensor.shape.iter().product::<u64>()));
        match &tensor {
            Some(tensor) if found == Some((dtype, elements as u64)) => Ok((tensor.file, tensor.range.start)),
            _ => {
                let found = found.map_or("none".to_owned(), |(dtype, elements)| format!("{elements} of {dtype}"));
                let why = format!("tensor {name}: expected {elements} elements of {dtype}, got {found}");
                Err(TrainError::NotACheckpoint { path: self.path.clone(), why })
            }
        }
    }

    fn read_f32(&self, name: &str, values: &mut [f32]) -> Result<(), TrainError> {
        let (file, begin) = self.find(name, Dtype::F32, values.len())?;
        let mut bytes = vec![0; 4 * values.len()];
        self.file.read_range(file, begin, &mut bytes)?;
        for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        Ok(())
    }
}
