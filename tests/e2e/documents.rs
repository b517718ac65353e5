//! The README and the guides run as they are printed: every command, top to bottom, in one folder per page.
//!
//! A page's blocks are executed in order: `sh` by bash, `python` by the tests' Python environment; of a `console` block the commands after
//! `$ `, and what they print must be what the page shows. Nothing is skipped but calls of `make`, which need the network. What a
//! page takes as given (a model, some plays) is put into the folder first: a tiny model here; the real SmolLM2-135M with
//! `UNSWAG_DOCUMENTS=real cargo test -p unswag-tests --test e2e -- documents::`.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use unswag_tests::{Family, Run, cache_dir, plugin, smollm2, smollm2_gguf, unswag, unswag_torch, workspace_root};

use crate::house::House;

const MODEL: &str = "SmolLM2-135M-Instruct";
/// Of the tiny model, whose end token is its byte 0.
const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\u{0}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

/// A fenced block: its language, the line of its first line, and its text.
struct Block {
    language: String,
    line: usize,
    text: String,
}

fn blocks(page: &Path) -> Vec<Block> {
    let text = fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    let (mut blocks, mut open): (Vec<Block>, Option<Block>) = (Vec::new(), None);
    for (index, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                open = Some(Block { language: language.trim().to_owned(), line: index + 2, text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{}: a block is not closed", page.display());
    blocks
}

/// A folder with what a page takes as given, and the programs on its PATH.
fn folder(is_real: bool) -> House {
    unswag_torch();
    let house = House::without_plugins();
    house.run(&["plugin", "add", plugin("delhi").to_str().unwrap()]).ok();
    if is_real {
        // A copy: what a page writes beside the model must not reach the cache.
        fs::create_dir(house.path(MODEL)).unwrap();
        for entry in fs::read_dir(smollm2()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), house.path(MODEL).join(entry.file_name())).unwrap();
        }
    } else {
        house.tiny(Family::Llama, MODEL);
        fs::write(house.path(MODEL).join("chat_template.jinja"), TEMPLATE).unwrap();
    }
    std::os::unix::fs::symlink(smollm2_gguf(), house.path("model.gguf")).unwrap();
    for given in ["examples", "manifests"] {
        std::os::unix::fs::symlink(workspace_root().join(given), house.path(given)).unwrap();
    }
    // Where the recipes of manifests/ look for what `make demo` lays down.
    fs::create_dir_all(house.path(".cache/models")).unwrap();
    fs::create_dir_all(house.path(".cache/data")).unwrap();
    std::os::unix::fs::symlink(house.path(MODEL), house.path(".cache/models").join(MODEL)).unwrap();
    std::os::unix::fs::symlink(house.path("plays"), house.path(".cache/data/shakespeare")).unwrap();
    fs::create_dir(house.path("plays")).unwrap();
    let plays = cache_dir().join("data/shakespeare");
    for (from, to) in
        [("hamlet_gut.txt", "hamlet.txt"), ("macbeth_gut.txt", "macbeth.txt"), ("othello_gut.txt", "held-out.txt")]
    {
        let text = fs::read_to_string(plays.join(from))
            .unwrap_or_else(|error| panic!("{from}: {error}; run `scripts/fetch shakespeare`"));
        let place = if to == "held-out.txt" { house.path(to) } else { house.path("plays").join(to) };
        // A token is a byte to the tiny model.
        let most = if is_real { 60_000 } else { 6_000 };
        fs::write(place, text.chars().take(most).collect::<String>()).unwrap();
    }
    house
}

/// What bash is given for a block: it stops at the first command that fails.
fn script(block: &Block) -> String {
    let is_call_of_make = |line: &str| line == "make" || line.starts_with("make ");
    let mut script = "set -euo pipefail\n".to_owned();
    for line in block.text.lines().filter(|line| !is_call_of_make(line)) {
        writeln!(script, "{line}").unwrap();
        // Crates that a page builds share the folder of the other tests' crates.
        if let Some(name) = line.strip_prefix("unswag plugin new ").and_then(|rest| rest.split_whitespace().next()) {
            let target = workspace_root().join("target/outside");
            writeln!(script, "mkdir -p '{0}' && ln -s '{0}' {name}/target", target.display()).unwrap();
        }
    }
    script
}

fn run(house: &House, folder: &Path, program: &Path, args: &[&str]) -> unswag_tests::Outcome {
    let programs = unswag().parent().expect("a program lies in a folder").to_owned();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).env("PATH", format!("{}:{path}", programs.display()));
    command.env("UNSWAG_HOME", house.path("home")).env("HF_HUB_OFFLINE", "1").env_remove("NO_COLOR");
    // What a page builds need not be fast.
    command.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0").env_remove("CARGO_TARGET_DIR").env_remove("CARGO_MANIFEST_DIR");
    command.outcome()
}

