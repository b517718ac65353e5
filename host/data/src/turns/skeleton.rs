//! Turns by what stays the same when the assistant says something else.
//!
//! All of the assistant's messages are replaced at once: their content by a word that occurs nowhere in the conversation, or
//! the arguments of their last tool call, where they have one. The rendering of that is the skeleton. Between two words
//! it has: what ends a turn, the user's and the tools' messages, and the header of the next turn. The conversation's own
//! text must have these pieces too, in this order, and the turns between them.

use std::{collections::HashMap, ops::Range};

use super::{Prompt, Scene, Special, common_prefix, docs, floor_char_boundary, lost};
use crate::{
    doc::{Doc, Fields},
    error::RowFault,
    message::{Message, THOUGHTS},
};

/// Bytes after the assistant's words in which the turn's end is looked for: the brackets that close a call, its id.
const NEAR: usize = 1024;
/// Renderings up to a turn whose end is unlike those seen before; each may take the time of the conversation.
const MOST_PROBES: usize = 8;
/// Longest generation prompt of which a part is looked for.
const MOST_PROMPT_BYTES: usize = 4096;

/// Why the turns were not found.
pub(super) enum Failure {
    /// The template loses what the assistant says, or says it twice.
    Final(RowFault),
    /// It is written by what the assistant says.
    Other(RowFault),
}

impl From<RowFault> for Failure {
    fn from(fault: RowFault) -> Self {
        Failure::Other(fault)
    }
}

/// The extents of all turns.
pub(super) fn locate(
    scene: &Scene<'_>,
    assistants: &[usize],
    prompt: &Prompt,
    text: &str,
) -> Result<Vec<Range<usize>>, Failure> {
    let stem = stem(text);
    let mut messages = docs(scene.messages);
    let mut kinds = Vec::with_capacity(assistants.len());
    for (number, &index) in assistants.iter().enumerate() {
        let (replaced, kind) = replaced(&scene.messages[index], &word(&stem, number))
            .ok_or_else(|| lost(index, "its tool calls have no \"arguments\""))?;
        messages[index] = replaced;
        kinds.push(kind);
    }
    let text_of_all = scene.text(&messages, false)?;
    let slots = slots(&text_of_all, &stem, assistants, &kinds)?;
    let skeleton = Skeleton { scene, assistants, prompt, stem, messages, kinds, text: text_of_all, slots };
    let spots = skeleton.spots()?;
    Ok(skeleton.match_text(&spots, text)?)
}

/// The beginning of words that are not in a text: it depends on all of the text, so none can hold it on purpose.
pub(super) fn stem(text: &str) -> String {
    format!("qz{}x", &blake3::hash(text.as_bytes()).to_hex()[..16])
}

pub(super) fn word(stem: &str, number: usize) -> String {
    format!("{stem}{number}zq")
}

/// What of a message is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Content,
    Calls,
}

/// The message with a word in place of what the assistant says. `None` where a call has no place for it.
fn replaced(message: &Message, word: &str) -> Option<(Doc, Kind)> {
    let has_calls = matches!(message.fields.get("tool_calls"), Some(Doc::List(calls)) if !calls.is_empty());
    let mut fields = Fields::new();
    for (name, value) in &message.fields {
        let value = match (name.as_str(), value) {
            // A thought may be written as a separate message, with a header like a turn's.
            (name, _) if THOUGHTS.contains(&name) => continue,
            ("content", Doc::List(_)) if has_calls => Doc::List(Vec::new()),
            ("content", _) if has_calls => "".into(),
            ("content", Doc::List(parts)) => Doc::List(vec![text_part(parts, word)]),
            ("content", _) => word.into(),
            ("tool_calls", Doc::List(calls)) if has_calls => Doc::List(replaced_calls(calls, word)?),
            (_, value) => value.clone(),
        };
        fields.insert(name.clone(), value);
    }
    if !has_calls {
        fields.entry("content".to_owned()).or_insert_with(|| word.into());
    }
    Some((Doc::Object(fields), if has_calls { Kind::Calls } else { Kind::Content }))
}

