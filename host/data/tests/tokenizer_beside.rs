//! Tokens that files beside `tokenizer.json` add, and what surrounds a text: against transformers, and what is refused.

mod common;

use std::{collections::BTreeSet, fs, path::PathBuf};

use common::chain;
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use unswag_data::Tokenizer;

#[test]
fn tokens_beside_tokenizer_json_and_what_surrounds_a_text_are_as_transformers_has_them() {
    let dir = TempDir::new().unwrap();
    let made = unswag_tests::python("peers/tokenizers_beside.py").arg(dir.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let cases: Vec<Json> = serde_json::from_slice(&fs::read(dir.path().join("cases.json")).unwrap()).unwrap();
    let folders: BTreeSet<&str> = cases.iter().map(|case| case["folder"].as_str().unwrap()).collect();
    assert!(folders.len() > 40, "{folders:?}");
    for folder in folders {
        let tokenizer = Tokenizer::load(&PathBuf::from(folder)).unwrap_or_else(|error| panic!("{}", chain(&error)));
        for case in cases.iter().filter(|case| case["folder"] == folder) {
            let text = case["text"].as_str().unwrap();
            let ids = tokenizer.encode(text, true).unwrap();
            let ours = json!({
                "folder": folder, "text": text, "ids": ids, "bare": tokenizer.encode(text, false).unwrap(),
                "decoded": tokenizer.decode(&ids, true).unwrap(), "size": tokenizer.vocab_size(),
            });
            assert_eq!(&ours, case);
            let (before, after) = tokenizer.prefix_and_suffix();
            let bare = tokenizer.encode(text, false).unwrap();
            assert_eq!([before, &bare, after].concat(), ids, "{folder}: {text:?}");
        }
    }
}

/// Ten digits, and a list of added tokens.
fn digits(added: &[(u64, &str)]) -> Json {
    let vocab: serde_json::Map<String, Json> = (0..10_u64).map(|digit| (digit.to_string(), json!(digit))).collect();
    let tag = |(id, content): &(u64, &str)| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    json!({
        "version": "1.0", "added_tokens": added.iter().map(tag).collect::<Vec<_>>(),
        "model": {"type": "BPE", "vocab": vocab, "merges": []}
    })
}

fn load(tokenizer: &Json, files: &[(&str, Json)]) -> Result<Tokenizer, String> {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(name), content.to_string()).unwrap();
    }
    Tokenizer::load(dir.path()).map_err(|error| chain(&error))
}

#[test]
fn an_id_that_does_not_follow_the_vocabulary_is_refused_with_both_numbers() {
    let config = |id: &str| {
        [(
            "tokenizer_config.json",
            json!({"eos_token": "<end>", "added_tokens_decoder": {(id): {"content": "<end>", "special": true}}}),
        )]
    };
    let tokenizer = load(&digits(&[]), &config("10")).unwrap();
    assert_eq!((tokenizer.eos_id(), tokenizer.encode("1<end>", false).unwrap()), (Some(10), vec![1, 10]));
    let said = load(&digits(&[]), &config("12")).unwrap_err();
    assert!(["tokenizer_config.json", "\"<end>\"", "id 12", "is 10"].iter().all(|part| said.contains(part)), "{said}");
    let said = load(&digits(&[]), &[("added_tokens.json", json!({"<a>": 11, "<b>": 12}))]).unwrap_err();
    assert!(["added_tokens.json", "\"<a>\"", "id 11", "is 10"].iter().all(|part| said.contains(part)), "{said}");
    // A token that tokenizer.json has keeps its id, whatever an older file says.
    let tokenizer = load(&digits(&[(10, "<end>")]), &config("12")).unwrap();
    assert_eq!(tokenizer.eos_id(), Some(10));
}

#[test]
fn what_is_no_list_of_tokens_is_refused_by_its_file() {
    for (name, content, expected) in [
        ("tokenizer_config.json", json!({"added_tokens_decoder": {"ten": {"content": "<a>"}}}), "\"ten\""),
        ("tokenizer_config.json", json!({"added_tokens_decoder": {"10": 7}}), "id 10"),
        ("tokenizer_config.json", json!({"added_tokens_decoder": [1]}), "ids and tokens"),
        ("added_tokens.json", json!({"<a>": "ten"}), "<a>"),
        ("tokenizer_config.json", json!({"image_token": "<i>", "audio_token": "<s>"}), "added_tokens_decoder"),
    ] {
        let said = load(&digits(&[]), &[(name, content)]).unwrap_err();
        assert!(said.contains(name) && said.contains(expected), "{said}");
    }
}

#[test]
fn tokens_beside_the_file_make_another_digest() {
    let plain = load(&digits(&[]), &[]).unwrap().digest();
    let with = |config: Json| load(&digits(&[]), &[("tokenizer_config.json", config)]).unwrap().digest();
    assert_eq!(plain, with(json!({"eos_token": null})));
    assert_ne!(plain, with(json!({"eos_token": "<end>"})));
    assert_ne!(with(json!({"eos_token": "<stop>"})), with(json!({"eos_token": "<end>"})));
}

#[test]
fn the_largest_id_counts_added_tokens_and_what_surrounds_a_text() {
    assert_eq!(load(&digits(&[]), &[]).unwrap().largest_id(), Some((9, "9".to_owned())));
    let added = load(&digits(&[]), &[("tokenizer_config.json", json!({"eos_token": "<end>"}))]).unwrap();
    assert_eq!(added.largest_id(), Some((10, "<end>".to_owned())));
    let mut around = digits(&[]);
    around["post_processor"] = json!({"type": "BertProcessing", "sep": ["?", 70], "cls": ["1", 1]});
    assert_eq!(load(&around, &[]).unwrap().largest_id(), Some((70, String::new())));
}
