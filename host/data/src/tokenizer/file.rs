//! From the bytes of a `tokenizer.json` to the library's tokenizer, in one pass that builds nothing before it is counted.
//!
//! The library believes what a file says: it reads any number of merges into trees of values, multiplies a text by what
//! its normalizers insert, and panics on what contradicts itself. So sizes are bounded here first, and each part is given
//! to the library alone, without the tree. Truncation and padding are settings of the program that saved the file last.
//! Here they would lose text or add tokens, so they are not read.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, models,
};

use super::pipeline::{self, Growth, Part};

/// Largest `tokenizer.json` read. Real ones reach 35 MB, that of a vocabulary of 262,000 with 515,000 merges.
pub(super) const MAX_BYTES: u64 = 64 << 20;
/// Entries of the vocabulary and merges together: real ones reach 777,000.
const MAX_ENTRIES: usize = 3 << 19;
/// Bytes of all tokens of a Unigram vocabulary. The library holds a map for each byte of each of them, some 340 bytes;
/// a vocabulary of 250,000 has 2 million.
const MAX_UNIGRAM_BYTES: usize = 3 << 20;
/// Fields of the document and of its model: real ones have some ten.
const MOST_FIELDS: usize = 256;
/// Bytes of one token. The library's maps of a Unigram token nest as deep.
const MAX_TOKEN_BYTES: usize = 4096;
/// Bytes that the list of added tokens takes in the file: some 200,000 tokens.
const MAX_ADDED_BYTES: usize = 32 << 20;
/// Bytes of each of the normalizer, the pre-tokenizer, the post-processor and the decoder. A precompiled table of
/// characters has 320,000.
const MAX_PART_BYTES: usize = 1 << 20;

/// The library's tokenizer, and by how much its normalizers may multiply a text.
pub(super) struct Read {
    pub tokenizer: tokenizers::Tokenizer,
    pub growth: Growth,
}

/// The fields of a JSON object as they stand in the file: found, and not built.
struct Fields<'a>(Vec<(String, &'a str)>);

impl<'a> Fields<'a> {
    fn of(object: &'a str) -> Result<Self, String> {
        const END: &str = "the object does not end";
        let mut rest = token(object, '{').ok_or("expected a JSON object")?;
        let mut fields = Vec::new();
        if let Some(behind) = token(rest, '}') {
            rest = behind;
        } else {
            loop {
                let (name, behind) = value::<String>(rest)?;
                let start = token(behind, ':').ok_or("expected a colon after a name")?;
                let (IgnoredAny, behind) = value(start)?;
                if fields.len() == MOST_FIELDS {
                    return Err(format!("an object of more than {MOST_FIELDS} fields"));
                }
                // Only one of them would be counted.
                if fields.iter().any(|(other, _)| *other == name) {
                    return Err(format!("the field {:?} stands twice", crate::error::cut(&name)));
                }
                fields.push((name, start[..start.len() - behind.len()].trim()));
                if let Some(end) = token(behind, '}') {
                    rest = end;
                    break;
                }
                rest = token(behind, ',').ok_or(END)?;
            }
        }
        match rest.trim().is_empty() {
            true => Ok(Fields(fields)),
            false => Err("something follows the object".to_owned()),
        }
    }

    /// A field that is there and not null.
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| *value).filter(|value| *value != "null")
    }
}

/// What follows a sign of JSON.
fn token(text: &str, sign: char) -> Option<&str> {
    text.trim_start_matches([' ', '\t', '\n', '\r']).strip_prefix(sign)
}

/// The value at the start of a text, and what follows it.
fn value<'a, T: Deserialize<'a>>(text: &'a str) -> Result<(T, &'a str), String> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter();
    match values.next() {
        Some(value) => Ok((value.map_err(|error| error.to_string())?, &text[values.byte_offset()..])),
        None => Err("the object does not end".to_owned()),
    }
}

