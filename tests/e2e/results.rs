//! What a command says and leaves where there is no result: numbers that are not finite, too little memory, a place that must not change,
//! a signal that comes too early.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use serde_json::{Value, json};
use unswag_tests::{Base, Family, Outcome, Run, unswag, unswag_torch, workspace_root};

use crate::{house::House, train::train};

/// A safetensors file's header, and where its tensors' bytes begin.
fn header(file: &[u8]) -> (serde_json::Map<String, Value>, usize) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&file[8..8 + length]).unwrap(), 8 + length)
}

/// A copy of the house's model whose bf16 tensor of this name begins with these elements.
fn with_elements(house: &House, name: &str, tensor: &str, elements: &[u16]) {
    let (from, to) = (house.path("model"), house.path(name));
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let path = to.join("model.safetensors");
    let mut file = fs::read(&path).unwrap();
    let (header, data) = header(&file);
    let begin = data + header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    for (at, element) in elements.iter().enumerate() {
        file[begin + 2 * at..][..2].copy_from_slice(&element.to_le_bytes());
    }
    fs::write(path, file).unwrap();
}

/// The JSON that a command printed beside its status 2.
fn failed(outcome: &Outcome) -> Value {
    assert_eq!(outcome.status.code(), Some(2), "{}{}", outcome.stdout, outcome.stderr);
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {}", outcome.stdout))
}

const NAN: u16 = 0x7fc0;
const INFINITY: u16 = 0x7f80;
/// The largest finite bf16.
const LARGEST: u16 = 0x7f7f;

#[test]
fn a_result_that_is_not_finite_ends_with_2_and_names_the_tensor_or_the_row() {
    unswag_torch();
    let house = House::new();
    house.tiny(Family::Llama, "model");
    house.text();
    let gate = "model.layers.0.mlp.gate_proj.weight";
    with_elements(&house, "nan", gate, &[NAN]);
    with_elements(&house, "infinite", "model.embed_tokens.weight", &vec![INFINITY; 256 * 64]);
    // Every weight is finite, and no logit is.
    with_elements(&house, "overflowing", "model.norm.weight", &[LARGEST; 64]);
    let data = ["--data", "text.txt", "--block-size", "48"];

    let said = house.run(&[&["eval", "nan"], &data[..]].concat());
    assert!(said.code(2).contains(gate) && said.stderr.contains("row 1"), "{}", said.stderr);
    assert!(!said.stdout.contains("NaN"), "{}", said.stdout);
    let page = failed(&house.run(&[&["eval", "infinite", "--json"], &data[..]].concat()));
    assert_eq!((&page["loss"], &page["perplexity"]), (&Value::Null, &Value::Null));
    assert!(page["error"].as_str().unwrap().contains("model.embed_tokens.weight"), "{page}");
    let said = house.run(&[&["eval", "overflowing", "--batch-size", "3"], &data[..]].concat());
    assert!(said.code(2).contains("rows 1 to 3") && said.stderr.contains("every weight is finite"), "{}", said.stderr);

    let fidelity = ["fidelity", "nan", "-p", "delhi:mode=4bit", "--rows", "1"];
    let said = house.run(&[&fidelity[..], &data].concat());
    assert!(said.code(2).contains(gate) && !said.stdout.contains("cosine"), "{}{}", said.stdout, said.stderr);

    let full = ["--max-steps", "3", "--save-steps", "0", "--full-finetuning"];
    let common = ["train", "overflowing", "--data", "text.txt", "--block-size", "48", "-o", "run"];
    let outcome = house.run(&[&common[..], &full].concat());
    assert!(outcome.code(2).contains("no step of 3 updated a weight"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("-0.0000") && !house.path("run/model").exists(), "{}", outcome.stderr);
    let lora = ["train", "nan", "--data", "text.txt", "--block-size", "48", "--max-steps", "2", "-o", "lora", "--json"];
    let page = failed(&house.run(&lora));
    assert_eq!((&page["train_loss"], &page["last_loss"]), (&Value::Null, &Value::Null));
    assert!(page["error"].as_str().unwrap().contains(gate), "{page}");
    assert!(!house.path("lora/adapter").exists());
}

/// Files without blocks: terabytes that take some kilobytes on the disk.
fn sparse_model(house: &House, name: &str, vocabulary: u64) {
    with_elements(house, name, "model.norm.weight", &[]);
    let folder = house.path(name);
    let mut config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    config["vocab_size"] = vocabulary.into();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let (mut tensors, _) = header(&fs::read(folder.join("model.safetensors")).unwrap());
    tensors.remove("__metadata__");
    let mut end = 0;
    for (tensor, entry) in &mut tensors {
        if tensor.contains("embed_tokens") || tensor.contains("lm_head") {
            entry["shape"][0] = vocabulary.into();
        }
        let elements: u64 = entry["shape"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap()).product();
        entry["data_offsets"] = json!([end, end + 2 * elements]);
        end += 2 * elements;
    }
    let mut text = Value::Object(tensors).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let path = folder.join("model.safetensors");
    fs::write(&path, [&(text.len() as u64).to_le_bytes()[..], &text].concat()).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(8 + text.len() as u64 + end).unwrap();
}

#[test]
fn a_model_larger_than_memory_is_refused_before_a_weight_is_read() {
    let house = crate::train::house();
    sparse_model(&house, "huge", 1 << 34);
    let data = ["--data", "text.txt", "--block-size", "32"];
    for args in [
        &["generate", "huge", "--prompt", "a"][..],
        &[&["eval", "huge"], &data[..]].concat(),
        &[&["train", "huge", "-o", "run", "--max-steps", "1"], &data[..]].concat(),
    ] {
        let outcome = house.run(args);
        let said = outcome.code(2);
        assert!(said.contains("the weights take") && said.contains("this machine has"), "{args:?}: {said}");
    }
    assert!(!house.path("run").exists());

    // A limit of this process's own, on a model that the machine has room for: 8 GiB of address space, 12 GiB of weights.
    sparse_model(&house, "large", 3 << 25);
    let limited = |args: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -v 8388608; exec \"$0\" \"$@\""]).arg(unswag()).args(args);
        command.current_dir(house.path("")).outcome()
    };
    let said = limited(&[&["eval", "large"], &data[..]].concat());
    assert!(said.code(2).contains("the weights take"), "{}", said.stderr);
    let dry = ["train", "model", "--data", "text.txt", "--block-size", "4000000", "-o", "run", "--dry-run"];
    let said = limited(&dry);
    assert!(said.ok().contains("a step does not fit"), "{}", said.stdout);
    let page = limited(&[&dry[..], &["--json"]].concat());
    let page: Value = serde_json::from_str(page.ok()).unwrap();
    assert_eq!(page["fits_in_memory"], false, "{page}");
    assert!(page["available_bytes"].as_u64().unwrap() < page["planned_growth_bytes"].as_u64().unwrap(), "{page}");
    documented(&page);
}

