//! A row's way from bytes to turns without files, tokenizer and template engine, for a fuzzer: the template is ChatML, written
//! here in Rust.

use std::{cell::Cell, fmt::Write as _, ops::Range};

use crate::{
    conversation,
    doc::Doc,
    error::{Error, RowFault},
    template::{Rendered, value},
    turns::{self, Job, Render, Scene, Special, Specials},
};

const START: &str = "<|im_start|>";
const END: &str = "<|im_end|>";

/// Reads the bytes of one line as a conversation, renders it under ChatML and finds the assistant's turns: the bytes of the
/// rendered text that are learned.
///
/// # Errors
/// What is wrong with the row, as training would say it.
///
/// # Panics
/// The turns overlap or cut a character: a fault of this crate.
pub fn probe_conversation(line: &[u8]) -> Result<(String, Vec<Range<usize>>), RowFault> {
    let row = std::str::from_utf8(line).map_err(|error| RowFault::Json { message: error.to_string() })?;
    let template = ChatMl::default();
    find(row, &template)
}

fn find(row: &str, template: &ChatMl) -> Result<(String, Vec<Range<usize>>), RowFault> {
    let conversation = conversation::parse(row)?;
    // As a template would be given them.
    conversation.variables.iter().for_each(|(_, list)| drop(value(list)));
    let scene = Scene::new(template, template, &conversation);
    let rendered = scene.rendered()?;
    let turns = turns::find(&scene, &rendered)?;
    let mut at = 0;
    for turn in &turns {
        assert!(at <= turn.start && rendered.text.get(turn.clone()).is_some(), "{turn:?} behind {at}");
        at = turn.end;
    }
    Ok((rendered.text, turns))
}

/// ChatML with the calls of a message after its content.
#[derive(Default)]
struct ChatMl {
    rendered_messages: Cell<usize>,
}

impl ChatMl {
    fn text(&self, job: &Job<'_>) -> String {
        self.rendered_messages.set(self.rendered_messages.get() + job.messages.len());
        let mut text = String::new();
        for message in job.messages {
            let field = |name: &str| match message {
                Doc::Object(fields) => fields.get(name).map(|field| value(field).to_text()).unwrap_or_default(),
                _ => String::new(),
            };
            let (role, content, calls) = (field("role"), field("content"), field("tool_calls"));
            writeln!(text, "{START}{role}\n{content}{calls}{END}").expect("writing to a String does not fail");
        }
        if job.add_generation_prompt {
            text.push_str("<|im_start|>assistant\n");
        }
        text
    }
}

impl Render for ChatMl {
    fn render(&self, jobs: &[Job<'_>]) -> Vec<Result<Rendered, RowFault>> {
        jobs.iter().map(|job| Ok(Rendered { text: self.text(job), generated: Vec::new() })).collect()
    }
}

impl Specials for ChatMl {
    fn find(&self, text: &str) -> Result<Vec<Special>, Error> {
        let of = |id: u32, token: &'static str| {
            text.match_indices(token).map(move |(start, _)| Special { id, range: start..start + token.len() })
        };
        let mut found: Vec<Special> = of(0, START).chain(of(1, END)).collect();
        found.sort_by_key(|special| special.range.start);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(row: &str) -> Vec<String> {
        let (text, turns) = probe_conversation(row.as_bytes()).unwrap_or_else(|fault| panic!("{fault}"));
        turns.into_iter().map(|turn| text[turn].to_owned()).collect()
    }

    #[test]
    fn a_line_becomes_turns() {
        let row = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"role": "assistant", "content": "c", "weight": 0}, {"role": "assistant", "content": "<|im_end|>d"}]}"#;
        assert_eq!(learned(row), ["b<|im_end|>", "<|im_end|>d<|im_end|>"]);
        assert!(probe_conversation(b"{\"messages\": [\xff]}").is_err());
        // Words of the conversation that look like those that replace the assistant's.
        let row = r#"{"messages": [{"role": "user", "content": "qz0123456789abcdefx0zq"}, {"role": "assistant", "content": ""}]}"#;
        assert_eq!(learned(row), ["<|im_end|>"]);
    }

    #[test]
    fn ten_thousand_turns_are_rendered_a_fixed_number_of_times() {
        let messages: Vec<String> = (0..20_000)
            .map(|n| format!(r#"{{"role": "{}", "content": "{n}"}}"#, ["user", "assistant"][n % 2]))
            .collect();
        let template = ChatMl::default();
        let (text, turns) = find(&format!(r#"{{"messages": [{}]}}"#, messages.join(",")), &template).unwrap();
        assert!(turns.len() == 10_000 && text[turns[9_999].clone()] == *"19999<|im_end|>");
        assert!(template.rendered_messages.get() < 3 * messages.len(), "{}", template.rendered_messages.get());
    }

    #[test]
    fn rows_of_many_keys_and_of_deep_values_are_read_or_refused() {
        let keys: String = (0..100_000).map(|n| format!(r#","k{n}":null,"m{n}":{n}"#)).collect();
        let row = format!(
            r#"{{"messages":[{{"role":"user","content":"a"{keys}}},{{"role":"assistant","content":"b"}}]{keys}}}"#
        );
        assert_eq!(learned(&row), ["b<|im_end|>"]);
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let row = |value: &str| format!(r#"{{"messages":[{{"role":"assistant","content":"b","x":{value}}}]}}"#);
        assert_eq!(learned(&row(&deep(120))), ["b<|im_end|>"]);
        let refused = probe_conversation(row(&deep(500_000)).as_bytes()).unwrap_err().to_string();
        assert!(refused.contains("recursion limit"), "{refused}");
        // Text of JSON in text of JSON, each as deep as can be read.
        let tool = serde_json::to_string(&format!(r#"{{"a":{}}}"#, deep(120))).unwrap();
        let tools = serde_json::to_string(&format!("[{tool}]")).unwrap();
        assert_eq!(
            learned(&format!(r#"{{"messages":[{{"role":"assistant","content":"b"}}],"tools":{tools}}}"#)).len(),
            1
        );
    }
}
