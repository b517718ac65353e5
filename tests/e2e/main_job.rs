//! The main job, on a real checkpoint, seen from every side; then every kind of edit on tiny ones.

use std::{fs, path::Path};

use serde_json::Value;
use unswag_tests::{Base, Family, Run, python, smollm2_gguf};

use crate::house::{House, assert_same_files, names};

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn smollm2_is_operated_on_and_is_the_same_model_in_transformers() {
    let house = House::new();
    house.run(&["import", smollm2_gguf().to_str().unwrap(), "-o", "base"]).ok();
    let base = Base::guard(house.path("base"));

    let dry = house.run(&["surgery", "--plugin", "delhi", "base", "-o", "out", "--dry-run"]);
    assert!(dry.ok().contains("nothing was written"), "{}", dry.stdout);
    assert!(!house.path("out").exists());

    let done = house.run(&["surgery", "--plugin", "delhi", "base/model.safetensors", "-o", "out"]);
    assert!(done.ok().contains("30 nodes rewritten (swiglu -> delhi.swiglu)"), "{}", done.stdout);
    assert!(done.stdout.contains("-30.6 %"), "{}", done.stdout);
    assert!(!done.stdout.contains("lossy"), "mode exact loses nothing: {}", done.stdout);

    let out = house.path("out");
    let mut expected = names(base.path());
    expected.push("unswag.yaml".to_owned());
    expected.sort();
    assert_eq!(names(&out), expected);
    assert!(text(&out.join("unswag.yaml")).contains("delhi.swiglu"));
    house.run(&["verify", "--base", "out"]).ok();
    python("peers/same_logits.py").arg(base.path()).arg(&out).outcome().ok();

    let differs = house.run(&["diff", "base", "out"]);
    differs.code(1);
    assert_eq!(
        differs.stdout.trim_end(),
        "~ model.layers.{0..29}.mlp.act_fn  swiglu -> delhi.swiglu {mode: exact}",
        "thirty equal changes are one line"
    );

    // The result needs no plugin to be looked at, checked and taken back.
    house.run(&["plugin", "remove", "delhi"]).ok();
    let page = house.json(&["inspect", "out"]);
    assert_eq!(page["totals"]["parameters"], 134_515_008);
    assert!((page["totals"]["saved_bytes_per_token"].as_f64().unwrap() - 418_604.0).abs() < 1.0);
    house.run(&["verify", "out"]).ok();
    house.run(&["undo", "out"]).ok();
    assert_same_files(&out, base.path());
}

#[test]
fn a_lossy_mode_says_so_in_print_in_the_record_and_in_inspect() {
    let house = House::new();
    let base = Base::guard(house.tiny(Family::Llama, "base"));
    let sentence = "in the backward, 2 gated MLPs see gate and up rounded to 2 bits";
    let done = house.run(&["surgery", "-p", "delhi:mode=2bit", "base", "-o", "out"]);
    assert!(done.ok().contains("lossy:") && done.stdout.contains(sentence), "{}", done.stdout);
    assert!(text(&house.path("out/unswag.yaml")).contains(sentence));
    assert!(house.run(&["inspect", "out"]).ok().contains(sentence));
    python("peers/same_logits.py").arg(base.path()).arg(house.path("out")).outcome().ok();
}

#[test]
fn every_family_is_inspected_and_those_with_gated_mlps_are_operated_on() {
    use Family::*;
    let house = House::new();
    for family in [Llama, Mistral, Qwen2, Qwen3, Gemma, Gemma2, Gemma3, Opt, Gpt2] {
        let name = format!("{family:?}");
        let base = Base::guard(house.tiny(family, &name));
        let page = house.json(&["inspect", &name]);
        assert_eq!(page["unclaimed"], Value::Array(vec![]), "{name}");
        let out = format!("{name}-out");
        match family {
            Opt => {
                let refused = house.run(&["surgery", "-p", "delhi", &name, "-o", &out]);
                assert!(refused.code(2).contains("2 nodes of kind relu; try alpha"), "{}", refused.stderr);
            }
            Gpt2 => {
                house.run(&["surgery", "-p", "delhi:mode=2bit", &name, "-o", &out]).ok();
            }
            _ => {
                house.run(&["surgery", "-p", "delhi", &name, "-o", &out]).ok();
                house.run(&["verify", &out]).ok();
            }
        }
        drop(base);
    }
}

