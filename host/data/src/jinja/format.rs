//! Python's two ways to format: `'%s' % value` and `'{}'.format(value)`.

use super::{
    budget::{Budget, Error},
    object::Object,
    ops::type_name,
    print,
    value::{Value, float_as_int},
};

/// Widths and precisions beyond this are refused at once; what fits is counted like any other text.
const MAX_WIDTH: usize = 1 << 20;

/// How a number or a text is laid out.
#[derive(Clone, Debug)]
struct Spec {
    fill: char,
    /// `<`, `>`, `^` or `=`; `None` for what the type has.
    align: Option<char>,
    /// `+`, ` ` or `-`.
    sign: char,
    is_alternate: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Default for Spec {
    fn default() -> Self {
        Spec {
            fill: ' ',
            align: None,
            sign: '-',
            is_alternate: false,
            width: 0,
            grouping: None,
            precision: None,
            kind: None,
        }
    }
}

fn bounded(number: i128) -> Result<usize, Error> {
    usize::try_from(number)
        .ok()
        .filter(|number| *number <= MAX_WIDTH)
        .ok_or_else(|| Error::new(format!("a width of {number} characters; at most {MAX_WIDTH}")))
}

/// Reads digits off the front.
fn digits(rest: &mut &str) -> Result<Option<usize>, Error> {
    let count = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (number, behind) = rest.split_at(count);
    *rest = behind;
    if number.is_empty() {
        return Ok(None);
    }
    bounded(number.parse().unwrap_or(i128::MAX)).map(Some)
}

fn next(rest: &mut &str) -> Option<char> {
    let character = rest.chars().next()?;
    *rest = &rest[character.len_utf8()..];
    Some(character)
}

/// `format % values`.
pub(crate) fn percent(budget: &mut Budget, format: &str, values: &Value) -> Result<Value, Error> {
    let (mut positional, is_tuple) = match values {
        Value::Tuple(tuple) => (tuple.items(), true),
        _ => (std::slice::from_ref(values), false),
    };
    let mapping = values.as_dict();
    let mut took_name = false;
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        budget.take(at)?;
        out.push_str(&rest[..at]);
        let start = &rest[at..];
        rest = &rest[at + 1..];
        let mut named = None;
        if let Some(behind) = rest.strip_prefix('(') {
            let end = behind.find(')').ok_or_else(|| Error::new("incomplete format key"))?;
            let name = &behind[..end];
            rest = &behind[end + 1..];
            let mapping = mapping.ok_or_else(|| Error::new("format requires a mapping"))?;
            named = Some(mapping.get(name).ok_or_else(|| Error::new(format!("the mapping has no key '{name}'")))?);
            took_name = true;
        }
        let mut take = || -> Result<&Value, Error> {
            let (first, others) =
                positional.split_first().ok_or_else(|| Error::new("not enough arguments for format string"))?;
            positional = others;
            Ok(first)
        };
        let mut spec = Spec::default();
        let mut is_left = false;
        let mut is_zero = false;
        loop {
            match rest.chars().next() {
                Some('-') => is_left = true,
                Some('+') => spec.sign = '+',
                Some(' ') if spec.sign != '+' => spec.sign = ' ',
                Some(' ') => {}
                Some('#') => spec.is_alternate = true,
                Some('0') => is_zero = true,
                _ => break,
            }
            rest = &rest[1..];
        }
        let mut star = |rest: &mut &str| -> Result<Option<i128>, Error> {
            let Some(behind) = rest.strip_prefix('*') else { return Ok(digits(rest)?.map(|number| number as i128)) };
            *rest = behind;
            take()?.as_int().map(Some).ok_or_else(|| Error::new("* wants int"))
        };
        if let Some(width) = star(&mut rest)? {
            is_left |= width < 0;
            spec.width = bounded(width.checked_abs().unwrap_or(i128::MAX))?;
        }
        if let Some(behind) = rest.strip_prefix('.') {
            rest = behind;
            spec.precision = Some(bounded(star(&mut rest)?.unwrap_or(0).max(0))?);
        }
        rest = rest.trim_start_matches(['l', 'h', 'L']);
        let kind = next(&mut rest).ok_or_else(|| Error::new("incomplete format"))?;
        if kind == '%' {
            if rest.len() + 2 != start.len() {
                return Err(Error::new("unsupported format character '%'"));
            }
            out.push('%');
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => take()?,
        };
        spec.align = Some(if is_left { '<' } else { '>' });
        let is_number = !matches!(kind, 's' | 'r' | 'a' | 'c');
        if is_zero && !is_left && is_number {
            (spec.fill, spec.align) = ('0', Some('='));
        }
        let text = match kind {
            's' | 'r' | 'a' => {
                let mut text = String::new();
                if kind == 's' {
                    print::text(budget, &mut text, value)?;
                } else {
                    print::representation(budget, &mut text, value)?;
                }
                if kind == 'a' && !text.is_ascii() {
                    return Err(Error::new("%a of text beyond ASCII is not supported"));
                }
                let text = match spec.precision {
                    Some(precision) => text.chars().take(precision).collect(),
                    None => text,
                };
                padded(&spec, "", &text)
            }
            'c' => match (value.as_int(), value.as_str()) {
                (Some(code), _) => {
                    let character = u32::try_from(code).ok().and_then(char::from_u32);
                    padded(&spec, "", &character.ok_or_else(|| Error::new("%c arg not in range"))?.to_string())
                }
                (_, Some(text)) if text.chars().count() == 1 => padded(&spec, "", text),
                _ => return Err(Error::new("%c requires int or char")),
            },
            'd' | 'i' | 'u' => {
                let number = match value {
                    Value::Float(number) => float_as_int(number.trunc()),
                    _ => value.as_int(),
                };
                let number = number.ok_or_else(|| {
                    Error::new(format!("%{kind} format: a real number is required, not {}", type_name(value)))
                })?;
                let digits = zero_filled(&number.unsigned_abs().to_string(), spec.precision.unwrap_or(0));
                padded(&spec, sign(&spec, number < 0), &digits)
            }
            'o' | 'x' | 'X' => {
                let number = value.as_int().ok_or_else(|| {
                    Error::new(format!("%{kind} format: an integer is required, not {}", type_name(value)))
                })?;
                let (prefix, digits) = radix(kind, number.unsigned_abs());
                let digits = zero_filled(&digits, spec.precision.unwrap_or(0));
                let prefix = if spec.is_alternate { prefix } else { "" };
                padded(&spec, &format!("{}{prefix}", sign(&spec, number < 0)), &digits)
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                let number = value
                    .as_float()
                    .ok_or_else(|| Error::new(format!("must be real number, not {}", type_name(value))))?;
                let digits = float_digits(kind, number.abs(), spec.precision.unwrap_or(6), spec.is_alternate)?;
                padded(&spec, sign(&spec, number.is_sign_negative() && !number.is_nan()), &digits)
            }
            _ => return Err(Error::new(format!("unsupported format character '{kind}'"))),
        };
        budget.take(text.len())?;
        out.push_str(&text);
    }
    budget.take(rest.len())?;
    out.push_str(rest);
    let is_left_over = !positional.is_empty() && !took_name && (is_tuple || !is_mapping(values));
    if is_left_over {
        return Err(Error::new("not all arguments converted during string formatting"));
    }
    budget.text(out)
}

