//! LoRA steps on the real SmolLM2-135M against PEFT and torch's AdamW: the same adapter, the same text, the same losses.

use std::path::Path;

use serde_json::Value as Json;
use tempfile::TempDir;
use unswag_abi::doc::Dtype;
use unswag_checkpoint::{Checkpoint, Commit, Existing, NewTensor, RealDisk, Staging, TensorData, silent};
use unswag_data::{Batch, DataLoader, Row, StreamingContextDataLoader, TextOptions, Tokenizer};
use unswag_tests::{cached, python, smollm2};
use unswag_train::{
    LoraConfig, StepReport, Trainer, TrainingArguments, TrainingModel, Tuning, UnswagModel, save_adapter, save_model,
};

const STEPS: usize = 10;
const BLOCK: usize = 96;
const LEARNING_RATE: f64 = 1e-3;

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
    let mut plays: Vec<_> = std::fs::read_dir(cached("shakespeare", "data/shakespeare"))
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
    let trainer = trainer_of(config(), gradient_checkpointing);
    assert_eq!(trainer.model().trainable_parameters(), 2_442_240);
    trainer
}

fn trainer_of(config: LoraConfig, gradient_checkpointing: bool) -> Trainer {
    let model = UnswagModel::from_pretrained(&smollm2()).expect("a model").with_dtype(Dtype::F32);
    let model = model.for_training(config).expect("adapters");
    let arguments = TrainingArguments { gradient_checkpointing, ..TrainingArguments::default() };
    Trainer::new(model, arguments).expect("sound settings")
}

