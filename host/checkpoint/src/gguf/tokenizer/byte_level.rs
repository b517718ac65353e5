//! Byte-level BPE, `tokenizer.ggml.model` = `gpt2`: text is cut into words by a regular expression that the file names,
//! words into bytes, and bytes are merged by rank.

use serde_json::{Value as Json, json};

use super::{MAX_MERGES, Parts, Vocab};
use crate::gguf::error::{GgufError, Problem};
use crate::gguf::metadata::Metadata;
use crate::gguf::value::ValueType;

// The expressions are those of the models' own tokenizer.json; llama.cpp's `llama-vocab.cpp` maps names to them.

/// Llama 3: words with one leading non-letter, up to three digits, punctuation with its line breaks.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As Llama 3's with single digits.
const QWEN_2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's Tekken: words split where upper case starts, single digits.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a file says its text is cut.
enum Splitting {
    /// GPT-2's expression, which the library has built in.
    Gpt2,
    /// Each digit alone, then GPT-2's.
    DigitsThenGpt2,
    Regex(&'static str),
}

/// The splitting a name stands for, whether a word that is a token is taken whole before any merge, and whether a first
/// token is added where the file does not say; the last two as llama.cpp sets them.
fn by_name(name: &str) -> Option<(Splitting, bool, bool)> {
    Some(match name {
        "default" | "gpt-2" | "gpt2" | "phi-2" | "jina-es" | "jina-de" | "roberta-bpe" => {
            (Splitting::Gpt2, false, false)
        }
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => (Splitting::DigitsThenGpt2, false, false),
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "pixtral" => (Splitting::Regex(LLAMA_3), true, true),
        "dbrx" | "smaug-bpe" => (Splitting::Regex(LLAMA_3), false, false),
        "qwen2" | "deepseek-r1-qwen" | "megrez" => (Splitting::Regex(QWEN_2), false, false),
        "tekken" => (Splitting::Regex(TEKKEN), true, true),
        _ => return None,
    })
}

pub(super) fn parts<'a>(meta: &Metadata<'_, 'a>, vocab: &Vocab<'_>) -> Result<Parts<'a>, GgufError> {
    let key = "tokenizer.ggml.pre";
    // Files from before the key existed are read as transformers reads them, with GPT-2's expression.
    let name = meta.text(key)?.unwrap_or("default");
    let (splitting, ignore_merges, adds_bos) = by_name(name).ok_or_else(|| {
        let what = format!("the pre-tokenizer {name:?}");
        let next = "another one would cut text differently from what the model was trained on; import with \
                    --no-tokenizer and take the model's own files"
            .to_owned();
        meta.error(key, Problem::Unsupported { what, next })
    })?;
    // A prefix space is a property of these tokenizers' byte-level step, off unless the file says so.
    let prefix_space = meta.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(false);
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": true, "use_regex": use_regex});
    let pre_tokenizer = match splitting {
        Splitting::Gpt2 => byte_level(true),
        Splitting::DigitsThenGpt2 => sequence(json!({"type": "Digits", "individual_digits": true}), byte_level(true)),
        Splitting::Regex(pattern) => sequence(
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}),
            byte_level(false),
        ),
    };
    Ok(Parts {
        normalizer: Json::Null,
        pre_tokenizer,
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        merges: merges(meta, vocab)?,
        byte_fallback: false,
        ignore_merges,
        unk_is_used: false,
        adds_bos,
    })
}

fn sequence(first: Json, second: Json) -> Json {
    json!({"type": "Sequence", "pretokenizers": [first, second]})
}

/// The file's merges, each of which must join two tokens into a third.
pub(super) fn merges<'a>(meta: &Metadata<'_, 'a>, vocab: &Vocab<'_>) -> Result<Vec<(&'a str, &'a str)>, GgufError> {
    let key = "tokenizer.ggml.merges";
    let array = meta
        .array(key, ValueType::String)?
        .ok_or_else(|| meta.missing(key, "byte-level BPE cannot do without; import with --no-tokenizer"))?;
    if array.len() > MAX_MERGES {
        return Err(meta.wrong(key, format!("at most {MAX_MERGES} merges"), array.len()));
    }
    let mut merges = Vec::new();
    let mut joined = String::new();
    for (index, merge) in array.strings().into_iter().flatten().enumerate() {
        let wrong = |expected| {
            let shown: String = merge.chars().take(100).collect();
            Err(meta.wrong(key, expected, format!("merge {index}, {shown:?}")))
        };
        // A token may start with a space; none is empty.
        let Some((left, right)) = merge
            .char_indices()
            .skip(1)
            .find(|(_, c)| *c == ' ')
            .map(|(at, _)| (&merge[..at], &merge[at + 1..]))
            .filter(|(_, right)| !right.is_empty())
        else {
            return wrong("two tokens with a space between them");
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        if [left, right, &joined].iter().any(|token| vocab.id(token).is_none()) {
            return wrong("two tokens of the vocabulary that make a third");
        }
        merges.push((left, right));
    }
    Ok(merges)
}