/// What CPython takes for a mapping here: everything with an index but a tuple and a text.
fn is_mapping(values: &Value) -> bool {
    matches!(values, Value::Dict(_) | Value::List(_) | Value::Undefined(_) | Value::Object(Object::Range(_)))
}

fn sign(spec: &Spec, is_negative: bool) -> &'static str {
    match (is_negative, spec.sign) {
        (true, _) => "-",
        (false, '+') => "+",
        (false, ' ') => " ",
        _ => "",
    }
}

fn radix(kind: char, number: u128) -> (&'static str, String) {
    match kind {
        'o' => ("0o", format!("{number:o}")),
        'x' => ("0x", format!("{number:x}")),
        'X' => ("0X", format!("{number:X}")),
        _ => ("0b", format!("{number:b}")),
    }
}

/// Digits of a number that is not negative, as C's `printf` has them.
fn float_digits(kind: char, number: f64, precision: usize, is_alternate: bool) -> Result<String, Error> {
    if precision > 10_000 {
        return Err(Error::new("a precision of more than 10000 digits"));
    }
    let text = if number.is_nan() {
        "nan".to_owned()
    } else if number.is_infinite() {
        "inf".to_owned()
    } else {
        let point = if is_alternate && precision == 0 { "." } else { "" };
        match kind.to_ascii_lowercase() {
            'f' => format!("{number:.precision$}{point}"),
            'e' => exponent_text(&format!("{number:.precision$e}"), point),
            _ => general(number, precision.max(1), precision.max(1), is_alternate),
        }
    };
    Ok(if kind.is_ascii_uppercase() { text.to_ascii_uppercase() } else { text })
}

