//! Indices past a table are found before the first step, each token of an evaluation counts once, and bytes that are no
//! UTF-8 do not end a generation.

use std::{fs, process::Command};

use serde_json::{Value, json};
use unswag_tests::{Family, Run, Tiny, python, unswag, unswag_torch};

use crate::house::House;

/// Tiny models have 256 tokens and, where positions are learned, a table of 128.
fn house(family: Family) -> House {
    unswag_torch();
    let house = House::without_plugins();
    house.tiny(family, "model");
    house.text();
    house
}

/// What a command that is refused says, and that it wrote nothing.
#[track_caller]
fn refused(house: &House, args: &[&str], expected: &[&str]) {
    let before = house.names();
    let outcome = house.run(args);
    let said = outcome.code(2);
    assert!(expected.iter().all(|part| said.contains(part)), "{args:?}: {said}");
    assert_eq!(house.names(), before, "{args:?}");
}

/// Changes a JSON file of the model.
fn edit(house: &House, name: &str, change: impl FnOnce(&mut Value)) {
    let path = house.path("model").join(name);
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn rows_longer_than_the_position_embedding_are_refused_by_every_command() {
    for family in [Family::Gpt2, Family::Opt] {
        let house = house(family);
        let data = ["model", "--data", "text.txt", "--block-size", "129"];
        let table = ["129 tokens", "position embedding has 128 rows"];
        for command in ["train", "eval", "preprocess"] {
            let output: &[&str] = if command == "train" { &["-o", "run", "--max-steps", "1"] } else { &[] };
            refused(&house, &[&[command], &data[..], output].concat(), &[&table[..], &["--block-size 128"]].concat());
        }
        refused(&house, &["plan", "model", "--seq", "129"], &[&table[..], &["--seq 128"]].concat());
        let generate = ["generate", "model", "--prompt", "abc", "--max-new-tokens"];
        refused(&house, &[&generate[..], &["127"]].concat(), &[&table[..], &["--max-new-tokens 126"]].concat());
        // The last row of the table is used.
        house.run(&["eval", "model", "--data", "text.txt", "--block-size", "128"]).ok();
        let generated = house.json(&[&generate[..], &["126", "--temperature", "0"]].concat());
        assert!(generated["ids"].as_array().is_some_and(|ids| !ids.is_empty()), "{generated}");
        let plan = house.json(&["plan", "model", "--seq", "128"]);
        assert_eq!(plan["longest_seq"]["seq"], 128, "{plan}");
    }
}

#[test]
fn rows_whose_length_was_not_given_end_with_the_table_of_positions() {
    let house = house(Family::Gpt2);
    assert_eq!(house.json(&["plan", "model"])["plan"]["seq"], 128);
    for command in ["eval", "preprocess"] {
        let args = [command, "model", "--data", "text.txt"];
        let outcome = house.run(&args);
        assert!(outcome.stderr.contains("rows have 128 tokens"), "{command}: {}", outcome.stderr);
        let shorter = house.json(&[&args[..], &["--block-size", "128"]].concat());
        assert_eq!(house.json(&args), shorter, "{command}");
    }
    house.run(&["train", "model", "--data", "text.txt", "-o", "run", "--max-steps", "1"]).ok();
    fs::write(house.path("r.yaml"), "model: model\noutput: again\ntrain:\n  data: text.txt\n  max_steps: 1\n").unwrap();
    assert_eq!(house.json(&["plan", "r.yaml"])["plan"]["seq"], 128);
    house.run(&["run", "r.yaml"]).ok();

    // Rotary positions have no table.
    house.tiny(Family::Llama, "rotary");
    assert_eq!(house.json(&["plan", "rotary"])["plan"]["seq"], 1024);
}

#[test]
fn an_id_without_a_row_in_the_embedding_is_named_before_the_first_step() {
    type Change = (&'static str, fn(&mut Value));
    let changes: [Change; 3] = [
        ("tokenizer.json", |file| file["model"]["vocab"]["zz"] = json!(5000)),
        ("tokenizer_config.json", |file| {
            file["added_tokens_decoder"] = json!({"256": {"content": "zz", "special": true}})
        }),
        ("tokenizer.json", |file| {
            file["post_processor"] = json!({"type": "BertProcessing", "sep": ["zz", 300], "cls": ["a", 97]})
        }),
    ];
    for ((name, change), id) in changes.into_iter().zip([5000, 256, 300]) {
        let house = house(Family::Llama);
        edit(&house, name, change);
        let expected = [format!("id {id}"), "256 rows".to_owned(), "tokenizer.json".to_owned()];
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        for args in [
            &["train", "model", "--data", "text.txt", "-o", "run", "--max-steps", "1"][..],
            &["eval", "model", "--data", "text.txt"],
            &["generate", "model", "--prompt", "abc"],
            &["preprocess", "model", "--data", "text.txt"],
        ] {
            refused(&house, args, &expected);
        }
        let plan = house.run(&["plan", "model", "--seq", "16"]);
        plan.ok();
        assert!(plan.stderr.contains(expected[0]), "{}", plan.stderr);
    }
}

#[test]
fn rotary_positions_past_the_stated_length_are_a_note() {
    let house = house(Family::Llama);
    for (args, noted) in [
        (&["eval", "model", "--data", "text.txt", "--block-size", "200"][..], true),
        (&["eval", "model", "--data", "text.txt", "--block-size", "128"], false),
        (&["plan", "model", "--seq", "200"], true),
        (&["generate", "model", "--prompt", "abc", "--max-new-tokens", "130"], true),
        (&["preprocess", "model", "--data", "text.txt", "--block-size", "200"], true),
    ] {
        let outcome = house.run(args);
        outcome.ok();
        let said = outcome.stderr.contains("exceed max_position_embeddings (128)");
        assert_eq!(said, noted, "{args:?}: {}", outcome.stderr);
    }
}

#[test]
fn with_an_overlap_each_token_counts_once_as_in_transformers_strided_perplexity() {
    let house = house(Family::Llama);
    Tiny { dtype: safetensors::Dtype::F32, ..Tiny::new(Family::Llama) }.write(&house.path("model"));
    let text = fs::read(house.path("text.txt")).unwrap();
    fs::write(house.path("text.txt"), &text[..777]).unwrap();
    let arguments = ["64", "24"];
    let (model, text) = (house.path("model"), house.path("text.txt"));
    let theirs = python("peers/strided_perplexity.py").arg(model).arg(text).args(arguments).outcome();
    let [loss, tokens] = theirs.ok().split_whitespace().collect::<Vec<_>>()[..] else { panic!("{}", theirs.stdout) };
    let ours = house.json(&["eval", "model", "--data", "text.txt", "--block-size", "64", "--overlap", "24"]);
    assert_eq!(ours["tokens"].to_string(), tokens);
    let (loss, found): (f64, f64) = (loss.parse().unwrap(), ours["loss"].as_f64().unwrap());
    assert!((loss - found).abs() < 1e-5 * loss, "{loss} and {found}");
    // Each token of this tokenizer is a byte, the one that ends the text too.
    assert_eq!(ours["bytes"], ours["tokens"], "{ours}");
    let once = house.json(&["eval", "model", "--data", "text.txt", "--block-size", "64"]);
    assert!(once["loss"] != ours["loss"], "more context changes the loss");

    let train = [
        "train",
        "model",
        "--data",
        "text.txt",
        "--block-size",
        "64",
        "--max-steps",
        "1",
        "-o",
        "run",
        "--overlap",
        "24",
    ];
    let said = house.run(&train);
    said.ok();
    assert!(said.stderr.contains("--overlap 24") && said.stderr.contains("twice an epoch"), "{}", said.stderr);
}

#[test]
fn bytes_that_are_no_utf8_are_printed_as_replacements_and_generation_goes_on() {
    let house = house(Family::Llama);
    let args = ["generate", "model", "--prompt", "abc", "--max-new-tokens", "120", "--seed", "3", "-q"];
    let whole = house.json(&args);
    let printed = house.run(&args);
    let text = whole["text"].as_str().unwrap();
    assert_eq!(printed.ok(), format!("{text}\n"));
    assert!(text.contains('\u{FFFD}') && whole["ids"].as_array().unwrap().len() > 80, "{whole}");
    // A reader that has enough ends it, and that is no failure.
    let mut command = Command::new("bash");
    command.args(["-c", "set -o pipefail; \"$0\" \"$@\" | head -c 5 >/dev/null"]).arg(unswag()).args(args);
    let ended = command.current_dir(house.path("")).outcome();
    assert_eq!((ended.ok(), ended.stderr.as_str()), ("", ""));
}
