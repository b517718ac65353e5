//! The engine: what a graph computes, forward and backward, written once over [`Backend`].
//!
//! ```text
//! Graph ──► Program::new ──► Program::forward   logits; next_logits, with a Cache, those after a text that grows
//!                            Program::step      loss and gradients, under a policy for each block
//! ```
//!
//! A backend either runs the operations (libtorch, in a crate of its own) or only counts their bytes ([`Meta`], here). Both
//! read the same program, so what [`Meta`] counts is what a step takes: a plan is exact because it is no estimate.
//!
//! Every tensor is `[rows, columns]`, rows being the tokens of all sequences in order. Nothing here may touch a tensor's
//! elements, a file or a clock, and nothing knows which backend runs it.

mod backend;
mod batch;
mod cache;
mod compile;
mod error;
mod ledger;
mod linear;
mod lora;
mod meta;
mod meter;
mod ops;
mod plan;
mod plugin;
mod policy;
mod program;
mod quant;
mod rope;
mod run;
mod search;
mod segments;
mod store;
mod tape;
mod trace;
mod workspace;

pub use backend::{
    Activation, AttentionSpec, Backend, CrossEntropy, Dropout, EmbeddingSpec, Gate, IGNORED, LayerNorm, RmsNorm,
    RopeSpec, View,
};
pub use batch::Batch;
pub use cache::Cache;
pub use error::EngineError;
pub use linear::dora_norms;
pub use lora::{Adapter, LoraLayer, LoraSpec};
pub use meta::{Meta, MetaTensor};
pub use meter::{Charge, Meter};
pub use plan::{Bar, BlockPlan, MOST_TOKENS, OptimizerState, Parts, PeakAt, Plan, PlanOptions, Rates};
pub use plugin::{Buffer, BufferMut, PluginCall, PluginKernel, PluginLaunch, PluginOps, PluginRun};
pub use policy::Policy;
pub use program::{Grads, ParamInfo, Params, Program, Trainable};
pub use quant::{Nf4, Storage};
pub use rope::rotary_tables;
pub use search::{Survey, longest_seq};
pub use store::{MetaStore, NoStore, Store};
pub use tape::Step;
pub use trace::{Held, Pass, Place, Point, Work};
