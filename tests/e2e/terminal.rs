//! What files hold does not reach a terminal raw: no control sequence, no forged line, no reversed text.

use std::{ffi::OsString, fs, os::unix::ffi::OsStringExt, process::Command};

use serde_json::{Value, json};
use unswag_tests::{Family, Run, python, unswag};

use crate::house::House;

/// Sets the title, clears the screen, colours, starts a line that looks like ours, and reverses what follows.
const HOSTILE: &str = "x\u{1b}]0;OWNED\u{7}\u{1b}[2J\u{1b}[31m\u{9b}2J\r\nerror: forged\u{202e}\u{2067}";

/// The characters of [`HOSTILE`] that must not be written, as they lie in a terminal's bytes.
fn assert_harmless(what: &str, written: &str) {
    for raw in ["\u{1b}]", "\u{7}", "\u{1b}[2J", "\u{9b}", "\u{202e}", "\u{2067}", "\nerror: forged"] {
        assert!(!written.contains(raw), "{what}: {raw:?} is raw in {written:?}");
    }
}

/// As JSON, and as YAML, which takes no raw control character.
fn quoted(value: &Value) -> String {
    let escaped = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\u{:04x}", u32::from(c)) };
    value.to_string().chars().map(escaped).collect()
}

/// A house whose every file has a hostile value somewhere, and commands that show it.
fn attacks() -> (House, Vec<(&'static str, Vec<String>)>) {
    let house = House::new();
    house.tiny(Family::Llama, "base");
    let write = |name: &str, content: Value| fs::write(house.path(name), quoted(&content)).unwrap();
    write("key.yaml", json!({"model": "base", "train": {HOSTILE: 1, "data": "x"}, "output": "o"}));
    write(
        "plugin.yaml",
        json!({"model": "base", "surgery": [{"plugin": HOSTILE}], "train": {"data": "x"}, "output": "o"}),
    );
    fs::create_dir(house.path("adapter")).unwrap();
    let adapter = json!({"peft_type": HOSTILE, "r": 1, "target_modules": ["q_proj"], HOSTILE: 1});
    write("adapter/adapter_config.json", adapter);
    house.run(&["surgery", "-p", "delhi", "base", "-o", "out"]).ok();
    let record = fs::read_to_string(house.path("out/unswag.yaml")).unwrap();
    let forged = record.replace("protocol: delhi", &format!("protocol: {}", quoted(&json!(HOSTILE))));
    fs::write(house.path("out/unswag.yaml"), forged).unwrap();
    let path = format!("{HOSTILE}/model");
    let commands: Vec<(&str, Vec<&str>)> = vec![
        ("a path", vec!["inspect", &path]),
        ("a path that is taken for an option", vec!["inspect", "base", &path]),
        ("an option", vec!["inspect", "base", "--x\u{1b}]0;OWNED\u{7}"]),
        ("an adapter", vec!["merge", "base", "adapter", "-o", "merged"]),
        ("a recipe's key", vec!["run", "key.yaml", "--dry-run"]),
        ("a recipe's plugin", vec!["run", "plugin.yaml", "--dry-run"]),
        ("a record, inspected", vec!["inspect", "out"]),
        ("a record, taken back", vec!["undo", "out", "-o", "plain"]),
        ("a record, as JSON", vec!["inspect", "out", "--json"]),
        ("a path, as JSON", vec!["inspect", &path, "--json"]),
    ];
    let commands = commands.into_iter().map(|(what, args)| (what, args.into_iter().map(str::to_owned).collect()));
    let commands = commands.collect();
    (house, commands)
}

#[test]
fn no_file_writes_to_the_terminal() {
    let (house, commands) = attacks();
    let typed: Vec<Vec<String>> =
        commands.iter().map(|(_, args)| [&[unswag().to_str().unwrap().to_owned()][..], args].concat()).collect();
    fs::write(house.path("commands.json"), json!(typed).to_string()).unwrap();
    let mut script = python("peers/terminal.py");
    let script = script.arg("commands.json").current_dir(house.path(".")).env("UNSWAG_HOME", house.path("home"));
    let ended: Vec<Value> = serde_json::from_str(script.outcome().ok()).unwrap();
    let mut coloured = 0;
    for ((what, _), ended) in commands.iter().zip(&ended) {
        let latin: Vec<u8> = ended["written"].as_str().unwrap().chars().map(|c| c as u8).collect();
        let written = String::from_utf8(latin).unwrap();
        // A terminal adds a carriage return to each line.
        assert_harmless(what, &written.replace("\r\n", "\n"));
        let is_escaped = written.contains("\\u001b") || written.contains("\\u{1b}");
        assert!(is_escaped && written.contains("OWNED"), "{what}: {written:?}");
        coloured += usize::from(written.contains("\u{1b}["));
    }
    assert!(coloured > 5, "our own styles are on a terminal: {coloured}");
}

#[test]
fn no_file_writes_raw_into_a_pipe_and_json_stays_json() {
    let (house, commands) = attacks();
    for (what, args) in commands.iter().filter(|(what, _)| !what.contains("taken back")) {
        let outcome = house.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert_harmless(what, &outcome.stdout);
        assert_harmless(what, &outcome.stderr);
        if args.iter().any(|arg| arg == "--json") {
            let page: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
            assert!(page.to_string().contains("OWNED") && page.to_string().contains('\u{202e}'), "{page}");
        }
    }
    // An option that there is not is an error in the form that was asked for, too.
    let outcome = Command::new(unswag()).args(["inspect", "model", "--no-such-option", "--json"]).outcome();
    outcome.code(2);
    let page: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    assert_eq!(page["error"], "unexpected argument '--no-such-option' found");
    // A name that is no text at all.
    let name = OsString::from_vec(b"\xff\x9b2J".to_vec());
    let outcome = Command::new(unswag()).arg("inspect").arg(name).outcome();
    assert!(outcome.code(2).contains("no such file"), "{}", outcome.stderr);
}
