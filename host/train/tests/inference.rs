//! Adapters applied, merged and saved; text generated; schedules against transformers' own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use unswag_adapter::{Adapter, AdapterError, merge};
use unswag_checkpoint::{Checkpoint, RealDisk, silent};
use unswag_data::{Batch, Row, Tokenizer};
use unswag_tests::{Family, Tiny, python};
use unswag_train::{
    LoraConfig, Sampling, Schedule, SchedulerType, Trainer, TrainingArguments, UnswagModel, generate, save_adapter,
};

fn batch() -> Batch {
    let ids: Vec<u32> = (0..40).map(|at| (at * 37 + 11) % 256).collect();
    let labels = ids.iter().map(|id| i64::from(*id)).collect();
    Batch::new(&[Row { positions: (0..40).collect(), documents: vec![0; 40], labels, ids }], 0)
}

/// A tiny checkpoint in f32, and an adapter that a few steps have moved.
fn trained(temp: &Path, family: Family, use_rslora: bool) -> [PathBuf; 2] {
    tch::set_num_threads(1);
    let (base, adapter) = (temp.join(format!("{family:?}")), temp.join(format!("{family:?}-adapter")));
    Tiny { dtype: safetensors::Dtype::F32, ..Tiny::new(family) }.write(&base);
    let model = UnswagModel::from_pretrained(&base).expect("a model");
    let config = LoraConfig { r: 4, lora_alpha: 6.0, use_rslora, ..LoraConfig::default() };
    let model = model.for_training(config).expect("adapters");
    let mut trainer = Trainer::new(model, TrainingArguments::default()).expect("settings");
    for _ in 0..4 {
        trainer.step(&[batch()], 2e-2).expect("a step");
    }
    save_adapter(trainer.model(), &adapter, &RealDisk).expect("saved");
    // The folder holds all of the adapter.
    let again = UnswagModel::from_pretrained(&base).expect("a model").for_inference(Some(&adapter)).expect("fits");
    assert_eq!(again.logits(&batch()).expect("logits"), trainer.model().logits(&batch()).expect("logits"));
    [base, adapter]
}

