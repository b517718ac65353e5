//! `unswag train`: the names of transformers and PEFT, wherever they have one, and their defaults except
//! --per-device-train-batch-size 1, --logging-steps 10, --report-to jsonl, --optim adamw_torch, --lora-target-modules
//! all-linear and --bnb-4bit-quant-type nf4.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::{ArgAction, ArgGroup, Args, ValueEnum, ValueHint};
use indexmap::IndexMap;
use serde::de::DeserializeOwned;

use super::{Compute, DataColumns, plan::size};

/// Train LoRA adapters on a checkpoint, in PEFT's format, or all of its weights.
///
/// Training can be stopped at any moment, and `--resume-from-checkpoint auto` resumes it: Ctrl-C writes a checkpoint first, and
/// after a kill or a power cut the newest complete checkpoint is used. The result has the same bits as that of a run without a
/// stop, on the same build, machine and number of threads.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unswag train ./SmolLM2-135M --data plays/*.txt --block-size 512 --max-steps 100 --lora-r 16 --lora-alpha 32 -o run
  unswag train ./SmolLM2-135M --data chat.jsonl --chat --num-epochs 2 --learning-rate 2e-4 -o run
  unswag train ./SmolLM2-135M --data alpaca.json -o run        instructions: the loss is taken on the output alone
  unswag train ./SmolLM2-135M --data qa.csv --prompt-column Q --completion-column A --chat -o run
  unswag train ./SmolLM2-135M --data plays/*.txt --load-in-4bit --bnb-4bit-use-double-quant -o run     QLoRA
  unswag train ./SmolLM2-135M --data corpus.jsonl --text-column body --dry-run -o run     check everything, train nothing
  unswag train ./SmolLM2-135M --data plays/*.txt -o run --resume-from-checkpoint auto
  unswag train ./SmolLM2-135M --data plays/*.txt -o run --resume-from-checkpoint auto --max-steps 200     extend a run of 100
  unswag train ./SmolLM2-135M --data more.txt --adapter run/adapter -o run2     a new run from an adapter's weights

In the output folder: adapter/ (PEFT loads it) or, with --full-finetuning, model/; metrics.jsonl (one object per step); \
checkpoint-N/; and with --report-to jsonl,tensorboard the events that `tensorboard --logdir run` shows. docs/metrics.md \
defines each figure.
Where the disk is full, training waits for free space, and says so; Ctrl-C ends it.
Exit status: 0 done; 2 could not be done; 130 stopped, with a checkpoint to resume from.")]
pub struct Train {
    /// A .safetensors file, a folder with config.json and weights, or a hub cache snapshot.
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub model: PathBuf,
    /// The folder to write.
    #[arg(long, short, visible_alias = "output-dir", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: PathBuf,
    #[command(flatten)]
    pub data: Data,
    #[command(flatten)]
    pub validation: Validation,
    #[command(flatten)]
    pub lora: Lora,
    /// Start a new run from an adapter in PEFT's format, with its weights, rank, scale and target modules.
    #[arg(
        long,
        value_name = "DIR",
        value_hint = ValueHint::DirPath,
        help_heading = "LoRA",
        conflicts_with_all = ["lora_r", "lora_alpha", "lora_target_modules", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "full_finetuning"]
    )]
    pub adapter: Option<PathBuf>,
    #[command(flatten)]
    pub length: Length,
    #[command(flatten)]
    pub optimizer: Optimizer,
    #[command(flatten)]
    pub saving: Saving,
    /// Seed of the adapters' initial weights, of the order of the data and of dropout.
    #[arg(long, aliases = ["random-state", "random-seed"], value_name = "N", default_value_t = 42)]
    pub seed: u64,
    #[command(flatten)]
    pub compute: Compute,
    /// Save only the input of each layer and recompute the rest in the backward: less memory, more time, the same
    /// result.
    #[arg(long, help_heading = "Memory")]
    pub gradient_checkpointing: bool,
    /// Choose what each layer saves for the step with the lowest estimated time whose weights, gradients, activations and
    /// optimizer (f32 master weights and moments) fit in this size together. The workspace of single operations and
    /// libtorch's own 22 MiB come on top.
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "gradient_checkpointing", help_heading = "Memory")]
    pub memory_budget: Option<u64>,
    /// Let layers offload saved activations to a file in this folder until their backward, where the budget requires
    /// it. A paged --optim has its file here too; without this option, in the output folder.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Memory")]
    pub offload_folder: Option<PathBuf>,
    /// How much of the state of a paged --optim is in memory at once. [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Memory")]
    pub optim_memory_budget: Option<u64>,
    /// Check everything, report what would be done and what it takes, and train nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Replace what an earlier run left in the output folder.
    #[arg(long, conflicts_with = "resume_from_checkpoint")]
    pub force: bool,
}

/// What transformers, TRL, axolotl, Unsloth and LLaMA-Factory call the tokens of a row.
pub(super) const SEQUENCE_LENGTH: [&str; 8] = [
    "seq-len",
    "sequence-len",
    "seq-length",
    "sequence-length",
    "max-seq-len",
    "max-seq-length",
    "max-length",
    "cutoff-len",
];

/// What is read, and how it is cut into rows.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Data")]
pub struct Data {
    /// Files or glob patterns: text (.txt); JSON lines or one JSON list (.jsonl, .json), CSV, TSV, each also as .gz; Parquet.
    #[arg(long, value_name = "FILE", required = true, num_args = 1.., value_hint = ValueHint::FilePath)]
    pub data: Vec<String>,
    /// Render rows with the model's chat template, and take the loss on the assistant's turns only. Rows are
    /// conversations, or prompts and instructions, which become conversations of a user and an assistant.
    #[arg(long)]
    pub chat: bool,
    #[command(flatten)]
    pub columns: DataColumns,
    /// Tokens per row; the maximum for a conversation, or for a prompt with its completion. [default: 1024, or the size
    /// of the model's learned position embedding if smaller]
    #[arg(long, aliases = SEQUENCE_LENGTH, value_name = "N")]
    pub block_size: Option<usize>,
    /// Tokens that a row shares with the row before it. Training uses them twice an epoch; `eval` and a validation loss
    /// count each token once, with the longest context that it has (strided perplexity). [default: 0]
    #[arg(long, value_name = "N", conflicts_with_all = ["chat", "packing"])]
    pub overlap: Option<usize>,
    /// Pack several documents, conversations or completions into one row; each attends only to itself.
    #[arg(long, alias = "sample-packing")]
    pub packing: bool,
    /// What to do with a conversation, or a prompt with its completion, that is longer than a row. [default: refuse]
    #[arg(long, value_enum)]
    pub overlong: Option<TooLong>,
    /// Train on rows whose tools or documents the chat template does not render. Without this, each such row is an
    /// error: the model would learn to call tools that it is not shown.
    #[arg(long, requires = "chat")]
    pub ignore_unwritten_tools: bool,
}

impl Data {
    /// Tokens of a row, as they were given.
    pub fn given_row_tokens(&self) -> Option<u64> {
        self.block_size.map(|tokens| tokens as u64)
    }
}

/// What to do with a text that is longer than a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TooLong {
    /// An error that names its line.
    Refuse,
    /// Cut its end off.
    Truncate,
    /// Leave it out, and count it.
    Skip,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Data", group(ArgGroup::new("held_out").args(["validation_split", "eval_data"])))]
pub struct Validation {
    /// Read the rows in file order.
    #[arg(long)]
    pub no_shuffle: bool,
    /// Rows that are shuffled at a time; they are held in memory.
    #[arg(long, value_name = "ROWS", default_value_t = 1024)]
    pub shuffle_window: usize,
    /// Hold out this share of the data for the validation loss.
    #[arg(long, aliases = ["val-set-size", "val-size"], value_name = "SHARE", conflicts_with = "eval_data")]
    pub validation_split: Option<f64>,
    /// Measure the validation loss on these files, which are read as --data is.
    #[arg(long, aliases = ["validation-data", "validation-file", "eval-file", "eval-dataset"], value_name = "FILE", num_args = 1.., value_hint = ValueHint::FilePath)]
    pub eval_data: Vec<String>,
    /// Measure the validation loss every N steps and at the end; without this option, at the end alone.
    #[arg(long, value_name = "N", requires = "held_out", value_parser = clap::value_parser!(u64).range(1..))]
    pub eval_steps: Option<u64>,
    /// Write the weights with the lowest validation loss at the end, instead of the last ones. Each new best is saved as
    /// a checkpoint, which --save-total-limit does not remove.
    #[arg(long, requires = "eval_steps")]
    pub load_best_model_at_end: bool,
    /// The metric that the best weights are chosen by; both names are the validation loss.
    #[arg(long, value_enum, requires = "eval_steps")]
    pub metric_for_best_model: Option<BestMetric>,
    /// Stop after N evaluations in a row that did not improve the validation loss.
    #[arg(long, value_name = "N", requires = "eval_steps", value_parser = clap::value_parser!(u64).range(1..))]
    pub early_stopping_patience: Option<u64>,
    /// How much lower the validation loss must be to count as improved, in nats per token. [default: 0]
    #[arg(long, value_name = "NATS", requires = "early_stopping_patience")]
    pub early_stopping_threshold: Option<f64>,
}

/// Transformers' names of one figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum BestMetric {
    EvalLoss,
    Loss,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "LoRA")]
pub struct Lora {
    /// The rank of the adapters.
    #[arg(long, aliases = ["lora-rank", "rank"], value_name = "R", default_value_t = 8)]
    pub lora_r: u64,
    /// Scale the output of the adapters by alpha / r.
    #[arg(long, value_name = "ALPHA", default_value_t = 8.0)]
    pub lora_alpha: f64,
    /// Module names (q_proj, lm_head), full module paths, or all-linear: every linear layer except the head. Each must
    /// match a layer.
    #[arg(long, aliases = ["target-modules", "lora-target"], value_name = "NAME", num_args = 1.., value_delimiter = ',', default_value = "all-linear")]
    pub lora_target_modules: Vec<String>,
    /// Scale by alpha / sqrt(r) instead (rsLoRA).
    #[arg(long)]
    pub use_rslora: bool,
    /// Dropout probability on the inputs of the adapters in training.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub lora_dropout: f64,
    /// Train the magnitude of the weights of each output separately from their direction (DoRA).
    #[arg(long)]
    pub use_dora: bool,
    /// Ranks that differ from --lora-r: NAME=R, where NAME is a regular expression for the end of a module path; or a
    /// JSON object. The first match counts.
    #[arg(long, value_name = "NAME=R", num_args = 1.., value_parser = pattern::<u64>)]
    pub rank_pattern: Vec<Pattern<u64>>,
    /// Alphas that differ from --lora-alpha: NAME=ALPHA, as for --rank-pattern; or a JSON object.
    #[arg(long, value_name = "NAME=ALPHA", num_args = 1.., value_parser = pattern::<f64>)]
    pub alpha_pattern: Vec<Pattern<f64>>,
    /// Train all weights of these modules (embed_tokens, lm_head), and save them with the adapter. A matrix that the
    /// embedding and the head share is trained once.
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub modules_to_save: Vec<String>,
    /// Train every weight instead of adapters. The output is a complete model.
    #[arg(
        long,
        alias = "full-fine-tuning",
        conflicts_with_all = ["lora_r", "lora_alpha", "lora_target_modules", "use_rslora", "lora_dropout", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "load_in_4bit"]
    )]
    pub full_finetuning: bool,
}

/// Values by patterns for the ends of module paths, in the order in which they were given.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern<T>(pub Vec<(String, T)>);

impl<T: Copy> Pattern<T> {
    /// The entries of several, one after the other.
    pub fn joined(patterns: &[Self]) -> Vec<(String, T)> {
        patterns.iter().flat_map(|pattern| pattern.0.iter().cloned()).collect()
    }
}

/// `NAME=VALUE`, or a JSON object of several.
fn pattern<T: FromStr + DeserializeOwned>(text: &str) -> Result<Pattern<T>, String> {
    if text.trim_start().starts_with('{') {
        let map: IndexMap<String, T> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        return Ok(Pattern(map.into_iter().collect()));
    }
    let (name, value) = text.rsplit_once('=').ok_or("expected NAME=VALUE, or a JSON object")?;
    let value = value.trim().parse().map_err(|_| format!("expected a number after {name}=, got {value:?}"))?;
    Ok(Pattern(vec![(name.trim().to_owned(), value)]))
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Length and batches")]
pub struct Length {
    /// Number of optimizer steps; without this option, --num-epochs decides.
    #[arg(long, value_name = "N", conflicts_with = "num_epochs", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_steps: Option<u64>,
    /// Number of epochs; may be a fraction.
    #[arg(long, visible_alias = "num-train-epochs", alias = "epochs", value_name = "N", default_value_t = 3.0)]
    pub num_epochs: f64,
    /// Rows per batch.
    #[arg(long, visible_alias = "batch-size", aliases = ["micro-batch-size", "per-device-batch-size", "train-batch-size"], value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub per_device_train_batch_size: u64,
    /// Batches per optimizer step.
    #[arg(long, aliases = ["grad-accum", "grad-accum-steps", "gradient-accumulation"], value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub gradient_accumulation_steps: u64,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Optimizer")]
pub struct Optimizer {
    /// The optimizer.
    #[arg(long, value_enum, default_value_t = Optim::AdamwTorch)]
    pub optim: Optim,
    /// Peak learning rate.
    #[arg(long, visible_alias = "lr", value_name = "RATE", default_value_t = 5e-5)]
    pub learning_rate: f64,
    /// Learning-rate schedule.
    #[arg(long, aliases = ["lr-scheduler", "scheduler"], value_enum, default_value_t = Scheduler::Linear)]
    pub lr_scheduler_type: Scheduler,
    /// Steps in which the learning rate rises from 0.
    #[arg(long, value_name = "N", conflicts_with = "warmup_ratio")]
    pub warmup_steps: Option<u64>,
    /// Warmup steps as a share of all steps.
    #[arg(long, value_name = "SHARE")]
    pub warmup_ratio: Option<f64>,
    /// Decoupled weight decay; none of biases and norms.
    #[arg(long, value_name = "RATE", default_value_t = 0.0)]
    pub weight_decay: f64,
    /// Decay rate of the first moment; for Lion, the share of the momentum in the update. [default: 0.9]
    #[arg(long, value_name = "BETA")]
    pub adam_beta1: Option<f64>,
    /// Decay rate of the second moment; for Lion, of the momentum. [default: 0.999; 0.99 for Lion]
    #[arg(long, value_name = "BETA")]
    pub adam_beta2: Option<f64>,
    /// Added to the denominator of Adam.
    #[arg(long, value_name = "EPS", default_value_t = 1e-8)]
    pub adam_epsilon: f64,
    /// Clip the L2 norm of the gradient, over all trained parameters, to this; 0 turns clipping off.
    #[arg(long, alias = "gradient-clipping", value_name = "NORM", default_value_t = 1.0)]
    pub max_grad_norm: f64,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Checkpoints and logs")]
pub struct Saving {
    /// Write a checkpoint every N steps and after the last; 0 writes one on Ctrl-C only.
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub save_steps: u64,
    /// Keep only the newest N checkpoints; without this option, all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub save_total_limit: Option<u64>,
    /// Resume from a checkpoint: `auto` takes the newest complete one in the output folder, and starts a new run where
    /// there is none.
    ///
    /// A larger --max-steps or --num-epochs extends the run. Other settings that change its numbers must be those of the checkpoint,
    /// except those that --allow-changed names.
    #[arg(long, alias = "resume", value_name = "auto|PATH", value_hint = ValueHint::DirPath)]
    pub resume_from_checkpoint: Option<PathBuf>,
    /// Settings that may differ from those of the checkpoint, such as learning_rate or data. An epoch of other data is
    /// read from its start.
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',', requires = "resume_from_checkpoint", action = ArgAction::Set)]
    pub allow_changed: Vec<String>,
    /// Print a line every N steps where there is no terminal for a progress bar, with the mean loss of those steps.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub logging_steps: u64,
    /// Where the metrics of each step go: metrics.jsonl, TensorBoard event files in runs/, both, or nowhere.
    #[arg(long, value_enum, num_args = 1.., value_delimiter = ',', default_value = "jsonl", action = ArgAction::Set)]
    pub report_to: Vec<ReportTo>,
}

/// Transformers' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Optim {
    /// AdamW with f32 state.
    #[value(alias = "adamw_torch_fused")]
    AdamwTorch,
    /// AdamW with 8-bit state, as bitsandbytes has it.
    #[value(name = "adamw_8bit", alias = "adamw_bnb_8bit")]
    Adamw8bit,
    /// Lion with f32 state.
    #[value(name = "lion_32bit")]
    Lion32bit,
    /// Lion with 8-bit state.
    #[value(name = "lion_8bit")]
    Lion8bit,
    /// adamw_torch, with the state beyond --optim-memory-budget in a file.
    #[value(name = "paged_adamw_32bit", alias = "paged_adamw")]
    PagedAdamw32bit,
    /// adamw_8bit, likewise.
    #[value(name = "paged_adamw_8bit")]
    PagedAdamw8bit,
    /// lion_32bit, likewise.
    #[value(name = "paged_lion_32bit")]
    PagedLion32bit,
    /// lion_8bit, likewise.
    #[value(name = "paged_lion_8bit")]
    PagedLion8bit,
}

/// Of a paged optimizer's state in memory, where nothing else is asked for.
const OPTIM_MEMORY_BUDGET: u64 = 256 << 20;

impl Optim {
    pub fn is_lion(self) -> bool {
        use Optim::*;
        matches!(self, Lion32bit | Lion8bit | PagedLion32bit | PagedLion8bit)
    }

    pub fn is_8bit(self) -> bool {
        use Optim::*;
        matches!(self, Adamw8bit | Lion8bit | PagedAdamw8bit | PagedLion8bit)
    }

    pub fn is_paged(self) -> bool {
        use Optim::*;
        matches!(self, PagedAdamw32bit | PagedAdamw8bit | PagedLion32bit | PagedLion8bit)
    }

    /// # Errors
    /// A folder that would have no effect.
    pub fn check_offload_folder(self, folder: Option<&Path>, memory_budget: Option<u64>) -> Result<(), String> {
        match folder {
            Some(_) if memory_budget.is_none() && !self.is_paged() => {
                Err("--offload-folder has no effect without --memory-budget or a paged --optim; add one or remove it"
                    .into())
            }
            _ => Ok(()),
        }
    }

    /// The most of its state that is in memory; `None` where it is not paged.
    ///
    /// # Errors
    /// A budget for an optimizer that has none.
    pub fn memory_budget(self, asked: Option<u64>) -> Result<Option<u64>, String> {
        match asked {
            Some(_) if !self.is_paged() => {
                Err("--optim-memory-budget needs a paged --optim, such as paged_adamw_8bit".into())
            }
            asked => Ok(self.is_paged().then(|| asked.unwrap_or(OPTIM_MEMORY_BUDGET))),
        }
    }
}

/// Transformers' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Scheduler {
    Constant,
    ConstantWithWarmup,
    Linear,
    Cosine,
    InverseSqrt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportTo {
    Jsonl,
    Tensorboard,
    All,
    None,
}
