//! From a YAML document to a recipe: every key known, every value of its type.

use std::path::PathBuf;

use serde_yaml::{Mapping, Value};
use unswag_loader::PluginSpec;

use crate::args::{advice, value_advice};

use super::{
    keys::{Given, Key, Keys, Kind},
    locate::{Fault, Place},
    shown,
};

/// A recipe as it is written.
pub struct Document {
    pub model: PathBuf,
    pub surgery: Vec<PluginSpec>,
    pub train: Vec<Given>,
    pub output: PathBuf,
}

const SECTIONS: [&str; 4] = ["model", "surgery", "train", "output"];
/// Each step of surgery rewrites the graph that the one before left.
const MAX_STEPS: usize = 64;
const STEP: [&str; 2] = ["plugin", "options"];

/// # Errors
/// The first key that is not known or missing, or value that cannot be.
pub fn document(value: &Value, keys: &Keys) -> Result<Document, Fault> {
    let root = Place::default();
    let sections = mapping(value, &root)?;
    for name in sections.keys() {
        let name = key_text(name, &root)?;
        if !SECTIONS.contains(&name) && keys.find(name).is_some() {
            return Err(Fault {
                place: root.at(name).itself(),
                what: "no such key; it belongs under `train:`".to_owned(),
            });
        }
    }
    let sections = known(value, &root, &SECTIONS)?;
    Ok(Document {
        model: path(required(sections, &root, "model")?, &root.at("model"))?,
        surgery: match sections.get("surgery") {
            None => Vec::new(),
            Some(steps) => surgery(steps, &root.at("surgery"))?,
        },
        train: train(required(sections, &root, "train")?, &root.at("train"), keys)?,
        output: path(required(sections, &root, "output")?, &root.at("output"))?,
    })
}

fn surgery(value: &Value, place: &Place) -> Result<Vec<PluginSpec>, Fault> {
    let Value::Sequence(steps) = value else {
        return expected("a list of steps, each with `plugin` and `options`", value, place);
    };
    if steps.len() > MAX_STEPS {
        let what = format!("expected at most {MAX_STEPS} steps, got {}", steps.len());
        return Err(Fault { place: place.clone(), what });
    }
    steps.iter().enumerate().map(|(index, step)| surgery_step(step, &place.item(index))).collect()
}

fn surgery_step(value: &Value, place: &Place) -> Result<PluginSpec, Fault> {
    let fields = known(value, place, &STEP)?;
    let name = text(required(fields, place, "plugin")?, &place.at("plugin"))?;
    let at = place.at("options");
    let options = fields.get("options").map_or(Ok(Vec::new()), |options| plugin_options(options, &at))?;
    Ok(PluginSpec { name, options })
}

/// As text: what they mean is in the plugin's manifest.
fn plugin_options(value: &Value, place: &Place) -> Result<Vec<(String, String)>, Fault> {
    let option = |(key, value): (&Value, &Value)| {
        let key = key_text(key, place)?;
        match scalar(value) {
            Some(text) => Ok((key.to_owned(), text)),
            None => expected("text, a number, true or false", value, &place.at(key)),
        }
    };
    mapping(value, place)?.iter().map(option).collect()
}

fn train(value: &Value, place: &Place, keys: &Keys) -> Result<Vec<Given>, Fault> {
    let mut train: Vec<Given> = Vec::new();
    for (name, value) in mapping(value, place)? {
        let name = key_text(name, place)?;
        let at = place.at(name);
        let Some(key) = keys.find(name) else {
            if SECTIONS.contains(&name) {
                let what = "no such key; it belongs at the top of the recipe".to_owned();
                return Err(Fault { place: at.itself(), what });
            }
            let names: Vec<String> = keys.iter().flat_map(Key::names).collect();
            return Err(unknown(name, &names, place));
        };
        if let Some(other) = train.iter().find(|given| given.long == key.long()) {
            let what = format!("is {} by another name; keep one of them", other.written);
            return Err(Fault { place: at.itself(), what });
        }
        train.extend(setting(key, name, value, &at)?);
    }
    match keys.iter().find(|key| key.is_required() && train.iter().all(|given| given.long != key.long())) {
        Some(key) => Err(missing(&key.name(), place)),
        None => Ok(train),
    }
}

/// None for a flag that is false.
fn setting(key: &Key, name: &str, value: &Value, place: &Place) -> Result<Option<Given>, Fault> {
    let kind = key.kind();
    if kind == Kind::Flag {
        return match value {
            Value::Bool(true) => Ok(Some(key.given(name, Vec::new()))),
            Value::Bool(false) => Ok(None),
            other => expected("true or false", other, place),
        };
    }
    let values: Vec<String> = match value {
        Value::Sequence(items) if key.is_list() && !items.is_empty() => {
            let item = |(index, item)| one(&kind, item, &place.item(index));
            items.iter().enumerate().map(item).collect::<Result<_, _>>()?
        }
        Value::Sequence(_) if key.is_list() => return expected("at least one", value, place),
        Value::Mapping(entries) if kind == Kind::Pairs && !entries.is_empty() => {
            let pair = |(name, value): (&Value, &Value)| {
                let name = key_text(name, place)?;
                Ok(format!("{name}={}", one(&Kind::Number, value, &place.at(name))?))
            };
            entries.iter().map(pair).collect::<Result<_, _>>()?
        }
        Value::Number(number) if kind == Kind::Integer && number.as_i64().is_some_and(|number| number < 0) => {
            let least = u64::from(key.check(&["0".to_owned()]).is_err());
            let hint = hint(key, value);
            let what = format!("expected at least {least}, got {number}{hint}");
            return Err(Fault { place: place.clone(), what });
        }
        other => vec![one(&kind, other, place).map_err(|fault| {
            let what = fault.what + &hint(key, value);
            Fault { what, ..fault }
        })?],
    };
    key.check(&values).map_err(|what| Fault { place: place.clone(), what: shown(&what) })?;
    Ok(Some(key.given(name, values)))
}

