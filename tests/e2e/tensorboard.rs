//! `--report-to tensorboard`, read by TensorBoard's own reader.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use unswag_tests::{Run, python};

use crate::{
    house::names,
    train::{house, metrics, spawn, train, wait_for_lines},
};

/// Tags in the event files and the fields of `metrics.jsonl` that they stand for.
const TAGS: [(&str, &str); 7] = [
    ("train/loss", "loss"),
    ("train/grad_norm", "grad_norm"),
    ("train/learning_rate", "lr"),
    ("train/epoch", "epoch"),
    ("train/tokens_per_s", "tokens_per_s"),
    ("train/peak_bytes", "peak_bytes"),
    ("eval/loss", "eval_loss"),
];

type Scalars = BTreeMap<String, Vec<(u64, f64)>>;

/// What TensorBoard sees of the one run in this output folder, and in how many files.
fn event_files(output: &Path) -> (u64, Scalars) {
    let read = python("peers/event_files.py").arg(output.join("runs")).outcome();
    let found: BTreeMap<String, Value> = serde_json::from_str(read.ok()).expect("the reader prints JSON");
    assert_eq!(found.len(), 1, "one run, one folder: {:?}", found.keys());
    let run = found.into_values().next().expect("just counted");
    (run["files"].as_u64().unwrap(), serde_json::from_value(run["scalars"].clone()).unwrap())
}

/// The same, out of `metrics.jsonl`, in the precision of event files.
fn lines(output: &Path) -> Scalars {
    let mut scalars = Scalars::new();
    for line in metrics(output) {
        for (tag, field) in TAGS {
            if let Some(value) = line[field].as_f64() {
                let step = line["step"].as_u64().unwrap();
                scalars.entry(tag.to_owned()).or_default().push((step, f64::from(value as f32)));
            }
        }
    }
    scalars
}

fn only_file(output: &Path) -> PathBuf {
    let run = output.join("runs").join(&names(&output.join("runs"))[0]);
    run.join(&names(&run)[0])
}

#[test]
fn event_files_say_what_metrics_jsonl_says_under_transformers_names() {
    let house = house();
    let args =
        ["--max-steps", "7", "--validation-split", "0.2", "--eval-steps", "3", "--report-to", "jsonl,tensorboard"];
    house.run(&train("run", &args)).ok();
    let (files, scalars) = event_files(&house.path("run"));
    assert_eq!(files, 1);
    assert_eq!(scalars, lines(&house.path("run")));
    assert_eq!(scalars["train/loss"].len(), 7);
    let measured_at: Vec<u64> = scalars["eval/loss"].iter().map(|(step, _)| *step).collect();
    assert_eq!(measured_at, [3, 6, 7]);
}

#[test]
fn a_killed_run_leaves_a_readable_file_and_goes_on_in_another() {
    let house = house();
    let output = house.path("run");
    let args = train("run", &["--max-steps", "16", "--save-steps", "4", "--report-to", "all"]);
    let resume = [&args[..], &["--resume-from-checkpoint", "auto"]].concat();
    let mut child = spawn(&house, &args);
    wait_for_lines(&mut child, &output, 6);
    child.kill().unwrap();
    child.wait().unwrap();
    // As after a power cut: half a record at the end.
    let file = only_file(&output);
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 9]).unwrap();
    let (_, before) = event_files(&output);
    let steps: Vec<u64> = before["train/loss"].iter().map(|(step, _)| *step).collect();
    assert!(steps.len() >= 5 && steps.iter().copied().eq(1..=steps.len() as u64), "{steps:?}");

    house.run(&resume).ok();
    let (files, scalars) = event_files(&output);
    assert_eq!(files, 2);
    assert_eq!(scalars, lines(&output), "no step is there twice, and none is missing");
    assert_eq!(scalars["train/loss"].len(), 16);
    assert!(fs::read(&file).unwrap() == bytes[..bytes.len() - 9], "an earlier file is not touched");
}

#[test]
fn figures_go_where_they_were_asked_for_and_nowhere_else() {
    let house = house();
    for (report_to, expected) in [
        ("none", &["adapter", "checkpoint-1"][..]),
        ("jsonl", &["adapter", "checkpoint-1", "metrics.jsonl"]),
        ("tensorboard", &["adapter", "checkpoint-1", "runs"]),
        ("all", &["adapter", "checkpoint-1", "metrics.jsonl", "runs"]),
    ] {
        house.run(&train(report_to, &["--max-steps", "1", "--report-to", report_to])).ok();
        assert_eq!(names(&house.path(report_to)), expected, "--report-to {report_to}");
    }
}