/// Runs a script of tests/peers in `folder`, and gives what it wrote to out.json.
fn peer(script: &str, folder: &Path, args: &[&str]) -> Json {
    let mut python = python(&format!("peers/{script}"));
    python.arg(smollm2()).args(args.iter().map(|name| folder.join(name)));
    python.env("TQDM_DISABLE", "1").env("TOKENIZERS_PARALLELISM", "false");
    let output = python.output().expect("the environment's Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&std::fs::read(folder.join("out.json")).expect("written")).expect("JSON")
}

fn write_rows(blocks: &[Batch], folder: &Path) {
    let rows: Vec<_> = blocks.iter().map(|block| &block.input_ids).collect();
    std::fs::write(folder.join("rows.json"), serde_json::to_vec(&rows).expect("numbers")).expect("written");
}

/// Losses within `loss`, norms within a hundredth, and the last logits of the first rows within 1e-4 of the largest.
fn assert_agrees(what: &str, reports: &[StepReport], model: &TrainingModel, blocks: &[Batch], expected: &Json) {
    for (step, report) in reports.iter().enumerate() {
        let number = |field: &str| expected[field][step].as_f64().expect("a number");
        println!("{} {} | {} {}", report.loss, number("losses"), report.grad_norm, number("grad_norms"));
        let close = |ours: f64, theirs: f64, tolerance: f64| (ours - theirs).abs() <= tolerance * theirs;
        let step = report.step;
        assert!(close(report.loss, number("losses"), 1e-4), "{what}, step {step}: loss {}", report.loss);
        assert!(close(report.grad_norm, number("grad_norms"), 1e-2), "{what}, step {step}: norm {}", report.grad_norm);
        assert!(!report.skipped);
    }
    for (index, block) in blocks.iter().enumerate().take(3) {
        let ours = model.logits(block).expect("logits");
        let theirs: Vec<f64> = serde_json::from_value(expected["logits"][index].clone()).expect("numbers");
        let last = &ours[ours.len() - theirs.len()..];
        let off = last.iter().zip(&theirs).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        let largest = theirs.iter().fold(0f64, |most, x| most.max(x.abs()));
        assert!(off <= 1e-4 * largest, "{what}, row {index}: logits differ by {off}, the largest is {largest}");
    }
}

#[test]
fn ten_steps_have_the_losses_of_peft_and_the_adapter_loads_there() {
    let dora = LoraConfig { use_dora: true, use_rslora: true, ..config() };
    for (what, config) in [("LoRA", config()), ("DoRA", dora)] {
        let (scratch, blocks) = (TempDir::new().expect("a folder"), blocks());
        let folder = scratch.path();
        write_rows(&blocks, folder);
        let mut trainer = trainer_of(config.clone(), false);
        save_adapter(trainer.model(), &folder.join("start"), &RealDisk).expect("saved");
        let step = |block| trainer.step(std::slice::from_ref(block), LEARNING_RATE).expect("a step");
        let reports: Vec<_> = blocks.iter().map(step).collect();
        save_adapter(trainer.model(), &folder.join("final"), &RealDisk).expect("saved");
        let expected = peer("peft_steps.py", folder, &["start", "final", "rows.json", "out.json"]);
        assert_agrees(what, &reports, trainer.model(), &blocks, &expected);

        // Read again, the adapter gives what it gave.
        let model = UnswagModel::from_pretrained(&smollm2()).expect("a model").with_dtype(Dtype::F32);
        let again = model.for_inference(Some(&folder.join("final"))).expect("our own adapter");
        assert_eq!(again.logits(&blocks[0]).expect("logits"), trainer.model().logits(&blocks[0]).expect("logits"));
    }
}

#[test]
fn steps_on_all_of_a_model_have_the_losses_of_transformers_which_loads_what_comes_out() {
    let (scratch, blocks) = (TempDir::new().expect("a folder"), blocks());
    let (folder, blocks) = (scratch.path(), &blocks[..4]);
    write_rows(blocks, folder);
    // The checkpoint is in bf16: written in it, four steps would hardly show. In f32 nothing is rounded.
    let base = folder.join("base");
    copy_in_f32(&smollm2(), &base);
    let model = UnswagModel::from_pretrained(&base).expect("a model").for_training(Tuning::Full).expect("all of it");
    assert_eq!(model.trainable_parameters(), 134_515_008);
    let arguments = TrainingArguments { weight_decay: 0.1, ..TrainingArguments::default() };
    let mut trainer = Trainer::new(model, arguments).expect("sound settings");
    let step = |block| trainer.step(std::slice::from_ref(block), 1e-4).expect("a step");
    let reports: Vec<_> = blocks.iter().map(step).collect();
    save_model(trainer.model(), &folder.join("final"), &RealDisk).expect("saved");
    let expected = peer("full_steps.py", folder, &["final", "rows.json", "out.json"]);
    assert_agrees("full", &reports, trainer.model(), blocks, &expected);
    let refused = save_adapter(trainer.model(), &folder.join("adapter"), &RealDisk).expect_err("there is none");
    assert!(refused.to_string().contains("no adapters"), "{refused}");
    std::fs::write(folder.join("final/notes.txt"), "mine").expect("written");
    let refused = save_model(trainer.model(), &folder.join("final"), &RealDisk).expect_err("somebody else's file");
    assert!(refused.to_string().contains("notes.txt"), "{refused}");
    assert!(folder.join("final/notes.txt").exists());
}

/// The same model with every weight widened.
fn copy_in_f32(from: &Path, to: &Path) {
    let base = Checkpoint::open(from).expect("a model");
    let mut staging = Staging::begin(to, &[], Existing::Refuse, &RealDisk).expect("a new folder");
    let tensors = base.tensors().map(|tensor| {
        let bytes = base.data(tensor.name).expect("readable");
        let wide = bytes.chunks_exact(2).flat_map(|half| [0, 0, half[0], half[1]]).collect();
        NewTensor {
            name: tensor.name.to_owned(),
            dtype: Dtype::F32,
            shape: tensor.shape.to_vec(),
            data: TensorData::Make(Box::new(move || Ok(wide))),
        }
    });
    staging.write_safetensors("model.safetensors", base.metadata(), tensors.collect(), &silent).expect("written");
    let config = std::fs::read(from.join("config.json")).expect("beside the weights");
    staging.write("config.json", &config).expect("written");
    staging.commit(Commit::default()).expect("a folder");
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