/// What to write instead of another tool's value.
fn hint(key: &Key, value: &Value) -> String {
    let advice = scalar(value).and_then(|value| value_advice(key.long(), &value));
    advice.map_or_else(String::new, |advice| format!("; {advice}"))
}

/// A value of this kind, as it is typed on the command line.
fn one(kind: &Kind, value: &Value, place: &Place) -> Result<String, Fault> {
    let (fits, wanted) = match kind {
        Kind::Flag => (value.is_bool(), "true or false".to_owned()),
        Kind::Integer => (value.is_u64() || value.is_i64(), "an integer".to_owned()),
        Kind::Number => (value.is_number(), "a number".to_owned()),
        Kind::Size => (value.is_u64() || value.is_string(), "a size such as 2GiB or a number of bytes".to_owned()),
        Kind::Text => (value.is_string(), "text".to_owned()),
        Kind::Pairs => {
            (value.is_string(), "keys and values such as {q_proj: 16}, or text such as q_proj=16".to_owned())
        }
        Kind::Choice { names, others } => {
            let fits = value.as_str().is_some_and(|value| names.iter().chain(others).any(|choice| choice == value));
            (fits, format!("one of {}", names.join(", ")))
        }
    };
    match scalar(value).filter(|_| fits) {
        Some(text) => Ok(text),
        None => expected(&wanted, value, place),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(value) => Some(value.to_string()),
        Value::String(value) => Some(value.clone()),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => None,
    }
}

fn text(value: &Value, place: &Place) -> Result<String, Fault> {
    one(&Kind::Text, value, place)
}

fn path(value: &Value, place: &Place) -> Result<PathBuf, Fault> {
    match value {
        Value::String(path) if !path.is_empty() => Ok(path.into()),
        other => expected("a path", other, place),
    }
}

fn mapping<'a>(value: &'a Value, place: &Place) -> Result<&'a Mapping, Fault> {
    match value {
        Value::Mapping(mapping) => Ok(mapping),
        other => expected("keys and values", other, place),
    }
}

/// A mapping that has no key but these.
fn known<'a>(value: &'a Value, place: &Place, names: &[&str]) -> Result<&'a Mapping, Fault> {
    let mapping = mapping(value, place)?;
    for key in mapping.keys() {
        let key = key_text(key, place)?;
        if !names.contains(&key) {
            return Err(unknown(key, names, place));
        }
    }
    Ok(mapping)
}

fn key_text<'a>(key: &'a Value, place: &Place) -> Result<&'a str, Fault> {
    key.as_str().map_or_else(|| expected("keys that are text", key, place), Ok)
}

fn required<'a>(mapping: &'a Mapping, place: &Place, name: &str) -> Result<&'a Value, Fault> {
    mapping.get(name).ok_or_else(|| missing(name, place))
}

fn missing(name: &str, place: &Place) -> Fault {
    Fault { place: place.clone(), what: format!("`{name}` is missing") }
}

fn unknown(name: &str, known: &[impl AsRef<str>], place: &Place) -> Fault {
    let distance = |other: &&str| strsim::damerau_levenshtein(name, other);
    // A distance takes time and memory by the product of both lengths.
    let is_word = name.len() <= 64;
    let nearest = known.iter().map(AsRef::as_ref).filter(|_| is_word).min_by_key(distance);
    // Further away, it is another word.
    let near = nearest.filter(|other| distance(other) <= name.chars().count().max(3) / 2);
    let hint = match (near, advice(name)) {
        (Some(near), _) => format!("did you mean {near}?"),
        (None, Some(advice)) => advice.to_owned(),
        (None, None) => "`unswag schema` has every key".to_owned(),
    };
    Fault { place: place.at(name).itself(), what: format!("no such key; {hint}") }
}

fn expected<T>(wanted: &str, got: &Value, place: &Place) -> Result<T, Fault> {
    let got = match got {
        Value::Null => "nothing".to_owned(),
        Value::Sequence(items) if items.is_empty() => "an empty list".to_owned(),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) => "keys and values".to_owned(),
        Value::Tagged(tagged) => shown(&format!("the tag {}", tagged.tag)),
        Value::String(text) => format!("the text {:?}", text.chars().take(80).collect::<String>()),
        Value::Bool(_) | Value::Number(_) => shown(&scalar(got).unwrap_or_default()),
    };
    Err(Fault { place: place.clone(), what: format!("expected {wanted}, got {got}") })
}