/// Runs a page; its shell keeps the folder that a block changed to.
fn run_page(page: &str) {
    let is_real = std::env::var("UNSWAG_DOCUMENTS").is_ok_and(|what| what == "real");
    let house = folder(is_real);
    let path = workspace_root().join(page);
    let (mut ran, mut here) = (0, house.path(""));
    for block in blocks(&path) {
        let place = format!("{page}:{}", block.line);
        match block.language.as_str() {
            "sh" => {
                let script = format!("{}pwd >\"$UNSWAG_HOME/pwd\"\n", script(&block));
                let outcome = run(&house, &here, Path::new("bash"), &["-c", &script]);
                assert!(outcome.status.success(), "{place}: {}\n{}\n{}", block.text, outcome.stdout, outcome.stderr);
                here = PathBuf::from(fs::read_to_string(house.path("home/pwd")).unwrap().trim_end());
            }
            "python" => {
                let python = cache_dir().join("venv/bin/python");
                let outcome = run(&house, &here, &python, &["-c", &block.text]);
                assert!(outcome.status.success(), "{place}: {}\n{}\n{}", block.text, outcome.stdout, outcome.stderr);
            }
            "console" => assert_prints_what_is_shown(&place, &block.text),
            "yaml" | "json" | "text" | "rust" | "" => continue,
            other => panic!("{place}: a block of {other}, which nothing runs; name it `text` if nothing should"),
        }
        ran += 1;
    }
    assert!(ran > 0, "{page}: nothing was run");
}

/// What a page shows of the real model is what the program prints for it: no figure of it depends on the machine.
fn assert_prints_what_is_shown(place: &str, text: &str) {
    let house = House::without_plugins();
    house.run(&["plugin", "add", plugin("delhi").to_str().unwrap()]).ok();
    std::os::unix::fs::symlink(smollm2(), house.path(MODEL)).unwrap();
    let mut parts = text.split_inclusive('\n').peekable();
    while let Some(line) = parts.next() {
        let command = line.strip_prefix("$ ").unwrap_or_else(|| panic!("{place}: expected `$ COMMAND`, got {line}"));
        let mut shown = String::new();
        while let Some(line) = parts.next_if(|line| !line.starts_with("$ ")) {
            shown.push_str(line);
        }
        let outcome = run(&house, &house.path(""), Path::new("bash"), &["-c", command]);
        assert!(outcome.status.success(), "{place}: {command}: {}", outcome.stderr);
        // Spaces at the end of a line are not seen.
        let lines = |text: &str| text.trim().lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
        assert_eq!(lines(&outcome.stdout), lines(&shown), "{place}: {command}");
    }
}

#[test]
fn the_readme_runs_as_printed() {
    run_page("README.md");
}

#[test]
fn the_training_guide_runs_as_printed() {
    run_page("docs/training.md");
}

/// A page that nothing runs would rot. What the guide for authors shows is run by `plugins::a_new_plugin_builds_...`.
#[test]
fn every_page_with_commands_is_run() {
    let mut pages: Vec<String> = vec!["README.md".to_owned()];
    for entry in fs::read_dir(workspace_root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if blocks(&path).iter().any(|block| ["sh", "console", "python"].contains(&block.language.as_str())) {
            pages.push(format!("docs/{}", path.file_name().unwrap().to_string_lossy()));
        }
    }
    pages.sort();
    assert_eq!(pages, ["README.md", "docs/authoring-a-plugin.md", "docs/training.md"]);
}

/// The messages that the guide explains are those that the programs print.
#[test]
fn the_guide_explains_messages_that_exist() {
    let guide = fs::read_to_string(workspace_root().join("docs/training.md")).unwrap();
    let rows = guide
        .split("## 10.")
        .nth(1)
        .expect("the guide has a section 10")
        .lines()
        .filter(|line| line.starts_with("| `"));
    let messages: Vec<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    assert!(messages.len() > 5, "{messages:?}");
    let mut sources = String::new();
    let mut folders = vec![workspace_root().join("host")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_none_or(|name| name != "tests") {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                sources.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    for message in messages {
        assert!(sources.contains(message), "no source says {message:?}");
    }
}
