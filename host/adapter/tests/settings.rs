//! What of PEFT's settings is taken, and that no other passes in silence: every setting that the installed PEFT has is tried.

use std::{collections::BTreeSet, fs, path::Path};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value as Json, json};
use tempfile::TempDir;
use unswag_adapter::Adapter;
use unswag_tests::{Run, python};

const MODULE: &str = "base_model.model.model.layers.0.self_attn.q_proj";

/// The tensors of an adapter of rank 4 on one layer of 6 inputs and 5 outputs.
fn write_tensors(folder: &Path) {
    let zeros = [0u8; 4 * 6 * 4];
    let tensor = |shape: [usize; 2]| {
        TensorView::new(Dtype::F32, shape.into(), &zeros[..4 * shape[0] * shape[1]]).expect("its bytes")
    };
    let tensors =
        [(format!("{MODULE}.lora_A.weight"), tensor([4, 6])), (format!("{MODULE}.lora_B.weight"), tensor([5, 4]))];
    safetensors::serialize_to_file(tensors, None, &folder.join("adapter_model.safetensors")).expect("written");
}

/// What is said of the adapter with these settings.
fn opened(folder: &Path, config: &Map<String, Json>) -> Result<Adapter, String> {
    fs::write(folder.join("adapter_config.json"), serde_json::to_vec(config).expect("JSON")).expect("written");
    Adapter::open(folder).map_err(|error| error.to_string())
}

struct Peft {
    saved: Map<String, Json>,
    fields: Vec<String>,
}

fn peft(folder: &Path) -> Peft {
    let out = folder.join("peft.json");
    python("peers/peft_config.py").arg(&out).outcome().ok();
    let page: Json = serde_json::from_slice(&fs::read(out).expect("written")).expect("JSON");
    let saved = page["saved"].as_object().expect("settings").clone();
    Peft { saved, fields: serde_json::from_value(page["fields"].clone()).expect("names") }
}

#[test]
fn every_setting_of_peft_is_computed_or_without_effect_or_refused_by_name() {
    let temp = TempDir::new().expect("a folder");
    write_tensors(temp.path());
    let peft = peft(temp.path());
    let plain = opened(temp.path(), &peft.saved).expect("what PEFT writes for plain LoRA");
    assert_eq!((plain.modules().len(), plain.modules()[0].scale), (1, 2.0));

    // In use, by whatever type the setting has: text, a number, a list or more settings.
    let in_use = [json!(true), json!("all"), json!(3), json!([7]), json!({"x": 1})];
    let mut taken = BTreeSet::new();
    let computed = ["peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "fan_in_fan_out"];
    for field in peft.fields.iter().filter(|field| !computed.contains(&field.as_str())) {
        for value in &in_use {
            let mut config = peft.saved.clone();
            config.insert(field.clone(), value.clone());
            match opened(temp.path(), &config) {
                Ok(_) => drop(taken.insert((field.as_str(), value.is_boolean()))),
                Err(error) => {
                    assert!(error.contains(&format!("adapter_config.json: {field}: expected")), "{error}");
                }
            }
        }
    }
    let always = |field: &&str| taken.contains(&(*field, true)) && taken.contains(&(*field, false));
    let names: BTreeSet<&str> = taken.iter().map(|(field, _)| *field).collect();
    let found: Vec<&str> = names.iter().copied().filter(always).collect();
    // A name that PEFT gains is refused until somebody has looked at what it does, and joins this list.
    let without_effect = "auto_mapping base_model_name_or_path corda_config eva_config exclude_modules inference_mode \
        layers_pattern layers_to_transform loftq_config lora_dropout lora_ga_config megatron_core peft_version \
        qalora_group_size revision runtime_config target_modules task_type";
    assert_eq!(found, without_effect.split_whitespace().collect::<Vec<_>>());
    // True and false are PEFT's ordinary first values; of the others each has a name.
    assert_eq!(names.iter().filter(|name| !always(name)).collect::<Vec<_>>(), [&"init_lora_weights"]);
}

#[test]
fn settings_that_no_list_knows_are_refused_where_they_are_in_use() {
    let temp = TempDir::new().expect("a folder");
    write_tensors(temp.path());
    let sound = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8});
    let with = |name: &str, value: Json| {
        let mut config = sound.as_object().expect("settings").clone();
        config.insert(name.to_owned(), value);
        opened(temp.path(), &config)
    };
    for unused in [json!(null), json!(false), json!([]), json!({}), json!("none")] {
        with("lora_of_tomorrow", unused).expect("nobody asked for it");
    }
    for used in [json!(true), json!(0.5), json!("all"), json!([1]), json!({"x": null})] {
        let error = with("lora_of_tomorrow", used.clone()).expect_err("it may change everything");
        assert!(error.contains("lora_of_tomorrow") && error.contains("let PEFT merge it"), "{error}");
        assert!(error.ends_with(&format!("got {used}")), "{error}");
    }
    for taken in ["gaussian", "eva", "orthogonal"] {
        with("init_lora_weights", json!(taken)).expect("the base stays as it is");
    }
    for refused in ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "mica"] {
        let error = with("init_lora_weights", json!(refused)).expect_err("the base was changed");
        assert!(error.contains("leaves the base's weights as they are"), "{error}");
    }
    let error = with("r", json!(8)).expect_err("PEFT would make other tensors of it");
    assert!(error.contains("expected [8, 6], for the config's r is 8, got [4, 6]"), "{error}");
}
