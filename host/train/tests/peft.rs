//! LoRA steps on the real SmolLM2-135M against PEFT and torch's AdamW: the same adapter, the same text, the same losses.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value as Json;
use tempfile::TempDir;
use unswag_abi::doc::Dtype;
use unswag_checkpoint::RealDisk;
use unswag_data::{Batch, DataLoader, Row, StreamingContextDataLoader, TextOptions, Tokenizer};
use unswag_train::{LoraConfig, Trainer, TrainingArguments, UnswagModel, save_adapter};

const STEPS: usize = 10;
const BLOCK: usize = 96;
const LEARNING_RATE: f64 = 1e-3;

fn cached(relative: &str) -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cache = std::env::var_os("UNSWAG_CACHE").map_or_else(|| repository.join(".cache"), PathBuf::from);
    let path = cache.join(relative);
    assert!(path.exists(), "{} is missing; run `make test`, which fetches it", path.display());
    path
}

fn smollm2() -> PathBuf {
    cached("models/SmolLM2-135M-Instruct")
}

fn config() -> LoraConfig {
    let projections = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    LoraConfig {
        r: 8,
        lora_alpha: 16.0,
        target_modules: projections.map(str::to_owned).into(),
        ..LoraConfig::default()
    }
}

/// The first blocks of a play, one to a batch.
fn blocks() -> Vec<Batch> {
    let tokenizer = Tokenizer::load(&smollm2()).expect("a tokenizer beside the model");
    let mut plays: Vec<_> = std::fs::read_dir(cached("data/shakespeare"))
        .expect("fetched")
        .map(|entry| entry.expect("readable").path())
        .collect();
    plays.sort();
    let options = TextOptions { block_size: BLOCK, ..TextOptions::default() };
    let files = [plays[0].to_str().expect("UTF-8").to_owned()];
    let mut loader = StreamingContextDataLoader::open(&files, tokenizer.into(), &options).expect("text");
    let next = || loader.next_batch(1).expect("readable").expect("a play has many blocks");
    std::iter::repeat_with(next).take(STEPS).collect()
}

fn trainer(gradient_checkpointing: bool) -> Trainer {
    let model = UnswagModel::from_pretrained(&smollm2()).expect("a model").with_dtype(Dtype::F32);
    let model = model.for_training(config()).expect("adapters");
    assert_eq!(model.trainable_parameters(), 2_442_240);
    let arguments = TrainingArguments { gradient_checkpointing, ..TrainingArguments::default() };
    Trainer::new(model, arguments).expect("sound settings")
}

