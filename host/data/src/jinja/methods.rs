//! The methods of texts, lists, tuples and mappings that Python has, but for those that change a value.

use std::sync::Arc;

use super::{
    arguments::CallArguments,
    budget::{Budget, Error},
    object::{Object, View},
    ops::{equal, key, type_name, undefined},
    print,
    unicode::{self, is_space},
    value::Value,
};

const TEXT: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const LIST: [&str; 3] = ["copy", "count", "index"];
const TUPLE: [&str; 2] = ["count", "index"];
const DICT: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];
const INT: [&str; 11] = [
    "as_integer_ratio",
    "bit_count",
    "bit_length",
    "conjugate",
    "denominator",
    "from_bytes",
    "imag",
    "numerator",
    "real",
    "to_bytes",
    "is_integer",
];
const FLOAT: [&str; 7] = ["as_integer_ratio", "conjugate", "fromhex", "hex", "imag", "is_integer", "real"];
const VIEW: [&str; 2] = ["isdisjoint", "mapping"];
const RANGE: [&str; 5] = ["count", "index", "start", "step", "stop"];
/// What changes a list or a mapping; the sandbox makes them undefined.
const LIST_UNSAFE: [&str; 8] = ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];
const DICT_UNSAFE: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];

/// What `value.name` finds on a value's own type, before its items are looked at.
pub(crate) fn attribute(value: &Value, name: &str) -> Option<Value> {
    let (methods, unsafe_methods): (&[&'static str], &[&str]) = match value {
        Value::Str(_) | Value::Markup(_) => (&TEXT, &[]),
        Value::List(_) => (&LIST, &LIST_UNSAFE),
        Value::Tuple(_) => (&TUPLE, &[]),
        Value::Dict(_) => (&DICT, &DICT_UNSAFE),
        Value::Int(_) | Value::Bool(_) => (&INT, &[]),
        Value::Float(_) => (&FLOAT, &[]),
        Value::Object(Object::View(..)) => (&VIEW, &[]),
        Value::Object(Object::Range(_)) => (&RANGE, &[]),
        _ => return None,
    };
    let is_internal = name.starts_with("__") && name.ends_with("__");
    if unsafe_methods.contains(&name) || (is_internal && INTERNAL.contains(&name)) {
        let message = format!("access to attribute '{name}' of '{}' object is unsafe.", type_name(value));
        return Some(Value::Undefined(Some(message.into())));
    }
    let name = *methods.iter().find(|method| **method == name)?;
    Some(Value::Object(Object::Method(Arc::new((value.clone(), name)))))
}

/// Names that every Python object has.
const INTERNAL: [&str; 8] =
    ["__class__", "__doc__", "__init__", "__eq__", "__len__", "__getattribute__", "__hash__", "__str__"];

fn unsupported(receiver: &Value, name: &str) -> Error {
    Error::new(format!("{}.{name} is not supported in chat templates", type_name(receiver)))
}

/// Calls a method; `format` is the caller's, which can look up fields.
pub(crate) fn call(
    budget: &mut Budget,
    receiver: &Value,
    name: &'static str,
    arguments: CallArguments,
) -> Result<Value, Error> {
    budget.steps(1)?;
    for argument in &arguments.positional {
        budget.read(argument.as_str().map_or(0, str::len))?;
    }
    match receiver {
        Value::Str(text) => {
            budget.read(text.len())?;
            match text_test(text, name) {
                Some(answer) => {
                    let [] = arguments.take(name, 0, [])?;
                    Ok(Value::Bool(answer?))
                }
                None => text_method(budget, receiver, text, name, arguments),
            }
        }
        Value::Markup(_) => Err(Error::new(format!("{name} of text that `safe` or `escape` marked is not supported"))),
        Value::List(list) | Value::Tuple(list) => match name {
            "copy" => {
                let [] = arguments.take(name, 0, [])?;
                Ok(receiver.clone())
            }
            "count" => {
                let [item] = arguments.take(name, 1, [""])?;
                let item = item.unwrap_or_default();
                let mut count = 0;
                for other in list.items() {
                    count += usize::from(equal(budget, other, &item)?);
                }
                Ok(count.into())
            }
            _ => {
                let [item, start, stop] = arguments.take(name, 1, ["", "", ""])?;
                let len = list.items().len() as i128;
                let clip = |bound: Option<Value>, default: i128| match bound {
                    None => Ok::<i128, Error>(default),
                    Some(bound) => {
                        let bound = integer(&bound)?;
                        Ok(if bound < 0 { bound.saturating_add(len).max(0) } else { bound.min(len) })
                    }
                };
                let (start, stop) = (clip(start, 0)? as usize, clip(stop, len)? as usize);
                let item = item.unwrap_or_default();
                for (at, other) in list.items().iter().enumerate().take(stop).skip(start) {
                    if equal(budget, other, &item)? {
                        return Ok(at.into());
                    }
                }
                Err(Error::new(format!("{name}: the item is not in the {}", type_name(receiver))))
            }
        },
        Value::Dict(dict) => match name {
            "get" => {
                let [name, default] = arguments.take("get", 1, ["", ""])?;
                let name = name.unwrap_or_default();
                let found = dict.get_value(key(budget, &name)?).cloned();
                Ok(found.or(default).unwrap_or(Value::None))
            }
            "copy" => {
                let [] = arguments.take(name, 0, [])?;
                Ok(receiver.clone())
            }
            "items" | "keys" | "values" => {
                let [] = arguments.take(name, 0, [])?;
                let view = match name {
                    "items" => View::Items,
                    "keys" => View::Keys,
                    _ => View::Values,
                };
                Ok(Value::Object(Object::View(view, dict.clone())))
            }
            _ => Err(unsupported(receiver, name)),
        },
        _ => Err(unsupported(receiver, name)),
    }
}

/// An integer argument.
pub(crate) fn integer(value: &Value) -> Result<i128, Error> {
    match value {
        Value::Undefined(message) => Err(undefined(message)),
        _ => value
            .as_int()
            .ok_or_else(|| Error::new(format!("'{}' object cannot be interpreted as an integer", type_name(value)))),
    }
}

/// A text argument.
pub(crate) fn text_argument(value: &Value) -> Result<&str, Error> {
    match value {
        Value::Undefined(message) => Err(undefined(message)),
        Value::Markup(_) => Err(Error::new("text that `safe` or `escape` marked is not supported here")),
        _ => value.as_str().ok_or_else(|| Error::new(format!("expected a str, not {}", type_name(value)))),
    }
}

/// The questions that are asked of every character.
fn text_test(text: &str, name: &str) -> Option<Result<bool, Error>> {
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    Some(Ok(match name {
        "isalnum" => all(unicode::is_alphanumeric),
        "isalpha" => all(unicode::is_alphabetic),
        "isascii" => text.is_ascii(),
        "isdecimal" => all(unicode::is_decimal),
        "isdigit" => all(unicode::is_digit),
        "isspace" => all(is_space),
        "isprintable" => text.chars().all(unicode::is_printable),
        "isidentifier" => {
            let is_start = |c: char| c == '_' || unicode::is_alphabetic(c);
            text.chars().next().is_some_and(is_start) && text.chars().all(unicode::is_word)
        }
        "isnumeric" => {
            if text.chars().any(unicode::may_be_numeric_letter) {
                return Some(Err(Error::new("isnumeric of letters without case is not supported")));
            }
            all(unicode::is_alphanumeric) && !text.chars().any(unicode::is_alphabetic)
        }
        "islower" => {
            text.chars().any(char::is_lowercase) && !text.chars().any(|c| c.is_uppercase() || unicode::is_titlecase(c))
        }
        "isupper" => {
            text.chars().any(char::is_uppercase) && !text.chars().any(|c| c.is_lowercase() || unicode::is_titlecase(c))
        }
        "istitle" => is_title(text),
        _ => return None,
    }))
}

fn is_title(text: &str) -> bool {
    let (mut has_cased, mut follows_cased) = (false, false);
    for character in text.chars() {
        let starts = character.is_uppercase() || unicode::is_titlecase(character);
        if starts == follows_cased && unicode::is_cased(character) {
            return false;
        }
        follows_cased = unicode::is_cased(character);
        has_cased |= follows_cased;
    }
    has_cased
}

fn text_method(
    budget: &mut Budget,
    receiver: &Value,
    text: &Arc<str>,
    name: &'static str,
    arguments: CallArguments,
) -> Result<Value, Error> {
    match name {
        "upper" | "lower" | "capitalize" | "title" | "swapcase" | "casefold" => {
            let [] = arguments.take(name, 0, [])?;
            budget.take(2 * text.len())?;
            budget.text(match name {
                "upper" => text.to_uppercase(),
                "lower" => text.to_lowercase(),
                "capitalize" => unicode::capitalize(text)?,
                "title" => unicode::title(text)?,
                "swapcase" => unicode::swap_case(text)?,
                _ => unicode::case_fold(text)?,
            })
        }
        "strip" | "lstrip" | "rstrip" => {
            let [characters] = arguments.take(name, 0, [""])?;
            let characters = characters.filter(|characters| !matches!(characters, Value::None));
            let characters = characters.as_ref().map(text_argument).transpose()?;
            count_strip(budget, text, characters)?;
            budget.text(stripped(text, characters, name != "rstrip", name != "lstrip"))
        }
        "center" | "ljust" | "rjust" => {
            let [width, fill] = arguments.take(name, 1, ["", ""])?;
            let width = integer(&width.unwrap_or_default())?;
            let fill = fill.as_ref().map(text_argument).transpose()?.unwrap_or(" ");
            let mut characters = fill.chars();
            let (Some(fill), None) = (characters.next(), characters.next()) else {
                return Err(Error::new("the fill character must be exactly one character long"));
            };
            let missing = budget_for(budget, text, width, fill)?;
            budget.text(justified(missing, text, name, fill))
        }
        "zfill" => {
            let [width] = arguments.take(name, 1, [""])?;
            let missing = budget_for(budget, text, integer(&width.unwrap_or_default())?, '0')?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            budget.text(format!("{sign}{}{digits}", "0".repeat(missing)))
        }
        "replace" => {
            let [old, new, count] = arguments.take(name, 2, ["", "", ""])?;
            let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
            let count = count.as_ref().map(integer).transpose()?.unwrap_or(-1);
            replace(budget, text, text_argument(&old)?, text_argument(&new)?, count)
        }
        "removeprefix" | "removesuffix" => {
            let [part] = arguments.take(name, 1, [""])?;
            let part = part.unwrap_or_default();
            let part = text_argument(&part)?;
            let rest = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            budget.text(rest.unwrap_or(text))
        }
        "startswith" | "endswith" => {
            let [parts, start, end] = arguments.take(name, 1, ["", "", ""])?;
            let Some((inner, _)) = window(text, start, end)? else { return Ok(Value::Bool(false)) };
            let matches = |part: &Value| -> Result<bool, Error> {
                let part = text_argument(part)?;
                Ok(if name == "startswith" { inner.starts_with(part) } else { inner.ends_with(part) })
            };
            match parts.unwrap_or_default() {
                Value::Tuple(parts) => {
                    for part in parts.items() {
                        budget.steps(1)?;
                        budget.read(part.as_str().map_or(0, str::len))?;
                        if matches(part)? {
                            return Ok(Value::Bool(true));
                        }
                    }
                    Ok(Value::Bool(false))
                }
                part => Ok(Value::Bool(matches(&part)?)),
            }
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let [part, start, end] = arguments.take(name, 1, ["", "", ""])?;
            let part = part.unwrap_or_default();
            let part = text_argument(&part)?;
            let window = window(text, start, end)?;
            if name == "count" {
                return Ok(window.map_or(0, |(inner, _)| inner.matches(part).count()).into());
            }
            let found = window.and_then(|(inner, offset)| {
                let at = if name.starts_with('r') { inner.rfind(part) } else { inner.find(part) };
                at.map(|at| offset + inner[..at].chars().count())
            });
            match found {
                Some(at) => Ok(at.into()),
                None if name.ends_with("find") => Ok(Value::Int(-1)),
                None => Err(Error::new("substring not found")),
            }
        }
        "split" | "rsplit" => {
            let [separator, most] = arguments.take(name, 0, ["sep", "maxsplit"])?;
            let most = most.as_ref().map(integer).transpose()?.unwrap_or(-1);
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let separator = separator.filter(|separator| !matches!(separator, Value::None));
            let separator = separator.as_ref().map(text_argument).transpose()?;
            if separator == Some("") {
                return Err(Error::new("empty separator"));
            }
            // The parts are counted before there are any.
            let found = match separator {
                None => text.chars().filter(|character| is_space(*character)).count(),
                Some(separator) => text.matches(separator).count(),
            };
            budget.items(found.min(most))?;
            let parts = match (separator, name) {
                (None, _) => words(text, most, name == "rsplit"),
                (Some(separator), "split") => text.splitn(most.saturating_add(1), separator).collect(),
                (Some(separator), _) => {
                    let mut parts: Vec<&str> = text.rsplitn(most.saturating_add(1), separator).collect();
                    parts.reverse();
                    parts
                }
            };
            texts(budget, parts)
        }
        "splitlines" => {
            let [keeps] = arguments.take(name, 0, ["keepends"])?;
            let keeps = keeps.is_some_and(|keeps| keeps.is_true());
            budget.items(2 * unicode::most_lines(text))?;
            let lines = unicode::lines(text);
            let line = |(line, end): (&'_ str, &str)| line.len() + if keeps { end.len() } else { 0 };
            let mut start = 0;
            let parts = lines.into_iter().map(|(text_line, end)| {
                let from = start;
                start += text_line.len() + end.len();
                &text[from..from + line((text_line, end))]
            });
            texts(budget, parts.collect())
        }
        "partition" | "rpartition" => {
            let [separator] = arguments.take(name, 1, [""])?;
            let separator = separator.unwrap_or_default();
            let separator = text_argument(&separator)?;
            if separator.is_empty() {
                return Err(Error::new("empty separator"));
            }
            let parts = match name {
                "partition" => text.split_once(separator).map(|(a, b)| [a, separator, b]).unwrap_or([text, "", ""]),
                _ => text.rsplit_once(separator).map(|(a, b)| [a, separator, b]).unwrap_or(["", "", text]),
            };
            budget.take(text.len())?;
            Ok(Value::tuple(parts.map(Value::from).to_vec())?)
        }
        "expandtabs" => {
            let [size] = arguments.take(name, 0, ["tabsize"])?;
            let size = size.as_ref().map(integer).transpose()?.unwrap_or(8);
            expand_tabs(budget, text, usize::try_from(size.max(0)).unwrap_or(usize::MAX))
        }
        _ => Err(unsupported(receiver, name)),
    }
}

/// Characters that are missing to a width, counted.
fn budget_for(budget: &mut Budget, text: &str, width: i128, fill: char) -> Result<usize, Error> {
    let missing = width.saturating_sub(text.chars().count() as i128).max(0);
    let missing = usize::try_from(missing).unwrap_or(usize::MAX);
    budget.take(missing.saturating_mul(fill.len_utf8()))?;
    Ok(missing)
}

/// A text of a width, for the filter of that name.
pub(crate) fn center(budget: &mut Budget, text: &str, width: i128) -> Result<Value, Error> {
    let missing = budget_for(budget, text, width, ' ')?;
    budget.text(justified(missing, text, "center", ' '))
}

fn justified(missing: usize, text: &str, name: &str, fill: char) -> String {
    let left = match name {
        "ljust" => 0,
        "rjust" => missing,
        // CPython gives the odd character to the left where the width is odd.
        _ => missing / 2 + (missing & (missing + text.chars().count()) & 1),
    };
    let fill = |count| std::iter::repeat_n(fill, count).collect::<String>();
    format!("{}{text}{}", fill(left), fill(missing - left))
}

/// Counts the comparisons of [`stripped`].
pub(crate) fn count_strip(budget: &mut Budget, text: &str, characters: Option<&str>) -> Result<(), Error> {
    budget.read(text.len().saturating_mul(characters.map_or(1, str::len)))
}

/// `text.strip(characters)`, at either end or both.
pub(crate) fn stripped<'a>(text: &'a str, characters: Option<&str>, at_start: bool, at_end: bool) -> &'a str {
    let is_stripped = |c: char| characters.map_or_else(|| is_space(c), |characters| characters.contains(c));
    let text = if at_start { text.trim_start_matches(is_stripped) } else { text };
    if at_end { text.trim_end_matches(is_stripped) } else { text }
}

