//! `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json` from `tokenizer.ggml.*`.
//!
//! A GGUF has the vocabulary, its token types, and either merges or scores; how text is cut into words before that is
//! only named (`tokenizer.ggml.pre`). Two models of tokenizer are rebuilt: `gpt2` (byte-level BPE, [`byte_level`]) and
//! `llama` (SentencePiece BPE, [`sentence_piece`]). The result encodes as transformers' own GGUF loader does, except
//! where that loader drops what the file says and llama.cpp keeps it: the digit splitting of `smollm` and its like, the
//! first token that `llama-bpe` implies, and SentencePiece's `add_space_prefix`.
//!
//! Not undone, because no GGUF states it: Unicode normalisation before byte-level BPE (Qwen's NFC).

mod byte_level;
mod sentence_piece;

use std::collections::HashMap;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Map, Value as Json, json};

use super::arch::Sizes;
use super::config::TokenIds;
use super::error::{GgufError, Problem};
use super::metadata::Metadata;
use super::value::{Value, ValueType};

/// Most tokens that are read; the largest vocabularies have 262,144.
const MAX_TOKENS: u64 = 1 << 20;
/// Most merges that are read or derived.
const MAX_MERGES: u64 = 1 << 21;

/// The tokenizer's files, ready to be written, and the ids that config.json repeats.
pub(super) struct Files {
    pub tokenizer_json: Vec<u8>,
    pub tokenizer_config: Json,
    pub special_tokens_map: Json,
    pub ids: TokenIds,
    /// What of the file was left out, one sentence each.
    pub notes: Vec<String>,
}

/// Rebuilds the tokenizer. `None` where the file has none.
pub(super) fn rebuild(meta: &Metadata<'_, '_>, sizes: &Sizes) -> Result<Option<Files>, GgufError> {
    let Some(model) = meta.text("tokenizer.ggml.model")? else { return Ok(None) };
    let vocab = match model {
        "none" | "no_vocab" => return Ok(None),
        "gpt2" | "llama" => Vocab::read(meta, sizes, model == "llama" && sizes.family.is_gemma())?,
        other => {
            let what = format!("a tokenizer of the model {other:?}");
            let next = "expected gpt2 (byte-level BPE) or llama (SentencePiece); import with --no-tokenizer and take \
                        the model's own files"
                .to_owned();
            return Err(meta.error("tokenizer.ggml.model", Problem::Unsupported { what, next }));
        }
    };
    let parts = match model {
        "gpt2" => byte_level::parts(meta, &vocab)?,
        _ => sentence_piece::parts(meta, sizes.family, &vocab)?,
    };

    let special = Special::read(meta, &vocab, model == "llama")?;
    let add_bos = meta.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(parts.adds_bos) && special.bos.is_some();
    let add_eos = meta.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false) && special.eos.is_some();

    let document = TokenizerJson {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: added_tokens(&vocab, &special),
        normalizer: parts.normalizer,
        pre_tokenizer: parts.pre_tokenizer,
        post_processor: post_processor(&vocab, &special, add_bos, add_eos),
        decoder: parts.decoder,
        model: Bpe {
            kind: "BPE",
            dropout: None,
            unk_token: parts.unk_is_used.then(|| special.unk.map(|id| vocab.token(id))).flatten(),
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: parts.unk_is_used,
            byte_fallback: parts.byte_fallback,
            ignore_merges: parts.ignore_merges,
            vocab: Entries(&vocab),
            merges: parts.merges,
        },
    };
    let tokenizer_json = serde_json::to_vec(&document).expect("strings and numbers always serialise");

    let named = special.named(&vocab);
    let mut config = Map::new();
    for (role, token) in &named {
        config.insert((*role).into(), json!(token));
    }
    // PreTrainedTokenizerFast takes tokenizer.json as it is; the per-model classes would build their own over it.
    config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    config.insert("model_max_length".into(), json!(sizes.context));
    config.insert("clean_up_tokenization_spaces".into(), json!(false));
    config.insert("add_bos_token".into(), json!(add_bos));
    config.insert("add_eos_token".into(), json!(add_eos));
    if let Some(template) = chat_template(meta)? {
        config.insert("chat_template".into(), template);
    }
    Ok(Some(Files {
        tokenizer_json,
        tokenizer_config: config.into(),
        special_tokens_map: named.into_iter().map(|(role, token)| (role.to_owned(), json!(token))).collect(),
        ids: TokenIds { bos: special.bos, pad: special.pad, stops: special.stops() },
        notes: special.dropped.iter().map(|(key, id)| dropped_role(key, *id, &vocab)).collect(),
    }))
}

/// What the two models of tokenizer differ in.
struct Parts<'a> {
    normalizer: Json,
    pre_tokenizer: Json,
    decoder: Json,
    merges: Vec<(&'a str, &'a str)>,
    byte_fallback: bool,
    ignore_merges: bool,
    unk_is_used: bool,
    /// Whether a first token is added where the file does not say.
    adds_bos: bool,
}

