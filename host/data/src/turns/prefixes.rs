//! Turns by rendering the conversation up to each of them, with the generation prompt, and up to its end.
//!
//! This inserts no probe texts, but needs a template that writes earlier messages the same whatever follows. It renders the
//! conversation twice per turn, so it is bounded.

use std::ops::Range;

use super::{Scene, common_prefix, docs, lost};
use crate::error::RowFault;

/// Messages that all renderings may have together; a conversation of 600 messages takes this.
const MOST_MESSAGES: usize = 200_000;
/// Bytes that all renderings may have together.
const MOST_BYTES: usize = 256 << 20;

/// The extents of all turns.
pub(super) fn locate(
    scene: &Scene<'_>,
    assistants: &[usize],
    prompt: &str,
    text: &str,
) -> Result<Vec<Range<usize>>, RowFault> {
    let total: usize = assistants.iter().map(|index| 2 * index + 1).sum();
    if total > MOST_MESSAGES || text.len().saturating_mul(2 * assistants.len()) > MOST_BYTES {
        return Err(lost(assistants[0], "the conversation is too long to be rendered up to each of its turns"));
    }
    let messages = docs(scene.messages);
    let mut turns: Vec<Range<usize>> = Vec::with_capacity(assistants.len());
    for &index in assistants {
        let body = |end: usize| -> Result<usize, RowFault> {
            let asked = scene.text(&messages[..end], true)?;
            let body = asked.strip_suffix(prompt).unwrap_or(&asked);
            Ok(if text.starts_with(body) { body.len() } else { usize::MAX })
        };
        let header = body(index)?;
        if header > text.len() {
            return Err(lost(index, "the text before it depends on its content"));
        }
        let is_last = index + 1 == messages.len();
        let end = match body(index + 1)? {
            end if end <= text.len() => end,
            _ if is_last => text.len(),
            _ => return Err(lost(index, "the template renders it differently when more messages follow")),
        };
        let start = header + header_bytes(scene, index, prompt, &text[header..end.max(header)])?;
        if start > end || turns.last().is_some_and(|last| header < last.end) {
            return Err(lost(index, "it begins before the previous turn ends"));
        }
        turns.push(start..end_of(scene, index, text, start..end, is_last)?);
    }
    Ok(turns)
}

/// How much of the generation prompt a turn's text begins with. Where a template has no generation prompt, what stands
/// before the content is a header, unless it is white space.
fn header_bytes(scene: &Scene<'_>, index: usize, prompt: &str, turn: &str) -> Result<usize, RowFault> {
    if prompt.is_empty() {
        let content = scene.messages[index].text("content").unwrap_or_default().trim();
        return Ok(turn.find(content).filter(|at| !turn[..*at].trim().is_empty()).unwrap_or(0));
    }
    let shared = common_prefix(turn, prompt);
    if shared == prompt.len() {
        return Ok(shared);
    }
    // A part of it is a header as far as its special tokens go.
    let specials = scene.specials.find(prompt).map_err(|error| lost(index, error.to_string()))?;
    Ok(specials.iter().map(|special| special.range.end).filter(|end| *end <= shared).max().unwrap_or(0))
}

/// After the special token that ends a turn; at the turn's last byte where there is none.
fn end_of(scene: &Scene<'_>, index: usize, text: &str, turn: Range<usize>, is_last: bool) -> Result<usize, RowFault> {
    let specials = |text: &str| scene.specials.find(text).map_err(|error| lost(index, error.to_string()));
    let is_blank = |range: Range<usize>| text[range].trim().is_empty();
    let last = specials(&text[turn.clone()])?.pop();
    if let Some(special) = last.filter(|special| is_blank(turn.start + special.range.end..turn.end)) {
        return Ok(turn.start + special.range.end);
    }
    // The end of the text alone ends the last turn.
    if is_last
        && let Some(special) = specials(&text[turn.end..])?.first()
        && is_blank(turn.end..turn.end + special.range.start)
    {
        return Ok(turn.end + special.range.end);
    }
    Ok(turn.end)
}
