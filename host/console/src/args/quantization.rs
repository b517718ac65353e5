//! Weights in four bits, by the names of transformers' `BitsAndBytesConfig`.

use clap::{Args, ValueEnum};

#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Memory")]
pub struct Quantization {
    /// Hold the weights of linear layers, except the head, in 4 bits (QLoRA). Adapters are then trained on the
    /// quantised weights, which differ from the checkpoint's by the rounding.
    #[arg(long)]
    pub load_in_4bit: bool,
    /// 4-bit data type.
    #[arg(long, value_enum, default_value_t = QuantType::Nf4, requires = "load_in_4bit")]
    pub bnb_4bit_quant_type: QuantType,
    /// Hold the scales of the 4-bit weights in 8 bits: 0.516 bytes per weight instead of 0.563.
    #[arg(long, requires = "load_in_4bit")]
    pub bnb_4bit_use_double_quant: bool,
}

impl Quantization {
    /// Whether scales are quantised too, where weights are.
    pub fn double_quant(self) -> Option<bool> {
        self.load_in_4bit.then_some(self.bnb_4bit_use_double_quant)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum QuantType {
    /// Sixteen levels at the quantiles of the normal distribution, in blocks of 64.
    Nf4,
}
