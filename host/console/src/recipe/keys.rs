//! A command's options as keys of a recipe: what they are called, what they take, and how they are typed.

use std::any::TypeId;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, builder::Resettable, parser::ValueSource};

use crate::args::{Plan, Train};

/// Options that are no keys of `train`: a recipe has them one level up, or they are for one call.
const NOT_KEYS: &[&str] = &["model", "output", "dry_run", "force", "help", "version"];

/// What a value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Flag,
    Integer,
    Number,
    /// Bytes, as a number or with a unit.
    Size,
    Text,
    /// Names, each with a number: text such as `q_proj=16`, or keys and values.
    Pairs,
    Choice {
        names: Vec<String>,
        /// Other names of the same, which the help leaves out.
        others: Vec<String>,
    },
}

/// A key and its value: in a recipe, or on the command line beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The option's name, without dashes before it.
    pub(super) long: String,
    /// The key as it was written.
    pub(super) written: String,
    pub(super) is_of_recipe: bool,
    /// None for a flag.
    values: Vec<String>,
    takes_list_at_once: bool,
}

impl Given {
    /// As it is typed.
    pub fn args(&self) -> Vec<String> {
        let long = &self.long;
        match self.values.as_slice() {
            [] => vec![format!("--{long}")],
            values if self.takes_list_at_once => vec![format!("--{long}={}", values.join(","))],
            values => values.iter().map(|value| format!("--{long}={value}")).collect(),
        }
    }
}

/// Every option of a command that can be a key.
pub struct Keys {
    command: Command,
    keys: Vec<Key>,
}

/// One option.
pub struct Key {
    arg: Arg,
}

impl Keys {
    pub fn of_train() -> Self {
        Self::of(Train::augment_args(Command::new("train")))
    }

    pub fn of_plan() -> Self {
        Self::of(Plan::augment_args(Command::new("plan")))
    }

    fn of(mut command: Command) -> Self {
        command.build();
        let is_key = |arg: &&Arg| arg.get_long().is_some() && !NOT_KEYS.contains(&arg.get_id().as_str());
        let keys = command.get_arguments().filter(is_key).map(|arg| Key { arg: arg.clone() }).collect();
        Keys { command, keys }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    /// By its name or another name of it, with underscores.
    pub fn find(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.names().any(|known| known == name))
    }

    /// What was typed of these options.
    pub fn given(&self, matches: &ArgMatches) -> Vec<Given> {
        let is_typed = |key: &&Key| matches.value_source(key.arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        let typed = self.keys.iter().filter(is_typed);
        let values = |key: &Key| match key.kind() {
            Kind::Flag => Vec::new(),
            _ => {
                let raw = matches.get_raw(key.arg.get_id().as_str()).into_iter().flatten();
                raw.map(|value| value.to_string_lossy().into_owned()).collect()
            }
        };
        typed.map(|key| Given { is_of_recipe: false, ..key.given(&key.name(), values(key)) }).collect()
    }

    /// A recipe's settings under the names that these options have; none for what is no option here.
    pub fn renamed(&self, given: &Given) -> Option<Given> {
        let key = self.find(&given.long.replace('-', "_"))?;
        Some(Given { long: key.long().to_owned(), ..given.clone() })
    }

    /// What these options are where a recipe does not say, as far as the other command has another default for it.
    pub fn defaults_unlike(&self, other: &Keys, said: &[Given]) -> Vec<Given> {
        let is_unsaid = |key: &&Key| said.iter().all(|given| given.long != key.long());
        let differs = |key: &&Key| other.find(&key.name()).is_some_and(|its| its.defaults() != key.defaults());
        let unsaid = self.keys.iter().filter(is_unsaid).filter(differs).filter(|key| !key.defaults().is_empty());
        unsaid.map(|key| Given { is_of_recipe: false, ..key.given(&key.name(), key.defaults()) }).collect()
    }

    /// Both together. What was typed takes the place of what it is, or of what cannot stand beside it.
    pub fn merged(&self, recipe: &[Given], typed: &[Given]) -> Vec<Given> {
        let stays = |given: &&Given| typed.iter().all(|typed| !self.excludes(&typed.long, &given.long));
        recipe.iter().filter(stays).chain(typed).cloned().collect()
    }

    fn excludes(&self, a: &str, b: &str) -> bool {
        a == b || self.conflicts(a).any(|other| other == b) || self.conflicts(b).any(|other| other == a)
    }

    /// The options that an option says cannot stand beside it.
    pub fn conflicts<'a>(&'a self, long: &str) -> impl Iterator<Item = &'a str> {
        let key = self.keys.iter().find(|key| key.long() == long);
        key.into_iter().flat_map(|key| self.command.get_arg_conflicts_with(&key.arg)).filter_map(Arg::get_long)
    }
}

impl Key {
    pub fn long(&self) -> &str {
        self.arg.get_long().expect("only options with a long name are keys")
    }

    /// The name in a recipe.
    pub fn name(&self) -> String {
        self.long().replace('-', "_")
    }

