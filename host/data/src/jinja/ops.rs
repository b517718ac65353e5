//! Operators, as Python has them. What may take long or much is counted before it is done.

use std::{cmp::Ordering, sync::Arc};

use super::{
    ast::{Binary, Comparison},
    budget::{Budget, Error},
    format,
    object::{Object, View},
    print,
    value::{Value, float_as_int},
};

/// What Python calls the type of a value.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Undefined(_) => "Undefined",
        Value::None => "NoneType",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::Float(_) => "float",
        Value::Str(_) => "str",
        Value::Markup(_) => "Markup",
        Value::List(_) => "list",
        Value::Tuple(_) => "tuple",
        Value::Dict(_) => "dict",
        Value::Object(object) => match object {
            Object::Namespace(_) => "Namespace",
            Object::Loop(_) => "LoopContext",
            Object::Generator(_) => "generator",
            Object::Cycler(_) => "Cycler",
            Object::Joiner(_) => "Joiner",
            Object::Macro(..) => "Macro",
            Object::Function(_) => "function",
            Object::Method(_) => "builtin_function_or_method",
            Object::Range(_) => "range",
            Object::View(View::Keys, _) => "dict_keys",
            Object::View(View::Values, _) => "dict_values",
            Object::View(View::Items, _) => "dict_items",
        },
    }
}

/// The error of using what is undefined.
pub(crate) fn undefined(message: &Option<Arc<str>>) -> Error {
    Error::new(message.as_deref().unwrap_or("a value is undefined"))
}

fn unsupported(operator: &str, left: &Value, right: &Value) -> Error {
    Error::new(format!("unsupported operand types for {operator}: '{}' and '{}'", type_name(left), type_name(right)))
}

fn overflow() -> Error {
    Error::new("an integer of more than 128 bits")
}

pub(crate) fn binary(budget: &mut Budget, operator: Binary, left: &Value, right: &Value) -> Result<Value, Error> {
    if let (Value::Undefined(message), _) | (_, Value::Undefined(message)) = (left, right) {
        // A text formats what is undefined as nothing.
        if !(operator == Binary::Modulo && left.as_str().is_some()) {
            return Err(undefined(message));
        }
    }
    if let (Value::Markup(_), _) | (_, Value::Markup(_)) = (left, right) {
        return markup(budget, operator, left, right);
    }
    match operator {
        Binary::Add => add(budget, left, right),
        Binary::Multiply => multiply(budget, left, right),
        Binary::Modulo => match left {
            Value::Str(format) => format::percent(budget, format, right),
            _ => arithmetic(operator, left, right),
        },
        _ => arithmetic(operator, left, right),
    }
}

/// Text that is marked as safe escapes what is added to it.
fn markup(budget: &mut Budget, operator: Binary, left: &Value, right: &Value) -> Result<Value, Error> {
    let (Binary::Add, Some(a), Some(b)) = (operator, left.as_str(), right.as_str()) else {
        return Err(Error::new("this operator is not supported on text that `safe` or `escape` marked"));
    };
    let escaped = |value: &Value, text: &str| match value {
        Value::Markup(_) => text.to_owned(),
        _ => print::escape(text),
    };
    budget.take(6 * (a.len() + b.len()))?;
    Ok(Value::Markup((escaped(left, a) + &escaped(right, b)).into()))
}

fn add(budget: &mut Budget, left: &Value, right: &Value) -> Result<Value, Error> {
    match (left, right) {
        (Value::Str(a), Value::Str(b)) => {
            budget.take(a.len() + b.len())?;
            Ok(Value::Str([&**a, &**b].concat().into()))
        }
        (Value::List(a), Value::List(b)) => {
            budget.items(a.items().len() + b.items().len())?;
            Ok(Value::list([a.items(), b.items()].concat())?)
        }
        (Value::Tuple(a), Value::Tuple(b)) => {
            budget.items(a.items().len() + b.items().len())?;
            Ok(Value::tuple([a.items(), b.items()].concat())?)
        }
        (Value::Str(_), other) => {
            Err(Error::new(format!("can only concatenate str (not \"{}\") to str", type_name(other))))
        }
        (Value::List(_), other) => {
            Err(Error::new(format!("can only concatenate list (not \"{}\") to list", type_name(other))))
        }
        _ => arithmetic(Binary::Add, left, right),
    }
}

