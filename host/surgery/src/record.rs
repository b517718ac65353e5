//! `unswag.yaml`: what was done to a checkpoint, written into the folder it made.
//!
//! From the record alone the graph is rebuilt, the surgery re-run, compared or undone: no plugin is needed to read it, and
//! reading it runs no plugin. It must never name a file outside the folder but for the base's path.

use std::collections::BTreeSet;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use unswag_abi::doc::{Attrs, Edit, Graph, Node, OpCall, OpPlan, Param, Patch, SubNode};
use unswag_graph::kinds;
use unswag_loader::yaml::{self, YamlError};

pub const FILE_NAME: &str = "unswag.yaml";
/// A record holds patches, not weights. One of a patch for every node of a 1,200-node graph has under one million bytes; the reader
/// takes some twenty times the size of the text in memory.
pub const MAX_BYTES: u64 = 16 << 20;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The format's version: [`Record::VERSION`].
    pub unswag: u32,
    pub base: Base,
    /// What was done, in order.
    pub steps: Vec<Step>,
    /// Every file of the folder but this one.
    pub files: Vec<File>,
}

/// The checkpoint that the first step was done to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Where it was, as an absolute path. It may be gone since.
    pub path: String,
    /// transformers' `model_type` of it.
    pub model_type: String,
    /// Its weight files and its `config.json`.
    pub files: Vec<FileHash>,
    /// Parameters of it that the output no longer holds as they were.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub replaced: IndexMap<String, Param>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileHash {
    pub name: String,
    pub bytes: u64,
    /// BLAKE3 of the content, in hexadecimal.
    pub blake3: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub name: String,
    pub bytes: u64,
    pub blake3: String,
    pub how: How,
}

/// How a file came into the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Made by the surgery.
    Written,
    /// The base's bytes in blocks of their own.
    Copied,
    /// The base's bytes in shared blocks that part when either is written.
    Reflinked,
    /// The base's own file under a second name. Read-only: writing to it would change the base.
    Linked,
}

/// One protocol's work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub protocol: String,
    pub version: String,
    /// The library that held the protocol, and its exact bytes.
    pub plugin: PluginId,
    #[serde(default, skip_serializing_if = "Attrs::is_empty")]
    pub options: Attrs,
    /// Whether it left what the model computes as it was, so that other tools may open the output as the base.
    pub keeps_forward: bool,
    /// What the plugin's ops stand for, and whether that was verified.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<Claim>,
    /// What the plugin's ops answered when they were planned, so that the graph is rebuilt without the plugin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plans: Vec<Planned>,
    pub patch: Patch,
}

impl Step {
    /// Whether this is the same work as `other`: all but what was found out about it.
    pub(crate) fn is_same_work(&self, other: &Step) -> bool {
        let work = |step: &Step| Step { keeps_forward: false, claims: Vec::new(), ..step.clone() };
        work(self) == work(other)
    }

    /// Whether the model is known to compute what it did before this step: the patch keeps the forward where its ops are what they
    /// stand for, and each was found to be.
    pub fn is_known_to_keep_forward(&self) -> bool {
        self.keeps_forward && !self.is_unverified()
    }

    /// Whether something that its ops stand for was not verified: it could not be, or the record is older than verification.
    pub fn is_unverified(&self) -> bool {
        self.lacks_claims() || self.claims.iter().any(|claim| claim.verified == Verified::Unverified)
    }

    /// Whether its ops stand for primitives and the record does not say what was found about that.
    pub(crate) fn lacks_claims(&self) -> bool {
        self.claims.is_empty() && self.new_nodes().any(|(_, node)| node.stands_for.is_some())
    }

    /// Paths of the nodes that it put into the graph.
    pub(crate) fn patch_nodes(&self) -> impl Iterator<Item = String> {
        self.new_nodes().map(|(at, node)| node.path(at))
    }

    /// The nodes that it put into the graph, each with the place that it was put in.
    pub(crate) fn new_nodes(&self) -> impl Iterator<Item = (&str, &SubNode)> {
        let replaced = self.patch.edits.iter().filter_map(|edit| match edit {
            Edit::Replace { at, with } => Some((at.as_str(), &with.nodes)),
            _ => None,
        });
        replaced.flat_map(|(at, nodes)| nodes.iter().map(move |node| (at, node)))
    }
}

