//! One use of a kind, and the checks that are the same for all of them: how many inputs, which roles, which attributes.

use serde_json::Value as Json;
use unswag_abi::doc::{Attrs, Dim, Dtype, Param, Value};

use super::{Attr, AttrType, Inputs, Kind};
use crate::names::quoted;

/// Why a call does not fit its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KindError {
    #[error("there is no host primitive `{0}`; a plugin's op has a dot in its name, the primitives are {known}", known = known())]
    Unknown(String),
    #[error("{kind} takes {expected}, got {got}")]
    Inputs { kind: String, expected: String, got: usize },
    #[error("{kind} needs the parameter `{role}` of shape {shape}, got none under that role")]
    MissingParam { kind: String, role: String, shape: String },
    #[error("{kind} has no parameter `{role}`; it has {known}")]
    UnknownParam { kind: String, role: String, known: String },
    #[error("{kind} needs the attribute `{name}` ({expected}), got none")]
    MissingAttr { kind: String, name: String, expected: String },
    #[error("{kind} has no attribute `{name}`; it has {known}")]
    UnknownAttr { kind: String, name: String, known: String },
    #[error("{kind}: attribute `{name}`: expected {expected}, got {got}")]
    Attr { kind: String, name: String, expected: String, got: String },
    #[error("{kind}: {what}: expected {expected}, got {got}")]
    Type { kind: String, what: String, expected: String, got: String },
}

fn known() -> String {
    super::all().iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ")
}

/// One use of a kind.
pub struct Call<'a> {
    pub kind: &'a Kind,
    pub inputs: &'a [&'a Value],
    pub params: &'a [(&'a str, &'a Param)],
    pub attrs: &'a Attrs,
}

impl Call<'_> {
    /// Counts inputs, matches roles, and checks each attribute's type. After this the getters below can trust them.
    pub fn check_signature(&self) -> Result<(), KindError> {
        let kind = || self.kind.name.to_owned();
        let got = self.inputs.len();
        let expected = match self.kind.inputs {
            Inputs::Exactly(names) if names.len() != got => {
                Some(format!("{} ({})", count(names.len()), names.join(", ")))
            }
            Inputs::AtLeast(least) if got < least => Some(format!("at least {}", count(least))),
            _ => None,
        };
        if let Some(expected) = expected {
            return Err(KindError::Inputs { kind: kind(), expected, got });
        }
        for role in self.kind.params.iter().filter(|role| role.required) {
            if self.param(role.name).is_none() {
                let (role, shape) = (role.name.to_owned(), role.shape.to_owned());
                return Err(KindError::MissingParam { kind: kind(), role, shape });
            }
        }
        for (role, _) in self.params {
            if !self.kind.params.iter().any(|known| known.name == *role) {
                let known = listed(self.kind.params.iter().map(|known| known.name));
                return Err(KindError::UnknownParam { kind: kind(), role: quoted(role), known });
            }
        }
        for attr in self.kind.attrs {
            match self.attrs.get(attr.name) {
                Some(value) if !attr.accepts(value) => {
                    return Err(self.bad_attr(attr.name, &attr.expected(), value));
                }
                None if attr.required => {
                    let (name, expected) = (attr.name.to_owned(), attr.expected());
                    return Err(KindError::MissingAttr { kind: kind(), name, expected });
                }
                _ => {}
            }
        }
        for name in self.attrs.keys() {
            if !self.kind.attrs.iter().any(|known| known.name == name) {
                let known = listed(self.kind.attrs.iter().map(|known| known.name));
                return Err(KindError::UnknownAttr { kind: kind(), name: quoted(name), known });
            }
        }
        Ok(())
    }

    pub fn param(&self, role: &str) -> Option<&Param> {
        self.params.iter().find(|(name, _)| *name == role).map(|(_, param)| *param)
    }

    pub fn u64(&self, name: &str) -> Option<u64> {
        self.attrs.get(name).and_then(Json::as_u64)
    }

    pub fn f64(&self, name: &str) -> Option<f64> {
        self.attrs.get(name).and_then(Json::as_f64)
    }

    pub fn bool(&self, name: &str) -> bool {
        self.attrs.get(name).and_then(Json::as_bool).unwrap_or(false)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.attrs.get(name).and_then(Json::as_str)
    }

    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.text(name).and_then(Dtype::from_name)
    }

    pub fn sizes(&self, name: &str) -> Vec<u64> {
        let list = self.attrs.get(name).and_then(Json::as_array);
        list.into_iter().flatten().filter_map(Json::as_u64).collect()
    }

    pub fn list_len(&self, name: &str) -> Option<usize> {
        self.attrs.get(name).and_then(Json::as_array).map(Vec::len)
    }

    pub fn bad_attr(&self, name: &str, expected: &str, got: &Json) -> KindError {
        let (kind, name) = (self.kind.name.to_owned(), name.to_owned());
        KindError::Attr { kind, name, expected: expected.to_owned(), got: clipped(&got.to_string()) }
    }

    /// An error about the type of something that the call is given.
    pub fn bad_type(&self, what: &str, expected: impl ToString, got: impl ToString) -> KindError {
        KindError::Type {
            kind: self.kind.name.to_owned(),
            what: what.to_owned(),
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }
}

