//! A template's text as tokens, with white space trimmed as transformers sets Jinja up: `trim_blocks`, `lstrip_blocks`.
//!
//! Follows the rules of Jinja2 3.1's lexer one by one.

use super::budget::Error;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Data(String),
    BlockBegin,
    BlockEnd,
    VariableBegin,
    VariableEnd,
    Name(String),
    Text(String),
    Int(i128),
    Float(f64),
    /// One of [`OPERATORS`].
    Operator(&'static str),
    End,
}

#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub kind: Kind,
    pub line: u32,
}

/// Longest first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";",
];

/// What Python's `str.isspace` and `\s` take for white space.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// Reads a template, without the one line break at its end.
///
/// # Errors
/// The line, and what is unsound there.
pub(crate) fn tokenize(source: &str) -> Result<Vec<Token>, Error> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { rest: source, line: 1, tokens: Vec::new(), starts_line: true };
    while !lexer.rest.is_empty() {
        lexer.root()?;
    }
    lexer.push(Kind::End);
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    rest: &'a str,
    line: u32,
    tokens: Vec<Token>,
    /// Whether what was read last ends in a line break.
    starts_line: bool,
}

impl<'a> Lexer<'a> {
    fn push(&mut self, kind: Kind) {
        self.tokens.push(Token { kind, line: self.line });
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, Error> {
        Err(Error::new(message).at(self.line))
    }

    /// Skips this number of bytes.
    fn advance(&mut self, bytes: usize) -> &'a str {
        let (read, rest) = self.rest.split_at(bytes);
        self.line += read.bytes().filter(|byte| *byte == b'\n').count() as u32;
        if !read.is_empty() {
            self.starts_line = read.ends_with('\n');
        }
        self.rest = rest;
        read
    }

    /// Text up to a tag, and that tag.
    fn root(&mut self) -> Result<(), Error> {
        let opening = self
            .rest
            .match_indices('{')
            .find(|(at, _)| matches!(self.rest.as_bytes().get(at + 1), Some(b'%' | b'{' | b'#')));
        let Some((at, _)) = opening else {
            let text = self.rest.to_owned();
            self.push(Kind::Data(text));
            self.advance(self.rest.len());
            return Ok(());
        };
        let (text, tag) = self.rest.split_at(at);
        let kind = tag.as_bytes()[1];
        let sign = tag[2..].chars().next().filter(|sign| matches!(sign, '-' | '+'));
        let begin = 2 + usize::from(sign.is_some());
        let text = trimmed(text, sign, kind != b'{', self.starts_line);
        if !text.is_empty() {
            self.push(Kind::Data(text.to_owned()));
        }
        self.advance(at);
        match kind {
            b'#' => {
                self.advance(begin);
                self.comment()
            }
            b'{' => {
                self.push(Kind::VariableBegin);
                self.advance(begin);
                self.inside(Kind::VariableEnd)
            }
            _ => {
                if let Some(bytes) = raw_begin(&tag[begin..]) {
                    self.advance(begin + bytes);
                    return self.raw();
                }
                self.push(Kind::BlockBegin);
                self.advance(begin);
                self.inside(Kind::BlockEnd)
            }
        }
    }

    fn comment(&mut self) -> Result<(), Error> {
        let Some(at) = self.rest.find("#}") else {
            if self.rest.is_empty() {
                return Ok(());
            }
            return self.fail("a comment is not closed; expected #}");
        };
        let inner = &self.rest[..at];
        let (is_stripped, keeps) = (inner.ends_with('-'), inner.ends_with('+'));
        self.advance(at);
        let bytes = end_bytes(self.rest, "#}", is_stripped, !keeps);
        self.advance(bytes);
        Ok(())
    }

    /// Everything up to `{% endraw %}` is text.
    fn raw(&mut self) -> Result<(), Error> {
        for (at, _) in self.rest.match_indices("{%") {
            let tag = &self.rest[at + 2..];
            let sign = tag.chars().next().filter(|sign| matches!(sign, '-' | '+'));
            let tag = &tag[usize::from(sign.is_some())..];
            let name = tag.trim_start_matches(is_space);
            let Some(behind) = name.strip_prefix("endraw") else { continue };
            let end = behind.trim_start_matches(is_space);
            let (is_stripped, end) = match end.strip_prefix('-') {
                Some(end) => (true, end),
                None => (false, end),
            };
            let keeps = end.strip_prefix('+');
            let end = keeps.unwrap_or(end);
            if !end.starts_with("%}") || (is_stripped && keeps.is_some()) {
                continue;
            }
            let text = trimmed(&self.rest[..at], sign, true, self.starts_line).to_owned();
            let end_at = self.rest.len() - end.len();
            if !text.is_empty() {
                self.push(Kind::Data(text));
            }
            let bytes = end_bytes(end, "%}", is_stripped, keeps.is_none());
            self.advance(end_at + bytes);
            return Ok(());
        }
        if self.rest.is_empty() {
            return Ok(());
        }
        self.fail("{% raw %} is not closed; expected {% endraw %}")
    }

