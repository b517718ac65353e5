//! Runs that resume with other settings, and runs that end by their validation loss.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    house::{House, names},
    results::documented,
    train::{house, metrics, train},
};

fn adapter(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("adapter_model.safetensors")).unwrap()
}

const RESUME: [&str; 2] = ["--resume-from-checkpoint", "auto"];

#[test]
fn a_run_is_extended_and_other_settings_are_listed_and_allowed_by_name() {
    let house = house();
    // Fewer steps than lie between two checkpoints by default.
    let short = ["--max-steps", "4"];
    let constant = ["--lr-scheduler-type", "constant"];
    house.run(&train("run", &[&short[..], &constant].concat())).ok();
    let longer = ["--max-steps", "7", "--save-steps", "2"];
    house.run(&train("run", &[&longer[..], &constant, &RESUME].concat())).ok();
    house.run(&train("long", &[&longer[..], &constant].concat())).ok();
    // Of a schedule that does not look at the end, an extended run is the run that was longer from the start.
    assert!(adapter(&house.path("run/adapter")) == adapter(&house.path("long/adapter")));

    // A schedule that looks at the end changes with it, which is said.
    house.run(&train("linear", &short)).ok();
    let report = house.json(&train("linear", &[&longer[..], &RESUME].concat()));
    let changes = &report["resumed"]["changes"];
    assert_eq!(changes.as_array().unwrap().len(), 1, "{changes}");
    assert_eq!(
        (&changes[0]["setting"], &changes[0]["then"], &changes[0]["now"]),
        (&"max_steps".into(), &4.into(), &7.into())
    );
    assert_eq!(metrics(&house.path("linear")).len(), 7);
    documented(&report);

    let other = ["--max-steps", "9", "--weight-decay", "0.1", "--adam-beta1", "0.8", "--save-steps", "2"];
    let said = house.run(&train("linear", &[&other[..], &RESUME].concat())).code(2).to_owned();
    assert!(!said.contains("max_steps was"), "{said}");
    for line in ["weight_decay was 0.0 and is 0.1", "adam_beta1 was 0.9 and is 0.8"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let allow = "--allow-changed adam_beta1,weight_decay";
    assert!(said.contains(allow), "{said}");
    let outcome = house.run(&train("linear", &[&other[..], &RESUME, &allow.split(' ').collect::<Vec<_>>()].concat()));
    outcome.ok();
    assert!(outcome.stderr.contains("changed: weight_decay was 0.0 and is 0.1"), "{}", outcome.stderr);
    assert!(outcome.stdout.contains(" over 2 steps since the checkpoint"), "{}", outcome.stdout);

    // Fewer steps than were taken, and a setting that decides which tensors there are.
    let resume = |more: &[&str]| house.run(&train("run", &[more, &constant, &RESUME].concat())).code(2).to_owned();
    assert!(resume(&["--max-steps", "5"]).contains("expected at least 7"));
    assert!(resume(&["--max-steps", "8", "--use-dora"]).contains("use_dora cannot change within a run"));

    // Going back in the same folder would mix two runs' checkpoints.
    let back = ["--max-steps", "8", "--resume-from-checkpoint", "run/checkpoint-4"];
    let said = house.run(&train("run", &[&back[..], &constant].concat())).code(2).to_owned();
    assert!(said.contains("run/checkpoint-4: later checkpoints are beside it, up to checkpoint-7"), "{said}");

    // Other data is another run, unless it is asked for.
    fs::write(house.path("other.txt"), "A rose by any other name would smell as sweet.\n".repeat(60)).unwrap();
    let on = |more: &[&str]| {
        let args = train("run", &[&["--max-steps", "8"], &constant[..], &RESUME, more].concat());
        house.run(&args.iter().map(|arg| if *arg == "text.txt" { "other.txt" } else { arg }).collect::<Vec<_>>())
    };
    assert!(on(&[]).code(2).contains("--allow-changed data"));
    on(&["--allow-changed", "data"]).ok();
}

#[test]
fn a_run_starts_from_the_weights_of_an_adapter() {
    let house = house();
    let first = house.json(&train("first", &["--max-steps", "12", "--use-rslora"]));
    let common = ["train", "model", "--data", "text.txt", "--block-size", "48", "--adapter", "first/adapter"];
    let from = |output: &'static str, more: &[&'static str]| [&common[..], &["-o", output], more].concat();
    // At a rate of 0 the adapter comes out as it went in, and takes its rank and scale along.
    house.run(&from("same", &["--max-steps", "1", "--lr", "0"])).ok();
    assert!(adapter(&house.path("same/adapter")) == adapter(&house.path("first/adapter")));
    let config = |run: &str| fs::read_to_string(house.path(run).join("adapter/adapter_config.json")).unwrap();
    let value = |run: &str, key: &str| serde_json::from_str::<Value>(&config(run)).unwrap()[key].clone();
    for key in ["r", "lora_alpha", "use_rslora", "target_modules"] {
        assert_eq!(value("same", key), value("first", key), "{key}");
    }
    let report = house.json(&from("second", &["--max-steps", "12", "--lr", "1e-2"]));
    assert!(report["train_loss"].as_f64() < first["train_loss"].as_f64(), "{report} after {first}");
    let said = house.run(&from("third", &["--lora-r", "8"])).code(2).to_owned();
    assert!(said.contains("--adapter") && said.contains("cannot be used with"), "{said}");
}

