//! What the columns of a data set mean: text, a prompt and its completion, an instruction, or a conversation.
//!
//! Names are those that LLaMA-Factory, axolotl and TRL use. Where a name is not known, or two columns could be meant, nothing
//! is guessed: the error lists the columns and the options that name them.

use crate::{
    doc::{Doc, Fields},
    error::{RowFault, list},
    record,
};

/// What rows are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowFormat {
    /// What the names of the columns say.
    #[default]
    Auto,
    /// A document.
    Text,
    /// A prompt and its completion.
    Completion,
    /// Stanford Alpaca's instruction, input and output.
    Alpaca,
    /// A conversation, in `conversations` where there is such a column, as ShareGPT has it.
    Sharegpt,
    /// A conversation, in `messages` where there is such a column, as OpenAI has it.
    Chat,
}

/// Which columns are read, and as what. What is not named here is found by its usual names.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Columns {
    pub format: RowFormat,
    pub text: Option<String>,
    /// The prompt, or Alpaca's instruction.
    pub prompt: Option<String>,
    /// Alpaca's input.
    pub input: Option<String>,
    /// The completion, or Alpaca's output.
    pub completion: Option<String>,
    pub system: Option<String>,
    pub history: Option<String>,
    pub messages: Option<String>,
}

const TEXT: &[&str] = &["text"];
const INSTRUCTION: &[&str] = &["instruction"];
const INPUT: &[&str] = &["input", "context"];
const OUTPUT: &[&str] = &["output", "response", "completion", "answer"];
const PROMPT: &[&str] = &["prompt", "question", "query", "problem", "input"];
const COMPLETION: &[&str] = &["completion", "response", "answer", "output", "solution"];
const SYSTEM: &[&str] = &["system", "system_prompt"];
const HISTORY: &[&str] = &["history"];
const MESSAGES: &[&str] = &["messages", "conversations"];
/// The same, ShareGPT's own first.
const SHAREGPT_MESSAGES: &[&str] = &["conversations", "messages"];
/// Fields beside a conversation that its template or its reader knows.
pub(crate) const BESIDE_MESSAGES: &[&str] = &["system", "tools", "documents", "chat_template_kwargs"];

/// A column that is not read, though data sets have content under its name.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct UnreadColumn {
    pub column: String,
    /// What reads it, such as "read it with --chat".
    pub next: String,
}

/// The columns that are read, by what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Text { text: String },
    Completion { prompt: String, completion: String, system: Optional },
    Alpaca { instruction: String, input: Optional, output: String, system: Optional, history: Optional },
    Conversation { messages: String },
}

/// A column that rows may lack: the first of these names that a row has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Optional {
    names: Vec<String>,
    /// It was named by the user: a row without it has a fault.
    is_named: bool,
}

impl Optional {
    fn of(named: Option<&str>, known: &[&str]) -> Self {
        match named {
            Some(name) => Optional { names: vec![name.to_owned()], is_named: true },
            None => Optional { names: known.iter().map(|name| (*name).to_owned()).collect(), is_named: false },
        }
    }

    /// Its name in a row and what is there, where that is not null.
    pub fn value<'a>(&'a self, row: &'a Fields) -> Result<Option<(&'a str, &'a Doc)>, RowFault> {
        let found = self.names.iter().find_map(|name| Some((name.as_str(), row.get(name)?)));
        if found.is_none() && self.is_named {
            let (field, has) = (self.names[0].clone(), record::names(row));
            return Err(RowFault::NoField { field, expected: "the column that was named", has });
        }
        Ok(found.filter(|(_, value)| !value.is_null()))
    }

    /// Its text, where there is one and it is not empty.
    pub fn text(&self, row: &Fields) -> Result<Option<String>, RowFault> {
        let Some((name, _)) = self.value(row)? else { return Ok(None) };
        Ok(Some(record::text_or_integer(row, name, "a string")?).filter(|text| !text.is_empty()))
    }
}

