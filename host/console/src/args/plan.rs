//! `unswag plan`: what a training step takes, in the vocabulary of `unswag train`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::{Device, Lora, Model, Optim, Precision, Quantization, train::SEQUENCE_LENGTH};

/// Compute the memory of a training step without running it: the peak, its parts, and the fastest policy that fits a budget.
///
/// The step runs on tensors that have a shape and no elements, so the bytes are those that training takes, not an estimate. The
/// workspace of single operations, and the program itself, come on top. Where MODEL is a recipe (`.yaml`), the training after its
/// surgery is planned, and options given here replace the recipe's.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unswag plan ./SmolLM2-135M
  unswag plan ./SmolLM2-135M --seq 8192 --memory-budget 1GiB       the fastest policy for each layer that fits
  unswag plan ./SmolLM2-135M --seq 2048 --gradient-checkpointing
  unswag plan manifests/delhi-shakespeare.yaml --seq 4096
  unswag plan ./SmolLM2-135M --seq 2048 --load-in-4bit
  unswag plan ./SmolLM2-135M --json | jq '.plan.parts'

Exit status: 0 done; 2 could not be done, or no policy fits the budget.")]
pub struct Plan {
    #[command(flatten)]
    pub model: Model,
    /// Tokens per row. [default: 1024, or the size of the model's learned position embedding if smaller]
    #[arg(long, visible_alias = "block-size", aliases = SEQUENCE_LENGTH, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub seq: Option<u64>,
    /// Rows per batch.
    #[arg(long, visible_aliases = ["batch-size", "per-device-train-batch-size"], value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub batch: u64,
    /// Batches per optimizer step.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub gradient_accumulation_steps: u64,
    #[command(flatten)]
    pub lora: Lora,
    /// The optimizer.
    #[arg(long, value_enum, default_value_t = Optim::AdamwTorch)]
    pub optim: Optim,
    /// The dtype to compute in; `auto` is that of the checkpoint, or float32 where that is float16.
    #[arg(long, value_enum, default_value_t = Precision::Auto, help_heading = "Memory")]
    pub dtype: Precision,
    /// The device to plan for: its memory bounds the longest sequence.
    #[arg(long, value_enum, default_value_t = Device::Cpu, help_heading = "Memory")]
    pub device: Device,
    #[command(flatten)]
    pub quantization: Quantization,
    /// Choose what each layer saves for the step with the lowest estimated time whose weights, gradients, activations and
    /// optimizer (f32 master weights and moments) fit in this size together. The workspace of single operations and
    /// libtorch's own 22 MiB come on top.
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "gradient_checkpointing", help_heading = "Memory")]
    pub memory_budget: Option<u64>,
    /// Save only the input of each layer and recompute the rest in the backward.
    #[arg(long, help_heading = "Memory")]
    pub gradient_checkpointing: bool,
    /// Let layers offload saved activations to a file in this folder until their backward. A plan writes nothing.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Memory")]
    pub offload_folder: Option<PathBuf>,
    /// How much of the state of a paged --optim is in memory at once. [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Memory")]
    pub optim_memory_budget: Option<u64>,
}

/// Bytes as people write them: `2GiB`, `1.5 GB`, `800M` (of 1024), `123456`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("expected a size such as 2GiB, 800MB or 1073741824, got {text}");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let powers = ["k", "m", "g", "t"];
    let unit = unit.trim().to_ascii_lowercase();
    let (letter, base) = match unit.as_str() {
        "" | "b" => ("", 1),
        unit if unit.ends_with("ib") => (&unit[..unit.len() - 2], 1024),
        unit if unit.ends_with('b') => (&unit[..unit.len() - 1], 1000),
        unit => (unit, 1024),
    };
    let power = match letter {
        "" if base == 1 => 0,
        letter => powers.iter().position(|power| *power == letter).ok_or_else(wrong)? + 1,
    };
    let bytes = number * f64::from(base).powi(power as i32);
    // 2^60 bytes at most, so that sums fit in u64.
    if (1.0..=(1u64 << 60) as f64).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("2GiB", 2 << 30),
            ("1.5 GB", 1_500_000_000),
            ("800M", 800 << 20),
            ("64k", 64 << 10),
            ("3tib", 3 << 40),
            ("123456", 123_456),
            ("512 B", 512),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "GiB", "-1", "0", "1e9", "2 quarts", "1.2.3", "ib", "9999999999T", "NaN", "٣"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
