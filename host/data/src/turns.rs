//! Where in a rendered conversation the assistant speaks.
//!
//! A template that marks its generated parts with `{% generation %}` is trusted. Else a turn is what the model writes
//! when it is asked: it begins where the generation prompt ends, and it ends with the special token that the template
//! writes after the assistant's words, before it begins the next message or closes the conversation.
//!
//! * The **generation prompt** is what `add_generation_prompt` appends to a conversation.
//! * The **ending** is what the template writes between the assistant's words and a generation prompt that follows them.
//! * Where turns lie is found by [`skeleton`]: all of the assistant's words are replaced at once by words that occur
//!   nowhere else; what stays the same is the template's and the user's, and the turns lie between. That takes a fixed
//!   number of renderings.
//! * A template that writes its messages by what the assistant said (it refuses the replaced words, or counts them) is
//!   rendered up to each turn instead: [`prefixes`]. That is bounded, for its cost grows with the square of the messages.

mod prefixes;
mod skeleton;
mod specials;

use std::ops::Range;

use crate::{conversation::Conversation, doc::Doc, error::RowFault, message::Message, template::Rendered};

pub(crate) use specials::{Special, Specials};

/// Messages to render, and whether a generation prompt follows them.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub messages: &'a [Doc],
    pub add_generation_prompt: bool,
}

/// Renders messages of one conversation, with its variables and the user's: one result for each job, in their order. A
/// job is an error where the template refuses the messages, or fails on them.
pub(crate) trait Render {
    fn render(&self, jobs: &[Job<'_>]) -> Vec<Result<Rendered, RowFault>>;
}

/// What a turn is looked for with.
pub(crate) struct Scene<'a> {
    pub template: &'a dyn Render,
    pub specials: &'a dyn Specials,
    pub messages: &'a [Message],
}

impl<'a> Scene<'a> {
    pub fn new(template: &'a dyn Render, specials: &'a dyn Specials, conversation: &'a Conversation) -> Self {
        Scene { template, specials, messages: &conversation.messages }
    }

    /// The conversation as the template writes it.
    ///
    /// # Errors
    /// The template refuses it.
    pub fn rendered(&self) -> Result<Rendered, RowFault> {
        let job = Job { messages: &docs(self.messages), add_generation_prompt: false };
        self.template.render(&[job]).pop().expect("a result for each job")
    }

