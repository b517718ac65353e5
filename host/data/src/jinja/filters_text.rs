//! Jinja's filters of texts and numbers.

use super::{
    arguments::CallArguments,
    budget::Error,
    eval::Run,
    filters, format,
    methods::{self, integer, text_argument},
    ops::{self, type_name},
    print, unicode,
    value::{Value, float_as_int},
};

pub(crate) fn apply(run: &mut Run, name: &str, value: Value, arguments: CallArguments) -> Result<Value, Error> {
    match name {
        "trim" => {
            let [characters] = arguments.take(name, 0, ["chars"])?;
            let characters = characters.filter(|characters| !matches!(characters, Value::None));
            let characters = characters.as_ref().map(text_argument).transpose()?;
            let text = plain(run, &value)?;
            methods::count_strip(&mut run.budget, &text, characters)?;
            run.budget.text(methods::stripped(&text, characters, true, true))
        }
        "upper" | "lower" | "capitalize" => {
            let [] = arguments.take(name, 0, [])?;
            let text = plain(run, &value)?;
            run.budget.take(2 * text.len())?;
            run.budget.text(match name {
                "upper" => text.to_uppercase(),
                "lower" => text.to_lowercase(),
                _ => unicode::capitalize(&text)?,
            })
        }
        "title" => {
            let [] = arguments.take(name, 0, [])?;
            let text = plain(run, &value)?;
            run.budget.take(2 * text.len())?;
            run.budget.text(title(&text))
        }
        "replace" => {
            let [old, new, count] = arguments.take(name, 2, ["old", "new", "count"])?;
            let text = plain(run, &value)?;
            let old = print::to_string(&mut run.budget, &old.unwrap_or_default())?;
            let new = print::to_string(&mut run.budget, &new.unwrap_or_default())?;
            let count = count.filter(|count| !matches!(count, Value::None));
            let count = count.as_ref().map(integer).transpose()?.unwrap_or(-1);
            methods::replace(&mut run.budget, &text, &old, &new, count)
        }
        "center" => {
            let [width] = arguments.take(name, 0, ["width"])?;
            let width = width.as_ref().map(integer).transpose()?.unwrap_or(80);
            let text = plain(run, &value)?;
            methods::center(&mut run.budget, &text, width)
        }
        "indent" => indent(run, &value, arguments),
        "truncate" => truncate(run, &value, arguments),
        "format" => {
            let text = plain(run, &value)?;
            let CallArguments { positional, named } = arguments;
            let values = match (positional.is_empty(), named.is_empty()) {
                (false, false) => {
                    return Err(Error::new("can't handle positional and keyword arguments at the same time"));
                }
                (_, false) => Value::object(named.into_iter().map(|(name, value)| (Value::Str(name), value)))?,
                _ => Value::tuple(positional)?,
            };
            format::percent(&mut run.budget, &text, &values)
        }
        "wordcount" => {
            let [] = arguments.take(name, 0, [])?;
            let text = plain(run, &value)?;
            run.budget.read(text.len())?;
            Ok(text.split(|c: char| !unicode::is_word(c)).filter(|word| !word.is_empty()).count().into())
        }
        "int" => {
            let [default, base] = arguments.take(name, 0, ["default", "base"])?;
            let base = base.as_ref().map(integer).transpose()?.unwrap_or(10);
            to_int(&value, default.unwrap_or(Value::Int(0)), base)
        }
        "float" => {
            let [default] = arguments.take(name, 0, ["default"])?;
            let number = match &value {
                Value::Undefined(message) => return Err(ops::undefined(message)),
                Value::Str(text) => parse_float(text),
                _ => value.as_float(),
            };
            Ok(number.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float))
        }
        "abs" => {
            let [] = arguments.take(name, 0, [])?;
            match &value {
                Value::Float(number) => Ok(Value::Float(number.abs())),
                _ => match value.as_int() {
                    Some(number) if number < 0 => ops::negate(&value, true),
                    Some(number) => Ok(Value::Int(number)),
                    None => Err(Error::new(format!("bad operand type for abs(): '{}'", type_name(&value)))),
                },
            }
        }
        "round" => round(&value, arguments),
        "escape" | "e" | "forceescape" => {
            let [] = arguments.take(name, 0, [])?;
            if matches!(value, Value::Markup(_)) && name != "forceescape" {
                return Ok(value);
            }
            let text = print::to_string(&mut run.budget, &value)?;
            run.budget.take(6 * text.len())?;
            Ok(Value::Markup(print::escape(&text).into()))
        }
        "safe" => {
            let [] = arguments.take(name, 0, [])?;
            Ok(Value::Markup(print::to_string(&mut run.budget, &value)?.into()))
        }
        "urlencode" => {
            let [] = arguments.take(name, 0, [])?;
            url_encode(run, &value)
        }
        "filesizeformat" => {
            let [binary] = arguments.take(name, 0, ["binary"])?;
            file_size(&value, binary.is_some_and(|binary| binary.is_true()))
        }
        "xmlattr" => {
            let [autospace] = arguments.take(name, 0, ["autospace"])?;
            xml_attributes(run, &value, autospace.is_none_or(|autospace| autospace.is_true()))
        }
        _ if filters::NAMES.contains(&name) => {
            Err(Error::new(format!("the filter {name} is not supported in chat templates")))
        }
        _ => Err(Error::new(format!("No filter named '{name}'."))),
    }
}

