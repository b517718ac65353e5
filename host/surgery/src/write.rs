//! Writes an operation's output: untouched files brought over as they are, touched ones tensor by tensor, and the record.
//!
//! Everything goes into a hidden folder first, is opened there as a user would open it, and is published by one rename. The
//! base is only ever read.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    thread,
};

use unswag_abi::doc::{Edit, Graph, Param};
use unswag_checkpoint::{
    self as checkpoint, Commit, Disk, Existing, How as Transfer, NewTensor, Progress, Staging, TensorData, Transferred,
    WeightFile, WriteError, Written, hash_file,
};

use crate::{
    claims::ClaimError,
    config,
    make::Maker,
    model::{Model, ModelError, read_record},
    operation::{self, Operation},
    ours::{Unchanged, only_recorded},
    record::{self, Base, File, FileHash, How, Record, RecordError, Step},
    verify::{VerifyError, verify},
};

/// How to write.
#[derive(Clone, Copy)]
pub struct WriteOptions<'a> {
    /// Hard-link untouched weight files.
    pub link: bool,
    /// Replace an earlier result of surgery, whatever it was and even if its files were edited since, if no other files are there.
    pub replace: bool,
    pub disk: &'a dyn Disk,
    /// Hears every byte of weights once; see [`Operation::weight_bytes`].
    pub progress: &'a Progress<'a>,
}

#[derive(Debug, thiserror::Error)]
pub enum SurgeryError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Read(#[from] checkpoint::Error),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("{}: already there, and not a result of surgery; choose another output", path.display())]
    NotOurs { path: PathBuf },
    #[error(
        "{}: it holds what its record does not list: {}; nothing was changed: move that elsewhere, or choose another output",
        path.display(), names(foreign)
    )]
    Foreign { path: PathBuf, foreign: Vec<String> },
    #[error(
        "{}: changed since it was written: {}; nothing was changed: move that elsewhere, choose another output, or pass --force to \
         replace it",
        path.display(), names(changed)
    )]
    Changed { path: PathBuf, changed: Vec<String> },
    #[error("{}: cannot list it", path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("{}: already there, with another operation's result; pass --force to replace it, or choose another output", path.display())]
    AnotherResult { path: PathBuf },
    #[error("{}: what was written does not open; nothing was published, and this is a defect of unswag", path.display())]
    Reopen {
        path: PathBuf,
        #[source]
        source: Box<ModelError>,
    },
    #[error("{}: what was written gives another graph than the one planned; nothing was published, and this is a defect of unswag", path.display())]
    Differs { path: PathBuf },
}

/// A few names of many.
fn names(foreign: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = foreign[..foreign.len().min(SHOWN)].join(", ");
    if foreign.len() > SHOWN {
        text.push_str(&format!(" and {} more", foreign.len() - SHOWN));
    }
    text
}

/// What was written.
#[derive(Debug)]
pub struct Outcome {
    pub path: PathBuf,
    pub record: Record,
    /// The old output, where it could not be removed.
    pub leftover: Option<PathBuf>,
    /// The steps of this operation, as the record has them.
    pub steps: Vec<Step>,
}

impl Operation<'_> {
    /// Bytes of weights that writing will report as progress, where `link` is as in [`WriteOptions`].
    pub fn weight_bytes(&self, model: &Model) -> u64 {
        let plan = FilePlan::new(model, self);
        let bytes_of = |name: &str| self.after.params.get(name).and_then(meta_bytes).unwrap_or(0);
        let whole: u64 = plan.whole.iter().map(|file| file.bytes).sum();
        let kept = plan.rewritten.values().flatten().map(|tensor| match tensor {
            Kept::Untouched(name) => model.checkpoint.tensor(name).map_or(0, |tensor| tensor.bytes()),
            Kept::Made(name, _) => bytes_of(name),
        });
        whole + kept.sum::<u64>()
    }
}

fn meta_bytes(param: &Param) -> Option<u64> {
    param.shape.iter().try_fold(param.dtype.bytes(), |bytes, &size| bytes.checked_mul(size))
}

