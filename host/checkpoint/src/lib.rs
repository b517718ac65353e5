//! Checkpoints on disk: opening them whatever state they are in, and writing new ones so that an interruption leaves the
//! old state or the new one.
//!
//! * [`Checkpoint`] reads safetensors in every layout that `transformers` reads, and trusts nothing it reads.
//! * [`gguf`] reads GGUF files and rebuilds a folder from one.
//!
//! Nothing in this crate ever changes a checkpoint that exists; nothing in it knows what a tensor means.

pub mod gguf;

mod checkpoint;
mod config;
mod error;
mod foreign;
mod header;
mod index;
mod layout;
mod open;
mod table;
mod text;

pub use checkpoint::{Checkpoint, WeightFile};
pub use error::{Error, IndexFault};
pub use foreign::{Foreign, identify};
pub use header::{Header, HeaderError, TensorFault, check_name, header_length, parse_header};
pub use layout::{RECORD, SideFile, SkipReason, Skipped};
pub use table::{TensorInfo, TensorTable};
pub use text::{Quoted, human_bytes};
