//! SentencePiece BPE, `tokenizer.ggml.model` = `llama`: spaces become `▁`, characters are merged by the score of what they
//! make, and what has no token falls back to bytes.
//!
//! These files state scores, not merges. Merges are derived as transformers derives them (`generate_merges`): every way to
//! cut a token into two tokens is a merge, ranked by the token's score.

use std::cmp::Ordering;

use serde_json::{Value as Json, json};

use super::{MAX_MERGES, Parts, Vocab, byte_level};
use crate::gguf::arch::Family;
use crate::gguf::error::GgufError;
use crate::gguf::metadata::Metadata;
use crate::gguf::value::ValueType;

/// A longer token is left whole: deriving its merges costs its length squared, and none of a real vocabulary is longer.
const MAX_TOKEN_BYTES: usize = 512;
/// Most bytes that are looked up to derive merges. The largest vocabularies take a fiftieth of it.
const MAX_DERIVING_BYTES: u64 = 1 << 30;

pub(super) fn parts<'a>(meta: &Metadata<'_, 'a>, family: Family, vocab: &Vocab<'a>) -> Result<Parts<'a>, GgufError> {
    let merges = if meta.get("tokenizer.ggml.merges").is_some() {
        byte_level::merges(meta, vocab)?
    } else if family.is_gemma() {
        // Gemma's scores do not follow its merges; its order of tokens does.
        derived(meta, vocab, |id| -f64::from(id))?
    } else {
        let scores = scores(meta, vocab)?;
        derived(meta, vocab, |id| scores[id as usize].into())?
    };
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let mut decoders = vec![replace, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    let (normalizer, pre_tokenizer) = if family.is_gemma() {
        (
            json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
            json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}),
        )
    } else {
        let prefix_space = meta.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        if prefix_space {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let scheme = if prefix_space { "first" } else { "never" };
        (Json::Null, json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false}))
    };
    Ok(Parts {
        normalizer,
        pre_tokenizer,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        merges,
        byte_fallback: true,
        ignore_merges: false,
        unk_is_used: true,
        adds_bos: true,
    })
}

fn scores(meta: &Metadata<'_, '_>, vocab: &Vocab<'_>) -> Result<Vec<f32>, GgufError> {
    let key = "tokenizer.ggml.scores";
    let array = meta.array(key, ValueType::F32)?.ok_or_else(|| {
        meta.missing(key, "a SentencePiece vocabulary is nothing without; import with --no-tokenizer")
    })?;
    if array.len() != vocab.tokens.len() as u64 {
        return Err(meta.wrong(key, format!("{} entries, one per token", vocab.tokens.len()), array.len()));
    }
    let scores: Vec<f32> = array.floats().into_iter().flatten().collect();
    match scores.iter().position(|score| score.is_nan()) {
        Some(token) => Err(meta.wrong(key, "numbers", format!("NaN for token {token}"))),
        None => Ok(scores),
    }
}

struct Merge {
    score: f64,
    /// Lengths in characters: among merges of one score the one with the longer left part comes first.
    chars: (u16, u16),
    token: u32,
    /// Where the token is cut, in bytes.
    cut: u16,
}

fn derived<'a>(
    meta: &Metadata<'_, 'a>,
    vocab: &Vocab<'a>,
    score_of: impl Fn(u32) -> f64,
) -> Result<Vec<(&'a str, &'a str)>, GgufError> {
    let mut merges = Vec::new();
    let mut deriving_bytes = 0u64;
    for (id, token) in (0u32..).zip(&vocab.tokens) {
        if token.len() > MAX_TOKEN_BYTES || vocab.id(token) != Some(id) {
            continue;
        }
        deriving_bytes += (token.len() * token.len()) as u64;
        if deriving_bytes > MAX_DERIVING_BYTES {
            let expected = "tokens of some words' length at most; import with --no-tokenizer";
            return Err(meta.wrong("tokenizer.ggml.tokens", expected, format!("long ones up to token {id}")));
        }
        let start = merges.len();
        let chars = token.chars().count() as u16;
        for (left_chars, (cut, _)) in (0u16..).zip(token.char_indices()).skip(1) {
            let (left, right) = token.split_at(cut);
            if vocab.id(left).is_some() && vocab.id(right).is_some() {
                let chars = (left_chars, chars - left_chars);
                merges.push(Merge { score: score_of(id), chars, token: id, cut: cut as u16 });
            }
        }
        merges[start..].sort_by_key(|merge| {
            let (left, right) = token.split_at(merge.cut.into());
            (vocab.id(left), vocab.id(right))
        });
        if merges.len() as u64 > MAX_MERGES {
            let expected = format!("a vocabulary with at most {MAX_MERGES} merges");
            return Err(meta.wrong("tokenizer.ggml.tokens", expected, "one with more"));
        }
    }
    // Stable, so that merges of one rank stay in the order of their tokens.
    merges.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal).then(b.chars.cmp(&a.chars)));
    Ok(merges.iter().map(|merge| vocab.tokens[merge.token as usize].split_at(merge.cut.into())).collect())
}

/// Gemma files may spell runs of spaces as spaces; the model's own tokenizer spells them `▁▁`.
pub(super) fn respelled(token: &str) -> &str {
    // The longest run in a Gemma vocabulary is 31.
    const RUN: &str = "▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁";
    let is_run = token.contains(' ') && token.chars().all(char::is_whitespace);
    RUN.get(..token.chars().count() * "▁".len()).filter(|_| is_run).unwrap_or(token)
}