/// `1.5e7` as C writes it: `1.5e+07`.
fn exponent_text(scientific: &str, point: &str) -> String {
    let (digits, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}{point}e{sign}{:02}", exponent.unsigned_abs())
}

/// `g`: digits with an exponent from `limit` up.
fn general(number: f64, precision: usize, limit: usize, is_alternate: bool) -> String {
    let scientific = format!("{number:.*e}", precision - 1);
    let exponent: i32 = scientific.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let strip = |text: &str| match is_alternate || !text.contains('.') {
        true => text.to_owned(),
        false => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
    };
    if exponent < -4 || exponent >= limit as i32 {
        let (digits, _) = scientific.split_once('e').unwrap_or((&scientific, ""));
        return exponent_text(&format!("{}e{exponent}", strip(digits)), "");
    }
    let decimals = (precision as i32 - 1 - exponent).max(0) as usize;
    strip(&format!("{number:.decimals$}"))
}

/// Digits padded with zeros to at least this length. (`format!` panics on a width of more than 16 bits.)
fn zero_filled(digits: &str, count: usize) -> String {
    "0".repeat(count.saturating_sub(digits.len())) + digits
}

/// Sign or prefix and digits, filled up to the width.
fn padded(spec: &Spec, prefix: &str, text: &str) -> String {
    let len = prefix.chars().count() + text.chars().count();
    let missing = spec.width.saturating_sub(len);
    let fill = |count: usize| std::iter::repeat_n(spec.fill, count).collect::<String>();
    match spec.align {
        Some('<') => format!("{prefix}{text}{}", fill(missing)),
        Some('^') => format!("{}{prefix}{text}{}", fill(missing / 2), fill(missing - missing / 2)),
        Some('=') => format!("{prefix}{}{text}", fill(missing)),
        _ => format!("{}{prefix}{text}", fill(missing)),
    }
}

/// A field of `str.format`: what it names, how it is converted, and its specification.
pub(crate) struct Field<'a> {
    pub name: &'a str,
    pub conversion: Option<char>,
    pub spec: &'a str,
}

