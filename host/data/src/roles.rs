//! The roles of messages: those that every chat template may be given, those that the model's template names, and what a
//! misspelt one was probably meant to be.
//!
//! A template writes any role that it is given, and the loss is taken on messages of the assistant alone: a misspelt
//! "assistant" would be rendered, and not learned.

use crate::{
    conversation::Conversation,
    error::{RowFault, cut},
    message::ASSISTANT,
};

const SYSTEM: &str = "system";
const DEVELOPER: &str = "developer";

/// Roles of transformers and of OpenAI.
const KNOWN: [&str; 6] = [SYSTEM, "user", ASSISTANT, "tool", "function", DEVELOPER];

/// Other names of the two who speak, in lower case.
const SPEAKERS: [(&str, &str); 6] = [
    ("human", "user"),
    ("bot", ASSISTANT),
    ("chatbot", ASSISTANT),
    ("gpt", ASSISTANT),
    ("model", ASSISTANT),
    ("ai", ASSISTANT),
];

/// Other names of a tool's answer. A template may name one of them beside "tool".
const ANSWERS: [(&str, &str); 4] =
    [("ipython", "tool"), ("observation", "tool"), ("tool_response", "tool"), ("function_response", "tool")];

/// Checks the roles of a conversation against the template that renders it. Where the template does not name "developer",
/// such a message becomes one of the system, as OpenAI treats the two.
///
/// # Errors
/// The first message whose role is unknown.
pub(crate) fn settle(mut conversation: Conversation, template: &str) -> Result<Conversation, RowFault> {
    for (index, message) in conversation.messages.iter_mut().enumerate() {
        let role = message.role();
        if role == DEVELOPER && !names(template, DEVELOPER) {
            message.fields.insert("role".to_owned(), SYSTEM.into());
        } else if !KNOWN.contains(&role) {
            // A template names "model" or "User" to write it in place of a role, too.
            let is_another_name = other_name(role).is_some_and(|known| names(template, known));
            if is_another_name || !names(template, role) {
                return Err(RowFault::Message { index, what: unknown(role) });
            }
        }
    }
    Ok(conversation)
}

fn unknown(role: &str) -> String {
    let expected =
        "expected system, user, assistant, tool, function or developer, or a role that the model's chat template names";
    let next = nearest(role).map_or("correct the role".to_owned(), |known| format!("did you mean {known:?}?"));
    format!("role {:?}: {expected}; {next}", cut(role))
}

/// Whether a template's source has the role as a text of its own.
fn names(template: &str, role: &str) -> bool {
    ['\'', '"'].iter().any(|quote| template.contains(&format!("{quote}{role}{quote}")))
}

/// The known role that this is in other letters, or by another name.
fn other_name(role: &str) -> Option<&'static str> {
    let role = role.trim().to_lowercase();
    let known = KNOWN.into_iter().find(|known| *known == role);
    known.or_else(|| SPEAKERS.into_iter().find(|(name, _)| *name == role).map(|(_, known)| known))
}

/// The known role that another one was probably meant to be.
pub(crate) fn nearest(role: &str) -> Option<&'static str> {
    const MOST_EDITS: usize = 2;
    let lower = role.trim().to_lowercase();
    let answer = || ANSWERS.into_iter().find(|(name, _)| *name == lower).map(|(_, known)| known);
    let misspelt = || {
        let near = KNOWN.into_iter().map(|known| (strsim::damerau_levenshtein(&lower, known), known));
        near.filter(|(edits, known)| *edits <= MOST_EDITS && 2 * edits < known.len()).min().map(|(_, known)| known)
    };
    other_name(role).or_else(answer).or_else(misspelt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{conversation, doc::Doc};

    /// Writes any role that it is given.
    const CHATML: &str = "{{ '<|im_start|>' + m['role'] + '\\n' }}{{ '<|im_start|>assistant\\n' }}";
    const LLAMA: &str = "{% if m.role == \"tool\" or m.role == \"ipython\" %}{% elif m.role == 'assistant' %}";
    const GEMMA: &str = "{% if m.role == 'assistant' %}{% set role = 'model' %}{% elif m.role == 'user' %}{{ 'User' }}";

    fn roles(roles: &[&str], template: &str) -> Result<Vec<String>, String> {
        let messages: Vec<String> =
            roles.iter().map(|role| format!(r#"{{"role": "{role}", "content": "x"}}"#)).collect();
        let row = format!(r#"{{"messages": [{}]}}"#, messages.join(","));
        let settled = settle(conversation::parse(&row).unwrap(), template).map_err(|fault| fault.to_string())?;
        Ok(settled.messages.iter().map(|message| message.role().to_owned()).collect())
    }

    #[test]
    fn a_role_that_is_not_known_is_refused_with_the_one_that_it_was_meant_to_be() {
        for (role, meant) in [
            ("asistant", "assistant"),
            ("Assistant", "assistant"),
            ("bot", "assistant"),
            ("User", "user"),
            ("usr", "user"),
            ("human", "user"),
            ("sytsem", "system"),
            ("observation", "tool"),
        ] {
            // Another message is the assistant's, so that the row is not without any.
            let said = roles(&["user", role, "assistant"], CHATML).unwrap_err();
            let expected =
                [format!("message 2: role {role:?}: expected system, user, "), format!("did you mean {meant:?}?")];
            assert!(expected.iter().all(|part| said.contains(part)), "{said}");
        }
        assert!(roles(&["narrator"], CHATML).unwrap_err().ends_with("; correct the role"));
    }

    #[test]
    fn a_role_that_the_template_names_is_allowed_unless_it_stands_for_another_one() {
        assert_eq!(roles(&["user", "ipython", "assistant"], LLAMA).unwrap(), ["user", "ipython", "assistant"]);
        assert!(roles(&["ipython"], CHATML).is_err());
        // Gemma's template writes "model" for the assistant's role: a row with it would not be learned.
        assert!(roles(&["user", "model"], GEMMA).unwrap_err().contains("did you mean \"assistant\"?"));
        assert!(roles(&["User", "assistant"], GEMMA).is_err());
        let only_bot = "{% if m.role == 'bot' %}{% generation %}";
        assert_eq!(roles(&["user", "bot"], only_bot).unwrap(), ["user", "bot"]);
    }

    #[test]
    fn a_developer_is_the_system_where_the_template_does_not_know_one() {
        assert_eq!(roles(&["developer", "user"], CHATML).unwrap(), ["system", "user"]);
        let knows = "{% if m.role == \"developer\" or m.role == \"system\" %}";
        assert_eq!(roles(&["developer", "user"], knows).unwrap(), ["developer", "user"]);
        // In its place among the fields, which a template may print.
        let row = r#"{"messages": [{"content": "x", "role": "developer", "name": "n"}]}"#;
        let settled = settle(conversation::parse(row).unwrap(), CHATML).unwrap();
        let fields = serde_json::to_string(&Doc::Object(settled.messages[0].fields.clone())).unwrap();
        assert_eq!(fields, r#"{"content":"x","role":"system","name":"n"}"#);
    }
}
