//! Takes steps back: the folder as it was before them, from the record.
//!
//! Where the steps left the weights alone, their files are kept and only the record and `config.json` go back. Where they
//! changed weights, the base is needed: its hashes are compared with the recorded ones, and the steps that stay are
//! operated anew from their recorded patches.

use std::path::{Path, PathBuf};

use unswag_abi::doc::{Attrs, Graph, OpCall, OpPlan, Patch, TransformJob};
use unswag_checkpoint::{self as checkpoint, Commit, Existing, How as Transfer, Staging, WriteError, check_outside};

use crate::{
    config,
    model::{Model, ModelError},
    operation::{OperateError, Protocol, operate},
    ours::{Unchanged, only_recorded},
    record::{self, PluginId, Record, Step},
    verify::{VerifyError, file_fault, record_of},
    write::{SurgeryError, WriteOptions, changes_weights, write},
};

#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Surgery(#[from] SurgeryError),
    #[error(transparent)]
    Operate(#[from] OperateError),
    #[error(
        "{}: step {step} ({protocol}) changed weights, so the base checkpoint is needed, and it cannot be opened at {}; pass \
         --base PATH if it moved",
        path.display(), base.display()
    )]
    Base {
        path: PathBuf,
        step: usize,
        protocol: String,
        base: PathBuf,
        #[source]
        source: Box<ModelError>,
    },
    #[error("{}: it is not the checkpoint that was operated on: {file}: {fault}; pass --base PATH of the one that was", base.display())]
    OtherBase { base: PathBuf, file: String, fault: String },
    #[error(
        "{}: changed since it was written: {}; undoing brings back the base's files in their place, so nothing was changed: move that \
         elsewhere, undo into another folder with -o, or pass --force to lose it",
        path.display(), changed.join(", ")
    )]
    Changed { path: PathBuf, changed: Vec<String> },
    #[error(
        "{}: changed since it was written: {}; nothing was changed: put those back as they were, or pass --force to keep \
         the files as they are now",
        path.display(), changed.join(", ")
    )]
    Tampered { path: PathBuf, changed: Vec<String> },
}

/// What undoing did.
#[derive(Debug)]
pub struct Undone {
    pub path: PathBuf,
    /// Protocols whose steps were taken back, the last first.
    pub steps: Vec<String>,
    /// Steps that are left.
    pub left: usize,
    pub leftover: Option<PathBuf>,
}

/// Takes back the last step of the folder at `path`, or all of them, in place or into `out`. With `options.replace` also where files
/// changed since they were written: those that stay are taken over as they are, and those that the base's replace are lost.
///
/// # Errors
/// There is no sound record; a file changed since it was written; the base is needed and is not there or is another; the output cannot be written. The folder is
/// as it was then.
pub fn undo(
    path: &Path,
    out: Option<&Path>,
    all: bool,
    base: Option<&Path>,
    options: WriteOptions<'_>,
) -> Result<Undone, UndoError> {
    let record = record_of(path)?;
    match out {
        Some(out) => check_output(path, &record, out, base)?,
        // In place the folder is replaced: nothing in it may be lost that is not ours.
        None => drop(only_recorded(path)?),
    }
    let left = if all { 0 } else { record.steps.len() - 1 };
    let removed = &record.steps[left..];
    let undone = |path, leftover| Undone {
        path,
        steps: removed.iter().rev().map(|step| step.protocol.clone()).collect(),
        left,
        leftover,
    };
    let weights_changed = removed.iter().position(|step| changes_weights(&step.patch.edits));
    let (path_written, leftover) = match weights_changed {
        None => keep_weights(path, &record, left, out, base, options)?,
        Some(at) => from_base(path, &record, left, left + at, out, base, options)?,
    };
    Ok(undone(path_written, leftover))
}

/// An output beside the folder: a new one, and in none of the folders that are read or named as the base.
fn check_output(path: &Path, record: &Record, out: &Path, base: Option<&Path>) -> Result<(), SurgeryError> {
    let bases = [Some(path), Some(Path::new(&record.base.path)), base];
    check_outside(out, &bases.into_iter().flatten().collect::<Vec<_>>())?;
    if std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(WriteError::Exists { path: out.to_owned() }.into());
    }
    Ok(())
}

