//! Which names a document may use. They end up in messages, in safetensors headers and in other people's tools.

use crate::kinds::clipped;

/// Longer than any module path in use, short enough for a message.
const MOST_BYTES: usize = 512;

/// Any name: not empty, not a page, nothing that would garble a terminal.
pub(crate) fn check(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a name must not be empty".to_owned());
    }
    if name.len() > MOST_BYTES {
        return Err(format!("expected at most {MOST_BYTES} bytes, got {}", name.len()));
    }
    if let Some(bad) = name.chars().find(|c| c.is_control()) {
        return Err(format!("expected no control character, got {bad:?}"));
    }
    Ok(())
}

/// A module path or the name of a new parameter: words of letters, digits, `_` and `-`, joined by single dots.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    check(path)?;
    let is_word = |word: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        !word.is_empty() && word.chars().all(fits)
    };
    if !path.split('.').all(is_word) {
        return Err("expected words of letters, digits, _ and -, joined by single dots".to_owned());
    }
    Ok(())
}

/// The document's name for output `index` of the node at `path`.
pub(crate) fn output(path: &str, index: usize) -> String {
    match index {
        0 => path.to_owned(),
        _ => format!("{path}:{index}"),
    }
}

/// Whether `name` is what [`output`] gives, without making it: a graph has many.
pub(crate) fn is_output(name: &str, path: &str, index: usize) -> bool {
    match name.strip_prefix(path) {
        Some("") => index == 0,
        Some(rest) => index > 0 && rest.strip_prefix(':').is_some_and(|rest| rest == index.to_string()),
        None => false,
    }
}

/// A name as a message quotes it.
pub(crate) fn quoted(name: &str) -> String {
    clipped(&name.escape_debug().to_string())
}
