//! `unswag train` as a user runs it: on a tiny checkpoint, with real text, killed and gone on with.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use unswag_tests::{Family, Run, smollm2, smollm2_gguf, unswag, unswag_torch};

use crate::house::{House, names};

/// A house with a tiny model and a text of which every step reads another part.
pub fn house() -> House {
    unswag_torch();
    let house = House::without_plugins();
    house.tiny(Family::Llama, "model");
    house.text();
    house
}

pub fn train<'a>(output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let common = ["train", "model", "--data", "text.txt", "--block-size", "48", "--learning-rate", "1e-2"];
    [&common[..], &["--lora-r", "4", "-o", output], more].concat()
}

pub fn metrics(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).expect("each line is an object")).collect()
}

/// The figures of each step that do not depend on the machine's speed.
fn steps(folder: &Path) -> Vec<(u64, String, String, String)> {
    let text = |line: &Value, field: &str| line[field].to_string();
    let step = |line: Value| {
        (line["step"].as_u64().unwrap(), text(&line, "loss"), text(&line, "grad_norm"), text(&line, "lr"))
    };
    metrics(folder).into_iter().map(step).collect()
}

fn adapter(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("adapter/adapter_model.safetensors")).unwrap()
}

#[test]
fn the_loss_falls_and_the_adapter_is_written() {
    let house = house();
    let report = house.json(&train("run", &["--max-steps", "30", "--batch-size", "2"]));
    let lines = metrics(&house.path("run"));
    assert_eq!(lines.len(), 30);
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["step"], index + 1);
        for field in ["loss", "lr", "grad_norm", "tokens_per_s", "peak_bytes"] {
            assert!(line[field].as_f64().is_some_and(|value| value >= 0.0), "{field} of {line}");
        }
    }
    let mean =
        |lines: &[Value]| lines.iter().map(|line| line["loss"].as_f64().unwrap()).sum::<f64>() / lines.len() as f64;
    assert!(mean(&lines[25..]) < 0.8 * mean(&lines[..5]), "{} to {}", mean(&lines[..5]), mean(&lines[25..]));
    assert_eq!(report["steps"], 30);
    assert_eq!(names(&house.path("run")), ["adapter", "checkpoint-30", "metrics.jsonl"]);
    assert_eq!(names(&house.path("run/adapter")), ["adapter_config.json", "adapter_model.safetensors"]);
}

#[test]
fn all_of_a_model_is_trained_and_goes_on_from_a_checkpoint_to_the_same_bits() {
    let house = house();
    let common = ["train", "model", "--data", "text.txt", "--block-size", "48", "--learning-rate", "1e-2"];
    let full = |output: &'static str, more: &[&'static str]| {
        let rest = ["--full-finetuning", "--max-steps", "12", "--save-steps", "6", "-o", output];
        [&common[..], &rest, more].concat()
    };
    let report = house.json(&full("full", &[]));
    assert_eq!((&report["model"], &report["adapter"]), (&"full/model".into(), &Value::Null));
    assert_eq!(report["peak_bytes"], report["planned_peak_bytes"]);
    assert_eq!(names(&house.path("full")), ["checkpoint-12", "checkpoint-6", "metrics.jsonl", "model"]);
    assert_eq!(names(&house.path("full/model")), names(&house.path("model")));
    let loss = |model: &str| {
        let page = house.json(&["eval", model, "--data", "text.txt", "--block-size", "48"]);
        page["loss"].as_f64().unwrap()
    };
    let (before, after) = (loss("model"), loss("full/model"));
    assert!(after < 0.9 * before, "{before}, then {after}");

    house.run(&full("again", &["--resume-from-checkpoint", "full/checkpoint-6"])).ok();
    let weights = |run: &str| fs::read(house.path(run).join("model/model.safetensors")).unwrap();
    assert!(weights("again") == weights("full"), "the models differ");
    let said = house.run(&full("other", &["--lora-r", "8"])).code(2).to_owned();
    assert!(said.contains("--full-finetuning") && said.contains("cannot be used with"), "{said}");
    let lora = train("lora", &["--max-steps", "12", "--resume-from-checkpoint", "full/checkpoint-6"]);
    assert!(house.run(&lora).code(2).contains("full_finetuning"));
}

