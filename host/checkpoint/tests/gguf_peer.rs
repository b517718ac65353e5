//! The import against transformers: the same weights, logits and tokens from the same GGUF file.
//!
//! Needs the Python environment and SmolLM2, which `scripts/fetch venv smollm2` lays down (`make test` does so first).

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;
use tempfile::TempDir;
use tokenizers::Tokenizer;
use unswag_checkpoint::gguf::{ImportDtype, ImportOptions, ImportReport, import};
use unswag_checkpoint::{RealDisk, silent};

fn repository() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    path.canonicalize().expect("the crate lies two folders below the repository")
}

fn cached(relative: &str) -> PathBuf {
    let cache = std::env::var_os("UNSWAG_CACHE").map_or_else(|| repository().join(".cache"), PathBuf::from);
    let path = cache.join(relative);
    assert!(path.exists(), "{} is missing; run `scripts/fetch venv smollm2` (or `make test`)", path.display());
    path
}

fn smollm2() -> PathBuf {
    cached("models/SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// Runs a script of tests/peers; a failure shows all it said.
#[track_caller]
fn peer(script: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(cached("venv/bin/python"));
    command.arg(repository().join("tests/peers").join(script)).args(arguments);
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

/// Checks our tokenizer.json, through the Rust library, against what transformers makes of the GGUF.
fn tokens_are_the_same(gguf: &Path, folder: &Path, extra: &[&str]) {
    let scratch = TempDir::new().expect("a folder");
    let dump = scratch.path().join("tokens.json");
    peer("gguf_tokens.py", &[&[text(gguf), text(&dump)], extra].concat());
    let expected: Json = serde_json::from_slice(&std::fs::read(&dump).expect("written")).expect("JSON");
    let ours = Tokenizer::from_file(folder.join("tokenizer.json")).unwrap_or_else(|error| panic!("{error}"));
    let cases = expected["cases"].as_array().expect("a list");
    assert!(cases.len() > 20);
    for case in cases {
        let input = case["text"].as_str().expect("text");
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        let encoding = ours.encode(input, true).unwrap_or_else(|error| panic!("{input:?}: {error}"));
        assert_eq!(encoding.get_ids(), ids, "{}: {input:?}: {:?}", folder.display(), encoding.get_tokens());
        let decoded = ours.decode(&ids, false).unwrap_or_else(|error| panic!("{input:?}: {error}"));
        assert_eq!(decoded, case["decoded"].as_str().expect("text"), "{input:?}");
    }
    let config: Json = read_json(&folder.join("tokenizer_config.json"));
    for (role, token) in expected["roles"].as_object().expect("roles") {
        assert_eq!(&config[role], token, "{role}");
    }
}

fn read_json(path: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(path).expect("written")).expect("JSON")
}

#[test]
fn smollm2_has_transformers_weights_and_logits_bit_for_bit() {
    let scratch = TempDir::new().expect("a folder");
    let out = scratch.path().join("SmolLM2");
    let report = import_to(&smollm2(), &out, ImportDtype::Bf16);
    assert_eq!((report.model_type, report.tensors, report.parameters), ("llama", 272, 134_515_008));
    assert!(report.has_tokenizer && report.has_chat_template);
    assert!(report.notes.iter().any(|note| note.contains("Q4_1") && note.contains("BF16")), "{:?}", report.notes);
    println!("{}", peer("gguf_logits.py", &[text(&smollm2()), text(&out)]));
}

#[test]
fn smollm2_encodes_as_transformers_and_keeps_its_chat_template() {
    let scratch = TempDir::new().expect("a folder");
    let out = scratch.path().join("SmolLM2");
    import_to(&smollm2(), &out, ImportDtype::Bf16);
    tokens_are_the_same(&smollm2(), &out, &["--digits"]);
    let template = read_json(&out.join("tokenizer_config.json"))["chat_template"].as_str().map(str::to_owned);
    assert!(template.is_some_and(|template| template.contains("You are a helpful AI assistant named SmolLM")));
}
