//! The well-behaved protocols: their patches pass the host's own rules, and keep what the model computes.

use std::collections::HashMap;

use serde_json::json;
use unswag_every_edit::unswag_plugin;
use unswag_graph::{Ops, apply};
use unswag_sdk::half;
use unswag_sdk::{
    Dtype, Edit, Graph, Init, Meta, OpCall, OpPlan, Patch, TensorBuf, TransformJob,
    conformance::Suite,
    test::{FAMILIES, PluginTest, ProtocolTest, sample},
};
use unswag_surgery::eval::{Evaluator, Source, Tensor};

struct PluginOps<'a>(&'a ProtocolTest);

impl Ops for PluginOps<'_> {
    fn plan(&self, call: &OpCall) -> Result<OpPlan, String> {
        let plan = self.0.op(&call.kind).and_then(|op| op.plan(call));
        plan.map_err(unswag_sdk::Error::into_message)
    }
}

fn open(id: &str, options: serde_json::Value) -> ProtocolTest {
    PluginTest::new(unswag_plugin()).open(id, options).unwrap()
}

/// Tensors of the size and dtype that the graph says, with contents that differ by name.
struct Weights {
    tensors: HashMap<String, TensorBuf>,
}

impl Weights {
    fn of(graph: &Graph, dtype: Dtype) -> Self {
        let tensor = |(index, (name, param)): (usize, (&String, &unswag_sdk::doc::Param))| {
            let count = param.shape.iter().product::<u64>();
            // A chirp: no two rows or columns are alike, and every matrix has full rank.
            let values =
                Vec::from_iter((0..count).map(|i| (0.37 * i as f64 + 0.001 * (i * i) as f64 + index as f64).sin()));
            (name.clone(), TensorBuf::from_f64(dtype, &values, &param.shape).unwrap())
        };
        Self { tensors: graph.params.iter().enumerate().map(tensor).collect() }
    }

    fn matrix(&self, name: &str) -> Vec<f64> {
        self.tensors[name].to_f64().unwrap()
    }
}

impl Source for Weights {
    fn tensor(&self, name: &str) -> Result<(Meta, Vec<u8>), String> {
        let buf = self.tensors.get(name).ok_or_else(|| format!("no tensor {name}"))?;
        Ok((buf.meta(), buf.bytes().to_vec()))
    }
}

fn inits(patch: &Patch) -> HashMap<&str, &Init> {
    let params = patch.edits.iter().filter_map(|edit| match edit {
        Edit::Param { name, init, .. } => Some((name.as_str(), init)),
        _ => None,
    });
    params.collect()
}

#[test]
fn the_well_behaved_protocols_conform_by_the_hosts_own_rules() {
    let apply = |graph: &Graph, patch: &Patch, plans: &unswag_sdk::conformance::Plans<'_>| {
        struct Planned<'a, 'b>(&'a unswag_sdk::conformance::Plans<'b>);
        impl Ops for Planned<'_, '_> {
            fn plan(&self, call: &OpCall) -> Result<OpPlan, String> {
                (self.0)(call)
            }
        }
        apply(graph, patch, &Planned(plans)).map(|applied| applied.graph).map_err(|error| error.to_string())
    };
    let report = Suite::new(unswag_plugin()).apply(&apply).protocols(["composite", "transform"]).run();
    report.assert_passed();
}

#[test]
fn a_whole_attention_block_becomes_a_composite() {
    let graph = sample("llama");
    let protocol = open("composite", json!({"rank": 24}));
    let patch = protocol.rewrite(&graph).unwrap();
    let applied = apply(&graph, &patch, &PluginOps(&protocol)).unwrap();
    let layer = "model.layers.0.self_attn";
    assert_eq!(applied.graph.params[&format!("{layer}.kv_down.weight")].shape, [24, 64]);
    assert!(applied.dropped.contains(&format!("{layer}.k_proj.weight")));
    assert!(applied.dropped.contains(&format!("{layer}.v_proj.weight")));
    assert_eq!(applied.graph.cache.iter().filter(|slot| slot.at == layer).count(), 1);
    assert_eq!(applied.graph.losses.iter().filter(|loss| loss.value == format!("{layer}.penalty")).count(), 1);
    let attention = applied.graph.node(&format!("{layer}.attn")).unwrap();
    assert_eq!(attention.attrs["sliding_window"], json!(1 << 30));
    assert!(applied.graph.nodes.iter().all(|node| !node.kind.contains('.')), "host primitives alone");
    assert_eq!(applied.graph.outputs, graph.outputs);
}

#[test]
fn families_with_plain_projections_are_rewritten_and_others_refused() {
    let protocol = open("composite", json!({}));
    for family in FAMILIES {
        let graph = sample(family);
        let rewritten = protocol.rewrite(&graph).is_ok();
        let plain = graph
            .node("model.layers.0.self_attn.rope")
            .is_some_and(|_| graph.node("model.layers.0.self_attn.q_norm").is_none());
        assert_eq!(rewritten, plain, "{family}");
    }
}

