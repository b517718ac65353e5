//! What a run requires of its output folder, its data and the disk: checked before anything is written, and by `unswag run` before
//! surgery. Then an earlier run is removed where that was asked for.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use unswag_checkpoint::{Checkpoint, Disk, Existing, RealDisk};
use unswag_data::DataLoader;

use crate::{
    Allowed, Plan, PlannedModel, Resume, Resumed, Schedule, TrainError, TrainingArguments, adapter,
    checkpoint::{self, TrainerState},
    folder::{is_same, remove_in_one_step},
    full,
    metrics::{self, METRICS},
    space,
};

/// The folders of what is finished, in the output folder: adapters, or a whole model.
const ADAPTER: &str = "adapter";
const MODEL: &str = "model";

/// Whether a new run may write into this folder: what an earlier run left is not written over.
///
/// # Errors
/// A checkpoint, metrics, an adapter or a model of an earlier run is there.
pub fn refuse_earlier_run(folder: &Path) -> Result<(), TrainError> {
    let earlier = checkpoint::list(folder).pop().map(|(_, path)| path);
    // A run that took no step left no line.
    let metrics = Some(folder.join(METRICS)).filter(|path| path.metadata().is_ok_and(|found| found.len() > 0));
    match earlier.or(metrics).or_else(|| finished(folder)) {
        Some(found) => Err(TrainError::EarlierRun { path: folder.to_owned(), found: file_name(&found) }),
        None => Ok(()),
    }
}

/// An adapter or a model in an output folder. A folder with nothing but a README is neither.
fn finished(folder: &Path) -> Option<PathBuf> {
    let [adapter, model] = [ADAPTER, MODEL].map(|name| folder.join(name));
    if adapter::is_more_than_a_readme(&adapter) { Some(adapter) } else { Some(model).filter(|path| path.exists()) }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// # Errors
/// Something else than a folder stands where the output folder, or one above it, should be.
fn check_folder(folder: &Path) -> Result<(), TrainError> {
    // Above a relative path is the working directory.
    match folder.ancestors().find(|path| path.symlink_metadata().is_ok()) {
        Some(found) if !found.is_dir() => Err(TrainError::NotAFolder { path: found.to_owned() }),
        _ => Ok(()),
    }
}

/// The checkpoint that a run resumes from; `None` where it starts at its first step. Checkpoints that were passed over are added to
/// the warnings.
///
/// # Errors
/// The checkpoint asked for is not complete or has later ones beside it, or none is complete and a result or a damaged one is there.
pub(crate) fn find_checkpoint(
    from: &Resume,
    folder: &Path,
    warnings: &mut Vec<TrainError>,
) -> Result<Option<(PathBuf, TrainerState)>, TrainError> {
    if let Resume::From(path) = from {
        checkpoint::check_is_there(path)?;
        let state = checkpoint::open(path)?;
        refuse_later(path, state.progress.step, folder)?;
        return Ok(Some((path.clone(), state)));
    }
    let list = checkpoint::list(folder);
    let mut damaged = Vec::new();
    for (_, path) in list.iter().rev() {
        match checkpoint::open(path) {
            Ok(state) => {
                let used = file_name(path);
                let passed = |fault| TrainError::PassedOver { fault: Box::new(fault), used: used.clone() };
                warnings.extend(damaged.into_iter().map(passed));
                return Ok(Some((path.clone(), state)));
            }
            Err(error) => damaged.push(error),
        }
    }
    // Steps of a run that was killed before its first checkpoint can only be taken again; what was finished, or saved and is
    // damaged now, is worth more than that.
    match list.into_iter().next_back().map(|(_, path)| path).or_else(|| finished(folder)) {
        Some(found) => Err(TrainError::NothingToGoOnFrom { path: folder.to_owned(), found: file_name(&found) }),
        None => Ok(None),
    }
}

/// Refuses to go back to a checkpoint of this folder while later ones are there: `auto` would take those of two runs for one's.
fn refuse_later(path: &Path, step: u64, folder: &Path) -> Result<(), TrainError> {
    let last = checkpoint::list(folder).pop().filter(|(last, _)| *last > step && is_same(path.parent(), folder));
    match last {
        Some((_, last)) => Err(TrainError::LaterCheckpoints { path: path.to_owned(), last: file_name(&last) }),
        None => Ok(()),
    }
}

/// # Errors
/// What is to be chosen by the validation loss, and nothing measures it; or no validation row has a supervised token.
pub(crate) fn check_validation(
    arguments: &TrainingArguments,
    validation: Option<&dyn DataLoader>,
) -> Result<(), TrainError> {
    let needs = match (arguments.load_best_model_at_end, arguments.early_stopping_patience) {
        (true, _) => Some("load_best_model_at_end"),
        (false, Some(_)) => Some("early_stopping_patience"),
        (false, None) => None,
    };
    if let Some(what) = needs.filter(|_| validation.is_none() || arguments.eval_steps == 0) {
        return Err(TrainError::Argument {
            what,
            expected: "validation data and eval_steps, since it uses the validation loss".into(),
            got: if validation.is_some() { "no eval_steps" } else { "no validation data" }.into(),
        });
    }
    match validation.map(|validation| validation.epoch_size()).transpose()? {
        Some(size) if size.supervised_tokens == 0 => Err(TrainError::NothingSupervised),
        _ => Ok(()),
    }
}

/// What becomes of an earlier run in the output folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Earlier {
    /// There must be none.
    Refuse,
    /// This run continues it after this step.
    Continue(u64),
    /// It is removed before the first step.
    Remove,
}