/// `text.replace(old, new, count)`; a negative count is no limit.
pub(crate) fn replace(budget: &mut Budget, text: &str, old: &str, new: &str, count: i128) -> Result<Value, Error> {
    budget.read(text.len())?;
    let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(found);
    budget.take(count.saturating_mul(new.len()))?;
    budget.text(text.replacen(old, new, count))
}

/// The part of a text between two positions, and the first one, in characters.
fn window(text: &str, start: Option<Value>, end: Option<Value>) -> Result<Option<(&str, usize)>, Error> {
    let bound = |value: Option<Value>| match value {
        None | Some(Value::None) => Ok(None),
        Some(value) => integer(&value).map(Some),
    };
    let (start, end) = (bound(start)?, bound(end)?);
    if start.is_none() && end.is_none() {
        return Ok(Some((text, 0)));
    }
    let len = text.chars().count() as i128;
    let clip = |bound: i128| if bound < 0 { bound.saturating_add(len).max(0) } else { bound };
    let (start, end) = (start.map_or(0, clip), end.map_or(len, clip).min(len));
    if start > end {
        return Ok(None);
    }
    let at = |position: i128| text.char_indices().nth(position as usize).map_or(text.len(), |(at, _)| at);
    Ok(Some((&text[at(start)..at(end)], start as usize)))
}

