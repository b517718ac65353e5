//! What a row becomes before a template sees it. The messages that are expected are those that transformers 5.24 hands to
//! a template.

use super::{Conversation, parse};

fn read(row: &str) -> Conversation {
    parse(row).unwrap_or_else(|fault| panic!("{fault}\n{row}"))
}

/// The row's messages as JSON, keys in their order.
fn messages(row: &str) -> String {
    let messages: Vec<_> = read(row).messages.into_iter().map(|message| message.fields).collect();
    serde_json::to_string(&messages).unwrap()
}

#[track_caller]
fn refused(row: &str, expected: &[&str]) {
    let said = parse(row).expect_err("it is refused").to_string();
    assert!(expected.iter().all(|part| said.contains(part)), "{said}");
}

#[test]
fn a_null_field_is_left_out_as_transformers_does() {
    let call = r#"{"type":"function","function":{"name":"f","arguments":{"x":null}}}"#;
    let row = format!(
        r#"{{"messages": [{{"role": "user", "name": null, "content": "hi", "tool_calls": null}},
            {{"content": null, "role": "assistant", "tool_calls": [{call}], "refusal": null}}], "tools": null}}"#
    );
    // Only the message's own fields: an argument that is null is the call's.
    assert_eq!(
        messages(&row),
        format!(r#"[{{"role":"user","content":"hi"}},{{"role":"assistant","tool_calls":[{call}]}}]"#)
    );
    assert!(read(&row).variables.is_empty());
    let row = r#"{"conversations": null, "messages": [{"role": "assistant", "content": null, "reasoning": "so"}]}"#;
    assert_eq!(messages(row), r#"[{"thinking":"so","role":"assistant","reasoning":"so","reasoning_content":"so"}]"#);
    refused(r#"{"messages": [{"role": "user", "content": null}]}"#, &["message 1", "no \"content\""]);
    refused(r#"{"messages": [{"role": null, "content": "x"}]}"#, &["message 1", "no \"role\""]);
}

#[test]
fn a_thought_is_read_by_each_of_its_names() {
    let of =
        |fields: &str| messages(&format!(r#"{{"messages": [{{"role": "assistant", {fields}, "content": "4"}}]}}"#));
    let all = r#""role":"assistant","reasoning_content":"t","content":"4"}]"#;
    assert_eq!(of(r#""reasoning_content": "t""#), format!(r#"[{{"thinking":"t",{all}"#));
    // The first name that has a value counts, and a `thinking` of the row's stays.
    let both = of(r#""thinking": "b", "reasoning": "c", "reasoning_content": "a""#);
    assert_eq!(both, r#"[{"thinking":"b","role":"assistant","reasoning":"c","reasoning_content":"a","content":"4"}]"#);
    let other = of(r#""reasoning": "c", "thinking": "b", "reasoning_content": null"#);
    assert_eq!(other, r#"[{"thinking":"b","role":"assistant","reasoning":"c","content":"4","reasoning_content":"b"}]"#);
}

#[test]
fn tools_and_documents_are_lists_of_objects_or_their_json_text() {
    let given = |name: &str, value: &str| {
        let row = format!(r#"{{"messages": [{{"role": "user", "content": "x"}}], "{name}": {value}}}"#);
        let variables = read(&row).variables;
        assert!(variables.iter().all(|(found, _)| *found == name));
        variables.first().map(|(_, list)| serde_json::to_string(list).unwrap())
    };
    let list = r#"[{"name":"f","z":1,"a":[true]}]"#;
    let as_text = serde_json::to_string(list).unwrap();
    for value in [list, &as_text, r#"["{\"name\": \"f\", \"z\": 1, \"a\": [true]}"]"#] {
        assert_eq!(given("tools", value).as_deref(), Some(list), "{value}");
        assert_eq!(given("documents", value).as_deref(), Some(list), "{value}");
    }
    for nothing in ["null", r#""""#, r#"" \n""#, r#""null""#] {
        assert_eq!(given("tools", nothing), None);
    }
    assert_eq!(given("tools", "[]").as_deref(), Some("[]"));
    for (value, expected) in [
        (r#"{"name": "f"}"#, ["\"tools\"", "found an object"]),
        (r#""{\"name\": \"f\"}""#, ["\"tools\"", "found an object"]),
        (r#""clock, weather""#, ["\"tools\"", "a string that is not JSON"]),
        ("true", ["\"tools\"", "found a boolean"]),
        (r#"[{"name": "f"}, 7]"#, ["\"tools[1]\"", "found a number"]),
        (r#"["clock"]"#, ["\"tools[0]\"", "a string that is not a JSON object"]),
    ] {
        refused(&format!(r#"{{"messages": [{{"role": "user", "content": "x"}}], "tools": {value}}}"#), &expected);
    }
    refused(r#"{"messages": [{"role": "user", "content": "x"}], "documents": ["a page"]}"#, &["documents[0]"]);
}

#[test]
fn tool_calls_are_lists_of_objects_and_arguments_stay_as_they_are() {
    let of = |calls: &str| {
        format!(r#"{{"messages": [{{"role": "assistant", "content": "", "tool_calls": {calls}, "id": 1}}]}}"#)
    };
    for arguments in [r#"{"zone":"UTC"}"#, r#""{\"zone\": \"UTC\"}""#, "null"] {
        let calls = format!(r#"[{{"id":"a","function":{{"name":"clock","arguments":{arguments}}}}}]"#);
        let expected = format!(r#"[{{"role":"assistant","content":"","tool_calls":{calls},"id":1}}]"#);
        assert_eq!(messages(&of(&calls)), expected);
        assert_eq!(messages(&of(&serde_json::to_string(&calls).unwrap())), expected);
    }
    assert_eq!(messages(&of("\"\"")), r#"[{"role":"assistant","content":"","id":1}]"#);
    refused(&of("{}"), &["message 1", "tool_calls", "found an object"]);
    refused(&of("[\"clock\"]"), &["message 1", "tool_calls[0]"]);
    refused(&of(r#"[{"function": "clock"}]"#), &["message 1", "tool_calls[0].function", "found a string"]);
    refused(&of(r#"[{"function": {"name": "f", "arguments": [1]}}]"#), &["tool_calls[0].function.arguments", "a list"]);
    let old = r#"{"messages": [{"role": "assistant", "content": null, "function_call": {"name": "f"}}]}"#;
    refused(old, &["message 1", "function_call", "tool_calls"]);
}

#[test]
fn sharegpt_turns_keep_their_calls_and_their_marks() {
    let row = r#"{"system": "S", "conversations": [{"from": "human", "value": "t", "weight": 0},
        {"from": "function_call", "value": "{\"name\": \"clock\", \"arguments\": {\"zone\": \"UTC\"}}", "weight": 0.0},
        {"from": "observation", "value": "12:00"}, {"from": "gpt", "value": "Noon.", "weight": 1.0}]}"#;
    let call = r#"{"type":"function","function":{"name":"clock","arguments":{"zone":"UTC"}}}"#;
    let expected = format!(
        r#"[{{"role":"system","content":"S"}},{{"role":"user","content":"t"}},{{"role":"assistant","content":"","tool_calls":[{call}]}},{{"role":"tool","content":"12:00"}},{{"role":"assistant","content":"Noon."}}]"#
    );
    assert_eq!(messages(row), expected);
    let learned: Vec<bool> = read(row).messages.iter().map(|message| message.is_learned).collect();
    assert_eq!(learned, [true, false, false, true, true]);
    refused(r#"{"conversations": [{"from": "function_call", "value": "clock()"}]}"#, &["message 1", "JSON string"]);
    refused(r#"{"conversations": [{"from": "bot", "value": "a"}]}"#, &["found \"bot\"; did you mean \"assistant\"?"]);
}

#[test]
fn a_message_says_nothing_without_content_calls_and_thoughts() {
    let says_nothing = |fields: &str| {
        read(&format!(r#"{{"messages": [{{"role": "assistant", {fields}}}]}}"#)).messages[0].says_nothing()
    };
    for nothing in [
        r#""content": """#,
        r#""content": " \n""#,
        r#""content": []"#,
        r#""content": [{"type": "text", "text": ""}]"#,
        r#""content": "", "tool_calls": [], "reasoning": " ""#,
    ] {
        assert!(says_nothing(nothing), "{nothing}");
    }
    for something in [
        r#""content": "a""#,
        r#""content": "", "reasoning": "so""#,
        r#""content": "", "tool_calls": [{"name": "f"}]"#,
        r#""content": [{"type": "image"}]"#,
    ] {
        assert!(!says_nothing(something), "{something}");
    }
}

#[test]
fn marks_of_a_message_are_two_valued() {
    let of = |role: &str, mark: &str| format!(r#"{{"messages": [{{"role": "{role}", "content": "x", {mark}}}]}}"#);
    for (mark, is_learned) in [
        (r#""weight": 0"#, false),
        (r#""weight": 1"#, true),
        (r#""weight": null"#, true),
        (r#""train": false"#, false),
        (r#""training": false"#, false),
        (r#""training": true, "weight": 0"#, false),
    ] {
        assert_eq!(read(&of("assistant", mark)).messages[0].is_learned, is_learned, "{mark}");
    }
    refused(&of("assistant", r#""weight": 0.5"#), &["message 1", "weight: expected 0 or 1, found 0.5"]);
    refused(&of("assistant", r#""weight": "0""#), &["weight: expected 0 or 1, found \"0\""]);
    refused(&of("assistant", r#""train": "false""#), &["train: expected true or false, found \"false\""]);
    refused(&of("assistant", r#""training": 0"#), &["training: expected true or false, found 0"]);
    read(&of("user", r#""weight": 1"#));
    read(&of("user", r#""train": false"#));
    refused(&of("user", r#""train": true"#), &["message 1", "role \"user\"", "only assistant messages"]);
}

#[test]
fn the_edges_of_marked_parts_are_refused_however_they_are_written() {
    for text in ["\u{fdd0}", r"\ufdd1", r"\uFDD0"] {
        refused(&format!(r#"{{"messages": [{{"role": "user", "content": "a{text}"}}]}}"#), &["message 1", "U+FDD0"]);
    }
    let tools = r#""[{\"name\": \"\\ufdd0\"}]""#;
    refused(
        &format!(r#"{{"messages": [{{"role": "user", "content": "a"}}], "tools": {tools}}}"#),
        &["\"tools\"", "U+FDD0"],
    );
}
