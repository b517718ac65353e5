//! How a model is held and computed: the same of every command that computes.

use clap::{Args, ValueEnum};

use super::Quantization;

#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Memory")]
pub struct Compute {
    /// The dtype to compute in; `auto` is that of the checkpoint, or float32 where that is float16.
    #[arg(long, value_enum, default_value_t = Precision::Auto)]
    pub dtype: Precision,
    /// The device to compute on.
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    pub device: Device,
    #[command(flatten)]
    pub quantization: Quantization,
}

/// The device to compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    Cpu,
    /// The first GPU, by libtorch's own operations; needs a libtorch for CUDA.
    Cuda,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    Auto,
    #[value(alias = "fp32")]
    Float32,
    #[value(alias = "bf16")]
    Bfloat16,
}
