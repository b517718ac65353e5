//! A run's checkpoint: `checkpoint-N`, a folder from which the run resumes as if it had never stopped.
//!
//! ```text
//! adapter_model.safetensors, adapter_config.json   the adapters in f32: PEFT loads the folder as it is
//! model.safetensors                                instead of these, where all is trained: every weight in f32
//! optimizer.safetensors                            each tensor's exp_avg and exp_avg_sq, in f32 or as 8-bit codes and scales
//! trainer_state.json                               step, position in the data, settings, and the hash of every other file
//! ```
//!
//! The folder appears complete or not at all, and its hashes show later damage. An incomplete one is never resumed
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
    Schedule, TrainError, Trainer, Warmup,
    adapter::{self, write_adapter, write_masters},
    best::Best,
    folder::{first_other, remove_in_one_step},
    masters::Master,
    metrics::StepMetrics,
    optimizer::{MOMENTS, Part, States},
    settings::{self, Allowed, Change, DATA},
    trainer::Progress,
};

pub(crate) const STATE: &str = "trainer_state.json";
const OPTIMIZER: &str = "optimizer.safetensors";
const PREFIX: &str = "checkpoint-";
const FORMAT: u64 = 1;
/// A position in the data holds at most an overlap's tokens.
pub(crate) const MAX_STATE_BYTES: u64 = 1 << 30;
const MODEL: &str = "model.safetensors";
const FILES: [&str; 5] = [adapter::CONFIG, adapter::WEIGHTS, MODEL, OPTIMIZER, STATE];

/// What `trainer_state.json` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrainerState {
    format: u64,
    pub progress: Progress,
    pub position: Position,
    /// The best validation loss so far, where one was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// The last step's figures, where the run was stopped while the validation loss was measured after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmeasured: Option<StepMetrics>,
    settings: Map<String, Json>,
    files: BTreeMap<String, FileState>,
}

impl TrainerState {
    /// The same without some of its settings.
    pub fn without(&self, names: &[&str]) -> Self {
        let mut state = self.clone();
        state.settings.retain(|name, _| !names.contains(&name.as_str()));
        state
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileState {
    bytes: u64,
    blake3: String,
}

/// Bytes that a checkpoint takes, headers and settings included.
pub(crate) fn checkpoint_bytes(trainer: &Trainer) -> u64 {
    let names: u64 = trainer.model.masters.iter().map(|master| master.name.len() as u64 + 256).sum();
    4 * trainer.model.trainable_parameters() + trainer.state_bytes() + 4 * names + (1 << 20)
}

/// What a checkpoint holds of a run beside the trainer.
pub(crate) struct RunState<'a> {
    pub position: Position,
    pub schedule: &'a Schedule,
    pub best: Option<Best>,
    pub unmeasured: Option<&'a StepMetrics>,
}

/// Writes `checkpoint-N` into the run's folder, in one step.
///
/// # Errors
/// A weight or a state is not finite, or the disk refuses; then nothing has changed.
pub(crate) fn save(
    trainer: &mut Trainer,
    run: &RunState<'_>,
    folder: &Path,
    disk: &dyn Disk,
) -> Result<PathBuf, TrainError> {
    let path = path_of(folder, trainer.progress.step);
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
        position: run.position.clone(),
        best: run.best,
        unmeasured: run.unmeasured.cloned(),
        settings: settings::settings(trainer, run.schedule),
        files: written.iter().map(file).collect(),
    };
    staging.write(STATE, &serde_json::to_vec_pretty(&state).expect("plain data is JSON"))?;
    staging.commit(Commit::default())?;
    Ok(path)
}

/// Where the checkpoint of a step stands.
pub(crate) fn path_of(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("{PREFIX}{step}"))
}

/// Whether what stands there may go: a checkpoint that this program wrote, whole or not, and nothing else. An empty folder is
/// written into and never removed.
///
/// # Errors
/// Something else stands there.
pub(crate) fn existing(path: &Path) -> Result<Existing, TrainError> {
    if !fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
        return Ok(Existing::Refuse);
    }
    let not = |why: String| Err(TrainError::NotACheckpoint { path: path.to_owned(), why });
    if let Some(found) = first_other(path, |name| FILES.contains(&name)) {
        return not(format!("contains {found}, which is not part of a checkpoint; move it away"));
    }
    match is_ours(path) {
        true => Ok(Existing::Replace),
        false => not(format!("no {STATE} in it: not an unswag checkpoint; move it away")),
    }
}