#[test]
fn an_output_inside_the_base_makes_nothing_there() {
    unswag_torch();
    let house = House::new();
    house.tiny(Family::Llama, "model");
    house.text();
    house.run(&["surgery", "-p", "delhi", "model", "-o", "patched"]).ok();
    let recipe =
        "model: model\nsurgery: [{plugin: delhi}]\ntrain: {data: [text.txt], max_steps: 1}\noutput: model/out\n";
    fs::write(house.path("recipe.yaml"), recipe).unwrap();
    std::os::unix::fs::symlink(house.path("model"), house.path("link")).unwrap();
    let base = Base::guard(house.path("model"));
    for output in ["model/run", "model/a/b", "model/../model/run", "none/../model/run", "link/run"] {
        let outcome = house.run(&train(output, &["--max-steps", "1"]));
        assert!(outcome.code(2).contains("lies inside the base"), "{output}: {}", outcome.stderr);
    }
    // What surgery rewrote has a base, too.
    let args = ["train", "patched", "--data", "text.txt", "--max-steps", "1", "-o", "model/run"];
    assert!(house.run(&args).code(2).contains("lies inside the base"));
    assert!(house.run(&["run", "recipe.yaml"]).code(2).contains("lies inside the base"));
    assert!(!house.path("none").exists());
    drop(base);
}

/// `unswag` blocks both signals before it becomes the other program, so that none is lost in between.
#[test]
fn a_signal_that_comes_while_unswag_becomes_unswag_torch_stops_the_run() {
    let house = crate::train::house();
    // In the place of the program: it is sent the signal while it starts, and becomes the program with the signal pending.
    let script = house.path("torch.sh");
    let text = format!("#!/bin/sh\nkill -s $SIGNAL $$\necho started >&2\nexec {} \"$@\"\n", unswag_torch().display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    for signal in ["INT", "TERM"] {
        let mut command = house.command(&train("run", &["--max-steps", "3"]));
        let outcome = command.env("UNSWAG_TORCH", &script).env("SIGNAL", signal).outcome();
        assert_eq!(outcome.status.code(), Some(130), "{signal}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("started") && !house.path("run").exists(), "{signal}: {}", outcome.stderr);
    }
}

#[test]
fn doctor_says_of_libtorch_what_unswag_torch_uses() {
    unswag_torch();
    let house = House::without_plugins();
    let findings = |program: Option<&Path>| {
        let mut command = house.command(&["doctor", "--json"]);
        command.env_clear().env("HOME", house.path(""));
        program.map(|program| command.env("UNSWAG_TORCH", program));
        let page: Value = serde_json::from_str(command.outcome().ok()).unwrap();
        let find =
            |item: &str| page["findings"].as_array().unwrap().iter().find(|found| found["item"] == item).cloned();
        [find("libtorch").unwrap(), find("unswag-torch").unwrap()]
    };
    // Nothing says where libtorch is, but the program that was built with it.
    let [libtorch, program] = findings(None);
    assert_eq!((&libtorch["present"], &program["present"]), (&true.into(), &true.into()), "{libtorch} {program}");
    assert!(program["found"].as_str().unwrap().contains(libtorch["found"].as_str().unwrap()), "{libtorch} {program}");
    let [libtorch, program] = findings(Some(&house.path("nothing")));
    assert_eq!((&libtorch["present"], &program["present"]), (&false.into(), &false.into()), "{libtorch} {program}");
}

/// Every field is defined in docs/metrics.md.
#[track_caller]
pub fn documented(page: &Value) {
    let text = fs::read_to_string(workspace_root().join("docs/metrics.md")).unwrap();
    let mut pages = vec![page];
    while let Some(page) = pages.pop() {
        match page {
            Value::Object(fields) => {
                for (field, value) in fields {
                    assert!(
                        text.contains(&format!("`{field}`")) || text.contains(&format!("`{field}[]`")),
                        "{field} is not in docs/metrics.md"
                    );
                    pages.push(value);
                }
            }
            Value::Array(items) => pages.extend(items),
            _ => {}
        }
    }
}
