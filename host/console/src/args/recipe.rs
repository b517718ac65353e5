//! `unswag run`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::recipe::Overrides;

/// Do what a recipe says: surgery, then training.
///
/// A recipe is a YAML file with `model`, `surgery` (a list of `plugin` and `options`), `train` (the options of `unswag train`, with
/// underscores) and `output`. Options of `unswag train` that are given here replace the recipe's. Everything is checked before surgery
/// writes: settings, plugins, data, memory and the output. Surgery writes OUTPUT/patched; a result of the same surgery that is there
/// already is used as it is.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unswag run manifests/delhi-shakespeare.yaml
  unswag run manifests/delhi-shakespeare.yaml --dry-run              check everything, write nothing
  unswag run manifests/delhi-shakespeare.yaml --max-steps 5 -o try   a short one, elsewhere
  unswag run manifests/delhi-shakespeare.yaml --resume-from-checkpoint auto
  unswag plan manifests/delhi-shakespeare.yaml                       what its training takes

`unswag schema` prints the JSON Schema of recipes.
Exit status: as `unswag train`.")]
pub struct Run {
    #[arg(value_name = "RECIPE.yaml", value_hint = ValueHint::FilePath)]
    pub recipe: PathBuf,
    /// A model to use instead of the recipe's.
    #[arg(long, value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub model: Option<PathBuf>,
    /// A folder to write instead of the recipe's.
    #[arg(long, short, visible_alias = "output-dir", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: Option<PathBuf>,
    /// Check everything, report what would be done and what it takes, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Replace what an earlier run left in OUTPUT, and OUTPUT/patched where other surgery wrote it.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub overrides: Overrides,
}
