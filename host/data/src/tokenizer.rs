//! The tokenizer of a Hugging Face folder: `tokenizer.json`, and which ids begin, end and pad a text according to the
//! files beside it. Nothing is guessed from names of tokens.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde_json::{Map, Value};

use crate::{
    error::{Error, Place},
    files,
};

/// Largest `tokenizer.json` read; that of a vocabulary of 262,000 is 33 MB.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// A token with the bytes of the text that it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: u32,
    /// First byte, counted from the start of the text.
    pub start: u64,
    /// One past the last byte. Several tokens of one character have the same bytes.
    pub end: u64,
}

/// The tokenizer of a model folder.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    config: Map<String, Value>,
    eos_ids: Vec<u32>,
    bos_id: Option<u32>,
    pad_id: Option<u32>,
    special_ids: HashSet<u32>,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    digest: [u8; 32],
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("path", &self.path).field("eos_ids", &self.eos_ids).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Loads `tokenizer.json` of `folder`, and the roles of tokens from `tokenizer_config.json`,
    /// `special_tokens_map.json`, `generation_config.json` and `config.json`, the first that states a role first.
    ///
    /// # Errors
    /// `tokenizer.json` is missing or unsound; a file beside it is unsound or names a token that the vocabulary lacks.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("tokenizer.json");
        let content = files::read_small(&path, MAX_TOKENIZER_BYTES)?;
        let unsound = |message: String| Error::Tokenizer { path: path.clone(), message };
        let text = std::str::from_utf8(&content).map_err(|error| unsound(error.to_string()))?;
        let mut inner = tokenizers::Tokenizer::from_str(text).map_err(|error| unsound(error.to_string()))?;
        // Settings of whoever saved the file last. Here they would lose text or add tokens, without a word.
        inner.with_truncation(None).map_err(|error| unsound(error.to_string()))?;
        inner.with_padding(None);

        let roles = Roles::read(folder)?;
        let eos_ids = roles.ids(&inner, "eos_token")?;
        let bos_id = roles.ids(&inner, "bos_token")?.first().copied();
        let pad_id = roles.ids(&inner, "pad_token")?.first().copied();
        let added = inner.get_added_tokens_decoder();
        let special_ids = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let (prefix, suffix) = surroundings(&inner).map_err(unsound)?;
        let digest = *blake3::hash(&content).as_bytes();
        let mut config = roles.tokenizer_config;
        for (name, value) in roles.special_tokens_map {
            config.entry(name).or_insert(value);
        }
        Ok(Tokenizer { inner, path, config, eos_ids, bos_id, pad_id, special_ids, prefix, suffix, digest })
    }

    /// The ids of a text. `add_special_tokens` adds what the tokenizer puts around a text of its own, as in
    /// transformers.
    ///
    /// # Errors
    /// The tokenizer cannot encode it (a byte that a vocabulary without byte fallback lacks).
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, Error> {
        let encoding = self.inner.encode_fast(text, add_special_tokens).map_err(|error| self.cannot_encode(error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokens of a text, without added ones, and the bytes that each came from.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_bytes(&self, text: &str) -> Result<Vec<Token>, Error> {
        let encoding = self.inner.encode(text, false).map_err(|error| self.cannot_encode(error))?;
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(tokens.map(|(&id, &(start, end))| Token { id, start: start as u64, end: end as u64 }).collect())
    }

    /// The text of ids.
    ///
    /// # Errors
    /// The decoder refuses them.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, Error> {
        self.inner
            .decode(ids, skip_special_tokens)
            .map_err(|error| Error::Tokenizer { path: self.path.clone(), message: error.to_string() })
    }

    fn cannot_encode(&self, error: tokenizers::Error) -> Error {
        Error::Encode { place: Place { path: self.path.clone(), line: 1 }, message: error.to_string() }
    }

    /// A token as the vocabulary spells it; `None` for an id outside of it.
    pub fn piece(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id that the vocabulary gives a token.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The id that ends a text: the tokenizer's own, else the model's first.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_ids.first().copied()
    }

    /// Every id at which generation stops.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// The id that fills short rows: the stated one, else that of the end, else 0. It is never attended to or learned.
    pub fn pad_id(&self) -> u32 {
        self.pad_id.or(self.eos_id()).unwrap_or(0)
    }

    /// Whether a token is marked special: it stands for structure, not for text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special_ids.contains(&id)
    }

    /// Entries of the vocabulary, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// What the tokenizer puts before and after each text of its own.
    pub fn prefix_and_suffix(&self) -> (&[u32], &[u32]) {
        (&self.prefix, &self.suffix)
    }

    /// `tokenizer_config.json`, and what `special_tokens_map.json` has besides; empty where there is neither.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// The text of a role, such as `bos_token`, as chat templates ask for it.
    pub fn role(&self, name: &str) -> Option<&str> {
        self.config.get(name).and_then(token_text)
    }

    /// BLAKE3 of `tokenizer.json`.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The library's tokenizer, for decoding as a stream.
    pub fn as_inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }
}

