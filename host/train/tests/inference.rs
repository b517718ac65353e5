//! Adapters applied, merged and saved; text generated; schedules against transformers' own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use unswag_adapter::{AdapterError, AdapterSpec, MergeOptions, MergeReport, Rounding, merge};
use unswag_checkpoint::{RealDisk, silent};
use unswag_data::{Batch, Row, Tokenizer};
use unswag_tests::{Family, Tiny, python};
use unswag_train::{
    LoraConfig, Nf4, Sampling, Schedule, SchedulerType, Trainer, TrainingArguments, UnswagModel, generate, save_adapter,
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

fn merged(base: &Path, adapter: &Path, out: &Path, options: MergeOptions) -> Result<MergeReport, AdapterError> {
    let model = UnswagModel::from_pretrained(base).expect("a model");
    let (checkpoint, graph) = (&model.model().checkpoint, &model.model().graph);
    let spec = AdapterSpec::open(adapter, graph, checkpoint)?;
    merge(checkpoint, graph, &spec, out, options, &RealDisk, &silent)
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
        let out = temp.path().join("merged");
        let report = merged(&base, &adapter, &out, MergeOptions::default()).expect("merged");
        assert_eq!(report.modules.len(), if family == Family::Gpt2 { 8 } else { 14 });
        for module in &report.modules {
            let (moved, intended) = (module.change.delta_norm, module.change.adapter_norm);
            assert!(moved > 0.0 && (moved - intended).abs() < 1e-5 * intended, "{module:?}");
            assert!((module.change.arrived.expect("a change") - 1.0).abs() < 1e-4, "{module:?}");
        }
        assert_eq!(report.notes, [""; 0], "nothing was lost");
        let (with_adapter, plain) = (logits(&base, Some(&adapter)), logits(&base, None));
        let difference = largest_difference(&logits(&out, None), &with_adapter);
        let moved = largest_difference(&plain, &with_adapter);
        assert!(moved > 0.05, "{family:?}: the adapter moves the logits by {moved} alone");
        assert!(difference < 1e-4 * moved, "{family:?}: {difference} of {moved}");
        fs::remove_dir_all(&out).expect("removed");
        fs::remove_dir_all(&adapter).expect("removed");
    }
}

#[test]
fn a_merge_that_changes_nothing_or_does_not_fit_is_refused() {
    let temp = TempDir::new().expect("a folder");
    let [base, adapter] = trained(temp.path(), Family::Llama, false);
    let out = temp.path().join("merged");
    let refused = |base: &Path, adapter: &Path| {
        let error = merged(base, adapter, &out, MergeOptions::default()).expect_err("refused");
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
    assert!(error.to_string().contains("belongs to another model"), "{error}");
    // What is not understood is never left out.
    let config = adapter.join("adapter_config.json");
    let text = fs::read_to_string(&config).expect("written");
    for (from, to, what) in [
        // It says DoRA, and has no magnitudes.
        ("\"use_dora\": false", "\"use_dora\": true", "lora_magnitude_vector"),
        ("\"bias\": \"none\"", "\"bias\": \"all\"", "bias"),
        ("\"rank_pattern\": {}", "\"rank_pattern\": {\"q_proj\": 2}", "the config's r is 2"),
        ("\"down_proj\",", "", "PEFT would leave it out"),
        ("\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]", "lm_head.weight: expected a tensor"),
        ("\"lora_alpha\": 6.0", "\"lora_alpha\": -6.0", "lora_alpha: expected a number above 0"),
        ("\"peft_type\": \"LORA\"", "\"peft_type\": \"IA3\"", "peft_type"),
    ] {
        assert!(text.contains(from), "{from}");
        fs::write(&config, text.replace(from, to)).expect("written");
        let error = refused(&base, &adapter).expect_err("not understood").to_string();
        assert!(error.contains(what), "{error}");
    }
}

/// The same adapter with its B matrices scaled, or its first values not finite.
fn change_adapter(adapter: &Path, change: impl Fn(&str, &mut [f32])) {
    let path = adapter.join("adapter_model.safetensors");
    let bytes = fs::read(&path).expect("written");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("sound");
    let mut changed: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, tensor) in tensors.tensors() {
        let bits = tensor.data().as_chunks::<4>().0;
        let mut values: Vec<f32> = bits.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        change(&name, &mut values);
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        changed.push((name, tensor.shape().to_vec(), bytes));
    }
    let views = changed.iter().map(|(name, shape, bytes)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name.as_str(), view.expect("its bytes"))
    });
    safetensors::serialize_to_file(views, None, &path).expect("written");
}

