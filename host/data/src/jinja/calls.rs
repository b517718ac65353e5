//! Calls of everything that is not a macro: Jinja's and transformers' functions, methods, loops.

use std::sync::Arc;

use indexmap::IndexMap;

use super::{
    arguments::CallArguments,
    budget::Error,
    eval::Run,
    format, lookup, methods,
    object::{Function, Object, Range},
    ops::{self, type_name, undefined},
    print,
    value::{Dict, Value},
};

/// Numbers that `range` may give, as in Jinja's sandbox.
const MAX_RANGE: i128 = 100_000;

pub(crate) fn call(run: &mut Run, callee: &Value, arguments: CallArguments) -> Result<Value, Error> {
    match callee {
        Value::Undefined(message) => Err(undefined(message)),
        Value::Object(Object::Function(function)) => call_function(run, *function, arguments),
        Value::Object(Object::Method(method)) => call_method(run, &method.0, method.1, arguments),
        Value::Object(Object::Loop(number)) => {
            let [items] = arguments.take("loop", 1, ["iterable"])?;
            run.recurse(*number, &items.unwrap_or_default())
        }
        Value::Object(Object::Joiner(number)) => {
            let [] = arguments.take("joiner", 0, [])?;
            let (separator, used) = &mut run.joiners[*number];
            Ok(if std::mem::replace(used, true) { separator.clone() } else { "".into() })
        }
        _ => Err(Error::new(format!("'{}' object is not callable", type_name(callee)))),
    }
}

fn call_method(run: &mut Run, receiver: &Value, name: &'static str, arguments: CallArguments) -> Result<Value, Error> {
    match (receiver, name) {
        (Value::Object(object @ (Object::Loop(_) | Object::Cycler(_))), _) => {
            lookup::call(run, object, name, arguments)
        }
        (Value::Str(separator), "join") => {
            let [items] = arguments.take(name, 1, [""])?;
            let items = run.collect(&items.unwrap_or_default())?;
            methods::join(&mut run.budget, separator, &items, false)
        }
        (Value::Str(text), "format") => str_format(run, text, &arguments, 0),
        (Value::Str(text), "format_map") => {
            let [mapping] = arguments.take(name, 1, [""])?;
            let named = match mapping {
                Some(Value::Dict(dict)) => {
                    dict.iter().filter_map(|(name, value)| Some((name.as_str()?.into(), value.clone()))).collect()
                }
                _ => return Err(Error::new("format_map() expects a mapping")),
            };
            str_format(run, text, &CallArguments { positional: Vec::new(), named }, 0)
        }
        _ => methods::call(&mut run.budget, receiver, name, arguments),
    }
}

/// `text.format(...)`. Fields within a specification go one level deep, as in Python.
fn str_format(run: &mut Run, text: &str, arguments: &CallArguments, level: usize) -> Result<Value, Error> {
    let mut out = String::new();
    let mut automatic = 0;
    format_into(run, &mut out, text, arguments, level, &mut automatic)?;
    run.budget.text(out)
}

fn format_into(
    run: &mut Run,
    out: &mut String,
    text: &str,
    arguments: &CallArguments,
    level: usize,
    automatic: &mut usize,
) -> Result<(), Error> {
    if level > 1 {
        return Err(Error::new("Max string recursion exceeded"));
    }
    for piece in format::pieces(&mut run.budget, text)? {
        run.budget.steps(1)?;
        match piece {
            format::Piece::Text(text) => {
                run.budget.take(text.len())?;
                out.push_str(text);
            }
            format::Piece::Field(field) => {
                let mut value = field_value(run, field.name, arguments, automatic)?;
                value = match field.conversion {
                    None => value,
                    Some('s') => Value::from(print::to_string(&mut run.budget, &value)?),
                    Some('r') => {
                        let mut text = String::new();
                        print::representation(&mut run.budget, &mut text, &value)?;
                        text.into()
                    }
                    Some(other) => return Err(Error::new(format!("Unknown conversion specifier '{other}'"))),
                };
                let mut spec = String::new();
                if !field.spec.is_empty() {
                    format_into(run, &mut spec, field.spec, arguments, level + 1, automatic)?;
                }
                out.push_str(&format::by_spec(&mut run.budget, &value, &spec)?);
            }
        }
    }
    Ok(())
}

/// `0`, `name`, `name.field`, `name[item]`, or nothing for the next argument.
fn field_value(run: &mut Run, name: &str, arguments: &CallArguments, automatic: &mut usize) -> Result<Value, Error> {
    let end = name.find(['.', '[']).unwrap_or(name.len());
    let (first, mut rest) = name.split_at(end);
    let mut value = if first.is_empty() || first.bytes().all(|byte| byte.is_ascii_digit()) {
        let at = if first.is_empty() {
            *automatic += 1;
            *automatic - 1
        } else {
            first.parse().unwrap_or(usize::MAX)
        };
        let value = arguments.positional.get(at).cloned();
        value.ok_or_else(|| Error::new(format!("Replacement index {at} out of range for positional args tuple")))?
    } else {
        let named = arguments.named.iter().find(|(name, _)| **name == *first);
        named.map(|(_, value)| value.clone()).ok_or_else(|| Error::new(format!("format: no argument '{first}'")))?
    };
    while !rest.is_empty() {
        run.budget.steps(1)?;
        if let Some(behind) = rest.strip_prefix('.') {
            let end = behind.find(['.', '[']).unwrap_or(behind.len());
            value = lookup::attribute(run, &value, &behind[..end])?;
            rest = &behind[end..];
        } else {
            let inner = rest.strip_prefix('[').ok_or_else(|| Error::new("Only '.' or '[' may follow ']'"))?;
            let end = inner.find(']').ok_or_else(|| Error::new("Missing ']' in format string"))?;
            let item = match inner[..end].parse::<i64>() {
                Ok(index) if !inner.starts_with(['-', '+']) => Value::from(index),
                _ => inner[..end].into(),
            };
            value = lookup::item(run, &value, &item)?;
            rest = &inner[end + 1..];
        }
    }
    Ok(value)
}

