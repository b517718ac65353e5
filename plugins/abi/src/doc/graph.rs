//! The module graph: what a checkpoint computes, as nodes named by their path in it.

use std::{collections::HashSet, fmt};

use indexmap::IndexMap;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, Unexpected, Visitor},
};

use super::Attrs;

/// A dataflow graph of modules. Nodes are in an order in which they can run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// The document's version: [`Graph::VERSION`].
    pub version: u32,
    pub arch: Arch,
    /// Values that come from outside (`input_ids`, `position_ids`).
    pub inputs: Vec<String>,
    /// Values that the model returns (`logits`' value name).
    pub outputs: Vec<String>,
    pub nodes: Vec<Node>,
    /// Every value, inputs included, by name. A node's only output is named as its path; a further one `path:1`, ….
    pub values: IndexMap<String, Value>,
    /// Every parameter, by its tensor's name in the checkpoint. A tied parameter stands once and is used twice.
    pub params: IndexMap<String, Param>,
    /// What generation keeps between tokens, beyond what the node kinds keep by themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cache: Vec<CacheSlot>,
    /// Losses added to the model's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<Loss>,
}

impl Graph {
    pub const VERSION: u32 = 1;

    pub fn node(&self, path: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.path == path)
    }

    /// The node at `at` and every node under it, with what crosses the border; `None` where there is no such node. One
    /// pass over the graph.
    pub fn region(&self, at: &str) -> Option<Region> {
        let is_inside =
            |node: &Node| node.path.strip_prefix(at).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let nodes: Vec<usize> = (0..self.nodes.len()).filter(|&i| is_inside(&self.nodes[i])).collect();
        if nodes.is_empty() {
            return None;
        }
        let members = || nodes.iter().map(|&i| &self.nodes[i]);
        let made: HashSet<&str> = members().flat_map(|node| &node.outputs).map(String::as_str).collect();
        let mut seen = HashSet::new();
        let inputs = members()
            .flat_map(|node| &node.inputs)
            .filter(|&value| !made.contains(value.as_str()) && seen.insert(value))
            .cloned()
            .collect();
        let used_outside: HashSet<&str> = self
            .nodes
            .iter()
            .filter(|node| !is_inside(node))
            .flat_map(|node| &node.inputs)
            .chain(&self.outputs)
            .chain(self.losses.iter().map(|loss| &loss.value))
            .map(String::as_str)
            .collect();
        let outputs = members()
            .flat_map(|node| &node.outputs)
            .filter(|&value| used_outside.contains(value.as_str()))
            .cloned()
            .collect();
        Some(Region { nodes, inputs, outputs })
    }
}

/// What `Edit::Replace{at}` takes out: the node at a path and all nodes under it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Positions in [`Graph::nodes`], ascending.
    pub nodes: Vec<usize>,
    /// Outside values that the nodes use, in order of first use.
    pub inputs: Vec<String>,
    /// Values made here that other nodes, the model's outputs or a loss use, in order of production.
    pub outputs: Vec<String>,
}

/// Which architecture the graph was built from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Arch {
    /// transformers' `model_type`: `llama`, `gemma2`, ….
    pub model_type: String,
    /// The checkpoint's `config.json`, as it is.
    #[serde(default)]
    pub config: Attrs,
}

/// One module (`model.layers.3.mlp.act_fn`) or one function between modules (`model.layers.3.add_1`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub path: String,
    /// A host primitive (`linear`, `swiglu`, …) or a plugin's op (`delhi.swiglu`).
    pub kind: String,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    /// Role to parameter name: `weight` to `model.layers.3.mlp.up_proj.weight`.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub params: IndexMap<String, String>,
    #[serde(default, skip_serializing_if = "Attrs::is_empty")]
    pub attrs: Attrs,
    /// The host primitive whose forward this plugin op equals bit for bit, so that tools without the plugin may run that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stands_for: Option<String>,
    /// What the op saves for the backward, in bytes per token, as its plan said when the surgery was made. Host
    /// primitives leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved_bytes_per_token: Option<f64>,
    /// Which tensors that figure is made of, so that a reader without the plugin can tell what the op's neighbours need
    /// not save. Host primitives leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saves: Option<Saves>,
}

