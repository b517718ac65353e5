//! Which names a document may use. They end up in messages, in safetensors headers and in other people's tools.

use crate::kinds::clipped;

/// Longer than any module path in use, short enough for a message.
const MOST_BYTES: usize = 512;

const PATH: &str = "expected words of letters, digits, _ and -, joined by single dots";

/// Any name: not empty, not a page, nothing that would garble a terminal.
pub(crate) fn check(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a name must not be empty".to_owned());
    }
    if name.len() > MOST_BYTES {
        return Err(format!("expected at most {MOST_BYTES} bytes, got {}", name.len()));
    }
    let is_plain = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    if !name.bytes().all(is_plain)
        && let Some(bad) = name.chars().find(|c| c.is_control())
    {
        return Err(format!("expected no control character, got {bad:?}"));
    }
    Ok(())
}

/// A module path or the name of a new parameter: words of letters, digits, `_` and `-`, joined by single dots.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    check(path)?;
    // One pass over bytes: a graph has many long paths. The leading dot makes an empty first word two dots in a row.
    let mut last = b'.';
    for &byte in path.as_bytes() {
        let fits = byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' || (byte == b'.' && last != b'.');
        if !fits {
            return Err(PATH.to_owned());
        }
        last = byte;
    }
    if last == b'.' {
        return Err(PATH.to_owned());
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

/// A plugin's own sentence: as long as it likes within reason, and nothing that would garble a terminal.
pub(crate) fn sentence(text: &str) -> String {
    const MOST_CHARS: usize = 2000;
    let is_plain = |c: &char| !c.is_control() || *c == '\n';
    let mut shown: String = text.chars().filter(is_plain).take(MOST_CHARS).collect();
    if text.chars().nth(MOST_CHARS).is_some() {
        shown.push('…');
    }
    shown
}
