//! Where in a rendered conversation the assistant speaks.
//!
//! A template that marks its generated parts with `{% generation %}` is believed. Else the start of a turn is where the
//! generation prompt of the messages before it ends, and its end is where the rendering up to it ends: what the model
//! is given, and what it must write. That takes a template that writes earlier turns the same whatever follows. Where
//! it does not (some drop the reasoning of earlier turns), or has no generation prompt, the turn's content is replaced
//! by a word that is not in the conversation, and the text before and behind that word shows what stands around the
//! content.

use std::ops::Range;

use crate::{
    error::RowFault,
    jinja::Value,
    template::{ChatTemplate, Rendered},
};

/// Role of the turns that a model is trained to write.
pub(crate) const ASSISTANT: &str = "assistant";

/// A conversation's text, and what of it is supervised.
#[derive(Debug)]
pub(crate) struct Turns {
    pub text: String,
    /// Bytes, in order, without overlap.
    pub supervised: Vec<Range<usize>>,
    /// Whether the template itself said so.
    pub is_marked: bool,
}

/// Renders a conversation and finds the assistant's turns.
///
/// # Errors
/// The template refuses it; a turn cannot be found.
pub(crate) fn find(template: &ChatTemplate, messages: &[Value], extra: &[(String, Value)]) -> Result<Turns, RowFault> {
    let Rendered { text, generated } = template.render_values(messages, false, extra)?;
    if !generated.is_empty() {
        return Ok(Turns { text, supervised: generated, is_marked: true });
    }
    let mut supervised: Vec<Range<usize>> = Vec::new();
    for index in 0..messages.len() {
        if messages[index].text_of("role") != Some(ASSISTANT) {
            continue;
        }
        let turn = match by_prefixes(template, messages, extra, index, &text) {
            Some(turn) => turn,
            None => by_substitution(template, messages, extra, index, &text)?,
        };
        if supervised.last().is_some_and(|last| turn.start < last.end) {
            return Err(lost(index, "it begins before the turn ahead of it ends"));
        }
        supervised.push(turn);
    }
    Ok(Turns { text, supervised, is_marked: false })
}

fn lost(index: usize, why: &str) -> RowFault {
    RowFault::LostTurn { index, why: why.to_owned() }
}

fn by_prefixes(
    template: &ChatTemplate,
    messages: &[Value],
    extra: &[(String, Value)],
    index: usize,
    text: &str,
) -> Option<Range<usize>> {
    // A template may refuse a part of a conversation that it takes whole.
    let render =
        |messages: &[Value], prompt| template.render_values(messages, prompt, extra).ok().map(|part| part.text);
    let before = render(&messages[..index], false)?;
    let asked = render(&messages[..index], true)?;
    let answered = render(&messages[..=index], false)?;
    let is_prefix = asked.len() > before.len() && answered.starts_with(&asked) && text.starts_with(&answered);
    is_prefix.then_some(asked.len()..answered.len())
}

fn by_substitution(
    template: &ChatTemplate,
    messages: &[Value],
    extra: &[(String, Value)],
    index: usize,
    text: &str,
) -> Result<Range<usize>, RowFault> {
    if messages[index].text_of("content").is_none() {
        return Err(lost(index, "its content is not a text"));
    }
    let word = (0..).map(|n| format!("qz{n}zq")).find(|word| !text.contains(word.as_str())).expect("texts are finite");
    let mut replaced = messages.to_vec();
    replaced[index] = messages[index].with_field("content", word.as_str().into()).expect("a text is flat");
    let whole = template.render_values(&replaced, false, extra)?.text;
    let (ahead, behind) =
        whole.split_once(word.as_str()).ok_or_else(|| lost(index, "the template leaves its content out"))?;
    if behind.contains(word.as_str()) {
        return Err(lost(index, "the template writes its content more than once"));
    }
    let content_end = text.len().checked_sub(behind.len()).filter(|end| text[..].is_char_boundary(*end));
    let content_end = content_end.filter(|end| &text[*end..] == behind);
    let content_end = content_end.ok_or_else(|| lost(index, "the text behind it depends on its content"))?;
    let start = common_prefix(text, ahead);
    // The template may write something of its own ahead of the content (a thought, say), but nothing of another turn.
    let turn_start = match template.render_values(&messages[..index], false, extra) {
        Ok(before) if text.starts_with(&before.text) => before.text.len(),
        _ => ahead.len(),
    };
    if start > content_end || start < turn_start {
        return Err(lost(index, "the text ahead of it depends on its content"));
    }
    // What closes a turn: what the template writes behind the content when the conversation ends there.
    let last = template.render_values(&replaced[..=index], false, extra)?.text;
    let closing = last.split_once(word.as_str()).map_or("", |(_, closing)| closing);
    Ok(start..content_end + common_prefix(behind, closing))
}

/// Bytes that two texts have in common at the start, whole characters only.
fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}