impl Columns {
    /// What rows with these columns are.
    ///
    /// # Errors
    /// Why that cannot be said, in words, with the options that help.
    pub(crate) fn shape(&self, has: &[String], is_chat: bool) -> Result<Shape, String> {
        let required =
            |named: &Option<String>, known, what, option| required(named.as_deref(), known, what, option, has);
        let completion = |known| required(&self.completion, known, "completion", "--completion-column");
        let optional = |named: &Option<String>, known| optional(named.as_deref(), known, has);
        let shape = match self.guessed(has, is_chat)? {
            RowFormat::Auto | RowFormat::Text => {
                Shape::Text { text: required(&self.text, TEXT, "text", "--text-column")? }
            }
            RowFormat::Completion => Shape::Completion {
                prompt: required(&self.prompt, PROMPT, "prompt", "--prompt-column")?,
                completion: completion(COMPLETION)?,
                system: optional(&self.system, SYSTEM)?,
            },
            RowFormat::Alpaca => Shape::Alpaca {
                instruction: required(&self.prompt, INSTRUCTION, "instruction", "--prompt-column")?,
                input: optional(&self.input, INPUT)?,
                output: completion(OUTPUT)?,
                system: optional(&self.system, SYSTEM)?,
                history: optional(&self.history, HISTORY)?,
            },
            format @ (RowFormat::Sharegpt | RowFormat::Chat) => {
                let known = if format == RowFormat::Sharegpt { SHAREGPT_MESSAGES } else { MESSAGES };
                let first = known.iter().find(|name| has.iter().any(|column| column == **name));
                let named = self.messages.clone().or(first.map(|name| (*name).to_owned()));
                Shape::Conversation { messages: required(&named, known, "conversation", "--messages-column")? }
            }
        };
        self.check(&shape, is_chat)?;
        Ok(shape)
    }