/// A run's output folder, which need not exist.
#[derive(Clone, Copy)]
pub(crate) struct Output<'a> {
    pub folder: &'a Path,
    pub base: &'a Checkpoint,
    /// Whether all weights are trained, so that a model is written and no adapter.
    pub is_full: bool,
}

impl Output<'_> {
    /// Where what is finished will stand.
    pub fn finished(&self) -> PathBuf {
        self.folder.join(if self.is_full { MODEL } else { ADAPTER })
    }

    /// Whether what is finished may take the place of what stands there.
    ///
    /// # Errors
    /// Something else than an adapter or a model stands there.
    pub fn existing(&self) -> Result<Existing, TrainError> {
        match self.is_full {
            true => full::existing(self.base, &self.finished()),
            false => adapter::existing(&self.finished()),
        }
    }

    /// Writes nothing.
    ///
    /// # Errors
    /// An earlier run that was not to be there, or files that are none of this program's where the run writes or removes.
    pub fn check(&self, earlier: Earlier) -> Result<(), TrainError> {
        check_folder(self.folder)?;
        match earlier {
            Earlier::Refuse => refuse_earlier_run(self.folder)?,
            // Later checkpoints are written over.
            Earlier::Continue(step) => {
                for (_, path) in checkpoint::list(self.folder).iter().filter(|(at, _)| *at > step) {
                    checkpoint::existing(path)?;
                }
            }
            Earlier::Remove => drop(self.earlier_folders()?),
        }
        self.existing()?;
        metrics::check_file(self.folder)
    }

    /// Checkpoints, oldest first, an adapter and a model: nothing else, and none with a file of somebody else's.
    fn earlier_folders(&self) -> Result<Vec<PathBuf>, TrainError> {
        let [adapter, model] = [ADAPTER, MODEL].map(|name| self.folder.join(name));
        adapter::existing(&adapter)?;
        full::existing(self.base, &model)?;
        let mut folders = Vec::new();
        for (_, path) in checkpoint::list(self.folder) {
            // An empty folder is left as it is.
            if checkpoint::existing(&path)? == Existing::Replace {
                folders.push(path);
            }
        }
        folders.extend([adapter, model].into_iter().filter(|path| path.exists()));
        Ok(folders)
    }

    /// Bytes on the disk that come free when an earlier run is removed. Files with another name elsewhere stay.
    ///
    /// # Errors
    /// As [`Output::check`].
    pub fn freed_bytes(&self) -> Result<u64, TrainError> {
        let entries = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten();
        let files = self.earlier_folders()?.into_iter().flat_map(entries).map(|entry| entry.path());
        let bytes = |path: PathBuf| path.symlink_metadata().ok().filter(|found| found.is_file() && found.nlink() == 1);
        Ok(files.filter_map(bytes).map(|found| 512 * found.blocks()).sum())
    }

    /// Removes checkpoints, metrics and what was finished, each in one step: a kill leaves none of them in part. A README beside an
    /// adapter stays.
    ///
    /// # Errors
    /// As [`Output::check`], or one cannot be removed.
    pub fn remove_earlier_run(&self, bases: &[&Path], disk: &dyn Disk) -> Result<(), TrainError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| TrainError::Io { path, action: "remove it", source }
        };
        for path in self.earlier_folders()? {
            if path.ends_with(ADAPTER) && adapter::readme(&path).is_some() {
                adapter::reduce_to_readme(&path, bases, disk)?;
            } else {
                remove_in_one_step(&path, disk).map_err(failed(&path))?;
            }
        }
        let metrics = self.folder.join(METRICS);
        match disk.remove_file(&metrics) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(failed(&metrics)(source)),
            _ => Ok(()),
        }
    }
}

/// A run whose weights are not read yet, and whose model may not be written yet.
pub struct PlannedRun<'a> {
    pub model: &'a PlannedModel<'a>,
    pub arguments: &'a TrainingArguments,
    pub data: &'a dyn DataLoader,
    pub validation: Option<&'a dyn DataLoader>,
    pub folder: &'a Path,
    pub resume: Option<&'a Resume>,
    pub allowed: &'a Allowed,
    /// Whether what an earlier run left in the folder is removed.
    pub replaces: bool,
}

