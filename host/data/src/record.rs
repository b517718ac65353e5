//! A row as an object: its fields in their order, and the texts in them.

use crate::{
    doc::{Doc, Fields},
    error::RowFault,
};

/// Parses a row.
///
/// # Errors
/// It is no JSON object.
pub(crate) fn parse(row: &str) -> Result<Fields, RowFault> {
    match serde_json::from_str(row) {
        Ok(Doc::Object(fields)) => Ok(fields),
        Ok(other) => Err(RowFault::NotAnObject { found: other.kind() }),
        Err(error) => Err(RowFault::json(&error)),
    }
}

/// The names of an object's fields, in order.
pub(crate) fn names(fields: &Fields) -> Vec<String> {
    fields.keys().cloned().collect()
}

/// The text in a field.
///
/// # Errors
/// There is no such field, or something else is in it.
pub(crate) fn text(fields: &Fields, name: &str, expected: &'static str) -> Result<String, RowFault> {
    match fields.get(name) {
        Some(Doc::Text(text)) => Ok(text.clone()),
        Some(other) => Err(RowFault::FieldKind { field: name.to_owned(), expected: "a string", found: other.kind() }),
        None => Err(RowFault::NoField { field: name.to_owned(), expected, has: names(fields) }),
    }
}

/// The text in a field, or an integer's digits, as CSV would have it.
///
/// # Errors
/// As [`text`].
pub(crate) fn text_or_integer(fields: &Fields, name: &str, expected: &'static str) -> Result<String, RowFault> {
    match fields.get(name) {
        Some(Doc::Number(number)) if number.is_i64() || number.is_u64() => Ok(number.to_string()),
        _ => text(fields, name, expected),
    }
}
