//! A model's chat template: Jinja, with the helpers and the settings that transformers gives it.
//!
//! The template comes with a downloaded model. It reads nothing but the conversation, and what it takes is bounded; see
//! `jinja`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value as Json};

use crate::{
    doc::Doc,
    error::{Error, RowFault},
    files,
    jinja::{self, GENERATED, Limits, Template, Value, with_stack},
    tokenizer::Tokenizer,
};

const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The template that transformers takes where a model has several, and the one where a conversation has tools.
const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// A model's compiled chat templates: mostly one.
pub struct ChatTemplate {
    templates: Vec<Loaded>,
    source: String,
    now: jiff::civil::DateTime,
    now_text: String,
    roles: Vec<(&'static str, Value)>,
}

/// A compiled template, and what errors call it.
struct Loaded {
    name: &'static str,
    label: String,
    source: String,
    template: Template,
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

/// Messages to render, and whether a generation prompt follows them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rendering<'a> {
    pub messages: &'a [Value],
    pub add_generation_prompt: bool,
}

impl ChatTemplate {
    /// The template of a model folder: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`, else
    /// `chat_template.json`. Of several named ones, and of those in `additional_chat_templates/`, "tool_use" is taken for
    /// a conversation with tools and "default" for another, as transformers does.
    ///
    /// `now` is the date that the template may ask for, such as `2026-11-21T08:00:00`; the local time where it is
    /// `None`.
    ///
    /// # Errors
    /// There is none, or it is unsound.
    pub fn load(folder: &Path, tokenizer: &Tokenizer, now: Option<&str>) -> Result<Self, Error> {
        Self::compile(find(folder, tokenizer)?, tokenizer, now)
    }

    /// Compiles a template's text; `path` is named in errors.
    ///
    /// # Errors
    /// The text is no sound template, or `now` is no date and time.
    pub fn new(source: String, path: &Path, tokenizer: &Tokenizer, now: Option<&str>) -> Result<Self, Error> {
        Self::compile(vec![Named { name: DEFAULT, path: path.to_owned(), source }], tokenizer, now)
    }

    fn compile(found: Vec<Named>, tokenizer: &Tokenizer, now: Option<&str>) -> Result<Self, Error> {
        let now = match now {
            None => jiff::Zoned::now().datetime(),
            Some(text) => text.parse::<jiff::civil::DateTime>().map_err(|error| {
                let expected = format!("a date and time such as 2026-11-21T08:00:00 ({error})");
                crate::options::setting("the template's date", expected, text)
            })?,
        };
        let mut templates = Vec::new();
        for Named { name, path, source } in &found {
            let which = if found.len() > 1 { format!("\"{name}\" of ") } else { String::new() };
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            let label = format!("the template {which}{file}");
            let template = with_stack(|| Template::parse(source)).and_then(|parsed| parsed);
            let unsound = |error| Error::Template { path: path.clone(), message: explain(&error, &label) };
            let template = template.map_err(unsound)?;
            templates.push(Loaded { name, template, source: source.clone(), label });
        }
        let role = |name: &&'static str| Some((*name, Value::from(tokenizer.role(name)?)));
        let roles = ROLES.iter().filter_map(role).collect();
        let source = found.into_iter().map(|template| template.source).collect::<Vec<_>>().join("\n");
        Ok(ChatTemplate { templates, source, now, now_text: now.to_string(), roles })
    }

    /// The template as it was read; of several, one after the other.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The date that the template is told; save it to render the same again on another day.
    pub fn now(&self) -> &str {
        &self.now_text
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
        let message = |message: &Message| {
            let fields = [("role", message.role.as_str().into()), ("content", message.content.as_str().into())];
            Value::object(fields).expect("a message of two texts is flat")
        };
        let messages: Vec<Value> = messages.iter().map(message).collect();
        Ok(self.render_values(&messages, add_generation_prompt, &variables(extra)?)?.text)
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
        let messages: Vec<Value> = serde_json::from_str(messages).map_err(|error| RowFault::json(&error))?;
        Ok(self.render_values(&messages, add_generation_prompt, &variables(extra)?)?.text)
    }

    /// The template of a conversation with these variables.
    fn chosen(&self, extra: &[(String, Value)]) -> Option<&Loaded> {
        let has_tools = extra.iter().rev().find(|(name, _)| name == "tools").is_some_and(|(_, tools)| !tools.is_null());
        let named = |name| self.templates.iter().find(|loaded| loaded.name == name);
        named(TOOL_USE).filter(|_| has_tools).or_else(|| named(DEFAULT))
    }

