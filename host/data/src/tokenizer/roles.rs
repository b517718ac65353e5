//! Which ids begin, end and pad a text, by the files beside `tokenizer.json`. Nothing is guessed from names of tokens.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{error::Error, files};

const MAP: &str = "special_tokens_map.json";

/// The files that say which token has which role, and which tokens `tokenizer.json` may lack.
#[derive(Default)]
pub(super) struct Roles {
    folder: PathBuf,
    pub added_tokens: Map<String, Value>,
    pub tokenizer_config: Map<String, Value>,
    pub special_tokens_map: Map<String, Value>,
    generation_config: Map<String, Value>,
    config: Map<String, Value>,
}

impl Roles {
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let read = |name: &str| files::read_object(&folder.join(name)).map(Option::unwrap_or_default);
        Ok(Roles {
            folder: folder.to_owned(),
            added_tokens: read("added_tokens.json")?,
            tokenizer_config: read("tokenizer_config.json")?,
            special_tokens_map: read("special_tokens_map.json")?,
            generation_config: read("generation_config.json")?,
            config: read("config.json")?,
        })
    }

    /// The roles of `tokenizer_config.json` alone.
    pub fn of_config(tokenizer_config: Map<String, Value>) -> Self {
        Roles { tokenizer_config, ..Roles::default() }
    }

    /// An error of one of the files.
    pub fn unsound(&self, file: &str, message: String) -> Error {
        Error::Json { path: self.folder.join(file), message }
    }

    /// The two files that name roles by their tokens, the one that transformers believes first. It reads the map only
    /// where `tokenizer_config.json` lists no added tokens, and then the map wins.
    pub fn by_text(&self) -> [(&'static str, &Map<String, Value>); 2] {
        let config = ("tokenizer_config.json", &self.tokenizer_config);
        let map = (MAP, &self.special_tokens_map);
        if self.reads_the_map() { [map, config] } else { [config, map] }
    }

    /// Whether transformers takes `special_tokens_map.json` and `added_tokens.json` into account.
    pub fn reads_the_map(&self) -> bool {
        !self.tokenizer_config.contains_key("added_tokens_decoder")
    }

    /// All ids that the files give a role, the tokenizer's own first, none twice.
    pub fn ids(&self, inner: &tokenizers::Tokenizer, role: &'static str) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        let mut add = |id| {
            if !ids.contains(&id) {
                ids.push(id);
            }
        };
        for (file, object) in self.by_text() {
            let Some(text) = object.get(role).and_then(token_text) else { continue };
            if file == MAP && !self.reads_the_map() && inner.token_to_id(text).is_none() {
                continue;
            }
            let id = inner.token_to_id(text).ok_or_else(|| {
                let message = format!("{role} is {:?}, which the vocabulary lacks", crate::error::cut(text));
                self.unsound(file, message)
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
                let id = id
                    .filter(|id| inner.id_to_token(*id).is_some())
                    .ok_or_else(|| self.unsound(file, format!("{key} is {value}, which the vocabulary lacks")))?;
                add(id);
            }
        }
        Ok(ids)
    }
}

/// A token is named by its text, or by an object that holds it.
pub(super) fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content").and_then(Value::as_str))
}
