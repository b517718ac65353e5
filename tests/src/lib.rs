//! What the end-to-end tests share: the built program and plugins, measured runs, guarded checkpoints, tiny models and the
//! Python environment.
//!
//! Nothing here may use a crate of the project: a reader that is tested with its own writer agrees with itself. So tiny
//! checkpoints are written with the `safetensors` crate, and the program is run as a user runs it.
//!
//! Inputs are this repository, the folder that cargo builds into, and what `scripts/fetch` laid into the cache folder. A
//! helper that misses one of them panics with the command that makes it.

mod artifacts;
mod base;
mod cache;
mod run;
mod tiny;

pub use artifacts::{plugin, unswag, unswag_torch, workspace_root};
pub use base::Base;
pub use cache::{cache_dir, cached, python, smollm2, smollm2_gguf};
pub use run::{Outcome, Run};
pub use tiny::{Family, Tiny};
