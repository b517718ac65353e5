//! The loop: rows from the data, optimizer steps, metrics, checkpoints, the adapter at the end.
//!
//! All that happens between steps is reported to an [`Observer`]; nothing here prints. Whatever stops the loop, what was
//! learned is in a checkpoint first, unless the disk refuses it or a step failed in the middle of its update.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Instant,
};

use unswag_checkpoint::{Disk, NewFolders, RealDisk, Staging};
use unswag_data::{DataLoader, Position};

use crate::{
    Allowed, Observer, Resume, Resumed, RunPlan, RunReport, Schedule, TrainError, Trainer, TrainingArguments,
    TrainingModel,
    batch::take_batches,
    best::Best,
    checkpoint::{self, RunState},
    evaluate::evaluate,
    folder::{is_same, remove_litter},
    full,
    logs::{Logs, again},
    metrics::{Learned, MetricsFile, StepMetrics},
    optimizer::States,
    preparation::{Earlier, Output, check_validation, find_checkpoint, plan_steps},
    save_adapter, save_model,
    settings::{self, DATA},
    space,
    tensorboard::EventFile,
};

/// Trains a model on data into an output folder.
pub struct UnswagTrainer {
    trainer: Trainer,
    data: Box<dyn DataLoader>,
    validation: Option<Box<dyn DataLoader>>,
    folder: PathBuf,
    disk: Box<dyn Disk>,
    schedule: Schedule,
    rows_per_epoch: Option<u64>,
    writes_metrics: bool,
    writes_events: bool,
    /// Whether the files in the folder belong to the resumed run.
    goes_on: bool,
    /// Whether what an earlier run left in the folder is removed.
    replaces: bool,
    last_saved: Option<(u64, PathBuf)>,
    resumed: Option<Resumed>,
    best: Option<Best>,
    /// A step whose validation loss was being measured when the run was stopped: it is measured before the next step.
    unmeasured: Option<StepMetrics>,
    warnings: Vec<TrainError>,
    lock: Option<File>,
    /// The output folder where this run created it: a run that is refused leaves none.
    created: Option<NewFolders>,
}

impl UnswagTrainer {
    /// Counts the data through where the number of steps follows from it. Nothing is written before [`UnswagTrainer::train`].
    ///
    /// # Errors
    /// A setting that cannot be, or data that cannot be read.
    pub fn new(
        model: TrainingModel,
        arguments: TrainingArguments,
        data: Box<dyn DataLoader>,
        folder: &Path,
    ) -> Result<Self, TrainError> {
        let (schedule, rows_per_epoch) = plan_steps(&arguments, data.as_ref())?;
        Ok(UnswagTrainer {
            trainer: Trainer::in_folder(model, arguments, Some(folder))?,
            data,
            validation: None,
            folder: folder.to_owned(),
            disk: Box::new(RealDisk),
            schedule,
            rows_per_epoch,
            writes_metrics: true,
            writes_events: false,
            goes_on: false,
            replaces: false,
            last_saved: None,
            resumed: None,
            best: None,
            unmeasured: None,
            warnings: Vec::new(),
            lock: None,
            created: None,
        })
    }

    /// Measures the loss on this data every `eval_steps` steps and at the end.
    pub fn with_validation(mut self, validation: Box<dyn DataLoader>) -> Self {
        self.validation = Some(validation);
        self
    }

    /// Writes through this disk.
    pub fn with_disk(mut self, disk: Box<dyn Disk>) -> Self {
        self.disk = disk;
        self
    }

    /// Writes no `metrics.jsonl`.
    pub fn without_metrics(mut self) -> Self {
        self.writes_metrics = false;
        self
    }

    /// Writes TensorBoard's event files too, in a folder of this run's in `runs/`.
    pub fn with_tensorboard(mut self) -> Self {
        self.writes_events = true;
        self
    }

