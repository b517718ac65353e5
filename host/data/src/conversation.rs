//! A row of a chat data set: `{"messages": [{"role", "content"}]}` as most tools write it, or ShareGPT's
//! `{"conversations": [{"from", "value"}]}`. Whatever else a message holds is handed to the template as it is.

use minijinja::{Value, value::ValueKind};

use crate::{error::RowFault, error::cut, template, turns::text_of};

/// Messages, and the row's own variables for the template.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub messages: Vec<Value>,
    pub variables: Vec<(String, Value)>,
}

/// Fields of a row that templates know.
const VARIABLES: [&str; 2] = ["tools", "documents"];

/// Reads a row.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(row: &str) -> Result<Conversation, RowFault> {
    if template::has_mark(row) {
        let what = "it holds U+FDD0 or U+FDD1, which stand for no character; remove them".to_owned();
        return Err(RowFault::Message { index: 0, what });
    }
    let object: Value = serde_json::from_str(row).map_err(|error| RowFault::Json { message: error.to_string() })?;
    if object.kind() != ValueKind::Map {
        return Err(RowFault::NotAnObject { found: kind(&object) });
    }
    let field = |name: &str| object.get_attr(name).ok().filter(|value| !value.is_undefined());
    let mut messages = match (field("messages"), field("conversations")) {
        (Some(list), _) => read_list("messages", &list, openai)?,
        (None, Some(list)) => read_list("conversations", &list, sharegpt)?,
        (None, None) => {
            let names = object.try_iter().into_iter().flatten();
            return Err(RowFault::NoField {
                field: "messages".to_owned(),
                expected: "a list of messages there, or in \"conversations\"",
                has: names.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
            });
        }
    };
    if messages.is_empty() {
        return Err(RowFault::NoMessages);
    }
    // ShareGPT keeps the system prompt beside the turns.
    if let Some(system) = text_of(&object, "system").filter(|text| !text.is_empty())
        && text_of(&messages[0], "role").as_deref() != Some("system")
    {
        messages.insert(0, Value::from_pairs([("role", Value::from("system")), ("content", system.into())]));
    }
    let variables = VARIABLES.iter().filter_map(|name| Some((name.to_string(), field(name)?))).collect();
    Ok(Conversation { messages, variables })
}

fn read_list(
    name: &str,
    list: &Value,
    read: fn(usize, &Value) -> Result<Value, RowFault>,
) -> Result<Vec<Value>, RowFault> {
    let expected = "a list of messages";
    if list.kind() != ValueKind::Seq {
        return Err(RowFault::FieldKind { field: name.to_owned(), expected, found: kind(list) });
    }
    let mut messages = Vec::new();
    for (index, message) in list.try_iter().into_iter().flatten().enumerate() {
        if message.kind() != ValueKind::Map {
            return Err(RowFault::Message { index, what: format!("expected an object, found {}", kind(&message)) });
        }
        messages.push(read(index, &message)?);
    }
    Ok(messages)
}

fn openai(index: usize, message: &Value) -> Result<Value, RowFault> {
    let wrong = |what: String| RowFault::Message { index, what };
    let role = text_of(message, "role");
    if role.as_deref().is_none_or(str::is_empty) {
        return Err(wrong("no \"role\"; expected a text such as \"user\" or \"assistant\"".to_owned()));
    }
    let content = message.get_attr("content").unwrap_or_default();
    let has_calls = message.get_attr("tool_calls").is_ok_and(|calls| calls.is_true());
    match content.kind() {
        ValueKind::String | ValueKind::Seq => Ok(message.clone()),
        ValueKind::None | ValueKind::Undefined if has_calls => Ok(message.clone()),
        ValueKind::Undefined => Err(wrong("no \"content\"; expected the text of the turn".to_owned())),
        _ => Err(wrong(format!("content: expected a text or a list of parts, found {}", kind(&content)))),
    }
}

fn sharegpt(index: usize, message: &Value) -> Result<Value, RowFault> {
    let wrong = |what: String| RowFault::Message { index, what };
    // Some data sets put messages of the other kind under this name.
    if text_of(message, "role").is_some() {
        return openai(index, message);
    }
    let from = text_of(message, "from")
        .ok_or_else(|| wrong("no \"from\"; expected who speaks, such as \"human\"".to_owned()))?;
    let role = match from.as_str() {
        "human" | "user" => "user",
        "gpt" | "assistant" | "model" => "assistant",
        "system" => "system",
        "tool" | "observation" | "function_response" => "tool",
        _ => {
            let expected = "human, user, gpt, assistant, model, system, tool, observation or function_response";
            return Err(wrong(format!("\"from\": expected {expected}, found {:?}", cut(&from))));
        }
    };
    let content =
        text_of(message, "value").ok_or_else(|| wrong("no \"value\"; expected the text of the turn".to_owned()))?;
    Ok(Value::from_pairs([("role", Value::from(role)), ("content", content.into())]))
}

/// What a value is, in words.
fn kind(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::None | ValueKind::Undefined => "null",
        ValueKind::Bool => "a boolean",
        ValueKind::Number => "a number",
        ValueKind::String => "a text",
        ValueKind::Map => "an object",
        _ => "a list",
    }
}