#[test]
fn a_merge_says_what_was_lost_to_rounding_and_float32_or_stochastic_rounding_keep_it() {
    let temp = TempDir::new().expect("a folder");
    let [base, adapter] = trained(temp.path(), Family::Llama, false);
    // The same weights in bf16, of which an adapter of this size moves few.
    let half = temp.path().join("half");
    Tiny::new(Family::Llama).write(&half);
    change_adapter(&adapter, |name, values| {
        if name.contains("lora_B") {
            values.iter_mut().for_each(|value| *value *= 2e-4);
        }
    });
    let out = temp.path().join("merged");
    let run = |base: &Path, options| {
        let report = merged(base, &adapter, &out, options).expect("merged");
        let config = fs::read_to_string(out.join("config.json")).expect("written");
        let found = logits(&out, None);
        fs::remove_dir_all(&out).expect("removed");
        (report, config, found)
    };
    let arrived = |report: &MergeReport| report.total.arrived.expect("a change");
    let (nearest, config, _) = run(&half, MergeOptions::default());
    assert!(arrived(&nearest) < 0.5, "{:?}", nearest.total);
    assert!(nearest.notes[0].contains("most of what the adapter adds was lost"), "{:?}", nearest.notes);
    assert!(nearest.notes[0].contains("--dtype float32") && config.contains("bfloat16"), "{:?}", nearest.notes);
    let modules: Vec<&str> = nearest.modules.iter().map(|module| module.module.as_str()).collect();
    assert_eq!((modules[0], modules[13]), ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"));

    let (wide, config, found) = run(&half, MergeOptions { float32: true, ..MergeOptions::default() });
    assert!((arrived(&wide) - 1.0).abs() < 1e-3 && wide.notes.is_empty(), "{wide:?}");
    assert!(config.contains("float32") && !config.contains("bfloat16"), "{config}");
    // bf16 widens exactly: the result is the adapter on the same weights in f32.
    let model = UnswagModel::from_pretrained(&half).expect("a model").with_dtype(unswag_abi::doc::Dtype::F32);
    let expected = model.for_inference(Some(&adapter)).expect("fits").logits(&batch()).expect("logits");
    assert!(largest_difference(&found, &expected) < 1e-5, "{}", largest_difference(&found, &expected));

    let stochastic = |seed| MergeOptions { rounding: Rounding::Stochastic { seed }, ..MergeOptions::default() };
    let (first, _, bits) = run(&half, stochastic(1));
    assert!((arrived(&first) - 1.0).abs() < 0.15, "{:?}", first.total);
    assert_eq!(bits, run(&half, stochastic(1)).2, "a seed repeats itself");
    assert_ne!(bits, run(&half, stochastic(2)).2);
    // In f32 nothing is lost, and nothing is said.
    assert!(run(&base, MergeOptions::default()).0.notes.is_empty());
}

#[test]
fn a_diverged_adapter_and_a_weight_beyond_its_type_are_named() {
    let temp = TempDir::new().expect("a folder");
    let [_, adapter] = trained(temp.path(), Family::Llama, false);
    let half = temp.path().join("half");
    Tiny { dtype: safetensors::Dtype::F16, ..Tiny::new(Family::Llama) }.write(&half);
    let out = temp.path().join("merged");
    let module = "model.layers.1.mlp.up_proj";
    for (value, expected) in [
        (f32::NAN, "tensor base_model.model.model.layers.1.mlp.up_proj.lora_B.weight: element 5 is NaN"),
        (1e9, "which F16 cannot hold; nothing was written; merge with --dtype float32"),
    ] {
        change_adapter(&adapter, |name, values| {
            if name.ends_with(&format!("{module}.lora_B.weight")) {
                values[5] = value;
            }
        });
        let said = merged(&half, &adapter, &out, MergeOptions::default()).expect_err("refused").to_string();
        assert!(said.contains(module) && said.contains(expected), "{said}");
        assert!(!out.exists());
    }
    merged(&half, &adapter, &out, MergeOptions { float32: true, ..MergeOptions::default() }).expect("f32 holds it");
}

#[test]
fn an_adapter_of_a_quantised_base_says_so_where_it_is_merged() {
    let temp = TempDir::new().expect("a folder");
    let [base, adapter] = trained(temp.path(), Family::Llama, false);
    let notes = |adapter: &Path| {
        let out = temp.path().join("merged");
        let report = merged(&base, adapter, &out, MergeOptions::default()).expect("merged");
        fs::remove_dir_all(&out).expect("removed");
        report.notes.join("\n")
    };
    assert_eq!(notes(&adapter), "");
    let quantised = temp.path().join("quantised");
    let model = UnswagModel::from_pretrained(&base).expect("a model").with_4bit(Nf4 { double_quant: true });
    let mut trainer =
        Trainer::new(model.for_training(LoraConfig::default()).expect("adapters"), TrainingArguments::default())
            .expect("settings");
    trainer.step(&[batch()], 2e-2).expect("a step");
    save_adapter(trainer.model(), &quantised, &RealDisk).expect("saved");
    assert!(notes(&quantised).contains("held in 4 bits (NF4)"), "{}", notes(&quantised));
    // What PEFT leaves to see: the base's name, or bitsandbytes' settings in an older README.
    fs::write(adapter.join("README.md"), "- load_in_8bit: True\n").expect("written");
    assert!(notes(&adapter).contains("in 8 bits (by its README)"), "{}", notes(&adapter));
    let config = adapter.join("adapter_config.json");
    let text = fs::read_to_string(&config).expect("written");
    let base_name = base.canonicalize().expect("there").display().to_string();
    assert!(text.contains(&base_name), "named by its absolute path: {text}");
    fs::write(&config, text.replace(&base_name, "unsloth/llama-3-8b-bnb-4bit")).expect("written");
    assert!(notes(&adapter).contains("quantised (bnb-4bit, by the base's name)"), "{}", notes(&adapter));
}

#[test]
fn an_adapter_is_trained_further_from_where_it_was_and_names_a_hub_model_by_its_id() {
    let temp = TempDir::new().expect("a folder");
    tch::set_num_threads(1);
    // As the hub's cache has it.
    let base = temp.path().join("models--org--tiny/snapshots/0123abcd");
    Tiny { dtype: safetensors::Dtype::F32, ..Tiny::new(Family::Llama) }.write(&base);
    let config = LoraConfig {
        target_modules: vec!["q_proj".into(), "lm_head".into()],
        rank_pattern: vec![("lm_head".into(), 3)],
        alpha_pattern: vec![("layers.1.self_attn.q_proj".into(), 2.5)],
        modules_to_save: vec!["norm".into()],
        ..LoraConfig::default()
    };
    let open = || UnswagModel::from_pretrained(&base).expect("a model");
    let (first, second) = (temp.path().join("first"), temp.path().join("second"));
    let mut trainer =
        Trainer::new(open().for_training(config).expect("adapters"), TrainingArguments::default()).expect("settings");
    trainer.step(&[batch()], 1e-2).expect("a step");
    save_adapter(trainer.model(), &first, &RealDisk).expect("saved");
    let page = |folder: &Path| -> serde_json::Value {
        serde_json::from_slice(&fs::read(folder.join("adapter_config.json")).expect("written")).expect("JSON")
    };
    assert_eq!(
        (&page(&first)["base_model_name_or_path"], &page(&first)["revision"]),
        (&"org/tiny".into(), &"0123abcd".into())
    );

    let further = open().for_training_from(&first, 0.0, 1).expect("it fits");
    assert_eq!(further.trainable_parameters(), trainer.model().trainable_parameters());
    assert_eq!(further.logits(&batch()).expect("logits"), trainer.model().logits(&batch()).expect("logits"));
    let mut further = Trainer::new(further, TrainingArguments::default()).expect("settings");
    let before = logits(&base, Some(&first));
    further.step(&[batch()], 1e-2).expect("a step");
    save_adapter(further.model(), &second, &RealDisk).expect("saved");
    let after = logits(&base, Some(&second));
    assert_eq!(after, further.model().logits(&batch()).expect("logits"), "ranks, scales and norms come through");
    assert!(largest_difference(&before, &after) > 0.01);
    assert!(open().for_training_from(&first, 1.0, 1).is_err(), "a dropout that drops all");
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
