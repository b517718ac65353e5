//! One message: its fields as transformers (5.24) hands them to a template, and whether the loss is taken on it.
//!
//! Fields that are null are left out, and a thought has the same text under each name that templates read it by. Other
//! fields are passed as they are.

use crate::{
    conversation::list_of_objects,
    doc::{Doc, Fields},
    error::cut,
    roles,
};

/// Role of the turns that a model is trained to write.
pub(crate) const ASSISTANT: &str = "assistant";

/// Known roles that ShareGPT's `from` has under the same name.
const SHAREGPT: [&str; 4] = ["system", "user", ASSISTANT, "tool"];

/// Names of a thought, the one that templates read first. gpt-oss's template reads `thinking`.
pub(crate) const THOUGHTS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    /// What the template is given. `role` is a text.
    pub fields: Fields,
    /// False where the row says that an assistant's message is not to be learned.
    pub is_learned: bool,
}

impl Message {
    pub fn new(role: &str, content: Doc) -> Self {
        let fields = [("role", role.into()), ("content", content)];
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Message { fields, is_learned: true }
    }

    pub fn role(&self) -> &str {
        self.text("role").unwrap_or_default()
    }

    pub fn is_assistant(&self) -> bool {
        self.role() == ASSISTANT
    }

    /// Whether its content is empty or white space, and there is no thought and no call beside it.
    pub fn says_nothing(&self) -> bool {
        let is_blank = |text: &Doc| text.as_text().is_some_and(|text| text.trim().is_empty());
        let is_blank_part = |part: &Doc| match part {
            Doc::Object(part) => part.get("text").is_some_and(is_blank),
            part => is_blank(part),
        };
        let is_empty = |value: &Doc| match value {
            Doc::List(parts) => parts.iter().all(is_blank_part),
            value => is_blank(value),
        };
        let says = |name: &str| self.fields.get(name).is_some_and(|value| !is_empty(value));
        !["content", "tool_calls"].iter().chain(&THOUGHTS).any(|name| says(name))
    }

    /// A field that is a text.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field)?.as_text()
    }
}

/// A message of either form. Its keys tell the forms apart, for data sets put both under either name of the list.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read(fields: Fields) -> Result<Message, String> {
    let is_openai = fields.get("role").is_some_and(|role| role.as_text().is_some());
    let is_sharegpt = !is_openai && fields.get("from").is_some_and(|from| !from.is_null());
    if is_sharegpt { sharegpt(fields) } else { openai(fields) }
}

/// A message of `{"role", "content"}`.
fn openai(mut fields: Fields) -> Result<Message, String> {
    fields.retain(|_, value| !value.is_null());
    let role = match fields.get("role") {
        Some(Doc::Text(role)) if !role.is_empty() => role.clone(),
        _ => {
            let expected = "expected a string such as \"user\" or \"assistant\" (in ShareGPT's form, \"from\")";
            return Err(format!("no \"role\"; {expected}"));
        }
    };
    if fields.contains_key("function_call") {
        return Err("\"function_call\" is OpenAI's old form of a call; write it as \"tool_calls\"".to_owned());
    }
    if let Some(calls) = fields.get_mut("tool_calls") {
        match read_calls(std::mem::replace(calls, Doc::Null))? {
            Some(read) => *calls = Doc::List(read),
            None => drop(fields.shift_remove("tool_calls")),
        }
    }
    let says_more = || THOUGHTS.iter().chain(&["tool_calls"]).any(|name| fields.contains_key(*name));
    match fields.get("content") {
        Some(Doc::Text(_) | Doc::List(_)) => {}
        None if says_more() => {}
        None => return Err("no \"content\"; expected the text of the turn".to_owned()),
        Some(other) => return Err(format!("content: expected a string or a list of parts, found {}", other.kind())),
    }
    let is_learned = is_learned(&fields, &role)?;
    Ok(Message { fields: with_thoughts(fields), is_learned })
}

/// A message of ShareGPT's `{"from", "value"}`.
fn sharegpt(fields: Fields) -> Result<Message, String> {
    let text = |name: &str| fields.get(name).and_then(Doc::as_text);
    let from = text("from").ok_or("no \"from\"; expected who speaks, such as \"human\"")?;
    let value = text("value").ok_or("no \"value\"; expected the text of the turn")?;
    let (role, calls) = match from {
        "human" | "user" => ("user", None),
        "gpt" | "assistant" | "model" => (ASSISTANT, None),
        "function_call" => (ASSISTANT, Some(sharegpt_calls(value)?)),
        "system" => ("system", None),
        "tool" | "observation" | "function_response" => ("tool", None),
        _ => {
            let expected =
                "human, user, gpt, assistant, model, function_call, system, tool, observation or function_response";
            let near = roles::nearest(from).filter(|role| SHAREGPT.contains(role));
            let near = near.map_or(String::new(), |role| format!("; did you mean {role:?}?"));
            return Err(format!("\"from\": expected {expected}, found {:?}{near}", cut(from)));
        }
    };
    let mut message = match calls {
        None => Message::new(role, value.into()),
        Some(calls) => {
            let mut message = Message::new(role, "".into());
            message.fields.insert("tool_calls".to_owned(), Doc::List(calls));
            message
        }
    };
    let fields = fields.into_iter().filter(|(_, value)| !value.is_null()).collect();
    message.is_learned = is_learned(&fields, role)?;
    Ok(message)
}