type Written = (PathBuf, Option<PathBuf>);

/// The same weights under a shorter record, or none.
fn keep_weights(
    path: &Path,
    record: &Record,
    left: usize,
    out: Option<&Path>,
    base: Option<&Path>,
    options: WriteOptions<'_>,
) -> Result<Written, UndoError> {
    let model = Model::open(path, None)?;
    let root = model.checkpoint.root();
    // The base is not read here, and must not be written into either.
    let base_path = base.map_or_else(|| PathBuf::from(&record.base.path), Path::to_path_buf);
    let base_path = base_path.exists().then_some(base_path);
    let mut bases: Vec<&Path> = base_path.iter().map(PathBuf::as_path).collect();
    let (to, existing, how) = match out {
        Some(out) => {
            bases.push(root);
            (out, Existing::Refuse, Transfer::CopyOrReflink)
        }
        // The old folder goes away: a second name for its files is a move.
        None => (root, Existing::Replace, Transfer::Link),
    };
    let mut staging = Staging::begin(to, &bases, existing, options.disk).map_err(SurgeryError::from)?;
    let mut left_record = Record { steps: record.steps[..left].to_vec(), ..record.clone() };
    let mut changed = Vec::new();
    for file in &mut left_record.files {
        let source = root.join(&file.name);
        let is_config = file.name == "config.json";
        let (written, is_as_recorded) = match config_after(&model, &left_record.steps) {
            Some(text) if is_config => {
                let fault = file_fault(&source, file.bytes, &file.blake3, &checkpoint::silent)?;
                (staging.write(&file.name, text.as_bytes()).map_err(SurgeryError::from)?, fault.is_none())
            }
            _ => {
                let written = staging.transfer(&source, &file.name, how, options.progress);
                let written = written.map_err(SurgeryError::from)?;
                let is_as_recorded = written.hash.to_hex().as_str() == file.blake3;
                (written, is_as_recorded)
            }
        };
        if !is_as_recorded {
            changed.push(file.name.clone());
        }
        file.bytes = written.bytes;
        file.blake3 = written.hash.to_hex().to_string();
        if out.is_some() {
            file.how = record::How::Copied;
        }
    }
    if !changed.is_empty() && !options.replace {
        return Err(UndoError::Tampered { path: root.to_owned(), changed });
    }
    if left > 0 {
        let text = left_record.to_yaml().map_err(SurgeryError::from)?;
        staging.write(record::FILE_NAME, text.as_bytes()).map_err(SurgeryError::from)?;
    }
    if out.is_none() {
        // What was put there meanwhile is not ours either. An edit of a file since it was read is not lost: the file itself comes over.
        only_recorded(root)?;
    }
    let linked = left_record.files.iter().any(|file| file.how == record::How::Linked);
    let published = staging.commit(Commit { read_only: linked && left > 0, ..Commit::default() });
    let published = published.map_err(SurgeryError::from)?;
    Ok((published.path, published.leftover))
}

/// `config.json` with the mark that the steps that are left need, or without one, where that is not what is written.
fn config_after(model: &Model, left: &[Step]) -> Option<String> {
    let written = model.checkpoint.config()?;
    let plain = config::unmarked(written);
    let config = if left.iter().all(Step::is_known_to_keep_forward) { plain } else { config::marked(written) };
    (config != *written).then(|| serde_json::to_string_pretty(&config).unwrap_or_default() + "\n")
}

