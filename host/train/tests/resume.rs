//! Runs that are stopped, that meet a full disk, or that go wrong: what stands afterwards, against a run that met nothing.

#[path = "../../checkpoint/tests/common/faulty_disk.rs"]
mod faulty_disk;

mod common;

use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
};

use common::{House, Unsupervised, arguments, assert_same, left};
use faulty_disk::{Fault, FaultyDisk};
use rustix::io::Errno;
use unswag_checkpoint::{Disk, RealDisk};
use unswag_train::{
    Allowed, CheckedRun, LoraConfig, Observer, Optim, PlannedRun, Resume, RunReport, Start, TrainError,
    TrainingArguments, Tuning, UnswagModel,
};

/// Stops the run when it is asked for the n-th time, and notes what it heard.
#[derive(Default)]
struct Stopper {
    stops_at: Option<usize>,
    asked: usize,
    tries: usize,
    tries_again: bool,
    warnings: Vec<String>,
}

impl Observer for Stopper {
    fn wants_stop(&mut self) -> bool {
        self.asked += 1;
        self.stops_at == Some(self.asked)
    }

    fn tries_again(&mut self, error: &TrainError) -> bool {
        assert!(error.is_disk_full(), "{error}");
        self.tries += 1;
        self.tries_again
    }

    fn warned(&mut self, warning: &TrainError) {
        self.warnings.push(warning.to_string());
    }
}

fn end(house: &House, folder: &str, arguments: TrainingArguments, observer: &mut dyn Observer) -> RunReport {
    let mut trainer = house.trainer(folder, arguments);
    trainer.resume(&Resume::Auto).expect("sound");
    trainer.train(observer).expect("trained")
}

#[test]
fn stopped_at_any_batch_a_run_comes_to_the_same_bits() {
    let house = House::new();
    use Optim::*;
    for optim in [AdamwTorch, Adamw8bit, Lion32bit, Lion8bit, PagedAdamw32bit, PagedAdamw8bit, PagedLion8bit] {
        let whole = format!("whole {optim:?}");
        let report = end(&house, &whole, arguments(optim), &mut ());
        assert!(report.steps > 4, "{} steps", report.steps);
        let mut stops = 0;
        for stops_at in 1.. {
            let folder = format!("stopped {optim:?} {stops_at}");
            let report =
                end(&house, &folder, arguments(optim), &mut Stopper { stops_at: Some(stops_at), ..Stopper::default() });
            if !report.stopped {
                break;
            }
            stops += 1;
            end(&house, &folder, arguments(optim), &mut ());
            // The checkpoint of the stop is one more than the run that was not stopped has.
            let stopped = report.checkpoint.filter(|_| report.steps % 2 == 1);
            stopped.iter().for_each(|path| fs::remove_dir_all(path).expect("removed"));
            assert_same(&house.path(&folder), &house.path(&whole), &folder);
            fs::remove_dir_all(house.path(&folder)).expect("removed");
            // All of one optimizer's places; of the others those in its first step and at the second's start.
            if optim != Optim::Adamw8bit && stops > 4 {
                break;
            }
        }
        assert!(stops > 4, "only {stops} places to stop at");
    }
}

/// Asked between the rows of an evaluation, too: an evaluation that was cut short is repeated when the run resumes.
#[test]
fn stopped_while_it_measures_a_run_has_every_measurement_in_the_end() {
    let house = House::new();
    let arguments = || TrainingArguments {
        eval_steps: 2,
        load_best_model_at_end: true,
        early_stopping_patience: Some(9),
        max_steps: Some(4),
        gradient_accumulation_steps: 1,
        save_steps: 0,
        ..arguments(Optim::AdamwTorch)
    };
    let end = |folder: &str, observer: &mut dyn Observer| {
        let mut trainer = house.trainer(folder, arguments()).with_validation(Box::new(house.validation()));
        trainer.resume(&Resume::Auto).expect("sound");
        trainer.train(observer).expect("trained")
    };
    let whole = end("whole", &mut ());
    assert!(whole.eval_loss.is_some() && whole.best_step.is_some(), "{whole:?}");
    // Before the second step, within each of the two measurements, and where all rows of the last one are through.
    for (stops_at, is_measuring) in [(2, false), (4, true), (8, true), (10, true)] {
        let folder = format!("stopped {stops_at}");
        let report = end(&folder, &mut Stopper { stops_at: Some(stops_at), ..Stopper::default() });
        let checkpoint = report.checkpoint.expect("saved");
        let state = fs::read_to_string(checkpoint.join("trainer_state.json")).expect("there");
        assert_eq!((report.stopped, state.contains("\"unmeasured\"")), (true, is_measuring), "{folder}");
        let report = end(&folder, &mut ());
        assert_eq!((report.eval_loss, report.best_eval_loss), (whole.eval_loss, whole.best_eval_loss), "{folder}");
        let lines = |folder: &str| {
            left(&house.path(folder)).into_iter().find(|(name, _)| name == "metrics.jsonl").expect("lines").1
        };
        assert!(lines(&folder) == lines("whole"), "{folder}: the metrics differ");
    }
}

