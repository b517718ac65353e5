//! `value.name` and `value[item]`, as Jinja's sandbox resolves them: a field where there is no method, a method where there
//! is no field.

use super::{
    arguments::CallArguments,
    budget::Error,
    eval::Run,
    methods,
    object::Object,
    ops::{key, position, type_name, undefined},
    value::Value,
};
use crate::error::cut;

/// `value.name`: a method first, then an item.
pub(crate) fn attribute(run: &mut Run, value: &Value, name: &str) -> Result<Value, Error> {
    if let Some(found) = own(run, value, name)? {
        return Ok(found);
    }
    Ok(value.get(name).cloned().unwrap_or_else(|| missing(value, name)))
}

/// `value[item]`: an item first, then a method.
pub(crate) fn item(run: &mut Run, value: &Value, item: &Value) -> Result<Value, Error> {
    let found = match value {
        Value::Undefined(message) => return Err(undefined(message)),
        Value::List(list) | Value::Tuple(list) => {
            item.as_int().and_then(|index| position(list.items().len(), index)).map(|at| list.items()[at].clone())
        }
        Value::Dict(dict) => match item {
            Value::List(_) | Value::Dict(_) | Value::Object(_) => None,
            _ => dict.get_value(key(&mut run.budget, item)?).cloned(),
        },
        Value::Str(text) => match item.as_int() {
            Some(index) => {
                run.budget.read(text.len())?;
                let len = if text.is_ascii() { text.len() } else { text.chars().count() };
                position(len, index).and_then(|at| match text.is_ascii() {
                    true => Some(Value::from(&text[at..=at])),
                    false => text.chars().nth(at).map(|character| Value::from(&*character.encode_utf8(&mut [0; 4]))),
                })
            }
            None => None,
        },
        Value::Object(Object::Range(range)) => {
            item.as_int().and_then(|index| position(range.len, index)).and_then(|at| range.get(at)).map(Value::Int)
        }
        _ => None,
    };
    if let Some(found) = found {
        return Ok(found);
    }
    match item.as_str() {
        Some(name) => Ok(own(run, value, name)?.unwrap_or_else(|| missing(value, name))),
        None => {
            let name = match item.as_int() {
                Some(index) => index.to_string(),
                None => format!("of type {}", type_name(item)),
            };
            Ok(Value::Undefined(Some(format!("{} has no element {name}", object_name(value)).into())))
        }
    }
}

fn object_name(value: &Value) -> String {
    match value {
        Value::None => "None".to_owned(),
        _ => format!("{} object", type_name(value)),
    }
}

/// The message is not counted, so a long name is cut in it.
pub(crate) fn missing(value: &Value, name: &str) -> Value {
    Value::Undefined(Some(format!("'{}' has no attribute '{}'", object_name(value), cut(name)).into()))
}

/// What the value's type has under a name.
fn own(run: &mut Run, value: &Value, name: &str) -> Result<Option<Value>, Error> {
    match value {
        Value::Undefined(message) => Err(undefined(message)),
        Value::Object(Object::Namespace(number)) => Ok(run.namespaces[*number].get(name).cloned()),
        Value::Object(Object::Loop(number)) => of_loop(run, *number, name),
        Value::Object(Object::Cycler(number)) => Ok(match name {
            "current" => {
                let (items, at) = &run.cyclers[*number];
                items.get(*at).cloned()
            }
            "next" => Some(method(value, "next")),
            "reset" => Some(method(value, "reset")),
            _ => None,
        }),
        Value::Object(Object::Macro(function, _)) if name == "name" => Ok(Some(Value::Str(function.name.clone()))),
        _ => Ok(methods::attribute(value, name)),
    }
}

fn method(value: &Value, name: &'static str) -> Value {
    Value::Object(Object::Method(std::sync::Arc::new((value.clone(), name))))
}

fn of_loop(run: &mut Run, number: usize, name: &str) -> Result<Option<Value>, Error> {
    let state = &run.loops[number];
    let (index0, depth0) = (state.index0, state.depth0);
    let absent = |which: &str| Value::Undefined(Some(format!("there is no {which} item").into()));
    Ok(Some(match name {
        "index0" => Value::Int(index0),
        "index" => Value::Int(index0 + 1),
        "first" => Value::Bool(index0 == 0),
        "depth0" => depth0.into(),
        "depth" => (depth0 + 1).into(),
        "previtem" if index0 == 0 => absent("previous"),
        "previtem" => state.before.clone(),
        "nextitem" => run.peek(number)?.unwrap_or_else(|| absent("next")),
        "last" => Value::Bool(run.peek(number)?.is_none()),
        "length" => run.loop_length(number)?.into(),
        "revindex" => Value::Int(run.loop_length(number)? as i128 - index0),
        "revindex0" => Value::Int(run.loop_length(number)? as i128 - index0 - 1),
        "cycle" => method(&Value::Object(Object::Loop(number)), "cycle"),
        "changed" => method(&Value::Object(Object::Loop(number)), "changed"),
        _ => return Ok(None),
    }))
}

/// Calls a method of an object that only the rendering knows.
pub(crate) fn call(
    run: &mut Run,
    object: &Object,
    name: &'static str,
    arguments: CallArguments,
) -> Result<Value, Error> {
    let items = arguments.positional_only(name)?;
    match (object, name) {
        (Object::Loop(number), "cycle") => {
            let index = run.loops[*number].index0.max(0) as usize;
            match items.len() {
                0 => Err(Error::new("no items for cycling given")),
                len => Ok(items[index % len].clone()),
            }
        }
        (Object::Loop(number), "changed") => {
            let new = Value::tuple(items)?;
            let old = run.loops[*number].changed.take();
            let is_same = match &old {
                Some(old) => super::ops::equal(&mut run.budget, old, &new)?,
                None => false,
            };
            run.loops[*number].changed = Some(new);
            Ok(Value::Bool(!is_same))
        }
        (Object::Cycler(number), "next") => {
            let (items, at) = &mut run.cyclers[*number];
            let current = items.get(*at).cloned().unwrap_or_default();
            *at = (*at + 1) % items.len().max(1);
            Ok(current)
        }
        (Object::Cycler(number), _) => {
            run.cyclers[*number].1 = 0;
            Ok(Value::None)
        }
        _ => Err(Error::new(format!("{name} is not supported in chat templates"))),
    }
}