fn is_ours(path: &Path) -> bool {
    path.join(STATE).is_file()
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

/// Removes the oldest checkpoints until `keep` are left, `newest` among them. The one of step `best` stays, as with transformers:
/// where only one is to be left, there are two.
///
/// # Errors
/// One cannot be removed.
pub(crate) fn prune(
    folder: &Path,
    keep: u64,
    newest: &Path,
    best: Option<u64>,
    disk: &dyn Disk,
) -> Result<(), TrainError> {
    let all: Vec<_> = list(folder).into_iter().filter(|(_, path)| is_ours(path)).collect();
    let has_best = all.iter().any(|(step, path)| Some(*step) == best && path != newest);
    let goes = |(step, path): &(u64, PathBuf)| path != newest && Some(*step) != best;
    let mut others: Vec<PathBuf> = all.into_iter().filter(goes).map(|(_, path)| path).collect();
    while !others.is_empty() && others.len() as u64 + u64::from(has_best) >= keep.max(1) {
        let path = others.remove(0);
        existing(&path)?;
        remove_in_one_step(&path, disk).map_err(|source| TrainError::Io { path, action: "remove it", source })?;
    }
    Ok(())
}

/// # Errors
/// There is no checkpoint at this path: which there are near it is said.
pub(crate) fn check_is_there(path: &Path) -> Result<(), TrainError> {
    if path.join(STATE).symlink_metadata().is_ok() {
        return Ok(());
    }
    let names = |folder: &Path| {
        let names = list(folder).into_iter().map(|(step, _)| format!("{PREFIX}{step}"));
        names.collect::<Vec<_>>().join(", ")
    };
    let parent =
        path.parent().map_or(Path::new("."), |parent| if parent == Path::new("") { Path::new(".") } else { parent });
    let why = match (names(path), path.exists(), names(parent)) {
        (inside, _, _) if !inside.is_empty() => {
            format!(
                "it is a run's folder, which holds {inside}; give one of them, or `auto` for the newest of the output folder"
            )
        }
        (_, true, _) => format!("it has no {STATE}, and is no checkpoint; give a folder checkpoint-N of a run"),
        (_, false, beside) if !beside.is_empty() => {
            format!("there is no such checkpoint; {} holds {beside}", parent.display())
        }
        (_, false, _) => "there is no such folder; give a folder checkpoint-N of a run, or `auto`".to_owned(),
    };
    Err(TrainError::NotACheckpoint { path: path.to_owned(), why })
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

/// What differs between a checkpoint and the run that is to resume from it: settings, and the data's fingerprint.
///
/// # Errors
/// Something differs that was not allowed, or that cannot.
pub(crate) fn changes(
    path: &Path,
    state: &TrainerState,
    now: &Map<String, Json>,
    warmup: Warmup,
    fingerprint: &str,
    allowed: &Allowed,
) -> Result<Vec<Change>, TrainError> {
    let with_data = |settings: &Map<String, Json>, fingerprint: &str| {
        let mut settings = settings.clone();
        settings.insert(DATA.to_owned(), json!(fingerprint));
        settings
    };
    let saved = with_data(&state.settings, &state.position.fingerprint);
    settings::compare(path, [&saved, &with_data(now, fingerprint)], warmup, allowed)
}

/// # Errors
/// The run ends before the checkpoint's step.
pub(crate) fn check_length(path: &Path, state: &TrainerState, schedule: &Schedule) -> Result<(), TrainError> {
    if state.progress.step <= schedule.total_steps {
        return Ok(());
    }
    Err(TrainError::Argument {
        what: "max_steps",
        expected: format!("at least {}, the step of {}", state.progress.step, path.display()),
        got: schedule.total_steps.to_string(),
    })
}

/// Puts a trainer where the checkpoint was written.
///
/// # Errors
/// Its tensors do not fit, or a file cannot be read.
pub(crate) fn restore(trainer: &mut Trainer, path: &Path, state: &TrainerState) -> Result<(), TrainError> {
    let optimizer = Tensors::open(path, OPTIMIZER)?;
    for part in trainer.states.parts() {
        optimizer.find(&part_name(&trainer.model.masters, &part), part.field.dtype(), part.count)?;
    }
    read_masters(trainer, path)?;
    let Trainer { model, states, .. } = trainer;
    states.fill(|part, at, bytes| {
        let name = part_name(&model.masters, part);
        let (file, begin) = optimizer.find(&name, part.field.dtype(), part.count)?;
        Ok(optimizer.file.read_range(file, begin + at as u64, bytes)?)
    })?;
    trainer.progress = state.progress;
    trainer.model.refresh()
}

/// Takes the weights of a checkpoint, and nothing else of it: what is in memory is then of no step of this run's.
///
/// # Errors
/// Its tensors do not fit, or a file cannot be read.
pub(crate) fn restore_weights(trainer: &mut Trainer, path: &Path) -> Result<(), TrainError> {
    open(path)?;
    trainer.set_damaged();
    read_masters(trainer, path)?;
    trainer.model.refresh()
}

fn read_masters(trainer: &mut Trainer, path: &Path) -> Result<(), TrainError> {
    let weights = Tensors::open(path, if trainer.model.lora().is_some() { adapter::WEIGHTS } else { MODEL })?;
    for master in &mut trainer.model.masters {
        weights.read_f32(&master.name, &mut master.values)?;
    }
    Ok(())
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