fn text_part(parts: &[Doc], word: &str) -> Doc {
    let is_text = |part: &&Doc| matches!(part, Doc::Object(fields) if fields.contains_key("text"));
    let mut fields = match parts.iter().find(is_text) {
        Some(Doc::Object(fields)) => fields.clone(),
        _ => [("type".to_owned(), "text".into())].into_iter().collect(),
    };
    fields.insert("text".to_owned(), word.into());
    Doc::Object(fields)
}

/// Calls of the same functions, with a word for the arguments of the last and none for the others.
fn replaced_calls(calls: &[Doc], word: &str) -> Option<Vec<Doc>> {
    let last = calls.len() - 1;
    let replaced = |(index, call): (usize, &Doc)| {
        let Doc::Object(call) = call else { return None };
        let (function, is_inside) = match call.get("function") {
            Some(Doc::Object(function)) => (function, true),
            _ => (call, false),
        };
        let name = ["arguments", "parameters"].into_iter().find(|name| function.contains_key(*name))?;
        let value = |is_text| match (index == last, is_text) {
            (true, true) => Doc::Text(format!("{{\"qz\": \"{word}\"}}")),
            (true, false) => Doc::Object([("qz".to_owned(), word.into())].into_iter().collect()),
            (false, true) => "{}".into(),
            (false, false) => Doc::Object(Fields::new()),
        };
        let mut function = function.clone();
        let is_text = function[name].as_text().is_some();
        function[name] = value(is_text);
        if !is_inside {
            return Some(Doc::Object(function));
        }
        let mut call = call.clone();
        call["function"] = Doc::Object(function);
        Some(Doc::Object(call))
    };
    calls.iter().enumerate().map(replaced).collect()
}

/// Where the words stand: each once, in the order of the messages.
fn slots(skeleton: &str, stem: &str, assistants: &[usize], kinds: &[Kind]) -> Result<Vec<Range<usize>>, Failure> {
    let mut slots: Vec<Option<Range<usize>>> = vec![None; assistants.len()];
    for (start, _) in skeleton.match_indices(stem) {
        let behind = &skeleton[start + stem.len()..];
        let digits = behind.bytes().take_while(u8::is_ascii_digit).count();
        let number = behind[..digits].parse::<usize>().ok().filter(|number| *number < slots.len());
        let Some(number) = number.filter(|_| behind[digits..].starts_with("zq")) else { continue };
        if slots[number].replace(start..start + stem.len() + digits + 2).is_some() {
            return Err(Failure::Final(lost(assistants[number], "the template writes its content more than once")));
        }
    }
    let mut found = Vec::with_capacity(slots.len());
    for (number, slot) in slots.into_iter().enumerate() {
        let index = assistants[number];
        let slot = slot.ok_or_else(|| match kinds[number] {
            Kind::Content => Failure::Final(lost(index, "the template does not render its content")),
            Kind::Calls => Failure::Final(RowFault::UnwrittenCalls { index }),
        })?;
        if found.last().is_some_and(|last: &Range<usize>| slot.start < last.end) {
            return Err(Failure::Final(lost(index, "it comes before the turn that precedes it")));
        }
        found.push(slot);
    }
    Ok(found)
}

struct Skeleton<'a> {
    scene: &'a Scene<'a>,
    assistants: &'a [usize],
    prompt: &'a Prompt,
    stem: String,
    messages: Vec<Doc>,
    kinds: Vec<Kind>,
    text: String,
    /// The words in `text`.
    slots: Vec<Range<usize>>,
}

/// What closes a turn.
#[derive(Clone, Debug)]
struct Ending {
    kind: Kind,
    /// The special tokens of it; the last one ends the turn.
    ids: Vec<u32>,
    /// What the template writes after the words where it has no such token.
    text: String,
}

/// A turn's borders in the skeleton.
struct Spot {
    /// Where its header begins: the part of the generation prompt that the template writes.
    header: usize,
    header_bytes: usize,
    /// Where what ends it begins, and one past that.
    end: Range<usize>,
}