/// `soft_str(value)`, of what is not marked as safe.
fn plain(run: &mut Run, value: &Value) -> Result<std::sync::Arc<str>, Error> {
    match value {
        Value::Str(text) => Ok(text.clone()),
        Value::Markup(_) => Err(Error::new("this filter is not supported on text that `safe` or `escape` marked")),
        _ => Ok(print::to_string(&mut run.budget, value)?.into()),
    }
}

/// Words begin after white space and after `-`, `(`, `{`, `[` and `<`.
fn title(text: &str) -> String {
    let is_border = |c: char| unicode::is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let start = rest.find(|c| !is_border(c)).unwrap_or(rest.len());
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let word = &rest[..rest.find(is_border).unwrap_or(rest.len())];
        rest = &rest[word.len()..];
        let mut characters = word.chars();
        if let Some(first) = characters.next() {
            out.extend(first.to_uppercase());
            out.push_str(&characters.as_str().to_lowercase());
        }
    }
    out
}

fn indent(run: &mut Run, value: &Value, arguments: CallArguments) -> Result<Value, Error> {
    let [width, first, blank] = arguments.take("indent", 0, ["width", "first", "blank"])?;
    let text = match value {
        Value::Str(text) => text.clone(),
        Value::Undefined(message) => return Err(ops::undefined(message)),
        _ => return Err(Error::new(format!("indent of a {} is not supported", type_name(value)))),
    };
    let indention = match width {
        None => "    ".to_owned(),
        Some(Value::Str(text)) => text.to_string(),
        Some(width) => {
            let width = usize::try_from(integer(&width)?.max(0)).unwrap_or(usize::MAX);
            run.budget.take(width)?;
            " ".repeat(width)
        }
    };
    let (first, blank) = (first.is_some_and(|first| first.is_true()), blank.is_some_and(|blank| blank.is_true()));
    // As in Jinja, the text gets a line break first, so that a last empty line is one.
    let text = format!("{text}\n");
    run.budget.items(2 * unicode::most_lines(&text))?;
    let mut out = String::new();
    for (index, (line, _)) in unicode::lines(&text).into_iter().enumerate() {
        run.budget.steps(1)?;
        if index > 0 {
            out.push('\n');
        }
        let is_indented = if index == 0 { first } else { blank || !line.is_empty() };
        if is_indented {
            run.budget.take(indention.len())?;
            out.push_str(&indention);
        }
        out.push_str(line);
    }
    run.budget.text(out)
}

fn truncate(run: &mut Run, value: &Value, arguments: CallArguments) -> Result<Value, Error> {
    let [length, killwords, end, leeway] = arguments.take("truncate", 0, ["length", "killwords", "end", "leeway"])?;
    let length = length.as_ref().map(integer).transpose()?.unwrap_or(255);
    let end = end.unwrap_or_else(|| "...".into());
    let end = text_argument(&end)?;
    let leeway = match leeway {
        None | Some(Value::None) => 5,
        Some(leeway) => integer(&leeway)?,
    };
    let end_length = end.chars().count() as i128;
    if length < end_length {
        return Err(Error::new(format!("expected length >= {end_length}, got {length}")));
    }
    if leeway < 0 {
        return Err(Error::new(format!("expected leeway >= 0, got {leeway}")));
    }
    let found = filters::length(run, value)?.as_int().unwrap_or_default();
    if found <= length.saturating_add(leeway) {
        return Ok(value.clone());
    }
    let text = value.as_str().ok_or_else(|| Error::new(format!("truncate of a {}", type_name(value))))?;
    let taken: String = text.chars().take((length - end_length) as usize).collect();
    let taken = match killwords.is_some_and(|killwords| killwords.is_true()) {
        true => &*taken,
        false => taken.rsplit_once(' ').map_or(&*taken, |(words, _)| words),
    };
    run.budget.text(format!("{taken}{end}"))
}

/// Digits with single underscores between them, as Python's `int` and `float` read them.
fn digits(text: &str) -> Option<String> {
    let is_sound = !text.starts_with('_') && !text.ends_with('_') && !text.contains("__");
    is_sound.then(|| text.replace('_', ""))
}

