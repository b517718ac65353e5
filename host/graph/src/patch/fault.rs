//! Why a patch is refused, and where in it.

use std::fmt;

use unswag_abi::doc::{Edit, Patch};

use crate::{
    expr::ExprError,
    names,
    validate::{GraphError, NodeFault},
};

/// A refused patch. Nothing was changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{place}: {fault}")]
pub struct PatchError {
    pub place: Place,
    pub fault: Box<PatchFault>,
}

/// Where in a patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The document as a whole.
    Document,
    /// One edit; `number` counts from 1.
    Edit { number: usize, what: &'static str, at: String },
}

impl Place {
    pub(super) fn edit(index: usize, edit: &Edit) -> Self {
        let (what, at) = match edit {
            Edit::Replace { at, .. } => ("replace", at),
            Edit::Attr { at, .. } => ("attr", at),
            Edit::Param { name, .. } => ("param", name),
            Edit::Drop { param } => ("drop", param),
            Edit::Cache { at, .. } => ("cache", at),
            Edit::Loss { name, .. } => ("loss", name),
        };
        Place::Edit { number: index + 1, what, at: names::quoted(at) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Document => f.write_str("patch"),
            Place::Edit { number, what, at } => write!(f, "patch: edit {number} ({what} {at})"),
        }
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PatchFault {
    #[error("version: expected {}, got {got}; the plugin was built for another version of unswag", Patch::VERSION)]
    Version { got: u32 },
    #[error("requires `{feature}`, which this version of unswag does not have; it has {}", super::FEATURES.join(", "))]
    Requires { feature: String },
    #[error("the graph to be patched is not well formed: {0}")]
    Base(Box<GraphError>),
    #[error("there is no {what} `{at}`{hint}")]
    NoSuchPlace { what: &'static str, at: String, hint: String },
    #[error("{what} `{name}`: {why}")]
    Name { what: &'static str, name: String, why: String },
    #[error("{what} `{name}` stands twice; expected every {what} once")]
    Duplicate { what: &'static str, name: String },
    #[error("there is no {what} `{name}`")]
    Dangling { what: &'static str, name: String },
    #[error("{what}: expected {expected}, got {got}")]
    Entry { what: &'static str, expected: String, got: String },
    #[error("{what}: expected {expected} names, to bind in order to the region's ({region}), got {got}")]
    Arity { what: &'static str, expected: usize, region: String, got: usize },
    #[error("node {path}: {fault}")]
    Node { path: String, fault: Box<NodeFault> },
    #[error("node {path}: input `{name}` is neither an input of the subgraph nor an earlier node's output{hint}")]
    NoInput { path: String, name: String, hint: &'static str },
    #[error("node {path}: the plugin refuses to plan its op {kind}: {reason}")]
    Plan { path: String, kind: String, reason: String },
    #[error("node {path}: the plan of {kind}: {what}: expected {expected}, got {got}; this is a defect of the plugin")]
    PlanDiffers { path: String, kind: String, what: String, expected: String, got: String },
    #[error(
        "output {index} takes the place of `{value}`: expected {expected}, got {got}; what a region gives must keep its type"
    )]
    OutputType { index: usize, value: String, expected: String, got: String },
    #[error("nodes {path} and others would wait for each other; expected no cycle")]
    Cycle { path: String },
    #[error("init: {0}")]
    Expr(Box<ExprError>),
    #[error("init: expected shape {expected}, as the edit states, got {got}, which is the expression's")]
    InitShape { expected: String, got: String },
    #[error("transform job `{job}`: {why}")]
    Transform { job: String, why: String },
    #[error("parameter `{param}` is used by node {user}; replace that node first")]
    InUse { param: String, user: String },
    #[error("parameter `{param}` would be used by no node; use it, or drop it")]
    Unused { param: String },
    #[error("the patched graph would not be well formed: {0}")]
    Result(Box<GraphError>),
}

impl From<ExprError> for PatchFault {
    fn from(error: ExprError) -> Self {
        PatchFault::Expr(Box::new(error))
    }
}

impl PatchFault {
    pub(super) fn name(what: &'static str, name: &str, why: String) -> Self {
        PatchFault::Name { what, name: names::quoted(name), why }
    }
}
