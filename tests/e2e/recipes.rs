//! `unswag run`, `unswag schema` and `unswag plan RECIPE` as a user runs them.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};

use serde_json::Value;
use unswag_tests::{Base, Family, Run, cache_dir, cached, python, unswag_torch, workspace_root};

use crate::house::{House, assert_same_files, names};

/// Line 1 is `model`, line 6 `data`.
const RECIPE: &str = "\
model: model
surgery:
  - plugin: delhi
    options: {mode: 4bit, group: 32}
train:
  data: [text.txt]
  block_size: 48
  max_steps: 4
  learning_rate: 1e-2
  lora_r: 4
  lora_target_modules: [q_proj, down_proj]
output: out
";

/// A house with a tiny model, a text, and recipes.
fn house(recipes: &[(&str, &str)]) -> House {
    unswag_torch();
    let house = House::new();
    house.tiny(Family::Llama, "model");
    house.text();
    for (name, text) in recipes {
        fs::write(house.path(name), text).unwrap();
    }
    house
}

fn changed(from: &str, to: &str) -> String {
    assert!(RECIPE.contains(from), "the recipe has no {from}");
    RECIPE.replace(from, to)
}

#[test]
fn a_recipe_does_what_surgery_and_train_do_with_its_options() {
    let house = house(&[("recipe.yaml", RECIPE)]);
    let base = Base::guard(house.path("model"));
    house.run(&["run", "recipe.yaml"]).ok();
    assert_eq!(names(&house.path("out")), ["adapter", "checkpoint-4", "metrics.jsonl", "patched"]);

    house.run(&["surgery", "-p", "delhi:mode=4bit,group=32", "model", "-o", "by-hand"]).ok();
    let args = ["train", "by-hand", "--data", "text.txt", "--block-size", "48", "--max-steps", "4"];
    let more = ["--learning-rate", "1e-2", "--lora-r", "4", "--lora-target-modules", "q_proj,down_proj", "-o", "run"];
    house.run(&[&args[..], &more].concat()).ok();
    let weights = |folder: &str| fs::read(house.path(folder).join("adapter/adapter_model.safetensors")).unwrap();
    assert!(weights("out") == weights("run"), "the adapters differ");
    assert_same_files(&house.path("out/patched"), &house.path("by-hand"));
    drop(base);
}

#[test]
fn surgery_is_done_once_and_again_only_where_something_changed() {
    let house = house(&[("recipe.yaml", RECIPE), ("other.yaml", &changed("4bit", "8bit"))]);
    let inode = || fs::metadata(house.path("out/patched/model.safetensors")).unwrap().ino();
    let run = |recipe: &'static str, more: &[&'static str]| {
        // What training left would stop the next run; this test is about what comes before it.
        for left in ["out/adapter", "out/checkpoint-1", "out/metrics.jsonl"] {
            let path = house.path(left);
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap_or_default();
        }
        house.run(&[&["run", recipe, "--max-steps", "1"], more].concat())
    };
    run("recipe.yaml", &[]).ok();
    let first = inode();
    let again = run("recipe.yaml", &[]);
    again.ok();
    assert!(again.stderr.contains("surgery was done before"), "{}", again.stderr);
    assert_eq!(inode(), first);

    // A result that was edited is replaced only where that is asked for.
    let config = house.path("out/patched/config.json");
    let sound = fs::read(&config).unwrap();
    fs::write(&config, b"{}").unwrap();
    let refused = run("recipe.yaml", &[]);
    assert!(refused.code(2).contains("changed since it was written: config.json"), "{}", refused.stderr);
    assert!(fs::read(&config).unwrap() == b"{}");
    run("recipe.yaml", &["--force"]).ok();
    assert!(fs::read(&config).unwrap() == sound && inode() != first);

    // A base that is another one now, too.
    let second = inode();
    let mut weights = fs::read(house.path("model/model.safetensors")).unwrap();
    *weights.last_mut().unwrap() ^= 1;
    fs::write(house.path("model/model.safetensors"), &weights).unwrap();
    run("recipe.yaml", &[]).ok();
    assert!(inode() != second);
    house.run(&["verify", "out/patched", "--base"]).ok();

    // Another operation's result is not replaced unless asked for.
    let refused = run("other.yaml", &[]);
    assert!(refused.code(2).contains("another operation's result; pass --force"), "{}", refused.stderr);
    run("other.yaml", &["--force"]).ok();
    let record = fs::read_to_string(house.path("out/patched/unswag.yaml")).unwrap();
    assert!(record.contains("mode: 8bit") && !record.contains("mode: 4bit"));
}

