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
mod page;
mod read;
mod schema;
mod values;

use std::{
    error::Error,
    ffi::OsString,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::{ArgMatches, Args, Command};
use unswag_loader::{PluginSpec, regular_file, yaml::YamlError};

use crate::args::{Plan, Run, Train};
use keys::Keys;
pub use keys::{Given, Overrides};
use locate::{Fault, Place, line_of};
pub use page::page;
pub use schema::schema;

/// A recipe is written by hand.
const MAX_BYTES: u64 = 1 << 20;

/// The folder in the output folder that holds what surgery made. Full fine-tuning writes `model`.
const PATCHED: &str = "patched";

/// Surgery, where there is any, and training.
#[derive(Clone, Debug)]
pub struct Recipe {
    path: PathBuf,
    text: String,
    pub model: PathBuf,
    /// What operates, in order.
    pub surgery: Vec<PluginSpec>,
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
    #[error("{}:{line}: {place}", path.display())]
    Step { path: PathBuf, line: usize, place: String, source: Box<dyn Error + Send + Sync> },
}

/// Whether this path is a recipe's and no model's, by its ending.
pub fn is_recipe(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml")
}

impl Recipe {
    /// Reads a recipe. Paths in it are taken from the working directory, as on the command line.
    ///
    /// # Errors
    /// A path that is no file, or a file that cannot be read; else as [`Recipe::parse`].
    pub fn open(path: &Path) -> Result<Self, RecipeError> {
        let io = |source| RecipeError::Io { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        // One byte more than a recipe may have shows that there are more.
        regular_file(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(io)?;
        Self::parse(path, bytes)
    }

    /// A recipe from the bytes of a file; `path` is for messages. Nothing is opened, and the work is linear in the bytes.
    ///
    /// # Errors
    /// More than a megabyte, or bytes that are no YAML; a key that is not known, a value that cannot be, or one that is missing.
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, RecipeError> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(RecipeError::Size { path: path.to_owned() });
        }
        let io = |source| RecipeError::Io { path: path.to_owned(), source };
        let mut bytes = bytes;
        if bytes.starts_with("\u{feff}".as_bytes()) {
            bytes.drain(..3);
        }
        let text = String::from_utf8(bytes).map_err(|error| io(io::Error::new(io::ErrorKind::InvalidData, error)))?;
        let value = values::document(&text).map_err(|source| unread(path, source))?;
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

    /// Opens each step of surgery with `open`. `option_at_fault` says which option an error is about, if one.
    ///
    /// # Errors
    /// The first step that cannot be opened, with the line that it stands on.
    pub fn steps<T, E: Error + Send + Sync + 'static>(
        &self,
        open: impl Fn(&PluginSpec) -> Result<T, E>,
        option_at_fault: impl Fn(&E) -> Option<&str>,
    ) -> Result<Vec<T>, RecipeError> {
        let opened = |(index, spec): (usize, &PluginSpec)| {
            open(spec).map_err(|error| {
                let step = Place::default().at("surgery").item(index);
                let place = match option_at_fault(&error) {
                    Some(key) if spec.options.iter().any(|(given, _)| given == key) => {
                        step.at("options").at(key).itself()
                    }
                    _ => step.at("plugin"),
                };
                let (path, line) = (self.path.clone(), line_of(&self.text, &place));
                RecipeError::Step { path, line, place: place.to_string(), source: Box::new(error) }
            })
        };
        self.surgery.iter().enumerate().map(opened).collect()
    }

    /// The arguments of `unswag train` that do what the recipe says, from the command's name on; `force` replaces an earlier run.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn train_args(&self, force: bool) -> Result<Vec<OsString>, RecipeError> {
        self.train(force)?;
        Ok(self.typed_train(&self.train, force))
    }

    /// [`Recipe::train_args`], as clap reads them.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn train(&self, force: bool) -> Result<Train, RecipeError> {
        self.parsed(&self.train, |train| self.typed_train(train, force))
    }

    fn typed_train(&self, train: &[Given], force: bool) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["train".into()];
        args.extend(train.iter().flat_map(Given::args).map(OsString::from));
        args.extend(force.then(|| "--force".into()));
        // `=`, and `--` before the model: neither is taken for an option, whatever it begins with.
        let mut output = OsString::from("--output=");
        output.push(&self.output);
        args.extend([output, "--".into(), self.trained_model().into()]);
        args
    }

    /// The arguments of `unswag plan` that plan what the recipe trains, of the model before surgery; `given` is what stands on the
    /// command line of `unswag plan` beside it.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn plan_args(&self, given: Option<&ArgMatches>) -> Result<Plan, RecipeError> {
        let keys = Keys::of_plan();
        let defaults = Keys::of_train().defaults_unlike(&keys, &self.train);
        let planned: Vec<Given> = self.train.iter().chain(&defaults).filter_map(|given| keys.renamed(given)).collect();
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
                let fault = Fault { place, what: shown(&with_keys(&said)) };
                Err(RecipeError::Fault { path, line, what: fault.to_string() })
            }
            // It is about options beside the recipe, and names them as they were typed.
            None => Err(RecipeError::Settings { path, what: shown(&said) }),
        }
    }
}

