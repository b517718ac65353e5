//! Writes a graph node by node: gives values their names and shapes, and claims each parameter's tensor on the way.
//!
//! All hidden values are `[batch, seq, width]` in one dtype, which is known only when every tensor has been claimed, and
//! so is filled in at the end.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde_json::json;
use unswag_abi::doc::{Arch, Attrs, Dim, Dtype, Graph, Node, Param, Value};

use super::{
    activation::Activation,
    error::BuildError,
    tensors::{Prefix, Tensors},
};

pub(super) struct Writer<'a> {
    pub tensors: Tensors<'a>,
    pub notes: Vec<String>,
    /// What the paths of the decoder's modules begin with: `model.`.
    root: &'static str,
    nodes: Vec<Node>,
    values: IndexMap<String, Value>,
    params: IndexMap<String, Param>,
    /// Tensors that repeat a tied parameter, and what they repeat.
    pub duplicates: Vec<(String, String)>,
    same_data: &'a mut dyn FnMut(&str, &str) -> bool,
    /// Which node claimed each parameter, in order: what the list of expected tensors is made of.
    pub claimed_by: Vec<(String, String)>,
}

pub(super) const INPUT_IDS: &str = "input_ids";
pub(super) const POSITION_IDS: &str = "position_ids";

/// Until every tensor is claimed; see [`Writer::finish`].
const UNKNOWN_YET: Dtype = Dtype::F32;

impl<'a> Writer<'a> {
    pub fn new(tensors: Tensors<'a>, same_data: &'a mut dyn FnMut(&str, &str) -> bool) -> Self {
        let ids = || Value { dtype: Dtype::I64, shape: vec![Dim::symbol("batch"), Dim::symbol("seq")] };
        Writer {
            tensors,
            notes: Vec::new(),
            root: "",
            nodes: Vec::new(),
            values: [INPUT_IDS, POSITION_IDS].map(|name| (name.to_owned(), ids())).into_iter().collect(),
            params: IndexMap::new(),
            duplicates: Vec::new(),
            same_data,
            claimed_by: Vec::new(),
        }
    }

    /// Sets the root of the module paths, and finds how the file spells it.
    pub fn set_root(&mut self, root: &'static str, candidates: &[Prefix], anchors: &[&str]) {
        self.root = root;
        self.tensors.find_prefix(candidates, anchors);
    }

