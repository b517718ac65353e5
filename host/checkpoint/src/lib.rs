//! Checkpoints on disk (being written).

pub mod gguf;
