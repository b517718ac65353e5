//! Files that make the tokenizers library panic, multiply a text, or take gigabytes: each is an error that says what is
//! wrong, soon and in little memory.

mod common;

use common::chain;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use unswag_data::Tokenizer;

/// The letters a to z, and `with` in the place of parts.
fn letters(with: &[(&str, Json)]) -> Json {
    let vocab: serde_json::Map<String, Json> =
        (b'a'..=b'z').map(|c| ((c as char).to_string(), json!(c - b'a'))).collect();
    let mut file =
        json!({"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": vocab, "merges": []}});
    for (pointer, value) in with {
        match pointer.strip_prefix("model/") {
            Some(field) => file["model"][field] = value.clone(),
            None => file[*pointer] = value.clone(),
        }
    }
    file
}

fn load(file: &Json) -> Result<Tokenizer, String> {
    Tokenizer::from_bytes(file.to_string().as_bytes(), None).map_err(|error| chain(&error))
}

/// What a program does with a tokenizer: load it, encode a text, decode it.
fn exercise(file: &[u8]) -> Result<String, String> {
    let text = "the quick brown fox    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n née 🙂 <s>";
    let tokenizer = Tokenizer::from_bytes(file, None).map_err(|error| chain(&error))?;
    let ids = tokenizer.encode(text, true).map_err(|error| chain(&error))?;
    tokenizer.decode(&ids, true).map_err(|error| chain(&error))
}

#[test]
fn what_makes_the_library_panic_is_an_error_that_says_what_is_wrong() {
    let template = |single: Json, tokens: Json| json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": tokens});
    let (text, name) =
        (json!({"Sequence": {"id": "A", "type_id": 0}}), json!({"SpecialToken": {"id": "x", "type_id": 0}}));
    let entry = json!({"x": {"id": "x", "ids": [1], "tokens": ["x"]}});
    let precompiled = |table: &str| json!({"type": "Precompiled", "precompiled_charsmap": table});
    let merges =
        |prefix: &str, merges: Json| [("model/continuing_subword_prefix", json!(prefix)), ("model/merges", merges)];
    for (with, expected) in [
        (vec![("post_processor", template(json!([name, text]), json!({})))], "special_tokens lack"),
        (vec![("post_processor", template(json!([text, text]), json!({})))], "2 times"),
        (vec![("post_processor", template(json!([name]), entry.clone()))], "0 times"),
        (vec![("post_processor", template(json!([{"Sequence": {"id": "B", "type_id": 0}}]), json!({})))], "\"B\""),
        (
            vec![(
                "post_processor",
                json!({"type": "Sequence", "processors": [template(json!([name, text]), entry.clone()), template(json!([name, text]), entry)]}),
            )],
            "post_processor",
        ),
        (vec![("normalizer", precompiled("AAAA"))], "precompiled_charsmap"),
        (vec![("normalizer", precompiled("////f0FB"))], "a trie of"),
        (vec![("normalizer", precompiled("no base64!"))], "precompiled_charsmap"),
        (merges(&"x".repeat(100), json!([["a", "b"]])).to_vec(), "continuing_subword_prefix"),
        (merges("é", json!(["a bé", "a xé"])).to_vec(), "continuing_subword_prefix"),
        (vec![("decoder", json!({"type": "Strip", "content": null, "start": 1, "stop": 0}))], "decoder"),
        (vec![("pre_tokenizer", json!({"type": "FixedLength", "length": 0}))], "the tokenizers library fails"),
    ] {
        let file = letters(&with).to_string();
        let said = exercise(file.as_bytes()).unwrap_err();
        assert!(said.contains("tokenizer.json") && said.contains(expected), "{expected}: {said}");
    }
    let nan =
        letters(&[]).to_string().replace("\"added_tokens\":[]", "\"decoder\":{\"type\":\"Strip\",\"content\":NaN}");
    assert!(exercise(nan.as_bytes()).unwrap_err().contains("expected value"));
    // The same steps, sound.
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    assert!(load(&letters(&[("decoder", strip)])).is_ok());
}