    /// Every name in a recipe, the first one first.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let others = self.arg.get_all_aliases().unwrap_or_default();
        std::iter::once(self.name()).chain(others.into_iter().map(|alias| alias.replace('-', "_")))
    }

    pub fn help(&self) -> String {
        self.arg.get_help().map(ToString::to_string).unwrap_or_default()
    }

    /// The heading of `--help` that the option stands under.
    pub fn heading(&self) -> Option<&str> {
        self.arg.get_help_heading()
    }

    pub fn defaults(&self) -> Vec<String> {
        self.arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect()
    }

    pub fn is_required(&self) -> bool {
        self.arg.is_required_set()
    }

    pub fn is_list(&self) -> bool {
        self.arg.get_num_args().is_some_and(|count| count.max_values() > 1)
    }

    pub fn kind(&self) -> Kind {
        if !self.arg.get_action().takes_values() {
            return Kind::Flag;
        }
        let choices = self.arg.get_possible_values();
        let names: Vec<String> = choices.iter().map(|value| value.get_name().to_owned()).collect();
        if !names.is_empty() {
            let all = choices.iter().flat_map(|value| value.get_name_and_aliases().map(str::to_owned));
            let others = all.filter(|name| !names.contains(name)).collect();
            return Kind::Choice { names, others };
        }
        let is = |id: TypeId| self.arg.get_value_parser().type_id() == id;
        // Sizes and pairs are called that wherever one is asked for.
        let is_called = |is: &dyn Fn(&str) -> bool| {
            self.arg.get_value_names().is_some_and(|names| names.iter().any(|name| is(name.as_str())))
        };
        if is_called(&|name| name.contains('=')) {
            Kind::Pairs
        } else if is_called(&|name| name == "SIZE") {
            Kind::Size
        } else if is(TypeId::of::<u64>()) || is(TypeId::of::<usize>()) {
            Kind::Integer
        } else if is(TypeId::of::<f64>()) {
            Kind::Number
        } else {
            Kind::Text
        }
    }

    pub fn given(&self, written: &str, values: Vec<String>) -> Given {
        Given {
            long: self.long().to_owned(),
            written: written.to_owned(),
            is_of_recipe: true,
            values,
            takes_list_at_once: self.is_list() && matches!(self.arg.get_action(), ArgAction::Set),
        }
    }

    /// The option alone: without a default, and without what it says of others.
    fn alone(&self) -> Arg {
        let arg = &self.arg;
        let mut alone = Arg::new(arg.get_id().clone()).long(self.long().to_owned()).action(arg.get_action().clone());
        let visible = arg.get_visible_aliases().unwrap_or_default();
        let hidden = arg.get_all_aliases().unwrap_or_default().into_iter().filter(|name| !visible.contains(name));
        alone = alone.aliases(hidden.map(str::to_owned));
        alone = alone.visible_aliases(visible.iter().map(|name| (*name).to_owned()));
        alone = alone.help(arg.get_help().map_or(Resettable::Reset, |help| Resettable::Value(help.clone())));
        alone = alone.help_heading(
            arg.get_help_heading().map_or(Resettable::Reset, |text| Resettable::Value(text.to_owned().into())),
        );
        if !arg.get_action().takes_values() {
            return alone;
        }
        alone = alone.value_parser(arg.get_value_parser().clone()).value_hint(arg.get_value_hint());
        alone = alone.value_delimiter(arg.get_value_delimiter());
        alone = alone.value_names(arg.get_value_names().unwrap_or_default().to_vec());
        match arg.get_num_args() {
            Some(count) => alone.num_args(count),
            None => alone,
        }
    }

    /// Whether the option takes these values.
    ///
    /// # Errors
    /// What it expects, in its own words.
    pub fn check(&self, values: &[String]) -> Result<(), String> {
        let given = self.given(&self.name(), values.to_vec());
        let command = Command::new("check").no_binary_name(true).arg(self.alone());
        let Err(error) = command.try_get_matches_from(given.args()) else { return Ok(()) };
        let text = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        let first = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        Err(first.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// Options of `unswag train` beside a recipe: each takes the place of the recipe's.
#[derive(Clone, Debug, Default)]
pub struct Overrides(Vec<Given>);

impl Overrides {
    pub fn given(&self) -> &[Given] {
        &self.0
    }
}

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Overrides(Keys::of_train().given(matches)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Overrides {
    fn augment_args(command: Command) -> Command {
        command.args(Keys::of_train().iter().map(Key::alone))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use super::{Keys, Kind};

    #[test]
    fn sizes_are_told_from_other_numbers() {
        for key in Keys::of_train().iter() {
            let takes_a_unit = key.check(&["2GiB".to_owned()]).is_ok();
            match key.kind() {
                Kind::Size => assert!(takes_a_unit, "{}", key.name()),
                Kind::Integer | Kind::Number => assert!(!takes_a_unit, "{}", key.name()),
                Kind::Flag | Kind::Text | Kind::Pairs | Kind::Choice { .. } => {}
            }
        }
    }

    #[test]
    fn what_is_typed_takes_the_place_of_what_it_excludes() {
        let keys = Keys::of_train();
        let given = |name: &str, value: &str| keys.find(name).unwrap().given(name, vec![value.to_owned()]);
        let recipe = [given("num_train_epochs", "2"), given("lora_r", "8"), given("seed", "1")];
        let merged = keys.merged(&recipe, &[given("max_steps", "5"), given("lora_r", "4")]);
        let args: Vec<String> = merged.iter().flat_map(|given| given.args()).collect();
        assert_eq!(args, ["--seed=1", "--max-steps=5", "--lora-r=4"]);
    }

    #[test]
    fn a_default_is_always_a_value_that_the_key_takes() {
        for key in Keys::of_train().iter().filter(|key| key.kind() != Kind::Flag && !key.defaults().is_empty()) {
            assert_eq!(key.check(&key.defaults()), Ok(()), "{}", key.name());
        }
    }
}
