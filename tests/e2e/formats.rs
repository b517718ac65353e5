//! The data that people bring, as they would train on it.

use std::{fs, io::Write};

use serde_json::{Value, json};
use unswag_tests::{Family, unswag_torch, workspace_root};

use crate::house::House;

/// Writes each character of a role and a content, and ends a turn with the tokenizer's end of text.
const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\u{0}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

#[test]
fn alpaca_sharegpt_csv_and_parquet_train_and_what_was_read_is_said() {
    unswag_torch();
    let house = House::without_plugins();
    house.tiny(Family::Llama, "model");
    fs::write(house.path("model/chat_template.jinja"), TEMPLATE).unwrap();
    let alpaca: Vec<Value> =
        (0..6).map(|n| json!({"instruction": format!("Count to {n}."), "output": n.to_string()})).collect();
    fs::write(house.path("alpaca.json"), format!("{:#}", Value::Array(alpaca))).unwrap();
    let talk = json!({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]});
    let mut gzip =
        flate2::write::GzEncoder::new(fs::File::create(house.path("talk.jsonl.gz")).unwrap(), Default::default());
    writeln!(gzip, "{talk}\n{talk}").unwrap();
    gzip.finish().unwrap();
    fs::write(house.path("qa.csv"), "Q,A,source\n\"What, then?\",\"This.\nAnd that.\",x\nWhy?,So.,y\n").unwrap();
    fs::copy(workspace_root().join("host/data/tests/parquet/polars.parquet"), house.path("rows.parquet")).unwrap();

    let cases: [(&str, &[&str], &[&str]); 4] = [
        (
            "alpaca.json",
            &[],
            &["json list, Alpaca instructions in instruction, output", "loss is taken on the completion"],
        ),
        ("talk.jsonl.gz", &["--chat"], &["json lines gzip, conversations in conversations", "assistant's turns"]),
        (
            "qa.csv",
            &["--prompt-column", "Q", "--completion-column", "A"],
            &["csv, prompts and completions in Q, A", "not used: source"],
        ),
        ("rows.parquet", &["--text-column", "prompt"], &["parquet, text in prompt", "not used: completion"]),
    ];
    for (file, options, said) in cases {
        let data = [&["--data", file, "--block-size", "512"], options].concat();
        let page = house.json(&[&["preprocess", "model"], &data[..]].concat());
        assert!(page["epoch"]["supervised_tokens"].as_u64().unwrap() > 0, "{file}: {page}");
        assert_eq!(page["data"][0]["path"], file);
        let trained =
            [&["train", "model"], &data[..], &["--max-steps", "1", "-o", file.split('.').next().unwrap()]].concat();
        let outcome = house.run(&trained);
        outcome.ok();
        assert!(said.iter().all(|part| outcome.stderr.contains(part)), "{file}: {}", outcome.stderr);
        let page = house.run(&[&["preprocess", "model"], &data[..]].concat()).ok().to_owned();
        assert!(said.iter().all(|part| page.contains(part)), "{file}: {page}");
    }
    // Of 12 rows, the loss is on what a completion adds: here a digit and the end.
    let page = house.json(&["preprocess", "model", "--data", "alpaca.json", "--block-size", "512"]);
    assert_eq!((&page["epoch"]["rows"], &page["epoch"]["supervised_tokens"]), (&6.into(), &12.into()));

    let passage = json!({"context": "c", "question": "a?", "answer": " b"}).to_string();
    fs::write(house.path("passage.jsonl"), passage).unwrap();
    let unread = "warning: passage.jsonl: the column \"context\" is not read; read it with --prompt-column question --input-column context";
    let page = house.run(&["preprocess", "model", "--data", "passage.jsonl"]).ok().to_owned();
    assert!(page.contains(unread), "{page}");
    let outcome = house.run(&["train", "model", "--data", "passage.jsonl", "--dry-run", "-o", "none"]);
    assert!(outcome.stderr.contains(unread), "{}", outcome.stderr);
    // Of rows that are no fault, what may not be meant is said.
    let rows = [json!({"prompt": "a", "completion": ""}), json!({"prompt": "a", "completion": "b"})];
    fs::write(house.path("empty.jsonl"), rows.map(|row| row.to_string()).join("\n")).unwrap();
    let warning = "warning: 1 of 2 rows with an empty answer";
    let page = house.run(&["preprocess", "model", "--data", "empty.jsonl"]).ok().to_owned();
    assert!(page.contains("1 without a completion") && page.contains(warning), "{page}");
    let page = house.run(&["preprocess", "model", "--data", "empty.jsonl", "--chat"]).ok().to_owned();
    assert!(page.contains("1 with an empty turn of the assistant") && page.contains(warning), "{page}");
    let outcome = house.run(&["train", "model", "--data", "empty.jsonl", "--dry-run", "-o", "none"]);
    outcome.ok();
    assert!(outcome.stderr.contains(warning), "{}", outcome.stderr);

    let refused = |args: &[&str], expected: &[&str]| {
        let said = house.run(&[&["train", "model", "-o", "none", "--data"], args].concat()).code(2).to_owned();
        assert!(expected.iter().all(|part| said.contains(part)), "{said}");
        assert!(!house.path("none").exists());
    };
    refused(&["qa.csv"], &["qa.csv: no column", "\"Q\", \"A\", \"source\"", "--prompt-column"]);
    refused(&["talk.jsonl.gz"], &["add --chat"]);
    refused(&["rows.parquet", "--text-column", "prompt", "--overlong", "skip"], &["--overlong"]);
    refused(&["alpaca.json", "--overlap", "3"], &["--overlap"]);
    refused(&["alpaca.json", "qa.csv", "--text-column", "A"], &["alpaca.json", "\"A\""]);
}
