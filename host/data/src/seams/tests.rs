//! The tokens of windows against the tokens of the whole text, with real tokenizers on real and on awkward text.

use std::{fs, sync::Arc};

use unswag_tests::cached;

use super::*;
use crate::{
    error::Place,
    text::{FileText, MemoryText},
};

fn smollm2() -> Tokenizer {
    Tokenizer::load(&unswag_tests::smollm2()).unwrap()
}

fn play(name: &str) -> String {
    fs::read_to_string(cached("shakespeare", &format!("data/shakespeare/{name}_gut.txt"))).unwrap()
}

fn source(text: &str) -> MemoryText {
    MemoryText { text: Arc::from(text), place: Place { path: "test".into(), line: 1 } }
}

fn limits(window_bytes: usize, overlap_bytes: usize) -> Limits {
    Limits { window_bytes, overlap_bytes, most_bytes: 4 << 20 }
}

fn in_windows(text: &str, tokenizer: &Tokenizer, limits: Limits) -> (Vec<Token>, u64) {
    let mut stream = SeamTokens::new(source(text), tokenizer, limits, TextPosition::default()).unwrap();
    let mut tokens = Vec::new();
    while let Some(token) = stream.next(tokenizer).unwrap() {
        tokens.push(token);
    }
    (tokens, stream.forced_seams())
}

#[track_caller]
fn check(text: &str, tokenizer: &Tokenizer, limits: Limits) {
    let (tokens, forced) = in_windows(text, tokenizer, limits);
    assert_eq!(forced, 0, "{limits:?}");
    let whole = tokenizer.encode_with_bytes(text).unwrap();
    let differs = whole.iter().zip(&tokens).position(|(a, b)| a != b);
    assert_eq!((differs, tokens.len()), (None, whole.len()), "{limits:?}");
}

#[test]
fn a_play_in_windows_of_any_size_has_the_tokens_of_the_whole() {
    let (tokenizer, text) = (smollm2(), play("hamlet"));
    for window in [1500, 2048, 3001, 4096, 5555, 8191, 16_384, 65_536, 1 << 20] {
        check(&text, &tokenizer, limits(window, (window / 2).min(1400)));
    }
    check(&text, &tokenizer, Limits::default());
}

#[test]
fn letters_of_many_bytes_at_the_seams_change_nothing() {
    let tokenizer = smollm2();
    let mixed =
        "naïve café — “Ångström”, 日本語のテキスト、한국어 ไทย 🙂👩‍👩‍👧‍👦 e\u{301} שלום العربية\n\n  x\t\ty   1234567890 ";
    let text = mixed.repeat(150);
    for window in (1500..1530).chain([4096, 9999]) {
        check(&text, &tokenizer, limits(window, 1400));
    }
}

#[test]
fn runs_longer_than_a_window_make_it_grow() {
    let tokenizer = smollm2();
    let prose = play("sonnets");
    let prose = &prose[..prose.floor_char_boundary(6000)];
    for run in [" ".repeat(5000), "=".repeat(7001), "\n".repeat(3333), "7".repeat(9000), "a".repeat(20_000)] {
        let text = format!("{prose}{run}{prose}{run}{prose}");
        check(&text, &tokenizer, limits(2048, 1024));
    }
}

#[test]
fn special_tokens_across_a_seam_stay_whole() {
    let tokenizer = smollm2();
    let text = "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\nA thing.<|im_end|>\n".repeat(300);
    for window in 1500..1530 {
        check(&text, &tokenizer, limits(window, 1300));
    }
}

#[test]
fn text_without_end_is_cut_and_counted() {
    let tokenizer = smollm2();
    // Nothing in it can agree with itself at another offset: the multiplier walks through all letters.
    let text: String = (0u64..60_000).map(|k| char::from(b'a' + (k * k * 7 + k / 3) as u8 % 26)).collect();
    let limits = Limits { window_bytes: 600, overlap_bytes: 100, most_bytes: 600 };
    let (tokens, forced) = in_windows(&text, &tokenizer, limits);
    assert!(forced > 0);
    // Cut, yet no byte is lost or given twice.
    let mut at = 0;
    for token in tokens {
        assert_eq!(token.start, at);
        at = token.end;
    }
    assert_eq!(at, text.len() as u64);
}

/// A tokenizer trained on two plays, saved and loaded as a model's is.
fn trained(json: &str) -> Tokenizer {
    use tokenizers::models::{TrainerWrapper, bpe, unigram, wordpiece};
    let mut inner: tokenizers::Tokenizer = json.parse().unwrap();
    let (size, special) = (1500, vec![tokenizers::AddedToken::from("[UNK]", true)]);
    let mut trainer: TrainerWrapper = match inner.get_model() {
        tokenizers::ModelWrapper::BPE(_) => {
            bpe::BpeTrainer::builder().vocab_size(size).show_progress(false).special_tokens(special).build().into()
        }
        tokenizers::ModelWrapper::WordPiece(_) => wordpiece::WordPieceTrainer::builder()
            .vocab_size(size)
            .show_progress(false)
            .special_tokens(special)
            .build()
            .into(),
        _ => unigram::UnigramTrainer::builder()
            .vocab_size(size as u32)
            .show_progress(false)
            .special_tokens(special)
            .unk_token(Some("[UNK]".to_owned()))
            .build()
            .unwrap()
            .into(),
    };
    let files = ["macbeth", "tempest"].map(|name| cached("shakespeare", &format!("data/shakespeare/{name}_gut.txt")));
    inner.train_from_files(&mut trainer, files.map(|file| file.to_str().unwrap().to_owned()).to_vec()).unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    inner.save(folder.path().join("tokenizer.json"), false).unwrap();
    Tokenizer::load(folder.path()).unwrap()
}