/// Builds the tokenizer of a document.
///
/// # Errors
/// What is unsound, or larger than the limits above, in words.
pub(super) fn read(content: &[u8]) -> Result<Read, String> {
    let text = std::str::from_utf8(content).map_err(|error| error.to_string())?;
    let document = Fields::of(text)?;
    if let Some(version) = document.get("version").filter(|version| *version != "\"1.0\"") {
        return Err(format!("version {}, expected \"1.0\"", crate::error::cut(version)));
    }
    let mut growth = Growth::default();
    let normalizer = part::<NormalizerWrapper>(Part::Normalizer, document.get("normalizer"), &mut growth)?;
    let pre_tokenizer = part::<PreTokenizerWrapper>(Part::PreTokenizer, document.get("pre_tokenizer"), &mut growth)?;
    let post_processor =
        part::<PostProcessorWrapper>(Part::PostProcessor, document.get("post_processor"), &mut growth)?;
    let decoder = part::<DecoderWrapper>(Part::Decoder, document.get("decoder"), &mut growth)?;
    let added = added_tokens(document.get("added_tokens"))?;
    let mut tokenizer = tokenizers::Tokenizer::new(model(document.get("model").ok_or("no model")?)?);
    tokenizer.with_normalizer(normalizer).map_err(|error| error.to_string())?;
    tokenizer.with_pre_tokenizer(pre_tokenizer);
    tokenizer.with_post_processor(post_processor);
    tokenizer.with_decoder(decoder);
    tokenizer.add_tokens(added).map_err(|error| format!("added_tokens: {error}"))?;
    Ok(Read { tokenizer, growth })
}

/// One part of the pipeline: checked, then built by the library.
fn part<T: DeserializeOwned>(part: Part, section: Option<&str>, growth: &mut Growth) -> Result<Option<T>, String> {
    let Some(section) = section else { return Ok(None) };
    let named = |error: String| format!("{}: {error}", part.name());
    bounded(section, MAX_PART_BYTES).map_err(named)?;
    let value = serde_json::from_str(section).map_err(|error| named(error.to_string()))?;
    pipeline::check(part, &value, growth).map_err(named)?;
    serde_json::from_value(value).map(Some).map_err(|error| named(error.to_string()))
}

fn bounded(section: &str, most: usize) -> Result<(), String> {
    match section.len() <= most {
        true => Ok(()),
        false => Err(format!("{} bytes, at most {most} are read", section.len())),
    }
}

