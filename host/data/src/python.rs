//! Values as Python writes them: chat templates are written against Jinja in Python, and what a template prints becomes
//! tokens.

use std::fmt::Write;

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, ValueKind},
};

/// `str(value)`, as Jinja prints it.
pub(crate) fn print(out: &mut String, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(()),
        ValueKind::String => {
            out.push_str(value.as_str().unwrap_or_default());
            Ok(())
        }
        _ => represent(out, value),
    }
}

/// `repr(value)`.
fn represent(out: &mut String, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => number(out, value, ["nan", "inf", "-inf"]),
        ValueKind::String => quote(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (index, item) in value.try_iter()?.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                represent(out, &item)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                represent(out, &key)?;
                out.push_str(": ");
                represent(out, &value.get_item(&key)?)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

fn quote(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if character == quote => out.extend(['\\', quote]),
            _ if character.is_ascii_control() => push(out, format_args!("\\x{:02x}", character as u32)),
            _ => out.push(character),
        }
    }
    out.push(quote);
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("writing to a String does not fail");
}

fn number(out: &mut String, value: &Value, [nan, inf, minus_inf]: [&str; 3]) {
    let float = if value.is_integer() { None } else { f64::try_from(value.clone()).ok() };
    match float {
        None => out.push_str(&value.to_string()),
        Some(number) if number.is_nan() => out.push_str(nan),
        Some(f64::INFINITY) => out.push_str(inf),
        Some(f64::NEG_INFINITY) => out.push_str(minus_inf),
        Some(number) => out.push_str(&float_text(number)),
    }
}

/// The shortest text that reads back as this number; with an exponent from 1e16 up and below 1e-4, as Python writes it.
fn float_text(number: f64) -> String {
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').expect("this format writes an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.unsigned_abs());
    }
    format!("{number:?}")
}

/// `json.dumps(value, ...)` with the defaults of transformers' own `tojson`: nothing escaped but what JSON demands, a
/// space behind each comma and colon, keys in their order.
pub(crate) fn tojson(value: &Value, options: &Kwargs) -> Result<String, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let indent = match indent {
        Some(indent) if indent.is_number() => Some(" ".repeat(indent.as_usize().unwrap_or(0).min(64))),
        Some(indent) if !indent.is_none() => indent.as_str().map(str::to_owned),
        _ => None,
    };
    let separators: Option<Vec<String>> = options.get("separators")?;
    let [between, after_key] = match separators.as_deref() {
        Some([between, after_key]) => [between.clone(), after_key.clone()],
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators are two texts")),
        None => [if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()],
    };
    let writer = Writer {
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        between,
        after_key,
    };
    options.assert_all_used()?;
    let mut out = String::new();
    writer.write(&mut out, value, 0)?;
    Ok(out)
}

struct Writer {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    between: String,
    after_key: String,
}

impl Writer {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => number(out, value, ["NaN", "Infinity", "-Infinity"]),
            ValueKind::String => self.text(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(out, ['[', ']'], &items, depth, |out, item| self.write(out, item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.list(out, ['{', '}'], &keys, depth, |out, key| {
                    match key.as_str() {
                        Some(text) => self.text(out, text),
                        None => {
                            out.push('"');
                            self.write(out, key, depth + 1)?;
                            out.push('"');
                        }
                    }
                    out.push_str(&self.after_key);
                    self.write(out, &value.get_item(key)?, depth + 1)
                })?;
            }
            kind => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("tojson: a value of kind {kind} is not JSON"),
                ));
            }
        }
        Ok(())
    }

    fn list(
        &self,
        out: &mut String,
        [open, close]: [char; 2],
        items: &[Value],
        depth: usize,
        mut write: impl FnMut(&mut String, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let new_line = |out: &mut String, depth: usize| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                (0..depth).for_each(|_| out.push_str(indent));
            }
        };
        out.push(open);
        for (index, item) in items.iter().enumerate() {
            out.push_str(if index > 0 { &self.between } else { "" });
            new_line(out, depth + 1);
            write(out, item)?;
        }
        if !items.is_empty() {
            new_line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn text(&self, out: &mut String, text: &str) {
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\0'..='\u{1f}' => push(out, format_args!("\\u{:04x}", character as u32)),
                _ if self.ensure_ascii && !character.is_ascii() => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        push(out, format_args!("\\u{unit:04x}"));
                    }
                }
                _ => out.push(character),
            }
        }
        out.push('"');
    }
}
