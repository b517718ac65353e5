//! `--plugin NAME[:key=value,…]`, as the user types it.
//!
//! ```text
//! spec   = name [ ":" option { "," option } ]
//! option = key [ "=" value ]                 a key alone means true
//! ```
//!
//! A name, key or value that holds `:`, `,`, `=`, a quote or a space at its ends is put in quotes, `"…"` or `'…'`, as a whole.
//! Inside `"…"`, `\"` and `\\` stand for `"` and `\`; inside `'…'` everything stands for itself. A name with a `/` in it
//! is the path of a library instead of a protocol's id.

use std::{fmt, path::Path, str::FromStr};

/// One `--plugin` argument. The values are still text: the protocol's manifest says what they mean
/// ([`crate::typed_options`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginSpec {
    pub name: String,
    /// In the order given.
    pub options: Vec<(String, String)>,
}

/// Why a `--plugin` argument cannot be read. `column` counts characters from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--plugin {spec}: column {column}: {problem}; expected NAME[:key=value,…], with quotes around a value that holds `,` or `:`"
)]
pub struct SpecError {
    pub spec: String,
    pub column: usize,
    pub problem: String,
}

impl PluginSpec {
    /// Reads a specification.
    ///
    /// ```
    /// let spec = unswag_loader::PluginSpec::parse(r#"delhi:mode=2bit,table="a,b:c.json""#).unwrap();
    /// assert_eq!(spec.name, "delhi");
    /// assert_eq!(spec.options[1], ("table".to_owned(), "a,b:c.json".to_owned()));
    /// ```
    ///
    /// # Errors
    /// The column at which it stops making sense.
    pub fn parse(spec: &str) -> Result<Self, SpecError> {
        let mut reader = Reader { spec, chars: spec.chars().collect(), at: 0 };
        let name = reader.word(&[':'], "a protocol's name")?;
        let mut options = Vec::new();
        if reader.take(':') {
            loop {
                let key = reader.word(&['=', ','], "an option's name")?;
                let value = match reader.take('=') {
                    true => reader.value()?,
                    false => "true".to_owned(),
                };
                options.push((key, value));
                if !reader.take(',') {
                    break;
                }
            }
        }
        match reader.peek() {
            None => Ok(Self { name, options }),
            Some(c) => Err(reader.error(format!("`{c}` is one too many here"))),
        }
    }

    /// The library that the name is the path of, if it is one.
    pub fn as_path(&self) -> Option<&Path> {
        self.name.contains('/').then(|| Path::new(&self.name))
    }
}

impl FromStr for PluginSpec {
    type Err = SpecError;

    fn from_str(spec: &str) -> Result<Self, SpecError> {
        Self::parse(spec)
    }
}

/// As it would be typed: what [`PluginSpec::parse`] reads back.
impl fmt::Display for PluginSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quoted(&self.name))?;
        for (index, (key, value)) in self.options.iter().enumerate() {
            let separator = if index == 0 { ':' } else { ',' };
            write!(f, "{separator}{}={}", quoted(key), quoted(value))?;
        }
        Ok(())
    }
}

fn quoted(word: &str) -> String {
    let plain = !word.is_empty() && !word.contains([':', ',', '=', '"', '\'']) && word.trim() == word;
    match plain {
        true => word.to_owned(),
        false => format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

struct Reader<'a> {
    spec: &'a str,
    chars: Vec<char>,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn error(&self, problem: impl Into<String>) -> SpecError {
        SpecError { spec: crate::plain::one_line(self.spec, 200), column: self.at + 1, problem: problem.into() }
    }

    /// A name or key: not empty.
    fn word(&mut self, ends: &[char], what: &str) -> Result<String, SpecError> {
        if let Some(quote @ ('"' | '\'')) = self.peek() {
            return self.quoted(quote);
        }
        let word = self.until(ends);
        let word = word.trim();
        if word.is_empty() {
            return Err(self.error(format!("{what} is missing")));
        }
        Ok(word.to_owned())
    }

    /// A value: may be empty, and an unquoted one may hold `:` and `=` where that cannot be mistaken.
    fn value(&mut self) -> Result<String, SpecError> {
        if let Some(quote @ ('"' | '\'')) = self.peek() {
            return self.quoted(quote);
        }
        Ok(self.until(&[',']).trim().to_owned())
    }

    fn until(&mut self, ends: &[char]) -> String {
        let start = self.at;
        while self.peek().is_some_and(|c| !ends.contains(&c)) {
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }

    fn quoted(&mut self, quote: char) -> Result<String, SpecError> {
        let opening = self.at;
        self.at += 1;
        let mut word = String::new();
        loop {
            let c = self.peek().ok_or_else(|| SpecError {
                column: opening + 1,
                ..self.error(format!("the quote {quote} is never closed"))
            })?;
            self.at += 1;
            match c {
                c if c == quote => return Ok(word),
                '\\' if quote == '"' && matches!(self.peek(), Some('"' | '\\')) => {
                    word.extend(self.peek());
                    self.at += 1;
                }
                c => word.push(c),
            }
        }
    }
}