fn call_function(run: &mut Run, function: Function, arguments: CallArguments) -> Result<Value, Error> {
    match function {
        Function::Range => {
            let [a, b, c] = arguments.take("range", 1, ["", "", ""])?;
            let bound = |value: Option<Value>| value.as_ref().map(methods::integer).transpose();
            let [a, b, c] = [bound(a)?, bound(b)?, bound(c)?];
            let (start, stop) = match b {
                None => (0, a.unwrap_or(0)),
                Some(b) => (a.unwrap_or(0), b),
            };
            let step = c.unwrap_or(1);
            if step == 0 {
                return Err(Error::new("range() arg 3 must not be zero"));
            }
            let too_big = || Error::new(format!("Range too big. The sandbox blocks ranges larger than {MAX_RANGE}."));
            let distance = if step > 0 { stop.checked_sub(start) } else { start.checked_sub(stop) };
            let distance = distance.ok_or_else(too_big)?;
            let size = i128::try_from(step.unsigned_abs()).map_err(|_| too_big())?;
            let len = if distance > 0 { (distance - 1) / size + 1 } else { 0 };
            if len > MAX_RANGE {
                return Err(too_big());
            }
            Ok(Value::Object(Object::Range(Range { start, stop, step, len: len as usize })))
        }
        Function::Dict => Ok(Value::Dict(Arc::new(Dict::new(mapping(run, "dict", arguments)?)?))),
        Function::Namespace => {
            let map = mapping(run, "namespace", arguments)?;
            let mut fields = IndexMap::new();
            for (name, value) in map {
                let name = name.as_str().ok_or_else(|| Error::new("the fields of a namespace have texts as names"))?;
                fields.insert(name.into(), value);
            }
            run.budget.items(4)?;
            run.namespaces.push(fields);
            Ok(Value::Object(Object::Namespace(run.namespaces.len() - 1)))
        }
        Function::Cycler => {
            let items = arguments.positional_only("cycler")?;
            if items.is_empty() {
                return Err(Error::new("at least one item has to be provided"));
            }
            run.budget.items(items.len() + 1)?;
            run.cyclers.push((items, 0));
            Ok(Value::Object(Object::Cycler(run.cyclers.len() - 1)))
        }
        Function::Joiner => {
            let [separator] = arguments.take("joiner", 0, ["sep"])?;
            run.budget.items(2)?;
            run.joiners.push((separator.unwrap_or_else(|| ", ".into()), false));
            Ok(Value::Object(Object::Joiner(run.joiners.len() - 1)))
        }
        Function::Template => Err(Error::new("'TemplateReference' object is not callable")),
        Function::Lipsum => Err(Error::new("lipsum writes random text; it is not supported in chat templates")),
        Function::RaiseException => {
            let [message] = arguments.take("raise_exception", 1, ["message"])?;
            Err(Error::new(print::to_string(&mut run.budget, &message.unwrap_or_default())?))
        }
        Function::StrftimeNow => {
            let [format] = arguments.take("strftime_now", 1, ["format"])?;
            let format = format.unwrap_or_default();
            let format = methods::text_argument(&format)?;
            run.budget.take(16 * format.len())?;
            let width = format.bytes().any(|byte| byte.is_ascii_digit());
            if width {
                // A width such as %9999999999d makes as many characters.
                let is_plain = !format.split('%').skip(1).any(|directive| {
                    directive.trim_start_matches(['-', '_', '^', '#', '0']).starts_with(|c: char| c.is_ascii_digit())
                });
                if !is_plain {
                    return Err(Error::new("strftime_now: widths are not supported"));
                }
            }
            let text = jiff::fmt::strtime::format(format, run.now).map_err(|error| Error::new(error.to_string()))?;
            run.budget.text(text)
        }
    }
}

/// The items of `dict(...)`: of a mapping or of pairs, and of the keywords.
fn mapping(run: &mut Run, function: &str, arguments: CallArguments) -> Result<IndexMap<Value, Value>, Error> {
    let CallArguments { positional, named } = arguments;
    if positional.len() > 1 {
        return Err(Error::new(format!("{function} expected at most 1 argument, got {}", positional.len())));
    }
    let mut map = IndexMap::new();
    match positional.first() {
        None => {}
        Some(Value::Dict(dict)) => {
            run.budget.items(3 * dict.len())?;
            map.clone_from(dict.map());
        }
        Some(pairs) => {
            for pair in run.collect(pairs)? {
                let pair = run.collect(&pair)?;
                let [key, value] = <[Value; 2]>::try_from(pair).map_err(|pair| {
                    Error::new(format!("{function}: an item of length {}; 2 is required", pair.len()))
                })?;
                run.budget.items(3)?;
                map.insert(ops::key(&mut run.budget, &key)?.clone(), value);
            }
        }
    }
    run.budget.items(3 * named.len())?;
    map.extend(named.into_iter().map(|(name, value)| (Value::Str(name), value)));
    Ok(map)
}