#[test]
fn a_block_is_replaced_by_a_composite_with_new_weights_and_taken_back() {
    let house = House::new();
    let base = Base::guard(house.tiny(Family::Llama, "base"));
    let done = house.run(&["surgery", "-p", "composite", "base", "-o", "out", "--diff"]);
    assert!(done.ok().contains("the model computes something else now"), "{}", done.stdout);
    assert!(done.stdout.contains("kv_down.weight"), "{}", done.stdout);

    // transformers must refuse it: it would draw the missing weights at random.
    let config: Value = serde_json::from_str(&text(&house.path("out/config.json"))).unwrap();
    assert_eq!(config["model_type"], "unswag_llama");
    assert_eq!(config.get("architectures"), None);
    let opened = python("peers/same_logits.py").arg(base.path()).arg(house.path("out")).outcome();
    assert!(!opened.status.success(), "transformers opened a model that it cannot compute");

    // Without the plugin: looked at, checked, operated on again, and taken back step by step.
    house.run(&["plugin", "remove", "composite"]).ok();
    house.run(&["verify", "out"]).ok();
    let graph: Value = serde_json::from_str(house.run(&["inspect", "out", "--graph"]).ok()).unwrap();
    assert_eq!(graph["cache"].as_array().map(Vec::len), Some(2), "one slot a layer");
    assert!(!graph["losses"].as_array().unwrap().is_empty());
    assert_eq!(graph["params"].get("model.layers.0.self_attn.k_proj.weight"), None);

    house.run(&["surgery", "-p", "delhi", "out", "-o", "both"]).ok();
    house.run(&["verify", "both"]).ok();
    house.run(&["undo", "both"]).ok();
    house.run(&["diff", "out", "both"]).ok();
    house.run(&["undo", "both"]).ok();
    assert_same_files(&house.path("both"), base.path());
}

#[test]
fn a_full_rank_factorisation_multiplies_back_to_the_weights() {
    let house = House::new();
    let base = Base::guard(house.tiny(Family::Llama, "base"));
    house.run(&["surgery", "-p", "composite", "base", "-o", "out"]).ok();
    // At full rank the base and the output are one matrix product apart; bf16 rounds each factor to 8 bits.
    let script = "peers/factorised.py";
    python(script).arg(base.path()).arg(house.path("out")).outcome().ok();
}

#[test]
fn a_transform_job_of_the_plugin_makes_the_weights() {
    let house = House::new();
    let base = Base::guard(house.tiny(Family::Llama, "base"));
    house.run(&["surgery", "-p", "transform", "base", "-o", "out"]).ok();
    house.run(&["verify", "--base", "out"]).ok();
    let changed = house.run(&["diff", "base", "out", "--weights"]);
    changed.code(1);
    assert!(changed.stdout.contains("up_proj.weight  other data"), "{}", changed.stdout);
    house.run(&["undo", "out"]).ok();
    assert_same_files(&house.path("out"), base.path());
}

#[test]
fn a_base_that_moved_is_found_by_the_user_and_another_is_refused() {
    let house = House::new();
    house.tiny(Family::Llama, "base");
    house.run(&["surgery", "-p", "composite", "base", "-o", "out"]).ok();
    fs::rename(house.path("base"), house.path("moved")).unwrap();
    let lost = house.run(&["undo", "out"]);
    assert!(lost.code(2).contains("pass --base PATH if it moved"), "{}", lost.stderr);

    unswag_tests::Tiny { seed: 99, ..unswag_tests::Tiny::new(Family::Llama) }.write(&house.path("other"));
    let other = house.run(&["undo", "out", "--base", "other"]);
    assert!(other.code(2).contains("it is not the checkpoint that was operated on"), "{}", other.stderr);
    house.run(&["verify", "out"]).ok();
    house.run(&["undo", "out", "--base", "moved"]).ok();
    assert_same_files(&house.path("out"), &house.path("moved"));
}

#[test]
fn shards_that_nothing_touches_come_over_whole_and_the_index_follows() {
    let house = House::new();
    let tiny = unswag_tests::Tiny { shards: 3, ..unswag_tests::Tiny::new(Family::Llama) };
    tiny.write(&house.path("base"));
    let base = Base::guard(house.path("base"));
    let page = house.json(&["surgery", "-p", "composite", "base", "-o", "out"]);
    let files = page["output"]["files"].as_array().unwrap();
    let how = |name: &str| files.iter().find(|file| file["name"] == name).map(|file| file["how"].clone());
    assert!(files.iter().any(|file| file["how"] == "written" && file["name"].as_str().unwrap().contains("unswag")));
    assert_eq!(how("model.safetensors.index.json"), Some("written".into()));
    house.run(&["verify", "out"]).ok();
    house.run(&["surgery", "-p", "delhi", "base", "-o", "plain"]).ok();
    python("peers/same_logits.py").arg(base.path()).arg(house.path("plain")).outcome().ok();
}
