//! A row as an object: its fields in their order, and the texts in them.

use crate::{error::RowFault, jinja::Value};

/// Parses a row.
///
/// # Errors
/// It is no JSON object.
pub(crate) fn parse(row: &str) -> Result<Value, RowFault> {
    let object: Value = serde_json::from_str(row).map_err(|error| RowFault::Json { message: error.to_string() })?;
    match object.as_dict() {
        Some(_) => Ok(object),
        None => Err(RowFault::NotAnObject { found: object.describe() }),
    }
}

/// The names of an object's fields, in order.
pub(crate) fn names(object: &Value) -> Vec<String> {
    let fields = object.as_dict().into_iter().flat_map(|fields| fields.iter());
    fields.filter_map(|(name, _)| name.as_str().map(str::to_owned)).collect()
}

/// The text in a field.
///
/// # Errors
/// There is no such field, or something else is in it.
pub(crate) fn text(object: &Value, name: &str, expected: &'static str) -> Result<String, RowFault> {
    match object.get(name) {
        Some(Value::Str(text)) => Ok(text.to_string()),
        Some(other) => Err(RowFault::FieldKind { field: name.to_owned(), expected: "a text", found: other.describe() }),
        None => Err(RowFault::NoField { field: name.to_owned(), expected, has: names(object) }),
    }
}

/// The text in a field, or an integer's digits, as CSV would have it.
///
/// # Errors
/// As [`text`].
pub(crate) fn text_or_integer(object: &Value, name: &str, expected: &'static str) -> Result<String, RowFault> {
    match object.get(name) {
        Some(Value::Int(integer)) => Ok(integer.to_string()),
        _ => text(object, name, expected),
    }
}