fn to_int(value: &Value, default: Value, base: i128) -> Result<Value, Error> {
    let from_float = |number: f64| match float_as_int(number.trunc()) {
        Some(number) => Ok(Value::Int(number)),
        None if number.is_finite() => Err(Error::new("an integer of more than 128 bits")),
        None => Ok(default.clone()),
    };
    match value {
        Value::Undefined(message) => Err(ops::undefined(message)),
        Value::Str(text) => {
            if !(base == 0 || (2..=36).contains(&base)) {
                return Ok(default);
            }
            if let Some(number) = parse_int(text, base as u32)? {
                return Ok(Value::Int(number));
            }
            match parse_float(text) {
                Some(number) => from_float(number),
                None => Ok(default),
            }
        }
        Value::Float(number) if number.is_infinite() => Err(Error::new("cannot convert float infinity to integer")),
        Value::Float(number) => from_float(*number),
        _ => Ok(value.as_int().map_or(default, Value::Int)),
    }
}

fn parse_int(text: &str, base: u32) -> Result<Option<i128>, Error> {
    let text = methods::stripped(text, None, true, true);
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefix = unsigned.get(..2).map(str::to_ascii_lowercase);
    let (base, body) = match (prefix.as_deref(), base) {
        (Some("0x"), 0 | 16) => (16, &unsigned[2..]),
        (Some("0o"), 0 | 8) => (8, &unsigned[2..]),
        (Some("0b"), 0 | 2) => (2, &unsigned[2..]),
        (_, 0) => (10, unsigned),
        _ => (base, unsigned),
    };
    let is_prefixed = body.len() != unsigned.len();
    let body = if is_prefixed { body.strip_prefix('_').unwrap_or(body) } else { body };
    let Some(digits) = digits(body).filter(|digits| !digits.is_empty()) else { return Ok(None) };
    if digits.chars().any(|c| !c.is_ascii() && unicode::is_decimal(c)) {
        return Err(Error::new("digits beyond ASCII are not supported in numbers"));
    }
    if !digits.chars().all(|digit| digit.is_digit(base)) {
        return Ok(None);
    }
    match i128::from_str_radix(&digits, base) {
        Ok(number) => Ok(Some(sign * number)),
        Err(_) => Err(Error::new("an integer of more than 128 bits")),
    }
}

fn parse_float(text: &str) -> Option<f64> {
    let text = methods::stripped(text, None, true, true);
    let lower = text.to_ascii_lowercase();
    let unsigned = lower.strip_prefix(['+', '-']).unwrap_or(&lower);
    match unsigned {
        "inf" | "infinity" | "nan" => return unsigned_special(unsigned, lower.starts_with('-')),
        _ if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') => return None,
        _ => {}
    }
    // Rust reads the same grammar, but for the underscores between digits.
    let bytes = lower.as_bytes();
    let is_sound = bytes.iter().enumerate().all(|(at, byte)| {
        let is_digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
        *byte != b'_' || (is_digit(at.checked_sub(1)) && is_digit(Some(at + 1)))
    });
    if !is_sound {
        return None;
    }
    lower.replace('_', "").parse().ok()
}

fn unsigned_special(name: &str, is_negative: bool) -> Option<f64> {
    let number = if name == "nan" { f64::NAN } else { f64::INFINITY };
    Some(if is_negative { -number } else { number })
}

fn round(value: &Value, arguments: CallArguments) -> Result<Value, Error> {
    let [precision, method] = arguments.take("round", 0, ["precision", "method"])?;
    let precision = precision.as_ref().map(integer).transpose()?.unwrap_or(0);
    let method = method.unwrap_or_else(|| "common".into());
    let method = method.as_str().filter(|method| ["common", "ceil", "floor"].contains(method));
    let method = method.ok_or_else(|| Error::new("method must be common, ceil or floor"))?;
    let wrong = || Error::new(format!("type {} doesn't define __round__ method", type_name(value)));
    if !(-300..=300).contains(&precision) {
        return Err(Error::new("round: the precision must lie between -300 and 300"));
    }
    let precision = precision as i32;
    if method != "common" {
        let number = value.as_float().ok_or_else(wrong)?;
        let scale = 10f64.powi(precision);
        let scaled = if method == "ceil" { (number * scale).ceil() } else { (number * scale).floor() };
        if !scaled.is_finite() {
            return Err(Error::new("cannot convert float infinity or NaN to integer"));
        }
        return Ok(Value::Float(scaled / scale));
    }
    match value {
        Value::Float(number) if !number.is_finite() => Ok(value.clone()),
        // Rust rounds the exact decimal value, half to even, as Python does.
        Value::Float(number) if precision >= 0 => {
            Ok(Value::Float(format!("{number:.*}", precision as usize).parse().unwrap_or(*number)))
        }
        Value::Undefined(message) => Err(ops::undefined(message)),
        _ => {
            let number = match value {
                Value::Float(number) => {
                    let scale = 10f64.powi(-precision);
                    return Ok(Value::Float((number / scale).round_ties_even() * scale));
                }
                _ => value.as_int().ok_or_else(wrong)?,
            };
            if precision >= 0 {
                return Ok(Value::Int(number));
            }
            let Some(scale) = 10i128.checked_pow(precision.unsigned_abs()) else { return Ok(Value::Int(0)) };
            let (quotient, rest) = (number.div_euclid(scale), number.rem_euclid(scale));
            let up = match rest.cmp(&(scale - rest)) {
                std::cmp::Ordering::Less => 0,
                std::cmp::Ordering::Greater => 1,
                std::cmp::Ordering::Equal => quotient.rem_euclid(2),
            };
            let rounded = quotient.checked_add(up).and_then(|quotient| quotient.checked_mul(scale));
            rounded.map(Value::Int).ok_or_else(|| Error::new("an integer of more than 128 bits"))
        }
    }
}