    /// Whether the template of a conversation with these variables has a name in its text: one that has not may still
    /// write the field, with all of a message.
    pub(crate) fn mentions(&self, name: &str, extra: &[(String, Value)]) -> bool {
        self.chosen(extra).is_some_and(|loaded| loaded.source.contains(name))
    }

    pub(crate) fn render_values(
        &self,
        messages: &[Value],
        add_generation_prompt: bool,
        extra: &[(String, Value)],
    ) -> Result<Rendered, RowFault> {
        let mut rendered = self.render_many(&[Rendering { messages, add_generation_prompt }], extra);
        rendered.pop().expect("as many results as renderings")
    }

    /// Renders several lists of messages under the same variables, each on its own: one result for each, in their order.
    ///
    /// A call costs some 50 us besides the renderings: give what a row needs in one call. The last one of `extra` with a
    /// name counts.
    pub(crate) fn render_many(
        &self,
        renderings: &[Rendering<'_>],
        extra: &[(String, Value)],
    ) -> Vec<Result<Rendered, RowFault>> {
        let Some(Loaded { label, template, .. }) = self.chosen(extra) else {
            return renderings.iter().map(|_| Err(no_default())).collect();
        };
        let mut variables = vec![("tools", Value::None), ("documents", Value::None)];
        variables.extend(self.roles.iter().cloned());
        variables.extend(extra.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let extra_bytes: usize = extra.iter().map(|(_, value)| value.bytes()).sum();
        let render = |rendering: &Rendering<'_>| {
            let bytes: usize = rendering.messages.iter().map(Value::bytes).sum();
            let mut variables = variables.clone();
            variables.push(("messages", Value::list(rendering.messages.to_vec())?));
            variables.push(("add_generation_prompt", rendering.add_generation_prompt.into()));
            template.render(&variables, self.now, Limits::for_input(bytes + extra_bytes))
        };
        let refused = |error: jinja::Error| RowFault::Template { message: explain(&error, label) };
        match with_stack(|| renderings.iter().map(render).collect::<Vec<_>>()) {
            Ok(texts) => texts.into_iter().map(|text| text.map(|text| without_marks(&text)).map_err(refused)).collect(),
            Err(error) => renderings.iter().map(|_| Err(refused(error.clone()))).collect(),
        }
    }
}

/// Parses a template that may hold anything and renders a small conversation by it, as every command does: the entry for
/// fuzzing.
///
/// # Errors
/// Why the template cannot be read, or fails.
#[doc(hidden)]
pub fn render_untrusted(source: &[u8]) -> Result<String, String> {
    let source = std::str::from_utf8(source).map_err(|error| error.to_string())?;
    let conversation = r#"[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <there>\n"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1, 2.5, null]}}}]},
        {"role": "tool", "content": "{}"}, {"role": "assistant", "content": "naïve 🙂"}]"#;
    let messages: Value = serde_json::from_str(conversation).map_err(|error| error.to_string())?;
    let limits = Limits { steps: 300_000, ..Limits::for_input(conversation.len()) };
    let variables =
        [("messages", messages), ("tools", Value::None), ("bos_token", "<s>".into()), ("eos_token", "</s>".into())];
    let render = || {
        Template::parse(source)?.render(&variables, jiff::civil::DateTime::constant(2026, 11, 21, 8, 0, 0, 0), limits)
    };
    with_stack(render).and_then(|text| text).map_err(|error| explain(&error, "the template"))
}

/// The local date and time, as [`ChatTemplate::load`] takes them.
pub fn local_time() -> String {
    jiff::Zoned::now().datetime().to_string()
}

/// A row's JSON as a template sees it.
pub(crate) fn value(doc: &Doc) -> Value {
    let flat = "JSON is read to 128 levels, fewer than a value may have";
    match doc {
        Doc::Null => Value::None,
        Doc::Bool(value) => Value::Bool(*value),
        Doc::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => Value::Int(int.into()),
            (_, Some(int)) => Value::Int(int.into()),
            _ => Value::Float(number.as_f64().unwrap_or_default()),
        },
        Doc::Text(text) => text.as_str().into(),
        Doc::List(items) => Value::list(items.iter().map(value).collect()).expect(flat),
        Doc::Object(fields) => {
            Value::object(fields.iter().map(|(name, field)| (name.as_str(), value(field)))).expect(flat)
        }
    }
}