#[test]
fn a_dry_run_writes_nothing_and_says_what_would_be() {
    let house = house(&[("recipe.yaml", RECIPE)]);
    fs::write(
        house.path("plain.yaml"),
        RECIPE.replace("  - plugin: delhi\n    options: {mode: 4bit, group: 32}\n", "").replace("surgery:\n", ""),
    )
    .unwrap();
    let before = house.names();
    let said = house.run(&["run", "recipe.yaml", "--dry-run"]);
    assert!(said.ok().contains("a step of 1 x 48 tokens"), "{}", said.stdout);
    assert!(
        said.stderr.contains("2 nodes rewritten") && said.stderr.contains("nothing was written"),
        "{}",
        said.stderr
    );
    // Without surgery there is a model to ask, and `train --dry-run` answers.
    let page = house.json(&["run", "plain.yaml", "--dry-run", "--max-steps", "9"]);
    assert_eq!(page["steps"], 9);
    assert_eq!(house.names(), before);
}

#[test]
fn what_is_typed_takes_the_place_of_what_the_recipe_says() {
    let house = house(&[("recipe.yaml", &changed("max_steps: 4", "num_epochs: 50"))]);
    house.tiny(Family::Qwen2, "other");
    // --max-steps cannot stand beside num_epochs: what is typed wins.
    let args = ["run", "recipe.yaml", "--model", "other", "-o", "elsewhere", "--max-steps", "3", "--report-to", "all"];
    let report = house.json(&args);
    assert_eq!(report["steps"], 3);
    assert_eq!(names(&house.path("elsewhere")), ["adapter", "checkpoint-3", "metrics.jsonl", "patched", "runs"]);
    assert!(!house.path("out").exists());
    let config = fs::read_to_string(house.path("elsewhere/patched/config.json")).unwrap();
    assert!(config.contains("qwen2"), "{config}");
}

#[test]
fn an_interrupted_recipe_goes_on_to_the_same_bits() {
    let house = house(&[("recipe.yaml", RECIPE)]);
    house.run(&["run", "recipe.yaml", "-o", "whole"]).ok();
    house.run(&["run", "recipe.yaml", "--save-steps", "2"]).ok();
    fs::remove_dir_all(house.path("out/checkpoint-4")).unwrap();
    fs::remove_dir_all(house.path("out/adapter")).unwrap();
    let again = house.run(&["run", "recipe.yaml", "--save-steps", "2", "--resume-from-checkpoint", "auto"]);
    again.ok();
    assert!(again.stderr.contains("resuming from out/checkpoint-2"), "{}", again.stderr);
    let weights = |folder: &str| fs::read(house.path(folder).join("adapter/adapter_model.safetensors")).unwrap();
    assert!(weights("out") == weights("whole"), "the adapters differ");
}

#[test]
fn a_recipe_is_planned_as_what_its_surgery_makes() {
    let house = house(&[("recipe.yaml", RECIPE)]);
    let before = house.names();
    let planned = house.json(&["plan", "recipe.yaml"]);
    let longer = house.json(&["plan", "recipe.yaml", "--seq", "96"]);
    assert_eq!(house.names(), before);
    house.run(&["surgery", "-p", "delhi:mode=4bit,group=32", "model", "-o", "patched"]).ok();
    let args = ["plan", "patched", "--seq", "48", "--lora-r", "4", "--lora-target-modules", "q_proj,down_proj"];
    let by_hand = house.json(&args);
    assert_eq!(planned["plan"], by_hand["plan"]);
    assert_eq!(longer["plan"]["seq"], 96);
}

