//! Which ids begin and end a text, from files as they are found beside models, and what is refused.

mod common;

use std::{
    fs,
    path::Path,
    sync::{Arc, LazyLock},
};

use common::{all_rows, chain, smollm2, text};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use unswag_data::{Error, StreamingContextDataLoader, TextOptions, Tokenizer};

/// Five words; `<s>` goes before each text.
fn small() -> Json {
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let added = [special(1, "<s>"), special(2, "</s>"), special(3, "<end>"), special(4, "<pad>")];
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 4, "pad_type_id": 0, "pad_token": "<pad>"},
        "added_tokens": added,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "<s>": 1, "</s>": 2, "<end>": 3, "<pad>": 4, "a": 5, "b": 6, "c": 7}, "unk_token": "[UNK]"}
    })
}

fn folder(files: &[(&str, Json)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(name), content.to_string()).unwrap();
    }
    dir
}

#[track_caller]
fn refused(files: &[(&str, Json)], expected: &[&str]) {
    let said = chain(&Tokenizer::load(folder(files).path()).unwrap_err());
    assert!(expected.iter().all(|part| said.contains(part)), "{said}");
}

#[test]
fn smollm2_states_its_roles() {
    let tokenizer = smollm2();
    assert_eq!(
        (tokenizer.eos_id(), tokenizer.eos_ids(), tokenizer.bos_id(), tokenizer.pad_id()),
        (Some(2), &[2][..], Some(1), 2)
    );
    assert_eq!(
        (tokenizer.vocab_size(), tokenizer.piece(2).as_deref(), tokenizer.piece(99_999)),
        (49152, Some("<|im_end|>"), None)
    );
    assert_eq!(tokenizer.prefix_and_suffix(), (&[][..], &[][..]));
    assert!(tokenizer.is_special(2) && !tokenizer.is_special(100));
}

#[test]
fn every_file_that_names_an_end_is_heard_the_tokenizers_own_first() {
    let dir = folder(&[
        ("tokenizer.json", small()),
        ("tokenizer_config.json", json!({"eos_token": {"content": "</s>", "lstrip": false}, "bos_token": "<s>"})),
        ("special_tokens_map.json", json!({"pad_token": "<pad>"})),
        ("generation_config.json", json!({"eos_token_id": [2, 3]})),
        ("config.json", json!({"eos_token_id": -1, "pad_token_id": null})),
    ]);
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    assert_eq!((tokenizer.eos_ids(), tokenizer.bos_id(), tokenizer.pad_id()), (&[2, 3][..], Some(1), 4));
    assert_eq!(
        (tokenizer.role("eos_token"), tokenizer.role("pad_token"), tokenizer.role("cls_token")),
        (Some("</s>"), Some("<pad>"), None)
    );
}

#[test]
fn a_saved_truncation_or_padding_loses_and_adds_nothing() {
    let tokenizer = Tokenizer::load(folder(&[("tokenizer.json", small())]).path()).unwrap();
    assert_eq!(tokenizer.encode("a b c a b c", false).unwrap(), [5, 6, 7, 5, 6, 7]);
    assert_eq!(tokenizer.encode("a", true).unwrap(), [1, 5]);
    assert_eq!(tokenizer.prefix_and_suffix(), (&[1][..], &[][..]));
}

#[test]
fn each_document_begins_as_the_tokenizer_begins_a_text() {
    let dir = folder(&[("tokenizer.json", small()), ("tokenizer_config.json", json!({"eos_token": "</s>"}))]);
    let tokenizer = Arc::new(Tokenizer::load(dir.path()).unwrap());
    let path = dir.path().join("rows.jsonl");
    fs::write(&path, "{\"text\": \"a b\"}\n{\"text\": \" \"}\n{\"text\": \"c\"}\n").unwrap();
    let options = TextOptions { block_size: 4, isolate_documents: true, ..TextOptions::default() };
    let rows = all_rows(&mut StreamingContextDataLoader::open(&[text(&path)], tokenizer, &options).unwrap());
    assert_eq!(rows.iter().map(|row| row.ids.as_slice()).collect::<Vec<_>>(), [&[1, 5, 6, 2], &[1, 2, 1, 7][..], &[2]]);
    assert_eq!(rows[1].documents, [0, 0, 1, 1]);
}

