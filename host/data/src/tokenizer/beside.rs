//! Tokens that the files beside `tokenizer.json` list and it may lack, added as transformers 5 adds them.
//!
//! Its order: `added_tokens_decoder` of `tokenizer_config.json` by id, or where that is missing `added_tokens.json`; then
//! the tokens that have a role; then the extra special tokens. A token that the vocabulary has keeps its id. Any other
//! gets the next free id, whatever id the file gives it: where the two differ, the file does not belong to this
//! vocabulary, and it is refused.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::roles::{Roles, token_text};
use crate::error::Error;

/// Roles in the order in which transformers adds their tokens.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A token to be added, and where it is listed.
struct Beside {
    token: AddedToken,
    file: &'static str,
    key: &'static str,
    /// The id that the file gives it.
    id: Option<u32>,
}

/// A special token, by the file that names it.
struct Role {
    token: AddedToken,
    file: &'static str,
    key: &'static str,
}

/// A role that only some models have.
const OWN_ROLE: &str = "a model's own role";

/// Adds what the files list. Returns the tokens that were new or changed, for the digest of what encodes a text.
///
/// # Errors
/// A list that cannot be read, or an id that does not follow the vocabulary.
pub(super) fn add(tokenizer: &mut tokenizers::Tokenizer, roles: &Roles) -> Result<Vec<(u32, AddedToken)>, Error> {
    let known: HashMap<u32, AddedToken> = tokenizer.get_added_tokens_decoder().into_iter().collect();
    let listed = listed(roles, &known)?;
    let is_new = |beside: &Beside| tokenizer.token_to_id(&beside.token.content).is_none();
    let new: Vec<bool> = listed.iter().map(is_new).collect();
    let unordered = listed.iter().zip(&new).filter(|(beside, is_new)| **is_new && beside.key == OWN_ROLE);
    if let [(first, _), (second, _), ..] = unordered.collect::<Vec<_>>()[..] {
        // Their ids would follow the order of the file's keys, which an object does not have.
        let [a, b] = [first, second].map(|beside| crate::error::cut(&beside.token.content));
        return Err(roles.unsound(
            first.file,
            format!("it names {a:?} and {b:?} and gives no ids, and tokenizer.json lacks both; list them in added_tokens_decoder"),
        ));
    }
    let first = listed.first().map_or("tokenizer_config.json", |beside| beside.file);
    tokenizer
        .add_tokens(listed.iter().map(|beside| beside.token.clone()))
        .map_err(|error| roles.unsound(first, format!("its tokens cannot be added: {error}")))?;
    for (beside, _) in listed.iter().zip(new).filter(|(_, is_new)| *is_new) {
        let got = tokenizer.token_to_id(&beside.token.content);
        if beside.id.is_some() && got != beside.id {
            let token = crate::error::cut(&beside.token.content);
            let follows = got.map_or("none".to_owned(), |id| id.to_string());
            let stated = beside.id.unwrap_or_default();
            return Err(roles.unsound(
                beside.file,
                format!(
                    "{} gives {token:?} the id {stated}; tokenizer.json lacks the token, and the id that follows its vocabulary is {follows}",
                    beside.key
                ),
            ));
        }
    }
    let mut changed: Vec<(u32, AddedToken)> = tokenizer.get_added_tokens_decoder().into_iter().collect();
    changed.retain(|(id, token)| known.get(id) != Some(token));
    changed.sort_by_key(|(id, _)| *id);
    Ok(changed)
}

fn listed(roles: &Roles, known: &HashMap<u32, AddedToken>) -> Result<Vec<Beside>, Error> {
    let mut listed = decoder(roles)?;
    let (named, extra) = (named(roles), extra(roles));
    let mut seen: HashSet<String> = known.values().map(|token| token.content.clone()).collect();
    if roles.reads_the_map() {
        // The extra ones do not count: transformers lists them after this file, and a token that is there stays as it is.
        let special: HashSet<&str> = named.iter().map(|role| role.token.content.as_str()).collect();
        let mut tokens = added_tokens(roles, &special)?;
        // What tokenizer.json says of a token that both have wins over this file, which has no flags.
        tokens.retain(|beside| !seen.contains(&beside.token.content));
        listed.extend(tokens);
    }
    listed.sort_by_key(|beside| beside.id);
    for beside in &mut listed {
        beside.token.special |= named.iter().any(|role| role.token.content == beside.token.content);
        seen.insert(beside.token.content.clone());
    }
    for Role { token, file, key } in named.into_iter().chain(extra) {
        if seen.insert(token.content.clone()) {
            listed.push(Beside { token, file, key, id: None });
        }
    }
    listed.retain(|beside| !beside.token.content.is_empty());
    Ok(listed)
}

