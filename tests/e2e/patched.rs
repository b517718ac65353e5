//! Patch, then train: what surgery wrote is trained with the plugin's own kernels, and `unswag fidelity` says what that costs.

use std::fs;

use serde_json::Value;
use unswag_tests::{Family, Outcome, smollm2, unswag_torch};

use crate::house::{House, assert_same_files};

/// A house with Delhi, a tiny model and a text.
fn house() -> House {
    unswag_torch();
    let house = House::new();
    house.tiny(Family::Llama, "model");
    house.text();
    house
}

/// Loss and peak of each step of a short training.
fn trained(house: &House, model: &str) -> Vec<(f64, u64)> {
    let output = format!("run-{model}");
    let common = ["train", model, "--data", "text.txt", "--block-size", "48", "--learning-rate", "1e-2"];
    house.run(&[&common[..], &["--lora-r", "4", "--max-steps", "8", "-o", &output]].concat()).ok();
    let text = fs::read_to_string(house.path(&output).join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["loss"].as_f64().unwrap(), line["peak_bytes"].as_u64().unwrap())
    };
    text.lines().map(line).collect()
}

#[test]
fn a_patched_model_trains_with_the_plugins_kernels_and_fewer_bits_take_less_memory() {
    let house = house();
    for mode in ["exact", "8bit", "2bit"] {
        let plugin = format!("delhi:mode={mode}");
        house.run(&["surgery", "--plugin", &plugin, "model", "-o", mode]).ok();
    }
    let (plain, exact) = (trained(&house, "model"), trained(&house, "exact"));
    let (eight, two) = (trained(&house, "8bit"), trained(&house, "2bit"));
    let losses = |steps: &[(f64, u64)]| steps.iter().map(|(loss, _)| *loss).collect::<Vec<_>>();
    // Nothing of mode exact is an approximation: not a bit of any step's loss may differ.
    assert_eq!(losses(&plain), losses(&exact));
    // The forward is the plain one in every mode; the second step has learned from other gradients.
    for (mode, lossy) in [("8bit", &eight), ("2bit", &two)] {
        assert_eq!(lossy[0].0, plain[0].0, "{mode}: the first loss");
        assert_ne!(losses(lossy), losses(&plain), "{mode}: its gradients are the exact ones");
        let gap = (lossy[7].0 - plain[7].0).abs() / plain[7].0;
        assert!(gap < 0.1, "{mode}: loss {} after eight steps, {} without", lossy[7].0, plain[7].0);
    }
    let peak = |steps: &[(f64, u64)]| steps[7].1;
    // The product of gate and up is made again in the plain model too.
    assert_eq!(peak(&exact), peak(&plain));
    assert!(peak(&eight) < peak(&exact) && peak(&two) < peak(&eight), "fewer bits take less memory");
}

#[test]
fn what_a_plugin_says_is_shown_by_every_command_that_opens_it() {
    let house = house();
    let lines = |outcome: &Outcome| -> Vec<String> {
        outcome.stderr.lines().filter(|line| line.starts_with("plugin: ")).map(str::to_owned).collect()
    };
    let surgery = house.run(&["surgery", "--plugin", "hostile:say=handle with care", "model", "-o", "patched"]);
    surgery.ok();
    let said = lines(&surgery);
    assert_eq!(said, ["plugin: handle with care"]);

    let data = ["patched", "--data", "text.txt", "--block-size", "48", "--json"];
    for command in [&["train", "--max-steps", "1", "-o", "run"][..], &["eval"]] {
        let outcome = house.run(&[command, &data].concat());
        assert_eq!(lines(&outcome), said, "{command:?}");
        serde_json::from_str::<Value>(outcome.ok()).expect("a plugin's line is not on stdout");
    }
    let quiet = house.run(&[&["eval", "--quiet"], &data[..]].concat());
    quiet.ok();
    assert_eq!(quiet.stderr, "");
}

/// The weights are the same, and what is computed from them is not.
#[test]
fn a_run_does_not_go_on_over_another_surgery() {
    let house = house();
    for mode in ["exact", "2bit"] {
        house.run(&["surgery", "--plugin", &format!("delhi:mode={mode}"), "model", "-o", mode]).ok();
    }
    let train = |model: &'static str, steps: &'static str| {
        let common = ["train", model, "--data", "text.txt", "--block-size", "48", "--lora-r", "4", "-o", "run"];
        let scheduled = ["--max-steps", steps, "--save-steps", "2", "--lr-scheduler-type", "constant"];
        house.run(&[&common[..], &scheduled, &["--resume-from-checkpoint", "auto"]].concat())
    };
    train("2bit", "2").ok();
    let refused = train("exact", "4");
    assert!(refused.code(2).contains("the base model (graph or weights) differs"), "{}", refused.stderr);
    train("2bit", "4").ok();
}

/// An op's kernel is built with the options of the step that brought it in, whichever step that was.
#[test]
fn steps_of_one_protocol_keep_each_its_options() {
    let house = house();
    let [panics, works] = ["hostile:at=model.layers.0,panic=backward", "hostile:at=model.layers.1"];
    for (name, [first, second]) in [("first", [panics, works]), ("second", [works, panics])] {
        let once = format!("once-{name}");
        house.run(&["surgery", "--plugin", first, "model", "-o", &once]).ok();
        house.run(&["surgery", "--plugin", second, &once, "-o", name]).ok();
        let trained = house.run(&["train", name, "--data", "text.txt", "--block-size", "48", "-o", "run"]);
        let told = trained.code(2);
        assert!(told.contains("model.layers.0.mlp.act_fn") && told.contains("asked to panic in backward"), "{told}");
    }
}

