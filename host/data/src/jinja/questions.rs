//! Jinja's tests: `value is defined` and the others.

use super::{
    arguments::CallArguments,
    ast::{Binary, Comparison},
    budget::Error,
    eval::Run,
    filters,
    iterate::Items,
    object::Object,
    ops, print,
    value::Value,
};

const NAMES: [&str; 39] = [
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    ">",
    "gt",
    "greaterthan",
    "ge",
    ">=",
    "<",
    "lt",
    "lessthan",
    "<=",
    "le",
];

/// Whether a test says yes.
pub(crate) fn ask(run: &mut Run, name: &str, value: &Value, arguments: CallArguments) -> Result<bool, Error> {
    let comparison = match name {
        "==" | "eq" | "equalto" => Some(Comparison::Equal),
        "!=" | "ne" => Some(Comparison::NotEqual),
        ">" | "gt" | "greaterthan" => Some(Comparison::Greater),
        ">=" | "ge" => Some(Comparison::GreaterEqual),
        "<" | "lt" | "lessthan" => Some(Comparison::Less),
        "<=" | "le" => Some(Comparison::LessEqual),
        "in" => Some(Comparison::In),
        _ => None,
    };
    if let Some(comparison) = comparison {
        let [other] = arguments.take(name, 1, ["seq"])?;
        return ops::compare(&mut run.budget, comparison, value, &other.unwrap_or_default());
    }
    match name {
        "divisibleby" => {
            let [number] = arguments.take(name, 1, ["num"])?;
            let rest = ops::binary(&mut run.budget, Binary::Modulo, value, &number.unwrap_or_default())?;
            return ops::equal(&mut run.budget, &rest, &Value::Int(0));
        }
        "sameas" => {
            let [other] = arguments.take(name, 1, ["other"])?;
            return same(value, &other.unwrap_or_default());
        }
        _ => {}
    }
    if !NAMES.contains(&name) {
        return Err(Error::new(format!("No test named '{name}'.")));
    }
    let [] = arguments.take(name, 0, [])?;
    Ok(match name {
        "odd" | "even" => {
            let rest = ops::binary(&mut run.budget, Binary::Modulo, value, &Value::Int(2))?;
            ops::equal(&mut run.budget, &rest, &Value::Int(i128::from(name == "odd")))?
        }
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "filter" => known(run, value, &filters::NAMES)?,
        "test" => known(run, value, &NAMES)?,
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "false" => matches!(value, Value::Bool(false)),
        "true" => matches!(value, Value::Bool(true)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
        "string" => value.as_str().is_some(),
        "mapping" => matches!(value, Value::Dict(_)),
        "escaped" => matches!(value, Value::Markup(_)),
        "callable" => matches!(
            value,
            Value::Undefined(_)
                | Value::Object(
                    Object::Macro(..) | Object::Function(_) | Object::Method(_) | Object::Loop(_) | Object::Joiner(_)
                )
        ),
        // What has a length and can be indexed; Python asks no more, so that what is undefined is one too.
        "sequence" => matches!(
            value,
            Value::Undefined(_)
                | Value::Str(_)
                | Value::Markup(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Object(Object::Range(_))
        ),
        "iterable" => {
            let is_text = value.as_str().is_some();
            is_text || Items::of(&mut run.budget, value).is_ok() || matches!(value, Value::Object(Object::Loop(_)))
        }
        _ => {
            let text = print::to_string(&mut run.budget, value)?;
            let has = |test: fn(char) -> bool| text.chars().any(test);
            let is_title = has(super::unicode::is_titlecase);
            match name {
                "lower" => has(char::is_lowercase) && !has(char::is_uppercase) && !is_title,
                _ => has(char::is_uppercase) && !has(char::is_lowercase) && !is_title,
            }
        }
    })
}

fn known(run: &mut Run, value: &Value, names: &[&str]) -> Result<bool, Error> {
    // Python hashes objects by their identity, but for views of a mapping.
    if !matches!(value, Value::Object(_)) || matches!(value, Value::Object(Object::View(..))) {
        ops::key(&mut run.budget, value)?;
    }
    Ok(value.as_str().is_some_and(|name| names.contains(&name)))
}

/// Identity. Only of the values of which Python has one each is it certain; of others CPython's answer depends on how they
/// came to be.
fn same(value: &Value, other: &Value) -> Result<bool, Error> {
    let is_single = |value: &Value| matches!(value, Value::None | Value::Bool(_));
    match (value, other) {
        (Value::None, Value::None) => Ok(true),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Object(a), Value::Object(b)) => Ok(a == b),
        _ if is_single(value) || is_single(other) => Ok(false),
        _ if std::mem::discriminant(value) != std::mem::discriminant(other) => Ok(false),
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => Ok(std::sync::Arc::ptr_eq(a, b)),
        (Value::Dict(a), Value::Dict(b)) => Ok(std::sync::Arc::ptr_eq(a, b)),
        _ => Err(Error::new("sameas of numbers and texts is not supported; compare with ==")),
    }
}
