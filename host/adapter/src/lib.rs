//! PEFT's LoRA adapters on disk: opened, checked against the checkpoint that they were made for, and merged into it.
//!
//! An adapter's folder was written by another program as a rule, and nothing in it is believed: each key, shape and setting is
//! checked, and one that is not understood is refused, because a merge that leaves something out looks like one that worked.
//! Nothing here needs libtorch, and nothing changes the base.

mod adapter;
mod config;
mod error;
mod float;
mod merge;

pub use adapter::{Adapter, AdapterModule};
pub use error::AdapterError;
pub use float::encode;
pub use merge::{MergeReport, ModuleDelta, merge};
