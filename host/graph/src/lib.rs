//! The module graph: what its node kinds mean, whether a graph is well formed, and what a patch makes of it.
//!
//! Input is documents ([`unswag_abi::doc`]) that a builder, a recorded surgery or a plugin wrote; none is trusted.
//! This crate must never touch a file, a tensor's data or a plugin's code: what a plugin's op makes of a call comes in
//! through [`Ops`].

pub mod builders;
pub mod kinds;