    fn check(&self, shape: &Shape, is_chat: bool) -> Result<(), String> {
        match shape {
            Shape::Text { text } if is_chat => Err(format!(
                "column {text:?} holds text, and --chat renders conversations; leave out --chat, or name other columns with --messages-column, or --prompt-column and --completion-column"
            )),
            Shape::Conversation { messages } if !is_chat => Err(format!(
                "column {messages:?} holds conversations; add --chat to render them with the model's chat template"
            )),
            Shape::Completion { .. } if self.system.is_some() && !is_chat => {
                Err("a system prompt needs --chat; add --chat, or leave out --system-column".to_owned())
            }
            Shape::Completion { .. } if self.input.is_some() || self.history.is_some() => {
                Err("--input-column and --history-column belong to --data-format alpaca".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn guessed(&self, has: &[String], is_chat: bool) -> Result<RowFormat, String> {
        let any = |known: &[&str]| !matches(has, known).is_empty();
        if self.format != RowFormat::Auto {
            return Ok(self.format);
        }
        let is_alpaca = self.input.is_some() || self.history.is_some() || (self.prompt.is_none() && any(INSTRUCTION));
        let pair = if is_alpaca { RowFormat::Alpaca } else { RowFormat::Completion };
        if self.messages.is_some() {
            return Ok(RowFormat::Chat);
        }
        if self.text.is_some() {
            return Ok(RowFormat::Text);
        }
        if self.prompt.is_some() || self.completion.is_some() || self.input.is_some() {
            return Ok(pair);
        }
        if is_chat && any(MESSAGES) {
            return Ok(RowFormat::Chat);
        }
        if (any(INSTRUCTION) && any(OUTPUT)) || (any(PROMPT) && any(COMPLETION)) {
            return Ok(pair);
        }
        if any(TEXT) {
            return Ok(RowFormat::Text);
        }
        if any(MESSAGES) {
            return Ok(RowFormat::Chat);
        }
        if any(&["chosen"]) && any(&["rejected"]) {
            return Err("a chosen and a rejected answer are preference data (DPO), which unswag does not train on: to learn the chosen \
                        answers, give --completion-column chosen, or --chat --messages-column chosen where they are messages"
                .to_owned());
        }
        let first = |known| matches(has, known).first().map(|column| (*column).clone());
        let half = |column: &str, is: &str, what: &str| {
            Err(format!(
                "{column:?} is the {is}; no column for the {what}: name it with --{what}-column, or train on {column:?} \
                 alone with --text-column {column}"
            ))
        };
        if let Some(column) = first(INSTRUCTION) {
            return half(&column, "instruction", "completion");
        }
        if let Some(column) = first(PROMPT) {
            return half(&column, "prompt", "completion");
        }
        if let Some(column) = first(COMPLETION) {
            return half(&column, "completion", "prompt");
        }
        Err("no column has a known name: name the columns with --text-column for text, --prompt-column and --completion-column for prompts and completions, or --chat --messages-column for conversations".to_owned())
    }
}

/// Columns that have one of the names, whatever their case, in the names' order.
fn matches<'a>(has: &'a [String], known: &[&str]) -> Vec<&'a String> {
    known.iter().flat_map(|name| has.iter().filter(|column| column.eq_ignore_ascii_case(name))).collect()
}

fn required(named: Option<&str>, known: &[&str], what: &str, option: &str, has: &[String]) -> Result<String, String> {
    if let Some(name) = named {
        return match has.iter().any(|column| column == name) {
            true => Ok(name.to_owned()),
            false => Err(format!("no column {name:?} for the {what}; correct {option}")),
        };
    }
    match matches(has, known)[..] {
        [one] => Ok(one.clone()),
        [] => Err(format!("no column for the {what}; name it with {option}")),
        [..] => {
            let found: Vec<String> = matches(has, known).into_iter().cloned().collect();
            Err(format!("{} could each be the {what}; name it with {option}", list(&found)))
        }
    }
}

fn optional(named: Option<&str>, known: &[&str], has: &[String]) -> Result<Optional, String> {
    // A name in another case is the column's name, where this row has it.
    let spelt: Vec<&str> = known
        .iter()
        .map(|name| has.iter().find(|column| column.eq_ignore_ascii_case(name)).map_or(*name, String::as_str))
        .collect();
    Ok(Optional::of(named, &spelt))
}

impl Columns {
    /// The columns that are left alone where rows are read in this shape, though data sets have content under their names.
    pub(crate) fn unread(&self, shape: &Shape, has: &[String], is_chat: bool) -> Vec<UnreadColumn> {
        let used = shape.columns(has, is_chat);
        // As pairs, rows have no input and no earlier turns; Alpaca's have.
        let alpaca = if self.format == RowFormat::Completion { "--data-format alpaca " } else { "" };
        let next = |column: &String| {
            let is = |known: &[&str]| known.iter().any(|name| column.eq_ignore_ascii_case(name));
            let options = match shape {
                Shape::Completion { prompt, .. } if is(INPUT) => {
                    format!("{alpaca}--prompt-column {prompt} --input-column {column}")
                }
                Shape::Completion { prompt, .. } if is(HISTORY) => {
                    format!("--chat {alpaca}--prompt-column {prompt} --history-column {column}")
                }
                Shape::Completion { .. } if is(SYSTEM) && !is_chat => "--chat".to_owned(),
                Shape::Alpaca { .. } if is(INPUT) => format!("--input-column {column}"),
                Shape::Completion { .. } | Shape::Alpaca { .. } if is(SYSTEM) => format!("--system-column {column}"),
                Shape::Conversation { .. } if is(SYSTEM) => {
                    return Some("name it \"system\" to have it read".to_owned());
                }
                _ => return None,
            };
            Some(format!("read it with {options}"))
        };
        let unread = has.iter().filter(|column| !used.contains(column));
        unread.filter_map(|column| Some(UnreadColumn { column: column.clone(), next: next(column)? })).collect()
    }
}

impl Shape {
    /// In a word or two.
    pub fn name(&self) -> &'static str {
        match self {
            Shape::Text { .. } => "text",
            Shape::Completion { .. } => "prompts and completions",
            Shape::Alpaca { .. } => "Alpaca instructions",
            Shape::Conversation { .. } => "conversations",
        }
    }

    /// The columns that are read, of those that there are.
    pub fn columns(&self, has: &[String], is_chat: bool) -> Vec<String> {
        let present = |optional: &Optional| optional.names.iter().find(|name| has.contains(name)).cloned();
        let mut used = Vec::new();
        match self {
            Shape::Text { text } => used.push(text.clone()),
            Shape::Completion { prompt, completion, system } => {
                used.extend([prompt.clone(), completion.clone()]);
                used.extend(present(system).filter(|_| is_chat));
            }
            Shape::Alpaca { instruction, input, output, system, history } => {
                used.extend([instruction.clone(), output.clone()]);
                used.extend([input, system, history].into_iter().filter_map(present));
            }
            Shape::Conversation { messages } => used.push(messages.clone()),
        }
        if is_chat {
            used.extend(BESIDE_MESSAGES.iter().map(|name| (*name).to_owned()));
        }
        has.iter().filter(|column| used.contains(column)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn unread(columns: &Columns, has: &[String], is_chat: bool) -> Vec<(String, String)> {
        let shape = columns.shape(has, is_chat).unwrap();
        columns.unread(&shape, has, is_chat).into_iter().map(|unread| (unread.column, unread.next)).collect()
    }

    #[test]
    fn a_column_that_may_hold_content_is_read_by_the_options_that_are_named() {
        let has = columns(&["id", "context", "question", "answer"]);
        let auto = Columns::default();
        let expected = "read it with --prompt-column question --input-column context";
        assert_eq!(unread(&auto, &has, false), [("context".to_owned(), expected.to_owned())]);
        let completion = Columns { format: RowFormat::Completion, ..Columns::default() };
        assert!(unread(&completion, &has, false)[0].1.contains("--data-format alpaca --prompt-column question"));
        let named = Columns { prompt: Some("question".into()), input: Some("context".into()), ..Columns::default() };
        assert!(unread(&named, &has, false).is_empty());
        assert_eq!(named.shape(&has, false).unwrap().columns(&has, false), columns(&["context", "question", "answer"]));

        let has = columns(&["id", "system_prompt", "question", "response"]);
        assert_eq!(unread(&auto, &has, false), [("system_prompt".to_owned(), "read it with --chat".to_owned())]);
        assert!(unread(&auto, &has, true).is_empty());
        let has = columns(&["prompt", "response", "history"]);
        let expected = "read it with --chat --prompt-column prompt --history-column history";
        assert_eq!(unread(&auto, &has, false)[0].1, expected);
        let named = Columns { prompt: Some("prompt".into()), history: Some("history".into()), ..Columns::default() };
        assert!(unread(&named, &has, true).is_empty());

        let has = columns(&["instruction", "input", "context", "output"]);
        assert_eq!(
            unread(&auto, &has, false),
            [("context".to_owned(), "read it with --input-column context".to_owned())]
        );
        let has = columns(&["messages", "system_prompt"]);
        assert!(unread(&auto, &has, true)[0].1.contains("\"system\""));
        assert!(unread(&auto, &columns(&["text", "context"]), false).is_empty());
    }

    #[test]
    fn one_column_of_a_pair_is_named_beside_the_one_that_is_missing() {
        for (has, expected) in [
            (
                &["id", "prompt"][..],
                "\"prompt\" is the prompt; no column for the completion: name it with --completion-column",
            ),
            (&["Question"], "\"Question\" is the prompt; no column for the completion"),
            (&["instruction", "reply"], "\"instruction\" is the instruction; no column for the completion"),
            (&["output"], "\"output\" is the completion; no column for the prompt: name it with --prompt-column"),
            (&["answer"], "\"answer\" is the completion"),
            (&["prompt", "chosen", "rejected"], "a chosen and a rejected answer are preference data (DPO)"),
            (&["a", "b"], "no column has a known name"),
        ] {
            let said = Columns::default().shape(&columns(has), false).unwrap_err();
            assert!(said.starts_with(expected), "{said}");
        }
        // The options that are named do what is said.
        let has = columns(&["instruction", "reply"]);
        let named = Columns { completion: Some("reply".into()), ..Columns::default() };
        assert!(matches!(named.shape(&has, false), Ok(Shape::Alpaca { .. })));
        let has = columns(&["output", "ask"]);
        let named = Columns { prompt: Some("ask".into()), ..Columns::default() };
        assert!(matches!(named.shape(&has, false), Ok(Shape::Completion { .. })));
    }
}
