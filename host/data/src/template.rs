//! A model's chat template: Jinja, with the helpers and the settings that transformers gives it.
//!
//! The template comes with a downloaded model. It reads nothing but the conversation, and its steps are bounded.

use std::path::{Path, PathBuf};

use minijinja::{
    Environment, ErrorKind, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde},
};
use serde_json::{Map, Value as Json};

use crate::{
    error::{Error, RowFault},
    files, python,
    tokenizer::Tokenizer,
};

/// Steps that a rendering may take; a conversation of ten thousand turns takes about one million.
const MOST_STEPS: u64 = 10_000_000;
/// Around what a template marks as generated. Unicode keeps these two for such use: they stand for no character.
const MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];
const FILTER: &str = "unswag_generated";
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    now: String,
    roles: Vec<(String, String)>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("source", &self.source).field("now", &self.now).finish_non_exhaustive()
    }
}

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

/// A conversation as the template writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub text: String,
    /// Bytes that the template marks with `{% generation %}`, in order.
    pub generated: Vec<std::ops::Range<usize>>,
}

impl ChatTemplate {
    /// The template of a model folder: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json` (of
    /// several, the one named "default"), else `chat_template.json`.
    ///
    /// `now` is the date that the template may ask for, such as `2026-11-21T08:00:00`; the local time where it is
    /// `None`.
    ///
    /// # Errors
    /// There is none, or it is unsound.
    pub fn load(folder: &Path, tokenizer: &Tokenizer, now: Option<&str>) -> Result<Self, Error> {
        let (path, source) = find(folder, tokenizer)?;
        Self::new(source, &path, tokenizer, now)
    }

    /// Compiles a template's text; `path` is named in errors.
    ///
    /// # Errors
    /// The text is no sound template, or `now` is no date and time.
    pub fn new(source: String, path: &Path, tokenizer: &Tokenizer, now: Option<&str>) -> Result<Self, Error> {
        let unsound = |error: minijinja::Error| Error::Template { path: path.to_owned(), message: explain(&error) };
        let time = match now {
            None => jiff::Zoned::now().datetime(),
            Some(text) => text.parse::<jiff::civil::DateTime>().map_err(|error| {
                let expected = format!("a date and time such as 2026-11-21T08:00:00 ({error})");
                crate::options::setting("the template's date", expected, text)
            })?,
        };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(unsound)?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(MOST_STEPS));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(|out, _, value| {
            let mut text = String::new();
            python::print(&mut text, value)?;
            out.write_str(&text).map_err(minijinja::Error::from)
        });
        environment.add_filter("tojson", |value: &Value, options: Kwargs| python::tojson(value, &options));
        environment.add_filter(FILTER, |text: String| format!("{}{text}{}", MARKS[0], MARKS[1]));
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", move |format: String| -> Result<String, minijinja::Error> {
            jiff::fmt::strtime::format(&format, time)
                .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string()))
        });
        environment.add_template_owned("chat", with_marks(&source)).map_err(unsound)?;
        let role = |name: &str| tokenizer.role(name).map(|text| (name.to_owned(), text.to_owned()));
        let roles = ROLES.iter().filter_map(|name| role(name)).collect();
        Ok(ChatTemplate { environment, source, now: time.to_string(), roles })
    }

    /// The template as it was read.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The date that the template is told; save it to render the same again on another day.
    pub fn now(&self) -> &str {
        &self.now
    }

    /// Whether the date changes what it writes.
    pub fn asks_for_the_date(&self) -> bool {
        self.source.contains("strftime_now")
    }

    /// Renders messages as transformers' `apply_chat_template` does: the prompt of a generation, with
    /// `add_generation_prompt`. `extra` are further variables of the template, such as `enable_thinking`.
    ///
    /// # Errors
    /// The template refuses the messages, or fails on them.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        extra: &Map<String, Json>,
    ) -> Result<String, RowFault> {
        let messages: Vec<Value> = messages.iter().map(|message| Value::from(Serde(message))).collect();
        Ok(self.render_values(&messages, add_generation_prompt, &variables(extra))?.text)
    }

    /// Renders messages given as a JSON list, with whatever fields they have, in their order.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; and the text is no JSON list.
    pub fn render_json(
        &self,
        messages: &str,
        add_generation_prompt: bool,
        extra: &Map<String, Json>,
    ) -> Result<String, RowFault> {
        let messages: Vec<Value> =
            serde_json::from_str(messages).map_err(|error| RowFault::Json { message: error.to_string() })?;
        Ok(self.render_values(&messages, add_generation_prompt, &variables(extra))?.text)
    }

    pub(crate) fn render_values(
        &self,
        messages: &[Value],
        add_generation_prompt: bool,
        extra: &[(String, Value)],
    ) -> Result<Rendered, RowFault> {
        let refused = |error: minijinja::Error| RowFault::Template { message: explain(&error) };
        let template = self.environment.get_template("chat").map_err(refused)?;
        let none = || Value::from(());
        let mut all = vec![("tools".to_owned(), none()), ("documents".to_owned(), none())];
        all.extend(self.roles.iter().map(|(name, text)| (name.clone(), text.as_str().into())));
        all.extend(extra.iter().cloned());
        all.push(("messages".to_owned(), messages.to_vec().into()));
        all.push(("add_generation_prompt".to_owned(), add_generation_prompt.into()));
        let marked = template.render(Value::from_pairs(all)).map_err(refused)?;
        Ok(without_marks(&marked))
    }
}

