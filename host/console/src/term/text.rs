//! What may reach a terminal: text whose every control character is escaped, but for the program's own styling.
//!
//! Much of what is printed comes from files: paths, names, values of a configuration, messages of a chat template. Written raw, a
//! control sequence in them sets the terminal's title, clears the screen or forges a line, and a bidirectional control shows another
//! text than the one that is there (Unicode Technical Report 36). So a style is not a control sequence until the text leaves: [`paint`] writes a
//! mark that holds a key, drawn at random once in a process, which no file can know. [`render`] replaces marks by sequences and escapes
//! every other control character, on a terminal and elsewhere alike.
//!
//! The escapes are those of JSON (`\u001b`), so that a JSON document stays the same document.

use std::{
    collections::hash_map::RandomState,
    fmt::{self, Display, Write},
    hash::{BuildHasher, Hasher},
    sync::LazyLock,
};

/// How a word is set off from the text around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Bold,
    Dim,
    Good,
    Bad,
    Warn,
    Name,
}

impl Style {
    const ALL: [(Style, char); 6] = [
        (Style::Bold, 'b'),
        (Style::Dim, 'd'),
        (Style::Good, 'g'),
        (Style::Bad, 'r'),
        (Style::Warn, 'y'),
        (Style::Name, 'c'),
    ];

    fn letter(self) -> char {
        Self::ALL.iter().find(|(style, _)| *style == self).map_or(PLAIN, |(_, letter)| *letter)
    }

    fn ansi(self) -> anstyle::Style {
        use anstyle::{AnsiColor, Style as Ansi};
        match self {
            Style::Bold => Ansi::new().bold(),
            Style::Dim => Ansi::new().dimmed(),
            Style::Good => AnsiColor::Green.on_default(),
            Style::Bad => AnsiColor::Red.on_default().bold(),
            Style::Warn => AnsiColor::Yellow.on_default(),
            Style::Name => AnsiColor::Cyan.on_default(),
        }
    }
}

/// Starts a mark: a code point that Unicode keeps free for a program's own use.
const MARK: char = '\u{10fffe}';
/// The letter of the mark that ends a style.
const PLAIN: char = '0';

/// What tells our marks from the same characters in a file.
static KEY: LazyLock<String> = LazyLock::new(|| format!("{:016x}", RandomState::new().build_hasher().finish()));

/// `text` in `style`: one line, escaped as [`value`] escapes it.
pub fn paint(style: Style, text: impl Display) -> String {
    let key = KEY.as_str();
    format!("{MARK}{key}{}{}{MARK}{key}{PLAIN}", style.letter(), value(text))
}

/// A value within a line: no character of it moves the cursor, starts a line or reorders what is beside it. What [`paint`] wrote stays
/// painted.
pub fn value(text: impl Display) -> String {
    let mut escaped = Value(String::new());
    write!(escaped, "{text}").expect("writing to a string does not fail, and what is shown has no error to report");
    escaped.0
}

struct Value(String);

impl Write for Value {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in pieces(text) {
            match piece {
                Piece::Text(text) | Piece::Mark(_, text) => self.0.push_str(text),
                Piece::Control(c) => push_escaped(&mut self.0, c),
            }
        }
        Ok(())
    }
}

/// A page as it leaves the program: its lines stay lines, marks become styles, and every other control character is escaped.
pub(super) fn render(page: &str) -> String {
    let mut rendered = String::with_capacity(page.len());
    for piece in pieces(page) {
        match piece {
            Piece::Text(text) => rendered.push_str(text),
            Piece::Mark(Some(style), _) => rendered.push_str(&style.ansi().render().to_string()),
            Piece::Mark(None, _) => rendered.push_str(&anstyle::Reset.render().to_string()),
            Piece::Control(c @ ('\n' | '\t')) => rendered.push(c),
            Piece::Control(c) => push_escaped(&mut rendered, c),
        }
    }
    rendered
}

/// Characters that a terminal shows of a value.
pub(super) fn width(value: &str) -> usize {
    let shown = |piece| match piece {
        Piece::Text(text) => text.chars().count(),
        Piece::Mark(..) => 0,
        Piece::Control(_) => 1,
    };
    pieces(value).map(shown).sum()
}