    /// The inside of a tag, with its end.
    fn inside(&mut self, end: Kind) -> Result<(), Error> {
        let mut open: Vec<&'static str> = Vec::new();
        let close = if end == Kind::BlockEnd { "%}" } else { "}}" };
        loop {
            if open.is_empty() {
                let (sign, rest) = match self.rest.as_bytes().first() {
                    Some(b'-') => (Some('-'), &self.rest[1..]),
                    Some(b'+') if end == Kind::BlockEnd => (Some('+'), &self.rest[1..]),
                    _ => (None, self.rest),
                };
                if rest.starts_with(close) {
                    let trims_line = end == Kind::BlockEnd && sign.is_none();
                    let bytes = end_bytes(rest, close, sign == Some('-'), trims_line);
                    self.push(end);
                    self.advance(usize::from(sign.is_some()) + bytes);
                    return Ok(());
                }
            }
            let Some(first) = self.rest.chars().next() else {
                // The parser says what it expected instead.
                return Ok(());
            };
            if is_space(first) {
                let bytes = self.rest.len() - self.rest.trim_start_matches(is_space).len();
                self.advance(bytes);
            } else if first.is_ascii_digit() {
                self.number()?;
            } else if first.is_alphabetic() || first == '_' {
                let is_part = |c: char| c.is_alphanumeric() || c == '_';
                let bytes = self.rest.len() - self.rest.trim_start_matches(is_part).len();
                let name = self.rest[..bytes].to_owned();
                self.push(Kind::Name(name));
                self.advance(bytes);
            } else if matches!(first, '\'' | '"') {
                self.text(first)?;
            } else {
                self.operator(first, &mut open)?;
            }
        }
    }

    fn operator(&mut self, first: char, open: &mut Vec<&'static str>) -> Result<(), Error> {
        let Some(&operator) = OPERATORS.iter().find(|operator| self.rest.starts_with(**operator)) else {
            return self.fail(format!("unexpected character {first:?}"));
        };
        match operator {
            "{" => open.push("}"),
            "(" => open.push(")"),
            "[" => open.push("]"),
            "}" | ")" | "]" => match open.pop() {
                None => return self.fail(format!("unexpected '{operator}'")),
                Some(expected) if expected != operator => {
                    return self.fail(format!("unexpected '{operator}', expected '{expected}'"));
                }
                Some(_) => {}
            },
            _ => {}
        }
        self.push(Kind::Operator(operator));
        self.advance(operator.len());
        Ok(())
    }

    fn number(&mut self) -> Result<(), Error> {
        let follows_dot = matches!(self.tokens.last(), Some(Token { kind: Kind::Operator("."), .. }));
        if !follows_dot && let Some(bytes) = float_bytes(self.rest) {
            let text = self.rest[..bytes].replace('_', "");
            let number = text.parse().map_err(|_| Error::new(format!("{text} is no number")).at(self.line))?;
            self.push(Kind::Float(number));
            self.advance(bytes);
            return Ok(());
        }
        let bytes = self.rest.as_bytes();
        let (radix, start) = match (bytes[0], bytes.get(1).map(u8::to_ascii_lowercase)) {
            (b'0', Some(b'x')) => (16, 2),
            (b'0', Some(b'o')) => (8, 2),
            (b'0', Some(b'b')) => (2, 2),
            _ => (10, 0),
        };
        let is_digit = |byte: u8| match (radix, bytes[0]) {
            (10, b'0') => byte == b'0',
            _ => char::from(byte).is_digit(radix),
        };
        let mut end = start;
        loop {
            match bytes.get(end) {
                Some(byte) if is_digit(*byte) => end += 1,
                Some(b'_')
                    if (end > start || radix != 10) && bytes.get(end + 1).is_some_and(|byte| is_digit(*byte)) =>
                {
                    end += 2;
                }
                _ => break,
            }
        }
        if end == start {
            // `0x` without digits is a zero and a name.
            self.push(Kind::Int(0));
            self.advance(1);
            return Ok(());
        }
        let digits = self.rest[start..end].replace('_', "");
        match i128::from_str_radix(&digits, radix) {
            Ok(number) => self.push(Kind::Int(number)),
            Err(_) => return self.fail("an integer of more than 128 bits"),
        }
        self.advance(end);
        Ok(())
    }