/// What is wrong, on which line, and what is said of it.
const WRONG: &[(&str, &str, u32, &str)] = &[
    ("max_steps: 4", "max_step: 4", 8, "train.max_step: no such key; did you mean max_steps?"),
    ("  lora_r: 4", "  lora_ran: 4", 10, "train.lora_ran: no such key; did you mean lora_ran"),
    ("  lora_r: 4", "  bf16: true", 10, "train.bf16: no such key; --dtype bfloat16"),
    ("  lora_r: 4", "  colour: red", 10, "`unswag schema` has every key"),
    ("    options", "    option", 4, "surgery[0].option: no such key; did you mean options?"),
    ("output: out", "outputs: out", 12, "outputs: no such key; did you mean output?"),
    ("model: model", "{}", 1, ""),
    ("  data: [text.txt]", "  seed: 1", 6, "train: `data` is missing"),
    ("max_steps: 4", "max_steps: four", 8, "train.max_steps: expected an integer, got the text \"four\""),
    ("max_steps: 4", "max_steps: 0", 8, "train.max_steps: 0 is not in"),
    ("max_steps: 4", "max_steps: [4]", 8, "train.max_steps: expected an integer, got a list"),
    ("max_steps: 4", "max_steps:", 8, "train.max_steps: expected an integer, got nothing"),
    (
        "  max_steps: 4",
        "  optim: adamw",
        8,
        "expected one of adamw_torch, adamw_8bit, lion_32bit, lion_8bit, paged_adamw_32bit, paged_adamw_8bit, \
         paged_lion_32bit, paged_lion_8bit, got the text \"adamw\"",
    ),
    ("  max_steps: 4", "  packing: 1", 8, "train.packing: expected true or false, got 1"),
    ("  max_steps: 4", "  memory_budget: lots", 8, "expected a size such as 2GiB"),
    ("  max_steps: 4", "  text_field: 3", 8, "train.text_field: expected text, got 3"),
    ("data: [text.txt]", "data: [text.txt, 3]", 6, "train.data[1]: expected text, got 3"),
    ("data: [text.txt]", "data: []", 6, "expected at least one, got an empty list"),
    ("  max_steps: 4", "  max_steps: 4\n  num_epochs: 2", 8, "`max_steps` cannot be used with `num_epochs`"),
    ("  max_steps: 4", "  batch_size: 1\n  per_device_train_batch_size: 2", 9, "is batch_size by another name"),
    ("  max_steps: 4", "  eval_steps: 1", 8, "`validation_split`"),
    ("  max_steps: 4", "  max_steps: 4\n  max_steps: 5", 9, "max_steps"),
    ("  - plugin: delhi", "  - plugin: [delhi]", 3, "surgery[0].plugin: expected text, got a list"),
    (
        "{mode: 4bit, group: 32}",
        "{mode: [4bit]}",
        4,
        "surgery[0].options.mode: expected text, a number, true or false, got a list",
    ),
    ("output: out", "output: !path out", 12, "output: expected a path, got the tag !path"),
];

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let house = house(&[]);
    let before = house.names().len();
    for (from, to, line, says) in WRONG {
        fs::write(house.path("wrong.yaml"), changed(from, to)).unwrap();
        let outcome = house.run(&["run", "wrong.yaml", "--dry-run"]);
        assert_eq!(outcome.status.code(), Some(2), "{to}");
        let said = &outcome.stderr;
        assert!(said.contains(says), "{to}: {said}");
        if !says.is_empty() {
            assert!(said.contains(&format!("wrong.yaml:{line}: ")), "{to}: expected line {line}: {said}");
        }
        assert_eq!(house.names().len(), before + 1, "{to}: something was written");
    }
    let bomb = format!("model: {}", "[".repeat(100_000));
    for (text, says) in [
        ("", "expected keys and values, got nothing"),
        ("- 1", "got a list"),
        ("a: b: c", "wrong.yaml:1: "),
        (&bomb, "brackets"),
    ] {
        fs::write(house.path("wrong.yaml"), text).unwrap();
        let outcome = house.run(&["run", "wrong.yaml"]);
        assert!(outcome.code(2).contains(says), "{text:.40}: {}", outcome.stderr);
    }
    let missing = house.run(&["run", "nothing.yaml"]);
    assert!(missing.code(2).contains("nothing.yaml: cannot read it"), "{}", missing.stderr);
}

