//! How names and paths from outside are shown in messages: quoted, escaped and cut, so that a hostile name cannot forge a
//! line of output, move the cursor or fill the screen.

use std::fmt;

/// Characters of a name that a message shows before it cuts.
const SHOWN_CHARS: usize = 100;

/// A name from a file: `"model.norm.weight"`, with control and invisible characters escaped and a long tail cut.
#[derive(Clone, PartialEq, Eq)]
pub struct Quoted(String);

impl Quoted {
    pub fn new(name: &str) -> Self {
        Quoted(name.chars().take(SHOWN_CHARS + 1).collect())
    }
}

impl From<&str> for Quoted {
    fn from(name: &str) -> Self {
        Quoted::new(name)
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for character in self.0.chars().take(SHOWN_CHARS) {
            if is_invisible(character) && !character.is_control() {
                write!(f, "{}", character.escape_unicode())?;
            } else {
                write!(f, "{}", character.escape_debug())?;
            }
        }
        if self.0.chars().nth(SHOWN_CHARS).is_some() {
            f.write_str("…")?;
        }
        f.write_str("\"")
    }
}

impl fmt::Debug for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Control characters, and the formatting characters that reorder or hide text around them.
pub(crate) fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A byte count for people: `1.5 GiB`, `17 bytes`.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}