    fn text(&mut self, quote: char) -> Result<(), Error> {
        let mut escaped = false;
        let end = self.rest[1..].find(|character: char| {
            let is_end = !escaped && character == quote;
            escaped = !escaped && character == '\\';
            is_end
        });
        let Some(end) = end else {
            return self.fail(format!("unexpected character {quote:?}; the text is not closed"));
        };
        let text = unescape(&self.rest[1..=end]).map_err(|error| error.at(self.line))?;
        self.push(Kind::Text(text));
        self.advance(end + 2);
        Ok(())
    }
}

/// The text before a tag: `-` strips all white space at its end, `+` none, else a block strips the spaces of its line.
fn trimmed(text: &str, sign: Option<char>, is_block: bool, starts_line: bool) -> &str {
    match sign {
        Some('-') => text.trim_end_matches(is_space),
        None if is_block => {
            let line_start = text.rfind('\n').map_or(0, |at| at + 1);
            let is_blank = text[line_start..].chars().all(is_space);
            if (line_start > 0 || starts_line) && is_blank { &text[..line_start] } else { text }
        }
        _ => text,
    }
}

/// Bytes of a tag's end, with the white space that it takes along.
fn end_bytes(rest: &str, close: &str, is_stripped: bool, trims_line: bool) -> usize {
    let behind = &rest[close.len()..];
    let taken = if is_stripped {
        behind.len() - behind.trim_start_matches(is_space).len()
    } else {
        usize::from(trims_line && behind.starts_with('\n'))
    };
    close.len() + taken
}

/// Bytes of ` raw %}` with what it takes along, where that stands here.
fn raw_begin(tag: &str) -> Option<usize> {
    let behind = tag.trim_start_matches(is_space).strip_prefix("raw")?.trim_start_matches(is_space);
    let end = match behind.strip_prefix('-') {
        Some(end) => end.strip_prefix("%}")?.trim_start_matches(is_space),
        None => behind.strip_prefix("%}")?,
    };
    Some(tag.len() - end.len())
}

/// Bytes of a number with a fraction or an exponent, where one stands here.
fn float_bytes(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let digits = |start: usize| {
        let mut end = start;
        while bytes.get(end).is_some_and(u8::is_ascii_digit)
            || (end > start && bytes.get(end) == Some(&b'_') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit))
        {
            end += 1;
        }
        (end > start).then_some(end)
    };
    let integer = digits(0)?;
    let fraction = bytes.get(integer).filter(|byte| **byte == b'.').and_then(|_| digits(integer + 1));
    let mantissa = fraction.unwrap_or(integer);
    let exponent = bytes.get(mantissa).filter(|byte| byte.eq_ignore_ascii_case(&b'e')).and_then(|_| {
        let sign = usize::from(matches!(bytes.get(mantissa + 1), Some(b'+' | b'-')));
        digits(mantissa + 1 + sign)
    });
    exponent.or(fraction)
}

/// A text literal without its quotes, as Python's `unicode-escape` reads it.
fn unescape(text: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = rest[at + 1..].chars().next().ok_or_else(|| Error::new("a text ends in a single \\"))?;
        let behind = &rest[at + 1 + escape.len_utf8()..];
        let code = |digits: usize| -> Result<char, Error> {
            let hex = behind.get(..digits).filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let hex = hex.ok_or_else(|| Error::new(format!("truncated \\{escape} escape in a text")))?;
            let number = u32::from_str_radix(hex, 16).map_err(|error| Error::new(error.to_string()))?;
            char::from_u32(number).ok_or_else(|| Error::new(format!("\\{escape}{hex} stands for no character")))
        };
        rest = behind;
        match escape {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(escape),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\u{b}'),
            'x' | 'u' | 'U' => {
                let digits = match escape {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                out.push(code(digits)?);
                rest = &behind[digits..];
            }
            '0'..='7' => {
                let digits = behind.bytes().take(2).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
                let octal = &rest_from(text, behind, escape)[..1 + digits];
                let number = u32::from_str_radix(octal, 8).map_err(|error| Error::new(error.to_string()))?;
                out.extend(char::from_u32(number));
                rest = &behind[digits..];
            }
            'N' => return Err(Error::new("\\N{...} in a text is not supported; write the character itself")),
            _ => out.extend(['\\', escape]),
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The text from an ASCII escape's own character on.
fn rest_from<'a>(text: &'a str, behind: &str, escape: char) -> &'a str {
    &text[text.len() - behind.len() - escape.len_utf8()..]
}
