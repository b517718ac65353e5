//! Adapters of every family that PEFT loads as they were meant, and PEFT's that are loaded and merged as PEFT computes them: under the
//! names of the modules, whatever the checkpoint's tensors are called.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use safetensors::{SafeTensors, serialize_to_file};
use serde_json::Value as Json;
use tempfile::TempDir;
use unswag_adapter::{AdapterSpec, MergeOptions, merge};
use unswag_checkpoint::{RealDisk, silent};
use unswag_data::{Batch, Row};
use unswag_tests::{Family, Run, Tiny, python};
use unswag_train::{LoraConfig, Trainer, TrainingArguments, UnswagModel, save_adapter};

fn batch() -> Batch {
    let ids: Vec<u32> = (0..40).map(|at| (at * 37 + 11) % 256).collect();
    let labels = ids.iter().map(|id| i64::from(*id)).collect();
    Batch::new(&[Row { positions: (0..40).collect(), documents: vec![0; 40], labels, ids }], 0)
}

fn logits(base: &Path, adapter: Option<&Path>) -> Vec<f32> {
    let model = UnswagModel::from_pretrained(base).expect("a model").for_inference(adapter).expect("fits");
    model.logits(&batch()).expect("logits")
}

/// What the files call the inner model, which a checkpoint of it alone leaves out.
fn root(family: Family) -> &'static str {
    if family == Family::Gpt2 { "transformer." } else { "model." }
}

/// The same checkpoint without the root before its tensors' names.
fn strip_root(base: &Path, family: Family) {
    let path = base.join("model.safetensors");
    let bytes = fs::read(&path).expect("written");
    let tensors = SafeTensors::deserialize(&bytes).expect("sound");
    let renamed = tensors
        .tensors()
        .into_iter()
        .map(|(name, tensor)| (name.strip_prefix(root(family)).unwrap_or(&name).to_owned(), tensor));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let renamed: Vec<_> = renamed.collect();
    let other = base.join("renamed.safetensors");
    serialize_to_file(renamed, Some(metadata), &other).expect("written");
    fs::rename(other, path).expect("renamed");
}

/// Settings that differ from family to family, so that each is tried on one.
fn ours(family: Family) -> LoraConfig {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let config = LoraConfig { r: 4, lora_alpha: 8.0, ..LoraConfig::default() };
    match family {
        Family::Llama => LoraConfig {
            target_modules: names(&["all-linear", "lm_head"]),
            rank_pattern: vec![("q_proj".into(), 2), (r"layers\.1\.mlp\..*".into(), 3)],
            alpha_pattern: vec![("layers.0.self_attn.q_proj".into(), 3.0)],
            ..config
        },
        Family::Mistral => LoraConfig { target_modules: names(&["q_proj", "lm_head"]), use_dora: true, ..config },
        Family::Qwen2 => {
            LoraConfig { target_modules: names(&["v_proj"]), modules_to_save: names(&["lm_head", "norm"]), ..config }
        }
        // Its head shares the embedding's matrix.
        Family::Gemma => LoraConfig { modules_to_save: names(&["embed_tokens"]), ..config },
        Family::Gpt2 => LoraConfig { target_modules: names(&["c_attn", "lm_head"]), ..config },
        _ => config,
    }
}

/// A case's folder: a tiny checkpoint in f32, and an adapter that a few steps have moved.
fn write_case(folder: &Path, family: Family, is_bare: bool) {
    let base = folder.join("base");
    Tiny { dtype: safetensors::Dtype::F32, tokenizer: false, ..Tiny::new(family) }.write(&base);
    // The names of PEFT's own are the same for both spellings: the harder one is tried.
    if is_bare {
        strip_root(&base, family);
        fs::write(folder.join("wants_theirs"), "").expect("written");
    }
    let model = UnswagModel::from_pretrained(&base).expect("a model").for_training(ours(family)).expect("adapters");
    let mut trainer = Trainer::new(model, TrainingArguments::default()).expect("settings");
    for _ in 0..3 {
        trainer.step(&[batch()], 2e-2).expect("a step");
    }
    save_adapter(trainer.model(), &folder.join("ours"), &RealDisk).expect("saved");
    let trained = trainer.model().logits(&batch()).expect("logits");
    merge_into(folder, &folder.join("ours"), &folder.join("merged"));
    assert_close("read back", &logits(&base, Some(&folder.join("ours"))), &trained, 1.0);
}

/// Within 1e-4 of the largest logit, and of a fiftieth of `moved` where that is less.
#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f32], moved: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let off = largest_difference(found, expected);
    let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    assert!(off < 1e-4 * largest && off < 2e-2 * moved, "{what}: {off} off, the largest logit is {largest}");
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn merge_into(folder: &Path, adapter: &Path, out: &Path) {
    let model = UnswagModel::from_pretrained(&folder.join("base")).expect("a model");
    let (base, graph) = (&model.model().checkpoint, &model.model().graph);
    let spec = AdapterSpec::open(adapter, graph, base).expect("fits");
    merge(base, graph, &spec, out, MergeOptions::default(), &RealDisk, &silent).expect("merged");
}

fn merged_logits(folder: &Path, adapter: &Path) -> Vec<f32> {
    let out = folder.join("once");
    merge_into(folder, adapter, &out);
    let found = logits(&out, None);
    fs::remove_dir_all(&out).expect("removed");
    found
}

#[test]
fn adapters_of_every_family_and_spelling_mean_the_same_here_and_in_peft() {
    tch::set_num_threads(1);
    let temp = TempDir::new().expect("a folder");
    let cases: Vec<(String, PathBuf)> = Family::ALL
        .into_iter()
        .flat_map(|family| [(family, false), (family, true)])
        .map(|(family, is_bare)| {
            let name = format!("{}{}", family.model_type(), if is_bare { "-bare" } else { "" });
            let folder = temp.path().join("cases").join(&name);
            write_case(&folder, family, is_bare);
            (name, folder)
        })
        .collect();
    let out = temp.path().join("out.json");
    let outcome = python("peers/peft_adapters.py").arg(temp.path().join("cases")).arg(&out).outcome();
    outcome.ok();
    let pages: Json = serde_json::from_slice(&fs::read(out).expect("written")).expect("JSON");
    for (name, folder) in cases {
        let page = &pages[&name];
        let numbers = |field: &str| -> Vec<f32> { serde_json::from_value(page[field].clone()).expect("numbers") };
        assert_eq!((&page["unknown"], &page["missing"]), (&serde_json::json!([]), &serde_json::json!([])), "{name}");
        let (base, plain) = (folder.join("base"), numbers("plain"));
        assert_close(&format!("{name}: base"), &logits(&base, None), &plain, 1.0);
        let moved = largest_difference(&numbers("ours"), &plain);
        assert_close(&format!("{name}: merged, in transformers"), &numbers("merged"), &numbers("ours"), moved);
        let adapters = if name.ends_with("-bare") { &["ours", "theirs"][..] } else { &["ours"] };
        for &adapter in adapters {
            let (path, expected) = (folder.join(adapter), numbers(adapter));
            let moved = largest_difference(&expected, &plain);
            assert!(moved > 0.01, "{name}: {adapter} moves the logits by {moved} alone");
            assert_close(&format!("{name}: {adapter}"), &logits(&base, Some(&path)), &expected, moved);
            assert_close(&format!("{name}: {adapter}, merged"), &merged_logits(&folder, &path), &expected, moved);
        }
    }
}