#[test]
fn text_without_an_end_token_must_be_asked_for() {
    let dir = folder(&[("tokenizer.json", small())]);
    let tokenizer = Arc::new(Tokenizer::load(dir.path()).unwrap());
    let path = dir.path().join("a.txt");
    fs::write(&path, "a b").unwrap();
    let open = |append_eos| {
        let options = TextOptions { append_eos, ..TextOptions::default() };
        StreamingContextDataLoader::open(&[text(&path)], tokenizer.clone(), &options)
    };
    assert!(matches!(open(true), Err(Error::Setting { name: "append_eos", .. })));
    assert_eq!(all_rows(&mut open(false).unwrap())[0].ids, [1, 5, 6]);
}

#[test]
fn files_that_contradict_the_vocabulary_are_refused_by_name() {
    let tokenizer = || ("tokenizer.json", small());
    refused(&[], &["tokenizer.json", "no such file"]);
    refused(&[("tokenizer.json", json!({"version": "1.0"}))], &["tokenizer.json", "Hugging Face"]);
    refused(
        &[tokenizer(), ("generation_config.json", json!({"eos_token_id": [2, 800]}))],
        &["generation_config.json", "800"],
    );
    refused(&[tokenizer(), ("config.json", json!({"bos_token_id": "one"}))], &["config.json", "bos_token_id", "one"]);
    refused(&[tokenizer(), ("config.json", json!([]))], &["config.json", "JSON object"]);
    // transformers reads no special_tokens_map.json beside a list of added tokens: what only that names is no token.
    let dir = folder(&[
        tokenizer(),
        ("tokenizer_config.json", json!({"added_tokens_decoder": {}})),
        ("special_tokens_map.json", json!({"eos_token": "<eos>", "pad_token": "<pad>"})),
    ]);
    let ignored = Tokenizer::load(dir.path()).unwrap();
    assert_eq!((ignored.eos_ids(), ignored.id_of("<eos>"), ignored.pad_id()), (&[][..], None, 4));
    assert!(matches!(Tokenizer::load(Path::new("/nowhere")), Err(Error::Missing { .. })));
}

/// A vocabulary with byte fallback, spelled and decoded as Llama 2's: 3 bytes of structure, 256 of text, then pieces.
fn sentence_piece() -> Tokenizer {
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let pieces = ["▁", "a", "b", "▁the", "é", "▁▁", "."].map(str::to_owned);
    let words = ["<unk>", "<s>", "</s>"].map(str::to_owned).into_iter().chain(bytes).chain(pieces);
    let vocab: serde_json::Map<String, Json> = words.zip(0..).map(|(word, id)| (word, json!(id))).collect();
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let file = json!({
        "version": "1.0", "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        ]},
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": "<unk>", "byte_fallback": true}
    });
    Tokenizer::from_bytes(file.to_string().as_bytes(), None).unwrap()
}

#[track_caller]
fn streams_as_decoded_at_once(tokenizer: &Tokenizer, ids: &[u32]) {
    let mut stream = tokenizer.text_stream();
    let mut text: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
    text.push_str(&stream.finish().unwrap());
    assert_eq!(text, tokenizer.decode(ids, true).unwrap(), "{ids:?}");
}

#[test]
fn text_streams_as_it_comes_and_characters_wait_for_their_last_byte() {
    let tokenizer = sentence_piece();
    let mut stream = tokenizer.text_stream();
    // " the", the three bytes of "€", " a".
    let pieces = [262, 3 + 0xE2, 3 + 0x82, 3 + 0xAC, 259, 260].map(|id| stream.push(id).unwrap());
    assert_eq!(pieces, ["the", "", "", "", "€ ", "a"]);
    assert_eq!(stream.finish().unwrap(), "");
    // One byte is missing and the model continues: the bytes are replaced, nothing ends.
    let mut stream = tokenizer.text_stream();
    let pieces = [262, 3 + 0xE2, 3 + 0x82, 260, 3 + 0xFF].map(|id| stream.push(id).unwrap());
    assert_eq!(pieces, ["the", "", "", "\u{FFFD}\u{FFFD}a", ""]);
    assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_ids_stream_as_they_are_decoded_at_once(
        bytes in prop::collection::vec(prop_oneof![0..259_u32, 259..266_u32, 259..266_u32], 0..300),
        pieces in prop::collection::vec(prop_oneof![0..300_u32, 0..49_152_u32], 0..300),
    ) {
        streams_as_decoded_at_once(&sentence_piece(), &bytes);
        streams_as_decoded_at_once(&SMOLLM2, &pieces);
    }
}

static SMOLLM2: LazyLock<Arc<Tokenizer>> = LazyLock::new(smollm2);
