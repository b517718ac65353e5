//! Options shared by all commands that run the model.

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
    /// The CPU.
    Cpu,
    /// The first CUDA device; needs a CUDA build of libtorch.
    Cuda,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// The dtype of the checkpoint, or float32 where that is float16.
    Auto,
    /// 32-bit floats.
    #[value(alias = "fp32")]
    Float32,
    /// 16-bit floats with the exponent of float32.
    #[value(alias = "bf16")]
    Bfloat16,
}
