//! The contract between unswag and its protocol plugins, in two halves that change at different speeds.
//!
//! * [`frame`] is what crosses the shared-library boundary: a handful of `repr(C)` types and traits. It is frozen: it
//!   never gains a field or a method, because `abi_stable` refuses a plugin whose layout differs from the host's.
//! * [`doc`] is what those calls carry: typed documents, passed as JSON. They grow by optional fields (an unknown field
//!   is ignored) and by named features in [`doc::Patch::requires`] (an unknown feature is refused).
//!
//! This crate must never depend on another crate of the project: a plugin author's build contains it and the SDK only.

pub mod doc;
pub mod frame;

mod dlpack;

pub use abi_stable;

/// The version of the frame. A plugin's manifest states the one it was built with; the host refuses any other.
pub const ABI_VERSION: u32 = 1;