#[test]
fn at_full_rank_the_factors_multiply_to_the_original_weights() {
    let graph = sample("llama");
    let patch = open("composite", json!({})).rewrite(&graph).unwrap();
    let weights = Weights::of(&graph, Dtype::F32);
    let inits = inits(&patch);
    let mut evaluator = Evaluator::default();
    let layer = "model.layers.1.self_attn";
    let mut value = |part: &str| -> Tensor {
        let Init::Expr(expr) = inits[format!("{layer}.{part}.weight").as_str()] else { panic!("an expression") };
        evaluator.eval(expr, &weights).unwrap()
    };
    let down = value("kv_down");
    for (factor, original) in [("k_up", "k_proj"), ("v_up", "v_proj")] {
        let up = value(factor);
        let product = matmul(&up, &down);
        let expected = weights.matrix(&format!("{layer}.{original}.weight"));
        let off = product.iter().zip(&expected).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        let size = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!(off / size < 1e-5, "{original}: relative error {:e}", off / size);
    }
}

fn matmul(a: &Tensor, b: &Tensor) -> Vec<f64> {
    let (&[m, k], &[_, n]) = (a.shape_u64().as_slice(), b.shape_u64().as_slice()) else { panic!("matrices") };
    let (m, k, n) = (m as usize, k as usize, n as usize);
    let element = |i: usize, j: usize| (0..k).map(|x| a.data[i * k + x] * b.data[x * n + j]).sum();
    (0..m * n).map(|at| element(at / n, at % n)).collect()
}

#[test]
fn a_rank_beyond_full_is_refused_by_naming_the_most() {
    let error = open("composite", json!({"rank": 65})).rewrite(&sample("llama")).unwrap_err();
    assert!(error.message().contains("at most 64") && error.message().contains("got 65"), "{error}");
}

#[test]
fn the_transform_balances_rows_and_keeps_every_product_to_the_bit() {
    let graph = sample("qwen2");
    let protocol = open("transform", json!({}));
    let patch = protocol.rewrite(&graph).unwrap();
    let applied = apply(&graph, &patch, &PluginOps(&protocol)).unwrap();
    assert_eq!(applied.transforms.len(), 2, "one job per layer");
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        let weights = Weights::of(&graph, dtype);
        for call in &applied.transforms {
            let metas =
                |names: &[String]| -> Vec<Meta> { names.iter().map(|name| weights.tensors[name].meta()).collect() };
            let job = TransformJob {
                job: call.job.clone(),
                inputs: metas(&call.inputs),
                outputs: metas(&call.outputs),
                attrs: call.attrs.clone(),
            };
            let inputs = Vec::from_iter(call.inputs.iter().map(|name| weights.tensors[name].clone()));
            let outputs = protocol.transform(&job, &inputs).unwrap();
            let [up, down] = [inputs[0].to_f64().unwrap(), inputs[1].to_f64().unwrap()];
            let [new_up, new_down] = [outputs[0].to_f64().unwrap(), outputs[1].to_f64().unwrap()];
            let (width, inner) = (job.inputs[0].shape[1] as usize, job.inputs[1].shape[1] as usize);
            for row in 0..inner {
                let scale = up[row * width] / new_up[row * width];
                assert_eq!(scale.log2().fract(), 0.0, "a power of two");
                let norm = new_up[row * width..][..width].iter().map(|x| x * x).sum::<f64>().sqrt();
                assert!((0.7..1.42).contains(&norm), "row {row} has norm {norm}");
                for column in 0..width {
                    // Below f16's normal numbers a division drops bits; what is left is still next to the original.
                    if dtype == Dtype::F16 && new_up[row * width + column].abs() < f64::from(half::f16::MIN_POSITIVE) {
                        continue;
                    }
                    assert_eq!(new_up[row * width + column] * scale, up[row * width + column]);
                    assert_eq!(new_down[column * inner + row] / scale, down[column * inner + row]);
                }
            }
        }
    }
}

#[test]
fn a_transform_of_tensors_that_do_not_fit_is_refused() {
    let protocol = open("transform", json!({}));
    let buf = |dtype, shape: &[u64]| TensorBuf::zeros(&Meta { dtype, shape: shape.to_vec() }).unwrap();
    for (inputs, said) in [
        (vec![buf(Dtype::F32, &[4, 3]), buf(Dtype::F32, &[3, 5])], "4 and 5"),
        (vec![buf(Dtype::F32, &[4, 3])], "expected 2 tensors, got 1"),
        (vec![buf(Dtype::F32, &[4, 3]), buf(Dtype::Bf16, &[3, 4])], "got F32 and BF16"),
        (vec![buf(Dtype::F32, &[4]), buf(Dtype::F32, &[3, 4])], "two matrices"),
    ] {
        let metas = Vec::from_iter(inputs.iter().map(TensorBuf::meta));
        let job = TransformJob {
            job: "balance:x".to_owned(),
            inputs: metas.clone(),
            outputs: metas,
            attrs: [("job".to_owned(), json!("balance"))].into(),
        };
        let error = protocol.transform(&job, &inputs).err().unwrap();
        assert!(error.message().contains(said), "{error}");
    }
}