/// `added_tokens_decoder` of `tokenizer_config.json`.
fn decoder(roles: &Roles) -> Result<Vec<Beside>, Error> {
    const FILE: &str = "tokenizer_config.json";
    const KEY: &str = "added_tokens_decoder";
    let unsound = |message: String| roles.unsound(FILE, format!("{KEY}: {message}"));
    let entries = match roles.tokenizer_config.get(KEY) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(entries)) => entries,
        Some(other) => return Err(unsound(format!("expected ids and tokens, found {}", short(other)))),
    };
    let beside = |(id, value): (&String, &Value)| {
        let token = full_token(value, false).ok_or_else(|| unsound(format!("id {id}: no token: {}", short(value))))?;
        let id = id.parse().map_err(|_| unsound(format!("{:?} is no id", crate::error::cut(id))))?;
        Ok(Beside { token, file: FILE, key: KEY, id: Some(id) })
    };
    entries.iter().map(beside).collect()
}

/// `added_tokens.json`: tokens and their ids, as transformers 4 wrote them.
fn added_tokens(roles: &Roles, special: &HashSet<&str>) -> Result<Vec<Beside>, Error> {
    const FILE: &str = "added_tokens.json";
    let beside = |(content, id): (&String, &Value)| {
        let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let number = number
            .ok_or_else(|| roles.unsound(FILE, format!("{:?}: {} is no id", crate::error::cut(content), short(id))))?;
        let token = AddedToken::from(content.clone(), special.contains(content.as_str()));
        Ok(Beside { token, file: FILE, key: "the file", id: Some(number) })
    };
    roles.added_tokens.iter().map(beside).collect()
}

/// The tokens with a role, a model's own roles (`image_token`) after the common ones.
fn named(roles: &Roles) -> Vec<Role> {
    let files = heard(roles);
    let of = |role: &&'static str| {
        let token = |(file, object): &(&'static str, &Map<String, Value>)| {
            Some(Role { token: special_token(object.get(*role)?)?, file, key: role })
        };
        files.iter().find_map(token)
    };
    let mut tokens: Vec<_> = ROLES.iter().filter_map(of).collect();
    for (file, object) in files.iter().rev() {
        let own = object.iter().filter(|(key, value)| {
            // An object is a token here only where it says so: any other setting may end in the same word.
            let is_token = value.is_string() || value.get("__type").is_some();
            is_token && key.ends_with("_token") && !ROLES.contains(&key.as_str())
        });
        let mapped = extra_value(object).and_then(Value::as_object).into_iter().flatten();
        let role = |(_, value)| Some(Role { token: special_token(value)?, file, key: OWN_ROLE });
        tokens.extend(own.chain(mapped).filter_map(role));
    }
    tokens
}

/// The special tokens without a role: the list of `tokenizer_config.json`, and of the map what that leaves open.
fn extra(roles: &Roles) -> Vec<Role> {
    let list = |(file, value): (&'static str, &Value)| -> Vec<_> {
        let tokens = value.as_array().into_iter().flatten();
        tokens.filter_map(|value| Some(Role { token: special_token(value)?, file, key: EXTRA })).collect()
    };
    let config = extra_value(&roles.tokenizer_config).map(|value| ("tokenizer_config.json", value));
    let map = Some(&roles.special_tokens_map).filter(|_| roles.reads_the_map());
    let map = map.and_then(|map| if config.is_some() { map.get(EXTRA) } else { extra_value(map) });
    config.into_iter().chain(map.map(|value| ("special_tokens_map.json", value))).flat_map(list).collect()
}

/// The files that transformers takes roles from, the one that wins first.
fn heard(roles: &Roles) -> Vec<(&'static str, &Map<String, Value>)> {
    let files = roles.by_text();
    files.into_iter().take(if roles.reads_the_map() { 2 } else { 1 }).collect()
}

const EXTRA: &str = "extra_special_tokens";

/// `extra_special_tokens`, which was called `additional_special_tokens` before.
fn extra_value(object: &Map<String, Value>) -> Option<&Value> {
    let is_empty = |value: &&Value| match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        other => other.is_null(),
    };
    let of = |key: &str| object.get(key).filter(|value| !is_empty(value));
    of(EXTRA).or_else(|| of("additional_special_tokens"))
}

/// A token by its text, or by an object with its flags. A role makes it special.
fn special_token(value: &Value) -> Option<AddedToken> {
    match value.as_str() {
        Some(text) => Some(AddedToken::from(text, true)),
        None => full_token(value, true).map(|token| token.special(true)),
    }
}

/// A token with its flags. Those that are missing are as in Python's `AddedToken`: false, but for `normalized`, which is
/// true for a token that is not special.
fn full_token(value: &Value, is_special: bool) -> Option<AddedToken> {
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let token = AddedToken::from(token_text(value)?, flag("special").unwrap_or(is_special));
    let normalized = flag("normalized").unwrap_or(token.normalized);
    let set = |name| flag(name).unwrap_or(false);
    Some(token.normalized(normalized).single_word(set("single_word")).lstrip(set("lstrip")).rstrip(set("rstrip")))
}

fn short(value: &Value) -> String {
    crate::error::cut(&value.to_string())
}
