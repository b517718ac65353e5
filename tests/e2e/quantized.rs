//! `--load-in-4bit` as a user gives it: what it takes, what it learns, and what can be done with the adapter.

use std::{fs, path::Path};

use serde_json::Value;
use unswag_tests::{Family, unswag_torch};

use crate::house::House;

const FOUR_BITS: [&str; 2] = ["--load-in-4bit", "--bnb-4bit-use-double-quant"];

fn house() -> House {
    unswag_torch();
    let house = House::without_plugins();
    house.tiny(Family::Llama, "model");
    house.text();
    house
}

fn train<'a>(output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let common = ["train", "model", "--data", "text.txt", "--block-size", "48", "--learning-rate", "1e-2"];
    [&common[..], &["--max-steps", "30", "-o", output], more].concat()
}

fn losses(folder: &Path) -> Vec<f64> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap();
    text.lines().map(loss).collect()
}

#[test]
fn a_quantised_base_takes_the_planned_bytes_and_its_adapter_learns() {
    let house = house();
    let bytes = |page: &Value, name: &str| page[name].as_u64().unwrap_or_else(|| panic!("{name} of {page}"));
    let parts = |more: &[&str]| {
        let plan = house.json(&[&["plan", "model", "--seq", "48", "--lora-r", "4"], more].concat());
        bytes(&plan["plan"]["parts"], "frozen_parameters")
    };
    // Seven projections of two layers: 64 to 64, 64 to 32 (twice), 64 to 64, and three of 64 and the MLP's width.
    let (plain, single, double) = (parts(&[]), parts(&FOUR_BITS[..1]), parts(&FOUR_BITS));
    let quantised = plain - single;
    assert!(
        double < single && single < plain,
        "{plain} plain, {single} in four bits, {double} with double quantisation"
    );
    // Of the two bytes that an element takes in bf16, 1.4375 are saved, or 1.484 but for last blocks that are not full.
    let elements = quantised as f64 / 1.4375;
    let saved = (plain - double) as f64 / elements;
    assert!(
        elements.fract() == 0.0 && (1.47..1.485).contains(&saved),
        "{elements} elements, {saved} bytes saved of each"
    );

    let kept = house.json(&train("plain", &[]));
    let report = house.json(&train("run", &FOUR_BITS));
    assert_eq!(bytes(&report, "peak_bytes"), bytes(&report, "planned_peak_bytes"));
    assert!(bytes(&report, "peak_bytes") < bytes(&kept, "peak_bytes"), "{report}");
    let losses = losses(&house.path("run"));
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&losses[25..]) < 0.8 * mean(&losses[..5]), "{losses:?}");

    // The adapter is one of PEFT's as any other, and does for the quantised base what it did in training.
    let config = fs::read_to_string(house.path("run/adapter/adapter_config.json")).unwrap();
    assert!(!config.contains("4bit") && !config.contains("quant"), "{config}");
    let eval = |more: &[&str]| {
        let common = ["eval", "model", "--data", "text.txt", "--block-size", "48"];
        house.json(&[&common[..], more].concat())["loss"].as_f64().unwrap()
    };
    let adapter = ["--adapter", "run/adapter"];
    let (base, four, trained) = (eval(&[]), eval(&FOUR_BITS), eval(&[&adapter[..], &FOUR_BITS].concat()));
    assert!(base != four && (base - four).abs() < 0.05 * base, "{base} plain, {four} in four bits");
    assert!(trained < 0.8 * four, "{trained} with the adapter, {four} without");
    house.run(&["merge", "model", "run/adapter", "-o", "merged"]).ok();
    let generate = ["generate", "model", "--prompt", "9 bottles", "--temperature", "0", "--max-new-tokens", "4"];
    house.run(&[&generate[..], &adapter, &FOUR_BITS].concat()).ok();
}

#[test]
fn what_four_bits_cannot_be_is_refused() {
    let house = house();
    let refused = |more: &[&str], said: &str| {
        let outcome = house.run(&train("run", more));
        assert!(outcome.code(2).contains(said), "{more:?}: {}", outcome.stderr);
        assert!(!house.path("run").exists());
    };
    refused(&["--bnb-4bit-use-double-quant"], "--load-in-4bit");
    refused(&["--load-in-4bit", "--bnb-4bit-quant-type", "fp4"], "nf4");
    refused(&["--load-in-4bit", "--full-finetuning"], "cannot be used with");
}
