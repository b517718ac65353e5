//! What can be wrong with data: each error names the file and the line, what was expected, what was found, and the next
//! step.

use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{}: cannot {action}", path.display())]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    #[error("{}: no such file; check the path", path.display())]
    Missing { path: PathBuf },
    #[error("{}: expected a file of text or of rows, found {found}; give the files in it, or a pattern such as \"folder/*.txt\"", path.display())]
    NotAFile { path: PathBuf, found: &'static str },
    #[error(
        "data {pattern:?}: no file matches; check the path, and quote the pattern so that the shell leaves it alone"
    )]
    NoMatch { pattern: String },
    #[error("data {pattern:?}: not a valid pattern: {message}")]
    Pattern { pattern: String, message: String },
    #[error("data: no file was given; name at least one")]
    NoFiles,
    #[error("{}: {} bytes, at most {limit} are read of such a file", path.display(), bytes)]
    TooLarge { path: PathBuf, bytes: u64, limit: u64 },
    #[error("{}: {message}; expected a JSON object as transformers writes it", path.display())]
    Json { path: PathBuf, message: String },
    #[error("{}: not a tokenizer that can be read: {message}; expected the tokenizer.json of a Hugging Face folder", path.display())]
    Tokenizer { path: PathBuf, message: String },
    #[error(
        "{}: token {token:?} has id {id}, and the model's embedding has {rows} rows (ids 0 to {}); take the tokenizer that \
         belongs to the weights, or resize the embedding",
        path.display(), rows.saturating_sub(1)
    )]
    BeyondEmbedding { path: PathBuf, token: String, id: u32, rows: u64 },
    #[error("{what}: {tokens} tokens, and the model's position embedding has {rows} rows; {next}")]
    BeyondPositions { what: String, tokens: u64, rows: u64, next: String },
    #[error("{}: the tokenizer cannot encode this: {message}", place)]
    Encode { place: Place, message: String },
    #[error("{place}: byte {byte} of the file is not UTF-8; convert the file, for example with iconv -t UTF-8")]
    Utf8 { place: Place, byte: u64 },
    #[error("{place}: {what}: damaged or cut off: {message}; download or write the file again")]
    Damaged { place: Place, what: &'static str, message: String },
    #[error("{}: {found} is not supported; {next}", path.display())]
    UnknownFormat { path: PathBuf, found: String, next: &'static str },
    #[error("{}: {why}; its columns are {}", path.display(), list(has))]
    Columns { path: PathBuf, why: String, has: Vec<String> },
    #[error("{}: {found}, and {}: {other}; train them apart, or say what they are with --data-format", path.display(), first.display())]
    MixedRows { first: PathBuf, other: &'static str, path: PathBuf, found: &'static str },
    #[error("{place}: {fault}")]
    Row { place: Place, fault: RowFault },
    #[error("{}: the file changed while it was read; let the other program finish and start again", path.display())]
    Changed { path: PathBuf },
    #[error("{name}: expected {expected}, got {got}")]
    Setting { name: &'static str, expected: String, got: String },
    #[error(
        "position: {why}; start the epoch from its beginning, or give the data, the tokenizer and the options that the position was saved with"
    )]
    Position { why: String },
    #[error("{}: no chat template: expected chat_template.jinja, or \"chat_template\" in tokenizer_config.json; give a template, or train on plain text", folder.display())]
    NoTemplate { folder: PathBuf },
    #[error("{}: {}; correct the template", path.display(), message)]
    Template { path: PathBuf, message: String },
    #[error("{what}: nothing to read from: {why}")]
    Empty { what: String, why: String },
    #[error(
        "{first}: no row of the data supervises an end-of-turn token ({expected}), so the model would never learn to stop: {why}; {next}"
    )]
    EndOfTurn { first: Place, expected: String, why: String, next: String },
}

/// A line of a file, counted from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub path: PathBuf,
    pub line: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// Where a model's template is.
const TEMPLATE_FILE: &str =
    "chat_template.jinja of the model's folder, or \"chat_template\" in its tokenizer_config.json";

