//! The import against transformers: the same weights, logits and tokens from the same GGUF file.
//!
//! Needs the Python environment and SmolLM2, which `scripts/fetch venv smollm2` lays down (`make test` does so first).

use std::path::Path;
use std::process::Command;

use serde_json::Value as Json;
use tempfile::TempDir;
use tokenizers::Tokenizer;
use unswag_checkpoint::gguf::{ImportDtype, ImportOptions, ImportReport, import};
use unswag_checkpoint::{RealDisk, silent};
use unswag_tests::{cached, smollm2_gguf, workspace_root};

/// Runs a script of tests/peers; a failure shows all it said.
#[track_caller]
fn peer(script: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(cached("venv", "venv/bin/python"));
    command.arg(workspace_root().join("tests/peers").join(script)).args(arguments);
    command.env("HF_HUB_OFFLINE", "1").env("TOKENIZERS_PARALLELISM", "false").env("TQDM_DISABLE", "1");
    let output = command.output().expect("the environment's Python starts");
    let said = [output.stdout.as_slice(), &output.stderr].map(String::from_utf8_lossy).join("\n");
    assert!(output.status.success(), "{script} {arguments:?}:\n{said}");
    said
}

#[track_caller]
fn import_to(gguf: &Path, out: &Path, dtype: ImportDtype) -> ImportReport {
    let options = ImportOptions { dtype, ..ImportOptions::default() };
    import(gguf, out, options, &RealDisk, &silent).unwrap_or_else(|error| panic!("{error}"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Checks our tokenizer.json, through the Rust library, against what another tokenizer made of the same texts.
#[track_caller]
fn tokens_are_those_of(expected: &Path, folder: &Path) {
    let expected = read_json(expected);
    let ours = Tokenizer::from_file(folder.join("tokenizer.json")).unwrap_or_else(|error| panic!("{error}"));
    let cases = expected["cases"].as_array().expect("a list");
    assert!(cases.len() > 20);
    for case in cases {
        let input = case["text"].as_str().expect("text");
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        let encoding = ours.encode(input, true).unwrap_or_else(|error| panic!("{input:?}: {error}"));
        assert_eq!(encoding.get_ids(), ids, "{}: {input:?}: {:?}", folder.display(), encoding.get_tokens());
        if let Some(decoded) = case["decoded"].as_str() {
            assert_eq!(ours.decode(&ids, false).expect("ids of the vocabulary"), decoded, "{input:?}");
        }
    }
    let config: Json = read_json(&folder.join("tokenizer_config.json"));
    // Those a GGUF states; transformers' classes add roles of their own.
    for role in ["bos_token", "eos_token", "unk_token", "pad_token"] {
        if let Some(token) = expected["roles"].get(role) {
            assert_eq!(&config[role], token, "{}: {role}", folder.display());
        }
    }
}

fn read_json(path: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(path).expect("written")).expect("JSON")
}

#[test]
fn smollm2_has_transformers_weights_and_logits_bit_for_bit() {
    let scratch = TempDir::new().expect("a folder");
    let out = scratch.path().join("SmolLM2");
    let report = import_to(&smollm2_gguf(), &out, ImportDtype::Bf16);
    assert_eq!((report.model_type, report.tensors, report.parameters), ("llama", 272, 134_515_008));
    assert!(report.has_tokenizer && report.has_chat_template);
    assert!(report.notes.iter().any(|note| note.contains("Q4_1") && note.contains("BF16")), "{:?}", report.notes);
    println!("{}", peer("gguf_logits.py", &[text(&smollm2_gguf()), text(&out)]));
}

#[test]
fn smollm2_encodes_as_transformers_and_keeps_its_chat_template() {
    let scratch = TempDir::new().expect("a folder");
    let out = scratch.path().join("SmolLM2");
    import_to(&smollm2_gguf(), &out, ImportDtype::Bf16);
    let tokens = scratch.path().join("tokens.json");
    peer("gguf_tokens.py", &[text(&smollm2_gguf()), text(&tokens), "--digits"]);
    tokens_are_those_of(&tokens, &out);
    let template = read_json(&out.join("tokenizer_config.json"))["chat_template"].as_str().map(str::to_owned);
    assert!(template.is_some_and(|template| template.contains("You are a helpful AI assistant named SmolLM")));
}

#[test]
fn every_family_comes_back_as_the_model_it_was_made_from() {
    let scratch = TempDir::new().expect("a folder");
    let folder = scratch.path().join("cases");
    peer("gguf_families.py", &["make", text(&folder)]);
    let mut cases = 0;
    for case in std::fs::read_dir(&folder).expect("made").map(|entry| entry.expect("readable").path()) {
        import_to(&case.join("model.gguf"), &case.join("out"), ImportDtype::F32);
        tokens_are_those_of(&case.join("tokens.json"), &case.join("out"));
        cases += 1;
    }
    assert_eq!(cases, 12, "a case was added or lost");
    println!("{}", peer("gguf_families.py", &["check", text(&folder)]));
}