    /// Removes what an earlier run left in the folder, once everything is checked and before the first step.
    pub fn replacing_earlier_run(mut self) -> Self {
        self.replaces = true;
        self
    }

    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    pub fn plan(&self) -> RunPlan {
        let arguments = self.trainer.arguments();
        let model = self.trainer.model();
        let checkpoint_bytes = checkpoint::checkpoint_bytes(&self.trainer);
        let first_step = self.trainer.progress().step;
        let finished_bytes = match model.lora() {
            Some(_) => checkpoint_bytes,
            None => full::model_bytes(model.checkpoint()),
        };
        RunPlan {
            trainable_parameters: model.trainable_parameters(),
            first_step,
            total_steps: self.schedule.total_steps,
            rows_per_epoch: self.rows_per_epoch,
            checkpoint_bytes,
            planned_peak_bytes: self.trainer.planned_peak_bytes(),
            disk_bytes: space::run_bytes(
                checkpoint_bytes,
                first_step..self.schedule.total_steps,
                arguments,
                finished_bytes,
            ),
            paged_bytes: match &self.trainer.states {
                States::Paged(paged) => paged.file_bytes(),
                States::Resident(_) => 0,
            },
        }
    }

    /// Goes to where a checkpoint was written, and says which.
    ///
    /// # Errors
    /// The checkpoint asked for is not whole, or was written with other settings, another base or other data.
    pub fn resume(&mut self, from: &Resume) -> Result<Option<PathBuf>, TrainError> {
        Ok(self.resume_changed(from, &Allowed::default())?.map(|resumed| resumed.path))
    }

    /// The same, where settings may differ from the checkpoint's. The run's length always may, as in transformers. Of other data
    /// the epoch is read from its start.
    ///
    /// # Errors
    /// As [`UnswagTrainer::resume`], for what was not allowed to differ.
    pub fn resume_changed(&mut self, from: &Resume, allowed: &Allowed) -> Result<Option<Resumed>, TrainError> {
        self.trainer.model().check_output(&self.folder)?;
        self.take_lock()?;
        let Some((path, state)) = find_checkpoint(from, &self.folder, &mut self.warnings)? else {
            self.goes_on = true;
            return Ok(None);
        };
        let now = settings::settings(&self.trainer, &self.schedule);
        let (warmup, fingerprint) = (self.trainer.arguments().warmup, self.data.position().fingerprint);
        let changes = checkpoint::changes(&path, &state, &now, warmup, &fingerprint, allowed)?;
        checkpoint::check_length(&path, &state, &self.schedule)?;
        self.create_folder_of_state()?;
        checkpoint::restore(&mut self.trainer, &path, &state)?;
        match changes.iter().any(|change| change.setting == DATA) {
            true => self.data.start_epoch(state.position.epoch),
            false => self.data.seek(&state.position)?,
        }
        // A checkpoint of elsewhere begins a run of its own here.
        self.goes_on = is_same(path.parent(), &self.folder);
        self.last_saved = Some((state.progress.step, path.clone()));
        // Of a best that no checkpoint holds, nothing could be published.
        let keeps_best = self.trainer.arguments().load_best_model_at_end;
        let is_there = |best: &Best| !keeps_best || checkpoint::path_of(&self.folder, best.step).is_dir();
        self.best = state.best.filter(|best| self.goes_on && is_there(best));
        self.unmeasured = state.unmeasured.filter(|_| self.goes_on);
        self.resumed = Some(Resumed { path, changes });
        Ok(self.resumed.clone())
    }

