//! The JSON Schema of recipes, made from the options that recipes are turned into.
//!
//! It says what can be said of a key alone, and which keys exclude each other. That one key needs another, and what a plugin's
//! options are, is checked when a recipe is read.

use serde_json::{Map, Value, json};

use super::keys::{Key, Keys, Kind};

/// `2GiB`, `1.5 GB`, `800M`.
const SIZE: &str = "^[0-9]+(\\.[0-9]+)? ?([kKmMgGtT]([iI]?[bB])?|[bB])?$";

/// Draft 2020-12.
pub fn schema() -> Value {
    let keys = Keys::of_train();
    let properties: Map<String, Value> =
        keys.iter().flat_map(|key| key.names().map(|name| (name, property(key)))).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "unswag recipe",
        "description": "Surgery and training in one file, for `unswag run`. Paths are taken from the working directory.",
        "type": "object",
        "additionalProperties": false,
        "required": ["model", "train", "output"],
        "properties": {
            "model": {
                "type": "string", "minLength": 1,
                "description": "A .safetensors file, a folder with config.json and weights, or a hub cache snapshot.",
            },
            "surgery": {
                "type": "array",
                "description": "Protocol plugins, in the order in which they operate; the result is written to OUTPUT/patched.",
                "items": {
                    "type": "object",
                    "additionalProperties": false,
                    "required": ["plugin"],
                    "properties": {
                        "plugin": {"type": "string", "description": "A locked protocol's name (`unswag plugin list`)."},
                        "options": {
                            "type": "object",
                            "description": "`unswag plugin info NAME` has them.",
                            "additionalProperties": {"type": ["string", "number", "boolean"]},
                        },
                    },
                },
            },
            "train": {
                "type": "object",
                "description": "Options of `unswag train`, with underscores.",
                "additionalProperties": false,
                "required": keys.iter().filter(|key| key.is_required()).map(Key::name).collect::<Vec<_>>(),
                "properties": properties,
                "allOf": exclusions(&keys),
            },
            "output": {"type": "string", "minLength": 1, "description": "The folder to write."},
        },
    })
}

fn property(key: &Key) -> Value {
    let one = value(key);
    let mut property = match key.is_list() {
        true if key.kind() == Kind::Pairs => {
            let map = json!({"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 1});
            json!({"anyOf": [one, {"type": "array", "items": one, "minItems": 1}, map]})
        }
        true => json!({"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}),
        false => one,
    };
    let help = key.help();
    if !help.is_empty() {
        property["description"] = help.into();
    }
    if let [default] = key.defaults().as_slice()
        && key.kind() != Kind::Flag
    {
        // A number where it is one.
        property["default"] = serde_json::from_str(default).unwrap_or_else(|_| default.as_str().into());
    }
    property
}

fn value(key: &Key) -> Value {
    match key.kind() {
        Kind::Flag => json!({"type": "boolean"}),
        // An option's range is not told, but asked for: all that have one begin at 1.
        Kind::Integer => json!({"type": "integer", "minimum": u64::from(key.check(&["0".to_owned()]).is_err())}),
        Kind::Number => json!({"type": "number"}),
        Kind::Size => json!({"type": ["integer", "string"], "minimum": 1, "pattern": SIZE}),
        Kind::Text | Kind::Pairs => json!({"type": "string"}),
        Kind::Choice { names, others } => {
            let all = [names, others].concat();
            json!({"type": "string", "enum": all})
        }
    }
}

/// What cannot stand in one recipe: each pair of keys that exclude each other, and two names of one key.
fn exclusions(keys: &Keys) -> Vec<Value> {
    let renamed = keys.iter().filter(|key| key.names().count() > 1).map(at_most_one_name);
    let pairs = keys.iter().flat_map(|key| keys.conflicts(key.long()).map(move |other| (key, other)));
    let pairs = pairs.filter_map(|(key, other)| Some((key, keys.find(&other.replace('-', "_"))?)));
    let pairs = pairs.map(|(a, b)| json!({"not": {"allOf": [is_set(a), is_set(b)]}}));
    renamed.chain(pairs).collect()
}

fn at_most_one_name(key: &Key) -> Value {
    let written = |name: String| json!({"required": [name]});
    json!({"anyOf": [{"not": is_written(key)}, {"oneOf": key.names().map(written).collect::<Vec<_>>()}]})
}

/// Under any of its names, whatever its value.
fn is_written(key: &Key) -> Value {
    json!({"anyOf": key.names().map(|name| json!({"required": [name]})).collect::<Vec<_>>()})
}

/// Under any of its names; a flag that is false is not set.
fn is_set(key: &Key) -> Value {
    let under = |name: String| match key.kind() {
        Kind::Flag => json!({"required": [name], "properties": {name: {"const": true}}}),
        _ => json!({"required": [name]}),
    };
    json!({"anyOf": key.names().map(under).collect::<Vec<_>>()})
}
