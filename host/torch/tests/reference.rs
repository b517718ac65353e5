//! What the engine computes of each kind is what the plain reference says, which plugins' claims are compared with.

use serde_json::{Value, json};
use unswag_abi::doc::{Attrs, Dtype, Meta};
use unswag_engine::{
    Activation, AttentionSpec, Backend, EmbeddingSpec, EngineError, Gate, LayerNorm, RmsNorm, RopeSpec, View,
};
use unswag_reference::{Arithmetic, Primitive, Tensor, compare};
use unswag_torch::{Torch, TorchTensor};

type Given<'a> = &'a [TorchTensor];
type Outcome = Result<Vec<TorchTensor>, EngineError>;

/// Kind, attributes, shapes of activations and parameters, roles of the parameters, and the engine's own computation.
struct Case {
    kind: &'static str,
    attrs: Value,
    shapes: &'static [&'static [u64]],
    roles: &'static [&'static str],
    compute: fn(&Torch, Given<'_>) -> Outcome,
}

const X: &[u64] = &[6, 64];

fn one(y: Result<TorchTensor, EngineError>) -> Outcome {
    y.map(|y| vec![y])
}

macro_rules! activation {
    ($of:expr) => {
        |torch, given| one(torch.activation(&given[0], $of))
    };
}

macro_rules! gated {
    ($of:expr) => {
        |torch, given| one(torch.gated(&given[0], &given[1], $of))
    };
}