pub(crate) enum Piece<'a> {
    Text(&'a str),
    Field(Field<'a>),
}

/// The pieces of a format text, `{{` and `}}` read as braces. A piece takes more than its text and is counted.
pub(crate) fn pieces<'a>(budget: &mut Budget, format: &'a str) -> Result<Vec<Piece<'a>>, Error> {
    let mut pieces = Vec::new();
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        budget.take(2 * size_of::<Piece>())?;
        let brace = &rest[at..=at];
        if rest[at + 1..].starts_with(brace) {
            pieces.push(Piece::Text(&rest[..=at]));
            rest = &rest[at + 2..];
            continue;
        }
        if brace == "}" {
            return Err(Error::new("Single '}' encountered in format string"));
        }
        pieces.push(Piece::Text(&rest[..at]));
        let inner = &rest[at + 1..];
        let mut depth = 1;
        let end = inner.find(|character: char| {
            depth += i32::from(character == '{') - i32::from(character == '}');
            depth == 0
        });
        let end = end.ok_or_else(|| Error::new("expected '}' before end of string"))?;
        let field = &inner[..end];
        rest = &inner[end + 1..];
        let name_end = field.find(['!', ':']).unwrap_or(field.len());
        let (name, behind) = field.split_at(name_end);
        let (conversion, spec) = match behind.strip_prefix('!') {
            Some(behind) => {
                let mut characters = behind.chars();
                let conversion = characters.next();
                match (conversion, characters.next()) {
                    (Some(_), None) => (conversion, ""),
                    (Some(_), Some(':')) => (conversion, characters.as_str()),
                    _ => return Err(Error::new("expected ':' after conversion specifier")),
                }
            }
            None => (None, behind.strip_prefix(':').unwrap_or(behind)),
        };
        pieces.push(Piece::Field(Field { name, conversion, spec }));
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

fn parse_spec(text: &str) -> Result<Spec, Error> {
    let mut spec = Spec::default();
    let mut rest = text;
    let is_align = |character: char| matches!(character, '<' | '>' | '^' | '=');
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(fill), Some(align)) if is_align(align) => {
            (spec.fill, spec.align) = (fill, Some(align));
            rest = characters.as_str();
        }
        (Some(align), _) if is_align(align) => {
            spec.align = Some(align);
            rest = &text[1..];
        }
        _ => {}
    }
    if let Some(sign @ ('+' | '-' | ' ')) = rest.chars().next() {
        spec.sign = sign;
        rest = &rest[1..];
    }
    if let Some(behind) = rest.strip_prefix('#') {
        (spec.is_alternate, rest) = (true, behind);
    }
    if let Some(behind) = rest.strip_prefix('0') {
        if spec.align.is_none() {
            (spec.fill, spec.align) = ('0', Some('='));
        }
        rest = behind;
    }
    spec.width = digits(&mut rest)?.unwrap_or(0);
    if let Some(grouping @ (',' | '_')) = rest.chars().next() {
        spec.grouping = Some(grouping);
        rest = &rest[1..];
    }
    if let Some(behind) = rest.strip_prefix('.') {
        rest = behind;
        spec.precision = Some(digits(&mut rest)?.ok_or_else(|| Error::new("Format specifier missing precision"))?);
    }
    spec.kind = next(&mut rest);
    if !rest.is_empty() {
        return Err(Error::new(format!("Invalid format specifier '{text}'")));
    }
    Ok(spec)
}

/// `format(value, spec)`.
pub(crate) fn by_spec(budget: &mut Budget, value: &Value, spec_text: &str) -> Result<String, Error> {
    if spec_text.is_empty() {
        return print::to_string(budget, value);
    }
    let mut spec = parse_spec(spec_text)?;
    let unknown = |spec: &Spec| {
        let kind = spec.kind.unwrap_or(' ');
        Error::new(format!("Unknown format code '{kind}' for object of type '{}'", type_name(value)))
    };
    let text = match value {
        Value::Str(text) | Value::Markup(text) => {
            if spec.kind.is_some_and(|kind| kind != 's') {
                return Err(unknown(&spec));
            }
            if spec.align == Some('=') && spec.fill != '0'
                || spec.sign != '-'
                || spec.is_alternate
                || spec.grouping.is_some()
            {
                return Err(Error::new(format!("Invalid format specifier '{spec_text}' for a text")));
            }
            if spec.align == Some('=') {
                // A zero before the width fills at the end of a text.
                spec.align = Some('<');
            }
            budget.take(text.len())?;
            let text: String = match spec.precision {
                Some(precision) => text.chars().take(precision).collect(),
                None => text.as_ref().to_owned(),
            };
            spec.align.get_or_insert('<');
            padded(&spec, "", &text)
        }
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
            number_by_spec(&spec, value).ok_or_else(|| unknown(&spec))??
        }
        _ => return Err(Error::new(format!("unsupported format string passed to {}.__format__", type_name(value)))),
    };
    budget.take(text.len())?;
    Ok(text)
}

