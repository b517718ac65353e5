//! Values as text, as Python writes them: `str`, `repr` and `json.dumps`. What a template prints becomes tokens.

use std::fmt::Write;

use super::{
    budget::{Budget, Error},
    object::{Object, View},
    ops::type_name,
    value::Value,
};

/// `str(value)`, appended.
pub(crate) fn text(budget: &mut Budget, out: &mut String, value: &Value) -> Result<(), Error> {
    match value {
        Value::Undefined(_) => Ok(()),
        Value::Str(text) | Value::Markup(text) => push(budget, out, text),
        _ => representation(budget, out, value),
    }
}

/// `str(value)`.
pub(crate) fn to_string(budget: &mut Budget, value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    text(budget, &mut out, value)?;
    Ok(out)
}

fn push(budget: &mut Budget, out: &mut String, text: &str) -> Result<(), Error> {
    budget.take(text.len())?;
    out.push_str(text);
    Ok(())
}

/// `repr(value)`, appended.
pub(crate) fn representation(budget: &mut Budget, out: &mut String, value: &Value) -> Result<(), Error> {
    budget.steps(1)?;
    match value {
        Value::Undefined(_) => push(budget, out, "Undefined"),
        Value::None => push(budget, out, "None"),
        Value::Bool(flag) => push(budget, out, if *flag { "True" } else { "False" }),
        Value::Int(_) | Value::Float(_) => push(budget, out, &number(value, ["nan", "inf", "-inf"])),
        Value::Str(text) => quote(budget, out, text),
        Value::Markup(text) => {
            out.push_str("Markup(");
            quote(budget, out, text)?;
            out.push(')');
            Ok(())
        }
        Value::List(list) => sequence(budget, out, ["[", "]"], list.items()),
        Value::Tuple(list) if list.items().len() == 1 => sequence(budget, out, ["(", ",)"], list.items()),
        Value::Tuple(list) => sequence(budget, out, ["(", ")"], list.items()),
        Value::Dict(dict) => between(budget, out, ["{", "}"], dict.iter(), |budget, out, (key, value)| {
            representation(budget, out, key)?;
            push(budget, out, ": ")?;
            representation(budget, out, value)
        }),
        Value::Object(object) => self::object(budget, out, object),
    }
}

fn sequence(budget: &mut Budget, out: &mut String, brackets: [&str; 2], items: &[Value]) -> Result<(), Error> {
    between(budget, out, brackets, items.iter(), representation)
}

/// Items as `write` has them, with commas, between brackets.
fn between<T>(
    budget: &mut Budget,
    out: &mut String,
    [open, close]: [&str; 2],
    items: impl Iterator<Item = T>,
    mut write: impl FnMut(&mut Budget, &mut String, T) -> Result<(), Error>,
) -> Result<(), Error> {
    push(budget, out, open)?;
    for (index, item) in items.enumerate() {
        push(budget, out, if index > 0 { ", " } else { "" })?;
        write(budget, out, item)?;
    }
    push(budget, out, close)
}

fn object(budget: &mut Budget, out: &mut String, object: &Object) -> Result<(), Error> {
    match object {
        Object::Range(range) => {
            let step = if range.step == 1 { String::new() } else { format!(", {}", range.step) };
            push(budget, out, &format!("range({}, {}{step})", range.start, range.stop))
        }
        Object::View(view, dict) => {
            let (name, items) = match view {
                View::Keys => ("dict_keys([", dict.iter().map(|(key, _)| key.clone()).collect()),
                View::Values => ("dict_values([", dict.iter().map(|(_, value)| value.clone()).collect()),
                View::Items => ("dict_items([", pairs(dict)?),
            };
            budget.items(2 * dict.len())?;
            sequence(budget, out, [name, "])"], &items)
        }
        Object::Macro(function, _) => {
            push(budget, out, "<Macro ")?;
            quote(budget, out, &function.name)?;
            push(budget, out, ">")
        }
        // Python writes an address in memory, or an internal name.
        other => {
            let name = type_name(&Value::Object(other.clone()));
            let hint = if matches!(other, Object::Generator(_)) { "; add | list or | join" } else { "" };
            Err(Error::new(format!("a {name} has no text{hint}")))
        }
    }
}

/// Keys and values of a mapping, as tuples.
pub(crate) fn pairs(dict: &super::value::Dict) -> Result<Vec<Value>, Error> {
    dict.iter().map(|(key, value)| Ok(Value::tuple(vec![key.clone(), value.clone()])?)).collect()
}

/// Characters that are escaped between two counts of the bytes.
const COUNTED_CHARACTERS: usize = 4096;

/// A text between two quotes. `write` has the characters that are not escaped in every notation.
fn quoted(
    budget: &mut Budget,
    out: &mut String,
    quote: char,
    text: &str,
    write: impl Fn(&mut String, char),
) -> Result<(), Error> {
    out.push(quote);
    let mut counted = out.len();
    for (index, character) in text.chars().enumerate() {
        if index % COUNTED_CHARACTERS == 0 {
            budget.take(out.len() - counted)?;
            counted = out.len();
        }
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if character == quote => out.extend(['\\', quote]),
            _ => write(out, character),
        }
    }
    out.push(quote);
    budget.take(out.len() - counted)
}