    /// A module's path: `layers.3.mlp` to `model.layers.3.mlp`.
    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.root)
    }

    /// The name in the file of a module's parameter. The same as the module's path in most files; some leave the root out
    /// or put another before it.
    pub fn tensor_name(&self, path: &str, role: &str) -> String {
        let Prefix { body, head } = self.tensors.prefix;
        match path.strip_prefix(self.root) {
            Some(rest) => format!("{body}{rest}.{role}"),
            None => format!("{head}{path}.{role}"),
        }
    }

    /// Claims the tensor of a module's parameter and gives its name.
    pub fn claim(&mut self, path: &str, role: &str, shape: &[u64]) -> Result<String, BuildError> {
        let name = self.tensor_name(path, role);
        let dtype = self.tensors.claim(&name, path, shape)?;
        self.claimed_by.push((name.clone(), path.to_owned()));
        self.params.insert(name.clone(), Param { dtype, shape: shape.to_vec() });
        Ok(name)
    }

    /// Adds a node with one output for each of `widths`; gives the outputs' names.
    pub fn node(
        &mut self,
        path: &str,
        kind: &str,
        inputs: &[&str],
        widths: &[u64],
        params: &[(&str, &str)],
        attrs: Attrs,
    ) -> Vec<String> {
        let outputs: Vec<String> = (0..widths.len())
            .map(|index| if index == 0 { path.to_owned() } else { format!("{path}:{index}") })
            .collect();
        for (name, &width) in outputs.iter().zip(widths) {
            let shape = vec![Dim::symbol("batch"), Dim::symbol("seq"), Dim::Fixed(width)];
            self.values.insert(name.clone(), Value { dtype: UNKNOWN_YET, shape });
        }
        self.nodes.push(Node {
            path: path.to_owned(),
            kind: kind.to_owned(),
            inputs: inputs.iter().map(|&name| name.to_owned()).collect(),
            outputs: outputs.clone(),
            params: params.iter().map(|&(role, name)| (role.to_owned(), name.to_owned())).collect(),
            attrs,
            ..Node::default()
        });
        outputs
    }

    /// A node with one output and no parameters.
    pub fn function(&mut self, path: &str, kind: &str, inputs: &[&str], width: u64, attrs: Attrs) -> String {
        self.node(path, kind, inputs, &[width], &[], attrs);
        path.to_owned()
    }

    pub fn embedding(&mut self, path: &str, ids: &str, shape: [u64; 2], attrs: Attrs) -> Result<String, BuildError> {
        let weight = self.claim(path, "weight", &shape)?;
        self.node(path, "embedding", &[ids], &[shape[1]], &[("weight", &weight)], attrs);
        Ok(path.to_owned())
    }

    /// y = x W^T + b. `transposed` is for weights stored as [in, out].
    pub fn linear(&mut self, path: &str, x: &str, shape: Linear) -> Result<String, BuildError> {
        let Linear { inputs, outputs, bias, transposed } = shape;
        let sizes = if transposed { [inputs, outputs] } else { [outputs, inputs] };
        let weight = self.claim(path, "weight", &sizes)?;
        let mut params = vec![("weight", weight)];
        if bias {
            params.push(("bias", self.claim(path, "bias", &[outputs])?));
        }
        let params: Vec<(&str, &str)> = params.iter().map(|(role, name)| (*role, name.as_str())).collect();
        let attrs = if transposed { attrs([("transposed", json!(true))]) } else { Attrs::new() };
        self.node(path, "linear", &[x], &[outputs], &params, attrs);
        Ok(path.to_owned())
    }

    /// The weight has as many elements as `group` where that is given (one norm for each head), else as x is wide.
    pub fn rms_norm(&mut self, path: &str, x: &str, norm: RmsNorm) -> Result<String, BuildError> {
        let RmsNorm { width, group, eps, unit_offset } = norm;
        let weight = self.claim(path, "weight", &[group.unwrap_or(width)])?;
        let mut attrs = attrs([("eps", json!(eps))]);
        if unit_offset {
            attrs.insert("unit_offset".to_owned(), json!(true));
        }
        if let Some(group) = group {
            attrs.insert("group".to_owned(), json!(group));
        }
        self.node(path, "rms_norm", &[x], &[width], &[("weight", &weight)], attrs);
        Ok(path.to_owned())
    }

    pub fn layer_norm(&mut self, path: &str, x: &str, width: u64, eps: f64) -> Result<String, BuildError> {
        let weight = self.claim(path, "weight", &[width])?;
        let bias = self.claim(path, "bias", &[width])?;
        let params = [("weight", weight.as_str()), ("bias", bias.as_str())];
        self.node(path, "layer_norm", &[x], &[width], &params, attrs([("eps", json!(eps))]));
        Ok(path.to_owned())
    }

    pub fn activation(&mut self, path: &str, function: Activation, x: &str, width: u64) -> String {
        self.function(path, function.kind(), &[x], width, function.attrs())
    }

    pub fn add(&mut self, path: &str, a: &str, b: &str, width: u64) -> String {
        self.function(path, "add", &[a, b], width, Attrs::new())
    }

    /// Nothing where the probability is 0: the graph then reads as what it computes.
    pub fn dropout(&mut self, path: &str, x: String, p: f64, width: u64) -> String {
        if p == 0.0 {
            return x;
        }
        self.function(path, "dropout", &[&x], width, attrs([("p", json!(p))]))
    }

    /// The output matrix: a tensor of its own, or the embedding's. Gives the logits.
    pub fn lm_head(
        &mut self,
        x: &str,
        embedding: &str,
        [vocab, width]: [u64; 2],
        tied: bool,
    ) -> Result<String, BuildError> {
        let path = "lm_head";
        let source = self.tensor_name(embedding, "weight");
        let own = self.tensor_name(path, "weight");
        let weight = if !tied {
            self.claim(path, "weight", &[vocab, width])?
        } else if !self.tensors.has(&own) {
            source
        } else if (self.same_data)(&own, &source) {
            self.tensors.claim(&own, path, &[vocab, width])?;
            self.duplicates.push((own, source.clone()));
            source
        } else {
            // What transformers does since version 5: the file is believed, not the config.
            self.notes.push(format!(
                "config says tie_word_embeddings, but {own} and {source} differ: they are two parameters"
            ));
            self.claim(path, "weight", &[vocab, width])?
        };
        self.node(path, "linear", &[x], &[vocab], &[("weight", &weight)], Attrs::new());
        Ok(path.to_owned())
    }

    /// Gives every value its dtype and closes the graph.
    ///
    /// `stated` is the dtype that the config names.
    pub fn finish(mut self, model_type: &str, config: &Attrs, logits: String, stated: Option<Dtype>) -> Finished<'a> {
        let dtype = self.activation_dtype(stated);
        for value in self.values.values_mut().filter(|value| value.dtype == UNKNOWN_YET) {
            value.dtype = dtype;
        }
        for node in &mut self.nodes {
            // The two kinds that do not take their dtype from a hidden value.
            let differs = match node.kind.as_str() {
                "rotary_embedding" => true,
                "embedding" => node.params.values().any(|name| self.params[name].dtype != dtype),
                _ => false,
            };
            if differs {
                node.attrs.insert("dtype".to_owned(), json!(dtype.name()));
            }
        }
        let graph = Graph {
            version: Graph::VERSION,
            arch: Arch { model_type: model_type.to_owned(), config: config.clone() },
            inputs: vec![INPUT_IDS.to_owned(), POSITION_IDS.to_owned()],
            outputs: vec![logits],
            nodes: self.nodes,
            values: self.values,
            params: self.params,
            ..Graph::default()
        };
        Finished { graph, tensors: self.tensors, duplicates: self.duplicates, notes: self.notes }
    }

    /// The weights' dtype where they have one; of several the one that the config states, else the one most elements have.
    fn activation_dtype(&mut self, stated: Option<Dtype>) -> Dtype {
        let mut elements = BTreeMap::<Dtype, u128>::new();
        for param in self.params.values() {
            let count = param.shape.iter().fold(1u128, |product, &size| product.saturating_mul(u128::from(size)));
            let sum = elements.entry(param.dtype).or_default();
            *sum = sum.saturating_add(count);
        }
        let Some((&most, _)) = elements.iter().max_by_key(|(_, count)| **count) else {
            return stated.unwrap_or(Dtype::F32);
        };
        if elements.len() == 1 {
            return most;
        }
        let chosen = stated.filter(|dtype| elements.contains_key(dtype)).unwrap_or(most);
        let names: Vec<&str> = elements.keys().map(|dtype| dtype.name()).collect();
        self.notes.push(format!("weights are of several dtypes ({}): activations are {chosen}", names.join(", ")));
        chosen
    }
}

/// A closed graph and what was learnt while writing it.
pub(super) struct Finished<'a> {
    pub graph: Graph,
    pub tensors: Tensors<'a>,
    pub duplicates: Vec<(String, String)>,
    pub notes: Vec<String>,
}

/// Sizes of a `linear`.
#[derive(Clone, Copy)]
pub(super) struct Linear {
    pub inputs: u64,
    pub outputs: u64,
    pub bias: bool,
    pub transposed: bool,
}

impl Linear {
    pub fn new(inputs: u64, outputs: u64, bias: bool) -> Self {
        Linear { inputs, outputs, bias, transposed: false }
    }
}

#[derive(Clone, Copy)]
pub(super) struct RmsNorm {
    pub width: u64,
    pub group: Option<u64>,
    pub eps: f64,
    pub unit_offset: bool,
}

pub(super) fn attrs<const N: usize>(pairs: [(&str, serde_json::Value); N]) -> Attrs {
    pairs.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}