/// Where there is one, the engine's own tests run there too.
#[test]
fn a_device_that_is_not_there_is_refused_before_anything_is_read() {
    let house = house();
    let outcome = house.run(&train("run", &["--device", "cuda", "--max-steps", "1"]));
    if outcome.status.success() {
        return;
    }
    assert!(outcome.code(2).contains("no CUDA device can be used"), "{}", outcome.stderr);
    assert!(!house.path("run").exists());
    let plan = house.run(&["plan", "model", "--device", "cuda", "--memory-budget", "1GiB"]);
    assert!(plan.ok().contains("a step of"), "a plan with a budget needs no device: {}", plan.stdout);
}

#[test]
fn a_dry_run_writes_nothing() {
    let house = house();
    let before = house.names();
    let page = house.json(&train("run", &["--num-epochs", "2", "--dry-run"]));
    assert_eq!(house.names(), before);
    let rows = page["epoch"]["rows"].as_u64().unwrap();
    assert_eq!(page["steps"].as_u64().unwrap(), 2 * rows);
    assert!(page["planned_peak_bytes"].as_u64().unwrap() > 0);
    crate::results::documented(&page);
    // What the run would refuse, it refuses, and a resumed run begins where its checkpoint is.
    house.run(&train("run", &["--max-steps", "2"])).ok();
    let again = train("run", &["--max-steps", "4", "--dry-run"]);
    assert!(house.run(&again).code(2).contains("of an earlier run"));
    let resumed = house.json(&[&again[..], &["--resume-from-checkpoint", "auto"]].concat());
    assert_eq!((&resumed["first_step"], &resumed["steps"]), (&2.into(), &4.into()));
    let missing = ["train", "model", "--data", "text.txt", "--adapter", "nope", "-o", "other", "--dry-run"];
    assert!(house.run(&missing).code(2).contains("nope: expected an adapter's folder"));
}

