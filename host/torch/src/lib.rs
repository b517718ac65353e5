//! unswag's engine on libtorch.
//!
//! Everything runs under no-grad: the engine's own tape makes the gradients. Each tensor that owns memory is charged to a
//! meter for as long as it lives, in the same cases in which `unswag_engine::Meta` charges it; what an operation takes and
//! gives back within one call is its workspace and is not charged.
//!
//! This crate must never keep a tensor between calls, and never panic on what libtorch refuses: that is an error.

mod attention;
mod backend;
mod composed;
mod cpu;
mod memory;
mod nf4;
mod offload;
mod plugin;
mod product;
mod tensor;
mod threads;
mod torch;

pub use offload::FileStore;
pub use tensor::TorchTensor;
pub(crate) use tensor::torch_error;
pub use threads::threads;
pub use torch::Torch;