/// Trains on one text and validates on another, so that the validation loss rises soon.
fn overfitting(house: &House, output: &'static str, more: &[&'static str]) -> Value {
    let verse = "Shall I compare thee to a summer's day? Thou art more lovely and more temperate.\n";
    fs::write(house.path("verse.txt"), verse.repeat(4)).unwrap();
    let data =
        ["train", "model", "--data", "text.txt", "--block-size", "48", "--eval-data", "verse.txt", "--eval-steps", "2"];
    let args = ["--lora-r", "4", "--lr", "5e-2", "--save-steps", "0", "-o", output];
    house.json(&[&data[..], &args, more].concat())
}

#[test]
fn the_best_weights_are_published_and_a_loss_that_falls_no_more_ends_the_run() {
    let house = house();
    let best = ["--load-best-model-at-end", "--metric-for-best-model", "eval_loss", "--save-total-limit", "1"];
    let patience = ["--early-stopping-patience", "3", "--max-steps", "60"];
    let report = overfitting(&house, "run", &[&best[..], &patience].concat());
    documented(&report);
    let lines = metrics(&house.path("run"));
    lines.iter().for_each(documented);
    let measured: Vec<(u64, f64)> =
        lines.iter().filter_map(|line| Some((line["step"].as_u64()?, line["eval_loss"].as_f64()?))).collect();
    let (step, loss) = *measured.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert_eq!((report["best_step"].as_u64(), report["best_eval_loss"].as_f64()), (Some(step), Some(loss)));
    assert_eq!((&report["stopped_early"], report["steps"].as_u64()), (&true.into(), Some(step + 6)), "{measured:?}");
    assert!(measured.len() < 30 && report["eval_loss"].as_f64() > Some(loss), "{report}");
    // What is published are the weights of that checkpoint, in PEFT's format too.
    let checkpoint = format!("checkpoint-{step}");
    assert_eq!(names(&house.path("run")), ["adapter", &checkpoint, "metrics.jsonl"]);
    assert!(adapter(&house.path("run/adapter")) == adapter(&house.path("run").join(&checkpoint)));
    let eval = house.json(&["eval", "model", "--adapter", "run/adapter", "--data", "verse.txt", "--block-size", "48"]);
    assert!((eval["loss"].as_f64().unwrap() - loss).abs() < 1e-6 * loss, "{eval} {loss}");
    documented(&eval);

    // Without the option the last weights are, and nothing ends early.
    let report = overfitting(&house, "last", &["--max-steps", "8"]);
    assert_eq!((&report["stopped_early"], &report["steps"]), (&false.into(), &8.into()));
    let said = house.run(&train("none", &["--load-best-model-at-end"])).code(2).to_owned();
    assert!(said.contains("--eval-steps"), "{said}");
}

#[test]
fn final_lines_name_each_loss_and_count_one_step_as_one() {
    let house = house();
    let outcome = house.run(&train("run", &["--num-epochs", "0.002", "--max-grad-norm", "0.5"]));
    let said = outcome.ok();
    for part in ["1 step; train loss ", ", last step's ", "a step took at most ", "for the optimizer"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let again = ["--num-epochs", "0.002", "--max-grad-norm", "0.5", "--resume-from-checkpoint", "auto"];
    let again = house.run(&train("run", &again));
    assert!(again.ok().contains("1 step done before; none was left"), "{}", again.stdout);
    // A part of an epoch is counted as transformers counts it.
    let epoch = metrics(&house.path("run"))[0]["epoch"].as_f64().unwrap();
    assert!(epoch > 0.0 && epoch < 0.01, "{epoch}");
}
