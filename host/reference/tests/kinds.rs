//! Every kind that the engine runs has a reference, the page of all kinds says what stands in the tables, and a wrong element is found.

use std::{fs, path::Path};

use serde_json::json;
use unswag_abi::doc::{Attrs, Dtype, Meta};
use unswag_graph::kinds;
use unswag_reference::{Arithmetic, Difference, NoReference, Primitive, Tensor, arithmetic, compare, kinds_page};

/// A call of every kind that has a reference: kind, attributes, shapes of the activations, parameters with their roles.
#[allow(clippy::type_complexity, reason = "a table")]
fn calls() -> Vec<(&'static str, serde_json::Value, Vec<&'static [u64]>, Vec<(&'static str, &'static [u64])>)> {
    const X: &[u64] = &[2, 3, 8];
    let attention = json!({"num_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "scale": 0.5, "causal": true});
    vec![
        ("embedding", json!({"scale": 2.5}), vec![&[2, 3]], vec![("weight", &[11, 8])]),
        ("linear", json!({}), vec![X], vec![("weight", &[5, 8]), ("bias", &[5])]),
        ("linear", json!({"transposed": true}), vec![X], vec![("weight", &[8, 5])]),
        ("rms_norm", json!({"eps": 1e-6}), vec![X], vec![("weight", &[8])]),
        ("rms_norm", json!({"eps": 1e-6, "unit_offset": true, "group": 4}), vec![X], vec![("weight", &[4])]),
        ("layer_norm", json!({"eps": 1e-5}), vec![X], vec![("weight", &[8]), ("bias", &[8])]),
        ("rotary_embedding", json!({"dim": 4, "theta": 10000.0}), vec![&[2, 3]], vec![]),
        ("rope", json!({"head_dim": 4}), vec![X, &[2, 3, 4], &[2, 3, 4], &[2, 3, 4]], vec![]),
        ("split", json!({"sizes": [3, 5]}), vec![X], vec![]),
        ("concat", json!({}), vec![X, &[2, 3, 2]], vec![]),
        ("slice", json!({"start": 2, "end": 5}), vec![X], vec![]),
        ("attention", attention, vec![X, &[2, 3, 4], &[2, 3, 4]], vec![]),
        ("silu", json!({}), vec![&[7]], vec![]),
        ("gelu", json!({}), vec![X], vec![]),
        ("gelu", json!({"approximate": "tanh"}), vec![X], vec![]),
        ("relu", json!({}), vec![X], vec![]),
        ("relu2", json!({}), vec![X], vec![]),
        ("tanh", json!({}), vec![X], vec![]),
        ("sigmoid", json!({}), vec![X], vec![]),
        ("swiglu", json!({}), vec![X, X], vec![]),
        ("geglu", json!({"approximate": "tanh"}), vec![X, X], vec![]),
        ("reglu", json!({}), vec![X, X], vec![]),
        ("add", json!({}), vec![X, &[8]], vec![]),
        ("sub", json!({}), vec![X, X], vec![]),
        ("mul", json!({}), vec![X, &[2, 1, 8]], vec![]),
        ("scale", json!({"by": 0.3}), vec![X], vec![]),
        ("softcap", json!({"cap": 30.0}), vec![X], vec![]),
        ("softmax", json!({}), vec![X], vec![]),
        ("dropout", json!({"p": 0.1}), vec![X], vec![]),
    ]
}

fn attrs(value: serde_json::Value) -> Attrs {
    value.as_object().expect("an object").clone().into_iter().collect()
}

fn bytes_of(meta: &Meta, values: &[f32]) -> Vec<u8> {
    match meta.dtype {
        Dtype::Bf16 => values.iter().flat_map(|&value| half::bf16::from_f32(value).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

#[test]
fn every_kind_but_those_that_the_engine_refuses_has_a_reference_that_runs_in_every_element_type() {
    let without = ["causal_conv1d", "matmul", "mean", "mse", "kl_div"];
    for kind in kinds::all() {
        assert_eq!(arithmetic(kind.name).is_none(), without.contains(&kind.name), "{}", kind.name);
        let is_called = calls().iter().any(|(name, ..)| *name == kind.name);
        assert!(is_called || arithmetic(kind.name).is_none(), "{} is in no case of this test", kind.name);
    }
    for (kind, with, activations, params) in calls() {
        let primitive = Primitive::new(kind, &attrs(with), params.iter().map(|(role, _)| *role)).unwrap();
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            let takes_ids = matches!(kind, "embedding" | "rotary_embedding");
            let meta = |(index, shape): (usize, &&[u64])| Meta {
                dtype: if takes_ids && index == 0 { Dtype::I64 } else { dtype },
                shape: shape.to_vec(),
            };
            let shapes: Vec<&[u64]> =
                activations.iter().copied().chain(params.iter().map(|(_, shape)| *shape)).collect();
            let metas: Vec<Meta> = shapes.iter().enumerate().map(meta).collect();
            let inputs = primitive.sample(&metas, 3).unwrap_or_else(|error| panic!("{kind} {dtype}: {error}"));
            let outputs = primitive.outputs(&inputs).unwrap_or_else(|error| panic!("{kind} {dtype}: {error}"));
            let found: Vec<Tensor> = outputs.iter().map(|output| output.tensor()).collect();
            let same = compare(&outputs, &found).unwrap();
            assert!(same.is_exact() && same.elements > 0, "{kind} {dtype}: {same}");

            // One wrong element, by more than what is rounded on the way, is found where it is.
            let values: Vec<f32> = outputs[0].values().collect();
            let at =
                values.iter().rposition(|value| value.is_finite() && value.abs() > 0.05).expect("an ordinary number");
            let mut wrong = values.clone();
            wrong[at] += 0.05 * values[at].abs() + 1.5;
            let mut found = found;
            found[0].bytes = bytes_of(&outputs[0].meta, &wrong);
            match compare(&outputs, &found) {
                Err(Difference::Element { element, .. }) => assert_eq!(element, at, "{kind} {dtype}"),
                other => panic!("{kind} {dtype}: element {at}, {} for {}: {other:?}", wrong[at], values[at]),
            }
        }
    }
}

#[test]
fn an_exact_kind_is_held_to_its_bits_and_another_to_what_rounding_explains() {
    let meta = |dtype| Meta { dtype, shape: vec![4] };
    let output = |kind: &str, dtype, x: &[f32]| {
        let primitive = Primitive::new(kind, &Attrs::new(), []).unwrap();
        let input = Tensor { meta: meta(dtype), bytes: bytes_of(&meta(dtype), x) };
        primitive.outputs(&[input]).unwrap()
    };
    let found = |dtype, values: &[f32]| vec![Tensor { meta: meta(dtype), bytes: bytes_of(&meta(dtype), values) }];
    let tiny = f32::from_bits(1);
    let x = [-0.0, f32::NAN, tiny, 3.0];
    let relu = output("relu", Dtype::F32, &x);
    assert_eq!(relu[0].arithmetic, Arithmetic::Exact);
    assert!(compare(&relu, &found(Dtype::F32, &[0.0, -f32::NAN, tiny, 3.0])).unwrap().is_exact());
    for wrong in [[0.0, 0.0, tiny, 3.0], [0.0, f32::NAN, 0.0, 3.0], [0.0, f32::NAN, tiny, 3.0f32.next_up()]] {
        assert!(compare(&relu, &found(Dtype::F32, &wrong)).is_err(), "{wrong:?}");
    }

    let x = [-3.0, f32::INFINITY, f32::NEG_INFINITY, 2.0];
    let silu = output("silu", Dtype::F32, &x);
    let right: Vec<f32> = silu[0].values().collect();
    assert!((f64::from(right[3]) - 1.761_594_155_955_765).abs() < 1e-6 && right[2].is_nan());
    let with = |at: usize, value: f32| {
        let mut values = right.clone();
        values[at] = value;
        compare(&silu, &found(Dtype::F32, &values))
    };
    let near = with(3, right[3].next_up()).unwrap();
    assert_eq!((near.differing, near.is_exact()), (1, false));
    assert!(with(3, right[3] * 1.000_01).is_err());
    assert!(with(2, 0.0).is_err(), "a number where NaN is right");
    assert!(with(1, 3e38).is_err(), "a number where infinity is right");
    assert!(with(0, f32::NAN).is_err(), "NaN where a number is right");
    // In bf16, half an ulp of another order of rounding is as near.
    let silu = output("silu", Dtype::Bf16, &x);
    let mut values: Vec<f32> = silu[0].values().collect();
    values[3] = half::bf16::from_bits(half::bf16::from_f32(values[3]).to_bits() + 1).to_f32();
    assert!(!compare(&silu, &found(Dtype::Bf16, &values)).unwrap().is_exact());
    values[3] *= 1.03;
    assert!(compare(&silu, &found(Dtype::Bf16, &values)).is_err());
}

#[test]
fn what_has_no_reference_or_is_no_call_is_said_and_not_guessed() {
    assert!(matches!(Primitive::new("matmul", &Attrs::new(), []), Err(NoReference::Kind { .. })));
    assert!(matches!(Primitive::new("delhi.swiglu", &Attrs::new(), []), Err(NoReference::Kind { .. })));
    let swiglu = Primitive::new("swiglu", &Attrs::new(), []).unwrap();
    let meta = |dtype, shape: &[u64]| Meta { dtype, shape: shape.to_vec() };
    for metas in [
        vec![meta(Dtype::F32, &[2])],
        vec![meta(Dtype::F32, &[2]), meta(Dtype::F32, &[3])],
        vec![meta(Dtype::F64, &[2]), meta(Dtype::F64, &[2])],
    ] {
        let outcome = swiglu.sample(&metas, 0).and_then(|inputs| swiglu.outputs(&inputs));
        assert!(matches!(outcome, Err(NoReference::Call { .. })), "{metas:?}: {outcome:?}");
    }
    let huge = vec![meta(Dtype::F32, &[1 << 30]); 2];
    assert!(matches!(swiglu.sample(&huge, 0), Err(NoReference::Size { .. })));
}

#[test]
fn the_page_of_all_kinds_is_what_the_tables_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/kinds.md");
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == kinds_page(),
        "docs/kinds.md is not what the tables say; run `unswag plugin kinds > docs/kinds.md`"
    );
    for kind in kinds::all() {
        assert!(written.contains(&format!("\n## {}\n", kind.name)), "{}", kind.name);
    }
}

/// Adds this much to element `at` of output 0, in bf16, and compares.
fn off_by(primitive: &Primitive, inputs: &[Tensor], at: usize, by: f32) -> Result<(), Difference> {
    let outputs = primitive.outputs(inputs).unwrap();
    let mut found: Vec<Tensor> = outputs.iter().map(|output| output.tensor()).collect();
    let mut values: Vec<f32> = outputs[0].values().collect();
    values[at] += by;
    found[0].bytes = bytes_of(&outputs[0].meta, &values);
    compare(&outputs, &found).map(drop)
}

#[test]
fn what_an_element_may_be_off_by_is_relative_to_its_own_terms_not_to_the_largest_of_the_tensor() {
    let tensor = |shape: &[u64], values: &[f32]| {
        let meta = Meta { dtype: Dtype::Bf16, shape: shape.to_vec() };
        Tensor { bytes: bytes_of(&meta, values), meta }
    };
    // Two keys with equal scores: row 1 is the mean of both values. Column 0 sums small ones, column 1 one of 30.
    let of = json!({"num_heads": 1, "num_key_value_heads": 1, "head_dim": 2, "scale": 1.0, "causal": true});
    let attention = Primitive::new("attention", &attrs(of), []).unwrap();
    let zeros = tensor(&[1, 2, 2], &[0.0; 4]);
    let inputs = [zeros.clone(), zeros, tensor(&[1, 2, 2], &[0.5, 30.0, 0.25, -30.0])];
    for (at, by, is_right) in [(2, 0.002, true), (2, 0.05, false), (3, 0.2, true), (3, 2.0, false)] {
        assert_eq!(off_by(&attention, &inputs, at, by).is_ok(), is_right, "attention: {at} off by {by}");
    }
    // Heads of 6, of which 4 are rotated in halves: pair (0, 2) is small, pair (1, 3) has 30; 4 and 5 pass.
    for interleaved in [false, true] {
        let rope = Primitive::new("rope", &attrs(json!({"head_dim": 6, "interleaved": interleaved})), []).unwrap();
        let (small, large) = ([0.5, 0.25], [30.0, -20.0]);
        let x = match interleaved {
            false => [small[0], large[0], small[1], large[1], 7.0, 30.0],
            true => [small[0], small[1], large[0], large[1], 7.0, 30.0],
        };
        let (x, of_large) = (tensor(&[1, 1, 6], &x), if interleaved { 2 } else { 1 });
        let (cos, sin) = (tensor(&[1, 1, 4], &[0.75; 4]), tensor(&[1, 1, 4], &[0.625; 4]));
        let inputs = [x.clone(), x, cos, sin];
        for (at, by, is_right) in
            [(0, 0.002, true), (0, 0.05, false), (of_large, 0.2, true), (of_large, 2.0, false), (4, 0.2, false)]
        {
            assert_eq!(off_by(&rope, &inputs, at, by).is_ok(), is_right, "rope {interleaved}: {at} off by {by}");
        }
    }
}
