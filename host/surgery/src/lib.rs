//! The operation itself: a checkpoint in, a patched checkpoint out, with a record of what was done.
//!
//! [`Model::open`] gives a checkpoint's graph, [`operate`] asks protocols for patches and applies them to it, and
//! [`write()`] makes the output. [`verify()`] and [`undo()`] read the record that it leaves. It must never change the base, and
//! never publish a folder that is not whole.

pub mod auto;
pub mod eval;
pub mod record;

mod claims;
mod config;
mod make;
mod model;
mod operation;
mod ours;
mod plugin;
mod undo;
mod verified_graph;
mod verify;
mod write;

pub use claims::ClaimError;
pub use make::MakeError;
pub use model::{Model, ModelError, read_record};
pub use operation::{OperateError, Operation, Protocol, operate};
pub use plugin::{OpenError, open_plugins, open_protocol, open_recorded, open_spec, open_specs};
pub use undo::{UndoError, Undone, undo};
pub use unswag_graph::IndexLimits;
pub use verify::{Check, Report, VerifyError, record_of, verify, verify_bytes};
pub use write::{Outcome, SurgeryError, WriteOptions, is_written, write};
