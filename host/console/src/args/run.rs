//! `unswag eval`, `generate`, `merge` and `preprocess`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use super::{Compute, Data, Model};

/// Measure a model on data: loss, perplexity and bits per byte.
///
/// The loss is the mean of -log p over the tokens, in nats; perplexity is e to it. Bits per byte divides by the bytes of the text
/// instead of by its tokens, so that models with different tokenizers can be compared; conversations have none.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unswag eval ./SmolLM2-135M --data plays/hamlet.txt --block-size 512
  unswag eval ./SmolLM2-135M --adapter run/adapter --data chat.jsonl --chat --json")]
pub struct Eval {
    /// A .safetensors file, a folder with config.json and weights, or a hub cache snapshot.
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub model: PathBuf,
    /// A LoRA adapter in PEFT's format to measure the model with.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub adapter: Option<PathBuf>,
    /// Rows that are computed at once.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub batch_size: u64,
    #[command(flatten)]
    pub data: Data,
    #[command(flatten)]
    pub compute: Compute,
}

/// Go on with a text, token by token as they come.
///
/// On a terminal, control characters that the model writes are escaped (`\u001b`); a pipe or a file gets the text as it is.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unswag generate ./SmolLM2-135M --prompt 'The capital of France is' --temperature 0
  unswag generate ./SmolLM2-135M --adapter run/adapter --chat --prompt 'Who was Hamlet?' --max-new-tokens 64")]
pub struct Generate {
    /// A .safetensors file, a folder with config.json and weights, or a hub cache snapshot.
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub model: PathBuf,
    /// What stands before.
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// Take the prompt as a user's turn, render it with the model's chat template, and stop where the template ends a turn.
    #[arg(long)]
    pub chat: bool,
    /// What the system's turn says.
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// A LoRA adapter in PEFT's format.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub adapter: Option<PathBuf>,
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_new_tokens: usize,
    /// Logits are divided by it; 0 takes the likeliest token always.
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    pub temperature: f64,
    /// Draw from so many of the likeliest tokens; 0 for all.
    #[arg(long, value_name = "K", default_value_t = 50)]
    pub top_k: usize,
    /// Draw from the likeliest tokens that together reach this probability.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f64,
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    #[command(flatten)]
    pub compute: Compute,
}

/// Merge a LoRA adapter into a checkpoint's weights.
///
/// W + scale B A is computed in float64 and rounded once to the weight's own type; modules that the adapter has whole replace the
/// base's. The base is not changed, and the output appears whole or not at all. A merge that would change no weight is refused. Of
/// a folder that surgery wrote comes a plain model with the base's graph; where a patch changes what the model computes, the merge
/// is refused. A head that shared the embedding's matrix and does no longer has its own in the output, whose config.json says so.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unswag merge ./SmolLM2-135M run/adapter -o ./SmolLM2-135M-shakespeare
  unswag merge ./SmolLM2-135M run/adapter -o merged --dtype float32     nothing is lost to rounding; twice the size of bfloat16

Columns: |W| is the norm of the base's weight, |adds| of what the adapter adds, |W' - W| of what was added after rounding; arrived
is the share of |adds| that W' - W has along it; changed is the share of elements that differ.")]
pub struct Merge {
    #[command(flatten)]
    pub model: Model,
    /// A LoRA adapter in PEFT's format.
    #[arg(value_name = "ADAPTER", value_hint = ValueHint::DirPath)]
    pub adapter: PathBuf,
    /// The folder to write.
    #[arg(long, short, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: PathBuf,
    /// The element type of the output's weights: the base's own, or float32.
    #[arg(long, value_enum, default_value_t = MergeDtype::Auto)]
    pub dtype: MergeDtype,
    /// How merged weights are rounded to their element type.
    #[arg(long, value_enum, default_value_t = MergeRounding::Nearest)]
    pub rounding: MergeRounding,
    /// Of stochastic rounding.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MergeDtype {
    /// The base's own.
    Auto,
    Float32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MergeRounding {
    /// To the nearest value.
    Nearest,
    /// Up or down at random so that the mean is right: changes below the type's precision arrive on average.
    Stochastic,
}

/// Read training data as training would, and say what is in it; rows with faults by line number.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  unswag preprocess ./SmolLM2-135M --data chat.jsonl --chat --debug
  unswag preprocess ./SmolLM2-135M --data plays/*.txt --block-size 512 --json

Exit status: 0 sound; 1 rows have faults; 2 could not be read.")]
pub struct Preprocess {
    /// The model whose tokenizer and chat template are used.
    #[arg(value_name = "MODEL", value_hint = ValueHint::DirPath)]
    pub model: PathBuf,
    #[command(flatten)]
    pub data: Data,
    /// Show the first rows token by token: what is learned, what is not, and where texts end.
    #[arg(long)]
    pub debug: bool,
    /// Rows to show.
    #[arg(long, value_name = "N", default_value_t = 2, requires = "debug")]
    pub rows: usize,
}