/// llama.cpp's `llama_token_type`, as far as it matters here.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// The vocabulary, spelled as tokenizer.json spells it.
struct Vocab<'a> {
    tokens: Vec<&'a str>,
    types: Vec<u8>,
    ids: HashMap<&'a str, u32>,
}

impl<'a> Vocab<'a> {
    fn read(meta: &Metadata<'_, 'a>, sizes: &Sizes, respell: bool) -> Result<Self, GgufError> {
        let key = "tokenizer.ggml.tokens";
        let array = meta
            .array(key, ValueType::String)?
            .ok_or_else(|| meta.missing(key, "import with --no-tokenizer, and take the model's own files"))?;
        let limit = MAX_TOKENS.min(sizes.vocab);
        if array.len() > limit || array.is_empty() {
            let expected = format!("1 to {limit} tokens (the embedding has {} rows)", sizes.vocab);
            return Err(meta.wrong(key, expected, array.len()));
        }
        let spelled = |token| if respell { sentence_piece::respelled(token) } else { token };
        let tokens: Vec<&str> = array.strings().into_iter().flatten().map(spelled).collect();

        let key = "tokenizer.ggml.token_type";
        let types: Vec<u8> = match meta.array(key, ValueType::I32)? {
            None => vec![1; tokens.len()],
            Some(array) if array.len() != tokens.len() as u64 => {
                return Err(meta.wrong(key, format!("{} entries, one per token", tokens.len()), array.len()));
            }
            Some(array) => array.integers().into_iter().flatten().map(|ty| u8::try_from(ty).unwrap_or(0)).collect(),
        };
        // A spelling that stands twice means its last token, as in a dictionary that is filled in order.
        let ids = tokens.iter().zip(0..).map(|(&token, id)| (token, id)).collect();
        Ok(Self { tokens, types, ids })
    }

    fn token(&self, id: u64) -> &'a str {
        self.tokens[id as usize]
    }

    fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }
}

/// The tokens with a role.
#[derive(Default)]
struct Special {
    bos: Option<u64>,
    /// Ends a text.
    eos: Option<u64>,
    unk: Option<u64>,
    pad: Option<u64>,
    /// What ends generation besides: a turn, a message that waits for a tool's answer, and further ids of a list.
    ends: Vec<u64>,
    /// Roles whose id the vocabulary lacks, by key.
    dropped: Vec<(String, u64)>,
}

impl Special {
    fn read(meta: &Metadata<'_, '_>, vocab: &Vocab<'_>, sentence_piece: bool) -> Result<Self, GgufError> {
        let mut special = Special::default();
        // llama.cpp's ids for SentencePiece files that state none.
        let default = |id: u64| sentence_piece.then_some(id).filter(|&id| id < vocab.tokens.len() as u64);
        let mut ids =
            |name: &str| special_ids(meta, vocab, &format!("tokenizer.ggml.{name}_token_id"), &mut special.dropped);
        let [bos, eos, unk, pad] = [ids("bos")?, ids("eos")?, ids("unknown")?, ids("padding")?];
        let ends = [ids("eot")?, ids("eom")?];
        let first = |ids: &Option<Vec<u64>>, default: Option<u64>| match ids {
            Some(ids) => ids.first().copied(),
            None => default,
        };
        (special.bos, special.eos) = (first(&bos, default(1)), first(&eos, default(2)));
        (special.unk, special.pad) = (first(&unk, default(0)), first(&pad, None));
        let more = eos.iter().flat_map(|ids| ids.iter().skip(1)).chain(ends.iter().flatten().flatten());
        special.ends = more.copied().collect();
        Ok(special)
    }

    /// Every id at which generation stops, none twice.
    fn stops(&self) -> Vec<u64> {
        let mut stops: Vec<u64> = Vec::new();
        for id in self.eos.iter().chain(&self.ends) {
            if !stops.contains(id) {
                stops.push(*id);
            }
        }
        stops
    }

    fn named<'a>(&self, vocab: &Vocab<'a>) -> Vec<(&'static str, &'a str)> {
        let roles =
            [("bos_token", self.bos), ("eos_token", self.eos), ("unk_token", self.unk), ("pad_token", self.pad)];
        roles.into_iter().filter_map(|(role, id)| Some((role, vocab.token(id?)))).collect()
    }
}

/// The ids that a key gives to a role; `None` where the file does not have the key. Some writers give a list.
fn special_ids(
    meta: &Metadata<'_, '_>,
    vocab: &Vocab<'_>,
    key: &str,
    dropped: &mut Vec<(String, u64)>,
) -> Result<Option<Vec<u64>>, GgufError> {
    let Some(value) = meta.get(key) else { return Ok(None) };
    let stated: Vec<u64> = match value.as_array().and_then(|array| array.integers()) {
        // A negative id is one that is not there.
        Some(ids) => ids.take(MAX_IDS).map(|id| u64::try_from(id).unwrap_or(NO_ID)).collect(),
        None if matches!(value, Value::I8(..0) | Value::I16(..0) | Value::I32(..0) | Value::I64(..0)) => Vec::new(),
        None => meta.u64(key)?.into_iter().collect(),
    };
    let mut ids = Vec::new();
    for id in stated.into_iter().filter(|&id| id != NO_ID) {
        if id < vocab.tokens.len() as u64 {
            ids.push(id);
        } else {
            dropped.push((key.to_owned(), id));
        }
    }
    Ok(Some(ids))
}

