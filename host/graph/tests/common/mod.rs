//! A llama-like graph made by hand, and ops that plan without a plugin.
// Every test binary uses another part of this.
#![allow(dead_code)]

use indexmap::IndexMap;
use serde_json::json;
use unswag_abi::doc::*;
use unswag_graph::{Ops, kinds};

/// Sizes of a llama-like model.
#[derive(Clone, Copy)]
pub struct Llama {
    pub layers: u64,
    pub hidden: u64,
    pub intermediate: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub vocabulary: u64,
}

/// TinyLlama-1.1B's.
pub const TINY_LLAMA: Llama =
    Llama { layers: 22, hidden: 2048, intermediate: 5632, heads: 32, kv_heads: 4, vocabulary: 32000 };

/// Small enough to read.
pub const SMALL: Llama = Llama { layers: 3, hidden: 64, intermediate: 160, heads: 4, kv_heads: 2, vocabulary: 100 };

pub fn attrs(value: serde_json::Value) -> Attrs {
    serde_json::from_value(value).expect("attributes are an object")
}

pub fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub struct Builder {
    pub graph: Graph,
}

impl Builder {
    pub fn new() -> Self {
        let ids = Value { dtype: Dtype::I64, shape: vec![Dim::symbol("batch"), Dim::symbol("seq")] };
        let inputs = names(&["input_ids", "position_ids"]);
        let graph = Graph {
            version: Graph::VERSION,
            arch: Arch { model_type: "llama".into(), config: attrs(json!({"hidden_act": "silu"})) },
            values: inputs.iter().map(|name| (name.clone(), ids.clone())).collect(),
            inputs,
            ..Graph::default()
        };
        Builder { graph }
    }

    /// Adds a node whose types are inferred; returns the names of its outputs.
    pub fn node(
        &mut self,
        path: &str,
        kind: &str,
        inputs: &[&str],
        params: &[(&str, &[u64])],
        with: Attrs,
    ) -> Vec<String> {
        let mut roles = IndexMap::new();
        for (role, shape) in params {
            let name = format!("{path}.{role}");
            self.graph.params.insert(name.clone(), Param { dtype: Dtype::Bf16, shape: shape.to_vec() });
            roles.insert((*role).to_owned(), name);
        }
        self.with_params(path, kind, inputs, roles, with)
    }

    pub fn with_params(
        &mut self,
        path: &str,
        kind: &str,
        inputs: &[&str],
        params: IndexMap<String, String>,
        attrs: Attrs,
    ) -> Vec<String> {
        let graph = &mut self.graph;
        let types: Vec<&Value> = inputs.iter().map(|name| &graph.values[*name]).collect();
        let given: Vec<(&str, &Param)> =
            params.iter().map(|(role, name)| (role.as_str(), &graph.params[name])).collect();
        let outputs = kinds::infer(kind, &types, &given, &attrs).unwrap_or_else(|error| panic!("{path}: {error}"));
        let output = |i: usize| if i == 0 { path.to_owned() } else { format!("{path}:{i}") };
        let made: Vec<String> = (0..outputs.len()).map(output).collect();
        graph.values.extend(made.iter().cloned().zip(outputs));
        graph.nodes.push(Node {
            path: path.to_owned(),
            kind: kind.to_owned(),
            inputs: names(inputs),
            outputs: made.clone(),
            params,
            attrs,
            ..Node::default()
        });
        made
    }
}

