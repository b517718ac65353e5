//! Options: from `--plugin NAME:key=value,…` to the typed values that a protocol's manifest allows.
//!
//! Input: the command line, a record's YAML, a manifest. A plugin must never see an option that its manifest does not
//! describe, nor a value outside what it allows.

use serde_json::Value;
use unswag_abi::doc::{Attrs, OptionSpec, OptionType, ProtocolInfo};

use crate::plain;

/// Why options do not fit a protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error("protocol {protocol} has no option `{key}`{}; it has: {known}", nearest.as_ref().map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default())]
    Unknown { protocol: String, key: String, nearest: Option<String>, known: String },

    #[error("protocol {protocol}: option {key}: {problem}")]
    Value { protocol: String, key: String, problem: String },

    #[error("protocol {protocol} needs option {key} ({description}), which has no default; write {protocol}:{key}=…")]
    Missing { protocol: String, key: String, description: String },

    #[error("protocol {protocol}: option {key} is given twice")]
    Twice { protocol: String, key: String },
}

impl OptionError {
    /// The option that it is about.
    pub fn key(&self) -> &str {
        match self {
            Self::Unknown { key, .. }
            | Self::Value { key, .. }
            | Self::Missing { key, .. }
            | Self::Twice { key, .. } => key,
        }
    }
}

/// Turns what the user wrote into typed options, checks them, and fills in the defaults.
///
/// # Errors
/// The first option that is unknown, of the wrong type, out of range, given twice or missing.
pub fn typed_options(protocol: &ProtocolInfo, given: &[(String, String)]) -> Result<Attrs, OptionError> {
    let mut options = Attrs::new();
    for (key, text) in given {
        let spec = spec(protocol, key)?;
        let value = read_value(spec, text).map_err(|problem| value_error(protocol, key, problem))?;
        if options.insert(key.clone(), value).is_some() {
            return Err(OptionError::Twice { protocol: protocol.id.clone(), key: key.clone() });
        }
    }
    checked_options(protocol, &options)
}

/// Checks options that are already typed (from a record, or a recipe) and fills in the defaults.
///
/// # Errors
/// As [`typed_options`].
pub fn checked_options(protocol: &ProtocolInfo, given: &Attrs) -> Result<Attrs, OptionError> {
    for (key, value) in given {
        check_value(spec(protocol, key)?, value).map_err(|problem| value_error(protocol, key, problem))?;
    }
    let mut options = given.clone();
    for (key, spec) in &protocol.options {
        if options.contains_key(key) {
            continue;
        }
        let default = spec.default.as_ref().ok_or_else(|| OptionError::Missing {
            protocol: protocol.id.clone(),
            key: key.clone(),
            description: plain::one_line(spec.description.trim_end_matches('.'), 200),
        })?;
        options.insert(key.clone(), default.clone());
    }
    Ok(options)
}

fn spec<'a>(protocol: &'a ProtocolInfo, key: &str) -> Result<&'a OptionSpec, OptionError> {
    protocol.options.get(key).ok_or_else(|| OptionError::Unknown {
        protocol: protocol.id.clone(),
        key: plain::one_line(key, 80),
        nearest: nearest(key, protocol.options.keys()).map(str::to_owned),
        known: match protocol.options.is_empty() {
            true => "none".to_owned(),
            false => protocol.options.keys().cloned().collect::<Vec<_>>().join(", "),
        },
    })
}

fn value_error(protocol: &ProtocolInfo, key: &str, problem: String) -> OptionError {
    OptionError::Value { protocol: protocol.id.clone(), key: key.to_owned(), problem }
}

/// The known name that `name` most likely meant.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a String>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known.as_str()))
        .filter(|&(edits, known)| edits <= known.chars().count().max(name.chars().count()) / 3 + 1)
        .min()
        .map(|(_, known)| known)
}

/// A value of the option's type from text.
fn read_value(spec: &OptionSpec, text: &str) -> Result<Value, String> {
    let shown = plain::one_line(text, 80);
    match spec.kind {
        OptionType::String | OptionType::Path => Ok(Value::from(text)),
        OptionType::Boolean => match text {
            "true" => Ok(Value::from(true)),
            "false" => Ok(Value::from(false)),
            _ => Err(format!("expected true or false, got `{shown}`")),
        },
        OptionType::Integer => text
            .parse::<i64>()
            .map(Value::from)
            .map_err(|_| format!("expected an integer{}, got `{shown}`", range(spec))),
        OptionType::Number => text
            .parse::<f64>()
            .ok()
            .filter(|number| number.is_finite())
            .map(Value::from)
            .ok_or_else(|| format!("expected a number{}, got `{shown}`", range(spec))),
    }
}

/// Checks one value against its option.
pub(crate) fn check_value(spec: &OptionSpec, value: &Value) -> Result<(), String> {
    check_type(spec.kind, value)
        .map_err(|got| format!("expected {}{}, got {got}", kind_name(spec.kind), range(spec)))?;
    let shown = plain::one_line(&value.to_string(), 80);
    if !spec.choices.is_empty() && !spec.choices.iter().any(|choice| same(choice, value)) {
        let choices: Vec<_> = spec.choices.iter().map(show).collect();
        return Err(format!("expected one of {}, got {}", choices.join(", "), show(value)));
    }
    if let Some(number) = value.as_f64()
        && (spec.minimum.is_some_and(|minimum| number < minimum)
            || spec.maximum.is_some_and(|maximum| number > maximum))
    {
        return Err(format!("expected {}{}, got {shown}", kind_name(spec.kind), range(spec)));
    }
    Ok(())
}

/// Checks the type alone; the error says what the value is.
pub(crate) fn check_type(kind: OptionType, value: &Value) -> Result<(), String> {
    let fits = match kind {
        OptionType::String => value.is_string(),
        OptionType::Path => value.as_str().is_some_and(|path| !path.contains('\0')),
        OptionType::Boolean => value.is_boolean(),
        OptionType::Integer => value.is_i64() || value.is_u64(),
        OptionType::Number => value.is_number(),
    };
    if fits {
        return Ok(());
    }
    Err(match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
        Value::String(_) => format!("the text {}", plain::one_line(&value.to_string(), 80)),
        _ => plain::one_line(&value.to_string(), 80),
    })
}

/// Equal as the user sees it: 1 and 1.0 are one number.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => plain::one_line(text, 80),
        other => plain::one_line(&other.to_string(), 80),
    }
}

fn kind_name(kind: OptionType) -> &'static str {
    match kind {
        OptionType::String => "a string",
        OptionType::Path => "a path",
        OptionType::Boolean => "true or false",
        OptionType::Integer => "an integer",
        OptionType::Number => "a number",
    }
}

fn range(spec: &OptionSpec) -> String {
    match (spec.minimum, spec.maximum) {
        (None, None) => String::new(),
        (Some(minimum), None) => format!(" of at least {minimum}"),
        (None, Some(maximum)) => format!(" of at most {maximum}"),
        (Some(minimum), Some(maximum)) => format!(" from {minimum} to {maximum}"),
    }
}