/// The base again, with the steps that are left operated anew.
fn from_base(
    path: &Path,
    record: &Record,
    left: usize,
    changed_at: usize,
    out: Option<&Path>,
    base: Option<&Path>,
    options: WriteOptions<'_>,
) -> Result<Written, UndoError> {
    let base_path = base.map_or_else(|| PathBuf::from(&record.base.path), Path::to_path_buf);
    let base = Model::open(&base_path, None).map_err(|source| UndoError::Base {
        path: path.to_owned(),
        step: changed_at + 1,
        protocol: record.steps[changed_at].protocol.clone(),
        base: base_path.clone(),
        source: Box::new(source),
    })?;
    for file in &record.base.files {
        let at = base.checkpoint.root().join(&file.name);
        if let Some(fault) = file_fault(&at, file.bytes, &file.blake3, &checkpoint::silent)? {
            return Err(UndoError::OtherBase { base: base_path, file: file.name.clone(), fault });
        }
    }
    let to = out.unwrap_or(path);
    let changed = |error| match error {
        SurgeryError::Changed { path, changed } => UndoError::Changed { path, changed },
        other => other.into(),
    };
    let unchanged = match out {
        None if !options.replace => Some(Unchanged::check(path, record, options.progress).map_err(changed)?),
        _ => None,
    };
    if left > 0 {
        let replayed: Vec<Box<dyn Protocol>> =
            record.steps[..left].iter().map(|step| Box::new(Replayed(step.clone())) as Box<dyn Protocol>).collect();
        let operation = operate(&base, &replayed)?;
        let replace = out.is_none();
        let outcome = write(&base, &operation, to, WriteOptions { replace, link: false, ..options })?;
        return Ok((outcome.path, outcome.leftover));
    }
    let existing = if out.is_some() { Existing::Refuse } else { Existing::Replace };
    let mut bases = base.bases();
    let recorded = Path::new(&record.base.path);
    bases.extend(out.map(|_| path).into_iter().chain(Some(recorded).filter(|recorded| recorded.exists())));
    let mut staging = Staging::begin(to, &bases, existing, options.disk).map_err(SurgeryError::from)?;
    let root = base.checkpoint.root();
    let weights = base.checkpoint.files().iter().map(|file| (file.path.clone(), file.name.clone()));
    let index = base.checkpoint.index_path().map(|path| (path.to_owned(), "model.safetensors.index.json".to_owned()));
    let config = base.checkpoint.config_path().map(|path| (path.to_owned(), "config.json".to_owned()));
    let side = base.checkpoint.side_files().iter().map(|file| (root.join(&file.name), file.name.clone()));
    for (source, name) in weights.chain(index).chain(config).chain(side) {
        staging.transfer(&source, &name, Transfer::CopyOrReflink, options.progress).map_err(SurgeryError::from)?;
    }
    if out.is_none() {
        only_recorded(to)?;
    }
    if let Some(unchanged) = unchanged {
        unchanged.still(options.progress).map_err(changed)?;
    }
    let published = staging.commit(Commit::default()).map_err(SurgeryError::from)?;
    Ok((published.path, published.leftover))
}

/// A recorded step, operated again without its plugin.
struct Replayed(Step);

impl Protocol for Replayed {
    fn id(&self) -> &str {
        &self.0.protocol
    }

    fn version(&self) -> &str {
        &self.0.version
    }

    fn plugin(&self) -> PluginId {
        self.0.plugin.clone()
    }

    fn options(&self) -> &Attrs {
        &self.0.options
    }

    fn recorded(&self) -> Option<&Step> {
        Some(&self.0)
    }

    fn is_default(&self, _: &str, _: &serde_json::Value) -> bool {
        false
    }

    fn rewrite(&self, _: &Graph) -> Result<Patch, String> {
        Ok(self.0.patch.clone())
    }

    fn plan(&self, call: &OpCall) -> Result<OpPlan, String> {
        let planned = self.0.plans.iter().find(|planned| planned.call == *call);
        planned.map(|planned| planned.plan.clone()).ok_or_else(|| "the record holds no such plan".to_owned())
    }

    fn transform(&self, job: &TransformJob, _: &[&[u8]], _: &mut [Vec<u8>]) -> Result<(), String> {
        Err(format!(
            "job {} needs the plugin itself; undo all steps (--all) and operate again with --plugin {}",
            job.job, self.0.protocol
        ))
    }
}