/// A folder that is removed file by file could be seen, and left by a kill, as half of a checkpoint.
#[test]
fn an_old_checkpoint_loses_its_name_before_it_is_removed() {
    let house = House::new();
    // What a kill left between the two.
    let left = house.path("run/.unswag-checkpoint-9.tmp-removed");
    fs::create_dir_all(&left).expect("created");
    fs::write(left.join("optimizer.safetensors"), "half").expect("written");
    let arguments = TrainingArguments {
        max_steps: Some(4),
        gradient_accumulation_steps: 1,
        save_steps: 1,
        save_total_limit: Some(1),
        ..arguments(Optim::Lion32bit)
    };
    house.trainer("run", arguments).with_disk(Box::new(Free(u64::MAX))).train(&mut ()).expect("trained");
    let removed: Vec<String> =
        REMOVED.take().iter().map(|path| path.file_name().unwrap().to_string_lossy().into()).collect();
    for step in 1..4 {
        assert!(removed.contains(&format!(".unswag-checkpoint-{step}.tmp-removed")), "{removed:?}");
    }
    assert!(removed.iter().all(|name| name.starts_with(".unswag-")), "{removed:?}");
    let mut names: Vec<_> =
        fs::read_dir(house.path("run")).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    assert_eq!(names, ["adapter", "checkpoint-4", "metrics.jsonl"]);
}

#[test]
fn a_full_disk_pauses_the_run_and_loses_nothing() {
    let house = House::new();
    end(&house, "whole", arguments(Optim::Adamw8bit), &mut ());
    let (mut paused, mut at) = (0, 0);
    loop {
        let folder = format!("full {at}");
        let mut trainer = house.trainer(&folder, arguments(Optim::Adamw8bit));
        trainer = trainer.with_disk(Box::new(FaultyDisk::new(at, Fault::Once(Errno::NOSPC))));
        let mut observer = Stopper { tries_again: true, ..Stopper::default() };
        let trained = trainer.train(&mut observer);
        // What is refused before the first step is refused outright: nothing is lost then.
        if let Err(error) = trained {
            assert!(error.is_disk_full() && trainer.trainer().progress().step == 0, "change {at}: {error}");
        } else {
            paused += observer.tries;
            assert_same(&house.path(&folder), &house.path("whole"), &folder);
            if observer.tries == 0 && at > 60 {
                break;
            }
        }
        fs::remove_dir_all(house.path(&folder)).expect("removed");
        at += 7;
    }
    assert!(paused > 10, "the disk was full only {paused} times");
}

#[test]
fn a_disk_that_stays_full_ends_the_run_with_what_was_saved() {
    let house = House::new();
    let mut trainer = house.trainer("full", arguments(Optim::AdamwTorch));
    trainer = trainer.with_disk(Box::new(FaultyDisk::new(40, Fault::Error(Errno::NOSPC))));
    let mut observer = Stopper::default();
    let error = trainer.train(&mut observer).expect_err("full");
    assert!(error.is_disk_full(), "{error}");
    assert_eq!(observer.tries, 1);
    drop(trainer);
    end(&house, "whole", arguments(Optim::AdamwTorch), &mut ());
    end(&house, "full", arguments(Optim::AdamwTorch), &mut ());
    assert_same(&house.path("full"), &house.path("whole"), "after the disk was full");
}

/// A disk that says how much is free, and notes what is removed.
struct Free(u64);

thread_local! {
    static REMOVED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
}