pub fn spawn(house: &House, args: &[&str]) -> Child {
    house.command(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until so many lines of metrics stand, or the process has ended.
pub fn wait_for_lines(child: &mut Child, folder: &Path, lines: usize) {
    let start = Instant::now();
    let count = || fs::read_to_string(folder.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    while count() < lines && child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(120), "no {lines} steps");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Checkpoints every third step, an accumulation, two epochs' worth of steps, an 8-bit state.
const LONG: &[&str] = &[
    "--max-steps",
    "24",
    "--save-steps",
    "3",
    "--save-total-limit",
    "2",
    "--gradient-accumulation-steps",
    "2",
    "--optim",
    "adamw_8bit",
    "--lr-scheduler-type",
    "cosine",
    "--warmup-steps",
    "4",
];

#[test]
fn after_kill_9_a_run_goes_on_to_the_same_bits() {
    goes_on_after_kill_9(LONG);
}

#[test]
fn after_kill_9_a_run_with_paged_state_goes_on_to_the_same_bits() {
    let folder = disk();
    let folder = folder.path().to_str().unwrap();
    let paged = ["paged_adamw", "--optim-memory-budget", "64KiB", "--offload-folder", folder];
    let at = LONG.iter().position(|word| *word == "adamw_8bit").unwrap();
    goes_on_after_kill_9(&[&LONG[..at], &paged, &LONG[at + 1..]].concat());
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0, "nothing is left behind");
}

/// A folder on a disk: temporary folders may be in memory, where nothing would be gained.
fn disk() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn goes_on_after_kill_9(long: &[&str]) {
    let house = house();
    house.run(&train("whole", long)).ok();
    let resume = [long, &["--resume-from-checkpoint", "auto"]].concat();
    let killed = house.path("killed");
    let mut kills = 0;
    for lines in [1, 4, 7, 11, 16] {
        let mut child = spawn(&house, &train("killed", &resume));
        wait_for_lines(&mut child, &killed, lines);
        // Into whatever comes next: a step, a checkpoint in the making, the removal of an old one.
        thread::sleep(Duration::from_millis(7 * lines as u64));
        child.kill().unwrap();
        kills += u64::from(child.wait().unwrap().code().is_none());
    }
    assert!(kills > 0, "every run had ended before it was killed");
    house.run(&train("killed", &resume)).ok();
    assert!(adapter(&killed) == adapter(&house.path("whole")), "the adapters differ");
    assert_eq!(steps(&killed), steps(&house.path("whole")));
    assert_eq!(names(&killed), ["adapter", "checkpoint-21", "checkpoint-24", "metrics.jsonl"]);
    for name in ["adapter_model.safetensors", "optimizer.safetensors", "trainer_state.json"] {
        let file = |run: &str| fs::read(house.path(run).join("checkpoint-24").join(name)).unwrap();
        assert!(file("whole") == file("killed"), "{name} differs");
    }
}

#[test]
fn an_interrupt_writes_a_checkpoint_and_ends_with_130() {
    let house = house();
    let args = ["--max-steps", "40", "--save-steps", "0"];
    house.run(&train("whole", &args)).ok();
    let mut child = spawn(&house, &train("run", &args));
    wait_for_lines(&mut child, &house.path("run"), 3);
    // SAFETY: kill takes no pointer, and the child is not reaped yet, so the id is its.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!house.path("run/adapter").exists());
    let checkpoints: Vec<_> =
        names(&house.path("run")).into_iter().filter(|name| name.starts_with("checkpoint-")).collect();
    assert_eq!(checkpoints.len(), 1, "{checkpoints:?}");
    let said = house.run(&train("run", &args)).code(2).to_owned();
    assert!(said.contains("earlier run") && said.contains("--resume-from-checkpoint"), "{said}");
    house.run(&train("run", &[&args[..], &["--resume-from-checkpoint", "auto"]].concat())).ok();
    assert!(adapter(&house.path("run")) == adapter(&house.path("whole")), "the adapters differ");
}

#[test]
fn other_settings_are_refused_by_name_and_a_damaged_checkpoint_is_passed_over() {
    let house = house();
    house.run(&train("run", LONG)).ok();
    let resume = |more: &[&'static str]| {
        let args: Vec<&str> =
            LONG.iter().copied().chain(["--resume-from-checkpoint", "auto"]).chain(more.iter().copied()).collect();
        house.run(&train("run", &args)).code(2).to_owned()
    };
    let said = resume(&["--seed", "7"]);
    assert!(said.contains("seed was 42 and is 7"), "{said}");
    let said = resume(&["--weight-decay", "0.1"]);
    assert!(said.contains("weight_decay was 0"), "{said}");
    let said = resume(&["--overlap", "4"]);
    assert!(said.contains("data differs") && said.contains("--overlap"), "{said}");
    let weights = house.path("run/checkpoint-24/optimizer.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    let args = [LONG, &["--resume-from-checkpoint", "auto"]].concat();
    let outcome = house.run(&train("run", &args));
    outcome.ok();
    let said = outcome.stderr;
    assert!(
        said.contains("resuming from run/checkpoint-21") && said.contains("checkpoint-21 is used instead"),
        "{said}"
    );
    let args = [LONG, &["--resume-from-checkpoint", "run/checkpoint-22"]].concat();
    let said = house.run(&train("run", &args)).code(2).to_owned();
    assert!(said.contains("checkpoint-22"), "{said}");
}

#[test]
fn what_a_finished_run_left_is_not_trained_over() {
    let house = house();
    house.run(&train("run", &["--max-steps", "2", "--save-steps", "0"])).ok();
    let before = adapter(&house.path("run"));
    let said = house.run(&train("run", &["--max-steps", "2"])).code(2).to_owned();
    assert!(said.contains("an earlier run"), "{said}");
    // It saved no checkpoint: nothing to go on from, and an adapter that would be lost.
    let again = train("run", &["--max-steps", "4", "--resume-from-checkpoint", "auto"]);
    let said = house.run(&again).code(2).to_owned();
    assert!(said.contains("no complete checkpoint") && said.contains("contains adapter"), "{said}");
    assert!(adapter(&house.path("run")) == before && metrics(&house.path("run")).len() == 2);
}

#[test]
fn validation_rows_are_measured_and_not_trained_on() {
    let house = house();
    let split = ["--validation-split", "0.2", "--eval-steps", "2", "--max-steps", "4"];
    let report = house.json(&train("run", &split));
    let lines = metrics(&house.path("run"));
    let losses: Vec<(u64, f64)> =
        lines.iter().filter_map(|line| Some((line["step"].as_u64()?, line["eval_loss"].as_f64()?))).collect();
    assert_eq!(losses.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 4], "{lines:?}");
    assert!(losses[1].1 < losses[0].1, "what was not trained on is learned too: {losses:?}");
    let measured = losses[1].1;
    let whole = house.json(&train("whole", &["--num-epochs", "1", "--dry-run"]));
    let part = house.json(&train("part", &["--num-epochs", "1", "--validation-split", "0.2", "--dry-run"]));
    let rows = |page: &Value| page["epoch"]["rows"].as_u64().unwrap();
    assert!(rows(&part) < rows(&whole) && rows(&part) > rows(&whole) / 2, "{part} of {whole}; {report}");
    // Without a rhythm the loss is measured once, at the end.
    let report = house.json(&train("end", &["--validation-split", "0.2", "--max-steps", "4"]));
    let lines = metrics(&house.path("end"));
    let losses: Vec<&Value> = lines.iter().map(|line| &line["eval_loss"]).collect();
    assert_eq!(losses, [&Value::Null, &Value::Null, &Value::Null, &report["eval_loss"]]);
    let last = losses.last().and_then(|loss| loss.as_f64()).expect("a number");
    assert!((last - measured).abs() < 1e-9, "the same steps end at the same loss: {last} and {measured}");
}

#[test]
fn a_run_in_use_is_not_written_to() {
    let house = house();
    let mut child = spawn(&house, &train("run", &["--max-steps", "100000", "--save-steps", "0"]));
    wait_for_lines(&mut child, &house.path("run"), 1);
    let args = train("run", &["--max-steps", "2", "--resume-from-checkpoint", "auto"]);
    let said = house.run(&args).code(2).to_owned();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(said.contains("another run is writing here"), "{said}");
}

#[test]
fn without_the_program_or_its_library_the_next_step_is_said() {
    let house = house();
    // A copy of the program alone, as where libtorch was never installed.
    let alone = house.path("alone");
    fs::create_dir(&alone).unwrap();
    fs::copy(unswag(), alone.join("unswag")).unwrap();
    // What lies in the working directory is never taken.
    fs::write(house.path("unswag-torch"), "#!/bin/sh\necho hijacked\n").unwrap();
    fs::set_permissions(house.path("unswag-torch"), fs::Permissions::from_mode(0o755)).unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(alone.join("unswag"));
        command.args(args).current_dir(house.path("")).env_remove("UNSWAG_TORCH").env("PATH", ".:/usr/bin:/bin");
        command.outcome()
    };
    let args = train("run", &["--max-steps", "1"]);
    let said = run(&args).code(2).to_owned();
    assert!(said.contains("unswag-torch") && said.contains("make torch"), "{said}");
    assert!(run(&["train", "--help"]).ok().contains("--lora-r"));
    let said = run(&train("run", &["--lora-ran", "3"])).code(2).to_owned();
    assert!(said.contains("--lora-r"), "{said}");
    assert!(run(&["doctor"]).ok().contains("unswag-torch"));
    // A program whose library is gone: the rpath of a build in the tree is its own.
    fs::write(alone.join("unswag-torch"), without_rpath(&fs::read(unswag_torch()).unwrap())).unwrap();
    fs::set_permissions(alone.join("unswag-torch"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(alone.join("unswag"));
    command.args(&args).current_dir(house.path("")).env_remove("LIBTORCH").env_remove("LD_LIBRARY_PATH").arg0("unswag");
    let said = command.outcome().code(2).to_owned();
    assert!(said.contains("libtorch_cpu.so is not found") && said.contains("LIBTORCH"), "{said}");
    let mut command = Command::new(alone.join("unswag"));
    command.args(&args).current_dir(house.path("")).env_remove("LD_LIBRARY_PATH").env("LIBTORCH", libtorch());
    command.outcome().ok();
}

fn libtorch() -> std::path::PathBuf {
    std::env::var_os("LIBTORCH").map_or_else(|| unswag_tests::cached("libtorch", "libtorch"), Into::into)
}

/// The program with another path in the place of the one to libtorch.
fn without_rpath(program: &[u8]) -> Vec<u8> {
    let lib = libtorch().join("lib");
    let path = lib.to_str().unwrap().as_bytes();
    let mut changed = program.to_vec();
    let mut found = 0;
    for at in 0..program.len() - path.len() {
        if program[at..].starts_with(path) {
            changed[at..at + path.len()].fill(b'x');
            changed[at] = b'/';
            found += 1;
        }
    }
    assert!(found > 0, "the program was not built with a path to {}", lib.display());
    changed
}

#[test]
fn a_step_takes_the_planned_bytes_and_a_budget_is_kept() {
    let house = house();
    let report = |name: &str, more: &[&str]| {
        let report = house.json(&train(name, &[&["--max-steps", "3"], more].concat()));
        let bytes = |field: &str| report[field].as_u64().unwrap_or_else(|| panic!("{field} of {report}"));
        assert_eq!(bytes("peak_bytes"), bytes("planned_peak_bytes"), "{name}");
        (bytes("peak_bytes"), steps(&house.path(name)))
    };
    let (kept, plain) = report("kept", &[]);
    let (checkpointed, again) = report("checkpointed", &["--gradient-checkpointing"]);
    assert!(checkpointed < kept, "{checkpointed} with checkpointing, {kept} without");
    assert_eq!(again, plain, "computing again gives the same bits");
    // Between the two: some blocks keep, some do not.
    let dry = house.json(&train("dry", &["--max-steps", "3", "--dry-run"]));
    let planned = |field: &str| dry[field].as_u64().unwrap_or_else(|| panic!("{field} of {dry}"));
    assert_eq!(planned("planned_peak_bytes"), kept, "what a dry run says is what a run says");
    let parts = ["planned_peak_bytes", "planned_workspace_bytes", "planned_runtime_bytes"].map(planned);
    assert_eq!(planned("planned_growth_bytes"), parts.iter().sum::<u64>());
    // Two moments of each adapter, and its weights in f32.
    assert_eq!(planned("planned_optimizer_bytes"), 3 * 4 * planned("trainable_parameters"));
    let plan = house.json(&["plan", "model", "--seq", "48", "--lora-r", "4"]);
    assert_eq!(plan["plan"]["peak_bytes"], kept, "a plan, a dry run and a run have one peak");
    let budget = ((kept + checkpointed) / 2).to_string();
    let (within, _) = report("within", &["--memory-budget", &budget]);
    assert!(within <= budget.parse().unwrap() && within < kept, "{within} of {budget}");

    let outcome = house.run(&train("nothing", &["--max-steps", "3", "--memory-budget", "1"]));
    assert!(outcome.code(2).contains("the least that it takes"), "{}", outcome.stderr);
    assert!(!house.path("nothing/adapter").exists());
}

/// On SmolLM2: with two blocks, or a few tokens, there is nothing to gain.
#[test]
fn what_is_offloaded_is_learned_from_all_the_same() {
    let house = house();
    house.run(&["import", smollm2_gguf().to_str().unwrap(), "-o", "smollm2"]).ok();
    let folder = disk();
    let folder = folder.path().to_str().unwrap();
    let lora = ["--lora-r", "1", "--max-steps", "2", "-o"];
    let common = [&["train", "smollm2", "--data", "text.txt", "--block-size", "512"][..], &lora].concat();
    let args = |name: &'static str, more: &[&'static str]| [&common[..], &[name], more].concat();
    let kept = house.json(&args("kept", &[]));
    let least = house.run(&[&args("nothing", &["--memory-budget", "1"])[..], &["--offload-folder", folder]].concat());
    let least = least.code(2).to_owned();
    let bytes = least.split('(').nth(1).and_then(|rest| rest.split(" bytes").next()).expect("it says how many bytes");
    let budget = ["--memory-budget", bytes, "--offload-folder", folder];
    let page = house.json(&[&["plan", "smollm2", "--seq", "512", "--lora-r", "1"], &budget[..]].concat());
    assert!(page["plan"]["offloaded_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{}", page["plan"]);
    let offloaded = house.json(&[&args("offloaded", &[])[..], &budget].concat());
    let peak = |report: &Value| report["peak_bytes"].as_u64().unwrap();
    assert!(peak(&offloaded) < peak(&kept), "{offloaded} offloaded, {kept} kept");
    let losses = |name: &str| -> Vec<f64> {
        let lines = metrics(&house.path(name));
        lines.iter().map(|line| line["loss"].as_f64().unwrap()).collect()
    };
    // The least is with tiles, whose sums stand in another order; each policy's bits are held to the others' elsewhere.
    let (kept, offloaded) = (losses("kept"), losses("offloaded"));
    let close = kept.iter().zip(&offloaded).all(|(a, b)| (a - b).abs() < 1e-3 * a);
    assert!(close && offloaded[0] == kept[0], "{kept:?} kept, {offloaded:?} offloaded");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0, "nothing is left behind");
}

/// Adapters of a rank that makes them far larger than the model.
const LARGE: [&str; 13] = [
    "train",
    "model",
    "--data",
    "text.txt",
    "--block-size",
    "48",
    "--lora-r",
    "4096",
    "--max-steps",
    "4",
    "--save-steps",
    "2",
    "-o",
];

#[test]
fn paged_state_larger_than_its_budget_trains_to_the_same_bits_within_it() {
    const BUDGET: u64 = 2 << 20;
    let (house, folder, budget) = (house(), disk(), BUDGET.to_string());
    let report = |name: &'static str, more: &[&str]| {
        let report = house.json(&[&LARGE[..], &[name, "--optim"], more].concat());
        let bytes = |field: &str| report[field].as_u64().unwrap_or_else(|| panic!("{field} of {report}"));
        (bytes("resident_growth_bytes"), bytes("planned_growth_bytes"))
    };
    let paging = ["--optim-memory-budget", &budget, "--offload-folder", folder.path().to_str().unwrap()];
    for (plain, paged) in [("adamw_torch", "paged_adamw_32bit"), ("adamw_8bit", "paged_adamw_8bit")] {
        let (grew, planned) = report(plain, &[plain]);
        let (paged_grew, paged_planned) = report(paged, &[&[paged], &paging[..]].concat());
        let state = planned - paged_planned + BUDGET;
        assert!(state > 8 * BUDGET, "{paged}: a state of {state} bytes is not far larger than its budget");
        // All but the budget is gone from memory, while checkpoints are written too. A tenth: what the C library keeps varies.
        let fell = grew.saturating_sub(paged_grew);
        assert!(fell >= (state - BUDGET) * 9 / 10, "{paged}: {grew} bytes, then {paged_grew}, of a state of {state}");
        let file = |run: &str, name: &str| fs::read(house.path(run).join(name)).unwrap();
        for name in ["checkpoint-4/optimizer.safetensors", "adapter/adapter_model.safetensors"] {
            assert!(file(plain, name) == file(paged, name), "{paged}: {name} differs");
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_process_grows_by_what_was_planned_to_a_twentieth() {
    let house = house();
    let model = smollm2();
    let model = model.to_str().unwrap();
    let text = "What's in a name? that which we call a rose by any other name would smell as sweet. ".repeat(100);
    fs::write(house.path("rose.txt"), text).unwrap();
    let report = house.json(&[
        "train",
        model,
        "--data",
        "rose.txt",
        "--block-size",
        "512",
        "--max-steps",
        "2",
        "--lora-r",
        "16",
        "-o",
        "out",
    ]);
    let bytes = |field: &str| report[field].as_u64().unwrap_or_else(|| panic!("{field} of {report}"));
    assert_eq!(bytes("peak_bytes"), bytes("planned_peak_bytes"));
    let (grew, planned) = (bytes("resident_growth_bytes"), bytes("planned_growth_bytes"));
    assert!(grew.abs_diff(planned) * 20 <= planned, "{grew} bytes, of {planned} planned");
}

#[test]
fn without_room_for_paged_state_nothing_is_trained() {
    let (house, folder) = (house(), disk());
    let folder = folder.path().to_str().unwrap();
    let args =
        ["--optim", "paged_adamw", "--optim-memory-budget", "64KiB", "--offload-folder", folder, "--max-steps", "3"];
    // No file may have more than 8 KiB (sixteen blocks of 512 bytes): the state has no room, and the disk has.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""]).arg(unswag()).args(train("run", &args));
    let said = command.current_dir(house.path("")).outcome().code(2).to_owned();
    assert!(said.contains("cannot reserve") && said.contains(folder), "{said}");
    assert!(!house.path("run").exists());
}

#[test]
fn paging_that_would_be_ignored_is_refused() {
    let house = house();
    let said = house.run(&train("run", &["--optim", "adamw_8bit", "--optim-memory-budget", "1MiB"])).code(2).to_owned();
    assert!(said.contains("--optim-memory-budget") && said.contains("paged"), "{said}");
    let said = house.run(&train("run", &["--offload-folder", "."])).code(2).to_owned();
    assert!(said.contains("--offload-folder") && said.contains("--memory-budget"), "{said}");
    let said =
        house.run(&train("run", &["--optim", "paged_adamw", "--optim-memory-budget", "1KiB"])).code(2).to_owned();
    assert!(said.contains("optim_memory_budget: expected at least 65536 bytes, got 1024"), "{said}");
    assert!(!house.path("run").exists());
}