/// Calls as `tool_calls` has them. `function.arguments` may be an object or a JSON string and is passed as it is, as
/// transformers does: templates ask which of the two it is.
fn read_calls(value: Doc) -> Result<Option<Vec<Doc>>, String> {
    let misfit = |field: &str, expected: &str, found: &str| format!("{field}: expected {expected}, found {found}");
    let calls =
        list_of_objects("tool_calls", value).map_err(|wrong| misfit(&wrong.field, wrong.expected, wrong.found))?;
    for (index, call) in calls.iter().flatten().enumerate() {
        let Doc::Object(call) = call else { continue };
        let function = match call.get("function") {
            None | Some(Doc::Null) => call,
            Some(Doc::Object(function)) => function,
            Some(other) => return Err(misfit(&format!("tool_calls[{index}].function"), "an object", other.kind())),
        };
        match function.get("arguments") {
            None | Some(Doc::Null | Doc::Text(_) | Doc::Object(_)) => {}
            Some(other) => {
                let field = format!("tool_calls[{index}].function.arguments");
                return Err(misfit(&field, "an object, or a JSON string of one", other.kind()));
            }
        }
    }
    Ok(calls)
}

/// The calls of a ShareGPT turn: a JSON string of `{"name", "arguments"}`, or of a list of them.
fn sharegpt_calls(value: &str) -> Result<Vec<Doc>, String> {
    let expected =
        "\"value\" of function_call: expected a JSON string of {\"name\", \"arguments\"}, or of a list of them";
    let calls = match serde_json::from_str(value) {
        Ok(Doc::List(calls)) => calls,
        Ok(call @ Doc::Object(_)) => vec![call],
        _ => return Err(expected.to_owned()),
    };
    let call = |call: Doc| {
        let is_named =
            matches!(&call, Doc::Object(fields) if fields.get("name").is_some_and(|name| name.as_text().is_some()));
        let fields = [("type".to_owned(), "function".into()), ("function".to_owned(), call)];
        is_named.then(|| Doc::Object(fields.into_iter().collect())).ok_or_else(|| expected.to_owned())
    };
    let calls = calls.into_iter().map(call).collect::<Result<Vec<_>, _>>()?;
    Ok(read_calls(Doc::List(calls))?.unwrap_or_default())
}

/// Puts a message's thought under the names that templates know, where transformers puts it.
fn with_thoughts(fields: Fields) -> Fields {
    let Some(thought) = THOUGHTS.iter().find_map(|name| fields.get(*name)).cloned() else { return fields };
    let mut all = Fields::new();
    all.insert("thinking".to_owned(), thought.clone());
    all.extend(fields);
    all.insert("reasoning_content".to_owned(), thought);
    all
}

/// Whether a message is learned: `weight` as OpenAI's fine-tuning has it, `train` and `training` as axolotl has them.
fn is_learned(fields: &Fields, role: &str) -> Result<bool, String> {
    let mut is_learned = true;
    for name in ["weight", "train", "training"] {
        let says = match (name, fields.get(name)) {
            (_, None) => continue,
            ("weight", Some(Doc::Number(weight))) if weight.as_f64() == Some(0.0) => false,
            ("weight", Some(Doc::Number(weight))) if weight.as_f64() == Some(1.0) => true,
            ("weight", Some(other)) => {
                let found = shown(other);
                return Err(format!("weight: expected 0 or 1, found {found}; a loss is taken on a turn or it is not"));
            }
            (_, Some(Doc::Bool(says))) => *says,
            (_, Some(other)) => return Err(format!("{name}: expected true or false, found {}", shown(other))),
        };
        // A weight of 1 on every message is how tables are filled; `train` is set on purpose.
        if says && name != "weight" && role != ASSISTANT {
            return Err(format!(
                "{name} is true on a message of role {:?}, and only assistant messages can be supervised; remove the field",
                cut(role)
            ));
        }
        is_learned &= says;
    }
    Ok(is_learned)
}

fn shown(value: &Doc) -> String {
    match value {
        Doc::Number(number) => number.to_string(),
        Doc::Text(text) => format!("{:?}", cut(text)),
        Doc::Bool(value) => value.to_string(),
        other => other.kind().to_owned(),
    }
}