macro_rules! real_disk {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        impl Disk for Free {
            $(fn $name(&self, $($argument: $type),*) -> std::io::Result<$result> {
                RealDisk.$name($($argument),*)
            })*

            fn free_bytes(&self, _path: &Path) -> std::io::Result<u64> {
                Ok(self.0)
            }

            fn remove_file(&self, path: &Path) -> std::io::Result<()> {
                REMOVED.with_borrow_mut(|removed| removed.push(path.to_owned()));
                RealDisk.remove_file(path)
            }

            fn remove_tree(&self, path: &Path) -> std::io::Result<()> {
                REMOVED.with_borrow_mut(|removed| removed.push(path.to_owned()));
                RealDisk.remove_tree(path)
            }
        }
    };
}

real_disk! {
    create_dir(path: &Path) -> ();
    create_file(path: &Path) -> fs::File;
    open_lock(path: &Path) -> fs::File;
    write_at(file: &fs::File, bytes: &[u8], offset: u64) -> usize;
    copy_range(from: &fs::File, from_offset: u64, to: &fs::File, to_offset: u64, bytes: u64) -> u64;
    clone_file(from: &fs::File, to: &fs::File) -> ();
    set_len(file: &fs::File, bytes: u64) -> ();
    hard_link(from: &Path, to: &Path) -> ();
    rename(from: &Path, to: &Path) -> ();
    exchange(a: &Path, b: &Path) -> ();
    set_mode(path: &Path, mode: u32) -> ();
    sync(file: &fs::File) -> ();
    sync_dir(path: &Path) -> ();
}

#[test]
fn too_little_space_is_said_before_the_first_step_and_a_limit_makes_it_enough() {
    let house = House::new();
    let many = TrainingArguments { save_steps: 1, ..arguments(Optim::AdamwTorch) };
    let plan = house.trainer("run", many.clone()).plan();
    let free = plan.disk_bytes - 1;
    let error =
        house.trainer("run", many.clone()).with_disk(Box::new(Free(free))).train(&mut ()).expect_err("no space");
    assert!(matches!(error, TrainError::DiskSpace { .. }), "{error}");
    assert!(error.to_string().contains("save_total_limit"), "{error}");
    assert!(!house.path("run").exists());
    let few = TrainingArguments { save_total_limit: Some(1), ..many };
    house.trainer("run", few).with_disk(Box::new(Free(free))).train(&mut ()).expect("enough");
}

#[test]
fn too_little_space_for_paged_state_is_said_before_the_first_step() {
    let house = House::new();
    let trainer = || house.trainer("run", arguments(Optim::PagedAdamw8bit));
    let plan = trainer().plan();
    assert!(plan.paged_bytes > common::BUDGET, "{plan:?}");
    let needed = plan.disk_bytes + plan.paged_bytes;
    let error = trainer().with_disk(Box::new(Free(needed - 1))).train(&mut ()).expect_err("no space").to_string();
    assert!(error.contains("the checkpoints of this run and its optimizer's paged state will take"), "{error}");
    assert!(!house.path("run").exists());
    trainer().with_disk(Box::new(Free(needed))).train(&mut ()).expect("enough");
}

/// Kills between a checkpoint and the removal of older ones, the last of them where nothing was left to save.
#[test]
fn a_run_that_only_finishes_removes_old_checkpoints_too() {
    let house = House::new();
    let run = |save_total_limit: Option<u64>| {
        let arguments =
            TrainingArguments { max_steps: Some(3), save_steps: 1, save_total_limit, ..arguments(Optim::AdamwTorch) };
        let mut trainer = house.trainer("run", arguments);
        trainer.resume(&Resume::Auto).expect("sound");
        trainer.train(&mut ()).expect("trained")
    };
    run(None);
    fs::remove_dir_all(house.path("run/adapter")).expect("removed");
    run(Some(1));
    let names: Vec<_> = (1..=3).filter(|step| house.path(&format!("run/checkpoint-{step}")).exists()).collect();
    assert_eq!(names, [3]);
}

