//! The linear layers of a graph, under the names that PEFT has for them.
//!
//! PEFT names a layer by its module's path in the class that transformers instantiates for the config. A graph's node has that
//! path, also where the file spells its tensors without the root (`h.0.…` of a saved `GPT2Model`) or under another one
//! (`language_model.…`). A tensor's name is the file's own and names no module.

use std::collections::{HashMap, HashSet};

use unswag_abi::doc::Graph;

/// A linear layer of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearLayer {
    /// The module's path: `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// The graph's parameter: the tensor's name in the file.
    pub weight: String,
    pub input: u64,
    pub output: u64,
    /// Whether the weight is stored \[in, out\], as `Conv1D` does.
    pub is_stored_transposed: bool,
    /// Whether it makes the logits.
    pub is_head: bool,
    /// Whether its weight is an embedding's too.
    pub is_tied: bool,
}

/// The linear layers of a graph in its order, the head last.
pub fn linear_layers(graph: &Graph) -> Vec<LinearLayer> {
    let embeddings: HashSet<&str> = graph
        .nodes
        .iter()
        .filter(|node| node.kind == "embedding")
        .filter_map(|node| node.params.get("weight"))
        .map(String::as_str)
        .collect();
    let head = graph.nodes.iter().rposition(|node| node.kind == "linear");
    let layer = |(index, node): (usize, &unswag_abi::doc::Node)| {
        let weight = node.params.get("weight").filter(|_| node.kind == "linear")?;
        let &[rows, columns] = graph.params.get(weight)?.shape.as_slice() else { return None };
        let is_stored_transposed = node.attrs.get("transposed").and_then(serde_json::Value::as_bool).unwrap_or(false);
        let [output, input] = if is_stored_transposed { [columns, rows] } else { [rows, columns] };
        let is_tied = embeddings.contains(weight.as_str());
        let (path, weight, is_head) = (node.path.clone(), weight.clone(), Some(index) == head);
        Some(LinearLayer { path, weight, input, output, is_stored_transposed, is_head, is_tied })
    };
    graph.nodes.iter().enumerate().filter_map(layer).collect()
}

/// Where a multimodal model's decoder stood before transformers 4.52, and since.
const OLD_ROOT: &str = "language_model.model.";
const NEW_ROOT: &str = "model.language_model.";

/// Finds layers by the names that adapters have for them.
pub(crate) struct LayerIndex<'a> {
    by_path: HashMap<&'a str, usize>,
    /// Names of the file's tensors, which adapters of the inner model alone have.
    by_tensor: HashMap<&'a str, usize>,
}

impl<'a> LayerIndex<'a> {
    pub fn new(layers: &'a [LinearLayer]) -> Self {
        let by_path = layers.iter().enumerate().map(|(index, layer)| (layer.path.as_str(), index)).collect();
        let of_tensor = |(index, layer): (usize, &'a LinearLayer)| {
            let module = layer.weight.strip_suffix(".weight").filter(|_| !layer.is_tied)?;
            Some((module, index))
        };
        LayerIndex { by_path, by_tensor: layers.iter().enumerate().filter_map(of_tensor).collect() }
    }

    /// The layer, and whether it goes by another name than its path.
    pub fn find(&self, module: &str) -> Option<(usize, bool)> {
        if let Some(&index) = self.by_path.get(module) {
            return Some((index, false));
        }
        let moved = module.strip_prefix(OLD_ROOT).map(|rest| format!("{NEW_ROOT}{rest}"));
        let found = moved.and_then(|path| self.by_path.get(path.as_str()).copied());
        found.or_else(|| self.by_tensor.get(module).copied()).map(|index| (index, true))
    }
}

/// The last parts of the layers' paths, each once, sorted.
pub(crate) fn last_names(layers: &[LinearLayer]) -> Vec<&str> {
    let mut names: Vec<&str> = layers.iter().map(|layer| last_name(&layer.path)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

pub(crate) fn last_name(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}