fn push_escaped(text: &mut String, c: char) {
    match c {
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        // All of them are of the first plane: four digits hold them.
        c => text.push_str(&format!("\\u{:04x}", u32::from(c))),
    }
}

/// Control characters (C0, DELETE, C1), separators of lines, and the controls of bidirectional text.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

enum Piece<'a> {
    Text(&'a str),
    /// A mark of ours, and how it is written; no style ends one.
    Mark(Option<Style>, &'a str),
    Control(char),
}

fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        if let Some((style, len)) = mark(rest) {
            let (written, after) = rest.split_at(len);
            rest = after;
            return Some(Piece::Mark(style, written));
        }
        if is_control(first) {
            rest = &rest[first.len_utf8()..];
            return Some(Piece::Control(first));
        }
        let ends = |&(_, c): &(usize, char)| c == MARK || is_control(c);
        let end = rest.char_indices().skip(1).find(ends).map_or(rest.len(), |(at, _)| at);
        let (plain, after) = rest.split_at(end);
        rest = after;
        Some(Piece::Text(plain))
    })
}

/// The mark that a text starts with, and its length.
fn mark(text: &str) -> Option<(Option<Style>, usize)> {
    let letter = text.strip_prefix(MARK)?.strip_prefix(KEY.as_str())?.chars().next()?;
    let style = Style::ALL.iter().find(|(_, known)| *known == letter).map(|(style, _)| *style);
    (style.is_some() || letter == PLAIN).then_some((style, MARK.len_utf8() + KEY.len() + letter.len_utf8()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file may try: the title, the screen, a colour, C1's CSI, another line, text that runs backwards.
    const HOSTILE: &str =
        "a\u{1b}]0;T\u{7}\u{1b}[2J\u{1b}[31m\u{9b}2J\r\nb\u{202e}\u{2066}\u{200f}\u{61c}\u{2028}\u{7f}\t.";

    #[test]
    fn a_value_is_one_line_without_a_control() {
        let shown = value(HOSTILE);
        assert_eq!(shown, r"a\u001b]0;T\u0007\u001b[2J\u001b[31m\u009b2J\r\nb\u202e\u2066\u200f\u061c\u2028\u007f\t.");
        assert_eq!(value(&shown), shown, "to escape what is escaped changes nothing");
        assert_eq!(width(&shown), shown.chars().count());
    }

    #[test]
    fn a_page_has_our_styles_and_no_other_sequence() {
        let page = format!("{} {HOSTILE}\n", paint(Style::Bad, HOSTILE));
        let rendered = render(&page);
        let plain = anstream::adapter::strip_str(&rendered).to_string();
        assert!(rendered.starts_with("\u{1b}[1m\u{1b}[31m"), "{rendered:?}");
        assert_eq!(rendered.matches('\u{1b}').count(), 3, "bold, red, and their end: {rendered:?}");
        assert!(!plain.contains(|c| is_control(c) && !"\n\t".contains(c)), "{plain:?}");
        // A page's lines are its own; a painted value has none.
        assert_eq!(plain.matches('\n').count(), 2);
    }

    #[test]
    fn marks_of_another_process_are_text() {
        let forged = format!("{MARK}{}r", "0".repeat(16));
        assert_eq!(render(&forged), forged);
        assert_eq!(value(&forged), forged);
    }

    #[test]
    fn what_is_painted_stays_painted_within_another_value() {
        let nested = value(format!("{}\n", paint(Style::Good, "ok")));
        assert_eq!(render(&nested), "\u{1b}[32mok\u{1b}[0m\\n");
        assert_eq!(width(&nested), 4);
    }

    #[test]
    fn a_json_document_stays_the_same_document() {
        let document = serde_json::json!({ HOSTILE: [HOSTILE, "ordinary, also in \u{200d} Persian"] });
        let printed = render(&format!("{document:#}"));
        assert!(!printed.contains(|c| is_control(c) && c != '\n'), "{printed:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&printed).ok(), Some(document));
    }
}