fn quote(budget: &mut Budget, out: &mut String, text: &str) -> Result<(), Error> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    quoted(budget, out, quote, text, |out, character| {
        if matches!(character, ' '..='~') || super::unicode::is_printable(character) {
            return out.push(character);
        }
        let code = character as u32;
        let written = match code {
            0..=0xff => write!(out, "\\x{code:02x}"),
            0x100..=0xffff => write!(out, "\\u{code:04x}"),
            _ => write!(out, "\\U{code:08x}"),
        };
        written.expect("writing to a String does not fail");
    })
}

/// A number's digits, with these words for what has none.
fn number(value: &Value, [nan, inf, minus_inf]: [&str; 3]) -> String {
    match value {
        Value::Float(number) if number.is_nan() => nan.to_owned(),
        Value::Float(f64::INFINITY) => inf.to_owned(),
        Value::Float(f64::NEG_INFINITY) => minus_inf.to_owned(),
        Value::Float(number) => float(*number),
        _ => value.as_int().unwrap_or_default().to_string(),
    }
}

/// The shortest text that reads back as this number; with an exponent from 1e16 up and below 1e-4, as Python writes it.
pub(crate) fn float(number: f64) -> String {
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.unsigned_abs());
    }
    format!("{number:?}")
}

/// `markupsafe.escape(text)`.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            _ => out.push(character),
        }
    }
    out
}

/// `json.dumps`, with what transformers' own `tojson` lets a template set.
pub(crate) struct Json {
    pub ensure_ascii: bool,
    pub sort_keys: bool,
    pub indent: Option<String>,
    pub between: String,
    pub after_key: String,
}

impl Json {
    /// The text of a value, appended.
    pub fn write(&self, budget: &mut Budget, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        budget.steps(1)?;
        match value {
            Value::None => push(budget, out, "null"),
            Value::Bool(flag) => push(budget, out, if *flag { "true" } else { "false" }),
            Value::Int(_) | Value::Float(_) => push(budget, out, &number(value, ["NaN", "Infinity", "-Infinity"])),
            Value::Str(text) | Value::Markup(text) => self.text(budget, out, text),
            Value::List(list) | Value::Tuple(list) => {
                self.list(budget, out, ["[", "]"], depth, list.items(), |budget, out, item| {
                    self.write(budget, out, item, depth + 1)
                })
            }
            Value::Dict(dict) => {
                let mut items: Vec<(&Value, &Value)> = dict.iter().collect();
                budget.items(2 * items.len())?;
                if self.sort_keys {
                    let keyed = items.iter().enumerate().map(|(at, (key, _))| ((*key).clone(), at)).collect();
                    let order = super::ops::sort(budget, keyed, false)?;
                    items = order.iter().map(|(_, at)| items[*at]).collect();
                }
                self.list(budget, out, ["{", "}"], depth, &items, |budget, out, (key, value)| {
                    match key {
                        Value::Str(text) | Value::Markup(text) => {
                            self.text(budget, out, text)?;
                        }
                        Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                            out.push('"');
                            self.write(budget, out, key, depth + 1)?;
                            out.push('"');
                        }
                        _ => {
                            let name = type_name(key);
                            return Err(Error::new(format!("tojson: keys must be texts or numbers, not {name}")));
                        }
                    }
                    push(budget, out, &self.after_key)?;
                    self.write(budget, out, value, depth + 1)
                })
            }
            Value::Undefined(_) | Value::Object(_) => {
                Err(Error::new(format!("Object of type {} is not JSON serializable", type_name(value))))
            }
        }
    }

    fn list<T>(
        &self,
        budget: &mut Budget,
        out: &mut String,
        [open, close]: [&str; 2],
        depth: usize,
        items: &[T],
        mut write: impl FnMut(&mut Budget, &mut String, &T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let new_line = |budget: &mut Budget, out: &mut String, depth: usize| -> Result<(), Error> {
            if let Some(indent) = &self.indent {
                budget.take(1 + indent.len().saturating_mul(depth))?;
                out.push('\n');
                (0..depth).for_each(|_| out.push_str(indent));
            }
            Ok(())
        };
        push(budget, out, open)?;
        for (index, item) in items.iter().enumerate() {
            push(budget, out, if index > 0 { &self.between } else { "" })?;
            new_line(budget, out, depth + 1)?;
            write(budget, out, item)?;
        }
        if !items.is_empty() {
            new_line(budget, out, depth)?;
        }
        push(budget, out, close)
    }

    fn text(&self, budget: &mut Budget, out: &mut String, text: &str) -> Result<(), Error> {
        quoted(budget, out, '"', text, |out, character| match character {
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' => unit(out, character as u16),
            _ if self.ensure_ascii && !character.is_ascii() => {
                character.encode_utf16(&mut [0; 2]).iter().for_each(|half| unit(out, *half));
            }
            _ => out.push(character),
        })
    }
}

/// An escaped unit of UTF-16.
fn unit(out: &mut String, unit: u16) {
    write!(out, "\\u{unit:04x}").expect("writing to a String does not fail");
}
