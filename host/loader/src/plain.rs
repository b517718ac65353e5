//! Text from a plugin, made fit to be shown: a terminal must not obey it.

/// `text` in one line, without control characters, cut at `max_chars`.
pub(crate) fn one_line(text: &str, max_chars: usize) -> String {
    let mut line = String::new();
    let mut chars = text.trim().chars();
    for c in chars.by_ref().take(max_chars) {
        match c {
            '\n' | '\r' | '\t' => line.push(' '),
            c if is_hostile(c) => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    if chars.next().is_some() {
        line.push('…');
    }
    line
}

/// Control characters, and the marks that reorder what is shown (Unicode TR 36, bidirectional text spoofing).
pub(crate) fn is_hostile(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}
