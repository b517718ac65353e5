//! Recipes: surgery and training in one YAML file.
//!
//! ```text
//! RECIPE.yaml ──read──► Recipe ──with options of the command line──► the arguments of `unswag train`, or of `unswag plan`
//! ```
//!
//! A recipe's `train` has the keys that `unswag train` has options, and is turned into those: there is one set of names,
//! defaults and checks, and one way into training. Its JSON Schema is made from the same options. What is wrong is told with
//! the line it stands on. Nothing here may do what a recipe says.

mod keys;
mod locate;
mod read;
mod schema;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::{ArgMatches, Args, Command};
use unswag_loader::yaml::{self, YamlError};

use crate::args::{Plan, Run, Train};
use keys::Keys;
pub use keys::{Given, Overrides};
use locate::{Fault, Place, line_of};
pub use schema::schema;

/// A recipe is written by hand.
const MAX_BYTES: u64 = 1 << 20;

/// The folder in the output folder that holds what surgery made. Full fine-tuning writes `model`.
const PATCHED: &str = "patched";

/// A step of surgery: a protocol, or the path of a library, and its options as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SurgeryStep {
    pub plugin: String,
    pub options: Vec<(String, String)>,
}

/// Surgery, where there is any, and training.
#[derive(Clone, Debug)]
pub struct Recipe {
    path: PathBuf,
    text: String,
    pub model: PathBuf,
    pub surgery: Vec<SurgeryStep>,
    pub output: PathBuf,
    train: Vec<Given>,
}

/// Why a recipe cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    #[error("{}: cannot read it", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: expected at most {MAX_BYTES} bytes of text, got more; this is no recipe", path.display())]
    Size { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Yaml { path: PathBuf, source: YamlError },
    #[error("{}:{line}: {what}", path.display())]
    Fault { path: PathBuf, line: usize, what: String },
    #[error("{}: {what}", path.display())]
    Settings { path: PathBuf, what: String },
}

/// Whether this path is a recipe's and no model's, by its ending.
pub fn is_recipe(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml")
}

impl Recipe {
    /// Reads a recipe. Paths in it are taken from the working directory, as on the command line.
    ///
    /// # Errors
    /// A file that cannot be read or is no YAML; a key that is not known, a value that cannot be, or one that is missing.
    pub fn open(path: &Path) -> Result<Self, RecipeError> {
        let io = |source| RecipeError::Io { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(io)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(RecipeError::Size { path: path.to_owned() });
        }
        let text = String::from_utf8(bytes).map_err(|error| io(io::Error::new(io::ErrorKind::InvalidData, error)))?;
        let value = yaml::parse(&text).map_err(|source| RecipeError::Yaml { path: path.to_owned(), source })?;
        let told = |fault: Fault| RecipeError::Fault {
            path: path.to_owned(),
            line: line_of(&text, &fault.place),
            what: fault.to_string(),
        };
        let written = read::document(&value, &Keys::of_train()).map_err(told)?;
        let read::Document { model, surgery, train, output } = written;
        Ok(Recipe { path: path.to_owned(), text, model, surgery, output, train })
    }

    /// The recipe with what was said beside it on the command line.
    pub fn with(mut self, run: &Run) -> Self {
        self.train = Keys::of_train().merged(&self.train, run.overrides.given());
        if let Some(model) = &run.model {
            self.model.clone_from(model);
        }
        if let Some(output) = &run.output {
            self.output.clone_from(output);
        }
        self
    }

    /// The model that is trained: what surgery makes, where there is any.
    pub fn trained_model(&self) -> PathBuf {
        if self.surgery.is_empty() { self.model.clone() } else { self.output.join(PATCHED) }
    }

    /// The arguments of `unswag train` that do what the recipe says, from the command's name on.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn train_args(&self, dry_run: bool) -> Result<Vec<OsString>, RecipeError> {
        let args = |train: &[Given]| {
            let mut args: Vec<OsString> = vec!["train".into()];
            args.extend(train.iter().flat_map(Given::args).map(OsString::from));
            args.extend(dry_run.then(|| "--dry-run".into()));
            // `=`, and `--` before the model: neither is taken for an option, whatever it begins with.
            let mut output = OsString::from("--output=");
            output.push(&self.output);
            args.extend([output, "--".into(), self.trained_model().into()]);
            args
        };
        self.parsed::<Train>(&self.train, args)?;
        Ok(args(&self.train))
    }

    /// The arguments of `unswag plan` that plan what the recipe trains, of the model before surgery; `given` is what stands on the
    /// command line of `unswag plan` beside it.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn plan_args(&self, given: Option<&ArgMatches>) -> Result<Plan, RecipeError> {
        let keys = Keys::of_plan();
        let planned: Vec<Given> = self.train.iter().filter_map(|given| keys.renamed(given)).collect();
        let merged = keys.merged(&planned, &given.map(|given| keys.given(given)).unwrap_or_default());
        self.parsed(&merged, |plan| {
            let mut args: Vec<OsString> = vec!["plan".into()];
            args.extend(plan.iter().flat_map(Given::args).map(OsString::from));
            args.extend(["--".into(), self.model.clone().into()]);
            args
        })
    }

    /// A command's arguments, as clap reads them.
    ///
    /// # Errors
    /// Settings that do not go together, at the line of the first without which they do.
    fn parsed<A: Args>(&self, settings: &[Given], args: impl Fn(&[Given]) -> Vec<OsString>) -> Result<A, RecipeError> {
        let parse = |settings: &[Given]| {
            let command = A::augment_args(Command::new("settings"));
            command.try_get_matches_from(args(settings)).and_then(|matches| A::from_arg_matches(&matches))
        };
        let error = match parse(settings) {
            Ok(parsed) => return Ok(parsed),
            Err(error) => error.to_string(),
        };
        let said = error.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let is_at_fault = |&index: &usize| {
            let others = [&settings[..index], &settings[index + 1..]].concat();
            settings[index].is_of_recipe && parse(&others).is_ok()
        };
        let path = self.path.clone();
        match (0..settings.len()).find(is_at_fault) {
            Some(index) => {
                let place = Place::key(&["train", &settings[index].written]);
                let line = line_of(&self.text, &place);
                Err(RecipeError::Fault { path, line, what: Fault { place, what: said }.to_string() })
            }
            None => Err(RecipeError::Settings { path, what: said }),
        }
    }
}