/// An added token as the file lists it. Its id is the library's to say: that of the vocabulary, else the next free one.
#[derive(Deserialize)]
struct Listed {
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

fn added_tokens(section: Option<&str>) -> Result<Vec<AddedToken>, String> {
    let Some(section) = section else { return Ok(Vec::new()) };
    let named = |error: String| format!("added_tokens: {error}");
    bounded(section, MAX_ADDED_BYTES).map_err(named)?;
    let listed: Vec<Listed> = serde_json::from_str(section).map_err(|error| named(error.to_string()))?;
    let token = |token: Listed| {
        if token.content.len() > MAX_TOKEN_BYTES {
            return Err(format!("added_tokens: a token of {} bytes, at most {MAX_TOKEN_BYTES}", token.content.len()));
        }
        let (single_word, normalized) = (token.single_word, token.normalized);
        let made = AddedToken::from(token.content, token.special).single_word(single_word).normalized(normalized);
        Ok(made.lstrip(token.lstrip).rstrip(token.rstrip))
    };
    listed.into_iter().map(token).collect()
}

fn model(section: &str) -> Result<ModelWrapper, String> {
    let unsound = |error: serde_json::Error| format!("model: {error}");
    let fields = Fields::of(section).map_err(|error| format!("model: {error}"))?;
    let vocab: Entries =
        fields.get("vocab").map(serde_json::from_str).transpose().map_err(unsound)?.unwrap_or_default();
    if let Some(merges) = fields.get("merges") {
        let prefix = fields.get("continuing_subword_prefix").map(serde_json::from_str::<String>);
        let prefix_bytes = prefix.transpose().map_err(unsound)?.map_or(0, |prefix| prefix.len());
        let most = MAX_ENTRIES.saturating_sub(vocab.count);
        let checked = serde_json::Deserializer::from_str(merges).deserialize_any(Merges { prefix_bytes, most });
        checked.map_err(|error| format!("model: merges: {error}"))?;
    }
    let kind = fields.get("type");
    if !matches!(kind, Some("\"BPE\"" | "\"WordPiece\"" | "\"WordLevel\"")) && vocab.bytes > MAX_UNIGRAM_BYTES {
        return Err(format!("model: {} bytes of tokens, at most {MAX_UNIGRAM_BYTES} for Unigram", vocab.bytes));
    }
    match kind {
        Some("\"BPE\"") => serde_json::from_str::<models::bpe::BPE>(section).map(ModelWrapper::BPE),
        Some("\"WordPiece\"") => {
            serde_json::from_str::<models::wordpiece::WordPiece>(section).map(ModelWrapper::WordPiece)
        }
        Some("\"WordLevel\"") => {
            serde_json::from_str::<models::wordlevel::WordLevel>(section).map(ModelWrapper::WordLevel)
        }
        Some("\"Unigram\"") => serde_json::from_str::<models::unigram::Unigram>(section).map(ModelWrapper::Unigram),
        // Files of before 2020 name no type; the library tries each.
        _ => serde_json::from_str(section),
    }
    .map_err(unsound)
}

/// How many tokens a vocabulary has, and how long they are together.
#[derive(Default)]
struct Entries {
    count: usize,
    bytes: usize,
}

impl Entries {
    fn add<E: de::Error>(&mut self, token: Length) -> Result<(), E> {
        (self.count, self.bytes) = (self.count + 1, self.bytes + token.0);
        if self.count > MAX_ENTRIES {
            return Err(E::custom(format!("more than {MAX_ENTRIES} tokens in the vocabulary")));
        }
        if token.0 > MAX_TOKEN_BYTES {
            return Err(E::custom(format!("a token of {} bytes, at most {MAX_TOKEN_BYTES}", token.0)));
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;
        impl<'de> Visitor<'de> for Count {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary: an object of tokens and ids, or a list of tokens and scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Entries::default();
                while let Some((token, IgnoredAny)) = map.next_entry::<Length, IgnoredAny>()? {
                    entries.add(token)?;
                }
                Ok(entries)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entries, A::Error> {
                let mut entries = Entries::default();
                while let Some((token, _)) = list.next_element::<(Length, IgnoredAny)>()? {
                    entries.add(token)?;
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_any(Count)
    }
}

/// The bytes of a text that is not held.
struct Length(usize);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Measure;
        impl Visitor<'_> for Measure {
            type Value = Length;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a token")
            }

            fn visit_str<E>(self, text: &str) -> Result<Length, E> {
                Ok(Length(text.len()))
            }
        }
        deserializer.deserialize_str(Measure)
    }
}

/// Counts merges, and looks whether each second part is long enough to lose the prefix: the library cuts it off unseen,
/// in the middle of a character if need be.
struct Merges {
    prefix_bytes: usize,
    most: usize,
}

impl Merges {
    fn check<E: de::Error>(&self, second: &str) -> Result<(), E> {
        match second.is_char_boundary(self.prefix_bytes) {
            true => Ok(()),
            false => Err(E::custom(format!(
                "{:?} is shorter than continuing_subword_prefix, which has {} bytes",
                crate::error::cut(second),
                self.prefix_bytes
            ))),
        }
    }
}

impl<'de> Visitor<'de> for Merges {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of pairs, or of strings such as \"a b\"")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut count = 0;
        while let Some(merge) = list.next_element::<Merge<'de>>()? {
            count += 1;
            if count > self.most {
                return Err(de::Error::custom(format!("more than {MAX_ENTRIES} merges and tokens of the vocabulary")));
            }
            match merge {
                Merge::Pair([_, second]) => self.check(&second)?,
                // What has no space is refused by the library.
                Merge::Text(text) => self.check(text.split_once(' ').map_or("", |(_, second)| second))?,
            }
        }
        Ok(())
    }
}

enum Merge<'a> {
    Pair([Cow<'a, str>; 2]),
    Text(Cow<'a, str>),
}

impl<'de> Deserialize<'de> for Merge<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Merge<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge: two tokens, or a string such as \"a b\"")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Merge<'de>, E> {
                Ok(Merge::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Merge<'de>, E> {
                Ok(Merge::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merge<'de>, A::Error> {
                let mut next =
                    || list.next_element::<Text<'de>>()?.ok_or_else(|| de::Error::custom("a merge of one token"));
                Ok(Merge::Pair([next()?.0, next()?.0]))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// A text that is borrowed where the file has no escape in it.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
