//! Which calls to try a plugin's ops with: those that its own patches make, at many sizes and element types.

use std::fmt;

use unswag_abi::doc::{Attrs, Dim, Dtype, Edit, Graph, Meta, Node, OpCall, Patch};

/// One use of a plugin's op in a patched graph.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Use {
    pub kind: String,
    pub attrs: Attrs,
    /// Inputs, then parameters: element type and shape, with symbols.
    inputs: Vec<(Dtype, Vec<Dim>)>,
    /// How many of the inputs are activations; the others are parameters.
    pub activations: usize,
    /// What the patch states of the outputs.
    outputs: Vec<(Dtype, Vec<Dim>)>,
    /// Of the parameters, in their order.
    pub roles: Vec<String>,
    pub stands_for: Option<String>,
    /// Attributes of the primitive that it stands for.
    pub plain_attrs: Attrs,
    /// The patch's sentence on what it loses; `None` where training is to be bit for bit what it was.
    pub lossy: Option<String>,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        for (index, (name, value)) in self.attrs.iter().enumerate() {
            write!(f, "{}{name}={value}", if index == 0 { " " } else { "," })?;
        }
        Ok(())
    }
}

/// Every node of a plugin's kind, or why one cannot be tried.
/// `before` is the graph that was patched.
pub(super) fn uses(before: &Graph, graph: &Graph, patch: &Patch) -> Vec<Result<Use, String>> {
    let mut uses = Vec::new();
    for node in graph.nodes.iter().filter(|node| node.kind.contains('.')) {
        let found = use_of(before, graph, node, patch);
        if !uses.contains(&found) {
            uses.push(found);
        }
    }
    uses
}

fn use_of(before: &Graph, graph: &Graph, node: &Node, patch: &Patch) -> Result<Use, String> {
    let value = |name: &String| match graph.values.get(name) {
        Some(value) => Ok((value.dtype, value.shape.clone())),
        None => Err(format!(
            "the type of {name} is known to the host only; `unswag plugin check` tries {} there",
            node.kind
        )),
    };
    let mut inputs = node.inputs.iter().map(value).collect::<Result<Vec<_>, _>>()?;
    let activations = inputs.len();
    for name in node.params.values() {
        let param = graph.params.get(name).ok_or_else(|| format!("{}: no parameter {name}", node.path))?;
        inputs.push((param.dtype, param.shape.iter().map(|&size| Dim::Fixed(size)).collect()));
    }
    // What was replaced says which variant of the primitive it was; the new node may have dropped an attribute.
    let replaced = replaced(before, node, patch).filter(|old| node.stands_for.as_ref() == Some(plain_kind(old)));
    Ok(Use {
        kind: node.kind.clone(),
        attrs: node.attrs.clone(),
        inputs,
        activations,
        outputs: node.outputs.iter().map(value).collect::<Result<_, _>>()?,
        roles: node.params.keys().cloned().collect(),
        stands_for: node.stands_for.clone(),
        plain_attrs: replaced.unwrap_or(node).attrs.clone(),
        lossy: patch.lossy.clone(),
    })
}

/// The one node that `node` was put in the place of. Its path may be another one.
fn replaced<'g>(before: &'g Graph, node: &Node, patch: &Patch) -> Option<&'g Node> {
    let place = patch.edits.iter().rev().find_map(|edit| match edit {
        Edit::Replace { at, with } => match with.nodes.as_slice() {
            [new] if new.path(at) == node.path => Some(at),
            _ => None,
        },
        _ => None,
    });
    match before.region(place?)?.nodes.as_slice() {
        [only] => before.nodes.get(*only),
        _ => None,
    }
}

fn plain_kind(node: &Node) -> &String {
    node.stands_for.as_ref().unwrap_or(&node.kind)
}

fn bind(dims: &[Dim], batch: u64, seq: u64) -> Vec<u64> {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Symbol(name) if name == "batch" => batch,
        Dim::Symbol(_) => seq,
    };
    dims.iter().map(size).collect()
}

impl Use {
    /// The element type of its activations in the sample.
    pub fn dtype(&self) -> Dtype {
        self.inputs.first().map_or(Dtype::F32, |(dtype, _)| *dtype)
    }

