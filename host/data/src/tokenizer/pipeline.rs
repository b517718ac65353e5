//! What the normalizer, the pre-tokenizer, the post-processor and the decoder of a file may do to a text.
//!
//! The library runs whatever they say: three replacements of each character by a thousand bytes make a billion bytes of
//! one. Steps are checked by their fields, whatever their type: a field that inserts text has a bound, and the product of
//! all insertions too. Real ones insert a few bytes, and up to a factor of twelve (Llama 2: a prefix and a mark for each
//! space). Unicode's own decompositions reach eleven.

use serde_json::{Map, Value};

/// By how much one part may multiply a text without a look at the text.
const CERTAIN: u64 = 16;
/// By how much the normalizers may multiply a text at most, each character by its worst. Real ones with a table of
/// characters reach a few hundred, which no real text comes near: there the text is looked at ([`Growth::check`]).
const MOST: u64 = 1 << 14;
/// Steps of all parts together; real files have at most some twenty.
const MOST_STEPS: usize = 128;
/// Bytes that are put before each piece of text.
const MOST_PREPENDED_BYTES: usize = 64;
/// Tokens that a post-processor puts around a text.
const MOST_AROUND: usize = 256;
/// Bytes of all regular expressions, and bytes that each takes compiled.
const MOST_REGEX_BYTES: usize = 16 << 10;
const MOST_COMPILED_BYTES: usize = 4 << 20;
/// Regular expressions; real files have at most some ten.
const MOST_REGEXES: usize = 32;
/// Bytes written at a time where the growth of a text is measured.
const MEASURED_BYTES: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Normalizer,
    PreTokenizer,
    PostProcessor,
    Decoder,
}

impl Part {
    pub fn name(self) -> &'static str {
        match self {
            Part::Normalizer => "normalizer",
            Part::PreTokenizer => "pre_tokenizer",
            Part::PostProcessor => "post_processor",
            Part::Decoder => "decoder",
        }
    }
}

/// What was found in the parts so far.
#[derive(Clone, Debug)]
pub(super) struct Growth {
    /// The factor of the normalizers at worst.
    normalizer: u64,
    steps: usize,
    regexes: usize,
    regex_bytes: usize,
    around: usize,
}

impl Default for Growth {
    fn default() -> Self {
        Growth { normalizer: 1, steps: 0, regexes: 0, regex_bytes: 0, around: 0 }
    }
}

impl Growth {
    /// Looks by how much the normalizers multiply a text, a few bytes at a time, where that is not certain to be little.
    ///
    /// # Errors
    /// They make too much of it.
    pub fn check(&self, tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<(), String> {
        use tokenizers::{NormalizedString, Normalizer};
        let Some(normalizer) = tokenizer.get_normalizer().filter(|_| self.normalizer > CERTAIN) else { return Ok(()) };
        let piece_bytes = MEASURED_BYTES / self.normalizer as usize;
        let limit = MEASURED_BYTES + CERTAIN as usize * text.len();
        let (mut rest, mut made) = (text, 0);
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rest.ceil_char_boundary(piece_bytes.min(rest.len())));
            let mut normalized = NormalizedString::from(piece);
            normalizer.normalize(&mut normalized).map_err(|error| error.to_string())?;
            made += normalized.get().len();
            if made > limit {
                let read = text.len() - behind.len();
                return Err(format!("the normalizer expanded {read} bytes to {made}; the limit is {limit}"));
            }
            rest = behind;
        }
        Ok(())
    }
}

/// Judges one part.
///
/// # Errors
/// What is too much, or contradicts itself, in words.
pub(super) fn check(part: Part, value: &Value, growth: &mut Growth) -> Result<(), String> {
    let factor = walk(value, growth)?;
    let most = if part == Part::Normalizer { MOST } else { CERTAIN };
    if factor > most {
        return Err(format!("its steps can expand one byte to {factor}; the limit is {most}"));
    }
    if part == Part::Normalizer {
        growth.normalizer = factor;
    }
    Ok(())
}

/// The factor by which a step, and all in it, multiply a text at worst.
fn walk(value: &Value, growth: &mut Growth) -> Result<u64, String> {
    match value {
        Value::Array(list) => {
            let mut factor = 1_u64;
            for step in list {
                factor = factor.saturating_mul(walk(step, growth)?);
            }
            Ok(factor)
        }
        Value::Object(step) => {
            growth.steps += 1;
            if growth.steps > MOST_STEPS {
                return Err(format!("more than {MOST_STEPS} steps"));
            }
            let mut factor = own_factor(step, growth)?;
            for (key, inner) in step {
                // What a template lists are tokens, no steps.
                if !["single", "pair", "special_tokens", "pattern"].contains(&key.as_str()) {
                    factor = factor.saturating_mul(walk(inner, growth)?);
                }
            }
            Ok(factor)
        }
        _ => Ok(1),
    }
}