/// `None` where the type has no such code.
fn number_by_spec(spec: &Spec, value: &Value) -> Option<Result<String, Error>> {
    let as_int = value.as_int();
    let kind = match (spec.kind, as_int) {
        (None, Some(_)) => 'd',
        (None, None) => ' ',
        (Some(kind), _) => kind,
    };
    let mut spec = spec.clone();
    if let Some(int) = as_int
        && matches!(kind, 'd' | 'n' | 'b' | 'o' | 'x' | 'X' | 'c')
    {
        if spec.precision.is_some() {
            return Some(Err(Error::new("Precision not allowed in integer format specifier")));
        }
        if kind == 'c' {
            let character = u32::try_from(int).ok().and_then(char::from_u32)?;
            spec.align.get_or_insert('<');
            return Some(Ok(padded(&spec, "", &character.to_string())));
        }
        let (prefix, digits) = match kind {
            'd' | 'n' => ("", int.unsigned_abs().to_string()),
            _ => radix(kind, int.unsigned_abs()),
        };
        let prefix = if spec.is_alternate { prefix } else { "" };
        let group = if matches!(kind, 'd' | 'n') { 3 } else { 4 };
        if spec.grouping == Some(',') && group == 4 {
            return Some(Err(Error::new(format!("Cannot specify ',' with '{kind}'."))));
        }
        return Some(Ok(grouped(&spec, &format!("{}{prefix}", sign(&spec, int < 0)), &digits, "", group)));
    }
    let number = value.as_float()?;
    let digits = match kind {
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            float_digits(kind, number.abs(), spec.precision.unwrap_or(6), spec.is_alternate)
        }
        'n' => float_digits('g', number.abs(), spec.precision.unwrap_or(6), spec.is_alternate),
        '%' => float_digits('f', number.abs() * 100.0, spec.precision.unwrap_or(6), spec.is_alternate)
            .map(|digits| digits + "%"),
        ' ' => match spec.precision {
            None if number.is_finite() => Ok(print::float(number.abs())),
            None => float_digits('g', number.abs(), 6, false),
            // As `g`, with one digit after the point at least.
            Some(precision) if number.is_finite() => {
                let precision = precision.clamp(1, 10_000);
                let digits = general(number.abs(), precision, precision - 1, false);
                Ok(if digits.contains(['.', 'e']) { digits } else { digits + ".0" })
            }
            Some(precision) => float_digits('g', number.abs(), precision, false),
        },
        _ => return None,
    };
    let digits = match digits {
        Ok(digits) => digits,
        Err(error) => return Some(Err(error)),
    };
    let is_negative = number.is_sign_negative() && !number.is_nan();
    let end = digits.find(|character: char| !character.is_ascii_digit()).unwrap_or(digits.len());
    let (integer, fraction) = digits.split_at(end);
    Some(Ok(grouped(&spec, sign(&spec, is_negative), integer, fraction, 3)))
}

/// Digits in groups, filled up to the width; zeros that fill are grouped too.
fn grouped(spec: &Spec, prefix: &str, digits: &str, fraction: &str, group: usize) -> String {
    let mut spec = spec.clone();
    spec.align.get_or_insert('>');
    let Some(separator) = spec.grouping else { return padded(&spec, prefix, &format!("{digits}{fraction}")) };
    let mut digits = digits.to_owned();
    if spec.align == Some('=') && spec.fill == '0' {
        let room = spec.width.saturating_sub(prefix.len() + fraction.len());
        let mut count = digits.len();
        while count > 0 && count + (count - 1) / group < room {
            count += 1;
        }
        digits = zero_filled(&digits, count);
    }
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(group) {
            text.push(separator);
        }
        text.push(digit);
    }
    padded(&spec, prefix, &format!("{text}{fraction}"))
}
