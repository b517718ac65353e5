//! PEFT's LoRA adapters: which layers have one, their files opened and checked against a model's graph, and merged into a
//! checkpoint.
//!
//! An adapter's folder was written by another program as a rule, and nothing in it is believed: each key, shape and setting is
//! checked, and one that is not understood is refused, because a merge that leaves something out looks like one that worked.
//! Nothing here needs libtorch, and nothing changes the base.

mod adapter;
mod config;
mod error;
mod float;
mod layers;
mod merge;
mod names;
mod pattern;
mod report;
mod rounding;
mod select;
mod spec;
mod tie;

pub use adapter::{AdapterSpec, BASE_QUANTIZATION, ParamSource, check_adapter_bytes};
pub use config::MAX_RANK;
pub use error::AdapterError;
pub use float::encode;
pub use layers::{LinearLayer, linear_layers};
pub use merge::{MergeOptions, merge};
pub use names::ALL_LINEAR;
pub use report::{Change, MergeReport, ModuleChange};
pub use rounding::Rounding;
pub use select::{LoraTargets, SelectedLayer};
pub use spec::{AdaptedLayer, ReplacedParam};
