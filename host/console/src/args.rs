//! The command line: what can be asked, and the help that answers it. Parsing only.

mod columns;
mod compute;
mod fidelity;
mod flags;
mod foreign;
mod plan;
mod quantization;
mod recipe;
mod run;
mod train;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

pub use columns::{DataColumns, DataFormat};
pub use compute::{Compute, Device, Precision};
pub use fidelity::Fidelity;
pub use foreign::{advice, command_line, parse, value_advice};
pub use plan::Plan;
pub use quantization::{QuantType, Quantization};
pub use recipe::Run;
pub use run::{Eval, Generate, Merge, MergeDtype, MergeRounding, Preprocess};
pub use train::{
    BestMetric, Data, Length, Lora, Optim, Optimizer, Pattern, ReportTo, Saving, Scheduler, TooLong, Train, Validation,
};

/// Open a checkpoint, let protocol plugins rewrite its module graph, and write a folder the ecosystem still opens.
#[derive(Debug, Parser)]
#[command(name = "unswag", version, propagate_version = true, max_term_width = 110, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    pub output: Output,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  unswag inspect model.safetensors                        what is in it, and what each module saves for backward
  unswag surgery --plugin delhi model.safetensors         rewrite it with the Delhi protocol
  unswag surgery --plugin delhi:mode=4bit,group=32 DIR -o OUT
  unswag verify OUT                                       check every hash, and that the graph rebuilds
  unswag undo OUT                                         take the last step back
  unswag plan OUT --seq 8192 --memory-budget 2GiB         memory of a training step; the fastest policy that fits
  unswag train OUT --data plays/*.txt -o run              train LoRA adapters on it
  unswag run RECIPE.yaml                                  surgery and training from one file
  unswag plugin new my-protocol                           start a plugin of your own

Exit status: 0 done; 1 compared or checked, and it differs; 2 could not be done.";

#[derive(Clone, Debug, Args)]
pub struct Output {
    /// Print one JSON document instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// When to colour the output.
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = When::Auto)]
    pub color: When,
    /// No progress bars and no notes; errors only.
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum When {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Surgery(Surgery),
    Inspect(Inspect),
    Diff(Diff),
    Verify(Verify),
    Undo(Undo),
    Import(Import),
    Plan(Box<Plan>),
    Train(Box<Train>),
    Run(Run),
    /// Print the JSON Schema of recipes, which `unswag run` follows.
    #[command(
        after_help = "Examples:\n  unswag schema > recipe.schema.json\n  unswag schema --markdown > recipes.md      every key on one page"
    )]
    Schema {
        /// Print a page of Markdown with every key, its type, its default and its meaning instead.
        #[arg(long)]
        markdown: bool,
    },
    Fidelity(Fidelity),
    Eval(Eval),
    Generate(Generate),
    Merge(Merge),
    Preprocess(Preprocess),
    Plugin(Plugin),
    /// Report what this machine has, and what that means for each protocol.
    Doctor,
    Completions(Completions),
    /// Print a manual page, or write all of them into a folder.
    #[command(after_help = "Examples:\n  unswag man | man -l -\n  unswag man --dir ~/.local/share/man/man1")]
    Man {
        /// Write one page per command into this folder.
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
}

impl Command {
    /// The only form that a command's answer has, where that is no JSON document.
    fn form_without_json(&self) -> Option<&'static str> {
        match self {
            Command::Schema { markdown: true } => Some("Markdown"),
            Command::Plugin(Plugin { command: PluginCommand::Kinds }) => Some("Markdown"),
            Command::Man { .. } => Some("manual pages"),
            Command::Completions(_) => Some("a shell's script"),
            _ => None,
        }
    }
}

/// Rewrite a checkpoint's graph with one or more plugins and write the result.
///
/// The base is never changed. The output folder appears complete or not at all: an interrupted run leaves what was there.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unswag surgery --plugin delhi model.safetensors
  unswag surgery --plugin delhi:mode=2bit ./SmolLM2-135M -o ./SmolLM2-delhi
  unswag surgery --plugin delhi --dry-run --diff ./SmolLM2-135M      show what would change, write nothing
  unswag surgery --auto ./SmolLM2-135M                               choose by hardware and activation, and say why")]
pub struct Surgery {
    /// A plugin's protocol and its options; given several times, they operate in order.
    #[arg(long = "plugin", short, value_name = "NAME[:KEY=VALUE,…]", required_unless_present = "auto")]
    pub plugins: Vec<String>,
    /// Choose the plugins by this machine's hardware and the model's activations.
    #[arg(long, conflicts_with = "plugins")]
    pub auto: bool,
    #[command(flatten)]
    pub model: Model,
    /// The folder to write [default: the model's name and the protocols' names, in the current folder].
    #[arg(long, short, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: Option<PathBuf>,
    /// Do everything except writing.
    #[arg(long)]
    pub dry_run: bool,
    /// Show every node and parameter that changes.
    #[arg(long)]
    pub diff: bool,
    /// Hard-link untouched weight files instead of copying them. They become read-only in the output. A program that
    /// writes to them anyway also changes the base.
    #[arg(long)]
    pub link: bool,
    /// Replace OUT if it is an earlier result of surgery and holds nothing else.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Model {
    /// A .safetensors file, a folder with config.json and weights, or a hub cache snapshot.
    #[arg(value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub path: PathBuf,
    /// The config.json to use where none lies beside the weights.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
}

/// Show the module tree: kinds, shapes, parameters, and the bytes that each node saves for backward per token.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unswag inspect ./SmolLM2-135M
  unswag inspect ./SmolLM2-135M --layer 0
  unswag inspect model.gguf
  unswag inspect ./SmolLM2-135M --json | jq '.totals'")]
pub struct Inspect {
    #[command(flatten)]
    pub model: Model,
    /// Show every node of layer N instead of one entry for identical layers.
    #[arg(long, value_name = "N")]
    pub layer: Option<u64>,
    /// Print the graph document that plugins receive.
    #[arg(long)]
    pub graph: bool,
}

/// Compare the graphs of two checkpoints: nodes, parameters, caches, losses; with --weights, the tensors' data too.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  unswag diff ./SmolLM2-135M ./SmolLM2-135M-delhi\n  unswag diff --weights ./SmolLM2-135M ./merged\n\nExit status: 0 what was compared is equal, 1 different, 2 could not compare."
)]
pub struct Diff {
    #[arg(value_name = "A", value_hint = ValueHint::AnyPath)]
    pub a: PathBuf,
    #[arg(value_name = "B", value_hint = ValueHint::AnyPath)]
    pub b: PathBuf,
    /// Compare the data of every tensor too, which reads both checkpoints in full. Without it, the weights are not compared.
    #[arg(long)]
    pub weights: bool,
}

/// Check a result of surgery: every file's hash, the record, and that the graph rebuilds from it.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  unswag verify ./SmolLM2-135M-delhi\n\nExit status: 0 sound, 1 something differs, 2 could not check."
)]
pub struct Verify {
    /// A folder that `unswag surgery` wrote.
    #[arg(value_name = "OUT", value_hint = ValueHint::DirPath)]
    pub path: PathBuf,
    /// Check the base checkpoint against its recorded hashes too.
    #[arg(long)]
    pub base: bool,
}

/// Take back the last step of a result of surgery, or all of them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unswag undo ./SmolLM2-135M-delhi              in place: the folder holds what it held before the last step
  unswag undo ./SmolLM2-135M-delhi -o ./plain   into another folder")]
pub struct Undo {
    /// A folder that `unswag surgery` wrote.
    #[arg(value_name = "OUT", value_hint = ValueHint::DirPath)]
    pub path: PathBuf,
    /// Write here instead of in place.
    #[arg(long, short, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: Option<PathBuf>,
    /// Take back every step.
    #[arg(long)]
    pub all: bool,
    /// Where the base checkpoint is now, if it moved; needed only where weights were changed.
    #[arg(long, value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub base: Option<PathBuf>,
    /// Undo although files changed since surgery wrote them: those that stay are kept as they are, and those that the
    /// base's files replace are lost.
    #[arg(long)]
    pub force: bool,
}

/// Turn a GGUF file into a folder of safetensors, config and tokenizer.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  unswag import SmolLM2-135M-Instruct-Q4_1.gguf -o ./SmolLM2-135M-Instruct")]
pub struct Import {
    #[arg(value_name = "FILE.gguf", value_hint = ValueHint::FilePath)]
    pub path: PathBuf,
    /// The folder to write.
    #[arg(long, short, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: PathBuf,
    /// Element type of the written weights.
    #[arg(long, value_enum, default_value_t = ImportDtype::Bfloat16)]
    pub dtype: ImportDtype,
    /// Leave the tokenizer out: for a file whose tokenizer cannot be rebuilt.
    #[arg(long)]
    pub no_tokenizer: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImportDtype {
    Bfloat16,
    Float16,
    Float32,
}

/// Start, add, list, check and remove protocol plugins.
#[derive(Debug, Args)]
pub struct Plugin {
    #[command(subcommand)]
    pub command: PluginCommand,
}

#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Write a plugin crate that builds and passes its own tests at once.
    #[command(after_help = "Example:\n  unswag plugin new my-protocol && cd my-protocol && cargo test")]
    New {
        /// The crate's name: lower-case letters, digits and dashes.
        name: String,
        /// Where to put it [default: ./NAME].
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
    /// Consent to a plugin's exact bytes: probe it in a sandbox, show what it declares, and lock its hash.
    #[command(after_help = "Example:\n  unswag plugin add ./target/release/libmy_protocol.so")]
    Add {
        #[arg(value_name = "PATH", value_hint = ValueHint::FilePath)]
        path: PathBuf,
        /// Replace another plugin that has the same protocols.
        #[arg(long)]
        replace: bool,
        /// Write the lock file beside this executable instead of the user's: for builds and packages.
        #[arg(long, hide = true)]
        bundled: bool,
    },
    /// List the locked plugins and their protocols.
    List,
    /// Show what a plugin declares, its options with defaults, and what it was locked with.
    Info {
        /// A protocol's name, or a path to a library.
        #[arg(value_name = "NAME|PATH")]
        plugin: String,
    },
    /// Run the conformance suite on a plugin, in a sandboxed child process: no consent is needed.
    #[command(
        after_help = "Example:\n  unswag plugin check ./target/release/libmy_protocol.so\n\nExit status: 0 conforms, 1 does not, 2 the suite did not finish (a crash, a hang, an exit)."
    )]
    Check {
        #[arg(value_name = "PATH", value_hint = ValueHint::FilePath)]
        path: PathBuf,
    },
    /// Print every kind of the graph with its attributes and exact arithmetic, as Markdown: what `stands_for` is checked against.
    Kinds,
    /// Withdraw consent: remove a plugin from the lock file. The library itself stays.
    Remove {
        /// A protocol's name, or the path that was added.
        #[arg(value_name = "NAME|PATH")]
        plugin: String,
    },
}

/// Print a shell's completion script.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  unswag completions bash > ~/.local/share/bash-completion/completions/unswag")]
pub struct Completions {
    pub shell: clap_complete::Shell,
}