    /// Trains to the end, or until the observer stops it.
    ///
    /// # Errors
    /// The output folder is in use or holds an earlier run, the disk lacks the space, data with a fault, a step that fails, or
    /// a disk that refuses. What was learned until then is in a checkpoint, where one could be written.
    pub fn train(&mut self, observer: &mut dyn Observer) -> Result<RunReport, TrainError> {
        let mut logs = self.prepare()?;
        let plan = self.plan();
        observer.started(&plan);
        for warning in self.warnings.drain(..) {
            observer.warned(&warning);
        }
        let mut report = RunReport {
            steps: plan.first_step,
            resumed: self.resumed.clone(),
            planned_peak_bytes: plan.planned_peak_bytes,
            optimizer_bytes: self.trainer.optimizer_bytes(),
            planned_growth_bytes: self.trainer.planned_growth_bytes(),
            ..RunReport::default()
        };
        let result = self.run(&mut logs, &mut report, observer);
        if let Err(error) = &result
            && !error.is_disk_full()
            && !matches!(error, TrainError::NothingLearned { .. })
        {
            // The error counts; that a checkpoint could not be written after it is a warning.
            match self.save(observer) {
                Ok(_) => {}
                Err(second) => observer.warned(&second),
            }
        }
        (report.best_eval_loss, report.best_step) = self.best.map(|best| (best.eval_loss, best.step)).unzip();
        report.checkpoint = self.last_saved.as_ref().map(|(_, path)| path.clone());
        report.steps = self.trainer.progress().step;
        report.resident_growth_bytes = self.trainer.model().resident_growth_bytes();
        report.skipped_steps = self.trainer.progress().skipped_steps;
        result.map(|()| report)
    }

    /// Makes the folder ready: locked, not another run's, and with room for what will be written. What can be refused is refused
    /// before anything is written, and before an earlier run is removed.
    fn prepare(&mut self) -> Result<Logs, TrainError> {
        // Before anything is created: already an empty folder would change the base.
        self.trainer.model().check_output(&self.folder)?;
        check_validation(self.trainer.arguments(), self.validation.as_deref())?;
        let step = self.trainer.progress().step;
        let earlier = match (self.goes_on, self.replaces) {
            (true, _) => Earlier::Continue(step),
            (false, true) => Earlier::Remove,
            (false, false) => Earlier::Refuse,
        };
        // Another run may be removing what would be checked.
        self.take_lock()?;
        let output = self.output();
        output.check(earlier)?;
        let paged = match &self.trainer.states {
            States::Paged(paged) if !paged.is_open() => Some((paged.folder(), paged.file_bytes())),
            _ => None,
        };
        let needed = space::Needed {
            run_bytes: self.plan().disk_bytes,
            freed_bytes: if earlier == Earlier::Remove { output.freed_bytes()? } else { 0 },
            paged,
        };
        needed.require(&self.folder, self.disk.as_ref())?;
        self.create_folder()?;
        self.take_lock()?;
        let output = self.output();
        // What came to stand there before the lock was taken.
        output.check(earlier)?;
        let bases = [self.trainer.model().base_path()];
        // Never in the base, and never where nothing can be written: seen now, not after hours.
        drop(Staging::begin(&output.finished(), &bases, output.existing()?, self.disk.as_ref())?);
        if earlier == Earlier::Remove {
            output.remove_earlier_run(&bases, self.disk.as_ref())?;
        }
        if let States::Paged(paged) = &mut self.trainer.states {
            paged.open()?;
        }
        // The line of a step that is measured once more is written once more.
        let step = step - u64::from(self.unmeasured.is_some());
        Ok(Logs {
            metrics: self.writes_metrics.then(|| MetricsFile::open(&self.folder, step)).transpose()?,
            events: self.writes_events.then(|| EventFile::create(&self.folder, self.goes_on, step)).transpose()?,
        })
    }