#[test]
fn a_protocol_in_two_steps_is_the_protocol_in_one() {
    let house = house();
    let half = |layer: u32| format!("delhi:mode=2bit,layers={layer}");
    house.run(&["surgery", "--plugin", "delhi:mode=2bit", "model", "-o", "whole"]).ok();
    house.run(&["surgery", "--plugin", &half(0), "--plugin", &half(1), "model", "-o", "halves"]).ok();
    house.run(&["surgery", "--plugin", &half(1), "model", "-o", "half"]).ok();
    house.run(&["surgery", "--plugin", &half(0), "half", "-o", "other-halves"]).ok();
    let whole = trained(&house, "whole");
    assert_eq!(trained(&house, "halves"), whole);
    assert_eq!(trained(&house, "other-halves"), whole);
}

#[test]
fn fidelity_tells_exact_from_lossy_and_more_bits_from_fewer() {
    let house = house();
    let plugins = ["exact", "8bit", "4bit", "2bit"].map(|mode| format!("delhi:mode={mode}"));
    let mut args =
        vec!["fidelity", "model", "--data", "text.txt", "--block-size", "48", "--rows", "2", "--dtype", "float32"];
    plugins.iter().for_each(|plugin| args.extend(["--plugin", plugin]));
    let page = house.json(&args);
    crate::results::documented(&page);
    let variants = page["variants"].as_array().unwrap();
    let error = |index: usize| variants[index]["all"]["relative_error"].as_f64().unwrap();
    let cosine = |index: usize| variants[index]["all"]["cosine"].as_f64().unwrap();
    assert_eq!((error(0), variants[0]["plugin"].as_str()), (0.0, Some("delhi:mode=exact")));
    assert!(error(1) > 0.0 && error(1) < 0.05, "8 bits: {}", error(1));
    assert!(error(1) < error(2) && error(2) < error(3), "{} {} {}", error(1), error(2), error(3));
    assert!(cosine(1) > cosine(2) && cosine(2) > cosine(3) && cosine(3) > 0.5, "{}", cosine(3));
    for variant in variants {
        assert_eq!(variant["loss"], variant["loss_exact"], "the forward is the plain one");
        let peak = |field: &str| variant[field].as_u64().unwrap_or_else(|| panic!("{field} of {variant}"));
        assert!(peak("peak_bytes") < peak("peak_bytes_exact"), "{variant}");
        let (layers, modules) = (variant["layers"].as_array().unwrap(), variant["modules"].as_array().unwrap());
        assert!(layers.len() > 1 && modules.len() == 7 * layers.len(), "{} layers, {}", layers.len(), modules.len());
    }
    // The last layer's down projection comes before the gate in the backward: its input is the product that is made again.
    let table = house.run(&args).ok().to_owned();
    assert!(table.contains("model.layers.1") && table.contains("cosine"), "{table}");
}

/// On SmolLM2: its adapters have learned on gradients of eight bits.
#[test]
fn an_adapter_of_a_patched_model_merges_into_it_as_into_its_base() {
    let house = house();
    let smollm2 = smollm2();
    let smollm2 = smollm2.to_str().unwrap();
    house.run(&["surgery", "--plugin", "delhi:mode=8bit", smollm2, "-o", "patched"]).ok();
    let common = ["train", "patched", "--data", "text.txt", "--block-size", "64", "--max-steps", "8"];
    house.run(&[&common[..], &["--learning-rate", "2e-3", "--lora-r", "4", "-o", "run"]].concat()).ok();
    for (model, merged) in [("patched", "of-patched"), (smollm2, "of-base")] {
        house.run(&["merge", model, "run/adapter", "-o", merged]).ok();
    }
    assert_same_files(&house.path("of-patched"), &house.path("of-base"));

    let loss = |model: &[&str]| {
        let page = house.json(&[&["eval"], model, &["--data", "text.txt", "--block-size", "256"]].concat());
        page["loss"].as_f64().unwrap()
    };
    let (plain, adapted) = (loss(&["patched"]), loss(&["patched", "--adapter", "run/adapter"]));
    let merged = loss(&["of-patched"]);
    assert!(adapted < 0.6 * plain, "{plain} without the adapter, {adapted} with it");
    // The merged weights are bf16: each takes up to 2^-9 of itself less of the adapter. It was 1.2 % of what was learned.
    assert!(
        (merged - adapted).abs() < 0.03 * (plain - adapted),
        "{merged} merged, {adapted} with the adapter, {plain}"
    );
}

#[test]
fn a_merge_into_what_computes_something_else_is_refused_with_what_to_do() {
    let house = house();
    house.run(&["surgery", "--plugin", "composite:rank=8", "model", "-o", "cut"]).ok();
    // Of layers that the patch left as they were.
    let targets = ["--lora-target-modules", "down_proj", "--max-steps", "2", "-o", "run"];
    house.run(&[&["train", "model", "--data", "text.txt", "--block-size", "48"], &targets[..]].concat()).ok();
    let refused = house.run(&["merge", "cut", "run/adapter", "-o", "merged"]);
    let told = refused.code(2);
    assert!(told.contains("merge into the plain base, then operate on the result"), "{told}");
    assert!(!house.path("merged").exists());
}

#[test]
fn a_patched_model_without_its_plugin_is_refused_with_what_to_do() {
    let house = house();
    house.run(&["surgery", "--plugin", "delhi", "model", "-o", "patched"]).ok();
    let alone = House::without_plugins();
    let patched = house.path("patched");
    let text = house.path("text.txt");
    let [patched, text] = [&patched, &text].map(|path| path.to_str().unwrap());
    let outcome = alone.run(&["train", patched, "--data", text, "-o", "run"]);
    assert!(outcome.stderr.contains("delhi") && outcome.stderr.contains("unswag plugin add"), "{}", outcome.stderr);
    outcome.code(2);
    assert!(!alone.path("run").exists());
}
