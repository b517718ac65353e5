//! How a model is held and computed: the same of every command that computes.

use clap::{Args, ValueEnum};

use super::Quantization;

#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Memory")]
pub struct Compute {
    /// The element type that is computed in; `auto` is the checkpoint's, but float32 for a float16 one.
    #[arg(long, value_enum, default_value_t = Precision::Auto)]
    pub dtype: Precision,
    /// Where tensors are computed.
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    pub device: Device,
    #[command(flatten)]
    pub quantization: Quantization,
}

/// Where tensors are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    Cpu,
    /// The first GPU, by libtorch's own operations; needs a libtorch for CUDA.
    Cuda,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    Auto,
    Float32,
    Bfloat16,
}