#[test]
fn weights_that_are_not_finite_are_never_saved_over_good_ones() {
    let house = House::new();
    // The warm-up's first step has rate 0; the second is more than an f32 holds.
    let wild = TrainingArguments { learning_rate: 1e39, save_steps: 1, ..arguments(Optim::AdamwTorch) };
    let mut trainer = house.trainer("run", wild);
    let mut observer = Stopper::default();
    let error = trainer.train(&mut observer).expect_err("not finite").to_string();
    assert!(error.contains("is not finite, and was not saved"), "{error}");
    let names: Vec<_> = left(&house.path("run")).into_iter().map(|(name, _)| name).collect();
    assert!(names.iter().any(|name| name.starts_with("checkpoint-1/")), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with("checkpoint-2") || name.starts_with("adapter/")), "{names:?}");
}

#[test]
fn steps_that_are_not_finite_teach_nothing_and_too_many_end_the_run() {
    let house = House::new();
    let weights = house.path("model/model.safetensors");
    let mut bytes = fs::read(&weights).expect("there");
    // A bf16 NaN at the end of the last tensor: every logit is NaN.
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&0x7fc0u16.to_le_bytes());
    fs::write(&weights, bytes).expect("written");
    let mut trainer =
        house.trainer("run", TrainingArguments { max_skipped_in_a_row: 3, ..arguments(Optim::AdamwTorch) });
    let error = trainer.train(&mut ()).expect_err("never finite").to_string();
    assert!(error.starts_with("step 3: ") && error.contains("3 times in a row"), "{error}");
    assert_eq!(trainer.trainer().progress().skipped_steps, 2);
}

#[test]
fn an_output_inside_the_base_is_refused_before_the_first_step() {
    let house = House::new();
    let error = house.trainer("model/run", arguments(Optim::AdamwTorch)).train(&mut ()).expect_err("refused");
    assert!(error.to_string().contains("inside the base"), "{error}");
}

fn short(max_steps: u64) -> TrainingArguments {
    TrainingArguments {
        max_steps: Some(max_steps),
        per_device_train_batch_size: 1,
        gradient_accumulation_steps: 1,
        save_steps: 1,
        ..arguments(Optim::Lion32bit)
    }
}

#[test]
fn a_refused_run_removes_nothing_and_leaves_no_folder() {
    let house = House::new();
    let unsupervised = || Box::new(Unsupervised(house.validation()));
    house.trainer("run", short(1)).train(&mut ()).expect("trained");
    let before = left(&house.path("run"));
    let new = |folder: &str| house.trainer(folder, short(1)).replacing_earlier_run();
    let error = new("run").with_validation(unsupervised()).train(&mut ()).expect_err("nothing to measure");
    assert!(matches!(error, TrainError::NothingSupervised), "{error}");
    let error = new("run").with_disk(Box::new(Free(0))).train(&mut ()).expect_err("no space");
    assert!(matches!(error, TrainError::DiskSpace { .. }), "{error}");
    assert!(left(&house.path("run")) == before, "what was refused has removed files");

    for folder in ["new", "above/new"] {
        let error = new(folder).with_validation(unsupervised()).train(&mut ()).expect_err("nothing to measure");
        assert!(matches!(error, TrainError::NothingSupervised), "{error}");
        new(folder).with_disk(Box::new(Free(0))).train(&mut ()).expect_err("no space");
    }
    let free = new("run").plan().disk_bytes - 1;
    assert!(!house.path("new").exists() && !house.path("above").exists());

    // The space of what is removed counts; and each folder loses its name before it is removed.
    REMOVED.take();
    new("run").with_disk(Box::new(Free(free))).train(&mut ()).expect("there is room once the earlier run is removed");
    let hidden = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(".unswag-");
    let removed = REMOVED.take();
    let run = removed.iter().filter(|path| !path.ends_with("metrics.jsonl")).collect::<Vec<_>>();
    assert!(run.len() >= 2 && run.iter().all(|path| hidden(path)), "{removed:?}");
}

