//! A row of a chat data set: `{"messages": [{"role", "content"}]}` as most tools write it, or ShareGPT's
//! `{"conversations": [{"from", "value"}]}`, or either list with messages of the other form, with `tools` and `documents` beside it.
//!
//! What is read here is what transformers hands to a chat template, so that both write the same text.

use crate::{
    doc::{Doc, Fields},
    error::RowFault,
    message::{self, Message},
    template,
};

/// Messages, and the row's own variables for the template.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub messages: Vec<Message>,
    pub variables: Vec<(&'static str, Doc)>,
}

/// Fields of a row that templates know. Each is a list of objects.
const VARIABLES: [&str; 2] = ["tools", "documents"];

/// Reads a row.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(row: &str) -> Result<Conversation, RowFault> {
    let object = match serde_json::from_str(row) {
        Ok(Doc::Object(object)) => object,
        Ok(other) => return Err(RowFault::NotAnObject { found: other.kind() }),
        Err(error) => return Err(RowFault::json(&error)),
    };
    of_object(object)
}

/// Reads a row's fields.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn of_object(mut object: Fields) -> Result<Conversation, RowFault> {
    let mut take = |name: &str| object.swap_remove(name).filter(|value| !value.is_null());
    let mut messages = match (take("messages"), take("conversations")) {
        (Some(list), _) => read_list("messages", list)?,
        (None, Some(list)) => read_list("conversations", list)?,
        (None, None) => {
            return Err(RowFault::NoField {
                field: "messages".to_owned(),
                expected: "a list of messages there, or in \"conversations\"",
                has: object.into_keys().collect(),
            });
        }
    };
    if messages.is_empty() {
        return Err(RowFault::NoMessages);
    }
    // ShareGPT keeps the system prompt beside the turns.
    if let Some(Doc::Text(system)) = take("system")
        && !system.is_empty()
        && messages[0].role() != "system"
    {
        messages.insert(0, Message::new("system", Doc::Text(system)));
    }
    let mut variables = Vec::new();
    for name in VARIABLES {
        if let Some(value) = take(name) {
            let list = list_of_objects(name, value).map_err(Misfit::of_field)?;
            variables.extend(list.map(|list| (name, Doc::List(list))));
        }
    }
    for (index, message) in messages.iter().enumerate() {
        if message.fields.iter().any(|(name, value)| template::has_mark(name) || value.any_text(&template::has_mark)) {
            return Err(RowFault::Message { index, what: NOT_A_CHARACTER.to_owned() });
        }
    }
    if let Some((name, _)) = variables.iter().find(|(_, value)| value.any_text(&template::has_mark)) {
        return Err(RowFault::Field { field: (*name).to_owned(), what: NOT_A_CHARACTER.to_owned() });
    }
    Ok(Conversation { messages, variables })
}

/// The edges of what a template marks as generated.
const NOT_A_CHARACTER: &str = "it holds U+FDD0 or U+FDD1, which stand for no character; remove them";

fn read_list(name: &str, list: Doc) -> Result<Vec<Message>, RowFault> {
    let expected = "a list of messages";
    let Doc::List(list) = list else {
        return Err(RowFault::FieldKind { field: name.to_owned(), expected, found: list.kind() });
    };
    let read = |(index, message)| match message {
        Doc::Object(fields) => message::read(fields).map_err(|what| RowFault::Message { index, what }),
        other => Err(RowFault::Message { index, what: format!("expected an object, found {}", other.kind()) }),
    };
    list.into_iter().enumerate().map(read).collect()
}

/// A field that is not what templates expect there.
#[derive(Debug)]
pub(crate) struct Misfit {
    /// Which part of the row or message, such as `tools[2]`.
    pub field: String,
    pub expected: &'static str,
    pub found: &'static str,
}

impl Misfit {
    fn of_field(self) -> RowFault {
        RowFault::FieldKind { field: self.field, expected: self.expected, found: self.found }
    }
}

const OBJECTS: &str = "a list of objects, or a JSON string of one";

/// The objects of a list. The list may be given as a JSON string, and so may each object: a table has one type a column, and
/// tools of several shapes fit only as strings. `None` for an empty text and for null, which stand for no list.
///
/// # Errors
/// Anything else: a template would walk through a text letter by letter, and through an object name by name.
pub(crate) fn list_of_objects(name: &str, value: Doc) -> Result<Option<Vec<Doc>>, Misfit> {
    let misfit = |found| Misfit { field: name.to_owned(), expected: OBJECTS, found };
    let list = match value {
        Doc::Text(text) if text.trim().is_empty() => return Ok(None),
        Doc::Text(text) => serde_json::from_str(&text).map_err(|_| misfit("a string that is not JSON"))?,
        list => list,
    };
    let items = match list {
        Doc::Null => return Ok(None),
        Doc::List(items) => items,
        other => return Err(misfit(other.kind())),
    };
    let object = |(index, item)| {
        let misfit =
            |found| Misfit { field: format!("{name}[{index}]"), expected: "an object, or a JSON string of one", found };
        match item {
            Doc::Object(_) => Ok(item),
            Doc::Text(text) => match serde_json::from_str(&text) {
                Ok(object @ Doc::Object(_)) => Ok(object),
                _ => Err(misfit("a string that is not a JSON object")),
            },
            other => Err(misfit(other.kind())),
        }
    };
    items.into_iter().enumerate().map(object).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests;
