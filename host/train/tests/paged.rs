//! Paged optimizers against the same ones without pages: bit for bit, whatever the budget; and what they refuse.

mod common;

use std::{fs, path::Path};

use common::{BUDGET, House, arguments, left};
use unswag_train::{Optim, Resume, TrainError, Trainer, TrainingArguments, Tuning, UnswagModel};

const PAIRS: [(Optim, Optim); 4] = [
    (Optim::PagedAdamw32bit, Optim::AdamwTorch),
    (Optim::PagedAdamw8bit, Optim::Adamw8bit),
    (Optim::PagedLion32bit, Optim::Lion32bit),
    (Optim::PagedLion8bit, Optim::Lion8bit),
];

/// What a run left, less what names its optimizer and the bytes that its state takes in memory.
fn numbers(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let without_memory = |lines: Vec<u8>| {
        let line = |line: &[u8]| {
            let mut line: serde_json::Value = serde_json::from_slice(line).expect("JSON");
            line.as_object_mut().expect("an object").remove("peak_bytes").expect("each step has it");
            format!("{line}\n").into_bytes()
        };
        lines.split(|byte| *byte == b'\n').filter(|text| !text.is_empty()).flat_map(line).collect()
    };
    let files = left(folder).into_iter().filter(|(name, _)| !name.ends_with("trainer_state.json"));
    files
        .map(|(name, bytes)| if name == "metrics.jsonl" { (name, without_memory(bytes)) } else { (name, bytes) })
        .collect()
}

fn run(house: &House, folder: &str, arguments: TrainingArguments) -> u64 {
    let mut trainer = house.trainer(folder, arguments);
    let report = trainer.train(&mut ()).expect("trained");
    assert!(report.steps > 4 && report.skipped_steps == 0, "{report:?}");
    trainer.plan().paged_bytes
}

#[test]
fn paged_state_comes_to_the_bits_of_state_in_memory() {
    let house = House::new();
    for (paged, plain) in PAIRS {
        assert_eq!(run(&house, "plain", arguments(plain)), 0);
        let expected = numbers(&house.path("plain"));
        assert!(expected.iter().any(|(name, bytes)| name.ends_with("/optimizer.safetensors") && bytes.len() > 100_000));
        // Pages that hold a few blocks, and pages that several tensors share.
        for budget in [BUDGET, 80_001] {
            let arguments = TrainingArguments { optim_memory_budget: budget, ..arguments(paged) };
            let paged_bytes = run(&house, "paged", arguments);
            assert!(paged_bytes > budget, "{paged:?}: {paged_bytes} bytes are within {budget}");
            let found = numbers(&house.path("paged"));
            for ((name, found), (other, expected)) in found.iter().zip(&expected) {
                assert_eq!(name, other, "{paged:?}");
                assert!(found == expected, "{paged:?} with {budget}: {name} differs");
            }
            assert_eq!(found.len(), expected.len(), "{paged:?}");
            fs::remove_dir_all(house.path("paged")).expect("removed");
        }
        fs::remove_dir_all(house.path("plain")).expect("removed");
    }
}

