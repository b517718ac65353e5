//! Checkpoints on disk: opening them whatever state they are in, and writing new ones so that an interruption leaves the
//! old state or the new one.
//!
//! * [`Checkpoint`] reads safetensors in every layout that `transformers` reads, and trusts nothing it reads.
//! * [`Staging`] writes an output folder: checked, locked, hashed, and published in one step.
//! * [`gguf`] reads GGUF files and rebuilds a folder from one.
//!
//! Nothing in this crate ever changes a checkpoint that exists; nothing in it knows what a tensor means.

pub mod gguf;

mod checkpoint;
mod config;
mod disk;
mod error;
mod foreign;
mod hash;
mod header;
mod index;
mod layout;
mod lock;
mod new_folders;
mod open;
mod output_path;
mod rewrite;
mod staging;
mod table;
mod text;
mod transfer;
mod write_error;
mod writer;

pub use checkpoint::{Checkpoint, OWN_MODEL_TYPE, WeightFile};
pub use disk::{Disk, RealDisk};
pub use error::{Error, IndexFault, next_step_without};
pub use foreign::{Foreign, identify};
pub use hash::{Hash, Progress, hash_file, silent};
pub use header::{Header, HeaderError, TensorFault, check_name, header_length, parse_header};
pub use layout::{RECORD, SideFile, SkipReason, Skipped};
pub use new_folders::NewFolders;
pub use open::regular_file;
pub use output_path::{Existing, check_outside};
pub use rewrite::{NewData, Rewrite, rewrite, rewrite_with};
pub use staging::{Commit, Durability, Published, Staging, Written, atomic_write_file};
pub use table::{TensorInfo, TensorTable};
pub use text::{Quoted, human_bytes};
pub use transfer::{How, Transferred};
pub use write_error::WriteError;
pub use writer::{Make, NewTensor, Sink, Stream, TensorData, pytorch_metadata};