/// Bytes of a text as a URL has them.
fn quoted(text: &str, safe: &str, plus: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let character = char::from(byte);
        if character.is_ascii_alphanumeric() || "_.-~".contains(character) || safe.contains(character) {
            out.push(character);
        } else if plus && character == ' ' {
            out.push('+');
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A text with its slashes, or pairs joined by `&`.
fn url_encode(run: &mut Run, value: &Value) -> Result<Value, Error> {
    let pairs = match value {
        Value::Dict(dict) => print::pairs(dict)?,
        Value::List(_) | Value::Tuple(_) | Value::Undefined(_) | Value::Object(_) => run.collect(value)?,
        _ => {
            let text = print::to_string(&mut run.budget, value)?;
            run.budget.take(3 * text.len())?;
            return run.budget.text(quoted(&text, "/", false));
        }
    };
    let mut out = String::new();
    for pair in pairs {
        let pair = run.collect(&pair)?;
        let [key, value] = <[Value; 2]>::try_from(pair)
            .map_err(|pair| Error::new(format!("urlencode: {} values in a pair", pair.len())))?;
        let key = print::to_string(&mut run.budget, &key)?;
        let value = print::to_string(&mut run.budget, &value)?;
        run.budget.take(3 * (key.len() + value.len()))?;
        out.push_str(if out.is_empty() { "" } else { "&" });
        out.push_str(&format!("{}={}", quoted(&key, "", true), quoted(&value, "", true)));
    }
    run.budget.text(out)
}

fn file_size(value: &Value, is_binary: bool) -> Result<Value, Error> {
    let bytes = match value {
        Value::Str(text) => parse_float(text),
        _ => value.as_float(),
    };
    let bytes = bytes.ok_or_else(|| Error::new("filesizeformat: not a number"))?;
    let base: f64 = if is_binary { 1024.0 } else { 1000.0 };
    let prefixes = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
    if bytes == 1.0 {
        return Ok("1 Byte".into());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", bytes.trunc()).into());
    }
    let mut unit = base;
    for (index, prefix) in prefixes.iter().enumerate() {
        unit *= base;
        if bytes < unit || index + 1 == prefixes.len() {
            let prefix = match (is_binary, *prefix) {
                (true, "k") => "KiB".to_owned(),
                (true, prefix) => format!("{prefix}iB"),
                (false, prefix) => format!("{prefix}B"),
            };
            return Ok(format!("{:.1} {prefix}", base * bytes / unit).into());
        }
    }
    Ok(Value::UNDEFINED)
}

fn xml_attributes(run: &mut Run, value: &Value, autospace: bool) -> Result<Value, Error> {
    let dict = value.as_dict().ok_or_else(|| Error::new(format!("xmlattr of a {}", type_name(value))))?;
    let mut parts = Vec::new();
    for (key, value) in dict.iter().filter(|(_, value)| !value.is_null()) {
        let name = key.as_str().ok_or_else(|| Error::new("xmlattr: names are texts"))?;
        if name.contains([' ', '\t', '\n', '\r', '\u{b}', '\u{c}', '/', '>', '=']) {
            return Err(Error::new(format!("Invalid character in attribute name: '{name}'")));
        }
        let text = print::to_string(&mut run.budget, value)?;
        run.budget.take(6 * (text.len() + name.len()))?;
        let text = if matches!(value, Value::Markup(_)) { text } else { print::escape(&text) };
        parts.push(format!("{}=\"{text}\"", print::escape(name)));
    }
    let space = if autospace && !parts.is_empty() { " " } else { "" };
    run.budget.text(format!("{space}{}", parts.join(" ")))
}
