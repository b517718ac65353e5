//! A patch: what a protocol wants changed, as data. The host validates it, diffs it, applies all of it or none of it.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{Attrs, CacheSlot, Dtype, Expr, Value};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Patch {
    /// The document's version: [`Patch::VERSION`].
    pub version: u32,
    /// Host features without which the patch means something else: `expr.svd/1`, `cache/1`, …. An unknown one is refused.
    #[serde(default)]
    pub requires: Vec<String>,
    pub edits: Vec<Edit>,
    /// What the patch loses, in one sentence for the user; `None` only where training is bit for bit what it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lossy: Option<String>,
}

impl Patch {
    pub const VERSION: u32 = 1;
}

/// One change. Edits apply in order; each sees the graph that the ones before it left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edit {
    /// Puts a subgraph where a node, or all nodes under a path (`model.layers.0.self_attn`), stood.
    Replace { at: String, with: Subgraph },
    /// Sets one attribute of a node.
    Attr { at: String, name: String, value: serde_json::Value },
    /// Adds a parameter, or makes an existing one anew.
    Param { name: String, dtype: Dtype, shape: Vec<u64>, init: Init },
    /// Removes a parameter that no node uses any more.
    Drop { param: String },
    /// Adds slots to what generation keeps between tokens.
    Cache { at: String, slots: Vec<CacheSlot> },
    /// Adds `weight` times a scalar value to the training loss.
    Loss { name: String, value: String, weight: f64 },
}

/// What a parameter holds before training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    Expr(Expr),
    /// Output number `output` of the plugin's transform `job`. Parameters that name one job are made by one call, whose
    /// `inputs` (tensors of the checkpoint) and `attrs` must then agree.
    Transform {
        job: String,
        inputs: Vec<String>,
        output: usize,
        #[serde(default)]
        attrs: Attrs,
    },
}

/// Nodes that replace a region. `inputs` and `outputs` bind by position to the region's own: its inputs are the outside
/// values its nodes use, in order of first use; its outputs the values that others use, in order of production.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Subgraph {
    /// Names under which the nodes below use the region's inputs.
    pub inputs: Vec<String>,
    /// Names (of nodes' outputs, or of inputs) that take the place of the region's outputs.
    pub outputs: Vec<String>,
    pub nodes: Vec<SubNode>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SubNode {
    /// The node's path is `at.name`, or `at` itself where this is empty.
    #[serde(default)]
    pub name: String,
    pub kind: String,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    /// Role to parameter name in the patched graph.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub params: IndexMap<String, String>,
    #[serde(default, skip_serializing_if = "Attrs::is_empty")]
    pub attrs: Attrs,
    /// Types of the outputs. Required for a plugin's op (the host checks them against its plan), inferred for a primitive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Value>,
    /// As [`super::Node::stands_for`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stands_for: Option<String>,
}

impl SubNode {
    /// The node's path in a graph where its subgraph stands in the place of `at`.
    pub fn path(&self, at: &str) -> String {
        if self.name.is_empty() { at.to_owned() } else { format!("{at}.{}", self.name) }
    }
}
