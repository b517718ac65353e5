//! A row as what is trained on: a prompt and what is to be written after it, or a conversation.

use crate::{
    columns::{BESIDE_MESSAGES, Shape},
    doc::{Doc, Fields},
    error::RowFault,
    record,
};

/// A text, of which the part after the prompt is learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub prompt: String,
    pub completion: String,
}

impl Shape {
    /// The row as a prompt and its completion.
    ///
    /// # Errors
    /// A column is missing in it, or holds something else.
    pub fn pair(&self, row: &str) -> Result<Pair, RowFault> {
        let row = record::parse(row)?;
        match self {
            Shape::Completion { prompt, completion, .. } => Ok(Pair {
                prompt: plain_text(&row, prompt, "the prompt")?,
                completion: plain_text(&row, completion, "the completion")?,
            }),
            Shape::Alpaca { instruction, input, output, system, history } => {
                if let Some((name, turns)) = history.value(&row)?
                    && !matches!(unpacked(turns, name)?, Doc::List(turns) if turns.is_empty())
                {
                    let (field, expected) = (name.to_owned(), "no earlier turns, or --chat, which renders them");
                    return Err(RowFault::FieldKind { field, expected, found: "earlier turns" });
                }
                let (input, system) = (input.text(&row)?, system.text(&row)?);
                let instruction = record::text_or_integer(&row, instruction, "the instruction")?;
                let prompt = alpaca_prompt(system.as_deref(), &instruction, input.as_deref());
                Ok(Pair { prompt, completion: record::text_or_integer(&row, output, "the output")? })
            }
            Shape::Text { text } | Shape::Conversation { messages: text } => {
                Ok(Pair { prompt: String::new(), completion: record::text_or_integer(&row, text, "the row's text")? })
            }
        }
    }

    /// The row as an object with the conversation in `messages` or `conversations`.
    ///
    /// # Errors
    /// As [`Shape::pair`].
    pub fn conversation(&self, row: &str) -> Result<Fields, RowFault> {
        let mut row = record::parse(row)?;
        let mut messages = Vec::new();
        match self {
            Shape::Completion { prompt, completion, system } => {
                messages.extend(system.text(&row)?.map(|text| message("system", &text)));
                messages.extend(side(&row, prompt, "user", false)?);
                messages.extend(side(&row, completion, "assistant", true)?);
            }
            Shape::Alpaca { instruction, input, output, system, history } => {
                messages.extend(system.text(&row)?.map(|text| message("system", &text)));
                if let Some((name, turns)) = history.value(&row)? {
                    messages.extend(earlier_turns(name, &unpacked(turns, name)?)?);
                }
                let instruction = record::text_or_integer(&row, instruction, "the instruction")?;
                let asked = match input.text(&row)? {
                    Some(input) => format!("{instruction}\n{input}"),
                    None => instruction,
                };
                messages.push(message("user", &asked));
                messages.push(message("assistant", &record::text_or_integer(&row, output, "the output")?));
            }
            Shape::Text { text: name } | Shape::Conversation { messages: name } => {
                // What is no list is checked where conversations are read.
                let text = row.get(name).filter(|value| value.as_text().is_some());
                if let Some(list) = text.and_then(|text| unpacked(text, name).ok()) {
                    row.insert(name.clone(), list);
                }
                // The column that was chosen is read, where the row has it, and not the other one.
                let has = row.get(name).is_some_and(|list| !list.is_null());
                match name.as_str() {
                    "messages" => {}
                    "conversations" if has => drop(row.shift_remove("messages")),
                    "conversations" => {}
                    _ => {
                        if let Some(list) = row.shift_remove(name) {
                            row.insert("messages".to_owned(), list);
                        }
                    }
                }
                return Ok(row);
            }
        }
        // Of the row's other columns, those that a template knows. The system prompt is among the messages.
        row.retain(|name, _| name != "system" && BESIDE_MESSAGES.contains(&name.as_str()));
        row.insert("messages".to_owned(), Doc::List(messages));
        Ok(row)
    }
}

/// Stanford Alpaca's prompt (Taori et al. 2023), with the line end that its published data has before the response. A system
/// prompt takes the place of the first sentence.
fn alpaca_prompt(system: Option<&str>, instruction: &str, input: Option<&str>) -> String {
    const ALONE: &str =
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.";
    const WITH_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides further \
                              context. Write a response that appropriately completes the request.";
    let head = system.unwrap_or(if input.is_some() { WITH_INPUT } else { ALONE });
    let input = input.map(|input| format!("### Input:\n{input}\n\n")).unwrap_or_default();
    format!("{head}\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n")
}

