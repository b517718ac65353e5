//! CPU kernels of unswag's ops: pure functions over slices, one folder per family.
//!
//! Every op has a plain reference (`reference.rs` in its folder) that is its specification, and one vector body written over
//! [`simd`]'s sixteen lanes, which is compiled for each instruction set and chosen at run time. All of them give the
//! reference's bits, whatever the instruction set and the thread count.
//!
//! This crate must never allocate a tensor, read a file, keep state between calls, or panic on what a caller passes:
//! lengths are checked first and a mismatch is a [`KernelError`]. Its input comes from whoever owns the tensors.

pub mod attention;
pub mod cross_entropy;
pub mod delhi;
mod element;
pub mod elementwise;
mod error;
mod exec;
pub mod math;
pub mod norm;
pub mod optim;
pub mod quant;
mod random;
pub mod rope;
mod rows;
pub mod simd;

pub use element::Element;
pub use error::KernelError;
pub use exec::{Exec, Isa, Team, use_team};