    /// The call of the sample, for so many tokens.
    pub fn call(&self, batch: u64, seq: u64) -> OpCall {
        self.call_as(self.dtype(), batch, seq)
    }

    /// The call with every float input of element type `dtype`.
    pub fn call_as(&self, dtype: Dtype, batch: u64, seq: u64) -> OpCall {
        let input = |(own, dims): &(Dtype, Vec<Dim>)| Meta {
            dtype: if own.is_float() { dtype } else { *own },
            shape: bind(dims, batch, seq),
        };
        OpCall { kind: self.kind.clone(), inputs: self.inputs.iter().map(input).collect(), attrs: self.attrs.clone() }
    }

    /// What the patch says the sample's call gives.
    pub fn stated_outputs(&self, batch: u64, seq: u64) -> Vec<Meta> {
        let meta = |(dtype, dims): &(Dtype, Vec<Dim>)| Meta { dtype: *dtype, shape: bind(dims, batch, seq) };
        self.outputs.iter().map(meta).collect()
    }

    /// Whether all inputs have one shape, so that any shape can be tried.
    pub fn is_elementwise(&self) -> bool {
        self.activations == self.inputs.len() && self.inputs.windows(2).all(|pair| pair[0].1 == pair[1].1)
    }

    /// The call at one shape for all inputs.
    pub fn call_at(&self, dtype: Dtype, shape: &[u64]) -> OpCall {
        let mut call = self.call_as(dtype, 1, 1);
        for input in &mut call.inputs {
            input.shape = shape.to_vec();
        }
        call
    }

    /// Calls of one element type at many sizes: one row, several, none; and for an element-wise op odd shapes, lengths
    /// around the width of a word and of a vector, a scalar, and an empty tensor in the middle.
    pub fn sizes(&self, dtype: Dtype) -> Vec<OpCall> {
        let mut calls: Vec<OpCall> =
            [(1, 1), (2, 5), (3, 42), (0, 5), (2, 0)].map(|(batch, seq)| self.call_as(dtype, batch, seq)).into();
        if self.is_elementwise() {
            let odd: [&[u64]; 9] = [&[6, 42, 123], &[1], &[7], &[0], &[3, 0, 5], &[], &[31], &[65], &[1, 1, 1025]];
            calls.extend(odd.map(|shape| self.call_at(dtype, shape)));
        }
        calls
    }
}

/// `BF16 [2, 5, 64], …`, for messages.
pub(super) fn describe(call: &OpCall) -> String {
    let inputs = call.inputs.iter().map(|meta| format!("{} {:?}", meta.dtype, meta.shape));
    Vec::from_iter(inputs).join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use unswag_abi::doc::{SubNode, Subgraph};

    use super::*;

    /// `model.norm` replaced by an op under the name `name`, with an eps of its choice.
    fn plain_attrs(name: &str) -> Attrs {
        let attrs = |eps: f64| Attrs::from([("eps".to_owned(), json!(eps))]);
        let norm = Node { path: "model.norm".into(), kind: "rms_norm".into(), attrs: attrs(1e-5), ..Node::default() };
        let new = SubNode {
            name: name.into(),
            kind: "x.norm".into(),
            attrs: attrs(1.0),
            stands_for: Some("rms_norm".into()),
            ..SubNode::default()
        };
        let path = new.path("model.norm");
        let op = Node { path, kind: "x.norm".into(), attrs: attrs(1.0), ..Node::default() };
        let op = Node { stands_for: new.stands_for.clone(), ..op };
        let with = Subgraph { nodes: vec![new], ..Subgraph::default() };
        let patch = Patch { edits: vec![Edit::Replace { at: "model.norm".into(), with }], ..Patch::default() };
        let [before, after] = [norm, op].map(|node| Graph { nodes: vec![node], ..Graph::default() });
        uses(&before, &after, &patch).remove(0).unwrap().plain_attrs
    }

    #[test]
    fn an_op_is_compared_with_the_variant_that_it_replaces_whatever_its_path() {
        for name in ["", "k"] {
            assert_eq!(plain_attrs(name)["eps"], json!(1e-5), "name {name:?}");
        }
    }
}