/// A token is named by its text, or by an object that holds it.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content").and_then(Value::as_str))
}

/// The files that say which token has which role.
struct Roles {
    folder: PathBuf,
    tokenizer_config: Map<String, Value>,
    special_tokens_map: Map<String, Value>,
    generation_config: Map<String, Value>,
    config: Map<String, Value>,
}

impl Roles {
    fn read(folder: &Path) -> Result<Self, Error> {
        let read = |name: &str| files::read_object(&folder.join(name)).map(Option::unwrap_or_default);
        Ok(Roles {
            folder: folder.to_owned(),
            tokenizer_config: read("tokenizer_config.json")?,
            special_tokens_map: read("special_tokens_map.json")?,
            generation_config: read("generation_config.json")?,
            config: read("config.json")?,
        })
    }

    /// All ids that the files give a role, the tokenizer's own first, none twice.
    fn ids(&self, inner: &tokenizers::Tokenizer, role: &'static str) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        let mut add = |id| {
            if !ids.contains(&id) {
                ids.push(id);
            }
        };
        let by_text =
            [("tokenizer_config.json", &self.tokenizer_config), ("special_tokens_map.json", &self.special_tokens_map)];
        for (file, object) in by_text {
            let Some(text) = object.get(role).and_then(token_text) else { continue };
            let id = inner.token_to_id(text).ok_or_else(|| Error::Json {
                path: self.folder.join(file),
                message: format!("{role} is {:?}, which the vocabulary lacks", crate::error::cut(text)),
            })?;
            add(id);
        }
        let by_id = [("generation_config.json", &self.generation_config), ("config.json", &self.config)];
        for (file, object) in by_id {
            let key = format!("{role}_id");
            let listed = match object.get(&key) {
                None | Some(Value::Null) => continue,
                Some(Value::Array(list)) => list.as_slice(),
                Some(one) => std::slice::from_ref(one),
            };
            for value in listed {
                // -1 is how older configurations say that there is none.
                if value.as_i64() == Some(-1) {
                    continue;
                }
                let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
                let id = id.filter(|id| inner.id_to_token(*id).is_some()).ok_or_else(|| Error::Json {
                    path: self.folder.join(file),
                    message: format!("{key} is {value}, which the vocabulary lacks"),
                })?;
                add(id);
            }
        }
        Ok(ids)
    }
}

/// The ids that the tokenizer's post-processor puts before and after a text.
fn surroundings(inner: &tokenizers::Tokenizer) -> Result<(Vec<u32>, Vec<u32>), String> {
    let ids = |special| {
        inner.encode("a", special).map(|encoding| encoding.get_ids().to_vec()).map_err(|error| error.to_string())
    };
    let (bare, full) = (ids(false)?, ids(true)?);
    let at = (0..=full.len().saturating_sub(bare.len())).find(|&at| full[at..].starts_with(&bare));
    let at = at.ok_or("with and without special tokens, it encodes a text differently")?;
    Ok((full[..at].to_vec(), full[at + bare.len()..].to_vec()))
}