/// What a plugin's op keeps for its backward, mirrored from its [`super::OpPlan`] when the surgery was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Saves {
    /// Bytes per token of the tensors that the op makes for its backward alone.
    pub own_bytes_per_token: f64,
    /// As [`super::OpPlan::saves_inputs`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<usize>,
    /// As [`super::OpPlan::saves_outputs`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<usize>,
    /// As [`super::OpPlan::rematerializes`]: consumers of these outputs need not save them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rematerializes: Vec<usize>,
    /// As [`super::OpPlan::rematerializes_exactly`].
    #[serde(default)]
    pub rematerializes_exactly: bool,
}

/// Shape and element type of a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    pub dtype: Dtype,
    pub shape: Vec<Dim>,
}

/// A parameter: a tensor of the checkpoint, or one that a patch makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Param {
    pub dtype: Dtype,
    pub shape: Vec<u64>,
}

/// One tensor that generation keeps per token or per sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSlot {
    /// The node or block that owns it.
    pub at: String,
    pub name: String,
    pub dtype: Dtype,
    /// `"seq"` where one entry is kept per token.
    pub shape: Vec<Dim>,
}

/// A scalar value added to the training loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    pub name: String,
    pub value: String,
    pub weight: f64,
}

/// A size: a number, or a symbol that a call fixes (`"batch"`, `"seq"`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub enum Dim {
    Fixed(u64),
    Symbol(String),
}

impl Dim {
    pub fn symbol(name: &str) -> Self {
        Dim::Symbol(name.to_owned())
    }

    pub fn fixed(&self) -> Option<u64> {
        match self {
            Dim::Fixed(size) => Some(*size),
            Dim::Symbol(_) => None,
        }
    }
}

/// By hand, because serde buffers what it reads for an untagged enum, and a graph has thousands of sizes.
impl<'de> Deserialize<'de> for Dim {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DimVisitor;

        impl Visitor<'_> for DimVisitor {
            type Value = Dim;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size: a whole number of at least 0, or the name of a symbol")
            }

            fn visit_u64<E: de::Error>(self, size: u64) -> Result<Dim, E> {
                Ok(Dim::Fixed(size))
            }

            fn visit_i64<E: de::Error>(self, size: i64) -> Result<Dim, E> {
                let fixed = u64::try_from(size).map(Dim::Fixed);
                fixed.map_err(|_| E::invalid_value(Unexpected::Signed(size), &self))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Dim, E> {
                Ok(Dim::symbol(name))
            }
        }

        deserializer.deserialize_any(DimVisitor)
    }
}

impl From<u64> for Dim {
    fn from(size: u64) -> Self {
        Dim::Fixed(size)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(size) => write!(f, "{size}"),
            Dim::Symbol(name) => f.write_str(name),
        }
    }
}

/// Element types, spelled as safetensors spells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[non_exhaustive]
pub enum Dtype {
    Bool,
    U8,
    I8,
    #[serde(rename = "F8_E4M3")]
    F8E4M3,
    #[serde(rename = "F8_E5M2")]
    F8E5M2,
    U16,
    I16,
    F16,
    Bf16,
    U32,
    I32,
    F32,
    U64,
    I64,
    F64,
}

impl Dtype {
    pub const ALL: [Dtype; 15] = [
        Dtype::Bool,
        Dtype::U8,
        Dtype::I8,
        Dtype::F8E4M3,
        Dtype::F8E5M2,
        Dtype::U16,
        Dtype::I16,
        Dtype::F16,
        Dtype::Bf16,
        Dtype::U32,
        Dtype::I32,
        Dtype::F32,
        Dtype::U64,
        Dtype::I64,
        Dtype::F64,
    ];

    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            Dtype::Bool | Dtype::U8 | Dtype::I8 | Dtype::F8E4M3 | Dtype::F8E5M2 => 1,
            Dtype::U16 | Dtype::I16 | Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::U32 | Dtype::I32 | Dtype::F32 => 4,
            Dtype::U64 | Dtype::I64 | Dtype::F64 => 8,
        }
    }

    pub fn is_float(self) -> bool {
        use Dtype::*;
        matches!(self, F8E4M3 | F8E5M2 | F16 | Bf16 | F32 | F64)
    }

    /// As safetensors spells it: `BF16`.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::Bool => "BOOL",
            Dtype::U8 => "U8",
            Dtype::I8 => "I8",
            Dtype::F8E4M3 => "F8_E4M3",
            Dtype::F8E5M2 => "F8_E5M2",
            Dtype::U16 => "U16",
            Dtype::I16 => "I16",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
            Dtype::U32 => "U32",
            Dtype::I32 => "I32",
            Dtype::F32 => "F32",
            Dtype::U64 => "U64",
            Dtype::I64 => "I64",
            Dtype::F64 => "F64",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