#[test]
fn a_readme_beside_an_adapter_outlives_the_adapter() {
    let house = House::new();
    house.trainer("run", short(1)).train(&mut ()).expect("trained");
    let readme = house.path("run/adapter/README.md");
    fs::write(&readme, "my card").expect("written");
    end(&house, "run", short(2), &mut ());
    assert_eq!(fs::read_to_string(&readme).expect("kept by a resumed run"), "my card");
    // Stopped before its first step, a new run has removed the adapter, and the card is no adapter.
    let mut stops = Stopper { stops_at: Some(1), ..Stopper::default() };
    house.trainer("run", short(1)).replacing_earlier_run().train(&mut stops).expect("stopped");
    assert_eq!(fs::read_dir(house.path("run/adapter")).expect("a folder").count(), 1);
    house.trainer("run", short(1)).train(&mut ()).expect("no earlier run is there");
    assert_eq!(fs::read_to_string(&readme).expect("kept by a new run"), "my card");
    assert_eq!(fs::read_dir(house.path("run/adapter")).expect("a folder").count(), 3);
}

#[test]
fn only_checkpoints_of_this_program_are_removed_or_written_over() {
    let house = House::new();
    house.trainer("run", short(2)).train(&mut ()).expect("trained");
    let foreign = |step: u64| {
        let path = house.path(&format!("run/checkpoint-{step}"));
        fs::create_dir_all(&path).expect("created");
        for name in ["adapter_model.safetensors", "adapter_config.json"] {
            fs::copy(house.path("run/adapter").join(name), path.join(name)).expect("copied");
        }
        path
    };
    fs::remove_dir_all(house.path("run/checkpoint-1")).expect("removed");
    let (old, later) = (foreign(1), foreign(4));
    let refused = |trainer: &mut unswag_train::UnswagTrainer| {
        let error = trainer.train(&mut ()).expect_err("it is not ours").to_string();
        assert!(error.contains("not an unswag checkpoint"), "{error}");
    };
    refused(&mut house.trainer("run", short(1)).replacing_earlier_run());
    let limited = TrainingArguments { save_total_limit: Some(1), ..short(4) };
    let mut trainer = house.trainer("run", limited.clone());
    trainer.resume(&Resume::Auto).expect("the second step's is ours");
    refused(&mut trainer);
    drop(trainer);
    fs::remove_dir_all(&later).expect("removed");
    // Nor does the limit count it.
    let mut hears = Stopper::default();
    end(&house, "run", limited, &mut hears);
    assert!(old.join("adapter_config.json").exists() && house.path("run/checkpoint-4").exists());
    assert!(!house.path("run/checkpoint-3").exists() && !house.path("run/checkpoint-2").exists());
    assert!(hears.warnings.iter().all(|warning| !warning.contains("remove")), "{:?}", hears.warnings);
    // A folder under the name of a file is no checkpoint.
    fs::create_dir_all(house.path("run/checkpoint-9/trainer_state.json")).expect("created");
    fs::remove_dir_all(&old).expect("removed");
    let error = house.trainer("run", short(1)).replacing_earlier_run().train(&mut ()).expect_err("refused");
    assert!(error.to_string().contains("contains trainer_state.json, which is not part of a checkpoint"), "{error}");
}

/// What a run into this folder would do, without a weight read.
fn checked(
    house: &House,
    start: &Start<'_>,
    arguments: &TrainingArguments,
    folder: &str,
    resume: Option<Resume>,
) -> Result<(CheckedRun, u64), String> {
    let model = UnswagModel::from_pretrained(&house.path("model")).expect("a model");
    let planned = model.planned(start).map_err(|error| error.to_string())?;
    let data = house.data();
    let run = PlannedRun {
        model: &planned,
        arguments,
        data: &data,
        validation: None,
        folder: &house.path(folder),
        resume: resume.as_ref(),
        allowed: &Allowed::default(),
        replaces: false,
    };
    Ok((run.check().map_err(|error| error.to_string())?, planned.trainable_parameters()))
}