impl Skeleton<'_> {
    fn spots(&self) -> Result<Vec<Spot>, RowFault> {
        let mut endings: Vec<Ending> = Vec::new();
        let mut questions = HashMap::new();
        let mut spots: Vec<Spot> = Vec::with_capacity(self.slots.len());
        for number in 0..self.slots.len() {
            let within = spots.last().map_or(0, |spot| spot.end.end)..self.slots[number].start;
            let (header, header_bytes) = match self.prompt.text.as_str() {
                "" => (self.start_without_header(number, within, &mut questions)?, 0),
                prompt => self.header(prompt, within)?,
            };
            let end = self.end(number, &mut endings)?;
            spots.push(Spot { header, header_bytes, end });
        }
        Ok(spots)
    }

    /// The generation prompt before a word, or the part of it that the template writes there: one that begins the model's
    /// thought for it does not begin earlier turns that way.
    fn header(&self, prompt: &str, within: Range<usize>) -> Result<(usize, usize), RowFault> {
        let (start, end, ahead) = (within.start, within.end, &self.text[within]);
        let full = ahead.rfind(prompt).map(|at| (start + at, prompt.len()));
        if full.is_some_and(|(at, bytes)| at + bytes == end) || prompt.len() > MOST_PROMPT_BYTES {
            return Ok(full.unwrap_or((end, 0)));
        }
        // A part counts if a special token is in it: a line break alone is a coincidence.
        let specials = self.scene.specials.find(prompt).map_err(|error| lost(0, error.to_string()))?;
        let least = specials.first().map_or(prompt.len(), |special| special.range.end);
        let part = (least..prompt.len())
            .rev()
            .find(|bytes| prompt.is_char_boundary(*bytes) && ahead.ends_with(&prompt[..*bytes]));
        let part = part.map(|bytes| (end - bytes, bytes));
        Ok(full.into_iter().chain(part).max().unwrap_or((end, 0)))
    }

    /// Where a turn begins that has no header, because the message before it ends with the generation prompt.
    fn start_without_header(
        &self,
        number: usize,
        within: Range<usize>,
        questions: &mut HashMap<String, String>,
    ) -> Result<usize, RowFault> {
        let (start, end, ahead) = (within.start, within.end, &self.text[within]);
        if self.kinds[number] == Kind::Content {
            return Ok(end - if ahead.ends_with(&self.prompt.lead) { self.prompt.lead.len() } else { 0 });
        }
        let index = self.assistants[number];
        let lost = || lost(index, "the generation prompt before it cannot be separated from its tool calls");
        let question = index.checked_sub(1).map(|before| &self.scene.messages[before]).ok_or_else(lost)?;
        let closing = match questions.get(question.role()) {
            Some(closing) => closing,
            None => {
                let asked = self.scene.text(&self.messages[..index], true)?;
                // What the template writes after the question; a question that it escapes ends at a special token.
                let content = question.text("content").unwrap_or_default().trim();
                let behind = asked.rfind(content).filter(|_| !content.is_empty()).map(|at| at + content.len());
                let near = floor_char_boundary(&asked, asked.len().saturating_sub(NEAR));
                let special = self.specials(index, &asked[near..])?.pop().map(|special| near + special.range.start);
                let from = behind.filter(|at| *at < asked.len()).or(special).ok_or_else(lost)?;
                questions.entry(question.role().to_owned()).or_insert_with(|| asked[from..].to_owned())
            }
        };
        ahead.rfind(closing.as_str()).map(|at| start + at + closing.len()).ok_or_else(lost)
    }

    /// Where a turn ends: after the special tokens that follow its word.
    fn end(&self, number: usize, endings: &mut Vec<Ending>) -> Result<Range<usize>, RowFault> {
        let (index, kind) = (self.assistants[number], self.kinds[number]);
        let from = self.slots[number].end;
        let until = self.slots.get(number + 1).map_or(self.text.len(), |next| next.start);
        let behind = &self.text[from..floor_char_boundary(&self.text, until.min(from + NEAR)).max(from)];
        let specials = self.specials(index, behind)?;
        let found = |endings: &[Ending]| {
            let fitting = endings.iter().filter(|ending| ending.kind == kind);
            fitting.filter_map(|ending| ending.find(behind, &specials)).max_by_key(|range| range.end)
        };
        let mut range = found(endings);
        if range.is_none() && endings.len() < MOST_PROBES {
            endings.push(self.ending(number)?);
            range = found(endings);
        }
        let is_special = |range: &Range<usize>| specials.iter().any(|special| special.range == *range);
        if index + 1 == self.messages.len() && !range.as_ref().is_some_and(is_special) {
            // Nothing follows, so the first special token ends it: another one than inside of the conversation, or the end of
            // the text alone.
            range = specials.first().map(|special| special.range.clone()).or(range);
        }
        let range = range.ok_or_else(|| lost(index, "what closes it depends on what follows"))?;
        Ok(from + range.start..from + range.end)
    }

    /// What the template writes between the word and a generation prompt after it.
    fn ending(&self, number: usize) -> Result<Ending, RowFault> {
        let (index, kind) = (self.assistants[number], self.kinds[number]);
        let text = self.scene.text(&self.messages[..=index], true)?;
        let word = word(&self.stem, number);
        let (_, behind) =
            text.rsplit_once(word.as_str()).ok_or_else(|| lost(index, "the template does not render its content"))?;
        let behind = behind.strip_suffix(self.prompt.text.as_str()).unwrap_or(behind);
        let near = &behind[..floor_char_boundary(behind, NEAR)];
        let mut ids: Vec<u32> = self.specials(index, near)?.iter().map(|special| special.id).collect();
        if kind == Kind::Content {
            // A call may be closed by several tokens; words are closed by the first.
            ids.truncate(1);
        }
        Ok(Ending { kind, ids, text: behind.to_owned() })
    }

    fn specials(&self, index: usize, text: &str) -> Result<Vec<Special>, RowFault> {
        self.scene.specials.find(text).map_err(|error| lost(index, error.to_string()))
    }

    /// The turns in the conversation's own text.
    fn match_text(&self, spots: &[Spot], text: &str) -> Result<Vec<Range<usize>>, RowFault> {
        let depends = |index, what: &str| lost(index, format!("the text {what} it depends on its content"));
        let mut turns: Vec<Range<usize>> = Vec::with_capacity(spots.len());
        // From where in the skeleton, and in the text.
        let (mut from, mut at) = (0, 0);
        for (number, spot) in spots.iter().enumerate() {
            let fixed = &self.text[from..spot.header];
            let index = self.assistants[number];
            let found = match number {
                0 => text.starts_with(fixed).then_some(0).ok_or_else(|| depends(index, "before"))?,
                _ if fixed.is_empty() => {
                    return Err(lost(index, "nothing is written between it and the turn before it"));
                }
                _ => text[at..].find(fixed).map(|found| at + found).ok_or_else(|| depends(index, "before"))?,
            };
            if let Some(last) = turns.last_mut() {
                last.end = found + spots[number - 1].end.len();
            }
            let header = found + fixed.len();
            let start = header + self.header_bytes(&text[header..], spot.header_bytes);
            turns.push(start..start);
            at = start + content_bytes(&self.scene.messages[index], &text[start..]);
            from = spot.end.start;
        }
        let fixed = &self.text[from..];
        let (last, spot) = (turns.last_mut().expect("there is a turn"), spots.last().expect("a spot for each turn"));
        let end = text.len().checked_sub(fixed.len()).filter(|end| *end >= at && text.ends_with(fixed));
        last.end = end.ok_or_else(|| depends(self.assistants[spots.len() - 1], "after"))? + spot.end.len();
        Ok(turns)
    }

    /// How much of the generation prompt stands at a header.
    fn header_bytes(&self, text: &str, in_skeleton: usize) -> usize {
        let shared = common_prefix(text, &self.prompt.text);
        if shared == self.prompt.text.len() { shared } else { shared.min(in_skeleton) }
    }
}

impl Ending {
    /// Where it is in what follows a word.
    fn find(&self, behind: &str, specials: &[Special]) -> Option<Range<usize>> {
        let Some(last) = self.ids.len().checked_sub(1) else {
            return behind.starts_with(&self.text).then_some(0..self.text.len());
        };
        let is_same = specials.len() > last && self.ids.iter().zip(specials).all(|(id, special)| *id == special.id);
        is_same.then(|| specials[last].range.clone())
    }
}

/// Bytes of a message's content where the text begins with it: what is looked for comes after.
fn content_bytes(message: &Message, text: &str) -> usize {
    let content = message.text("content").unwrap_or_default().trim();
    let indent = text.len() - text.trim_start().len();
    if !content.is_empty() && text[indent..].starts_with(content) { indent + content.len() } else { 0 }
}