impl Llama {
    pub fn graph(&self) -> Graph {
        let none = Attrs::new;
        let (h, i, head_dim) = (self.hidden, self.intermediate, self.hidden / self.heads);
        let kv = self.kv_heads * head_dim;
        let eps = || attrs(json!({"eps": 1e-5}));
        let mut b = Builder::new();
        let vocabulary: &[u64] = &[self.vocabulary, h];
        let mut x =
            b.node("model.embed_tokens", "embedding", &["input_ids"], &[("weight", vocabulary)], none()).remove(0);
        let rotary = attrs(json!({"dim": head_dim, "theta": 10000.0, "dtype": "BF16"}));
        let tables = b.node("model.rotary_emb", "rotary_embedding", &["position_ids"], &[], rotary);
        for layer in 0..self.layers {
            let at = |name: &str| format!("model.layers.{layer}.{name}");
            let n = b.node(&at("input_layernorm"), "rms_norm", &[&x], &[("weight", &[h])], eps()).remove(0);
            let mut linear = |name: &str, x: &str, out: u64, width: u64| {
                b.node(&at(name), "linear", &[x], &[("weight", &[out, width])], none()).remove(0)
            };
            let q = linear("self_attn.q_proj", &n, h, h);
            let k = linear("self_attn.k_proj", &n, kv, h);
            let v = linear("self_attn.v_proj", &n, kv, h);
            let head = attrs(json!({"head_dim": head_dim}));
            let turned = b.node(&at("self_attn.rope"), "rope", &[&q, &k, &tables[0], &tables[1]], &[], head);
            let attention = attrs(json!({
                "num_heads": self.heads, "num_key_value_heads": self.kv_heads, "head_dim": head_dim,
                "scale": 1.0 / (head_dim as f64).sqrt(), "causal": true,
            }));
            let y = b.node(&at("self_attn.attn"), "attention", &[&turned[0], &turned[1], &v], &[], attention).remove(0);
            let o = b.node(&at("self_attn.o_proj"), "linear", &[&y], &[("weight", &[h, h])], none()).remove(0);
            x = b.node(&at("add_attn"), "add", &[&x, &o], &[], none()).remove(0);
            let n = b.node(&at("post_attention_layernorm"), "rms_norm", &[&x], &[("weight", &[h])], eps()).remove(0);
            let gate = b.node(&at("mlp.gate_proj"), "linear", &[&n], &[("weight", &[i, h])], none()).remove(0);
            let up = b.node(&at("mlp.up_proj"), "linear", &[&n], &[("weight", &[i, h])], none()).remove(0);
            let act = b.node(&at("mlp.act_fn"), "swiglu", &[&gate, &up], &[], none()).remove(0);
            let down = b.node(&at("mlp.down_proj"), "linear", &[&act], &[("weight", &[h, i])], none()).remove(0);
            x = b.node(&at("add_mlp"), "add", &[&x, &down], &[], none()).remove(0);
        }
        let n = b.node("model.norm", "rms_norm", &[&x], &[("weight", &[h])], eps()).remove(0);
        let tied = IndexMap::from([("weight".to_owned(), "model.embed_tokens.weight".to_owned())]);
        b.graph.outputs = b.with_params("lm_head", "linear", &[&n], tied, none());
        b.graph
    }
}

/// Plans `test.swiglu` (attribute `mode`: `exact` keeps gate and up and makes its output again; `code2` keeps two bits
/// for the gate beside up and silu(gate)), `test.scale` (one input, one weight), and ops that misbehave.
pub struct TestOps;

impl Ops for TestOps {
    fn plan(&self, call: &OpCall) -> Result<OpPlan, String> {
        let x = call.inputs.first().ok_or("expected an input, got none")?;
        let outputs = vec![x.clone()];
        let elements = x.elements().ok_or("too large")?;
        match call.kind.as_str() {
            "test.swiglu" => match call.attrs.get("mode").and_then(|mode| mode.as_str()) {
                Some("exact") => Ok(OpPlan {
                    outputs,
                    saves_inputs: vec![0, 1],
                    rematerializes: vec![0],
                    rematerializes_exactly: true,
                    ..OpPlan::default()
                }),
                Some("code2") => {
                    let code = Meta { dtype: Dtype::U32, shape: vec![elements.div_ceil(16)] };
                    Ok(OpPlan { outputs, saved: vec![code, x.clone()], saves_inputs: vec![1], ..OpPlan::default() })
                }
                other => Err(format!("mode: expected exact or code2, got {other:?}")),
            },
            "test.scale" => Ok(OpPlan { outputs, saves_inputs: vec![0, 1], ..OpPlan::default() }),
            "test.forgets_seq" => {
                let mut wrong = x.clone();
                // Right at batch 1 alone.
                wrong.shape[0] = 1;
                Ok(OpPlan { outputs: vec![wrong], ..OpPlan::default() })
            }
            "test.saves_what_is_not" => Ok(OpPlan { outputs, saves_inputs: vec![7], ..OpPlan::default() }),
            "test.saves_too_much" => {
                let endless = Meta { dtype: Dtype::F32, shape: vec![u64::MAX, 3] };
                Ok(OpPlan { outputs, saved: vec![endless], ..OpPlan::default() })
            }
            "test.changes_its_mind" => {
                let rematerializes = if x.shape[0] == 1 { vec![0] } else { vec![] };
                Ok(OpPlan { outputs, rematerializes, ..OpPlan::default() })
            }
            other => Err(format!("this plugin has no op {other}")),
        }
    }
}