#[test]
fn ten_steps_have_the_losses_of_peft_and_the_adapter_loads_there() {
    let (scratch, blocks) = (TempDir::new().expect("a folder"), blocks());
    let rows: Vec<_> = blocks.iter().map(|block| &block.input_ids).collect();
    let path = |name: &str| scratch.path().join(name);
    std::fs::write(path("rows.json"), serde_json::to_vec(&rows).expect("numbers")).expect("written");

    let mut trainer = trainer(false);
    save_adapter(trainer.model(), &path("start"), &RealDisk).expect("saved");
    let step = |block| trainer.step(std::slice::from_ref(block), LEARNING_RATE).expect("a step");
    let reports: Vec<_> = blocks.iter().map(step).collect();
    save_adapter(trainer.model(), &path("final"), &RealDisk).expect("saved");

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers/peft_steps.py");
    let mut python = Command::new(cached("venv/bin/python"));
    python.arg(script).arg(smollm2()).args(["start", "final", "rows.json", "out.json"].map(path));
    python.env("HF_HUB_OFFLINE", "1").env("TQDM_DISABLE", "1").env("TOKENIZERS_PARALLELISM", "false");
    let output = python.output().expect("the environment's Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected: Json = serde_json::from_slice(&std::fs::read(path("out.json")).expect("written")).expect("JSON");

    for (step, report) in reports.iter().enumerate() {
        let number = |field: &str| expected[field][step].as_f64().expect("a number");
        println!("{} {} | {} {}", report.loss, number("losses"), report.grad_norm, number("grad_norms"));
        let close = |ours: f64, theirs: f64, tolerance: f64| (ours - theirs).abs() <= tolerance * theirs;
        assert!(close(report.loss, number("losses"), 1e-4), "step {}: loss {}", report.step, report.loss);
        assert!(close(report.grad_norm, number("grad_norms"), 1e-2), "step {}: norm {}", report.step, report.grad_norm);
        assert!(!report.skipped);
    }
    for (index, block) in blocks.iter().enumerate().take(3) {
        let ours = trainer.model().logits(block).expect("logits");
        let theirs: Vec<f64> = serde_json::from_value(expected["logits"][index].clone()).expect("numbers");
        let last = &ours[ours.len() - theirs.len()..];
        let off = last.iter().zip(&theirs).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        let largest = theirs.iter().fold(0f64, |most, x| most.max(x.abs()));
        assert!(off <= 1e-4 * largest, "row {index}: logits differ by {off}, the largest is {largest}");
    }
}

#[test]
fn a_saved_adapter_names_the_layers_that_were_trained_and_no_other() {
    let scratch = TempDir::new().expect("a folder");
    let saved = |target_modules: &[&str], folder: &str| {
        let target_modules = target_modules.iter().map(|&name| name.to_owned()).collect();
        let model = UnswagModel::from_pretrained(&smollm2()).expect("a model");
        let model = model.for_training(LoraConfig { target_modules, ..LoraConfig::default() }).expect("adapters");
        save_adapter(&model, &scratch.path().join(folder), &RealDisk).expect("saved");
        let config = std::fs::read(scratch.path().join(folder).join("adapter_config.json")).expect("written");
        serde_json::from_slice::<Json>(&config).expect("JSON")["target_modules"].clone()
    };
    assert_eq!(saved(&["v_proj", "q_proj"], "by-name"), serde_json::json!(["q_proj", "v_proj"]));
    let one = "model.layers.3.self_attn.q_proj";
    assert_eq!(saved(&[one], "one-layer"), serde_json::json!([one]));
}

#[test]
fn what_cannot_be_trained_is_refused_with_what_could_be() {
    let refused = |config: LoraConfig| {
        let model = UnswagModel::from_pretrained(&smollm2()).expect("a model");
        model.for_training(config).err().expect("refused").to_string()
    };
    let said = refused(LoraConfig { target_modules: vec!["c_attn".into()], ..LoraConfig::default() });
    assert!(said.contains("c_attn") && said.contains("q_proj"), "{said}");
    let said = refused(LoraConfig { r: 0, ..LoraConfig::default() });
    assert!(said.contains("expected 1 to 65536, got 0"), "{said}");
    let said = refused(LoraConfig { lora_alpha: f64::NAN, ..LoraConfig::default() });
    assert!(said.contains("lora_alpha"), "{said}");
}

#[test]
fn recompute_takes_less_and_learns_the_same_bits() {
    let blocks = blocks();
    let run = |gradient_checkpointing| {
        let mut trainer = trainer(gradient_checkpointing);
        let step = |block| trainer.step(std::slice::from_ref(block), LEARNING_RATE).expect("a step");
        let reports: Vec<_> = blocks[..2].iter().map(step).collect();
        let losses: Vec<u64> = reports.iter().map(|report| report.loss.to_bits()).collect();
        (losses, reports[1].grad_norm.to_bits(), reports[1].peak_bytes)
    };
    let (kept, recomputed) = (run(false), run(true));
    assert_eq!((&kept.0, kept.1), (&recomputed.0, recomputed.1));
    assert!(recomputed.2 < kept.2, "{} bytes recomputed, {} kept", recomputed.2, kept.2);
}

fn row_of(block: &Batch) -> Row {
    Row {
        ids: block.input_ids.clone(),
        labels: block.labels.clone(),
        positions: block.position_ids.clone(),
        documents: block.document_ids.clone(),
    }
}

/// The first half of a block.
fn half_of(block: &Batch) -> Row {
    let mut row = row_of(block);
    row.ids.truncate(BLOCK / 2);
    row.labels.truncate(BLOCK / 2);
    row.positions.truncate(BLOCK / 2);
    row.documents.truncate(BLOCK / 2);
    row
}

#[test]
fn batches_of_one_step_weigh_by_their_tokens() {
    let blocks = blocks();
    // A short row is filled behind, and the filling changes nothing.
    let short = half_of(&blocks[1]);
    let together = Batch::new(&[row_of(&blocks[0]), short.clone()], 0);
    let apart = [blocks[0].clone(), Batch::new(&[short], 0)];
    let mut at_once = trainer(false);
    let mut in_turn = trainer(true);
    let first = at_once.step(&[together], LEARNING_RATE).expect("a step");
    let second = in_turn.step(&apart, LEARNING_RATE).expect("a step");
    assert!((first.loss - second.loss).abs() < 1e-5 * first.loss, "{} at once, {} in turn", first.loss, second.loss);
    assert!((first.grad_norm - second.grad_norm).abs() < 1e-3 * first.grad_norm);
}

#[test]
fn packed_documents_teach_what_they_would_in_rows_of_their_own() {
    let documents: Vec<Row> = blocks()[..2].iter().map(half_of).collect();
    let mut packed = documents[0].clone();
    packed.ids.extend(&documents[1].ids);
    packed.labels.extend(&documents[1].labels);
    packed.positions.extend(&documents[1].positions);
    packed.documents.extend(vec![1; BLOCK / 2]);
    let apart: Vec<Batch> = documents.into_iter().map(|document| Batch::new(&[document], 0)).collect();
    let first = trainer(false).step(&[Batch::new(&[packed], 0)], LEARNING_RATE).expect("a step");
    let second = trainer(false).step(&apart, LEARNING_RATE).expect("a step");
    assert!((first.loss - second.loss).abs() < 1e-5 * first.loss, "{} packed, {} apart", first.loss, second.loss);
    assert!((first.grad_norm - second.grad_norm).abs() < 1e-3 * first.grad_norm);
}

#[test]
fn a_folder_of_something_else_is_never_replaced_by_an_adapter() {
    let scratch = TempDir::new().expect("a folder");
    let model = UnswagModel::from_pretrained(&smollm2()).expect("a model").for_training(config()).expect("adapters");
    let folder = scratch.path().join("work");
    save_adapter(&model, &folder, &RealDisk).expect("saved");
    save_adapter(&model, &folder, &RealDisk).expect("an adapter gives way to an adapter");
    std::fs::write(folder.join("thesis.txt"), "years").expect("written");
    let error = save_adapter(&model, &folder, &RealDisk).expect_err("refused").to_string();
    assert!(error.contains("thesis.txt"), "{error}");
    assert_eq!(std::fs::read_dir(&folder).expect("there").count(), 3);
}