    fn output(&self) -> Output<'_> {
        let model = self.trainer.model();
        Output { folder: &self.folder, base: model.checkpoint(), is_full: model.lora().is_none() }
    }

    fn create_folder(&mut self) -> Result<(), TrainError> {
        if self.created.is_none() {
            let failed = |source| TrainError::Io { path: self.folder.clone(), action: "create this folder", source };
            self.created = Some(NewFolders::create(&self.folder).map_err(failed)?);
        }
        Ok(())
    }

    /// Before its file can be created.
    fn create_folder_of_state(&mut self) -> Result<(), TrainError> {
        match &self.trainer.states {
            States::Paged(paged) if paged.folder() == self.folder => self.create_folder(),
            _ => Ok(()),
        }
    }

    fn take_lock(&mut self) -> Result<(), TrainError> {
        if self.lock.is_some() || !self.folder.exists() {
            return Ok(());
        }
        let failed = |source| TrainError::Io { path: self.folder.clone(), action: "open it", source };
        let file = File::open(&self.folder).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(TrainError::Busy { path: self.folder.clone() }),
            // A file system that cannot lock: the checkpoints' own locks remain.
            Err(fs::TryLockError::Error(_)) => {}
        }
        remove_litter(&self.folder, self.disk.as_ref());
        self.lock = Some(file);
        Ok(())
    }

    fn run(&mut self, logs: &mut Logs, report: &mut RunReport, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let mut learned = Learned::default();
        let mut clock = Instant::now();
        loop {
            let (mut metrics, is_due) = match self.unmeasured.take() {
                Some(metrics) => (metrics, true),
                None if self.has_ended() => break,
                None => {
                    let before = self.data.position();
                    let Some(done) = self.one_step(&before, &mut clock, report, observer)? else {
                        return self.stop(report, observer);
                    };
                    learned.add(&done.0);
                    (report.train_loss, report.train_loss_steps) = (learned.mean(), learned.steps());
                    done
                }
            };
            let mut is_best = false;
            if is_due && let Some(validation) = &mut self.validation {
                let rows = self.trainer.arguments().per_device_train_batch_size as usize;
                let measured = match evaluate(self.trainer.model(), validation.as_mut(), rows, observer) {
                    Ok(Some(measured)) => measured,
                    Ok(None) => {
                        // Its line is written when it is measured, by the resumed run.
                        self.unmeasured = Some(metrics);
                        return self.stop(report, observer);
                    }
                    Err(error) => {
                        logs.append(&metrics, observer)?;
                        return Err(error);
                    }
                };
                metrics.eval_loss = Some(measured.loss);
                report.eval_loss = metrics.eval_loss;
                let threshold = self.trainer.arguments().early_stopping_threshold;
                let best = Best::after(self.best, metrics.step, measured.loss, threshold);
                is_best = best.step == metrics.step;
                self.best = Some(best);
                clock = Instant::now();
            }
            logs.append(&metrics, observer)?;
            observer.stepped(&metrics);
            let arguments = self.trainer.arguments();
            let is_kept = is_best && arguments.load_best_model_at_end;
            if is_kept || (arguments.save_steps > 0 && metrics.step.is_multiple_of(arguments.save_steps)) {
                self.save(observer)?;
                clock = Instant::now();
            }
        }
        report.stopped_early = self.trainer.progress().step < self.schedule.total_steps;
        self.finish(learned.last_fault, report, observer)
    }

    /// Whether all steps are taken, or the validation loss has not fallen for long enough.
    fn has_ended(&self) -> bool {
        let patience = self.trainer.arguments().early_stopping_patience;
        let has_waited = self.best.zip(patience).is_some_and(|(best, patience)| best.waited >= patience);
        has_waited || self.trainer.progress().step >= self.schedule.total_steps
    }

    /// Publishes what was trained: the last weights, or the best ones where that was asked for.
    fn finish(
        &mut self,
        last_fault: Option<String>,
        report: &mut RunReport,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let progress = self.trainer.progress();
        if progress.updates == 0 && progress.step > 0 {
            return Err(TrainError::NothingLearned {
                steps: progress.step,
                what: last_fault.unwrap_or_else(|| "the loss or a gradient".to_owned()),
                why: self.trainer.model().why_not_finite(),
            });
        }
        // As transformers does: a finished run can be extended.
        if self.trainer.arguments().save_steps > 0 {
            self.save(observer)?;
        }
        if self.trainer.arguments().load_best_model_at_end
            && let Some(best) = self.best.filter(|best| best.step != progress.step)
        {
            let path = checkpoint::path_of(&self.folder, best.step);
            checkpoint::restore_weights(&mut self.trainer, &path)?;
        }
        let (model, finished): (_, PathBuf) = (self.trainer.model(), self.output().finished());
        again(observer, || match model.lora() {
            Some(_) => save_adapter(model, &finished, self.disk.as_ref()),
            None => save_model(model, &finished, self.disk.as_ref()),
        })?;
        observer.saved(&finished);
        // A run that was killed between a checkpoint and this, and had nothing left to save.
        self.prune(observer);
        match self.trainer.model().lora() {
            Some(_) => report.adapter = Some(finished),
            None => report.model = Some(finished),
        }
        Ok(())
    }

    /// A step, and whether the validation loss is due after it; `None` where the observer stopped it before it was done.
    fn one_step(
        &mut self,
        before: &Position,
        clock: &mut Instant,
        report: &mut RunReport,
        observer: &mut dyn Observer,
    ) -> Result<Option<(StepMetrics, bool)>, TrainError> {
        let arguments = self.trainer.arguments();
        let (rows, batches) = (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps);
        let (eval_steps, base_rate) = (arguments.eval_steps, arguments.learning_rate);
        let step = self.trainer.progress().step;
        let lr = base_rate * self.schedule.factor(step);
        let taken = take_batches(self.data.as_mut(), rows as usize, batches as usize);
        let (batches, tokens) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                self.data.seek(before)?;
                return Err(error);
            }
        };
        let done = match self.trainer.step_unless(&batches, lr, &mut || observer.wants_stop()) {
            Ok(Some(done)) => done,
            other => {
                self.data.seek(before)?;
                return other.map(|_| None);
            }
        };
        let seconds = clock.elapsed().as_secs_f64();
        *clock = Instant::now();
        report.tokens += tokens;
        report.train_seconds += seconds;
        report.peak_bytes = report.peak_bytes.max(done.peak_bytes);
        report.last_loss = Some(done.loss).filter(|loss| loss.is_finite());
        let metrics = StepMetrics {
            step: done.step,
            loss: done.loss,
            lr,
            grad_norm: done.grad_norm,
            tokens_per_s: tokens as f64 / seconds.max(1e-9),
            peak_bytes: done.peak_bytes,
            tokens,
            epoch: self.epochs_at(done.step),
            skipped: done.skipped,
            not_finite: done.not_finite,
            eval_loss: None,
        };
        let is_last = done.step == self.schedule.total_steps;
        let is_due = is_last || (eval_steps > 0 && done.step.is_multiple_of(eval_steps));
        Ok(Some((metrics, is_due)))
    }

    /// Epochs that are through after a step, the part of the running one included where its rows were counted.
    fn epochs_at(&self, step: u64) -> f64 {
        match self.rows_per_epoch.map(|rows| self.trainer.arguments().steps_per_epoch(rows)) {
            Some(steps @ 1..) => step as f64 / steps as f64,
            _ => self.data.epoch() as f64,
        }
    }

    fn stop(&mut self, report: &mut RunReport, observer: &mut dyn Observer) -> Result<(), TrainError> {
        report.stopped = true;
        self.save(observer)
    }

    /// Writes a checkpoint of where the run is, unless it stands already.
    fn save(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let step = self.trainer.progress().step;
        let stands = self.last_saved.as_ref().is_some_and(|(saved, _)| *saved == step);
        if stands || step == 0 || self.trainer.is_damaged() {
            return Ok(());
        }
        let run = RunState {
            position: self.data.position(),
            schedule: &self.schedule,
            best: self.best,
            unmeasured: self.unmeasured.as_ref(),
        };
        let (trainer, folder, disk) = (&mut self.trainer, &self.folder, self.disk.as_ref());
        let path = again(observer, || checkpoint::save(trainer, &run, folder, disk))?;
        observer.saved(&path);
        self.last_saved = Some((step, path));
        self.prune(observer);
        Ok(())
    }

    /// Removes the oldest checkpoints beyond the limit; that one cannot be removed is a warning.
    fn prune(&self, observer: &mut dyn Observer) {
        let arguments = self.trainer.arguments();
        if let (Some(limit), Some((_, newest))) = (arguments.save_total_limit, &self.last_saved) {
            let best = self.best.filter(|_| arguments.load_best_model_at_end).map(|best| best.step);
            if let Err(error) = checkpoint::prune(&self.folder, limit, newest, best, self.disk.as_ref()) {
                observer.warned(&error);
            }
        }
    }
}