/// The writers' way of saying that there is none.
const NO_ID: u64 = u32::MAX as u64;
/// Most ids that are read of one role; published models have five.
const MAX_IDS: usize = 64;

fn dropped_role(key: &str, id: u64, vocab: &Vocab<'_>) -> String {
    let len = vocab.tokens.len();
    format!("{key} is {id}, which the vocabulary of {len} tokens lacks; no token has this role in what was written")
}

fn added_tokens<'a>(vocab: &Vocab<'a>, special: &Special) -> Vec<AddedToken<'a>> {
    let named = [special.bos, special.eos, special.unk, special.pad];
    let roles: Vec<u64> = named.into_iter().flatten().chain(special.ends.iter().copied()).collect();
    let mut added = Vec::new();
    for (id, (&content, &ty)) in (0..).zip(vocab.tokens.iter().zip(&vocab.types)) {
        let is_special = i64::from(ty) == CONTROL || roles.contains(&id);
        let is_added = is_special || i64::from(ty) == USER_DEFINED;
        // An empty one would match everywhere; one that is spelled like a later token is not reachable.
        if is_added && !content.is_empty() && vocab.id(content).map(u64::from) == Some(id) {
            added.push(AddedToken {
                id,
                content,
                single_word: false,
                lstrip: false,
                rstrip: false,
                normalized: false,
                special: is_special,
            });
        }
    }
    added
}

fn post_processor(vocab: &Vocab<'_>, special: &Special, add_bos: bool, add_eos: bool) -> Json {
    let bos = special.bos.filter(|_| add_bos);
    let eos = special.eos.filter(|_| add_eos);
    if bos.is_none() && eos.is_none() {
        return Json::Null;
    }
    let sequence = |name: &str, type_id: u32| json!({"Sequence": {"id": name, "type_id": type_id}});
    let token = |id: u64, type_id: u32| json!({"SpecialToken": {"id": vocab.token(id), "type_id": type_id}});
    let wrapped = |name: &str, type_id: u32| {
        let start = bos.map(|id| token(id, type_id));
        let end = eos.map(|id| token(id, type_id));
        start.into_iter().chain([sequence(name, type_id)]).chain(end)
    };
    let special_tokens: Map<String, Json> = bos
        .into_iter()
        .chain(eos)
        .map(|id| {
            let token = vocab.token(id);
            (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}))
        })
        .collect();
    json!({
        "type": "TemplateProcessing",
        "single": wrapped("A", 0).collect::<Vec<_>>(),
        "pair": wrapped("A", 0).chain(wrapped("B", 1)).collect::<Vec<_>>(),
        "special_tokens": special_tokens,
    })
}

/// The chat template: one text, or a list of named ones.
fn chat_template(meta: &Metadata<'_, '_>) -> Result<Option<Json>, GgufError> {
    let default = meta.text("tokenizer.chat_template")?;
    let Some(names) = meta.array("tokenizer.chat_templates", ValueType::String)? else {
        return Ok(default.map(Json::from));
    };
    let mut list = Vec::new();
    if let Some(template) = default {
        list.push(json!({"name": "default", "template": template}));
    }
    for name in names.strings().into_iter().flatten() {
        if let Some(template) = meta.text(&format!("tokenizer.chat_template.{name}"))? {
            list.push(json!({"name": name, "template": template}));
        }
    }
    Ok((!list.is_empty()).then_some(list.into()))
}

// tokenizer.json, as the `tokenizers` library reads it.

#[derive(Serialize)]
struct TokenizerJson<'a, 'v> {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<AddedToken<'a>>,
    normalizer: Json,
    pre_tokenizer: Json,
    post_processor: Json,
    decoder: Json,
    model: Bpe<'a, 'v>,
}

#[derive(Serialize)]
struct AddedToken<'a> {
    id: u64,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Serialize)]
struct Bpe<'a, 'v> {
    #[serde(rename = "type")]
    kind: &'static str,
    dropout: Option<f32>,
    unk_token: Option<&'a str>,
    continuing_subword_prefix: Option<&'static str>,
    end_of_word_suffix: Option<&'static str>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Entries<'a, 'v>,
    merges: Vec<(&'a str, &'a str)>,
}

/// The vocabulary as a JSON object in the order of the ids.
struct Entries<'a, 'v>(&'v Vocab<'a>);

impl Serialize for Entries<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.ids.len()))?;
        for (id, token) in (0u32..).zip(&self.0.tokens) {
            if self.0.id(token) == Some(id) {
                map.serialize_entry(token, &id)?;
            }
        }
        map.end()
    }
}