/// What is wrong with one row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowFault {
    #[error("the row is longer than {limit_bytes} bytes; a row is one document, split it")]
    TooLongRow { limit_bytes: usize },
    #[error("not valid JSON: {message}; expected one object a line, or one list of objects")]
    Json { message: String },
    #[error(
        "expected a JSON object on each line, which --chat renders as a conversation; leave out --chat to train on the file as text"
    )]
    NotRows,
    #[error("not valid CSV: {message}")]
    Delimited { message: String },
    #[error("field {field:?}: not UTF-8; write the column as text")]
    NotUtf8 { field: String },
    #[error("byte {byte} of the file is not UTF-8; convert the file, for example with iconv -t UTF-8")]
    Utf8 { byte: u64 },
    #[error("expected an object, found {found}")]
    NotAnObject { found: &'static str },
    #[error("no field {field:?}; expected {expected}; the row has {}", list(has))]
    NoField { field: String, expected: &'static str, has: Vec<String> },
    #[error("field {field:?}: expected {expected}, found {found}")]
    FieldKind { field: String, expected: &'static str, found: &'static str },
    #[error("field {field:?}: {what}")]
    Field { field: String, what: String },
    #[error("the conversation has no message; remove the row")]
    NoMessages,
    /// Messages are counted from one in what is said, and from zero here.
    #[error("message {}: {what}", index + 1)]
    Message { index: usize, what: String },
    #[error("the chat template refuses the conversation: {message}")]
    Template { message: String },
    #[error(
        "the turn of message {} cannot be found in the rendered conversation: {why}; mark the turns in the template with {{% generation %}} and {{% endgeneration %}}",
        index + 1
    )]
    LostTurn { index: usize, why: String },
    #[error(
        "message {}: the model's chat template does not render tool calls, so they would not be learned; put one that does in its place ({}), or remove the calls from the row",
        index + 1, TEMPLATE_FILE
    )]
    UnwrittenCalls { index: usize },
    #[error(
        "the chat template does not render the row's {name:?}, so the model would be trained without them; put one that does in its place ({}), or choose to ignore them (--ignore-unwritten-tools)",
        TEMPLATE_FILE
    )]
    Unwritten { name: &'static str },
    #[error("no supervised token: {why}")]
    NoSupervised { why: String },
    #[error(
        "{tokens} tokens, more than the {limit} of a block; raise --block-size, or give --overlong truncate or skip"
    )]
    TooLong { tokens: usize, limit: usize },
}

impl RowFault {
    /// What the parser found in a row. It counts lines from the row's first one, which the place of the row says.
    pub(crate) fn json(error: &serde_json::Error) -> Self {
        let said = error.to_string();
        let what = said.split(" at line ").next().unwrap_or(&said);
        let message = match (error.line(), error.column()) {
            (1, column @ 1..) => format!("{what} at column {column}"),
            _ => what.to_owned(),
        };
        RowFault::Json { message }
    }
}

/// Names shown in a message before it cuts.
const SHOWN: usize = 8;

pub(crate) fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "no field at all".to_owned();
    }
    let mut text: Vec<String> = names.iter().take(SHOWN).map(|name| format!("{:?}", cut(name))).collect();
    if names.len() > SHOWN {
        text.push(format!("and {} more", names.len() - SHOWN));
    }
    text.join(", ")
}

/// The start of a text from outside, short enough for one line of a message.
pub(crate) fn cut(text: &str) -> String {
    const CHARS: usize = 60;
    let mut short: String = text.chars().take(CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>, action: &'static str, source: io::Error) -> Self {
        let path = path.into();
        if source.kind() == io::ErrorKind::NotFound {
            return Error::Missing { path };
        }
        Error::Io { path, action, source }
    }

    /// The place a row-level error stands at, for callers that continue with the next row.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Error::Encode { place, .. }
            | Error::Utf8 { place, .. }
            | Error::Damaged { place, .. }
            | Error::Row { place, .. } => Some(place),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_a_rows_json_names_no_line_beside_the_files() {
        let said = |row: &str| RowFault::json(&serde_json::from_str::<serde_json::Value>(row).unwrap_err()).to_string();
        assert!(said("{\"a\": 1,,}").starts_with("not valid JSON: key must be a string at column 9; "));
        let cut_off = said("{\"a\":\n");
        assert!(cut_off.starts_with("not valid JSON: EOF while parsing a value; "), "{cut_off}");
    }
}
