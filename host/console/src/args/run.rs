//! `unswag eval`, `generate`, `merge` and `preprocess`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use super::{Compute, Data, Model};

/// Measure a model on data: loss, perplexity and bits per byte.
///
/// loss: mean negative log-likelihood per supervised token, in nats. perplexity = exp(loss). bits per byte = total loss / (ln 2 *
/// bytes of text), comparable across tokenizers; not reported for conversations and packed rows.
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
    /// Rows per batch.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub batch_size: u64,
    #[command(flatten)]
    pub data: Data,
    #[command(flatten)]
    pub compute: Compute,
}

/// Generate a continuation of a prompt, printed token by token.
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
    /// The text to continue.
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// Take the prompt as a user's turn, render it with the model's chat template, and stop where the template ends a turn.
    #[arg(long)]
    pub chat: bool,
    /// The system prompt.
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// A LoRA adapter in PEFT's format.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub adapter: Option<PathBuf>,
    /// Maximum number of tokens to generate.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_new_tokens: usize,
    /// Divide the logits by this; 0: greedy decoding.
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    pub temperature: f64,
    /// Sample from the K most likely tokens; 0 for all.
    #[arg(long, value_name = "K", default_value_t = 50)]
    pub top_k: usize,
    /// Sample from the smallest set of most likely tokens whose probabilities sum to at least P (nucleus sampling).
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f64,
    /// Seed for sampling.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    #[command(flatten)]
    pub compute: Compute,
}

/// Merge a LoRA adapter into a checkpoint's weights.
///
/// W + scale * (B @ A) is computed in float64 and rounded once to the dtype of the weight; modules that the adapter saves in full
/// (modules_to_save) replace those of the base. The base is not changed, and the output appears complete or not at all. A merge
/// that would change no weight is refused. A merge into a folder that surgery wrote gives a plain model with the base's graph; where
/// a patch changes what the model computes, it is refused. If a tied lm_head changed, it is written untied and config.json gets
/// tie_word_embeddings: false.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unswag merge ./SmolLM2-135M run/adapter -o ./SmolLM2-135M-shakespeare
  unswag merge ./SmolLM2-135M run/adapter -o merged --dtype float32     no loss to bfloat16's rounding; twice the size

Columns: |W| is the L2 norm of the base's weight, |adds| that of the adapter's change before rounding, |W' - W| that of \
the change after rounding; arrived is the projection of W' - W onto the adapter's change, as a share of |adds|; changed is \
the share of elements that differ.")]
pub struct Merge {
    #[command(flatten)]
    pub model: Model,
    /// A LoRA adapter in PEFT's format.
    #[arg(value_name = "ADAPTER", value_hint = ValueHint::DirPath)]
    pub adapter: PathBuf,
    /// The folder to write.
    #[arg(long, short, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: PathBuf,
    /// The dtype of the output's weights: that of the base, or float32.
    #[arg(long, value_enum, default_value_t = MergeDtype::Auto)]
    pub dtype: MergeDtype,
    /// How merged weights are rounded to their dtype.
    #[arg(long, value_enum, default_value_t = MergeRounding::Nearest)]
    pub rounding: MergeRounding,
    /// Seed of stochastic rounding.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MergeDtype {
    /// That of the base.
    Auto,
    /// 32-bit floats.
    Float32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MergeRounding {
    /// To the nearest value.
    Nearest,
    /// Up or down at random, without bias: changes below the precision of the dtype arrive on average.
    Stochastic,
}

/// Read training data as training does, and report what is in it, with faulty rows by line number.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  unswag preprocess ./SmolLM2-135M --data chat.jsonl --chat --debug
  unswag preprocess ./SmolLM2-135M --data plays/*.txt --block-size 512 --json

Exit status: 0 valid; 1 invalid rows; 2 data could not be read.")]
pub struct Preprocess {
    /// The model whose tokenizer and chat template are used.
    #[arg(value_name = "MODEL", value_hint = ValueHint::DirPath)]
    pub model: PathBuf,
    #[command(flatten)]
    pub data: Data,
    /// Show the first rows token by token: which are supervised, and where a text ends.
    #[arg(long)]
    pub debug: bool,
    /// Rows to show.
    #[arg(long, value_name = "N", default_value_t = 2, requires = "debug")]
    pub rows: usize,
}
