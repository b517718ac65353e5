//! Which of a model's templates is taken, and what errors of a template say.

use std::fs;

use serde_json::{Map, Value as Json, json};
use tempfile::TempDir;
use unswag_data::{ChatTemplate, Message, Tokenizer, render_untrusted};

/// A model folder: the smallest tokenizer, with these files beside it.
fn folder(files: &[(&str, String)]) -> (TempDir, Tokenizer) {
    let dir = TempDir::new().unwrap();
    let model = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"});
    let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null, "model": model});
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), "{}").unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    (dir, tokenizer)
}

/// What a conversation becomes, or why not, without tools and with some.
fn rendered(files: &[(&str, String)]) -> [String; 2] {
    let (dir, tokenizer) = folder(files);
    let template = match ChatTemplate::load(dir.path(), &tokenizer, None) {
        Ok(template) => template,
        Err(error) => return [error.to_string(), error.to_string()],
    };
    let messages = [Message { role: "user".to_owned(), content: "Hi".to_owned() }];
    let tools: Map<String, Json> = [("tools".to_owned(), json!([{"name": "clock"}]))].into_iter().collect();
    [Map::new(), tools].map(|extra| match template.render(&messages, false, &extra) {
        Ok(text) => text,
        Err(error) => error.to_string(),
    })
}

fn config(templates: &Json) -> (&'static str, String) {
    ("tokenizer_config.json", json!({ "chat_template": templates }).to_string())
}

fn file(name: &'static str, content: &str) -> (&'static str, String) {
    (name, content.to_owned())
}

const TOOL_USE_FILE: &str = "additional_chat_templates/tool_use.jinja";

#[test]
fn a_conversation_with_tools_takes_the_template_for_tools_wherever_it_is() {
    let list = config(&json!([
        {"name": "rag", "template": "R"},
        {"name": "default", "template": "D"},
        {"name": "tool_use", "template": "T{{ tools[0].name }}"},
    ]));
    assert_eq!(rendered(&[list]), ["D", "Tclock"]);
    let object = config(&json!({"default": "D", "tool_use": "T{{ tools | length }}"}));
    assert_eq!(rendered(&[object]), ["D", "T1"]);
    let files = [file("chat_template.jinja", "D"), file(TOOL_USE_FILE, "T")];
    assert_eq!(rendered(&files), ["D", "T"]);
    // A file hides the templates of the configuration, as in transformers.
    let both = [config(&json!([{"name": "tool_use", "template": "T"}])), file("chat_template.jinja", "F")];
    assert_eq!(rendered(&both), ["F", "F"]);
    assert_eq!(rendered(&[config(&json!("one{{ tools is none }}"))]), ["oneTrue", "oneFalse"]);
}

#[test]
fn named_templates_without_a_default_refuse_a_conversation_without_tools() {
    let list = config(&json!([{"name": "tool_use", "template": "T"}]));
    let [plain, with_tools] = rendered(&[list]);
    assert!(plain.contains("named templates") && plain.contains("\"default\""), "{plain}");
    assert_eq!(with_tools, "T");
    let [plain, with_tools] = rendered(&[config(&json!("C")), file(TOOL_USE_FILE, "T")]);
    assert!(plain.contains("\"default\"") && with_tools == "T", "{plain}");
    let [others, _] = rendered(&[file("additional_chat_templates/rag.jinja", "R")]);
    assert!(others.contains("additional_chat_templates") && others.contains("\"default\""), "{others}");
}

#[test]
fn a_failing_template_is_named_with_its_line() {
    let [said, _] = rendered(&[file("chat_template.jinja", "a\n{{ 1 is divisibleby(0) }}")]);
    assert!(said.contains("division by zero (line 2 of the template chat_template.jinja)"), "{said}");
    let [said, _] = rendered(&[file("chat_template.jinja", "{{ raise_exception('only\nusers') }}")]);
    assert!(said.contains("only\nusers (line 1 of the template chat_template.jinja)"), "{said}");
    let list = config(&json!([{"name": "default", "template": "D"}, {"name": "tool_use", "template": "\n\n{%}"}]));
    let [said, _] = rendered(&[list]);
    assert!(said.contains("tokenizer_config.json") && said.contains("(line 3 of the template \"tool_use\""), "{said}");
    let [said, _] = rendered(&[file("chat_template.jinja", &format!("{{{{ {}1 }}}}", "not ".repeat(50_000)))]);
    assert!(said.contains("chat_template.jinja: nested too deeply"), "{said}");
    let [said, _] = rendered(&[file("chat_template.jinja", "{{ 'x' * 10000000000 }}")]);
    assert!(said.contains("makes more than") && said.contains("chat_template.jinja"), "{said}");
}

#[test]
fn any_bytes_as_a_template_are_rendered_or_refused() {
    for (source, expected) in [
        (&b"{{ messages | length }}"[..], Ok("5")),
        (b"\xff", Err("utf-8")),
        (b"{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", Err("steps")),
        (b"{{ messages[3].tool_calls }}", Ok("")),
    ] {
        match (render_untrusted(source), expected) {
            (Ok(text), Ok(expected)) => assert_eq!(text, expected),
            (Err(said), Err(expected)) => assert!(said.contains(expected), "{said}"),
            (got, expected) => panic!("{got:?}, expected {expected:?}"),
        }
    }
}