/// Tensors of 64 elements beside some of thousands, and all of them trained.
#[test]
fn a_whole_model_is_trained_with_paged_state_to_the_same_bits() {
    let house = House::new();
    let run = |folder: &str, optim| {
        let model = UnswagModel::from_pretrained(&house.path("model")).expect("a model");
        let model = model.for_training(Tuning::Full).expect("weights");
        let mut trainer = house.trainer_of(model, folder, arguments(optim));
        trainer.train(&mut ()).expect("trained");
        (numbers(&house.path(folder)), trainer.plan().paged_bytes)
    };
    let (expected, plain_bytes) = run("plain", Optim::Adamw8bit);
    let (found, paged_bytes) = run("paged", Optim::PagedAdamw8bit);
    assert!(plain_bytes == 0 && paged_bytes > 2 * BUDGET, "{paged_bytes}");
    for ((name, found), (other, expected)) in found.iter().zip(&expected) {
        assert!(name == other && found == expected, "{name} differs from {other}");
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn state_within_its_budget_has_no_file() {
    let house = House::new();
    let state = house.trainer("run", arguments(Optim::Adamw8bit)).trainer().state_bytes();
    let paged_bytes = |budget| {
        let arguments = TrainingArguments { optim_memory_budget: budget, ..arguments(Optim::PagedAdamw8bit) };
        house.trainer("run", arguments).plan().paged_bytes
    };
    assert_eq!(paged_bytes(state), 0);
    assert!(paged_bytes(state - 1) >= state);
}

/// The optimizer's name is part of a checkpoint: one form does not go on from the other.
#[test]
fn a_run_goes_on_only_with_the_form_it_was_started_with() {
    let house = House::new();
    run(&house, "run", arguments(Optim::Adamw8bit));
    let mut trainer = house.trainer("run", arguments(Optim::PagedAdamw8bit));
    let error = trainer.resume(&Resume::Auto).expect_err("another optimizer").to_string();
    assert!(error.contains("optim was adamw_8bit and is paged_adamw_8bit"), "{error}");
    assert!(error.contains("optim cannot change within a run"), "{error}");
    // With the same form the budget is free to change: it changes no number.
    run(&house, "paged", arguments(Optim::PagedAdamw8bit));
    let other = TrainingArguments { optim_memory_budget: 100_000, ..arguments(Optim::PagedAdamw8bit) };
    let mut trainer = house.trainer("paged", other);
    assert!(trainer.resume(&Resume::Auto).expect("sound").is_some());
}

#[test]
fn a_run_of_elsewhere_is_gone_on_from_in_a_folder_of_its_own() {
    let house = House::new();
    run(&house, "whole", arguments(Optim::PagedAdamw8bit));
    let mut trainer = house.trainer("fresh", arguments(Optim::PagedAdamw8bit));
    trainer.resume(&Resume::From(house.path("whole/checkpoint-2"))).expect("sound");
    trainer.train(&mut ()).expect("trained");
    drop(trainer);
    let adapter = |run: &str| fs::read(house.path(run).join("adapter/adapter_model.safetensors")).expect("there");
    assert!(adapter("fresh") == adapter("whole"));
}

#[test]
fn state_goes_to_the_folder_that_is_named_and_leaves_nothing_there() {
    let house = House::new();
    let folder = house.path("scratch");
    let named = || TrainingArguments { offload_folder: Some(folder.clone()), ..arguments(Optim::PagedAdamw8bit) };
    let error = house.trainer("run", named()).train(&mut ()).expect_err("it is not there").to_string();
    assert!(error.contains(folder.to_str().expect("UTF-8")), "{error}");
    fs::create_dir(&folder).expect("made");
    house.trainer("run", named()).train(&mut ()).expect("trained");
    assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 0);
    // Most systems keep this one in memory.
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        let named = TrainingArguments { offload_folder: Some(memory.to_owned()), ..named() };
        let error = house.trainer("other", named).train(&mut ()).expect_err("it is memory").to_string();
        assert!(error.contains("kept in memory"), "{error}");
    }
}

#[test]
fn a_budget_below_the_least_is_refused_by_name() {
    let little = TrainingArguments { optim_memory_budget: BUDGET - 1, ..arguments(Optim::PagedLion8bit) };
    let error = little.check().expect_err("too little").to_string();
    assert_eq!(error, "optim_memory_budget: expected at least 65536 bytes, got 65535");
    TrainingArguments { optim: Optim::Lion8bit, ..little }.check().expect("it is not paged");
}

#[test]
fn steps_alone_need_a_folder_for_paged_state() {
    let house = House::new();
    let error = Trainer::new(house.model(), arguments(Optim::PagedAdamw8bit)).err().expect("no folder");
    assert!(matches!(error, TrainError::Argument { what: "offload_folder", .. }), "{error}");
}
