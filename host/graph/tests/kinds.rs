//! The table of kinds.

mod common;

use std::collections::HashSet;

use common::attrs;
use serde_json::{Value as Json, json};
use unswag_abi::doc::{Dim, Dtype, Param, Value};
use unswag_graph::kinds::{self, Inputs, Save};

fn value(dtype: Dtype, last: &[u64]) -> Value {
    let symbols = [Dim::symbol("batch"), Dim::symbol("seq")];
    Value { dtype, shape: symbols.into_iter().chain(last.iter().map(|&size| Dim::Fixed(size))).collect() }
}

fn x(width: u64) -> Value {
    value(Dtype::Bf16, &[width])
}

fn scalar() -> Value {
    Value { dtype: Dtype::Bf16, shape: vec![] }
}

fn param(shape: &[u64]) -> Param {
    Param { dtype: Dtype::Bf16, shape: shape.to_vec() }
}

/// One good call of every kind: inputs, parameters, attributes, outputs.
type Example = (&'static str, Vec<Value>, Vec<(&'static str, Param)>, Json, Vec<Value>);

fn examples() -> Vec<Example> {
    let ids = || value(Dtype::I64, &[]);
    let table = || Value { dtype: Dtype::F32, ..x(8) };
    let attention =
        json!({"num_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "scale": 0.3, "causal": true, "v_head_dim": 6});
    vec![
        (
            "embedding",
            vec![ids()],
            vec![("weight", param(&[100, 12]))],
            json!({"offset": 2, "scale": 3.4}),
            vec![x(12)],
        ),
        ("linear", vec![x(12)], vec![("weight", param(&[7, 12])), ("bias", param(&[7]))], json!({}), vec![x(7)]),
        ("linear", vec![x(12)], vec![("weight", param(&[12, 7]))], json!({"transposed": true}), vec![x(7)]),
        (
            "rms_norm",
            vec![x(12)],
            vec![("weight", param(&[12]))],
            json!({"eps": 1e-6, "unit_offset": true}),
            vec![x(12)],
        ),
        ("rms_norm", vec![x(12)], vec![("weight", param(&[4]))], json!({"eps": 1e-6, "group": 4}), vec![x(12)]),
        (
            "layer_norm",
            vec![x(12)],
            vec![("weight", param(&[12])), ("bias", param(&[12]))],
            json!({"eps": 1e-5}),
            vec![x(12)],
        ),
        ("rotary_embedding", vec![ids()], vec![], json!({"dim": 8, "theta": 1e4}), vec![table(), table()]),
        ("rope", vec![x(32), x(16), table(), table()], vec![], json!({"head_dim": 16}), vec![x(32), x(16)]),
        ("split", vec![x(12)], vec![], json!({"sizes": [5, 7]}), vec![x(5), x(7)]),
        ("concat", vec![x(5), x(7)], vec![], json!({}), vec![x(12)]),
        ("slice", vec![x(12)], vec![], json!({"start": 3, "end": 12}), vec![x(9)]),
        ("attention", vec![x(32), x(16), x(12)], vec![("sinks", param(&[4]))], attention, vec![x(24)]),
        ("silu", vec![x(12)], vec![], json!({}), vec![x(12)]),
        ("gelu", vec![x(12)], vec![], json!({"approximate": "tanh"}), vec![x(12)]),
        ("relu", vec![x(12)], vec![], json!({}), vec![x(12)]),
        ("relu2", vec![x(12)], vec![], json!({}), vec![x(12)]),
        ("tanh", vec![x(12)], vec![], json!({}), vec![x(12)]),
        ("sigmoid", vec![x(12)], vec![], json!({}), vec![x(12)]),
        ("swiglu", vec![x(12), x(12)], vec![], json!({}), vec![x(12)]),
        ("geglu", vec![x(12), x(12)], vec![], json!({}), vec![x(12)]),
        ("reglu", vec![x(12), x(12)], vec![], json!({}), vec![x(12)]),
        ("add", vec![x(12), x(1)], vec![], json!({}), vec![x(12)]),
        ("sub", vec![scalar(), x(12)], vec![], json!({}), vec![x(12)]),
        ("mul", vec![x(1), x(12)], vec![], json!({}), vec![x(12)]),
        ("scale", vec![x(12)], vec![], json!({"by": -0.5}), vec![x(12)]),
        ("softcap", vec![x(12)], vec![], json!({"cap": 30.0}), vec![x(12)]),
        ("softmax", vec![x(12)], vec![], json!({}), vec![x(12)]),
        ("dropout", vec![x(12)], vec![], json!({"p": 0.1}), vec![x(12)]),
        (
            "causal_conv1d",
            vec![x(12)],
            vec![("weight", param(&[12, 4])), ("bias", param(&[12]))],
            json!({}),
            vec![x(12)],
        ),
        (
            "matmul",
            vec![x(12), value(Dtype::Bf16, &[12])],
            vec![],
            json!({"transpose_b": true}),
            vec![Value {
                dtype: Dtype::Bf16,
                shape: vec![Dim::symbol("batch"), Dim::symbol("seq"), Dim::symbol("seq")],
            }],
        ),
        ("mean", vec![x(12)], vec![], json!({}), vec![scalar()]),
        ("mse", vec![x(12), x(12)], vec![], json!({}), vec![scalar()]),
        ("kl_div", vec![x(12), x(12)], vec![], json!({}), vec![scalar()]),
    ]
}

fn infer(example: &Example) -> Result<Vec<Value>, kinds::KindError> {
    let (kind, inputs, params, given, _) = example;
    let inputs: Vec<&Value> = inputs.iter().collect();
    let params: Vec<(&str, &Param)> = params.iter().map(|(role, param)| (*role, param)).collect();
    kinds::infer(kind, &inputs, &params, &attrs(given.clone()))
}

#[test]
fn every_kind_has_an_example_that_gives_what_it_says() {
    let mut seen = HashSet::new();
    for example in examples() {
        assert_eq!(infer(&example).as_ref(), Ok(&example.4), "{}", example.0);
        seen.insert(example.0);
    }
    let known: HashSet<&str> = kinds::all().iter().map(|kind| kind.name).collect();
    assert_eq!(seen, known);
    assert_eq!(known.len(), kinds::all().len(), "no kind stands twice");
}

#[test]
fn no_kind_is_named_like_a_plugins_op_and_all_are_documented() {
    for kind in kinds::all() {
        assert!(!kinds::is_plugin_op(kind.name));
        assert!(kind.doc.ends_with('.') && !kind.saves_doc.is_empty(), "{}", kind.name);
        assert!(kind.attrs.iter().all(|attr| !attr.doc.is_empty()), "{}", kind.name);
    }
}

#[test]
fn every_kind_refuses_a_wrong_count_role_or_attribute() {
    for good in examples() {
        let spoilt = |spoil: &dyn Fn(&mut Example)| {
            let mut example = good.clone();
            spoil(&mut example);
            let error = infer(&example).expect_err(good.0).to_string();
            assert!(error.starts_with(good.0) && error.len() < 400, "{error}");
        };
        spoilt(&|example| example.1.clear());
        spoilt(&|example| example.2.push(("nothing", param(&[1]))));
        spoilt(&|example| example.3["nothing"] = json!(1));
        if !good.2.is_empty() && good.0 != "attention" {
            spoilt(&|example| example.2.clear());
            spoilt(&|example| example.2[0].1.shape.push(3));
            spoilt(&|example| example.2[0].1.dtype = Dtype::U8);
        }
        for attr in kinds::find(good.0).expect("known").attrs {
            for bad in [json!(-1), json!("nothing"), json!([]), json!({}), json!(null)] {
                if attr.name == "by" || attr.name.starts_with("mscale") {
                    continue;
                }
                spoilt(&|example| example.3[attr.name] = bad.clone());
            }
            if attr.required {
                spoilt(&|example| {
                    example.3.as_object_mut().expect("an object").remove(attr.name);
                });
            }
        }
    }
}

#[test]
fn every_kind_refuses_inputs_of_another_sort() {
    for good in examples() {
        for i in 0..good.1.len() {
            let mut example = good.clone();
            let is_float = example.1[i].dtype.is_float();
            example.1[i].dtype = if is_float { Dtype::Bool } else { Dtype::F32 };
            let moves_bytes = ["split", "slice"].contains(&good.0);
            assert_eq!(infer(&example).is_ok(), moves_bytes, "{} input {i}", good.0);
        }
    }
}

#[test]
fn what_a_kind_saves_is_among_what_it_has() {
    for (name, inputs, params, given, outputs) in examples() {
        let inputs: Vec<&Value> = inputs.iter().collect();
        let params: Vec<(&str, &Param)> = params.iter().map(|(role, param)| (*role, param)).collect();
        let kind = kinds::find(name).expect("known");
        let saves = kind.saves(&inputs, &params, &attrs(given));
        for save in &saves {
            match save {
                Save::Input(i) => assert!(*i < inputs.len(), "{name}"),
                Save::Output(i) => assert!(*i < outputs.len(), "{name}"),
                Save::Made { label, .. } => assert!(!label.is_empty(), "{name}"),
            }
        }
        assert_eq!(saves.is_empty(), kind.saves_doc.starts_with("nothing"), "{name}: the words and the bytes agree");
        if let Inputs::Exactly(names) = kind.inputs {
            assert_eq!(names.len(), inputs.len());
        }
    }
}

#[test]
fn group_norm_keeps_one_number_per_head() {
    let (input, weight) = (x(12), param(&[4]));
    let kind = kinds::find("rms_norm").expect("known");
    let saves = kind.saves(&[&input], &[("weight", &weight)], &attrs(json!({"eps": 1e-6, "group": 4})));
    let rstd = Save::Made { label: "rstd", value: value(Dtype::F32, &[3]) };
    assert_eq!(saves, [Save::Input(0), rstd]);
}

#[test]
fn rotary_types_need_their_numbers() {
    let ids = value(Dtype::I64, &[]);
    let with = |given: Json| kinds::infer("rotary_embedding", &[&ids], &[], &attrs(given));
    let llama3 = json!({"dim": 8, "theta": 5e5, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    assert!(with(llama3.clone()).is_ok());
    let mut without = llama3;
    without.as_object_mut().expect("an object").remove("low_freq_factor");
    let error = with(without).expect_err("a number is missing").to_string();
    assert!(error.contains("the attribute `low_freq_factor`, as rope_type llama3 needs"), "{error}");
    let short = json!({"dim": 8, "theta": 1e4, "rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0, 1.0, 1.0, 1.0]});
    assert!(with(short).is_err());
    assert!(with(json!({"dim": 7, "theta": 1e4})).is_err(), "an odd number of rotated elements");
}

#[test]
fn attention_needs_widths_that_its_heads_make() {
    let good = examples().into_iter().find(|example| example.0 == "attention").expect("there is one");
    for (name, bad) in
        [("num_heads", 3), ("num_key_value_heads", 3), ("head_dim", 7), ("head_dim", 1u64 << 62), ("v_head_dim", 5)]
    {
        let mut example = good.clone();
        example.3[name] = json!(bad);
        assert!(infer(&example).is_err(), "{name} {bad}");
    }
}
