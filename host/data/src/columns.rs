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
        Ok(Some(record::text_or_integer(row, name, "a text")?).filter(|text| !text.is_empty()))
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
        Err("no column has a name that is known: name the columns with --text-column for text, --prompt-column and --completion-column for prompts and completions, or --chat --messages-column for conversations".to_owned())
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