#[test]
fn tokenizers_of_every_kind_have_the_tokens_of_the_whole() {
    let bpe = r#"{"type": "BPE", "vocab": {}, "merges": [], "unk_token": "[UNK]"}"#;
    let byte_level = r#"{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}"#;
    let kinds = [
        // As Llama 2: nothing split, a mark for each space and one before the text.
        format!(r#""normalizer": {{"type": "Sequence", "normalizers": [{{"type": "Prepend", "prepend": "▁"}},
            {{"type": "Replace", "pattern": {{"String": " "}}, "content": "▁"}}]}}, "model": {bpe}"#),
        format!(r#""pre_tokenizer": {{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true}}, "model": {bpe}"#),
        r#""pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
            "normalizer": {"type": "NFKC"}, "model": {"type": "Unigram", "vocab": [["[UNK]", 0.0]], "unk_id": 0}"#.to_owned(),
        r###""normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"}, "model": {"type": "WordPiece", "vocab": {"[UNK]": 0},
            "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}"###.to_owned(),
        format!(r#""pre_tokenizer": {byte_level}, "model": {bpe}"#),
        // As Llama 3: digits in threes, counted from the start of the number.
        format!(r#""pre_tokenizer": {{"type": "Sequence", "pretokenizers": [
            {{"type": "Split", "pattern": {{"Regex": "[^\\r\\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|\\p{{N}}{{1,3}}| ?[^\\s\\p{{L}}\\p{{N}}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
              "behavior": "Isolated", "invert": false}},
            {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}}]}}, "model": {bpe}"#),
    ];
    let prose = play("sonnets");
    let text = format!(
        "{}{}{}  é\u{301}ﬁ 日本 {}",
        &prose[..20_000],
        "1234567".repeat(400),
        " ".repeat(2500),
        &prose[20_000..40_000]
    );
    for kind in kinds {
        let json = format!(r#"{{"version": "1.0", "added_tokens": [], {kind}}}"#);
        let tokenizer = trained(&json);
        for window in [3000, 3001, 4099, 7777, 16_384] {
            println!("{window}: {kind}");
            check(&text, &tokenizer, limits(window, 1500));
        }
    }
}

#[test]
fn every_position_resumes_the_same_tokens() {
    let (tokenizer, text) = (smollm2(), play("sonnets"));
    let text = format!("{}{}{}", &text[..9000], " ".repeat(3000), &text[9000..20_000]);
    let limits = limits(2048, 1024);
    let (all, _) = in_windows(&text, &tokenizer, limits);
    let mut stream = SeamTokens::new(source(&text), &tokenizer, limits, TextPosition::default()).unwrap();
    for given in 0..=all.len() {
        if given % 7 == 0 || given == all.len() {
            let mut resumed = SeamTokens::new(source(&text), &tokenizer, limits, stream.position()).unwrap();
            for expected in all[given..].iter().take(50) {
                assert_eq!(resumed.next(&tokenizer).unwrap().as_ref(), Some(expected), "after {given}");
            }
        }
        stream.next(&tokenizer).unwrap();
    }
}

#[test]
fn a_text_file_with_line_ends_of_windows_has_the_tokens_that_python_gives_it() {
    let (tokenizer, text) = (smollm2(), play("macbeth"));
    let folder = tempfile::TempDir::new().unwrap();
    for (name, line_end) in [("windows", "\r\n"), ("old_mac", "\r")] {
        let path = folder.path().join(name);
        let written = text.replace('\n', line_end);
        fs::write(&path, &written).unwrap();
        let file = Arc::new(fs::File::open(&path).unwrap());
        for window in [1501, 4096, 64 << 10] {
            let source = FileText { file: file.clone(), path: path.clone(), start: 0, end: written.len() as u64 };
            let limits = limits(window, (window / 2).min(1400));
            let mut stream = SeamTokens::new(source, &tokenizer, limits, TextPosition::default()).unwrap();
            let tokens: Vec<Token> = std::iter::from_fn(|| stream.next(&tokenizer).unwrap()).collect();
            let ids = |tokens: &[Token]| tokens.iter().map(|token| token.id).collect::<Vec<_>>();
            assert_eq!(ids(&tokens), ids(&tokenizer.encode_with_bytes(&text).unwrap()), "{name}, {window}");
            assert_eq!(stream.forced_seams(), 0);
            assert_eq!(tokens.last().unwrap().end, written.len() as u64);
        }
    }
}