fn multiply(budget: &mut Budget, left: &Value, right: &Value) -> Result<Value, Error> {
    let (sequence, count) = match (left, right) {
        (Value::Str(_) | Value::List(_) | Value::Tuple(_), other) => (left, other.as_int()),
        (other, Value::Str(_) | Value::List(_) | Value::Tuple(_)) => (right, other.as_int()),
        _ => return arithmetic(Binary::Multiply, left, right),
    };
    let Some(count) = count else {
        let other = if std::ptr::eq(sequence, left) { right } else { left };
        return Err(Error::new(format!("can't multiply a sequence by a '{}'", type_name(other))));
    };
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    match sequence {
        Value::List(list) | Value::Tuple(list) => {
            budget.items(list.items().len().saturating_mul(count))?;
            let count = if list.items().is_empty() { 0 } else { count };
            let items = (0..count).flat_map(|_| list.items().iter().cloned()).collect();
            Ok(if matches!(sequence, Value::List(_)) { Value::list(items)? } else { Value::tuple(items)? })
        }
        _ => {
            let text = sequence.as_str().unwrap_or_default();
            budget.take(text.len().saturating_mul(count))?;
            Ok(if text.is_empty() { "".into() } else { text.repeat(count).into() })
        }
    }
}

fn arithmetic(operator: Binary, left: &Value, right: &Value) -> Result<Value, Error> {
    let sign = match operator {
        Binary::Add => "+",
        Binary::Subtract => "-",
        Binary::Multiply => "*",
        Binary::Divide => "/",
        Binary::FloorDivide => "//",
        Binary::Modulo => "%",
        Binary::Power => "**",
    };
    let (Some(x), Some(y)) = (left.as_float(), right.as_float()) else { return Err(unsupported(sign, left, right)) };
    let by_zero = || Error::new("division by zero");
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        let integer = match operator {
            Binary::Add => a.checked_add(b),
            Binary::Subtract => a.checked_sub(b),
            Binary::Multiply => a.checked_mul(b),
            Binary::FloorDivide | Binary::Modulo | Binary::Divide if b == 0 => return Err(by_zero()),
            Binary::Divide => return Ok(Value::Float(x / y)),
            Binary::FloorDivide => a.checked_div_euclid(b).and_then(|quotient| {
                // Euclid's remainder is never negative; Python's has the divisor's sign.
                if b < 0 && a.rem_euclid(b) != 0 { quotient.checked_sub(1) } else { Some(quotient) }
            }),
            Binary::Modulo => a.checked_rem_euclid(b).map(|rest| if b < 0 && rest != 0 { rest + b } else { rest }),
            Binary::Power if b < 0 => return power(x, y),
            Binary::Power => match a {
                0 | 1 => Some(if b == 0 { 1 } else { a }),
                -1 => Some(if b % 2 == 0 { 1 } else { -1 }),
                _ => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
            },
        };
        return integer.map(Value::Int).ok_or_else(overflow);
    }
    Ok(Value::Float(match operator {
        Binary::Add => x + y,
        Binary::Subtract => x - y,
        Binary::Multiply => x * y,
        Binary::Divide | Binary::FloorDivide | Binary::Modulo if y == 0.0 => return Err(by_zero()),
        Binary::Divide => x / y,
        Binary::FloorDivide => floor_divide(x, y).0,
        Binary::Modulo => floor_divide(x, y).1,
        Binary::Power => return power(x, y),
    }))
}

/// CPython's `float_divmod`.
fn floor_divide(x: f64, y: f64) -> (f64, f64) {
    let mut rest = x % y;
    let mut quotient = (x - rest) / y;
    if rest == 0.0 {
        rest = 0.0_f64.copysign(y);
    } else if (y < 0.0) != (rest < 0.0) {
        rest += y;
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return (0.0_f64.copysign(x / y), rest);
    }
    let floor = quotient.floor();
    (if quotient - floor > 0.5 { floor + 1.0 } else { floor }, rest)
}