/// What a run that may start will do.
#[derive(Debug)]
pub struct CheckedRun {
    /// The steps that were taken before: the step of the checkpoint that it resumes from.
    pub first_step: u64,
    pub total_steps: u64,
    /// The checkpoint that it resumes from, and what differs.
    pub resumed: Option<Resumed>,
    /// Checkpoints that were passed over.
    pub warnings: Vec<TrainError>,
    /// What a step takes, where the length of rows is known.
    pub plan: Option<Plan>,
}

impl PlannedRun<'_> {
    /// Refuses what training would refuse before its first step, as far as no weight is needed to see it. Nothing is written. That
    /// weights and state do not fit this machine's memory is no refusal: the plan says what they take.
    ///
    /// # Errors
    /// As of training: the output folder, validation data, the settings of a checkpoint, or the space on the disk.
    pub fn check(&self) -> Result<CheckedRun, TrainError> {
        self.model.model().check_output(self.folder)?;
        check_validation(self.arguments, self.validation)?;
        let (schedule, _) = plan_steps(self.arguments, self.data)?;
        let mut checked = CheckedRun {
            first_step: 0,
            total_steps: schedule.total_steps,
            resumed: None,
            warnings: Vec::new(),
            plan: None,
        };
        let earlier = self.earlier(&schedule, &mut checked)?;
        let is_full = self.model.lora().is_none();
        let output = Output { folder: self.folder, base: self.model.checkpoint(), is_full };
        output.check(earlier)?;
        let Some(row_tokens) = self.arguments.max_row_tokens else { return Ok(checked) };
        let plan = self.model.plan(self.arguments, row_tokens)?;
        let paged_bytes = self.model.paged_bytes(self.arguments);
        if plan.offloaded_bytes > 0 || paged_bytes > 0 {
            check_offload_folder(self.arguments)?;
        }
        let of_state = self.arguments.offload_folder.as_deref().unwrap_or(self.folder);
        // The masters and the moments are what a checkpoint holds.
        let checkpoint_bytes = plan.parts.optimizer;
        let finished_bytes = match is_full {
            true => full::model_bytes(output.base),
            false => self.model.trainable_parameters().saturating_mul(4),
        };
        let steps = checked.first_step..schedule.total_steps;
        let needed = space::Needed {
            run_bytes: space::run_bytes(checkpoint_bytes, steps, self.arguments, finished_bytes),
            freed_bytes: if earlier == Earlier::Remove { output.freed_bytes()? } else { 0 },
            paged: (paged_bytes > 0).then_some((of_state, paged_bytes)),
        };
        needed.require(self.folder, &RealDisk)?;
        checked.plan = Some(plan);
        Ok(checked)
    }

    fn earlier(&self, schedule: &Schedule, checked: &mut CheckedRun) -> Result<Earlier, TrainError> {
        let new = if self.replaces { Earlier::Remove } else { Earlier::Refuse };
        let Some(from) = self.resume else { return Ok(new) };
        let Some((path, state)) = find_checkpoint(from, self.folder, &mut checked.warnings)? else {
            return Ok(Earlier::Continue(0));
        };
        let (now, unknown) = self.model.settings(self.arguments, schedule);
        let fingerprint = self.data.position().fingerprint;
        let known = state.without(unknown);
        let changes = checkpoint::changes(&path, &known, &now, self.arguments.warmup, &fingerprint, self.allowed)?;
        checkpoint::check_length(&path, &state, schedule)?;
        checked.first_step = state.progress.step;
        let is_here = is_same(path.parent(), self.folder);
        checked.resumed = Some(Resumed { path, changes });
        Ok(if is_here { Earlier::Continue(state.progress.step) } else { new })
    }
}

/// # Errors
/// The folder that saved activations or paged state go to is not there.
fn check_offload_folder(arguments: &TrainingArguments) -> Result<(), TrainError> {
    match &arguments.offload_folder {
        Some(folder) if !folder.is_dir() => Err(TrainError::Argument {
            what: "offload_folder",
            expected: "a folder that is there".into(),
            got: folder.display().to_string(),
        }),
        _ => Ok(()),
    }
}

/// The run's length: as many steps as were asked for, or as its epochs have.
///
/// # Errors
/// A setting that cannot be, data that cannot be read, or counted data without a supervised token.
pub(crate) fn plan_steps(
    arguments: &TrainingArguments,
    data: &dyn DataLoader,
) -> Result<(Schedule, Option<u64>), TrainError> {
    arguments.check()?;
    if let Some(steps) = arguments.max_steps {
        return Ok((arguments.schedule(steps), None));
    }
    let size = data.epoch_size()?;
    if size.supervised_tokens == 0 {
        return Err(TrainError::NothingSupervised);
    }
    Ok((arguments.schedule(arguments.steps(size.rows)), Some(size.rows)))
}
