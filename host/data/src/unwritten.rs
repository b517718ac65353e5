//! Whether a template writes the tools and documents of a row. One that does not drops them silently, and a
//! model would be trained to call what it was never shown.

use crate::{
    conversation::Conversation,
    doc::Doc,
    error::RowFault,
    turns::{Job, Render},
};

/// A template that can be given less.
pub(crate) trait RenderWithout: Render {
    /// The messages' text without one of the variables.
    ///
    /// # Errors
    /// The template refuses the messages.
    fn render_without(&self, name: &str, messages: &[Doc]) -> Result<String, RowFault>;
}

/// The first of a row's variables that changes nothing of its text.
pub(crate) fn unwritten(template: &dyn RenderWithout, conversation: &Conversation, text: &str) -> Option<&'static str> {
    let given = conversation.variables.iter().filter(|(_, list)| matches!(list, Doc::List(items) if !items.is_empty()));
    let messages: Vec<Doc> = conversation.messages.iter().map(|message| Doc::Object(message.fields.clone())).collect();
    let first_turn = conversation.messages.iter().position(|message| message.is_assistant()).unwrap_or(messages.len());
    let is_unwritten = |name: &str| {
        // Most templates write them at the start, and rendering that is cheap.
        let start = &messages[..first_turn.max(1)];
        let with = template.render(&[Job { messages: start, add_generation_prompt: false }]).pop();
        let with = with.and_then(Result::ok).map(|rendered| rendered.text);
        let is_at_start = with.is_some_and(|with| template.render_without(name, start).is_ok_and(|text| text != with));
        !is_at_start && template.render_without(name, &messages).is_ok_and(|without| without == text)
    };
    given.map(|(name, _)| *name).find(|name| is_unwritten(name))
}