fn power(x: f64, y: f64) -> Result<Value, Error> {
    if x == 0.0 && y < 0.0 {
        return Err(Error::new("0.0 cannot be raised to a negative power"));
    }
    if x < 0.0 && y.fract() != 0.0 && y.is_finite() {
        return Err(Error::new("complex numbers are not supported"));
    }
    let power = x.powf(y);
    if power.is_infinite() && x.is_finite() && y.is_finite() {
        return Err(Error::new("the result of ** is too large for a float"));
    }
    Ok(Value::Float(power))
}

pub(crate) fn negate(value: &Value, is_negative: bool) -> Result<Value, Error> {
    match value {
        Value::Float(number) => Ok(Value::Float(if is_negative { -number } else { *number })),
        Value::Undefined(message) => Err(undefined(message)),
        _ => {
            let number = value.as_int().ok_or_else(|| {
                let sign = if is_negative { '-' } else { '+' };
                Error::new(format!("bad operand type for unary {sign}: '{}'", type_name(value)))
            })?;
            let number = if is_negative { number.checked_neg() } else { Some(number) };
            number.map(Value::Int).ok_or_else(overflow)
        }
    }
}

pub(crate) fn compare(budget: &mut Budget, comparison: Comparison, left: &Value, right: &Value) -> Result<bool, Error> {
    Ok(match comparison {
        Comparison::Equal => equal(budget, left, right)?,
        Comparison::NotEqual => !equal(budget, left, right)?,
        Comparison::In => contains(budget, right, left)?,
        Comparison::NotIn => !contains(budget, right, left)?,
        Comparison::Less | Comparison::LessEqual | Comparison::Greater | Comparison::GreaterEqual => {
            let order = order(budget, left, right, comparison)?;
            match comparison {
                Comparison::Less => order == Some(Ordering::Less),
                Comparison::LessEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                Comparison::Greater => order == Some(Ordering::Greater),
                _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            }
        }
    })
}