/// Why a document was not read, with the line in front where the parser says it.
fn unread(path: &Path, source: YamlError) -> RecipeError {
    let path = path.to_owned();
    let location = match &source {
        YamlError::Syntax(error) => error.location(),
        YamlError::Depth { .. } => None,
    };
    let Some(location) = location else { return RecipeError::Yaml { path, source } };
    let behind = format!(" at line {} column {}", location.line(), location.column());
    let what = shown(&source.to_string().replacen(&behind, "", 1));
    RecipeError::Fault { path, line: location.line(), what }
}

/// What clap says of options (`'--max-steps <N>'`), said of keys.
fn with_keys(said: &str) -> String {
    let (mut text, mut rest) = (String::new(), said);
    while let Some(at) = rest.find("--") {
        let (before, option) = rest.split_at(at);
        text.push_str(before);
        let name = option[2..].split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next().unwrap_or_default();
        // Not a part of a value that the recipe has.
        if name.is_empty() || !text.ends_with(['\'', ' ', '<', '|']) {
            text.push_str("--");
            rest = &option[2..];
            continue;
        }
        text.push_str(&format!("`{}`", name.replace('-', "_")));
        rest = &option[2 + name.len()..];
        // The name of the option's value.
        if let Some((value_name, behind)) = rest.strip_prefix(" <").and_then(|rest| rest.split_once('>'))
            && !value_name.contains(' ')
        {
            rest = behind.trim_start_matches("...");
        }
    }
    text.push_str(rest);
    for (from, to) in [("'`", "`"), ("`'", "`"), ("<`", "`"), ("`>", "`"), ("`|`", "` or `"), ("the argument `", "`")] {
        text = text.replace(from, to);
    }
    text.replace("required arguments", "required keys")
}

