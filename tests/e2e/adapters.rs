//! What follows training, as a user runs it: data looked at, a model measured, text generated, an adapter merged.

use std::fs;

use unswag_tests::{Base, Family, unswag_torch};

use crate::house::{House, names};

/// A tiny model, a text, and the adapter of a few steps on it.
fn house() -> House {
    unswag_torch();
    let house = House::without_plugins();
    house.tiny(Family::Llama, "model");
    let text: String = (0..60).map(|line| format!("{line} men went to mow, went to mow a meadow.\n")).collect();
    fs::write(house.path("text.txt"), text).unwrap();
    train(&house, "run", &[]);
    assert_eq!(names(&house.path("run")), ["adapter", "checkpoint-12"]);
    house
}

fn train(house: &House, output: &str, more: &[&str]) {
    let common =
        ["train", "model", "--data", "text.txt", "--block-size", "64", "--max-steps", "12", "--batch-size", "4"];
    let rest = ["--learning-rate", "2e-2", "-o", output, "--report-to", "none"];
    house.run(&[&common[..], &rest, more].concat()).ok();
}

#[test]
fn an_adapter_lowers_the_loss_and_a_merge_keeps_it() {
    let house = house();
    let base = Base::guard(house.path("model"));
    let eval = |more: &[&str]| {
        house.json(&[&["eval"], more, &["--data", "text.txt", "--block-size", "64", "--batch-size", "3"]].concat())
    };
    let number =
        |page: &serde_json::Value, field: &str| page[field].as_f64().unwrap_or_else(|| panic!("{field}: {page}"));
    let plain = eval(&["model"]);
    train(&house, "dora", &["--use-dora", "--use-rslora", "--lora-dropout", "0.05"]);
    for (run, merged, tensors) in [("run", "merged", 2), ("dora", "merged-dora", 3)] {
        let adapter = format!("{run}/adapter");
        let config = fs::read_to_string(house.path(&adapter).join("adapter_config.json")).unwrap();
        assert_eq!(config.contains("\"use_dora\": true"), tensors == 3, "{config}");
        let adapted = eval(&["model", "--adapter", &adapter]);
        assert!(number(&adapted, "loss") < 0.9 * number(&plain, "loss"), "{plain} {adapted}");
        for page in [&plain, &adapted] {
            assert!((number(page, "loss").exp() / number(page, "perplexity") - 1.0).abs() < 1e-9);
            // Each token of this tokenizer is a byte.
            assert_eq!(page["tokens"], page["bytes"]);
            assert!((number(page, "loss") / 2f64.ln() - number(page, "bits_per_byte")).abs() < 1e-9);
        }
        let report = house.json(&["merge", "model", &adapter, "-o", merged]);
        let modules = report["modules"].as_array().unwrap();
        assert_eq!(modules.len(), 14);
        assert!(modules.iter().all(|module| number(module, "delta_norm") > 0.0), "{report}");
        // bf16 weights take less of the adapter than f32 ones would.
        let found = eval(&[merged]);
        let lost = (number(&found, "loss") - number(&adapted, "loss")).abs();
        assert!(lost < 0.02 * (number(&plain, "loss") - number(&adapted, "loss")), "{found} {adapted}");
        assert_eq!(names(&house.path(merged)), names(&house.path("model")));
    }
    let said = house.run(&["merge", "model", "run/adapter", "-o", "merged"]).code(2).to_owned();
    assert!(said.contains("already there"), "{said}");
    drop(base);
}

#[test]
fn generation_streams_what_json_gives_and_a_seed_repeats_it() {
    let house = house();
    let args =
        ["generate", "model", "--adapter", "run/adapter", "--prompt", "1 men", "--max-new-tokens", "20", "--seed", "3"];
    let page = house.json(&args);
    assert_eq!(page["prompt_tokens"], 5);
    assert!(page["ids"].as_array().unwrap().len() <= 20);
    assert_eq!(house.json(&args), page);
    let streamed = house.run(&args).ok().to_owned();
    // What ends in the middle of a character is not shown.
    let text = page["text"].as_str().unwrap().trim_end_matches('\u{fffd}');
    assert_eq!(streamed.trim_end_matches(['\n', '\u{fffd}']), text.trim_end_matches('\n'));
    let said = house.run(&[&args[..], &["--top-p", "0"]].concat()).code(2).to_owned();
    assert!(said.contains("top_p: expected above 0"), "{said}");
}