    fn texts<const N: usize>(&self, jobs: [Job<'_>; N]) -> [Result<String, RowFault>; N] {
        let texts: Vec<_> =
            self.template.render(&jobs).into_iter().map(|job| job.map(|rendered| rendered.text)).collect();
        texts.try_into().unwrap_or_else(|_| unreachable!("a result for each job"))
    }

    fn text(&self, messages: &[Doc], add_generation_prompt: bool) -> Result<String, RowFault> {
        let [text] = self.texts([Job { messages, add_generation_prompt }]);
        text
    }
}

fn docs(messages: &[Message]) -> Vec<Doc> {
    messages.iter().map(|message| Doc::Object(message.fields.clone())).collect()
}

/// Finds the bytes of `rendered` that are learned: the assistant's turns, but for those that the row leaves out. They
/// are in order and do not overlap.
///
/// # Errors
/// A turn cannot be found.
pub(crate) fn find(scene: &Scene<'_>, rendered: &Rendered) -> Result<Vec<Range<usize>>, RowFault> {
    let assistants: Vec<usize> =
        (0..scene.messages.len()).filter(|index| scene.messages[*index].is_assistant()).collect();
    let is_learned = |index: &usize| scene.messages[*index].is_learned;
    let is_marked = !rendered.generated.is_empty();
    if is_marked && assistants.iter().all(is_learned) {
        return Ok(rendered.generated.clone());
    }
    if assistants.is_empty() {
        return Ok(Vec::new());
    }
    let turns = locate(scene, &assistants, &rendered.text);
    if !is_marked {
        let turns = assistants.iter().zip(turns?);
        return Ok(turns.filter(|(index, _)| is_learned(index)).map(|(_, turn)| turn).collect());
    }
    let generated = rendered.generated.iter().cloned();
    Ok(match turns {
        Ok(turns) => {
            let left_out: Vec<_> =
                assistants.iter().zip(turns).filter(|(index, _)| !is_learned(index)).map(|(_, turn)| turn).collect();
            let is_within = |part: &Range<usize>| {
                let next = left_out.partition_point(|turn| turn.end <= part.start);
                left_out.get(next).is_some_and(|turn| turn.start < part.end.max(part.start + 1))
            };
            generated.filter(|part| !is_within(part)).collect()
        }
        // One part for each turn: they are in one order.
        Err(_) if rendered.generated.len() == assistants.len() => {
            assistants.iter().zip(generated).filter(|(index, _)| is_learned(index)).map(|(_, part)| part).collect()
        }
        Err(error) => return Err(error),
    })
}

/// The extents of all turns, learned or not.
fn locate(scene: &Scene<'_>, assistants: &[usize], text: &str) -> Result<Vec<Range<usize>>, RowFault> {
    let prompt = generation_prompt(scene, assistants);
    match skeleton::locate(scene, assistants, &prompt, text) {
        Ok(turns) => Ok(turns),
        Err(skeleton::Failure::Final(fault)) => Err(fault),
        // What is wrong is said best by what comes nearest to the template.
        Err(skeleton::Failure::Other(fault)) => {
            prefixes::locate(scene, assistants, &prompt.text, text).map_err(|_| fault)
        }
    }
}

fn lost(index: usize, why: impl Into<String>) -> RowFault {
    RowFault::LostTurn { index, why: why.into() }
}

/// What a model is given to begin a turn with.
#[derive(Debug, Default)]
struct Prompt {
    /// What `add_generation_prompt` appends; where the template has none, the header that it writes before an assistant's
    /// words. Empty where the user's message ends with it.
    text: String,
    /// White space that a template without header writes before the words: the model's to write.
    lead: String,
}

/// The generation prompt, measured before the first turn, where nothing of the assistant's is written yet.
fn generation_prompt(scene: &Scene<'_>, assistants: &[usize]) -> Prompt {
    let messages = docs(scene.messages);
    let up_to = |end: usize| -> Option<(String, String)> {
        let job = |add_generation_prompt| Job { messages: &messages[..end], add_generation_prompt };
        let [before, asked] = scene.texts([job(false), job(true)]);
        let (before, asked) = (before.ok()?, asked.ok()?);
        // What closes a conversation is left out where a prompt follows.
        let shared = shared_start(scene.specials, &before, &asked)?;
        let text = asked[shared..].to_owned();
        Some((text, asked))
    };
    // A template may refuse a part of a conversation that it takes at full length.
    let first = assistants[0];
    let ends = [first, assistants[assistants.len() - 1] + 1, messages.len()];
    match ends.into_iter().filter(|end| *end > 0).find_map(|end| Some((end, up_to(end)?))) {
        Some((end, (text, asked))) if text.is_empty() && end == first => {
            let header = header_of_words(scene, &messages[..first], &asked).unwrap_or_default();
            match header.trim() {
                "" => Prompt { text, lead: header },
                _ => Prompt { text: header, lead: String::new() },
            }
        }
        Some((_, (text, _))) => Prompt { text, lead: String::new() },
        None => Prompt::default(),
    }
}

/// What a template without generation prompt writes between a question and the words of its answer.
fn header_of_words(scene: &Scene<'_>, question: &[Doc], asked: &str) -> Option<String> {
    let word = skeleton::word(&skeleton::stem(asked), 0);
    let answer = Message::new(crate::message::ASSISTANT, word.as_str().into());
    let answered = [question, &[Doc::Object(answer.fields)]].concat();
    let answered = scene.text(&answered, false).ok()?;
    let (ahead, _) = answered.split_once(word.as_str())?;
    // Ahead of the question, some templates write a question that is the last message in another way.
    let content = scene.messages[question.len() - 1].text("content").unwrap_or_default().trim();
    let [asked, ahead] = [asked, ahead].map(|text| text.rfind(content).map_or(text, |at| &text[at..]));
    Some(ahead[shared_start(scene.specials, asked, ahead)?..].to_owned())
}

/// Bytes that two texts have in common at the start, without a part of a special token that only one of them has.
fn shared_start(specials: &dyn Specials, a: &str, b: &str) -> Option<usize> {
    /// Longer than any special token.
    const NEAR: usize = 512;
    let mut shared = common_prefix(a, b);
    if shared == a.len() {
        return Some(shared);
    }
    for text in [a, b] {
        let start = floor_char_boundary(text, shared.saturating_sub(NEAR));
        let end = floor_char_boundary(text, shared + NEAR);
        for special in specials.find(&text[start..end]).ok()? {
            let range = start + special.range.start..start + special.range.end;
            if range.start < shared && shared < range.end {
                shared = range.start;
            }
        }
    }
    Some(shared)
}

/// Bytes that two texts have in common at the start, whole characters only.
fn common_prefix(a: &str, b: &str) -> usize {
    let bytes = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    floor_char_boundary(a, bytes)
}

/// The last character's start at or before a byte.
fn floor_char_boundary(text: &str, byte: usize) -> usize {
    let byte = byte.min(text.len());
    (0..=byte).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}