/// Writes the output and its record.
///
/// # Errors
/// The output cannot be created there, the base cannot be read, a parameter cannot be computed, an op is not what it stands for, the disk
/// refuses. Nothing is published then.
pub fn write(
    model: &Model,
    operation: &Operation<'_>,
    out: &Path,
    options: WriteOptions<'_>,
) -> Result<Outcome, SurgeryError> {
    let replaced = replaced(model, operation, out, &options)?;
    let existing = if replaced.is_some() { Existing::Replace } else { Existing::Refuse };
    let mut staging = Staging::begin(out, &model.bases(), existing, options.disk)?;
    // A separate process, beside the writing: its verdict is needed for `config.json` and the record, which come last.
    let (steps, claims) = (operation.steps.clone(), operation.claims.clone());
    let verification = thread::spawn(move || operation::verify(&steps, &claims));
    let plan = FilePlan::new(model, operation);
    let mut files = Vec::new();
    let mut base_files = Vec::new();

    let how = if options.link { Transfer::Link } else { Transfer::CopyOrReflink };
    for file in &plan.whole {
        let written = staging.transfer(&file.path, plan.name_of(file), how, options.progress)?;
        base_files.push(FileHash {
            name: file.name.clone(),
            bytes: written.bytes,
            blake3: written.hash.to_hex().to_string(),
        });
        files.push(entry(&written));
    }
    write_changed_weights(model, operation, &plan, &mut staging, options.progress, &mut files, &mut base_files)?;
    let steps = verification.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    write_config(model, &steps, &mut staging, &mut files, &mut base_files)?;
    for file in model.checkpoint.side_files() {
        // Small, and people edit them: never links, whatever was asked for the weights.
        let written = staging.transfer(&file.path, &file.name, Transfer::CopyOrReflink, &checkpoint::silent)?;
        files.push(entry(&written));
    }

    let record = new_record(model, operation, &steps, files, base_files);
    staging.write(record::FILE_NAME, record.to_yaml()?.as_bytes())?;
    check(staging.path(), &operation.after)?;
    let linked = record.files.iter().any(|file| file.how == How::Linked);
    if let Some(replaced) = replaced {
        // What was put there or edited meanwhile is not ours either.
        only_recorded(out)?;
        replaced.still(options.progress)?;
    }
    let published = staging.commit(Commit { read_only: linked, ..Commit::default() })?;
    Ok(Outcome { path: published.path, record, leftover: published.leftover, steps })
}

/// A folder that may be replaced.
enum Replaced {
    /// Whatever its files hold: it was asked for.
    Forced,
    /// Its files are as they were written.
    Unchanged(Unchanged),
}

impl Replaced {
    fn still(&self, stop: &Progress<'_>) -> Result<(), SurgeryError> {
        match self {
            Replaced::Forced => Ok(()),
            Replaced::Unchanged(unchanged) => unchanged.still(stop),
        }
    }
}

/// What may be replaced at `out`: an earlier run of this same operation that was not edited since, another result of surgery if asked.
fn replaced(
    model: &Model,
    operation: &Operation<'_>,
    out: &Path,
    options: &WriteOptions<'_>,
) -> Result<Option<Replaced>, SurgeryError> {
    let is_empty = || std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    if !out.is_dir() || is_empty() {
        return Ok(None);
    }
    let there = only_recorded(out)?;
    if options.replace {
        return Ok(Some(Replaced::Forced));
    }
    if !is_of(&there, model, operation) {
        return Err(SurgeryError::AnotherResult { path: out.to_owned() });
    }
    Ok(Some(Replaced::Unchanged(Unchanged::check(out, &there, options.progress)?)))
}

/// Whether a record is of this operation on this base.
fn is_of(there: &Record, model: &Model, operation: &Operation<'_>) -> bool {
    let earlier = model.record.as_ref().map_or(&[][..], |record| record.steps.as_slice());
    let mut steps = earlier.iter().chain(&operation.steps);
    let same_steps = there.steps.iter().all(|step| steps.next().is_some_and(|other| step.is_same_work(other)));
    let same_steps = same_steps && steps.next().is_none();
    let base = model.record.as_ref().map_or_else(|| base_path(model), |record| record.base.path.clone());
    same_steps && there.base.path == base
}

/// Whether the folder at `out` already is what [`write()`] would make: the same operation, and every file of the base and of the
/// output as it was then. Reads both whole.
///
/// # Errors
/// A folder that cannot be listed, or the work was stopped.
pub fn is_written(
    model: &Model,
    operation: &Operation<'_>,
    out: &Path,
    progress: &Progress<'_>,
) -> Result<bool, VerifyError> {
    // What an op computes was not looked at when a record without claims was written.
    let is_of = |record: &Record| is_of(record, model, operation) && !record.steps.iter().any(Step::lacks_claims);
    if !read_record(out).ok().flatten().as_ref().is_some_and(is_of) {
        return Ok(false);
    }
    Ok(verify(out, true, progress)?.is_sound())
}

fn base_path(model: &Model) -> String {
    let path = std::fs::canonicalize(&model.path).unwrap_or_else(|_| model.path.clone());
    path.to_string_lossy().into_owned()
}