/// Words between runs of white space, with a maximum number of splits.
fn words(text: &str, most: usize, from_end: bool) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = if from_end { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) };
    while !rest.is_empty() {
        if words.len() == most {
            words.push(rest);
            break;
        }
        if from_end {
            let at = rest.rfind(is_space).map_or(0, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8));
            words.push(&rest[at..]);
            rest = rest[..at].trim_end_matches(is_space);
        } else {
            let at = rest.find(is_space).unwrap_or(rest.len());
            words.push(&rest[..at]);
            rest = rest[at..].trim_start_matches(is_space);
        }
    }
    if from_end {
        words.reverse();
    }
    words
}

fn texts(budget: &mut Budget, parts: Vec<&str>) -> Result<Value, Error> {
    budget.items(2 * parts.len())?;
    budget.take(parts.iter().map(|part| part.len()).sum())?;
    Ok(Value::list(parts.into_iter().map(Value::from).collect())?)
}

fn expand_tabs(budget: &mut Budget, text: &str, size: usize) -> Result<Value, Error> {
    let mut out = String::new();
    let mut column = 0;
    for character in text.chars() {
        match character {
            '\t' if size > 0 => {
                let count = size - column % size;
                budget.take(count)?;
                out.extend(std::iter::repeat_n(' ', count));
                column += count;
            }
            '\t' => {}
            '\n' | '\r' => {
                out.push(character);
                column = 0;
            }
            _ => {
                out.push(character);
                column += 1;
            }
        }
    }
    budget.text(out)
}

/// `separator.join(items)`.
pub(crate) fn join(budget: &mut Budget, separator: &str, items: &[Value], converts: bool) -> Result<Value, Error> {
    let mut out = String::new();
    for (index, item) in items.iter().enumerate() {
        budget.steps(1)?;
        if index > 0 {
            budget.take(separator.len())?;
            out.push_str(separator);
        }
        if !converts && item.as_str().is_none() {
            return Err(Error::new(format!("sequence item {index}: expected str instance, {} found", type_name(item))));
        }
        print::text(budget, &mut out, item)?;
    }
    budget.text(out)
}
