//! The operation itself: a checkpoint in, a patched checkpoint out. (being written)
pub mod eval;