/// Replaces every swiglu by `test.swiglu` in the given mode.
pub fn swiglu_patch(graph: &Graph, mode: &str) -> Patch {
    let edits = graph
        .nodes
        .iter()
        .filter(|node| node.kind == "swiglu")
        .map(|node| Edit::Replace {
            at: node.path.clone(),
            with: Subgraph {
                inputs: names(&["gate", "up"]),
                outputs: names(&["h"]),
                nodes: vec![SubNode {
                    kind: "test.swiglu".into(),
                    inputs: names(&["gate", "up"]),
                    outputs: names(&["h"]),
                    attrs: attrs(json!({"mode": mode})),
                    values: vec![graph.values[&node.outputs[0]].clone()],
                    stands_for: Some("swiglu".into()),
                    ..SubNode::default()
                }],
            },
        })
        .collect();
    Patch { version: Patch::VERSION, edits, ..Patch::default() }
}

/// A patch from its document.
pub fn patch(edits: serde_json::Value) -> Patch {
    serde_json::from_value(json!({"version": 1, "edits": edits})).expect("the test's patch is a document")
}

/// For a layer of [`SMALL`], attention through a latent: k and v come from a factorised projection, a cache slot holds the latent, the old weights
/// go, a loss is added, one weight comes from a transform.
pub fn latent_attention(layer: u64) -> serde_json::Value {
    let at = format!("model.layers.{layer}.self_attn");
    let weight = |name: &str| format!("{at}.{name}.weight");
    let kv = json!({"cat": {"of": [{"tensor": weight("k_proj")}, {"tensor": weight("v_proj")}], "dim": 0}});
    let part = |part: &str| json!({"svd": {"of": kv, "rank": 24, "part": part}});
    let node = |name: &str,
                kind: &str,
                inputs: &[&str],
                outputs: &[&str],
                params: serde_json::Value,
                attrs: serde_json::Value| {
        json!({"name": name, "kind": kind, "inputs": inputs, "outputs": outputs, "params": params, "attrs": attrs})
    };
    let attention = json!({"num_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "scale": 0.25, "causal": true, "sliding_window": 8});
    json!([
        {"param": {"name": weight("kv_a_proj"), "dtype": "BF16", "shape": [24, 64], "init": {"expr": part("vh")}}},
        {"param": {"name": weight("kv_b_proj"), "dtype": "F32", "shape": [64, 24], "init": {"expr": {"mul": [part("u"), part("s")]}}}},
        {"param": {"name": format!("{at}.sinks"), "dtype": "BF16", "shape": [4], "init": {"transform": {"job": format!("sinks.{layer}"), "inputs": [weight("q_proj")], "output": 0}}}},
        {"replace": {"at": at, "with": {
            "inputs": ["x", "cos", "sin"],
            "outputs": ["y"],
            "nodes": [
                node("q_proj", "linear", &["x"], &["q"], json!({"weight": weight("q_proj")}), json!({})),
                node("kv_a_proj", "linear", &["x"], &["latent"], json!({"weight": weight("kv_a_proj")}), json!({})),
                node("kv_b_proj", "linear", &["latent"], &["kv"], json!({"weight": weight("kv_b_proj")}), json!({})),
                node("kv_split", "split", &["kv"], &["k", "v"], json!({}), json!({"sizes": [32, 32]})),
                node("rope", "rope", &["q", "k", "cos", "sin"], &["q1", "k1"], json!({}), json!({"head_dim": 16})),
                node("attn", "attention", &["q1", "k1", "v"], &["a"], json!({"sinks": format!("{at}.sinks")}), attention),
                node("o_proj", "linear", &["a"], &["y"], json!({"weight": weight("o_proj")}), json!({})),
                node("closeness", "mse", &["kv", "kv"], &["loss"], json!({}), json!({})),
            ],
        }}},
        {"drop": {"param": weight("k_proj")}},
        {"drop": {"param": weight("v_proj")}},
        {"cache": {"at": at, "slots": [{"at": at, "name": "latent", "dtype": "BF16", "shape": ["batch", "seq", 24]}]}},
        {"loss": {"name": format!("closeness_{layer}"), "value": format!("{at}.closeness"), "weight": 0.5}},
    ])
}