#[test]
fn preprocess_shows_what_is_learned_and_names_bad_rows_by_line() {
    let house = house();
    let page =
        house.json(&["preprocess", "model", "--data", "text.txt", "--block-size", "64", "--debug", "--rows", "1"]);
    let tokens = page["rows"][0]["tokens"].as_array().unwrap();
    assert_eq!((tokens.len(), page["rows"].as_array().unwrap().len()), (64, 1));
    assert_eq!((&tokens[0]["is_supervised"], &tokens[1]["is_supervised"]), (&false.into(), &true.into()));
    let rows = ["{\"text\": \"1 man\"}", "{\"text\": null}", "{\"text\": \"2 men\"}"].join("\n");
    fs::write(house.path("rows.jsonl"), rows).unwrap();
    let outcome = house.run(&["preprocess", "model", "--data", "rows.jsonl"]);
    assert_eq!(outcome.status.code(), Some(1), "{} {}", outcome.stdout, outcome.stderr);
    assert!(outcome.stdout.contains("rows.jsonl:2: ") && outcome.stdout.contains("1 row, "), "{}", outcome.stdout);
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\u{0}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    fs::write(house.path("model/chat_template.jinja"), template).unwrap();
    let row =
        |role: &str| format!(r#"{{"messages":[{{"role":"user","content":"a"}},{{"role":"{role}","content":"b"}}]}}"#);
    fs::write(house.path("chat.jsonl"), [row("assistant"), row("user"), row("assistant")].join("\n")).unwrap();
    let outcome = house.run(&["preprocess", "model", "--data", "chat.jsonl", "--chat"]);
    assert_eq!(outcome.status.code(), Some(1), "{} {}", outcome.stdout, outcome.stderr);
    assert!(outcome.stdout.contains("chat.jsonl:2"), "{}", outcome.stdout);
}

#[test]
fn packed_documents_share_rows_and_are_trained_on() {
    let house = house();
    let lines: String = (0..40).map(|line| format!("{{\"text\":\"{line} men went to mow\"}}\n")).collect();
    fs::write(house.path("rows.jsonl"), lines).unwrap();
    let common = ["--data", "rows.jsonl", "--block-size", "64", "--packing"];
    let page = house.json(&[&["preprocess", "model"], &common[..], &["--debug"]].concat());
    let tokens = page["rows"][0]["tokens"].as_array().unwrap();
    let documents = tokens.iter().filter(|token| token["position"] == 0).count();
    assert!(documents > 1, "{documents} documents in the first row");
    let train =
        [&["train", "model"], &common[..], &["--num-epochs", "3", "--learning-rate", "1e-2", "-o", "packed"]].concat();
    let report = house.json(&train);
    let rows = page["epoch"]["rows"].as_u64().unwrap();
    assert!(rows < 20, "40 documents in {rows} rows");
    assert_eq!(report["steps"].as_u64().unwrap(), 3 * rows);
}

#[test]
fn a_target_that_no_layer_has_is_an_error_that_suggests_one_and_patterns_reach_the_adapters_file() {
    let house = house();
    let refused = |targets: &str| {
        let args =
            ["train", "model", "--data", "text.txt", "--max-steps", "1", "--lora-target-modules", targets, "-o", "x"];
        house.run(&args).code(2).to_owned()
    };
    for (targets, expected) in [
        ("q_proj,qproj", "no linear layer of this model is named \"qproj\" (did you mean \"q_proj\"?)"),
        ("all-linear,c_attn", "it has down_proj, gate_proj"),
        ("embed_tokens", "train all its weights with --modules-to-save embed_tokens"),
    ] {
        let said = refused(targets);
        assert!(said.contains(expected), "{said}");
        let said = house.run(&["plan", "model", "--seq", "8", "--lora-target-modules", targets]).code(2).to_owned();
        assert!(said.contains(expected), "{said}");
    }
    assert!(!house.path("x").exists());
    let more = [
        "--lora-target-modules",
        "q_proj,lm_head",
        "--rank-pattern",
        "lm_head=4",
        "--alpha-pattern",
        "{\"q_proj\": 2}",
    ];
    train(&house, "patterns", &[&more[..], &["--modules-to-save", "norm"]].concat());
    let text = fs::read_to_string(house.path("patterns/adapter/adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["rank_pattern"], serde_json::json!({"lm_head": 4}));
    assert_eq!(config["alpha_pattern"], serde_json::json!({"q_proj": 2.0}));
    assert_eq!(config["target_modules"], serde_json::json!(["lm_head", "q_proj"]));
    assert_eq!(config["modules_to_save"], serde_json::json!(["norm"]));
    let report = house.json(&["merge", "model", "patterns/adapter", "-o", "merged", "--dtype", "float32"]);
    let modules: Vec<&str> =
        report["modules"].as_array().unwrap().iter().filter_map(|m| m["module"].as_str()).collect();
    // PEFT takes a name for every module whose path ends in it: "norm" is each layer's two norms, too.
    assert_eq!((modules[0], *modules.last().unwrap()), ("model.layers.0.input_layernorm", "lm_head"));
    assert_eq!(report["dtypes"], serde_json::json!(["F32"]));
    assert!((report["total"]["arrived"].as_f64().unwrap() - 1.0).abs() < 1e-3, "{report}");
    // A config that no other command takes is not merged either.
    let config = house.path("model/config.json");
    let text = fs::read_to_string(&config).unwrap();
    for (from, to, expected) in [
        ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "layers.2"),
        ("\"hidden_size\": 64", "\"num_local_experts\": 8, \"hidden_size\": 64", "mixture of experts"),
        ("\"model_type\": \"llama\"", "\"model_type\": \"mamba\"", "mamba"),
    ] {
        assert!(text.contains(from), "{text}");
        fs::write(&config, text.replace(from, to)).unwrap();
        let said = house.run(&["merge", "model", "patterns/adapter", "-o", "other"]).code(2).to_owned();
        assert!(said.contains(expected), "{said}");
        assert!(!house.path("other").exists());
    }
}
