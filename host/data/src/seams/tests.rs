//! The tokens of windows against the tokens of the whole text, with real tokenizers on real and on awkward text.

use std::{fs, path::PathBuf, sync::Arc};

use super::*;
use crate::{error::Place, text::MemoryText};

fn cached(relative: &str) -> PathBuf {
    let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cache = std::env::var_os("UNSWAG_CACHE").map_or_else(|| repository.join(".cache"), PathBuf::from);
    let path = cache.join(relative);
    assert!(path.exists(), "{} is missing; run `make demo`, which makes it", path.display());
    path
}

fn smollm2() -> Tokenizer {
    Tokenizer::load(&cached("models/SmolLM2-135M-Instruct")).unwrap()
}

fn play(name: &str) -> String {
    fs::read_to_string(cached(&format!("data/shakespeare/{name}_gut.txt"))).unwrap()
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
