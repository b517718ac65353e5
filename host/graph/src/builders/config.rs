//! Typed reading of `config.json`: every number is checked for type and range before anyone computes with it.
//!
//! A missing field takes the default that transformers' own configuration class has, since saved configs leave such
//! fields out. `null` is not the same as missing: for an optional field it means "none".

use serde_json::Value as Json;
use unswag_abi::doc::Attrs;

use super::error::{BuildError, printable};

/// The fields of one JSON object, with where it stands in the file (`text_config.`) for error messages.
#[derive(Clone)]
pub(super) struct Fields<'a> {
    object: Object<'a>,
    place: String,
}

#[derive(Clone, Copy)]
enum Object<'a> {
    Config(&'a Attrs),
    Nested(&'a serde_json::Map<String, Json>),
    Empty,
}

impl<'a> Fields<'a> {
    pub fn new(config: &'a Attrs) -> Self {
        Fields { object: Object::Config(config), place: String::new() }
    }

    /// The object under `name`; an empty one where it is missing or `null`.
    pub fn nested(&self, name: &str) -> Result<Fields<'a>, BuildError> {
        let object = match self.get(name) {
            None | Some(Json::Null) => Object::Empty,
            Some(Json::Object(map)) => Object::Nested(map),
            Some(other) => return Err(self.wrong(name, "an object", other)),
        };
        Ok(Fields { object, place: format!("{}.", self.place(name)) })
    }

    /// The value as it stands, `null` included.
    pub fn get(&self, name: &str) -> Option<&'a Json> {
        match self.object {
            Object::Config(attrs) => attrs.get(name),
            Object::Nested(map) => map.get(name),
            Object::Empty => None,
        }
    }

    /// Whether the field is there and not `null`.
    pub fn states(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !value.is_null())
    }

    pub fn is_empty(&self) -> bool {
        match self.object {
            Object::Config(attrs) => attrs.is_empty(),
            Object::Nested(map) => map.is_empty(),
            Object::Empty => true,
        }
    }

    /// The field's full name, as errors print it.
    pub fn place(&self, name: &str) -> String {
        format!("{}{name}", self.place)
    }

    /// A positive whole number.
    pub fn size(&self, name: &str, default: u64) -> Result<u64, BuildError> {
        self.get(name).map_or(Ok(default), |value| self.as_size(name, value))
    }

    /// A positive whole number, or none: `default` where the field is missing, none where it is `null`.
    pub fn optional_size(&self, name: &str, default: Option<u64>) -> Result<Option<u64>, BuildError> {
        match self.get(name) {
            None => Ok(default),
            Some(Json::Null) => Ok(None),
            Some(value) => self.as_size(name, value).map(Some),
        }
    }

    fn as_size(&self, name: &str, value: &Json) -> Result<u64, BuildError> {
        value.as_u64().filter(|&size| size > 0).ok_or_else(|| self.wrong(name, "a positive whole number", value))
    }

    /// A finite number above zero.
    pub fn positive(&self, name: &str, default: f64) -> Result<f64, BuildError> {
        self.get(name).map_or(Ok(default), |value| self.as_positive(name, value))
    }

    /// A finite number above zero, or none: `default` where the field is missing, none where it is `null`.
    pub fn optional_positive(&self, name: &str, default: Option<f64>) -> Result<Option<f64>, BuildError> {
        match self.get(name) {
            None => Ok(default),
            Some(Json::Null) => Ok(None),
            Some(value) => self.as_positive(name, value).map(Some),
        }
    }

    fn as_positive(&self, name: &str, value: &Json) -> Result<f64, BuildError> {
        value
            .as_f64()
            .filter(|number| number.is_finite() && *number > 0.0)
            .ok_or_else(|| self.wrong(name, "a finite number above 0", value))
    }

    /// A number above 0 and below 1, such as what a norm adds under its root.
    pub fn epsilon(&self, name: &str, default: f64) -> Result<f64, BuildError> {
        let Some(value) = self.get(name) else {
            return Ok(default);
        };
        value
            .as_f64()
            .filter(|number| *number > 0.0 && *number < 1.0)
            .ok_or_else(|| self.wrong(name, "a number above 0 and below 1", value))
    }

    /// A chance: at least 0 and below 1; `null` is 0.
    pub fn chance(&self, name: &str, default: f64) -> Result<f64, BuildError> {
        match self.get(name) {
            None => Ok(default),
            Some(Json::Null) => Ok(0.0),
            Some(value) => value
                .as_f64()
                .filter(|number| (0.0..1.0).contains(number))
                .ok_or_else(|| self.wrong(name, "a number of at least 0 and below 1", value)),
        }
    }

    pub fn flag(&self, name: &str, default: bool) -> Result<bool, BuildError> {
        match self.get(name) {
            None | Some(Json::Null) => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(name, "true or false", value)),
        }
    }

    pub fn text(&self, name: &str, default: &'a str) -> Result<&'a str, BuildError> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value.as_str().ok_or_else(|| self.wrong(name, "a string", value)),
        }
    }

    /// The error for a field of the wrong type or range. A list is shown by its length.
    pub fn wrong(&self, name: &str, expected: impl Into<String>, found: &Json) -> BuildError {
        let found = match found {
            Json::Array(list) => format!("a list of {}", list.len()),
            Json::Object(_) => "an object".to_owned(),
            other => printable(&other.to_string()),
        };
        BuildError::Field { field: self.place(name), expected: expected.into(), found }
    }

    /// The error for something the config states that no builder can express.
    pub fn unsupported(&self, name: &str, found: impl Into<String>, next: impl Into<String>) -> BuildError {
        BuildError::Unsupported { field: self.place(name), found: found.into(), next: next.into() }
    }

    /// `a * b` where it fits 64 bits; `name` is the field to blame where it does not.
    pub fn product(&self, name: &str, a: u64, b: u64) -> Result<u64, BuildError> {
        a.checked_mul(b).ok_or_else(|| BuildError::Field {
            field: self.place(name),
            expected: "a size that fits the model".to_owned(),
            found: format!("{a}, which times {b} does not fit 64 bits"),
        })
    }
}