pub(crate) fn variables(extra: &Map<String, Json>) -> Vec<(String, Value)> {
    extra.iter().map(|(name, value)| (name.clone(), Value::from(Serde(value)))).collect()
}

/// Whether a text holds a character that stands for the edge of a generated part.
pub(crate) fn has_mark(text: &str) -> bool {
    text.contains(MARKS)
}

fn find(folder: &Path, tokenizer: &Tokenizer) -> Result<(PathBuf, String), Error> {
    let path = folder.join("chat_template.jinja");
    match files::read_small(&path, files::MAX_CONFIG_BYTES) {
        Ok(content) => {
            let text = String::from_utf8(content)
                .map_err(|error| Error::Template { path: path.clone(), message: format!("not UTF-8: {error}") })?;
            return Ok((path, text));
        }
        Err(Error::Missing { .. }) => {}
        Err(error) => return Err(error),
    }
    let in_object = |object: &Map<String, Json>| match object.get("chat_template") {
        Some(Json::String(text)) => Some(text.clone()),
        Some(Json::Array(list)) => {
            let is_default = |entry: &&Json| entry.get("name").and_then(Json::as_str) == Some("default");
            list.iter().find(is_default)?.get("template")?.as_str().map(str::to_owned)
        }
        _ => None,
    };
    if let Some(text) = in_object(tokenizer.config()) {
        return Ok((folder.join("tokenizer_config.json"), text));
    }
    let path = folder.join("chat_template.json");
    let text = files::read_object(&path)?.as_ref().and_then(in_object);
    text.map(|text| (path, text)).ok_or_else(|| Error::NoTemplate { folder: folder.to_owned() })
}

/// Replaces `{% generation %}` and `{% endgeneration %}`, which transformers adds to Jinja, by a filter that marks its
/// text. The tags keep their place and their `-` and `+`, so white space is treated as before.
fn with_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let inner = &tag[2..end];
        let name = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match name {
            "generation" => out.push_str(&tag[..end].replace("generation", &format!("filter {FILTER}"))),
            "endgeneration" => out.push_str(&tag[..end].replace("endgeneration", "endfilter")),
            _ => out.push_str(&tag[..end]),
        }
        rest = &tag[end..];
    }
    out.push_str(rest);
    out
}

fn without_marks(marked: &str) -> Rendered {
    let mut rendered = Rendered::default();
    let mut start = None;
    for character in marked.chars() {
        if character == MARKS[0] {
            start = Some(rendered.text.len());
        } else if character == MARKS[1] {
            rendered.generated.extend(start.take().map(|start| start..rendered.text.len()));
        } else {
            rendered.text.push(character);
        }
    }
    rendered
}

/// A template's error in one line: its own words, and where in the template.
fn explain(error: &minijinja::Error) -> String {
    let what = match (error.kind(), error.detail()) {
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line} of the template)"),
        None => what,
    }
}
