//! A row of a chat data set: `{"messages": [{"role", "content"}]}` as most tools write it, or ShareGPT's
//! `{"conversations": [{"from", "value"}]}`. Whatever else a message holds is handed to the template as it is.

use crate::{
    error::{RowFault, cut},
    jinja::Value,
    template,
};

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
    let Some(fields) = object.as_dict() else {
        return Err(RowFault::NotAnObject { found: object.describe() });
    };
    let mut messages = match (fields.get("messages"), fields.get("conversations")) {
        (Some(list), _) => read_list("messages", list, openai)?,
        (None, Some(list)) => read_list("conversations", list, sharegpt)?,
        (None, None) => {
            return Err(RowFault::NoField {
                field: "messages".to_owned(),
                expected: "a list of messages there, or in \"conversations\"",
                has: fields.iter().filter_map(|(name, _)| name.as_str().map(str::to_owned)).collect(),
            });
        }
    };
    if messages.is_empty() {
        return Err(RowFault::NoMessages);
    }
    // ShareGPT keeps the system prompt beside the turns.
    if let Some(system) = object.text_of("system").filter(|text| !text.is_empty())
        && messages[0].text_of("role") != Some("system")
    {
        messages.insert(0, message("system", system));
    }
    let variables = VARIABLES.iter().filter_map(|name| Some((name.to_string(), fields.get(name)?.clone()))).collect();
    Ok(Conversation { messages, variables })
}

fn read_list(
    name: &str,
    list: &Value,
    read: fn(usize, &Value) -> Result<Value, RowFault>,
) -> Result<Vec<Value>, RowFault> {
    let expected = "a list of messages";
    let Some(list) = list.as_list() else {
        return Err(RowFault::FieldKind { field: name.to_owned(), expected, found: list.describe() });
    };
    let mut messages = Vec::new();
    for (index, message) in list.iter().enumerate() {
        if message.as_dict().is_none() {
            return Err(RowFault::Message { index, what: format!("expected an object, found {}", message.describe()) });
        }
        messages.push(read(index, message)?);
    }
    Ok(messages)
}

fn openai(index: usize, message: &Value) -> Result<Value, RowFault> {
    let wrong = |what: String| RowFault::Message { index, what };
    if message.text_of("role").is_none_or(str::is_empty) {
        return Err(wrong("no \"role\"; expected a text such as \"user\" or \"assistant\"".to_owned()));
    }
    let has_calls = message.get("tool_calls").is_some_and(Value::is_true);
    match message.get("content") {
        Some(Value::Str(_) | Value::List(_)) => Ok(message.clone()),
        None | Some(Value::None) if has_calls => Ok(message.clone()),
        None => Err(wrong("no \"content\"; expected the text of the turn".to_owned())),
        Some(other) => Err(wrong(format!("content: expected a text or a list of parts, found {}", other.describe()))),
    }
}

fn sharegpt(index: usize, turn: &Value) -> Result<Value, RowFault> {
    let wrong = |what: String| RowFault::Message { index, what };
    // Some data sets put messages of the other kind under this name.
    if turn.text_of("role").is_some() {
        return openai(index, turn);
    }
    let from =
        turn.text_of("from").ok_or_else(|| wrong("no \"from\"; expected who speaks, such as \"human\"".to_owned()))?;
    let role = match from {
        "human" | "user" => "user",
        "gpt" | "assistant" | "model" => "assistant",
        "system" => "system",
        "tool" | "observation" | "function_response" => "tool",
        _ => {
            let expected = "human, user, gpt, assistant, model, system, tool, observation or function_response";
            return Err(wrong(format!("\"from\": expected {expected}, found {:?}", cut(from))));
        }
    };
    let content =
        turn.text_of("value").ok_or_else(|| wrong("no \"value\"; expected the text of the turn".to_owned()))?;
    Ok(message(role, content))
}

fn message(role: &str, content: &str) -> Value {
    Value::object([("role", role.into()), ("content", content.into())]).expect("a message of two texts is flat")
}
