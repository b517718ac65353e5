//! What of PEFT's settings is computed, and that no other passes in silence: every setting that the installed PEFT has is tried.

mod common;

use std::{collections::BTreeSet, fs, path::Path};

use common::{Case, PREFIX, Q, lora, plain};
use serde_json::{Map, Value as Json, json};
use unswag_tests::{Run, python};

/// An adapter of rank 4 on the first layer.
fn case() -> Case {
    Case::new(false, &lora(Q[0], 4, 6, 5))
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
    let case = Case::new(false, &[lora(Q[0], 4, 6, 5), lora(Q[1], 4, 6, 5)].concat());
    let peft = peft(case.temp.path());
    let saved = case.opened(&peft.saved).expect("what PEFT writes for plain LoRA");
    assert_eq!((saved.layers().len(), saved.layers()[0].scale), (2, 2.0));

    // In use, by whatever type the setting has: text, a number, a list or more settings.
    let in_use = [json!(true), json!("all"), json!(3), json!([7]), json!({"x": 1})];
    let mut taken = BTreeSet::new();
    // The tests below and those against PEFT try these with sense.
    let computed = "peft_type r lora_alpha use_rslora use_dora rank_pattern alpha_pattern target_modules exclude_modules \
        layers_to_transform layers_pattern modules_to_save";
    let computed: Vec<&str> = computed.split_whitespace().collect();
    for field in peft.fields.iter().filter(|field| !computed.contains(&field.as_str())) {
        for value in &in_use {
            let mut config = peft.saved.clone();
            config.insert(field.clone(), value.clone());
            match case.opened(&config) {
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
    let without_effect = "auto_mapping base_model_name_or_path corda_config ensure_weight_tying eva_config fan_in_fan_out \
        inference_mode loftq_config lora_dropout lora_ga_config megatron_core peft_version qalora_group_size revision \
        runtime_config task_type";
    assert_eq!(found, without_effect.split_whitespace().collect::<Vec<_>>());
    // True and false are PEFT's ordinary first values; of the others each has a name.
    assert_eq!(names.iter().filter(|name| !always(name)).collect::<Vec<_>>(), [&"init_lora_weights"]);
    for field in computed.iter().filter(|field| **field != "modules_to_save") {
        let mut config = peft.saved.clone();
        config.insert((*field).to_owned(), json!([[1]]));
        let error = case.opened(&config).expect_err("a value of no sense");
        assert!(error.contains(&format!("adapter_config.json: {field}: expected")), "{error}");
    }
}

#[test]
fn settings_that_no_list_knows_are_refused_where_they_are_in_use() {
    let case = case();
    let with = |name: &str, value: Json| {
        let mut config = plain();
        config.insert(name.to_owned(), value);
        case.opened(&config)
    };
    for unused in [json!(null), json!(false), json!([]), json!({}), json!("none")] {
        with("lora_of_tomorrow", unused).expect("it is not in use");
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
    let error = with("r", json!(8)).expect_err("PEFT would expect other tensors");
    assert!(error.contains("expected [8, 6], for the config's r is 8, got [4, 6]"), "{error}");
}

#[test]
fn the_settings_select_the_layers_that_have_tensors_or_the_adapter_is_refused() {
    let case = case();
    let first = Q[0];
    for selects_the_first in [
        json!({"target_modules": [first]}),
        json!({"target_modules": ["0.self_attn.q_proj"]}),
        json!({"target_modules": r"model\.layers\.0\..*"}),
        // Lookaround is Python's too.
        json!({"target_modules": r"(?!.*layers\.1).*q_proj"}),
        json!({"target_modules": ["q_proj"], "layers_to_transform": 0}),
        json!({"target_modules": ["q_proj"], "layers_to_transform": [0, 9], "layers_pattern": "layers"}),
        json!({"target_modules": ["q_proj"], "exclude_modules": ["1.self_attn.q_proj"]}),
        json!({"target_modules": ["q_proj", "lm_head"], "exclude_modules": r".*(1\.self_attn.q_proj|head)"}),
        json!({"target_modules": null}),
        json!({"layers_to_transform": [0], "exclude_modules": ["lm_head"]}),
    ] {
        let spec = case.with(selects_the_first.clone()).unwrap_or_else(|error| panic!("{selects_the_first}: {error}"));
        assert_eq!(spec.layers()[0].layer.path, first);
    }
    for (settings, expected) in [
        (
            json!({"target_modules": ["q_proj"]}),
            "layers.1.self_attn.q_proj.lora_A.weight: expected a tensor for each layer",
        ),
        (json!({"target_modules": "all-linear"}), "got no such tensor"),
        (json!({"target_modules": ["v_proj"]}), "PEFT would leave it out"),
        (json!({"target_modules": []}), "PEFT would leave it out"),
        (json!({"target_modules": ["q_proj"], "layers_to_transform": [1]}), "PEFT would leave it out"),
        (json!({"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": ["h"]}), "leave it out"),
        (json!({"target_modules": [first], "exclude_modules": ["self_attn.q_proj"]}), "PEFT would leave it out"),
        (json!({"target_modules": ".*", "layers_to_transform": [0]}), "layers_to_transform: expected no layers"),
        (json!({"target_modules": "(q_proj"}), "target_modules: expected a regular expression"),
        // Without targets the tensors say which layers have a LoRA; what rules a layer out counts all the same.
        (json!({"exclude_modules": ["q_proj"]}), "PEFT would leave it out"),
        (json!({"exclude_modules": ".*layers.0.*", "target_modules": null}), "PEFT would leave it out"),
        (json!({"layers_to_transform": [1]}), "PEFT would leave it out"),
        (json!({"layers_to_transform": [0], "layers_pattern": "blocks"}), "PEFT would leave it out"),
        // What would be matched for hours elsewhere.
        (json!({"target_modules": "(a|aa|.)*(?=x)(x+x+)+y"}), "expected"),
    ] {
        let error = case.with(settings.clone()).expect_err("refused");
        assert!(error.contains(expected), "{settings}: {error}");
    }
}

#[test]
fn ranks_and_alphas_by_pattern_are_those_of_peft() {
    let case = Case::new(false, &[lora(Q[0], 4, 6, 5), lora(Q[1], 2, 6, 5)].concat());
    let targets = json!(["q_proj"]);
    let scales = |settings: Json| {
        let mut settings = settings;
        settings["target_modules"] = targets.clone();
        let spec = case.with(settings)?;
        Ok::<_, String>(spec.layers().iter().map(|layer| (layer.r, layer.scale)).collect::<Vec<_>>())
    };
    let ranks = json!({"layers.1.self_attn.q_proj": 2});
    assert_eq!(scales(json!({"rank_pattern": ranks})), Ok(vec![(4, 2.0), (2, 4.0)]));
    // A regular expression for the end of a path; the first that matches counts.
    let alphas =
        json!({"rank_pattern": {r"1\..*q_proj": 2, "q_proj": 4}, "alpha_pattern": {"a_proj|q_proj": 2, Q[1]: 100}});
    assert_eq!(scales(alphas), Ok(vec![(4, 0.5), (2, 1.0)]));
    for (settings, expected) in [
        (json!({}), "expected [4, 6], for the config's r is 4, got [2, 6]"),
        (json!({"rank_pattern": {"proj": 2}}), "for the config's r is 4"),
        (json!({"rank_pattern": {"q_proj": 2}}), "for the config's r is 2, got [4, 6]"),
        (json!({"rank_pattern": {"q_proj": 0}}), "rank_pattern: q_proj: expected a rank of 1 to 65536, got 0"),
        (json!({"r": 100_000_000}), "r: expected a rank of 1 to 65536, got 100000000"),
        (
            json!({"rank_pattern": ranks, "alpha_pattern": {"q_proj": -1}}),
            "alpha_pattern: q_proj: expected a number above 0",
        ),
        (json!({"lora_alpha": -8}), "lora_alpha: expected a number above 0, got -8"),
        (json!({"lora_alpha": null}), "lora_alpha: expected a number above 0, got none"),
    ] {
        let error = scales(settings.clone()).expect_err("refused");
        assert!(error.contains(expected), "{settings}: {error}");
    }
}

#[test]
fn what_a_file_claims_of_shapes_and_names_is_held_against_the_model() {
    let no_row = |module: &str| [(format!("{PREFIX}{module}.lora_A.weight"), vec![100_000_000, 0], 0.0)];
    for (what, tensors, expected) in [
        ("another model's layer", lora("model.layers.0.mlp.gate_proj", 4, 6, 5).to_vec(), "which has lm_head, q_proj"),
        ("another size", lora(Q[0], 4, 6, 4).to_vec(), "of 6 inputs and 4 outputs"),
        ("half an adapter", lora(Q[0], 4, 6, 5)[..1].to_vec(), "lora_B.weight: expected two dimensions"),
        ("a rank without elements", no_row(Q[0]).to_vec(), "lora_B.weight"),
        (
            "an embedding's",
            vec![(format!("{PREFIX}model.embed_tokens.lora_embedding_A"), vec![4, 7], 0.0)],
            "on an embedding",
        ),
        (
            "no name of PEFT's",
            vec![("model.norm.weight".into(), vec![6], 0.0)],
            "base_model.model.MODULE.lora_A.weight",
        ),
        ("a bias", vec![(format!("{PREFIX}{}.lora_B.bias", Q[0]), vec![5], 0.0)], "a LoRA's tensor"),
    ] {
        let error = Case::new(false, &tensors).with(json!({})).expect_err(what);
        assert!(error.contains(expected), "{what}: {error}");
    }
    // Names of the inner model alone, as its file has them: they mean the same here, and PEFT would leave them out.
    let spec = Case::new(false, &lora("layers.0.self_attn.q_proj", 4, 6, 5)).with(json!({})).expect("one layer");
    assert_eq!(spec.layers()[0].layer.path, Q[0]);
    assert!(spec.notes()[0].contains("PEFT looks for model.layers.0.self_attn.q_proj"), "{:?}", spec.notes());
}

#[test]
fn modules_that_are_saved_whole_replace_the_bases_and_cut_a_tie_only_where_they_differ() {
    let whole = |module: &str, value| (format!("{PREFIX}{module}.weight"), vec![7, 6], value);
    let open = |is_tied, more: &[(String, Vec<usize>, f32)], settings: Json| {
        let case = Case::new(is_tied, &[&lora(Q[0], 4, 6, 5)[..], more].concat());
        let spec = case.with(settings).expect("sound");
        let graph = spec.graph(&case.graph);
        let head = graph.node("lm_head").expect("a head").params["weight"].clone();
        (spec.replaced().iter().map(|replaced| replaced.param.clone()).collect::<Vec<_>>(), head)
    };
    let saves = |names: &[&str]| json!({"modules_to_save": names});
    let embed = || "embed_tokens.weight".to_owned();
    let head = || "lm_head.weight".to_owned();
    assert_eq!(open(false, &[whole("lm_head", 2.0)], saves(&["lm_head"])), (vec![head()], head()));
    // PEFT trains a copy of one of the two, and leaves the other as it was.
    assert_eq!(open(true, &[whole("lm_head", 2.0)], saves(&["lm_head"])), (vec![head()], head()));
    assert_eq!(open(true, &[whole("model.embed_tokens", 2.0)], saves(&["embed_tokens"])), (vec![embed()], head()));
    let both = ["embed_tokens", "lm_head"];
    let [same, other] = [2.0, 3.0].map(|value| [whole("lm_head", value), whole("model.embed_tokens", 2.0)]);
    assert_eq!(open(true, &same, saves(&both)), (vec![embed()], embed()));
    let (replaced, own) = open(true, &other, saves(&both));
    assert_eq!((replaced.len(), own), (2, head()));
    // What PEFT saves beside a LoRA on the head is the base's own weight, as a rule.
    let base_layer = |value| (format!("{PREFIX}lm_head.base_layer.weight"), vec![7, 6], value);
    assert_eq!(open(true, &[base_layer(1.0)], json!({})), (vec![], embed()));
    assert_eq!(open(false, &[base_layer(2.0)], json!({})), (vec![head()], head()));

    let refused = |tensors: &[(String, Vec<usize>, f32)], settings: Json| {
        Case::new(false, &[&lora(Q[0], 4, 6, 5)[..], tensors].concat()).with(settings).expect_err("refused")
    };
    let said = refused(&[], saves(&["lm_head"]));
    assert!(
        said.contains("lm_head.weight: expected a tensor for each parameter of what modules_to_save names"),
        "{said}"
    );
    let said = refused(&[(format!("{PREFIX}{}.weight", Q[1]), vec![5, 6], 1.0)], json!({}));
    assert!(said.contains("one of a module that modules_to_save names"), "{said}");
    let resized = (format!("{PREFIX}lm_head.weight"), vec![9, 6], 1.0);
    let said = refused(&[resized], saves(&["lm_head"]));
    assert!(said.contains("expected [7, 6] of F32, F64, F16 or BF16, as the model's lm_head.weight has it"), "{said}");
}

#[test]
fn damaged_files_are_errors_and_never_more() {
    let case = Case::new(false, &[lora(Q[0], 4, 6, 5), lora("lm_head", 4, 6, 7)].concat());
    let config = serde_json::to_vec(&json!({
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["0.self_attn.q_proj", "lm_head"],
        "rank_pattern": {"lm_.*": 4}, "exclude_modules": ["v_proj"], "modules_to_save": ["score"],
    }));
    let config = config.expect("JSON");
    let weights = fs::read(case.adapter().join("adapter_model.safetensors")).expect("written");
    let check = |config: &[u8], weights: &[u8]| unswag_adapter::check_adapter_bytes(config, weights, &case.graph);
    assert_eq!(check(&config, &weights).expect("sound"), 4 * 6 + 5 * 4 + 4 * 6 + 7 * 4);
    // SplitMix64, so that a failure can be repeated.
    let mut state = 7u64;
    let mut next = |below: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((bits ^ (bits >> 27)) % below as u64) as usize
    };
    let (mut taken, mut refused) = (0, 0);
    for round in 0..1000 {
        let (mut config, mut weights) = (config.clone(), weights.clone());
        let target = if round % 2 == 0 { &mut config } else { &mut weights };
        for _ in 0..=next(3) {
            // The header and the settings, not the elements.
            let at = next(target.len().min(900));
            target[at] = b"0123456789.,[]{}\"\\ablns-"[next(24)];
        }
        match check(&config, &weights) {
            Ok(_) => taken += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 300 && taken > 3, "{refused} refused, {taken} taken");
}

/// The largest size of this process in memory so far.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a size");
    1024 * line.trim_end_matches("kB").trim().parse::<u64>().expect("kB")
}

#[test]
fn expressions_made_to_take_memory_or_time_are_refused_by_name() {
    let case = case();
    let many = |key: fn(u64) -> String| (0..16_000).map(|at| (key(at), json!(4))).collect::<Map<_, _>>();
    let before = peak_bytes();
    let start = std::time::Instant::now();
    for (settings, expected) in [
        (json!({"target_modules": r"(?=\w{30})".repeat(6000)}), "target_modules: expected at most 65536 bytes"),
        (json!({"exclude_modules": r"(?=[^.]{30})".repeat(5000)}), "exclude_modules: expected at most 1024 parts"),
        (json!({"rank_pattern": many(|at| format!(r"\w{{30}}x{at}"))}), r"rank_pattern: expected at most 256 regular"),
        (json!({"alpha_pattern": many(|at| format!("(a|b)x{at}"))}), r"alpha_pattern: expected at most 256 regular"),
        (json!({"layers_pattern": vec!["h+"; 300]}), "layers_pattern: expected at most 256 regular"),
        (json!({"modules_to_save": vec!["lm_head"; 300]}), "modules_to_save: expected at most 256 names, got 300"),
        // Each is small enough by itself.
        (
            json!({"target_modules": "(?=a)".repeat(600), "exclude_modules": "(?=a)".repeat(600)}),
            "exclude_modules: expected at most 1024 parts",
        ),
    ] {
        let error = case.with(settings).expect_err("refused");
        assert!(error.contains(expected), "{error}");
    }
    // Plain names are compared without a regex engine, so that there may be many.
    let spec = case.with(json!({"rank_pattern": many(|at| format!("model.layers.{at}.mlp.up_proj"))}));
    assert_eq!(spec.expect("none of them is of this model").layers().len(), 1);
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    let grew = peak_bytes() - before;
    assert!(grew < 64 << 20, "{grew} bytes");
}

#[test]
fn a_readme_that_is_a_named_pipe_is_not_waited_for() {
    let case = case();
    let pipe = case.adapter().join("README.md");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(case.with(json!({})).map(|spec| spec.layers().len())));
    let opened = receiver.recv_timeout(std::time::Duration::from_secs(20)).expect("it does not wait");
    assert_eq!(opened, Ok(1));
}
