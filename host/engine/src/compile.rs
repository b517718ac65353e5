//! From a graph's nodes, whose attributes are words, to a program's, whose ops are typed.
//!
//! Which kinds there are, and what their attributes mean, stands in `unswag-graph`'s table; its validation has run before.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use serde_json::Value as Json;
use unswag_abi::doc::{Attrs, Dtype, Graph, Node as GraphNode};

use crate::{
    Activation, AttentionSpec, EmbeddingSpec, EngineError, Gate, LayerNorm, PluginOps, RmsNorm, RopeSpec, View,
    linear::Linear,
    ops::{Ids, Op},
    plugin::PluginOp,
    program::Node,
    rope::Rotary,
};

pub(crate) fn fault(path: &str, what: &str, expected: &str, got: &str) -> EngineError {
    let [path, what, expected, got] = [path, what, expected, got].map(str::to_owned);
    EngineError::Graph { path, what, expected, got }
}

pub(crate) struct Compile<'a> {
    pub graph: &'a Graph,
    pub ops: Option<Rc<dyn PluginOps>>,
    pub values: HashMap<String, usize>,
}

impl Compile<'_> {
    pub fn value(&mut self, name: &str) -> usize {
        let next = self.values.len();
        *self.values.entry(name.to_owned()).or_insert(next)
    }

    pub fn node(&mut self, node: &GraphNode) -> Result<Node, EngineError> {
        let op = self.op(node)?;
        let reads_ids = matches!(op, Op::Embedding { .. } | Op::Rotary { .. });
        let inputs = if reads_ids { Vec::new() } else { node.inputs.iter().map(|name| self.value(name)).collect() };
        let outputs = node.outputs.iter().map(|name| self.value(name)).collect();
        let (path, kind) = (node.path.clone(), node.kind.clone());
        Ok(Node { path, kind, op, inputs, outputs, requires_grad: false })
    }

    fn param(&self, node: &GraphNode, role: &str) -> Result<Option<usize>, EngineError> {
        let Some(name) = node.params.get(role) else { return Ok(None) };
        let found = self.graph.params.get_index_of(name);
        found.map(Some).ok_or_else(|| fault(&node.path, role, "a parameter of the graph", name))
    }

    fn needs_param(&self, node: &GraphNode, role: &str) -> Result<usize, EngineError> {
        self.param(node, role)?.ok_or_else(|| fault(&node.path, role, "a parameter", "none"))
    }

    fn plugin(&self, node: &GraphNode) -> Result<PluginOp, EngineError> {
        let (path, kind) = (node.path.clone(), node.kind.clone());
        let Some(ops) = self.ops.clone() else { return Err(EngineError::NoPlugin { path, kind }) };
        // A graph that is valid has every value and parameter that its nodes name.
        let types = |names: &[String]| names.iter().map(|name| self.graph.values[name].clone()).collect();
        let param = |name: &String| {
            let found = self.graph.params.get_full(name);
            let (index, _, param) =
                found.ok_or_else(|| fault(&node.path, "params", "a parameter of the graph", name))?;
            Ok::<_, EngineError>((index, param.shape.clone()))
        };
        Ok(PluginOp {
            path,
            kind,
            attrs: node.attrs.clone(),
            inputs: types(&node.inputs),
            outputs: types(&node.outputs),
            params: node.params.values().map(param).collect::<Result<_, _>>()?,
            rematerializes: node.saves.as_ref().map_or_else(Vec::new, |saves| saves.rematerializes.clone()),
            ops,
            planned: RefCell::default(),
        })
    }

    fn op(&self, node: &GraphNode) -> Result<Op, EngineError> {
        let attrs = Attributes { path: &node.path, attrs: &node.attrs };
        let weight = || self.needs_param(node, "weight");
        let is_tanh = attrs.text("approximate") == Some("tanh");
        Ok(match node.kind.as_str() {
            "embedding" => {
                let weight = weight()?;
                let stored = self.graph.params[weight].dtype;
                let dtype = attrs.text("dtype").and_then(Dtype::from_name).unwrap_or(stored);
                let scale = attrs.number("scale").unwrap_or(1.0);
                let spec = EmbeddingSpec { scale, offset: attrs.whole("offset").unwrap_or(0), dtype };
                let ids = match node.inputs.first().map(String::as_str) {
                    Some("input_ids") => Ids::Input,
                    Some("position_ids") => Ids::Position,
                    other => {
                        return Err(fault(&node.path, "ids", "input_ids or position_ids", other.unwrap_or("none")));
                    }
                };
                Op::Embedding { weight, spec, ids }
            }
            "linear" => {
                let is_stored_transposed = attrs.flag("transposed");
                let weight_view = if is_stored_transposed { View::AsIs } else { View::Transposed };
                Op::Linear(Linear { weight: weight()?, bias: self.param(node, "bias")?, weight_view, adapter: None })
            }
            "rms_norm" => {
                let spec = RmsNorm {
                    eps: attrs.needs("eps")?,
                    unit_offset: attrs.flag("unit_offset"),
                    group: attrs.whole("group"),
                };
                Op::RmsNorm { weight: weight()?, spec }
            }
            "layer_norm" => {
                let spec = LayerNorm { eps: attrs.needs("eps")? };
                Op::LayerNorm { weight: weight()?, bias: self.param(node, "bias")?, spec }
            }
            "rotary_embedding" => {
                let dtype = attrs.text("dtype").and_then(Dtype::from_name).unwrap_or(Dtype::F32);
                Op::Rotary { rotary: Rotary::new(&node.path, &node.attrs)?, dtype }
            }
            "rope" => {
                Op::Rope(RopeSpec { head_dim: attrs.needs_whole("head_dim")?, interleaved: attrs.flag("interleaved") })
            }
            "split" => {
                let sizes = node.attrs.get("sizes").and_then(Json::as_array).into_iter().flatten();
                Op::Split { sizes: sizes.filter_map(Json::as_u64).collect() }
            }
            "concat" => Op::Concat,
            "slice" => Op::Slice { start: attrs.needs_whole("start")?, end: attrs.needs_whole("end")? },
            "attention" => {
                let head_dim = attrs.needs_whole("head_dim")?;
                let spec = AttentionSpec {
                    heads: attrs.needs_whole("num_heads")?,
                    kv_heads: attrs.needs_whole("num_key_value_heads")?,
                    head_dim,
                    v_head_dim: attrs.whole("v_head_dim").unwrap_or(head_dim),
                    scale: attrs.needs("scale")?,
                    causal: attrs.flag("causal"),
                    window: attrs.whole("sliding_window"),
                    softcap: attrs.number("logit_softcap"),
                    batch: 0,
                    seq: 0,
                };
                Op::Attention { sinks: self.param(node, "sinks")?, spec }
            }
            "silu" => Op::Activation(Activation::Silu),
            "gelu" => Op::Activation(if is_tanh { Activation::GeluTanh } else { Activation::Gelu }),
            "relu" => Op::Activation(Activation::Relu),
            "relu2" => Op::Activation(Activation::Relu2),
            "tanh" => Op::Activation(Activation::Tanh),
            "sigmoid" => Op::Activation(Activation::Sigmoid),
            "swiglu" => Op::Gated(Gate::Silu),
            "geglu" => Op::Gated(if is_tanh { Gate::GeluTanh } else { Gate::Gelu }),
            "reglu" => Op::Gated(Gate::Relu),
            "add" => Op::Add,
            "sub" => Op::Sub,
            "mul" => Op::Mul,
            "scale" => Op::Scale(attrs.needs("by")?),
            "softcap" => Op::Softcap(attrs.needs("cap")?),
            "softmax" => Op::Softmax,
            "dropout" => Op::Dropout { p: attrs.needs("p")? },
            other if unswag_graph::kinds::is_plugin_op(other) => Op::Plugin(Box::new(self.plugin(node)?)),
            other => {
                let (path, kind) = (node.path.clone(), other.to_owned());
                return Err(EngineError::Unsupported { path, kind, why: "it has no gradient written".to_owned() });
            }
        })
    }
}

/// A node's attributes, whose types the graph's validation has checked.
struct Attributes<'a> {
    path: &'a str,
    attrs: &'a Attrs,
}

impl Attributes<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.attrs.get(name).and_then(Json::as_str)
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.attrs.get(name).and_then(Json::as_f64)
    }

    fn whole(&self, name: &str) -> Option<u64> {
        self.attrs.get(name).and_then(Json::as_u64)
    }

    fn flag(&self, name: &str) -> bool {
        self.attrs.get(name).and_then(Json::as_bool).unwrap_or(false)
    }

    fn needs(&self, name: &str) -> Result<f64, EngineError> {
        self.number(name).ok_or_else(|| fault(self.path, name, "a number", "none"))
    }

    fn needs_whole(&self, name: &str) -> Result<u64, EngineError> {
        self.whole(name).ok_or_else(|| fault(self.path, name, "a whole number", "none"))
    }
}
