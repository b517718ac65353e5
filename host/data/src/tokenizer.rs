//! The tokenizer of a Hugging Face folder: `tokenizer.json`, the tokens that the files beside it add, and which ids
//! begin, end and pad a text. Nothing is guessed from names of tokens, and nothing in a file is trusted: sizes
//! are bounded before they are built ([`file`]), and the library runs where a panic or an endless loop is an error
//! ([`worker`]).

mod beside;
mod file;
mod pipeline;
mod roles;
mod stream;
mod worker;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Map, Value};
use tokenizers::{Encoding, PostProcessor};

pub use stream::TextStream;

use self::{
    pipeline::Growth,
    roles::{Roles, token_text},
    worker::{Fault, Worker},
};
use crate::{
    error::{Error, Place},
    files,
};

/// What work on some bytes may take. Tokenizers read megabytes in a second; the rest is for a busy machine.
fn time_limit(bytes: usize) -> Duration {
    Duration::from_secs(8 + (bytes >> 16) as u64)
}

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
    inner: Arc<tokenizers::Tokenizer>,
    worker: Worker,
    growth: Growth,
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
    /// Loads `tokenizer.json` of `folder`, the tokens that `tokenizer_config.json`, `special_tokens_map.json` and
    /// `added_tokens.json` add to it as transformers does, and the roles of tokens from those, `generation_config.json`
    /// and `config.json`, the first that states a role first. `add_bos_token` and `add_eos_token` change nothing, as in
    /// transformers 5 where there is a `tokenizer.json`: its post-processor says what surrounds a text.
    ///
    /// # Errors
    /// `tokenizer.json` is missing, unsound or larger than the limits of [`file`]; a file beside it is unsound, names a
    /// token that the vocabulary lacks, or lists tokens whose ids do not follow the vocabulary.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("tokenizer.json");
        let content = files::read_small(&path, file::MAX_BYTES)?;
        Self::build(path, content, Roles::read(folder)?)
    }

    /// The tokenizer of files in memory: `tokenizer.json`, and `tokenizer_config.json` where there is one.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn from_bytes(tokenizer_json: &[u8], tokenizer_config: Option<&[u8]>) -> Result<Self, Error> {
        let config = tokenizer_config.map(|content| files::object(Path::new("tokenizer_config.json"), content));
        let roles = Roles::of_config(config.transpose()?.unwrap_or_default());
        Self::build("tokenizer.json".into(), tokenizer_json.to_vec(), roles)
    }

    fn build(path: PathBuf, content: Vec<u8>, roles: Roles) -> Result<Self, Error> {
        let unsound = |message: String| Error::Tokenizer { path: path.clone(), message };
        let worker = Worker::start().map_err(|fault| unsound(fault.to_string()))?;
        let built = worker.run(time_limit(content.len()), move || {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&content);
            let file::Read { mut tokenizer, growth } = file::read(&content).map_err(Fail::Message)?;
            let added = beside::add(&mut tokenizer, &roles).map_err(Fail::Error)?;
            for (id, token) in added {
                // What the file alone encodes otherwise is other data.
                hasher.update(format!("{id} {token:?}\n").as_bytes());
            }
            if roles.tokenizer_config.get("split_special_tokens") == Some(&Value::Bool(true)) {
                tokenizer.set_encode_special_tokens(true);
            }
            let around = surroundings(&tokenizer).map_err(Fail::Message)?;
            Ok((tokenizer, growth, around, *hasher.finalize().as_bytes(), roles))
        });
        let (inner, growth, (prefix, suffix), digest, roles) = match built {
            Ok(Ok(built)) => built,
            Ok(Err(Fail::Message(message))) => return Err(unsound(message)),
            Ok(Err(Fail::Error(error))) => return Err(error),
            Err(fault) => return Err(unsound(fault.to_string())),
        };
        let eos_ids = roles.ids(&inner, "eos_token")?;
        let bos_id = roles.ids(&inner, "bos_token")?.first().copied();
        let pad_id = roles.ids(&inner, "pad_token")?.first().copied();
        let added = inner.get_added_tokens_decoder();
        let special_ids = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let [(_, first), (_, second)] = roles.by_text();
        let mut config = roles.tokenizer_config.clone();
        // Roles as transformers has them, and what else the files say.
        config.extend(first.clone());
        for (name, value) in second {
            config.entry(name).or_insert(value.clone());
        }
        let inner = Arc::new(inner);
        Ok(Tokenizer {
            inner,
            worker,
            growth,
            path,
            config,
            eos_ids,
            bos_id,
            pad_id,
            special_ids,
            prefix,
            suffix,
            digest,
        })
    }

    /// The ids of a text. `add_special_tokens` adds what the tokenizer puts around each text, as in transformers.
    ///
    /// # Errors
    /// The tokenizer cannot encode it: a byte that a vocabulary without byte fallback lacks, a normalizer that makes too
    /// much of it, or a file that makes the library fail.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, Error> {
        self.encoded(text, move |tokenizer, text| {
            Ok(tokenizer.encode_fast(text, add_special_tokens)?.get_ids().to_vec())
        })
    }

    /// The tokens of a text, without added ones, and the bytes that each came from.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_bytes(&self, text: &str) -> Result<Vec<Token>, Error> {
        self.encoded(text, |tokenizer, text| {
            let encoding = tokenizer.encode(text, false)?;
            let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
            Ok(tokens.map(|(&id, &(start, end))| Token { id, start: start as u64, end: end as u64 }).collect())
        })
    }

    fn encoded<T: Send + 'static>(
        &self,
        text: &str,
        encode: impl FnOnce(&tokenizers::Tokenizer, &str) -> Result<T, tokenizers::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (inner, growth, text) = (self.inner.clone(), self.growth.clone(), text.to_owned());
        let done = self.worker.run(time_limit(text.len()), move || {
            growth.check(&inner, &text)?;
            encode(&inner, &text).map_err(|error| error.to_string())
        });
        let place = || Place { path: self.path.clone(), line: 1 };
        flat(done).map_err(|message| Error::Encode { place: place(), message })
    }

    /// The text of ids.
    ///
    /// # Errors
    /// The decoder refuses them.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, Error> {
        let (inner, ids) = (self.inner.clone(), ids.to_vec());
        let limit = time_limit(ids.len() * std::mem::size_of::<u32>());
        let decode = move || inner.decode(&ids, skip_special_tokens).map_err(|error| error.to_string());
        let done = self.worker.run(limit, decode);
        flat(done).map_err(|message| Error::Tokenizer { path: self.path.clone(), message })
    }

    /// The text of ids that come one after the other, special tokens left out.
    pub fn text_stream(&self) -> TextStream<'_> {
        TextStream::new(self)
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

    /// The largest id that a text can be encoded into, and its token: of the vocabulary, the added tokens and what the
    /// post-processor puts around a text. `None` for an empty vocabulary.
    pub fn largest_id(&self) -> Option<(u32, String)> {
        let around = self.prefix.iter().chain(&self.suffix).map(|&id| (id, self.piece(id).unwrap_or_default()));
        let vocabulary = self.inner.get_vocab(true).into_iter().map(|(token, id)| (id, token));
        vocabulary.chain(around).max()
    }

    /// What the tokenizer's post-processor puts before and after each text.
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

    /// Where `tokenizer.json` lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// BLAKE3 of `tokenizer.json` and of the tokens that other files add.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

/// Why a tokenizer was not built: in words about `tokenizer.json`, or an error of a file beside it.
enum Fail {
    Message(String),
    Error(Error),
}

fn flat<T>(done: Result<Result<T, String>, Fault>) -> Result<T, String> {
    done.unwrap_or_else(|fault| Err(fault.to_string()))
}

/// The ids that the tokenizer's post-processor puts before and after a text, asked with a token that no vocabulary has.
fn surroundings(inner: &tokenizers::Tokenizer) -> Result<(Vec<u32>, Vec<u32>), String> {
    let Some(processor) = inner.get_post_processor() else { return Ok(Default::default()) };
    let text = tokenizers::Token::new(u32::MAX, String::new(), (0, 0));
    let around = processor.process(Encoding::from_tokens(vec![text], 0), None, true);
    let around = around.map_err(|error| format!("post_processor: {error}"))?;
    let mut parts = around.get_ids().split(|id| *id == u32::MAX);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(before), Some(after), None) => Ok((before.to_vec(), after.to_vec())),
        _ => Err("post_processor: it leaves the text out, or puts it twice".to_owned()),
    }
}
