//! What a graph keeps for its backward, node by node, in bytes per token.
//!
//! Eager PyTorch's rules: a node keeps what its kind's row in [`crate::kinds`] says; a plugin's op what its plan said. A
//! tensor that several nodes keep is one tensor, counted at the first; an output that its maker can make again
//! ([`unswag_abi::doc::Saves::rematerializes`]) costs its consumers nothing. Bytes are counted at
//! [`Sizes::REFERENCE`]. Views are counted by what they show, not by the tensor behind them.

use std::collections::HashSet;

use serde::Serialize;
use unswag_abi::doc::{Graph, Node, Param, Value};

use crate::{
    kinds::{self, Inputs, Save},
    sizes::Sizes,
};

/// What the whole graph keeps.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Saved {
    /// One per node, in the graph's order.
    pub nodes: Vec<NodeSaved>,
    pub bytes_per_token: f64,
}

/// What one node is the first to keep.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeSaved {
    pub path: String,
    pub tensors: Vec<SavedTensor>,
    pub bytes_per_token: f64,
}

/// One tensor kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SavedTensor {
    /// What it is to the node: `gate`, `y`, `rstd`.
    pub label: String,
    /// The graph's value that it is, or `None` for one that only the backward reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    pub bytes_per_token: f64,
}

impl Saved {
    /// The sum over the node at `path` and all under it.
    pub fn under(&self, path: &str) -> f64 {
        let is_inside = |node: &&NodeSaved| {
            let rest = node.path.strip_prefix(path);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.nodes.iter().filter(is_inside).map(|node| node.bytes_per_token).sum()
    }
}

/// Counts a graph that passes [`crate::validate`]; of any other, nodes that cannot be understood count nothing.
pub fn saved(graph: &Graph) -> Saved {
    let rematerialized: HashSet<&str> = graph
        .nodes
        .iter()
        .filter_map(|node| Some((node, node.saves.as_ref()?)))
        .flat_map(|(node, saves)| saves.rematerializes.iter().filter_map(|&index| node.outputs.get(index)))
        .map(String::as_str)
        .collect();
    let mut kept: HashSet<&str> = HashSet::new();
    let mut report = Saved::default();
    for node in &graph.nodes {
        let mut tensors = Vec::new();
        for save in saves_of(graph, node) {
            match save {
                Kept::Value { name, label, own } => {
                    let is_free = !own && rematerialized.contains(name);
                    if let Some(value) = graph.values.get(name).filter(|_| !is_free && kept.insert(name)) {
                        let bytes_per_token = Sizes::REFERENCE.bytes_per_token(value);
                        tensors.push(SavedTensor { label, value: Some(name.to_owned()), bytes_per_token });
                    }
                }
                Kept::Made { label, bytes_per_token } => {
                    tensors.push(SavedTensor { label, value: None, bytes_per_token });
                }
            }
        }
        let bytes_per_token = tensors.iter().map(|tensor| tensor.bytes_per_token).sum();
        report.nodes.push(NodeSaved { path: node.path.clone(), tensors, bytes_per_token });
    }
    report.bytes_per_token = report.nodes.iter().map(|node| node.bytes_per_token).sum();
    report
}

/// Writes each plugin op's share into its node, as readers of the document expect it.
pub(crate) fn fill(graph: &mut Graph) {
    let report = saved(graph);
    for (node, saved) in graph.nodes.iter_mut().zip(report.nodes) {
        if node.saves.is_some() {
            node.saved_bytes_per_token = Some(saved.bytes_per_token);
        }
    }
}

enum Kept<'a> {
    /// `own`: the node made it and keeps it itself, even where it could make it again.
    Value {
        name: &'a str,
        label: String,
        own: bool,
    },
    Made {
        label: String,
        bytes_per_token: f64,
    },
}

fn saves_of<'a>(graph: &'a Graph, node: &'a Node) -> Vec<Kept<'a>> {
    match kinds::find(&node.kind) {
        Some(kind) => primitive(graph, node, kind),
        None => plugin_op(node),
    }
}

fn primitive<'a>(graph: &'a Graph, node: &'a Node, kind: &kinds::Kind) -> Vec<Kept<'a>> {
    let inputs: Option<Vec<&Value>> = node.inputs.iter().map(|name| graph.values.get(name)).collect();
    let params: Option<Vec<(&str, &Param)>> =
        node.params.iter().map(|(role, name)| Some((role.as_str(), graph.params.get(name)?))).collect();
    let (Some(inputs), Some(params)) = (inputs, params) else { return Vec::new() };
    let names = match kind.inputs {
        Inputs::Exactly(names) => names,
        Inputs::AtLeast(_) => &[],
    };
    let label = |names: &[&str], index: usize, what: &str| match names.get(index) {
        Some(name) => (*name).to_owned(),
        None => format!("{what} {index}"),
    };
    let kept = |save| {
        Some(match save {
            Save::Input(i) => Kept::Value { name: node.inputs.get(i)?, label: label(names, i, "input"), own: false },
            Save::Output(i) => {
                Kept::Value { name: node.outputs.get(i)?, label: label(kind.outputs, i, "output"), own: true }
            }
            Save::Made { label, value } => {
                let bytes_per_token = Sizes::REFERENCE.bytes_per_token(&value);
                Kept::Made { label: label.to_owned(), bytes_per_token }
            }
        })
    };
    kind.saves(&inputs, &params, &node.attrs).into_iter().filter_map(kept).collect()
}

fn plugin_op(node: &Node) -> Vec<Kept<'_>> {
    let Some(saves) = &node.saves else {
        let recorded = node.saved_bytes_per_token.filter(|&bytes| bytes > 0.0);
        return recorded
            .map(|bytes_per_token| Kept::Made { label: "as recorded".to_owned(), bytes_per_token })
            .into_iter()
            .collect();
    };
    let mut kept = Vec::new();
    if saves.own_bytes_per_token > 0.0 {
        let bytes_per_token = saves.own_bytes_per_token;
        kept.push(Kept::Made { label: "the op's own".to_owned(), bytes_per_token });
    }
    // An index past the inputs is a parameter, which is there anyhow.
    let inputs = saves.inputs.iter().filter_map(|&i| Some((i, node.inputs.get(i)?)));
    kept.extend(inputs.map(|(i, name)| Kept::Value { name, label: format!("input {i}"), own: false }));
    let outputs = saves.outputs.iter().filter_map(|&i| Some((i, node.outputs.get(i)?)));
    kept.extend(outputs.map(|(i, name)| Kept::Value { name, label: format!("output {i}"), own: true }));
    kept
}