/// Nodes whose op stands for a host primitive, and what its forward was found to be beside that primitive's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The plugin's op.
    pub op: String,
    /// The host primitive.
    pub stands_for: String,
    /// How many nodes of the step make this claim.
    pub nodes: usize,
    pub verified: Verified,
    /// What was measured, or why it could not be.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verified {
    /// The same bits at every sampled element.
    BitForBit,
    /// Off by no more than rounding explains.
    UpToRounding,
    /// Not known: there is no reference of the primitive, or the op could not be run.
    Unverified,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginId {
    pub name: String,
    pub version: String,
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    pub call: OpCall,
    pub plan: OpPlan,
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{FILE_NAME}: {0}; expected a record written by `unswag surgery`")]
    Yaml(#[from] YamlError),
    #[error("{FILE_NAME}: {0}; the record was edited or damaged")]
    Field(serde_json::Error),
    #[error(
        "{FILE_NAME}: unswag: expected format version {}, got {got}; read it with the release of unswag that wrote it",
        Record::VERSION
    )]
    Version { got: u32 },
    #[error(
        "{FILE_NAME}: {field}: {value:?} is not the name of a file in this folder; the record was edited or damaged"
    )]
    Name { field: &'static str, value: String },
    #[error("{FILE_NAME}: {got} bytes or more; a record has at most {MAX_BYTES}, so this is none")]
    Size { got: u64 },
    #[error("{FILE_NAME}: it is not text: {0}")]
    Text(#[from] std::str::Utf8Error),
    #[error("{FILE_NAME}: steps: expected at least one, got none; the record was edited or damaged")]
    NoSteps,
}

impl Record {
    pub const VERSION: u32 = 1;

    /// # Errors
    /// As [`Record::parse`]; or more than [`MAX_BYTES`], or bytes that are no text.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(RecordError::Size { got: bytes.len() as u64 });
        }
        Self::parse(str::from_utf8(bytes)?)
    }

    /// # Errors
    /// Text that is not such a record, another format version, or names that leave the folder.
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        // The version first, alone: a later format may differ in every other field.
        #[derive(Deserialize)]
        struct Version {
            unswag: u32,
        }
        // By way of JSON, because the documents nest enums, which YAML's own tags cannot say.
        let document: serde_json::Value = yaml::parse(text)?;
        let version = Version::deserialize(&document).map_err(RecordError::Field)?;
        if version.unswag != Self::VERSION {
            return Err(RecordError::Version { got: version.unswag });
        }
        let record: Record = serde_json::from_value(document).map_err(RecordError::Field)?;
        if record.steps.is_empty() {
            return Err(RecordError::NoSteps);
        }
        for file in &record.files {
            if !is_plain_name(&file.name) {
                return Err(RecordError::Name { field: "files", value: file.name.clone() });
            }
        }
        for file in &record.base.files {
            if !is_plain_name(&file.name) {
                return Err(RecordError::Name { field: "base.files", value: file.name.clone() });
            }
        }
        Ok(record)
    }

    /// The record as text, with a first line that tells a reader what it is.
    pub fn to_yaml(&self) -> Result<String, RecordError> {
        let document = serde_json::to_value(self).map_err(RecordError::Field)?;
        let text = serde_yaml::to_string(&document).map_err(YamlError::Syntax)?;
        Ok(format!(
            "# What unswag did to this checkpoint. `unswag verify`, `unswag undo` and `unswag diff` read it.\n{text}"
        ))
    }

    /// Names of the parameters that the steps made and that the final graph still has.
    pub fn made(&self) -> BTreeSet<&str> {
        let mut made = BTreeSet::new();
        for edit in self.steps.iter().flat_map(|step| &step.patch.edits) {
            match edit {
                Edit::Param { name, .. } => made.insert(name.as_str()),
                Edit::Drop { param } => made.remove(param.as_str()),
                _ => false,
            };
        }
        made
    }
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

/// Whether a patch leaves what the model computes, and its tensors, as they were, where its claims hold: every replaced node is one
/// node that stands for the same primitive with the same parameters and the same attributes of that primitive. Then other tools open the
/// output as they open the base. Added losses do not count: they are for training.
///
/// Where a replaced node is itself a plugin's op, this says nothing unless the steps before are known to keep the forward.
pub fn keeps_forward_if_claims_hold(before: &Graph, patch: &Patch) -> bool {
    patch.edits.iter().all(|edit| match edit {
        Edit::Replace { at, with } => match (only_node(before, at), with.nodes.as_slice()) {
            (Some(old), [new]) => {
                let plain = plain_kind(old);
                old.path == *at
                    && new.stands_for.as_ref() == Some(plain)
                    && new.params == old.params
                    && same_attrs(plain, &old.attrs, &new.attrs)
                    && with.inputs == new.inputs
                    && with.outputs == new.outputs
            }
            _ => false,
        },
        Edit::Loss { .. } => true,
        Edit::Attr { .. } | Edit::Param { .. } | Edit::Drop { .. } | Edit::Cache { .. } => false,
    })
}

