//! The documents that the frame's calls carry. All are plain serde types; on the wire they are JSON.
//!
//! Rules: an unknown field is ignored, a missing optional field takes its default, and what an older host could not honour
//! is named in [`Patch::requires`] so that it refuses instead of guessing.

mod expr;
mod graph;
mod manifest;
mod op;
mod patch;

pub use expr::{Expr, SvdPart};
pub use graph::{Arch, CacheSlot, Dim, Dtype, Graph, Loss, Node, Param, Region, Saves, Value};
pub use manifest::{Manifest, OptionSpec, OptionType, PanicStrategy, ProtocolInfo};
pub use op::{Device, Meta, OpCall, OpPlan, Target, TransformJob};
pub use patch::{Edit, Init, Patch, SubNode, Subgraph};

/// A JSON object of attributes or options: ordered by name, so documents print the same everywhere.
pub type Attrs = std::collections::BTreeMap<String, serde_json::Value>;