/// Variables of a template, of JSON.
///
/// # Errors
/// One is nested too deeply.
pub(crate) fn variables(extra: &Map<String, Json>) -> Result<Vec<(String, Value)>, RowFault> {
    let too_deep = |name: &str| RowFault::Template { message: format!("the variable {name} is nested too deeply") };
    let convert =
        |(name, value): (&String, &Json)| Ok((name.clone(), Value::try_from(value).map_err(|_| too_deep(name))?));
    extra.iter().map(convert).collect()
}

fn no_default() -> RowFault {
    let message = "the model has named templates, but none with the name \"default\", and the row has no tools";
    RowFault::Template { message: message.to_owned() }
}

/// Whether a text holds a character that stands for the edge of a generated part.
pub(crate) fn has_mark(text: &str) -> bool {
    text.contains(GENERATED)
}

/// A template by its name.
struct Named {
    name: &'static str,
    path: PathBuf,
    source: String,
}

/// The templates of a model folder that conversations may need.
fn find(folder: &Path, tokenizer: &Tokenizer) -> Result<Vec<Named>, Error> {
    let in_files = in_files(folder)?;
    if !in_files.is_empty() {
        return Ok(in_files);
    }
    let path = folder.join("tokenizer_config.json");
    if let Some(found) = tokenizer.config().get("chat_template").and_then(|value| in_value(value, &path)) {
        return Ok(found);
    }
    let path = folder.join("chat_template.json");
    let object = files::read_object(&path)?.unwrap_or_default();
    let found = object.get("chat_template").and_then(|value| in_value(value, &path));
    found.ok_or_else(|| Error::NoTemplate { folder: folder.to_owned() })
}

/// `chat_template.jinja`, and what is in the folder beside it. Where one of these is there, transformers looks no further.
fn in_files(folder: &Path) -> Result<Vec<Named>, Error> {
    let mut found = Vec::new();
    let additional = folder.join("additional_chat_templates");
    let paths = [(DEFAULT, folder.join("chat_template.jinja")), (TOOL_USE, additional.join("tool_use.jinja"))];
    // A file of the same name in that folder takes the place of `chat_template.jinja`.
    for (name, path) in [(DEFAULT, additional.join("default.jinja"))].into_iter().chain(paths) {
        let content = match files::read_small(&path, files::MAX_CONFIG_BYTES) {
            Ok(content) => content,
            Err(Error::Missing { .. }) => continue,
            Err(error) => return Err(error),
        };
        let source = String::from_utf8(content)
            .map_err(|error| Error::Template { path: path.clone(), message: format!("not UTF-8: {error}") })?;
        if !found.iter().any(|other: &Named| other.name == name) {
            found.push(Named { name, path, source });
        }
    }
    let is_named = |entry: fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "jinja");
    let has_others = || fs::read_dir(&additional).into_iter().flatten().flatten().any(is_named);
    if found.is_empty() && has_others() {
        let message = "none of the templates in this folder is named \"default\" or \"tool_use\", and there is no \
                       chat_template.jinja beside it";
        return Err(Error::Template { path: additional, message: message.to_owned() });
    }
    Ok(found)
}

/// A template's text, a list of `{"name", "template"}`, or an object of texts by name.
fn in_value(value: &Json, path: &Path) -> Option<Vec<Named>> {
    let template = |name| -> Option<&str> {
        match value {
            Json::String(text) if name == DEFAULT => Some(text),
            Json::Array(list) => list.iter().rev().find(|entry| entry["name"] == name)?.get("template")?.as_str(),
            Json::Object(named) => named.get(name)?.as_str(),
            _ => None,
        }
    };
    let named = |name| Some(Named { name, path: path.to_owned(), source: template(name)?.to_owned() });
    let found: Vec<Named> = [DEFAULT, TOOL_USE].into_iter().filter_map(named).collect();
    (!found.is_empty()).then_some(found)
}

/// Takes out the marks around what the template marked as generated, and says where they stood.
fn without_marks(marked: &str) -> Rendered {
    let mut rendered = Rendered::default();
    let mut start = None;
    for character in marked.chars() {
        if character == GENERATED[0] {
            start = Some(rendered.text.len());
        } else if character == GENERATED[1] {
            rendered.generated.extend(start.take().map(|start| start..rendered.text.len()));
        } else {
            rendered.text.push(character);
        }
    }
    rendered
}

/// A template's error in one line: its own words, and where in the template.
fn explain(error: &jinja::Error, label: &str) -> String {
    match error.line {
        Some(line) => format!("{} (line {line} of {label})", error.message),
        None => format!("{} ({label})", error.message),
    }
}