/// Whether the attributes of primitive `kind` are the same in both; an op may have others beside them.
fn same_attrs(kind: &str, old: &Attrs, new: &Attrs) -> bool {
    kinds::find(kind).is_some_and(|kind| kind.attrs.iter().all(|attr| old.get(attr.name) == new.get(attr.name)))
}

/// The primitive that a node is, or stands for.
pub(crate) fn plain_kind(node: &Node) -> &String {
    node.stands_for.as_ref().unwrap_or(&node.kind)
}

/// The node at or under the path `at`, where there is one only.
pub(crate) fn only_node<'g>(graph: &'g Graph, at: &str) -> Option<&'g Node> {
    let is_inside =
        |node: &&Node| node.path.strip_prefix(at).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let mut inside = graph.nodes.iter().filter(is_inside);
    let only = inside.next()?;
    inside.next().is_none().then_some(only)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use unswag_abi::doc::Subgraph;

    use super::*;

    fn attrs(value: serde_json::Value) -> Attrs {
        value.as_object().expect("an object").clone().into_iter().collect()
    }

    /// A node at `model.norm`, and a patch that puts the op `new` with these attributes in its place.
    fn replaced(old: Node, name: &str, new: serde_json::Value) -> (Graph, Patch) {
        let plain = plain_kind(&old).clone();
        let node = SubNode {
            name: name.into(),
            kind: "x.op".into(),
            attrs: attrs(new),
            stands_for: Some(plain),
            ..SubNode::default()
        };
        let with = Subgraph { nodes: vec![node], ..Subgraph::default() };
        let edit = Edit::Replace { at: "model.norm".into(), with };
        let graph = Graph { nodes: vec![Node { path: "model.norm".into(), ..old }], ..Graph::default() };
        (graph, Patch { edits: vec![edit], ..Patch::default() })
    }

    fn node(kind: &str, of: serde_json::Value) -> Node {
        Node { kind: kind.into(), attrs: attrs(of), ..Node::default() }
    }

    #[test]
    fn another_attribute_of_the_primitive_is_another_forward() {
        let norm = || node("rms_norm", json!({"eps": 1e-5}));
        let op = || Node { stands_for: Some("rms_norm".into()), ..node("y.norm", json!({"eps": 1e-5})) };
        let gelu = || node("gelu", json!({"approximate": "tanh"}));
        for (old, name, new, expected) in [
            (norm(), "", json!({"eps": 1e-5, "bits": 4}), true),
            (norm(), "k", json!({"eps": 1e-5}), true),
            (norm(), "", json!({"eps": 1.0}), false),
            (norm(), "k", json!({"eps": 1.0}), false),
            (norm(), "", json!({}), false),
            (norm(), "", json!({"eps": 1e-5, "unit_offset": true}), false),
            (op(), "", json!({"eps": 1e-5}), true),
            (op(), "k", json!({"eps": 1.0}), false),
            (gelu(), "", json!({"approximate": "tanh"}), true),
            (gelu(), "", json!({}), false),
        ] {
            let (graph, patch) = replaced(old.clone(), name, new.clone());
            assert_eq!(keeps_forward_if_claims_hold(&graph, &patch), expected, "{old:?} by {name:?} {new}");
        }
    }

    #[test]
    fn a_step_without_claims_is_unverified_where_its_ops_stand_for_something() {
        let step = |claims: serde_json::Value, stands_for: serde_json::Value| -> Step {
            let node = json!({"kind": "x.norm", "inputs": ["x"], "outputs": ["y"], "stands_for": stands_for});
            let with = json!({"inputs": ["x"], "outputs": ["y"], "nodes": [node]});
            let patch = json!({"version": 1, "edits": [{"replace": {"at": "model.norm", "with": with}}]});
            let plugin = json!({"name": "x", "version": "1", "sha256": ""});
            let step = json!({"protocol": "x", "version": "1", "plugin": plugin, "keeps_forward": true,
                "claims": claims, "plans": [], "patch": patch});
            serde_json::from_value(step).expect("a step")
        };
        let claim = |verified: &str| json!([{"op": "x.norm", "stands_for": "rms_norm", "nodes": 1, "verified": verified, "detail": ""}]);
        for (claims, stands_for, known) in [
            (json!([]), json!("rms_norm"), false),
            (claim("unverified"), json!("rms_norm"), false),
            (claim("bit_for_bit"), json!("rms_norm"), true),
            (json!([]), json!(null), true),
        ] {
            let step = step(claims, stands_for);
            assert_eq!(step.is_known_to_keep_forward(), known, "{step:?}");
            assert_eq!(step.is_unverified(), !known);
        }
    }
}
