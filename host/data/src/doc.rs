//! JSON as a row holds it. An object keeps its keys in their order, because a chat template may print it.

use std::fmt;

use indexmap::IndexMap;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Number;

/// An object's fields in their order; of two equal keys the later value counts, as in Python.
pub(crate) type Fields = IndexMap<String, Doc>;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Doc {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Doc>),
    Object(Fields),
}

impl Doc {
    /// The kind of value in words, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Doc::Null => "null",
            Doc::Bool(_) => "a boolean",
            Doc::Number(_) => "a number",
            Doc::Text(_) => "a string",
            Doc::List(_) => "a list",
            Doc::Object(_) => "an object",
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Doc::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether a text in it, a name among them, has a property.
    pub fn any_text(&self, has: &dyn Fn(&str) -> bool) -> bool {
        match self {
            Doc::Text(text) => has(text),
            Doc::List(items) => items.iter().any(|item| item.any_text(has)),
            Doc::Object(fields) => fields.iter().any(|(name, value)| has(name) || value.any_text(has)),
            Doc::Null | Doc::Bool(_) | Doc::Number(_) => false,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Doc::Null)
    }
}

impl From<&str> for Doc {
    fn from(text: &str) -> Self {
        Doc::Text(text.to_owned())
    }
}

impl Serialize for Doc {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Doc::Null => serializer.serialize_unit(),
            Doc::Bool(value) => serializer.serialize_bool(*value),
            Doc::Number(number) => number.serialize(serializer),
            Doc::Text(text) => serializer.serialize_str(text),
            Doc::List(items) => serializer.collect_seq(items),
            Doc::Object(fields) => serializer.collect_map(fields),
        }
    }
}

impl<'de> Deserialize<'de> for Doc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DocVisitor)
    }
}

struct DocVisitor;

impl<'de> Visitor<'de> for DocVisitor {
    type Value = Doc;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Doc, E> {
        Ok(Doc::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Doc, E> {
        Ok(Doc::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Doc, E> {
        Ok(Doc::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Doc, E> {
        Ok(Doc::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Doc, E> {
        // JSON has no number that is not finite.
        Ok(Number::from_f64(value).map_or(Doc::Null, Doc::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Doc, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Doc, E> {
        Ok(Doc::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Doc, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Doc::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Doc, A::Error> {
        let mut fields = Fields::new();
        while let Some((name, value)) = entries.next_entry()? {
            fields.insert(name, value);
        }
        Ok(Doc::Object(fields))
    }
}