/// Recipes that are in order, beside those of `manifests/`.
fn sound() -> Vec<String> {
    let more = |line: &str| changed("  lora_r: 4", line);
    vec![
        RECIPE.to_owned(),
        more("  memory_budget: 2GiB"),
        more("  memory_budget: 4000000000"),
        more("  report_to: [jsonl, tensorboard]\n  lora_alpha: 16"),
        more("  optim: paged_adamw_8bit\n  optim_memory_budget: 1MiB\n  offload_folder: ."),
        more("  packing: false\n  overlap: 3"),
        more("  lora_r: 4\n  rank_pattern: {q_proj: 2}\n  dtype: bf16"),
        changed("learning_rate: 1e-2\n  lora_r: 4", "lr: 1e-2\n  lora_rank: 4\n  grad_accum: 2"),
        more("  optim: lion_8bit\n  batch_size: 2\n  no_shuffle: true"),
        changed("[text.txt]", "text.txt"),
        changed("    options: {mode: 4bit, group: 32}\n", ""),
    ]
}

#[test]
fn the_schema_and_the_program_agree() {
    let house = house(&[]);
    fs::write(house.path("schema.json"), house.run(&["schema"]).ok()).unwrap();
    // The schema does not say that one key needs another, and its YAML reader takes the last of two equal keys.
    let is_of_schema = |to: &str| !to.contains("eval_steps") && !to.ends_with("max_steps: 5");
    // To YAML 1.1, which that reader reads, 1e-2 is text.
    let plain = |text: String| text.replace("1e-2", "0.01").replace("!path out", "[out]");
    let wrong = WRONG.iter().filter(|(_, to, _, _)| is_of_schema(to)).map(|(from, to, _, _)| changed(from, to));
    let cases: Vec<(String, bool)> =
        sound().into_iter().map(|text| (text, true)).chain(wrong.map(|text| (text, false))).collect();
    let mut paths: Vec<PathBuf> = Vec::new();
    for (index, (text, is_sound)) in cases.iter().enumerate() {
        let name = format!("case-{index}.yaml");
        let text = plain(text.clone()).replace("{}", "model: {}");
        fs::write(house.path(&name), &text).unwrap();
        let outcome = house.run(&["run", &name, "--dry-run"]);
        assert_eq!(outcome.status.code(), Some(if *is_sound { 0 } else { 2 }), "{text}\n{}", outcome.stderr);
        paths.push(house.path(&name));
    }
    let verdicts = verdicts(&house.path("schema.json"), &paths);
    for ((text, is_sound), verdict) in cases.iter().zip(&verdicts) {
        assert_eq!(verdict.is_null(), *is_sound, "{text}\n{verdict}");
    }
}

fn verdicts(schema: &Path, documents: &[PathBuf]) -> Vec<Value> {
    let read = python("peers/recipe_schema.py").arg(schema).args(documents).outcome();
    let verdicts: Vec<Value> = serde_json::from_str(read.ok()).expect("the reader prints JSON");
    assert_eq!(verdicts.len(), documents.len());
    verdicts
}

/// What makes each recipe of `manifests/` short enough for a test. A recipe that is not here fails it.
const SHORT: &[(&str, &[&str])] = &[
    ("chat-packed.yaml", &["--max-steps", "2"]),
    ("delhi-shakespeare.yaml", &["--max-steps", "2", "--block-size", "64"]),
    ("lora-shakespeare.yaml", &["--max-steps", "2", "--block-size", "32", "--validation-split", "0.0001"]),
];