/// As much of a text from a recipe as a message shows.
fn shown(text: &str) -> String {
    const SHOWN_CHARS: usize = 300;
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAIN: &str = "model: m\noutput: out\ntrain:\n  data: x\n";

    fn read(text: &str) -> Result<Recipe, RecipeError> {
        Recipe::parse(Path::new("r.yaml"), text.as_bytes().to_vec())
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        assert!(read(&format!("\u{feff}{TRAIN}")).is_ok());
    }

    #[test]
    fn a_recipe_has_few_steps() {
        let steps = |count: usize| format!("{TRAIN}surgery:\n{}", "  - plugin: delhi\n".repeat(count));
        assert_eq!(read(&steps(64)).unwrap().surgery.len(), 64);
        let error = read(&steps(10_000)).unwrap_err().to_string();
        assert!(error.contains("r.yaml:6: surgery: expected at most 64 steps, got 10000"), "{error}");
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let error = Recipe::open(Path::new("/dev/zero")).unwrap_err();
        assert!(crate::chain(&error).contains("expected a file, found a device"), "{error:?}");
        let large = read(&format!("{TRAIN}#{}", "x".repeat(2 << 20))).unwrap_err();
        assert!(matches!(large, RecipeError::Size { .. }), "{large}");
    }

    #[test]
    fn messages_stay_short_whatever_the_recipe_holds() {
        let long = "k".repeat(500_000);
        for text in [
            format!("{TRAIN}  {long}: 1\n"),
            format!("{TRAIN}  seed: {long}\n"),
            format!("{TRAIN}{long}: 1\n"),
            format!("{TRAIN}  lr_scheduler_type: {long}\n"),
        ] {
            let error = read(&text).and_then(|recipe| recipe.train(false)).map(|_| ()).unwrap_err().to_string();
            assert!(error.len() < 2_000, "{} bytes", error.len());
        }
    }

    /// What is said of a recipe that has these lines more; the first of them is line 5.
    fn fault(lines: &str) -> String {
        let read = read(&format!("{TRAIN}{lines}\n"));
        read.and_then(|recipe| recipe.train(false)).map(|_| ()).expect_err(lines).to_string()
    }

    #[test]
    fn a_fault_names_the_line_the_key_and_what_to_write() {
        for (lines, says) in [
            ("  max_steps: -1", "r.yaml:5: train.max_steps: expected at least 1, got -1; leave it out"),
            ("  seed: -1", "r.yaml:5: train.seed: expected at least 0, got -1"),
            ("  lora_r: 4\n  lora_r: 8", "r.yaml:6: train: the key \"lora_r\" stands twice"),
            ("max_steps: 4", "r.yaml:5: max_steps: no such key; it belongs under `train:`"),
            ("  output: out", "r.yaml:5: train.output: no such key; it belongs at the top"),
            (
                "  max_steps: 4\n  num_epochs: 2",
                "r.yaml:5: train.max_steps: `max_steps` cannot be used with `num_epochs`",
            ),
            ("  eval_steps: 1", "`validation_split` or `eval_data`"),
            ("  optim: sgd", "got the text \"sgd\"; the optimizers are AdamW"),
            ("  rank_pattern: {q_proj: x}", "r.yaml:5: train.rank_pattern.q_proj: expected a number"),
        ] {
            let said = fault(lines);
            assert!(said.contains(says), "{lines}: {said}");
            assert!(!said.contains("--") && !said.contains(" column "), "{lines}: {said}");
        }
        // A value of the recipe's own is shown as it is.
        assert_eq!(with_keys("invalid value 'a--b' for '--seed <N>'"), "invalid value 'a--b' for `seed`");
    }

    #[test]
    fn patterns_are_maps_as_in_peft_and_values_have_their_other_names() {
        let lines = "  rank_pattern: {q_proj: 16, 'layers\\.0': 4}\n  alpha_pattern: {q_proj: 0.5}\n  dtype: bf16\n";
        let train = read(&format!("{TRAIN}{lines}")).and_then(|recipe| recipe.train(false)).expect("sound");
        let ranks = crate::args::Pattern::joined(&train.lora.rank_pattern);
        assert_eq!(ranks, [("q_proj".to_owned(), 16), ("layers\\.0".to_owned(), 4)]);
        assert_eq!(crate::args::Pattern::joined(&train.lora.alpha_pattern), [("q_proj".to_owned(), 0.5)]);
        assert_eq!(train.compute.dtype, crate::args::Precision::Bfloat16);
    }

    #[test]
    fn a_plan_has_the_defaults_of_training() {
        let recipe = read(TRAIN).unwrap();
        let (train, plan) = (recipe.train(false).unwrap(), recipe.plan_args(None).unwrap());
        assert_eq!((plan.seq, train.data.block_size), (None, None));
        let said =
            read(&format!("{TRAIN}  block_size: 77\n  full_finetuning: true\n")).unwrap().plan_args(None).unwrap();
        assert!(said.seq == Some(77) && said.lora.full_finetuning);
    }

    #[test]
    fn a_step_that_does_not_open_is_named_with_its_line() {
        let text =
            format!("{TRAIN}surgery:\n  - plugin: a\n  - plugin: b\n    options:\n      mode: 1\n      group: 2\n");
        let recipe = read(&text).unwrap();
        #[derive(Debug, thiserror::Error)]
        #[error("no {0}")]
        struct No(&'static str);
        for (fault, place) in
            [("group", "r.yaml:10: surgery[1].options.group"), ("other", "r.yaml:7: surgery[1].plugin")]
        {
            let open = |spec: &PluginSpec| if spec.name == "b" { Err(No(fault)) } else { Ok(()) };
            let error = recipe.steps(open, |error| Some(error.0)).unwrap_err();
            assert_eq!(crate::chain(&error), format!("{place}: no {fault}"));
        }
    }
}