/// `left == right`; each item that is compared counts as a step.
pub(crate) fn equal(budget: &mut Budget, left: &Value, right: &Value) -> Result<bool, Error> {
    budget.steps(1)?;
    match (left, right) {
        (Value::Str(a) | Value::Markup(a), Value::Str(b) | Value::Markup(b)) => {
            budget.read(a.len().min(b.len()))?;
            Ok(a == b)
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            if a.items().len() != b.items().len() {
                return Ok(false);
            }
            for (a, b) in a.items().iter().zip(b.items()) {
                if !equal(budget, a, b)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Value::Dict(a), Value::Dict(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for (key, value) in a.iter() {
                count_tree(budget, key)?;
                match b.get_value(key) {
                    Some(other) if equal(budget, value, other)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (Value::List(_) | Value::Tuple(_) | Value::Dict(_), _) => Ok(false),
        (Value::Object(Object::View(View::Keys, a)), Value::Object(Object::View(View::Keys, _))) => {
            budget.steps(a.len())?;
            Ok(left == right)
        }
        (Value::Object(Object::View(View::Items, _)), Value::Object(Object::View(View::Items, _))) => {
            Err(Error::new("== of items() is not supported; compare the mappings"))
        }
        _ => Ok(left == right),
    }
}

/// Counts every part of a value, each where it stands: before it is hashed, say.
pub(crate) fn count_tree(budget: &mut Budget, value: &Value) -> Result<(), Error> {
    budget.steps(1)?;
    match value {
        Value::Str(text) | Value::Markup(text) => budget.read(text.len()),
        Value::List(list) | Value::Tuple(list) => list.items().iter().try_for_each(|item| count_tree(budget, item)),
        Value::Dict(dict) => dict.iter().try_for_each(|(key, value)| {
            count_tree(budget, key)?;
            count_tree(budget, value)
        }),
        _ => Ok(()),
    }
}

/// A key that can be looked up; its hashing is counted.
pub(crate) fn key<'a>(budget: &mut Budget, value: &'a Value) -> Result<&'a Value, Error> {
    // Counted first: a tuple may hold the same part in very many places.
    count_tree(budget, value)?;
    if !value.is_hashable() {
        return Err(Error::new(format!("unhashable type: '{}'", type_name(value))));
    }
    Ok(value)
}

/// `item in container`.
pub(crate) fn contains(budget: &mut Budget, container: &Value, item: &Value) -> Result<bool, Error> {
    match container {
        Value::Str(text) | Value::Markup(text) => match item.as_str() {
            Some(part) => {
                budget.read(text.len() + part.len())?;
                Ok(text.contains(part))
            }
            None => Err(Error::new(format!("'in <string>' requires string as left operand, not {}", type_name(item)))),
        },
        Value::List(list) | Value::Tuple(list) => {
            for other in list.items() {
                if equal(budget, other, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Dict(dict) | Value::Object(Object::View(View::Keys, dict)) => {
            Ok(dict.get_value(key(budget, item)?).is_some())
        }
        Value::Object(Object::View(view, dict)) => {
            for (name, value) in dict.iter() {
                let is_there = match view {
                    View::Values => equal(budget, value, item)?,
                    _ => {
                        let pair = Value::tuple(vec![name.clone(), value.clone()])?;
                        equal(budget, &pair, item)?
                    }
                };
                if is_there {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Object(Object::Range(range)) => {
            let number = match item {
                Value::Float(number) => float_as_int(*number),
                _ => item.as_int(),
            };
            let distance = number.and_then(|number| number.checked_sub(range.start));
            Ok(distance.is_some_and(|distance| {
                distance.checked_rem(range.step) == Some(0)
                    && distance.checked_div(range.step).is_some_and(|at| (0..range.len as i128).contains(&at))
            }))
        }
        // Nothing is in what is undefined.
        Value::Undefined(_) => Ok(false),
        _ => Err(Error::new(format!("argument of type '{}' is not iterable", type_name(container)))),
    }
}

/// How two values compare; `None` where a NaN is among them.
pub(crate) fn order(
    budget: &mut Budget,
    left: &Value,
    right: &Value,
    comparison: Comparison,
) -> Result<Option<Ordering>, Error> {
    budget.steps(1)?;
    match (left, right) {
        (Value::Undefined(message), _) | (_, Value::Undefined(message)) => Err(undefined(message)),
        (Value::Str(a) | Value::Markup(a), Value::Str(b) | Value::Markup(b)) => {
            budget.read(a.len().min(b.len()))?;
            Ok(Some(a.cmp(b)))
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            for (a, b) in a.items().iter().zip(b.items()) {
                if !equal(budget, a, b)? {
                    return order(budget, a, b, comparison);
                }
            }
            Ok(Some(a.items().len().cmp(&b.items().len())))
        }
        _ => {
            if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
                return Ok(Some(a.cmp(&b)));
            }
            match (left.as_float(), right.as_float()) {
                (Some(a), Some(b)) => Ok(a.partial_cmp(&b)),
                _ => {
                    let sign = match comparison {
                        Comparison::LessEqual => "<=",
                        Comparison::Greater => ">",
                        Comparison::GreaterEqual => ">=",
                        _ => "<",
                    };
                    Err(Error::new(format!(
                        "'{sign}' not supported between instances of '{}' and '{}'",
                        type_name(left),
                        type_name(right)
                    )))
                }
            }
        }
    }
}

/// Sorts as Python's `sorted`: stable, by `<` alone. A merge sort of its own, because the standard library's panics on what has no
/// order, and cannot stop at a comparison that fails.
///
/// # Errors
/// Two items that cannot be compared, or that have no order: where a NaN ends up depends on how CPython sorts.
pub(crate) fn sort<T>(budget: &mut Budget, items: Vec<(Value, T)>, is_reverse: bool) -> Result<Vec<(Value, T)>, Error> {
    let mut is_before = |a: usize, b: usize| -> Result<bool, Error> {
        let order = order(budget, &items[a].0, &items[b].0, Comparison::Less)?;
        let order = order.ok_or_else(|| Error::new("sorting nan is not supported: it has no order"))?;
        Ok(order == if is_reverse { Ordering::Greater } else { Ordering::Less })
    };
    let len = items.len();
    let (mut sorted, mut merged): (Vec<usize>, Vec<usize>) = ((0..len).collect(), Vec::with_capacity(len));
    let mut width = 1;
    while width < len {
        merged.clear();
        for run in sorted.chunks(2 * width) {
            let (mut left, mut right) = run.split_at(width.min(run.len()));
            // What is in order already takes one comparison.
            if let ([.., last], [second, ..]) = (left, right)
                && !is_before(*second, *last)?
            {
                merged.extend_from_slice(run);
                continue;
            }
            while let ([first, ..], [second, ..]) = (left, right) {
                if is_before(*second, *first)? {
                    merged.push(*second);
                    right = &right[1..];
                } else {
                    merged.push(*first);
                    left = &left[1..];
                }
            }
            merged.extend_from_slice(left);
            merged.extend_from_slice(right);
        }
        std::mem::swap(&mut sorted, &mut merged);
        width *= 2;
    }
    let mut items: Vec<Option<(Value, T)>> = items.into_iter().map(Some).collect();
    Ok(sorted.into_iter().filter_map(|at| items[at].take()).collect())
}

/// `value[start:stop:step]`.
pub(crate) fn slice(budget: &mut Budget, value: &Value, bounds: [Value; 3]) -> Result<Value, Error> {
    let bound = |value: &Value| match value {
        Value::None => Ok(None),
        Value::Undefined(message) => Err(undefined(message)),
        _ => match value.as_int() {
            Some(number) => Ok(Some(number)),
            None => Err(Error::new("slice indices must be integers or None")),
        },
    };
    let [start, stop, step] = [bound(&bounds[0])?, bound(&bounds[1])?, bound(&bounds[2])?];
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(Error::new("slice step cannot be zero"));
    }
    match value {
        Value::Str(text) => {
            budget.read(text.len())?;
            if text.is_ascii() {
                let bytes: Vec<u8> = indices(text.len(), start, stop, step).map(|at| text.as_bytes()[at]).collect();
                return budget.text(String::from_utf8(bytes).expect("ASCII is UTF-8"));
            }
            budget.take(4 * text.len())?;
            let characters: Vec<char> = text.chars().collect();
            budget.text(indices(characters.len(), start, stop, step).map(|at| characters[at]).collect::<String>())
        }
        Value::List(list) | Value::Tuple(list) => {
            let indices = indices(list.items().len(), start, stop, step);
            budget.items(indices.len())?;
            let items = indices.map(|at| list.items()[at].clone()).collect();
            Ok(if matches!(value, Value::List(_)) { Value::list(items)? } else { Value::tuple(items)? })
        }
        Value::Undefined(message) => Err(undefined(message)),
        _ => Err(Error::new(format!("'{}' object cannot be sliced", type_name(value)))),
    }
}

/// The positions that a slice takes, as CPython's `PySlice_AdjustIndices` has them.
fn indices(
    len: usize,
    start: Option<i128>,
    stop: Option<i128>,
    step: i128,
) -> impl ExactSizeIterator<Item = usize> + use<> {
    let len = len as i128;
    let clip = |bound: Option<i128>, default: i128| {
        let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
        match bound {
            None => default,
            Some(bound) => (if bound < 0 { bound.saturating_add(len) } else { bound }).clamp(low, high),
        }
    };
    let (start, stop) =
        if step > 0 { (clip(start, 0), clip(stop, len)) } else { (clip(start, len - 1), clip(stop, -1)) };
    let distance = if step > 0 { stop - start } else { start - stop };
    let size = step.unsigned_abs() as i128;
    // A step beyond the sequence takes one item; the sum cannot overflow below.
    let size = if size <= 0 || size > len + 1 { len + 1 } else { size };
    let count = if distance > 0 { (distance - 1) / size + 1 } else { 0 };
    let step = if step > 0 { size } else { -size };
    (0..count as usize).map(move |index| (start + step * index as i128) as usize)
}

/// A position in a sequence of this length; negative ones count from its end.
pub(crate) fn position(len: usize, index: i128) -> Option<usize> {
    let index = if index < 0 { index.checked_add(len as i128)? } else { index };
    usize::try_from(index).ok().filter(|index| *index < len)
}