/// A tensor of a file that is written anew.
enum Kept<'a> {
    Untouched(&'a str),
    /// Made by the step of this number.
    Made(&'a str, usize),
}

/// Which weight files come over whole, and which are written anew with what in them.
struct FilePlan<'a> {
    whole: Vec<&'a WeightFile>,
    rewritten: BTreeMap<String, Vec<Kept<'a>>>,
    /// Files of the checkpoint that are written anew.
    touched: Vec<&'a WeightFile>,
    is_single: bool,
}

impl<'a> FilePlan<'a> {
    fn new(model: &'a Model, operation: &'a Operation<'_>) -> Self {
        let weights = model.checkpoint.files();
        let is_single = model.checkpoint.index_path().is_none();
        let made = operation.made_last();
        let is_replaced = |name: &str| {
            made.contains_key(name)
                || (operation.before.params.contains_key(name) && !operation.after.params.contains_key(name))
        };
        let is_added = |name: &str| model.checkpoint.tensor(name).is_none();
        let adds = made.keys().any(|name| is_added(name));
        let mut is_touched = vec![is_single && adds; weights.len()];
        for tensor in model.checkpoint.tensors() {
            is_touched[tensor.file] |= is_replaced(tensor.name);
        }
        let mut plan = Self { whole: Vec::new(), rewritten: BTreeMap::new(), touched: Vec::new(), is_single };
        for (file, &touched) in weights.iter().zip(&is_touched) {
            if touched {
                plan.touched.push(file);
                plan.rewritten.insert(plan.name_of(file).to_owned(), Vec::new());
            } else {
                plan.whole.push(file);
            }
        }
        for tensor in model.checkpoint.tensors().filter(|tensor| is_touched[tensor.file]) {
            let kept = match made.get(tensor.name) {
                Some(&step) => Kept::Made(tensor.name, step),
                None if is_replaced(tensor.name) => continue,
                None => Kept::Untouched(tensor.name),
            };
            let name = plan.name_of(&weights[tensor.file]).to_owned();
            plan.rewritten.entry(name).or_default().push(kept);
        }
        if adds {
            let name = if is_single { plan.name_of(&weights[0]).to_owned() } else { new_shard_name(weights) };
            let added = made.iter().filter(|(name, _)| is_added(name)).map(|(&name, &step)| Kept::Made(name, step));
            plan.rewritten.entry(name).or_default().extend(added);
        }
        // A shard that lost its last tensor is left out: a file without tensors is no checkpoint.
        plan.rewritten.retain(|_, tensors| !tensors.is_empty());
        plan
    }

    /// A file's name in the output. transformers looks for a single file under one name only.
    fn name_of(&self, file: &'a WeightFile) -> &'a str {
        if self.is_single { "model.safetensors" } else { &file.name }
    }
}

fn new_shard_name(weights: &[WeightFile]) -> String {
    let name = |number: usize| format!("model-unswag-{number:05}.safetensors");
    let is_free = |name: &String| weights.iter().all(|file| file.name != *name);
    (1..).map(name).find(is_free).expect("some number is free")
}

fn write_changed_weights(
    model: &Model,
    operation: &Operation<'_>,
    plan: &FilePlan<'_>,
    staging: &mut Staging<'_>,
    progress: &Progress<'_>,
    files: &mut Vec<File>,
    base_files: &mut Vec<FileHash>,
) -> Result<(), SurgeryError> {
    let maker = Maker::new(&model.checkpoint, operation);
    for (name, tensors) in &plan.rewritten {
        let mut new = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            new.push(match *tensor {
                Kept::Untouched(name) => {
                    let (path, range) = model.checkpoint.locate(name)?;
                    let param = model.checkpoint.tensor(name).expect("just located");
                    NewTensor {
                        name: name.to_owned(),
                        dtype: param.dtype,
                        shape: param.shape.to_vec(),
                        data: TensorData::Range { path: path.to_owned(), range },
                    }
                }
                Kept::Made(name, step) => {
                    let param = &operation.made[step][name].0;
                    let maker = &maker;
                    NewTensor {
                        name: name.to_owned(),
                        dtype: param.dtype,
                        shape: param.shape.clone(),
                        data: TensorData::Make(Box::new(move || Ok(maker.make(step, name)?))),
                    }
                }
            });
        }
        let written = staging.write_safetensors(name, model.checkpoint.metadata(), new, progress)?;
        files.push(entry(&written));
    }
    for file in &plan.touched {
        let hash = hash_file(&file.path, &checkpoint::silent)?;
        base_files.push(FileHash { name: file.name.clone(), bytes: file.bytes, blake3: hash.to_hex().to_string() });
    }
    if let Some(index) = model.checkpoint.index_path() {
        let name = "model.safetensors.index.json";
        let written = if plan.rewritten.is_empty() {
            staging.transfer(index, name, Transfer::CopyOrReflink, &checkpoint::silent)?
        } else {
            staging.write(name, index_text(model, operation, plan).as_bytes())?
        };
        files.push(entry(&written));
    }
    Ok(())
}

