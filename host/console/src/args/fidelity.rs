//! `unswag fidelity`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::{Compute, Data};

/// Measure what a lossy protocol does to the gradients, on your own model and data.
///
/// The model is run as it is and rewritten, with the same weights and tokens; the gradients of LoRA adapters on it are compared.
/// Nothing is written.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unswag fidelity ./SmolLM2-135M --plugin delhi:mode=4bit --data plays/*.txt
  unswag fidelity ./SmolLM2-135M --plugin delhi:mode=8bit --plugin delhi:mode=2bit --data plays/*.txt --block-size 512
  unswag fidelity ./SmolLM2-135M --plugin delhi:mode=2bit --data chat.jsonl --chat --json | jq '.variants[0].modules'

cosine: that of the gradient with the exact one. error: the L2 norm of their difference, relative to that of the exact one.")]
pub struct Fidelity {
    /// A .safetensors file, a folder with config.json and weights, or a hub cache snapshot.
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub model: PathBuf,
    /// A plugin's protocol and its options; each one given is compared with the model as it is.
    #[arg(long = "plugin", short, required = true, value_name = "NAME[:KEY=VALUE,…]")]
    pub plugins: Vec<String>,
    /// Rows to compute the gradients on.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub rows: u64,
    /// The adapters' rank.
    #[arg(long, value_name = "R", default_value_t = 8)]
    pub lora_r: u64,
    /// Seed of the adapters' weights and of the protocol's random numbers.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    #[command(flatten)]
    pub data: Data,
    #[command(flatten)]
    pub compute: Compute,
}