#[test]
fn what_the_run_would_refuse_is_refused_before_a_weight_is_read() {
    let house = House::new();
    let arguments = arguments(Optim::AdamwTorch);
    let report = end(&house, "run", arguments.clone(), &mut ());
    let new = Tuning::Lora(house.lora());
    let check = |start: &Start<'_>, folder: &str, resume| checked(&house, start, &arguments, folder, resume);
    let trained = house.model().trainable_parameters();

    let (fresh, parameters) = check(&Start::New(&new), "fresh", None).expect("it may start");
    assert_eq!((fresh.first_step, fresh.total_steps, parameters), (0, report.steps, trained));
    assert!(!house.path("fresh").exists());
    let (resumed, _) = check(&Start::New(&new), "run", Some(Resume::Auto)).expect("nothing changed");
    assert_eq!((resumed.first_step, resumed.total_steps), (report.steps, report.steps));

    // An adapter has its own rank, whatever the settings say, and a run from it trains as much as it has.
    let folder = report.adapter.expect("an adapter");
    let adapter = |folder| Start::Adapter { folder, lora_dropout: 0.0, seed: 1 };
    assert_eq!(check(&adapter(&folder), "fresh", None).expect("it may start").1, trained);
    let missing = house.path("nope");

    let other = |change: &dyn Fn(&mut LoraConfig)| {
        let mut config = house.lora();
        change(&mut config);
        Tuning::Lora(config)
    };
    let auto = || Some(Resume::Auto);
    let from = |name: &str| Some(Resume::From(house.path(name)));
    let rslora = other(&|config| config.use_rslora = true);
    let targets = other(&|config| config.target_modules = vec!["q_proj".into()]);
    let saved = other(&|config| config.modules_to_save = vec!["nrom".into()]);
    for (start, folder, resume, says) in [
        (adapter(&missing), "fresh", None, "expected an adapter's folder"),
        (
            Start::New(&saved),
            "fresh",
            None,
            "no module of this model that has weights is named \"nrom\" (did you mean \"norm\"?)",
        ),
        (Start::New(&new), "run", None, "of an earlier run"),
        (Start::New(&new), "text.txt", None, "text.txt: expected a folder to write into"),
        (Start::New(&new), "text.txt/run", None, "text.txt: expected a folder to write into"),
        (Start::New(&rslora), "run", auto(), "use_rslora was false and is true"),
        (Start::New(&targets), "run", auto(), "lora_target_modules was"),
        (Start::New(&Tuning::Full), "run", auto(), "full_finetuning was not set"),
        (Start::New(&new), "run", from("run"), "it is a run's folder, which holds checkpoint-2, checkpoint-4"),
        (Start::New(&new), "run", from("run/checkpoint-99"), "there is no such checkpoint"),
        (Start::New(&new), "run", from("nope"), "there is no such folder"),
        (Start::New(&new), "run", from("model"), "it has no trainer_state.json"),
    ] {
        let error = check(&start, folder, resume).map(|(checked, _)| checked).expect_err(says);
        assert!(error.contains(says), "{says}: {error}");
    }
    let paged = common::arguments(Optim::PagedAdamw32bit);
    let elsewhere = TrainingArguments { offload_folder: Some(missing), max_row_tokens: Some(32), ..paged };
    let error = checked(&house, &Start::New(&new), &elsewhere, "fresh", None).expect_err("no folder");
    assert!(error.contains("offload_folder: expected a folder that is there"), "{error}");
}

#[test]
fn what_differs_of_a_resumed_run_is_said_and_its_loss_is_that_of_its_own_steps() {
    let house = House::new();
    let arguments = |max_steps| TrainingArguments {
        max_steps: Some(max_steps),
        gradient_accumulation_steps: 1,
        ..arguments(Optim::Lion32bit)
    };
    end(&house, "run", arguments(4), &mut ());
    let optimizer = house.path("run/checkpoint-4/optimizer.safetensors");
    let mut bytes = fs::read(&optimizer).expect("there");
    *bytes.last_mut().expect("bytes") ^= 1;
    fs::write(&optimizer, bytes).expect("written");
    let mut stopper = Stopper::default();
    let report = end(&house, "run", arguments(3), &mut stopper);
    assert_eq!((report.steps, report.train_loss_steps), (3, 1));
    let [warning] = stopper.warnings.as_slice() else { panic!("{:?}", stopper.warnings) };
    assert!(warning.ends_with("; checkpoint-2 is used instead"), "{warning}");
    let changes = report.resumed.expect("it resumed").changes;
    let said: Vec<String> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(said, ["max_steps was 4 and is 3; the learning rate follows the schedule of 3 steps"]);

    // What may differ is not among the reasons of a refusal.
    let mut other = house.trainer("run", TrainingArguments { weight_decay: 0.5, ..arguments(5) });
    let error = other.resume(&Resume::Auto).expect_err("another weight decay").to_string();
    assert!(error.contains("weight_decay was 0.1 and is 0.5") && !error.contains("max_steps"), "{error}");
}