#[test]
fn every_recipe_of_the_repository_runs_by_its_first_line() {
    let house = house(&[]);
    cached("shakespeare", "data/shakespeare");
    cached("smollm2", "models/SmolLM2-135M-Instruct/model.safetensors");
    let manifests = workspace_root().join("manifests");
    symlink(&manifests, house.path("manifests")).unwrap();
    symlink(cache_dir(), house.path(".cache")).unwrap();
    fs::write(house.path("schema.json"), house.run(&["schema"]).ok()).unwrap();
    let recipes: Vec<String> = names(&manifests).into_iter().filter(|name| name.ends_with(".yaml")).collect();
    assert_eq!(recipes, SHORT.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (name, short) in SHORT {
        let text = fs::read_to_string(manifests.join(name)).unwrap();
        let command =
            text.lines().next().and_then(|line| line.strip_prefix("# unswag ")).expect("a command comes first");
        assert_eq!(command, format!("run manifests/{name}"));
        let args: Vec<&str> = command.split(' ').chain(short.iter().copied()).collect();
        house.run(&[&args[..], &["--dry-run"]].concat()).ok();
        let report = house.json(&args);
        assert_eq!(report["steps"], 2, "{name}");
        assert!(house.path("runs").join(name.trim_end_matches(".yaml")).join("adapter").is_dir(), "{name}");
    }
    let paths: Vec<PathBuf> = recipes.iter().map(|name| manifests.join(name)).collect();
    let verdicts = verdicts(&house.path("schema.json"), &paths);
    assert!(verdicts.iter().all(Value::is_null), "{verdicts:?}");
}

/// A change to [`RECIPE`] that training refuses, and what is said of it.
const UNTRAINABLE: &[(&str, &str, &str)] = &[
    ("[text.txt]", "[nothing.txt]", "nothing.txt: no such file"),
    ("[text.txt]\n", "[rows.jsonl]\n  chat: true\n", "rows.jsonl:2"),
    ("  max_steps: 4\n", "  max_steps: 4\n  memory_budget: 1KiB\n", "does not fit"),
    ("learning_rate: 1e-2", "learning_rate: -1.0", "learning_rate: expected a number"),
    ("lora_r: 4", "lora_r: 0", "expected 1 to 65536"),
    ("[q_proj, down_proj]", "[no_such_layer]", "no_such_layer"),
];

#[test]
fn what_training_refuses_is_refused_before_surgery() {
    let house = house(&[]);
    let row = r#"{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}"#;
    fs::write(house.path("rows.jsonl"), format!("{row}\nnot JSON\n")).unwrap();
    let template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
    fs::write(house.path("model/chat_template.jinja"), template).unwrap();
    let refused = |name: &str, says: &str| {
        let outcome = house.run(&["run", name]);
        assert!(outcome.code(2).contains(says), "{says}: {}", outcome.stderr);
        assert_eq!(outcome.stderr.matches("error:").count(), 1, "{}", outcome.stderr);
        assert!(!house.path("out").exists(), "{says}: surgery was done");
    };
    for (from, to, says) in UNTRAINABLE {
        fs::write(house.path("wrong.yaml"), changed(from, to)).unwrap();
        refused("wrong.yaml", says);
    }
    // The refusal is the answer's JSON, too.
    let page = house.run(&["run", "wrong.yaml", "--json"]);
    let page: Value = serde_json::from_str(&page.stdout).expect("one JSON document");
    assert!(page["error"].as_str().unwrap().contains("no_such_layer"), "{page}");
    fs::write(house.path("recipe.yaml"), RECIPE).unwrap();
    fs::remove_file(house.path("model/tokenizer.json")).unwrap();
    refused("recipe.yaml", "tokenizer.json");
}

#[test]
fn an_earlier_run_is_refused_before_surgery_and_replaced_by_force() {
    let house = house(&[("recipe.yaml", RECIPE), ("other.yaml", &changed("4bit", "8bit"))]);
    house.run(&["run", "recipe.yaml", "--save-steps", "2"]).ok();
    let patched = || fs::metadata(house.path("out/patched/model.safetensors")).unwrap().ino();
    let before = patched();
    let refused = house.run(&["run", "other.yaml"]);
    assert!(refused.code(2).contains("replace it with --force"), "{}", refused.stderr);
    assert_eq!(patched(), before);

    fs::write(house.path("out/notes.txt"), "mine").unwrap();
    house.run(&["run", "other.yaml", "--force", "--max-steps", "1"]).ok();
    assert_eq!(names(&house.path("out")), ["adapter", "checkpoint-1", "metrics.jsonl", "notes.txt", "patched"]);
    assert!(fs::read_to_string(house.path("out/patched/unswag.yaml")).unwrap().contains("mode: 8bit"));
    // One line: the first run's are gone.
    assert_eq!(fs::read_to_string(house.path("out/metrics.jsonl")).unwrap().lines().count(), 1);

    // A file that no run wrote is not removed with a folder that one did.
    fs::write(house.path("out/adapter/notes.txt"), "mine").unwrap();
    let refused = house.run(&["run", "other.yaml", "--force", "--max-steps", "1"]);
    assert!(refused.code(2).contains("notes.txt"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(house.path("out/metrics.jsonl")).unwrap().lines().count(), 1);

    // Nor is the model rewritten for a training that would be refused.
    let patched = || fs::metadata(house.path("out/patched/model.safetensors")).unwrap().ino();
    let before = patched();
    let force = ["run", "recipe.yaml", "--force"];
    let resume = ["run", "recipe.yaml", "--resume-from-checkpoint", "auto"];
    for (args, more, said) in [
        (&force[..], &[][..], "contains notes.txt, which is not part of an adapter"),
        (&resume, &[], "contains notes.txt, which is not part of an adapter"),
        (&force, &["--load-best-model-at-end"], "--eval-steps"),
    ] {
        let refused = house.run(&[args, more].concat());
        assert!(refused.code(2).contains(said), "{}", refused.stderr);
        assert_eq!(patched(), before, "{said}");
    }
    assert!(fs::read_to_string(house.path("out/patched/unswag.yaml")).unwrap().contains("mode: 8bit"));
}

#[test]
fn a_dry_run_counts_data_and_steps_whether_or_not_surgery_was_done() {
    let house = house(&[("recipe.yaml", &changed("  max_steps: 4", "  num_epochs: 1"))]);
    let dry_run = |more: &[&str]| {
        let mut page = house.json(&[&["run", "recipe.yaml", "--dry-run"], more].concat());
        // What else runs on the machine changes it.
        page.as_object_mut().unwrap().remove("available_bytes").expect("it is said");
        page
    };
    let pending = dry_run(&[]);
    assert!(pending["steps"].as_u64().unwrap() > 4 && pending["epoch"]["rows"].as_u64().unwrap() > 4, "{pending}");
    house.run(&["run", "recipe.yaml", "--max-steps", "1"]).ok();
    assert_eq!(dry_run(&["--force"]), pending);
    // It refuses what the run would refuse.
    let refused = house.run(&["run", "recipe.yaml", "--dry-run"]);
    assert!(refused.code(2).contains("replace it with --force"), "{}", refused.stderr);
}

#[test]
fn a_step_that_cannot_be_opened_is_told_with_its_line() {
    let house = house(&[]);
    for (from, to, line, says) in [
        ("plugin: delhi", "plugin: dehli", 3, "surgery[0].plugin: "),
        ("plugin: delhi", "plugin: ./nothing.so", 3, "surgery[0].plugin: "),
        ("{mode: 4bit, group: 32}", "{mode: 5bit}", 4, "surgery[0].options.mode: protocol delhi: option mode"),
        (
            "{mode: 4bit, group: 32}",
            "\n      mode: 4bit\n      grop: 32",
            6,
            "surgery[0].options.grop: protocol delhi has no option `grop`",
        ),
    ] {
        fs::write(house.path("wrong.yaml"), changed(from, to)).unwrap();
        for command in ["run", "plan"] {
            let outcome = house.run(&[command, "wrong.yaml"]);
            let expected = format!("wrong.yaml:{line}: {says}");
            assert!(outcome.code(2).contains(&expected), "{expected}: {}", outcome.stderr);
        }
    }
    let many =
        changed("  - plugin: delhi\n    options: {mode: 4bit, group: 32}\n", &"  - plugin: delhi\n".repeat(10_000));
    fs::write(house.path("wrong.yaml"), many).unwrap();
    let outcome = house.run(&["run", "wrong.yaml"]);
    assert!(outcome.code(2).contains("wrong.yaml:3: surgery: expected at most 64 steps"), "{}", outcome.stderr);
    std::process::Command::new("mkfifo").arg(house.path("pipe.yaml")).outcome().ok();
    let outcome = house.run(&["run", "pipe.yaml"]);
    assert!(outcome.code(2).contains("expected a file, found a named pipe"), "{}", outcome.stderr);
}

/// `UNSWAG_WRITE_PAGES=1` rewrites it.
#[test]
fn the_page_of_recipe_keys_is_what_the_program_prints() {
    let house = House::without_plugins();
    let printed = house.run(&["schema", "--markdown"]).ok().to_owned();
    let page = workspace_root().join("docs/recipes.md");
    if std::env::var_os("UNSWAG_WRITE_PAGES").is_some() {
        fs::write(&page, &printed).unwrap();
    }
    let tracked = fs::read_to_string(&page).unwrap_or_default();
    assert!(tracked == printed, "docs/recipes.md is out of date: `unswag schema --markdown >docs/recipes.md`");
    // Every key of the schema is on the page, aliases too.
    let schema = house.json(&["schema"]);
    for key in schema["properties"]["train"]["properties"].as_object().unwrap().keys() {
        assert!(printed.contains(&format!("`{key}`")), "{key}");
    }
}