#[test]
fn steps_that_multiply_a_text_are_refused_before_one_is_encoded() {
    let replace =
        |pattern: Json, content: usize| json!({"type": "Replace", "pattern": pattern, "content": "x".repeat(content)});
    let sequence = |steps: Vec<Json>| json!({"type": "Sequence", "normalizers": steps});
    let each = json!({"Regex": "."});
    let ids: Vec<u32> = vec![1; 1000];
    for (part, value, expected) in [
        ("normalizer", sequence(vec![replace(each.clone(), 1000); 3]), "can expand one byte to"),
        ("normalizer", sequence(vec![replace(json!({"String": "a"}), 200); 2]), "can expand one byte to"),
        ("normalizer", replace(json!({"Regex": "x*"}), 20_000), "can expand one byte to"),
        ("normalizer", json!({"type": "Prepend", "prepend": "x".repeat(10_000)}), "Prepend of 10000 bytes"),
        ("normalizer", json!({"type": "Prepend", "prepend": "x".repeat(10_000_000)}), "10000"),
        ("normalizer", sequence(vec![json!({"type": "NFC"}); 200]), "steps"),
        (
            "pre_tokenizer",
            json!({"type": "Sequence", "pretokenizers": vec![json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true}); 30]}),
            "can expand one byte to",
        ),
        ("decoder", replace(json!({"String": "a"}), 5000), "can expand one byte to"),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "\\p{L}{1000}{1000}"}, "behavior": "Isolated", "invert": false}),
            "pattern",
        ),
        (
            "post_processor",
            json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [], "special_tokens": {"x": {"id": "x", "ids": ids, "tokens": vec!["x"; 1000]}}}),
            "tokens around a text",
        ),
    ] {
        let said = load(&letters(&[(part, value)])).unwrap_err();
        assert!(said.contains(part) && said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn a_normalizer_that_seldom_grows_is_taken_until_it_grows() {
    // As ALBERT: at worst hundreds of bytes for one, of real text hardly more than it has.
    let steps = [
        json!({"type": "NFKD"}),
        json!({"type": "StripAccents"}),
        json!({"type": "Lowercase"}),
        json!({"type": "Replace", "pattern": {"String": "b"}, "content": "b".repeat(100)}),
    ];
    let tokenizer = load(&letters(&[("normalizer", json!({"type": "Sequence", "normalizers": steps}))])).unwrap();
    assert_eq!(tokenizer.encode("ácE", false).unwrap(), [0, 2, 4]);
    assert_eq!(tokenizer.encode("b", false).unwrap().len(), 100);
    let said = chain(&tokenizer.encode(&"b".repeat(100_000), false).unwrap_err());
    assert!(said.contains("the normalizer expanded"), "{said}");
}

#[test]
fn more_merges_and_tokens_than_any_vocabulary_are_refused_while_they_are_counted() {
    let file = letters(&[]).to_string();
    let merges = "[\"a\",\"b\"],".repeat(1_580_000);
    let many = file.replace("\"merges\":[]", &format!("\"merges\":[{}]", merges.trim_end_matches(',')));
    let vocab: String = (0..1_580_000).map(|id| format!("\"{id:x}\":{id},")).collect();
    let long = file.replace("\"vocab\":{", &format!("\"vocab\":{{{vocab}"));
    let token = file.replace("\"vocab\":{", &format!("\"vocab\":{{\"{}\":99,", "x".repeat(5000)));
    let unigram = json!({"type": "Unigram", "unk_id": 0, "vocab": (0..3000).map(|id| json!([format!("{id:02000}"), 0.0])).collect::<Vec<_>>()});
    for (file, expected) in [
        (many, "merges"),
        (long, "tokens in the vocabulary"),
        (token, "a token of 5000 bytes"),
        (letters(&[("model", unigram)]).to_string(), "Unigram"),
    ] {
        let said = exercise(file.as_bytes()).unwrap_err();
        assert!(said.contains("model") && said.contains(expected), "{said}");
    }
}

#[test]
fn a_file_larger_than_any_tokenizer_is_not_read() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = std::fs::File::create(dir.path().join("tokenizer.json")).unwrap();
    file.set_len(120 << 20).unwrap();
    let said = chain(&Tokenizer::load(dir.path()).unwrap_err());
    assert!(said.contains("125829120 bytes"), "{said}");
}

#[test]
fn a_pattern_that_backtracks_is_given_up_at_the_engine_s_limit_of_steps() {
    // Each of four groups takes any part of the letters, and only what follows refuses: n^4 divisions at each start.
    let pattern = "(a*)(a*)(a*)(a*)\\1!|.";
    let text = "a".repeat(2000);
    let regex = fancy_regex::Regex::new(pattern).unwrap();
    let refused = regex.find(&text).unwrap_err();
    assert!(matches!(refused, fancy_regex::Error::RuntimeError(fancy_regex::RuntimeError::BacktrackLimitExceeded)));
    // Every letter matches, and what matches is removed.
    let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": false});
    let tokenizer = load(&letters(&[("pre_tokenizer", split)])).unwrap();
    assert!(tokenizer.encode("ab", false).unwrap().is_empty());
    // Where the limit ends a match, the library takes the text as one that does not match: it is left, and not removed.
    assert_eq!(tokenizer.encode(&text, false).unwrap(), [0; 2000]);
}

#[test]
fn a_field_that_stands_twice_is_refused_because_only_one_would_be_counted() {
    let file = letters(&[]).to_string();
    let model = file.replace("\"merges\":[]", "\"merges\":[],\"merges\":[]");
    let document = file.replacen('{', "{\"version\":\"1.0\",", 1);
    let many: String = (0..300).map(|n| format!("\"x{n}\":0,")).collect();
    let fields = file.replacen('{', &format!("{{{many}"), 1);
    for (file, expected) in
        [(model, "\"merges\" stands twice"), (document, "\"version\" stands twice"), (fields, "fields")]
    {
        let said = exercise(file.as_bytes()).unwrap_err();
        assert!(said.contains(expected), "{said}");
    }
}

/// Documents that are nearly tokenizers: fields of the right names, values of any kind.
fn nearly() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(|value| json!(value)),
        (0..300_u32).prop_map(|value| json!(value)),
        "[a-z<>▁ .*+?(){}|\\\\$^-]{0,8}".prop_map(|value| json!(value)),
        Just(json!({"String": " "})),
        Just(json!({"Regex": "\\s+"})),
        prop::sample::select(vec![
            "Replace",
            "Prepend",
            "Precompiled",
            "NFKC",
            "Metaspace",
            "ByteLevel",
            "Split",
            "Sequence",
            "Strip",
            "TemplateProcessing",
            "RobertaProcessing",
            "WordPiece",
            "BPE",
            "Unigram",
            "WordLevel",
            "CTC",
            "Fuse",
            "ByteFallback",
            "Digits",
            "BPEDecoder",
            "Isolated",
            "Removed",
            "always",
            "A"
        ])
        .prop_map(|value| json!(value)),
    ];
    let field = prop::sample::select(vec![
        "type",
        "pattern",
        "content",
        "prepend",
        "precompiled_charsmap",
        "replacement",
        "prepend_scheme",
        "split",
        "behavior",
        "invert",
        "normalizers",
        "pretokenizers",
        "processors",
        "decoders",
        "single",
        "pair",
        "special_tokens",
        "sep",
        "cls",
        "trim_offsets",
        "add_prefix_space",
        "use_regex",
        "start",
        "stop",
        "prefix",
        "cleanup",
        "suffix",
        "length",
        "individual_digits",
        "pad_token",
        "word_delimiter_token",
        "vocab",
        "merges",
        "unk_token",
        "unk_id",
        "byte_fallback",
        "continuing_subword_prefix",
        "dropout",
    ]);
    let inner = leaf.prop_recursive(3, 24, 6, move |value| {
        prop_oneof![
            prop::collection::vec(value.clone(), 0..4).prop_map(Json::Array),
            prop::collection::vec((field.clone(), value), 0..6).prop_map(|fields| Json::Object(
                fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
            )),
        ]
    });
    let part = prop::sample::select(vec![
        "normalizer",
        "pre_tokenizer",
        "post_processor",
        "decoder",
        "model/dropout",
        "model/unk_token",
        "model/merges",
        "model/continuing_subword_prefix",
        "added_tokens",
    ]);
    prop::collection::vec((part, inner), 1..4).prop_map(|parts| letters(&parts))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn documents_that_are_nearly_tokenizers_end_in_a_text_or_an_error(file in nearly()) {
        let _ = exercise(file.to_string().as_bytes());
    }

    #[test]
    fn damaged_bytes_end_in_a_text_or_an_error(at in 0..400_usize, byte in any::<u8>(), cut in 0..900_usize) {
        let replace = json!({"type": "Replace", "pattern": {"Regex": "\\s+(?!\\S)"}, "content": "▁"});
        let mut file = letters(&[("normalizer", replace), ("decoder", json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true}))]).to_string().into_bytes();
        let at = at % file.len();
        file[at] = byte;
        file.truncate(cut.max(at + 1));
        let _ = exercise(&file);
    }
}