impl Attr {
    fn accepts(&self, value: &Json) -> bool {
        let positive = |value: &Json| value.as_f64().is_some_and(|x| x.is_finite() && x > 0.0);
        let all = |accepts: &dyn Fn(&Json) -> bool| {
            value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(accepts))
        };
        match self.of {
            AttrType::Integer(least) => value.as_u64().is_some_and(|x| x >= least),
            AttrType::Number => value.as_f64().is_some_and(f64::is_finite),
            AttrType::Positive => positive(value),
            AttrType::Boolean => value.is_boolean(),
            AttrType::Choice(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            AttrType::Sizes => all(&|x| x.as_u64().is_some_and(|x| x > 0)),
            AttrType::Numbers => all(&positive),
            AttrType::Float => value.as_str().and_then(Dtype::from_name).is_some_and(Dtype::is_float),
        }
    }

    fn expected(&self) -> String {
        match self.of {
            AttrType::Integer(least) => format!("a whole number of at least {least}"),
            AttrType::Number => "a finite number".to_owned(),
            AttrType::Positive => "a finite number above 0".to_owned(),
            AttrType::Boolean => "true or false".to_owned(),
            AttrType::Choice(words) => format!("one of {}", words.join(", ")),
            AttrType::Sizes => "a list of whole numbers above 0".to_owned(),
            AttrType::Numbers => "a list of finite numbers above 0".to_owned(),
            AttrType::Float => "a floating-point element type such as BF16".to_owned(),
        }
    }
}

/// `BF16 [batch, seq, 2048]`.
pub fn show_value(value: &Value) -> String {
    format!("{} {}", value.dtype, show_shape(&value.shape))
}

/// `[batch, seq, 2048]`.
pub fn show_shape<T: ToString>(shape: &[T]) -> String {
    let mut dims: Vec<String> = shape.iter().take(9).map(ToString::to_string).collect();
    if shape.len() > 9 {
        dims.push(format!("… ({} dimensions)", shape.len()));
    }
    format!("[{}]", dims.join(", "))
}

/// The last dimension where it is a number, else an error that names the input.
pub fn last_fixed(call: &Call<'_>, what: &str, shape: &[Dim]) -> Result<u64, KindError> {
    let last = shape.last().and_then(Dim::fixed);
    last.ok_or_else(|| call.bad_type(what, "a fixed size in the last dimension", show_shape(shape)))
}

/// What a message quotes of a document it did not write: enough to find it, never a page.
pub fn clipped(text: &str) -> String {
    clipped_at(80, text)
}

/// As [`clipped`], at so many characters.
pub fn clipped_at(most: usize, text: &str) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn count(inputs: usize) -> String {
    match inputs {
        1 => "1 input".to_owned(),
        n => format!("{n} inputs"),
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
