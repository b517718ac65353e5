//! What Python knows of characters and Rust's standard library does not.

use unicode_general_category::{GeneralCategory as Category, get_general_category};

use super::budget::Error;

pub(crate) use super::lexer::is_space;

/// Whether `repr` writes it as it is.
pub(crate) fn is_printable(character: char) -> bool {
    character == ' '
        || !matches!(
            get_general_category(character),
            Category::Control
                | Category::Format
                | Category::Surrogate
                | Category::PrivateUse
                | Category::Unassigned
                | Category::LineSeparator
                | Category::ParagraphSeparator
                | Category::SpaceSeparator
        )
}

pub(crate) fn is_alphabetic(character: char) -> bool {
    matches!(
        get_general_category(character),
        Category::ModifierLetter
            | Category::TitlecaseLetter
            | Category::UppercaseLetter
            | Category::LowercaseLetter
            | Category::OtherLetter
    )
}

pub(crate) fn is_decimal(character: char) -> bool {
    get_general_category(character) == Category::DecimalNumber
}

pub(crate) fn is_alphanumeric(character: char) -> bool {
    is_alphabetic(character)
        || matches!(
            get_general_category(character),
            Category::DecimalNumber | Category::LetterNumber | Category::OtherNumber
        )
}

/// What `\w` matches.
pub(crate) fn is_word(character: char) -> bool {
    character == '_' || is_alphanumeric(character)
}

pub(crate) fn is_titlecase(character: char) -> bool {
    get_general_category(character) == Category::TitlecaseLetter
}

pub(crate) fn is_cased(character: char) -> bool {
    character.is_uppercase() || character.is_lowercase() || is_titlecase(character)
}

/// `str.capitalize`: the first character in title case, the others in lower case.
pub(crate) fn capitalize(text: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    if let Some(first) = characters.next() {
        to_title(first, &mut out);
        lower(characters.as_str(), &mut out)?;
    }
    Ok(out)
}

/// `str.title`: the first letter of each run of letters in title case.
pub(crate) fn title(text: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    let mut follows_cased = false;
    for character in text.chars() {
        if follows_cased {
            lower(character.encode_utf8(&mut [0; 4]), &mut out)?;
        } else {
            to_title(character, &mut out);
        }
        follows_cased = is_cased(character);
    }
    Ok(out)
}

/// Lower case that depends on nothing around it.
fn lower(text: &str, out: &mut String) -> Result<(), Error> {
    if text.contains('\u{3a3}') {
        return Err(Error::new("title case of a text with a capital sigma is not supported"));
    }
    out.extend(text.chars().flat_map(char::to_lowercase));
    Ok(())
}

pub(crate) fn swap_case(text: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_uppercase() {
            lower(character.encode_utf8(&mut [0; 4]), &mut out)?;
        } else if character.is_lowercase() {
            out.extend(character.to_uppercase());
        } else {
            out.push(character);
        }
    }
    Ok(out)
}

/// `str.casefold`, of the scripts where it is lower case.
pub(crate) fn case_fold(text: &str) -> Result<String, Error> {
    let differs = |c: char| c >= '\u{250}' || matches!(c, 'ß' | 'µ' | 'İ' | 'ŉ' | 'ſ' | 'ǰ');
    match text.chars().find(|character| differs(*character)) {
        Some(character) => Err(Error::new(format!("casefold of {character:?} is not supported; use lower"))),
        None => Ok(text.to_lowercase()),
    }
}

fn to_title(character: char, out: &mut String) {
    match character {
        'Ǆ'..='ǆ' => out.push('ǅ'),
        'Ǉ'..='ǉ' => out.push('ǈ'),
        'Ǌ'..='ǌ' => out.push('ǋ'),
        'Ǳ'..='ǳ' => out.push('ǲ'),
        // Georgian has upper case, but its title case is the letter itself.
        '\u{10d0}'..='\u{10ff}' => out.push(character),
        // Greek with an iota below: the small letters come eight before those with a capital.
        '\u{1f80}'..='\u{1faf}' => {
            out.push(char::from_u32(character as u32 | 8).expect("the block has no gap"));
        }
        '\u{1fb3}' | '\u{1fbc}' => out.push('\u{1fbc}'),
        '\u{1fc3}' | '\u{1fcc}' => out.push('\u{1fcc}'),
        '\u{1ff3}' | '\u{1ffc}' => out.push('\u{1ffc}'),
        '\u{1fb2}' => out.push_str("\u{1fba}\u{345}"),
        '\u{1fb4}' => out.push_str("\u{386}\u{345}"),
        '\u{1fb7}' => out.push_str("\u{391}\u{342}\u{345}"),
        '\u{1fc2}' => out.push_str("\u{1fca}\u{345}"),
        '\u{1fc4}' => out.push_str("\u{389}\u{345}"),
        '\u{1fc7}' => out.push_str("\u{397}\u{342}\u{345}"),
        '\u{1ff2}' => out.push_str("\u{1ffa}\u{345}"),
        '\u{1ff4}' => out.push_str("\u{38f}\u{345}"),
        '\u{1ff7}' => out.push_str("\u{3a9}\u{342}\u{345}"),
        'ŉ' => out.extend(character.to_uppercase()),
        _ => {
            let mut upper = character.to_uppercase();
            out.extend(upper.next());
            out.extend(upper.flat_map(char::to_lowercase));
        }
    }
}

/// What `str.isdigit` takes besides decimal digits: superscripts, and digits in circles and the like.
pub(crate) fn is_digit(character: char) -> bool {
    is_decimal(character)
        || matches!(
            character,
            '²' | '³'
                | '¹'
                | '\u{1369}'..='\u{1371}'
                | '\u{19da}'
                | '\u{2070}'
                | '\u{2074}'..='\u{2079}'
                | '\u{2080}'..='\u{2089}'
                | '\u{2460}'..='\u{2468}'
                | '\u{2474}'..='\u{247c}'
                | '\u{2488}'..='\u{2490}'
                | '\u{24ea}'
                | '\u{24f5}'..='\u{24fd}'
                | '\u{24ff}'
                | '\u{2776}'..='\u{277e}'
                | '\u{2780}'..='\u{2788}'
                | '\u{278a}'..='\u{2792}'
                | '\u{10a40}'..='\u{10a43}'
                | '\u{10e60}'..='\u{10e68}'
                | '\u{11052}'..='\u{1105a}'
                | '\u{1f100}'..='\u{1f10a}'
        )
}

/// A bound of the number of a text's lines.
pub(crate) fn most_lines(text: &str) -> usize {
    1 + text.bytes().filter(|byte| matches!(byte, b'\n'..=b'\r' | 0x1c..=0x1e | 0x85 | 0xa8 | 0xa9)).count()
}

/// The lines of a text, each with its end, as `str.splitlines` has them.
pub(crate) fn lines(text: &str) -> Vec<(&str, &str)> {
    let mut lines = Vec::new();
    let mut rest = text;
    let is_end = |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    while let Some(at) = rest.find(is_end) {
        let (line, behind) = rest.split_at(at);
        let end = if behind.starts_with("\r\n") { 2 } else { behind.chars().next().map_or(0, char::len_utf8) };
        let (end, behind) = behind.split_at(end);
        lines.push((line, end));
        rest = behind;
    }
    if !rest.is_empty() {
        lines.push((rest, ""));
    }
    lines
}

/// Whether it is a letter that may stand for a number, such as the Chinese ones.
pub(crate) fn may_be_numeric_letter(character: char) -> bool {
    get_general_category(character) == Category::OtherLetter
}