fn cases() -> Vec<Case> {
    let case = |kind, attrs, shapes, roles, compute| Case { kind, attrs, shapes, roles, compute };
    vec![
        case("silu", json!({}), &[X], &[], activation!(Activation::Silu)),
        case("gelu", json!({}), &[X], &[], activation!(Activation::Gelu)),
        case("gelu", json!({"approximate": "tanh"}), &[X], &[], activation!(Activation::GeluTanh)),
        case("relu", json!({}), &[X], &[], activation!(Activation::Relu)),
        case("relu2", json!({}), &[X], &[], activation!(Activation::Relu2)),
        case("tanh", json!({}), &[X], &[], activation!(Activation::Tanh)),
        case("sigmoid", json!({}), &[X], &[], activation!(Activation::Sigmoid)),
        case("swiglu", json!({}), &[X, X], &[], gated!(Gate::Silu)),
        case("geglu", json!({}), &[X, X], &[], gated!(Gate::Gelu)),
        case("geglu", json!({"approximate": "tanh"}), &[X, X], &[], gated!(Gate::GeluTanh)),
        case("reglu", json!({}), &[X, X], &[], gated!(Gate::Relu)),
        case("add", json!({}), &[X, X], &[], |torch, given| one(torch.add(given[0].clone(), given[1].clone()))),
        case("sub", json!({}), &[X, X], &[], |torch, given| one(torch.sub(given[0].clone(), &given[1]))),
        case("mul", json!({}), &[X, X], &[], |torch, given| one(torch.mul(given[0].clone(), &given[1]))),
        case("scale", json!({"by": 0.3}), &[X], &[], |torch, given| one(torch.scale(given[0].clone(), 0.3))),
        case("softcap", json!({"cap": 30.0}), &[X], &[], |torch, given| one(torch.softcap(&given[0], 30.0))),
        case("softmax", json!({}), &[X], &[], |torch, given| one(torch.softmax(&given[0]))),
        case("slice", json!({"start": 3, "end": 9}), &[X], &[], |torch, given| one(torch.columns(&given[0], 3, 6))),
        case("concat", json!({}), &[X, X], &[], |torch, given| one(torch.concat(given))),
        case("rms_norm", json!({"eps": 1e-6}), &[X, &[64]], &["weight"], |torch, given| {
            let spec = RmsNorm { eps: 1e-6, unit_offset: false, group: None };
            one(torch.rms_norm(&given[0], &given[1], &spec).map(|(y, _)| y))
        }),
        case(
            "rms_norm",
            json!({"eps": 1e-6, "unit_offset": true, "group": 16}),
            &[X, &[16]],
            &["weight"],
            |torch, given| {
                let spec = RmsNorm { eps: 1e-6, unit_offset: true, group: Some(16) };
                one(torch.rms_norm(&given[0], &given[1], &spec).map(|(y, _)| y))
            },
        ),
        case("layer_norm", json!({"eps": 1e-5}), &[X, &[64], &[64]], &["weight", "bias"], |torch, given| {
            let norm = torch.layer_norm(&given[0], &given[1], Some(&given[2]), &LayerNorm { eps: 1e-5 });
            one(norm.map(|[y, ..]| y))
        }),
        case("linear", json!({}), &[X, &[32, 64], &[32]], &["weight", "bias"], |torch, given| {
            let product = torch.matmul(&given[0], View::AsIs, &given[1], View::Transposed)?;
            one(torch.add_bias(product, &given[2]))
        }),
        case("embedding", json!({"scale": 2.5, "offset": 2}), &[&[6], &[9, 64]], &["weight"], |torch, given| {
            // The sample's ids are read from the first tensor.
            let ids: Vec<u32> = given[0].to_f32()?.into_iter().map(|id| id as u32).collect();
            let dtype = torch.dtype(&given[1]);
            one(torch.embedding(&given[1], &ids, &EmbeddingSpec { scale: 2.5, offset: 2, dtype }))
        }),
        case("rope", json!({"head_dim": 16}), &[X, &[6, 32], &[6, 16], &[6, 16]], &[], |torch, given| {
            let spec = RopeSpec { head_dim: 16, interleaved: false };
            let rotated = |x: &TorchTensor| torch.rope(x.clone(), &given[2], &given[3], &spec, false);
            Ok(vec![rotated(&given[0])?, rotated(&given[1])?])
        }),
        case(
            "attention",
            json!({"num_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "scale": 0.25, "causal": true}),
            &[&[1, 6, 64], &[1, 6, 32], &[1, 6, 32]],
            &[],
            |torch, given| {
                let spec = AttentionSpec {
                    heads: 4,
                    kv_heads: 2,
                    head_dim: 16,
                    v_head_dim: 16,
                    scale: 0.25,
                    causal: true,
                    window: None,
                    softcap: None,
                    batch: 1,
                    seq: 6,
                };
                one(torch.attention(&given[0], &given[1], &given[2], None, None, &spec).map(|(y, _)| y))
            },
        ),
    ]
}

/// Rows by the last dimension; a vector is one row.
fn rows(shape: &[u64]) -> [u64; 2] {
    let columns = shape.last().copied().unwrap_or(1);
    [shape.iter().product::<u64>() / columns.max(1), columns]
}

#[test]
fn the_engine_computes_what_the_reference_says_with_the_kernels_and_without() {
    tch::set_num_threads(1);
    for Case { kind, attrs, shapes, roles, compute } in cases() {
        let attrs: Attrs = attrs.as_object().expect("an object").clone().into_iter().collect();
        let primitive = Primitive::new(kind, &attrs, roles.iter().copied()).expect("a kind with a reference");
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let has_ids = kind == "embedding";
            let meta = |(at, shape): (usize, &&[u64])| Meta {
                dtype: if has_ids && at == 0 { Dtype::I64 } else { dtype },
                shape: shape.to_vec(),
            };
            let metas: Vec<Meta> = shapes.iter().enumerate().map(meta).collect();
            let inputs = primitive.sample(&metas, 2).unwrap_or_else(|error| panic!("{kind}: {error}"));
            let expected = primitive.outputs(&inputs).unwrap_or_else(|error| panic!("{kind}: {error}"));
            for (name, torch) in [("kernels", Torch::cpu()), ("libtorch", Torch::plain_cpu())] {
                let given: Vec<TorchTensor> = inputs
                    .iter()
                    .map(|input| match input.meta.dtype {
                        Dtype::I64 => {
                            let ids = input.bytes.as_chunks::<8>().0.iter().map(|id| i64::from_le_bytes(*id) as f32);
                            let ids: Vec<f32> = ids.collect();
                            torch.tensor_from_f32([1, ids.len() as u64], Dtype::F32, &|| ids.clone())
                        }
                        dtype => torch.tensor_from_bytes(rows(&input.meta.shape), dtype, &input.bytes),
                    })
                    .collect::<Result<_, _>>()
                    .expect("tensors");
                let found = compute(&torch, &given).unwrap_or_else(|error| panic!("{kind} {dtype} {name}: {error}"));
                let found: Vec<Tensor> = found
                    .iter()
                    .zip(&expected)
                    .map(|(y, expected)| Tensor { meta: expected.meta.clone(), bytes: y.to_bytes().expect("bytes") })
                    .collect();
                let agreement = compare(&expected, &found);
                let agreement = agreement.unwrap_or_else(|error| panic!("{kind} {dtype} {name}: {error}"));
                let is_exact = primitive.arithmetic() == Arithmetic::Exact;
                assert!(agreement.is_exact() || !is_exact, "{kind} {dtype} {name}: {agreement}");
                println!("{kind} {dtype} {name}: {agreement}");
            }
        }
    }
}