fn logits(path: &Path, adapter: Option<&Path>) -> Vec<f32> {
    let model = UnswagModel::from_pretrained(path).expect("a model").for_inference(adapter).expect("fits");
    model.logits(&batch()).expect("logits")
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_merged_model_has_the_logits_of_base_and_adapter() {
    let temp = TempDir::new().expect("a folder");
    // GPT-2 stores its weights transposed.
    for (family, use_rslora) in
        [(Family::Llama, false), (Family::Llama, true), (Family::Gpt2, false), (Family::Qwen3, false)]
    {
        let [base, adapter] = trained(temp.path(), family, use_rslora);
        let merged = temp.path().join("merged");
        let opened = Adapter::open(&adapter).expect("sound");
        let report =
            merge(&Checkpoint::open(&base).expect("sound"), &opened, &merged, &RealDisk, &silent).expect("merged");
        assert_eq!(report.modules.len(), opened.modules().len());
        for module in &report.modules {
            let off = (module.delta_norm - module.adapter_norm).abs();
            assert!(module.delta_norm > 0.0 && off < 1e-5 * module.adapter_norm, "{module:?}");
        }
        let (with_adapter, plain) = (logits(&base, Some(&adapter)), logits(&base, None));
        let difference = largest_difference(&logits(&merged, None), &with_adapter);
        let moved = largest_difference(&plain, &with_adapter);
        assert!(moved > 0.05, "{family:?}: the adapter moves the logits by {moved} alone");
        assert!(difference < 1e-4 * moved, "{family:?}: {difference} of {moved}");
        fs::remove_dir_all(&merged).expect("removed");
        fs::remove_dir_all(&adapter).expect("removed");
    }
}

#[test]
fn a_merge_that_changes_nothing_or_does_not_fit_is_refused() {
    let temp = TempDir::new().expect("a folder");
    let [base, adapter] = trained(temp.path(), Family::Llama, false);
    let out = temp.path().join("merged");
    let refused = |base: &Path, adapter: &Path| {
        let opened = Adapter::open(adapter)?;
        let error = merge(&Checkpoint::open(base)?, &opened, &out, &RealDisk, &silent).expect_err("refused");
        assert!(!out.exists(), "{error}");
        Err::<(), _>(error)
    };
    // B is zero before the first step.
    let untrained = temp.path().join("untrained");
    let model =
        UnswagModel::from_pretrained(&base).expect("a model").for_training(LoraConfig::default()).expect("adapters");
    save_adapter(&model, &untrained, &RealDisk).expect("saved");
    let error = refused(&base, &untrained).expect_err("zero");
    assert!(
        matches!(error, AdapterError::NoChange { .. }) && error.to_string().contains("B matrices are zero"),
        "{error}"
    );
    // Another family's layers.
    let other = temp.path().join("other");
    Tiny::new(Family::Opt).write(&other);
    let error = refused(&other, &adapter).expect_err("another model");
    assert!(error.to_string().contains("made for another model"), "{error}");
    // What is not understood is never left out.
    let config = adapter.join("adapter_config.json");
    let text = fs::read_to_string(&config).expect("written");
    for (from, to, what) in [
        // It says DoRA, and has no magnitudes.
        ("\"use_dora\": false", "\"use_dora\": true", "lora_magnitude_vector"),
        ("\"bias\": \"none\"", "\"bias\": \"all\"", "bias"),
        ("\"rank_pattern\": {}", "\"rank_pattern\": {\"q_proj\": 2}", "rank_pattern"),
        ("\"peft_type\": \"LORA\"", "\"peft_type\": \"IA3\"", "peft_type"),
    ] {
        assert!(text.contains(from), "{from}");
        fs::write(&config, text.replace(from, to)).expect("written");
        let error = refused(&base, &adapter).expect_err("not understood").to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn greedy_generation_takes_the_likeliest_token_and_a_seed_draws_the_same_again() {
    let temp = TempDir::new().expect("a folder");
    tch::set_num_threads(1);
    Tiny::new(Family::Llama).write(temp.path());
    let model = UnswagModel::from_pretrained(temp.path()).expect("a model").for_inference(None).expect("weights");
    let prompt = Tokenizer::load(temp.path()).expect("a tokenizer").encode("to be", true).expect("bytes");
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let mut heard = Vec::new();
    let mut hear = |id| {
        heard.push(id);
        true
    };
    let made = generate(&model, &prompt, 6, &[], &greedy, &mut hear).expect("generated");
    assert_eq!((made.ids.len(), made.ended), (6, false));
    assert_eq!(heard, made.ids);
    let mut text = prompt.clone();
    for &id in &made.ids {
        let length = text.len();
        let row = Row {
            positions: (0..length as u32).collect(),
            documents: vec![0; length],
            labels: vec![-100; length],
            ids: text.clone(),
        };
        let logits = model.logits(&Batch::new(&[row], 0)).expect("logits");
        let last = &logits[logits.len() - 256..];
        let likeliest = (0..256).max_by(|&a, &b| last[a].total_cmp(&last[b])).expect("some");
        assert_eq!(id as usize, likeliest);
        text.push(id);
    }
    // One token to draw from is the likeliest, and so is a share that it reaches alone.
    for sampling in [Sampling { top_k: 1, ..Sampling::default() }, Sampling { top_p: 1e-9, ..Sampling::default() }] {
        assert_eq!(generate(&model, &prompt, 6, &[], &sampling, &mut |_| true).expect("generated").ids, made.ids);
    }
    let draw = |seed| {
        let sampling = Sampling { seed, temperature: 2.0, top_k: 0, ..Sampling::default() };
        generate(&model, &prompt, 12, &[], &sampling, &mut |_| true).expect("generated").ids
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    // A token that ends a text ends it, and is no part of it.
    let ended = generate(&model, &prompt, 6, &made.ids[2..3], &greedy, &mut |_| true).expect("generated");
    let at = made.ids.iter().position(|id| *id == made.ids[2]).expect("there");
    assert_eq!((ended.ids.as_slice(), ended.ended), (&made.ids[..at], true));
    assert!(generate(&model, &[], 6, &[], &greedy, &mut |_| true).is_err());
}

#[test]
fn schedules_are_those_of_transformers() {
    let kinds = [
        ("constant", SchedulerType::Constant),
        ("constant_with_warmup", SchedulerType::ConstantWithWarmup),
        ("linear", SchedulerType::Linear),
        ("cosine", SchedulerType::Cosine),
        ("inverse_sqrt", SchedulerType::InverseSqrt),
    ];
    let output = python("peers/schedules.py")
        .args(kinds.map(|(name, _)| name))
        .output()
        .expect("the environment's Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected: Vec<(String, u64, u64, Vec<f64>)> = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(expected.len(), 4 * kinds.len());
    for (name, warmup_steps, total_steps, rates) in expected {
        let kind = kinds.iter().find(|(known, _)| *known == name).expect("asked for").1;
        let schedule = Schedule { kind, warmup_steps, total_steps };
        for (step, rate) in rates.into_iter().enumerate() {
            let factor = schedule.factor(step as u64);
            assert!(
                (factor - rate).abs() <= 1e-12,
                "{name} {warmup_steps}/{total_steps} step {step}: {factor}, {rate}"
            );
        }
    }
}