/// `model.safetensors.index.json` of the output.
fn index_text(model: &Model, operation: &Operation<'_>, plan: &FilePlan<'_>) -> String {
    let mut weight_map: BTreeMap<&str, &str> = BTreeMap::new();
    let mut total_size = 0;
    let whole: HashMap<&str, ()> = plan.whole.iter().map(|file| (file.name.as_str(), ())).collect();
    for tensor in model.checkpoint.tensors() {
        let file = &model.checkpoint.files()[tensor.file];
        if whole.contains_key(file.name.as_str()) {
            weight_map.insert(tensor.name, &file.name);
            total_size += tensor.bytes();
        }
    }
    for (file, tensors) in &plan.rewritten {
        for tensor in tensors {
            let (name, bytes) = match *tensor {
                Kept::Untouched(name) => (name, model.checkpoint.tensor(name).map_or(0, |tensor| tensor.bytes())),
                Kept::Made(name, step) => (name, meta_bytes(&operation.made[step][name].0).unwrap_or(0)),
            };
            weight_map.insert(name, file);
            total_size += bytes;
        }
    }
    let index = serde_json::json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    format!("{index:#}\n")
}

/// The base's own file where other tools may open the output as they open the base, else one with a mark.
fn write_config(
    model: &Model,
    steps: &[Step],
    staging: &mut Staging<'_>,
    files: &mut Vec<File>,
    base_files: &mut Vec<FileHash>,
) -> Result<(), SurgeryError> {
    let name = "config.json";
    let (Some(path), Some(config)) = (model.checkpoint.config_path(), model.checkpoint.config()) else {
        unreachable!("a model is not opened without a config");
    };
    let hash = hash_file(path, &checkpoint::silent)?;
    let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    base_files.push(FileHash { name: name.to_owned(), bytes, blake3: hash.to_hex().to_string() });
    let earlier = model.record.iter().flat_map(|record| &record.steps);
    let written = if earlier.chain(steps).all(Step::is_known_to_keep_forward) {
        staging.transfer(path, name, Transfer::CopyOrReflink, &checkpoint::silent)?
    } else {
        let text = serde_json::to_string_pretty(&config::marked(config)).unwrap_or_default() + "\n";
        staging.write(name, text.as_bytes())?
    };
    files.push(entry(&written));
    Ok(())
}

fn entry(written: &Written) -> File {
    let how = match written.transferred {
        None => How::Written,
        Some(Transferred::Copied) => How::Copied,
        Some(Transferred::Reflinked) => How::Reflinked,
        Some(Transferred::Linked) => How::Linked,
    };
    File { name: written.name.clone(), bytes: written.bytes, blake3: written.hash.to_hex().to_string(), how }
}

fn new_record(
    model: &Model,
    operation: &Operation<'_>,
    verified: &[Step],
    files: Vec<File>,
    base_files: Vec<FileHash>,
) -> Record {
    let (mut base, mut steps) = match &model.record {
        Some(record) => (record.base.clone(), record.steps.clone()),
        None => (
            Base {
                path: base_path(model),
                model_type: model.graph.arch.model_type.clone(),
                files: base_files,
                replaced: Default::default(),
            },
            Vec::new(),
        ),
    };
    // What earlier steps made is not the base's.
    let made_before: Vec<String> = model
        .record
        .iter()
        .flat_map(|record| record.made().into_iter().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let replaced = operation.replaced().into_iter().filter(|(name, _)| !made_before.contains(name));
    for (name, param) in replaced {
        base.replaced.entry(name).or_insert(param);
    }
    steps.extend(verified.iter().cloned());
    Record { unswag: Record::VERSION, base, steps, files }
}

/// Opens what was written as a user would, before anyone can see it.
fn check(folder: &Path, planned: &Graph) -> Result<(), SurgeryError> {
    let reopened = Model::open(folder, None)
        .map_err(|source| SurgeryError::Reopen { path: folder.to_owned(), source: Box::new(source) })?;
    if reopened.graph != *planned {
        return Err(SurgeryError::Differs { path: folder.to_owned() });
    }
    Ok(())
}

/// Whether a step's patch makes, remakes or removes parameters.
pub(crate) fn changes_weights(edits: &[Edit]) -> bool {
    edits.iter().any(|edit| matches!(edit, Edit::Param { .. } | Edit::Drop { .. }))
}