/// What a step does by its own fields.
fn own_factor(step: &Map<String, Value>, growth: &mut Growth) -> Result<u64, String> {
    let text = |field: &str| step.get(field).and_then(Value::as_str);
    if let Some(pattern) = step.get("pattern") {
        let least = least_match(pattern, growth)?;
        let inserted = text("content").map_or(0, str::len) as u64;
        // A pattern that matches nothing inserts beside each byte; one of n bytes replaces those.
        return Ok(match least {
            0 => inserted.saturating_add(1),
            least => inserted.div_ceil(least).max(1),
        });
    }
    if let Some(prepend) = text("prepend") {
        if prepend.len() > MOST_PREPENDED_BYTES {
            return Err(format!("Prepend of {} bytes, at most {MOST_PREPENDED_BYTES}", prepend.len()));
        }
        return Ok(1 + prepend.len() as u64);
    }
    if let Some(charsmap) = text("precompiled_charsmap") {
        return longest_replacement(charsmap).map(|bytes| bytes.max(1) as u64);
    }
    if let Some(single) = step.get("single") {
        return template(single, step.get("special_tokens"), growth).map(|()| 1);
    }
    Ok(match text("type") {
        Some("NFKC" | "NFKD") => 11,
        Some("BertNormalizer") => 6,
        Some("NFC" | "NFD") => 3,
        Some("Lowercase" | "ByteLevel") => 2,
        Some("Metaspace") => 1 + text("replacement").map_or(0, str::len) as u64,
        // With an empty suffix or delimiter, the decoder puts a space beside each character.
        Some("BPEDecoder" | "CTC") => 2,
        _ => 1,
    })
}

/// The fewest bytes that a pattern matches; 0 where it may match none.
fn least_match(pattern: &Value, growth: &mut Growth) -> Result<u64, String> {
    let of = |kind: &str| pattern.get(kind).and_then(Value::as_str);
    if let Some(text) = of("String") {
        count_regex(text, growth)?;
        return Ok(text.len() as u64);
    }
    // What is no pattern is refused by the library.
    let Some(regex) = of("Regex") else { return Ok(0) };
    count_regex(regex, growth)?;
    let unsound = |error: fancy_regex::Error| format!("pattern {:?}: {error}", crate::error::cut(regex));
    let compiled = fancy_regex::RegexBuilder::new(regex).delegate_size_limit(MOST_COMPILED_BYTES).build();
    let matches_nothing = compiled.map_err(unsound)?.is_match("").unwrap_or(true);
    // Only in its place does a condition match: at a border, before or after something.
    let has_condition =
        ["(?", "^", "$", "\\b", "\\B", "\\A", "\\z", "\\Z", "\\G", "\\K"].iter().any(|c| regex.contains(c));
    Ok(u64::from(!matches_nothing && !has_condition))
}

fn count_regex(pattern: &str, growth: &mut Growth) -> Result<(), String> {
    (growth.regexes, growth.regex_bytes) = (growth.regexes + 1, growth.regex_bytes + pattern.len());
    if growth.regexes > MOST_REGEXES || growth.regex_bytes > MOST_REGEX_BYTES {
        return Err(format!("more than {MOST_REGEXES} patterns, or than {MOST_REGEX_BYTES} bytes of them"));
    }
    Ok(())
}

/// The longest text that SentencePiece's table puts in the place of a character. The table is a trie of numbers, led by
/// its size in bytes, and then texts, each ended by a zero.
fn longest_replacement(charsmap: &str) -> Result<usize, String> {
    let unsound = |why: &str| format!("precompiled_charsmap: {why}");
    let table = base64::decode(charsmap).map_err(|error| unsound(&error.to_string()))?;
    let (size, rest) = table.split_first_chunk::<4>().ok_or_else(|| unsound("no size"))?;
    let size = u32::from_le_bytes(*size) as usize;
    if size == 0 || !size.is_multiple_of(4) || size > rest.len() {
        return Err(unsound(&format!("a trie of {size} bytes in a table of {}", table.len())));
    }
    let texts = std::str::from_utf8(&rest[size..]).map_err(|error| unsound(&error.to_string()))?;
    Ok(texts.split('\0').map(str::len).max().unwrap_or(0))
}

/// A template puts a text once, and tokens that it has entries for around it.
fn template(single: &Value, tokens: Option<&Value>, growth: &mut Growth) -> Result<(), String> {
    // Another form is refused by the library.
    let Some(pieces) = single.as_array() else { return Ok(()) };
    let mut texts = 0;
    for piece in pieces {
        if let Some(name) = piece.pointer("/SpecialToken/id").and_then(Value::as_str) {
            let entry = tokens.and_then(|tokens| tokens.get(name));
            let entry = entry.ok_or_else(|| {
                format!("its template names {:?}, which its special_tokens lack", crate::error::cut(name))
            })?;
            growth.around += entry.get("ids").and_then(Value::as_array).map_or(0, Vec::len);
        }
        match piece.pointer("/Sequence/id").and_then(Value::as_str) {
            Some("A") => texts += 1,
            Some(other) => {
                return Err(format!("its template for one text names a text {:?}", crate::error::cut(other)));
            }
            None => {}
        }
        if growth.around > MOST_AROUND {
            return Err(format!("it puts more than {MOST_AROUND} tokens around a text"));
        }
    }
    match texts {
        1 => Ok(()),
        texts => Err(format!("its template has the text {texts} times, expected once")),
    }
}