/// A text; where a list of messages stands instead, the option that renders it is named.
fn plain_text(row: &Fields, name: &str, expected: &'static str) -> Result<String, RowFault> {
    match record::text_or_integer(row, name, expected) {
        Err(RowFault::FieldKind { field, found: "a list", .. }) => {
            let expected = "a string, or --chat, which renders messages";
            Err(RowFault::FieldKind { field, expected, found: "a list" })
        }
        text => text,
    }
}

fn message(role: &str, content: &str) -> Doc {
    let fields = [("role", role), ("content", content)];
    Doc::Object(fields.into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect())
}

/// One side of a prompt and its completion: a text, or messages as TRL has them. What the assistant says in a prompt is not
/// learned.
fn side(row: &Fields, name: &str, role: &str, is_learned: bool) -> Result<Vec<Doc>, RowFault> {
    let Some(Doc::List(messages)) = row.get(name) else {
        let text = record::text_or_integer(row, name, "a string or a list of messages")?;
        return Ok(vec![message(role, &text)]);
    };
    let mut messages = messages.clone();
    for message in &mut messages {
        if let Doc::Object(fields) = message
            && !is_learned
            && fields.get("role").and_then(Doc::as_text) == Some("assistant")
        {
            fields.insert("weight".to_owned(), Doc::Number(0.into()));
        }
    }
    Ok(messages)
}

/// Alpaca's history: pairs of what was asked and answered.
fn earlier_turns(name: &str, turns: &Doc) -> Result<Vec<Doc>, RowFault> {
    let wrong = |value: &Doc| RowFault::FieldKind {
        field: name.to_owned(),
        expected: "a list of pairs of strings",
        found: value.kind(),
    };
    let Doc::List(turns) = turns else { return Err(wrong(turns)) };
    let mut messages = Vec::new();
    for pair in turns {
        let Doc::List(texts) = pair else { return Err(wrong(pair)) };
        let [Doc::Text(asked), Doc::Text(answered)] = &texts[..] else { return Err(wrong(pair)) };
        messages.extend([message("user", asked), message("assistant", answered)]);
    }
    Ok(messages)
}

/// A list; a text that is the JSON of one is what CSV has in its place. Null and an empty text are an empty list.
fn unpacked(value: &Doc, name: &str) -> Result<Doc, RowFault> {
    match value {
        Doc::Null => Ok(Doc::List(Vec::new())),
        Doc::Text(text) if text.is_empty() => Ok(Doc::List(Vec::new())),
        Doc::Text(text) => match serde_json::from_str(text) {
            Ok(list @ Doc::List(_)) => Ok(list),
            _ => Err(RowFault::FieldKind {
                field: name.to_owned(),
                expected: "a list, or a JSON string of one",
                found: "a string",
            }),
        },
        other => Ok(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::{Columns, RowFormat};
    use crate::conversation;

    fn roles(row: &str, columns: &Columns) -> Result<Vec<String>, String> {
        let has = record::names(&record::parse(row).unwrap());
        let fields = columns.shape(&has, true)?.conversation(row).map_err(|fault| fault.to_string())?;
        let conversation = conversation::of_object(fields).map_err(|fault| fault.to_string())?;
        Ok(conversation.messages.iter().map(|message| message.role().to_owned()).collect())
    }

    #[test]
    fn either_name_of_the_column_may_hold_either_form_of_message() {
        let openai = r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#;
        let sharegpt = r#"[{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]"#;
        for column in ["messages", "conversations", "Messages", "dialog"] {
            for list in [openai, sharegpt] {
                for format in [RowFormat::Auto, RowFormat::Chat, RowFormat::Sharegpt] {
                    let messages = (column == "dialog").then(|| column.to_owned());
                    let columns = Columns { format, messages, ..Columns::default() };
                    let row = format!(r#"{{"{column}": {list}}}"#);
                    assert_eq!(roles(&row, &columns).unwrap(), ["user", "assistant"], "{format:?} {row}");
                }
            }
        }
    }

    #[test]
    fn of_two_columns_of_messages_the_format_chooses() {
        let row = r#"{"conversations": [{"from": "human", "value": "a"}],
            "messages": [{"role": "system", "content": "b"}]}"#;
        let of = |format| roles(row, &Columns { format, ..Columns::default() }).unwrap();
        assert_eq!(of(RowFormat::Sharegpt), ["user"]);
        assert_eq!(of(RowFormat::Chat), ["system"]);
        assert_eq!(of(RowFormat::Auto), ["system"]);
    }
}
