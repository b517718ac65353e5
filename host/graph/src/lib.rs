//! The module graph: what its node kinds mean, whether a graph is well formed, and what a patch makes of it.
//!
//! Input is documents ([`unswag_abi::doc`]) that a builder, a recorded surgery or a plugin wrote; none is trusted.
//! This crate must never touch a file, a tensor's data or a plugin's code: what a plugin's op makes of a call comes in
//! through [`Ops`].

pub mod builders;
mod diff;
pub mod expr;
mod group;
pub mod kinds;
mod limits;
mod names;
mod ops;
mod patch;
pub mod saved;
mod sizes;
mod summary;
pub mod tree;
mod validate;

pub use diff::{FieldChange, GraphDiff, NodeChange, ParamChange, diff};
pub use limits::{IndexLimits, index_limits};
pub use ops::{NoOps, Ops};
pub use patch::{Applied, FEATURES, NewParam, PatchError, PatchFault, Place, TransformCall, apply};
pub use sizes::Sizes;
pub use summary::summary;
pub use unswag_abi::doc::Region;
pub use validate::{GraphError, NodeFault, validate};
