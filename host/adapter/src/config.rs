//! `adapter_config.json`: which of PEFT's settings are computed here, which change nothing, and that no other is in use.
//!
//! A setting is refused by name unless it is known to change nothing, so that a method that came to PEFT after this was written is
//! not taken for plain LoRA.

use std::{collections::BTreeMap, io::Read, path::Path};

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value as Json;
use unswag_checkpoint::regular_file;

use crate::{
    AdapterError,
    names::{ALL_LINEAR, MAX_NAMES, ModuleNames, PatternMap},
    pattern::{Extent, PathPattern, PatternBudget, PatternError},
};

const MAX_BYTES: u64 = 16 << 20;

/// Names in `modules_to_save`. Every module of a model is compared with each of them.
const MAX_SAVED_NAMES: usize = 256;

/// Characters of a setting's value in a message.
pub(crate) const SHOWN_CHARS: usize = 200;

/// The largest rank that is computed. A LoRA of a higher one has more elements than the layers that it adapts.
pub const MAX_RANK: u64 = 1 << 16;

/// The settings that are computed here, each checked by itself.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Of every module that no pattern gives another. The tensors say it where the file does not.
    pub r: Option<u64>,
    pub lora_alpha: f64,
    pub use_rslora: bool,
    pub use_dora: bool,
    pub rank_pattern: PatternMap<u64>,
    pub alpha_pattern: PatternMap<f64>,
    /// `None` where the file does not say: the tensors do.
    pub target_modules: Option<ModuleNames>,
    pub exclude_modules: Option<ModuleNames>,
    /// The layers that have adapters; all where empty.
    pub layers_to_transform: Vec<u64>,
    /// Names of the lists that layers stand in; any where empty.
    pub layers_pattern: Vec<PathPattern>,
    /// Ends of the paths of modules that are saved with all their weights.
    pub modules_to_save: Vec<String>,
    /// The base's name, as the file has it.
    pub base_model: Option<String>,
}

/// The file as it stands. Patterns in the file's order: the first that matches counts.
#[derive(Deserialize)]
struct Written {
    rank_pattern: Option<Pattern>,
    alpha_pattern: Option<Pattern>,
    #[serde(flatten)]
    others: BTreeMap<String, Json>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Pattern {
    Map(IndexMap<String, Json>),
    Other(Json),
}

/// Settings of `peft.LoraConfig` that change nothing of what a saved adapter computes.
const WITHOUT_EFFECT: &[&str] = &[
    // Whence it came.
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "task_type",
    // Which weights share memory: the tensors that were saved say what they hold.
    "ensure_weight_tying",
    // For training alone.
    "lora_dropout",
    "runtime_config",
    // PEFT sets it by the layer's class, whatever the file says; the graph knows how a weight is stored.
    "fan_in_fan_out",
    // How the first values were found. `init_lora_weights` says whether the base's weights were changed for it.
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_ga_config",
    // Read only beside `use_qalora` and `megatron_config`, which are refused.
    "megatron_core",
    "qalora_group_size",
];

/// The settings that [`Config`] holds.
const COMPUTED: &[&str] = &[
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
];

/// First values that leave the base's weights as they are. Others (pissa, olora, corda, loftq) take from the base what they give the
/// adapter, so that it does not fit the base as it was published.
const INITS: &[&str] = &["gaussian", "eva", "orthogonal"];

impl Config {
    /// # Errors
    /// No such file, no settings of PEFT's, or one in use that is not computed here.
    pub fn read(path: &Path) -> Result<Self, AdapterError> {
        let (file, _) = regular_file(path)?;
        let mut text = Vec::new();
        let read = file.take(MAX_BYTES + 1).read_to_end(&mut text);
        read.map_err(|source| AdapterError::Io { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// The file's bytes; `path` is what messages call it.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, AdapterError> {
        if text.len() as u64 > MAX_BYTES {
            return Err(refused(path, "its size", "at most 16 MiB", "more".into()));
        }
        let written: Written = serde_json::from_slice(text)
            .map_err(|error| refused(path, "its text", "PEFT's settings as JSON", error.to_string()))?;
        let fields = Fields { path, others: &written.others };
        match fields.get("peft_type") {
            Some(Json::String(kind)) if kind == "LORA" => {}
            other => return Err(fields.wrong("peft_type", "LORA", other)),
        }
        for (name, value) in &written.others {
            if let Some(expected) = expected(name, value) {
                return Err(fields.wrong(name, expected, Some(value)));
            }
        }
        let budget = fields.pattern_budget(&written)?;
        let config = Config {
            r: fields.get("r").map(|value| fields.rank("r", value)).transpose()?,
            lora_alpha: match fields.get("lora_alpha") {
                Some(value) => fields.alpha("lora_alpha", value)?,
                None => return Err(fields.wrong("lora_alpha", "a number above 0", None)),
            },
            use_rslora: fields.flag("use_rslora")?,
            use_dora: fields.flag("use_dora")?,
            rank_pattern: fields.pattern("rank_pattern", written.rank_pattern.as_ref(), &budget, Fields::rank)?,
            alpha_pattern: fields.pattern("alpha_pattern", written.alpha_pattern.as_ref(), &budget, Fields::alpha)?,
            target_modules: fields.modules("target_modules", true, &budget)?,
            exclude_modules: fields.modules("exclude_modules", false, &budget)?,
            layers_to_transform: fields.layers_to_transform()?,
            layers_pattern: fields.layers_pattern(&budget)?,
            modules_to_save: match fields.get("modules_to_save") {
                None => Vec::new(),
                Some(value) => fields.names("modules_to_save", value, MAX_SAVED_NAMES)?,
            },
            base_model: fields.get("base_model_name_or_path").and_then(Json::as_str).map(str::to_owned),
        };
        let by_pattern = matches!(config.target_modules, Some(ModuleNames::Pattern(_) | ModuleNames::AllLinear));
        if by_pattern && !config.layers_to_transform.is_empty() {
            let given = fields.get("layers_to_transform");
            return Err(fields.wrong("layers_to_transform", "no layers where target_modules is no list", given));
        }
        Ok(config)
    }

    /// Whether an adapter with these settings has a LoRA on a linear layer; `None` where the tensors alone say it, because no
    /// `target_modules` are given and nothing rules the layer out.
    ///
    /// # Errors
    /// Matching takes too long.
    pub fn picks(&self, path: &str, is_head: bool) -> Result<Option<bool>, String> {
        if let Some(excluded) = &self.exclude_modules
            && excluded.contains(path, is_head)?
        {
            return Ok(Some(false));
        }
        let targets = self.target_modules.as_ref();
        let is_target = targets.map(|targets| targets.contains(path, is_head)).transpose()?;
        if self.modules_to_save.iter().any(|name| stands_within(path, name)) || is_target == Some(false) {
            return Ok(Some(false));
        }
        // A full path, whatever its layer.
        let is_named = matches!(targets, Some(ModuleNames::List(names)) if names.contains(path));
        if is_named || self.layers_to_transform.is_empty() {
            return Ok(is_target);
        }
        match layer_index(path, &self.layers_pattern)? {
            Some(layer) if self.layers_to_transform.contains(&layer) => Ok(is_target),
            _ => Ok(Some(false)),
        }
    }

    /// A module's rank, where the settings say it.
    ///
    /// # Errors
    /// Matching takes too long.
    pub fn rank(&self, path: &str) -> Result<Option<u64>, String> {
        Ok(self.rank_pattern.get(path)?.or(self.r))
    }

    /// What a module's B A is multiplied by.
    ///
    /// # Errors
    /// Matching takes too long.
    pub fn scale(&self, path: &str, r: u64) -> Result<f64, String> {
        let alpha = self.alpha_pattern.get(path)?.unwrap_or(self.lora_alpha);
        Ok(alpha / if self.use_rslora { (r as f64).sqrt() } else { r as f64 })
    }
}

/// Whether a module is in `modules_to_save`, or inside of one that is: what `(^|.*\.)NAME($|\..*)` matches.
fn stands_within(path: &str, name: &str) -> bool {
    let mut from = 0;
    while let Some(at) = path[from..].find(name) {
        let (start, end) = (from + at, from + at + name.len());
        let begins = start == 0 || path.as_bytes()[start - 1] == b'.';
        let ends = end == path.len() || path.as_bytes()[end] == b'.';
        if begins && ends {
            return true;
        }
        from = start + path[start..].chars().next().map_or(1, char::len_utf8);
    }
    false
}

/// The number after a list's name (`layers.3`): the first in the path, of any list or of those that are named.
fn layer_index(path: &str, lists: &[PathPattern]) -> Result<Option<u64>, String> {
    let parts: Vec<&str> = path.split('.').collect();
    for at in 1..parts.len().saturating_sub(1) {
        let Ok(number) = parts[at].parse::<u64>() else { continue };
        let before = parts[..at].join(".");
        // Without a list's name PEFT expects another part before the list.
        let mut is_list = lists.is_empty() && at > 1;
        for list in lists {
            is_list |= list.is_match(&before)?;
        }
        if is_list {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// What is expected of a setting that is not computed here, where it has another value.
fn expected(name: &str, value: &Json) -> Option<&'static str> {
    if name == "init_lora_weights" {
        let keeps_base = value.is_null() || value.is_boolean() || INITS.iter().any(|init| value == init);
        return (!keeps_base).then_some("one that leaves the base's weights as they are");
    }
    let is_allowed = COMPUTED.contains(&name) || WITHOUT_EFFECT.contains(&name) || is_unused(value);
    (!is_allowed)
        .then_some("it not to be used, since LoRA, rsLoRA and DoRA are all that is computed here; let PEFT merge it")
}

/// As PEFT writes a setting that is not in use.
fn is_unused(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => true,
        Json::Array(list) => list.is_empty(),
        Json::Object(map) => map.is_empty(),
        Json::String(text) => text == "none",
        _ => false,
    }
}

fn refused(path: &Path, what: &str, expected: &str, got: String) -> AdapterError {
    let (path, what, expected) = (path.to_owned(), what.to_owned(), expected.to_owned());
    AdapterError::Config { path, what, expected, got }
}

/// Settings by name, read with their names in the errors.
struct Fields<'a> {
    path: &'a Path,
    others: &'a BTreeMap<String, Json>,
}

impl Fields<'_> {
    /// A setting that is there and not null.
    fn get(&self, name: &str) -> Option<&Json> {
        self.others.get(name).filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, expected: &str, got: Option<&Json>) -> AdapterError {
        let got = got.map_or("none".to_owned(), |value| value.to_string().chars().take(SHOWN_CHARS).collect());
        refused(self.path, name, expected, got)
    }

    fn flag(&self, name: &str) -> Result<bool, AdapterError> {
        match self.get(name) {
            None => Ok(false),
            Some(Json::Bool(flag)) => Ok(*flag),
            other => Err(self.wrong(name, "true or false", other)),
        }
    }

    fn rank(&self, name: &str, value: &Json) -> Result<u64, AdapterError> {
        let rank = value.as_u64().filter(|rank| (1..=MAX_RANK).contains(rank));
        rank.ok_or_else(|| self.wrong(name, "a rank of 1 to 65536", Some(value)))
    }

    fn alpha(&self, name: &str, value: &Json) -> Result<f64, AdapterError> {
        let alpha = value.as_f64().filter(|alpha| alpha.is_finite() && *alpha > 0.0);
        alpha.ok_or_else(|| self.wrong(name, "a number above 0", Some(value)))
    }

    /// Measures every expression of the file.
    fn pattern_budget(&self, written: &Written) -> Result<PatternBudget, AdapterError> {
        let mut budget = PatternBudget::default();
        let maps = [("rank_pattern", &written.rank_pattern), ("alpha_pattern", &written.alpha_pattern)];
        let keys = maps.into_iter().flat_map(|(name, pattern)| {
            let map = match pattern {
                Some(Pattern::Map(map)) => Some(map),
                _ => None,
            };
            map.into_iter().flat_map(move |map| map.keys().take(MAX_NAMES).map(move |text| (name, text.as_str())))
        });
        let modules = |name| self.get(name).and_then(Json::as_str).map(|text| (name, text));
        let lists = self.get("layers_pattern").into_iter().flat_map(|value| match value {
            Json::Array(list) => list.iter().filter_map(Json::as_str).take(MAX_NAMES).collect(),
            other => other.as_str().into_iter().collect::<Vec<_>>(),
        });
        let modules = ["target_modules", "exclude_modules"].into_iter().filter_map(modules);
        for (name, text) in keys.chain(modules).chain(lists.map(|text| ("layers_pattern", text))) {
            budget.add(text).map_err(|error| self.bad_pattern(name, text, error))?;
        }
        Ok(budget)
    }

    fn pattern<T>(
        &self,
        name: &str,
        pattern: Option<&Pattern>,
        budget: &PatternBudget,
        read: fn(&Self, &str, &Json) -> Result<T, AdapterError>,
    ) -> Result<PatternMap<T>, AdapterError> {
        let map = match pattern {
            None => return Ok(PatternMap(Vec::new())),
            Some(Pattern::Map(map)) if map.len() <= MAX_NAMES => map,
            Some(Pattern::Map(map)) => {
                return Err(refused(self.path, name, "at most 16384 patterns", map.len().to_string()));
            }
            Some(Pattern::Other(other)) => {
                return Err(self.wrong(name, "an object of module names and values", Some(other)));
            }
        };
        let entry = |(text, value): (&String, &Json)| {
            let value = read(self, &format!("{name}: {}", clipped(text)), value)?;
            let pattern = budget.compile(text, Extent::End).map_err(|error| self.bad_pattern(name, text, error))?;
            Ok((pattern, value))
        };
        map.iter().map(entry).collect::<Result<_, _>>().map(PatternMap)
    }

    fn bad_pattern(&self, name: &str, text: &str, error: PatternError) -> AdapterError {
        let PatternError { expected, got } = error;
        refused(self.path, name, &expected, format!("{got} ({})", clipped(text)))
    }

    fn names(&self, name: &str, value: &Json, at_most: usize) -> Result<Vec<String>, AdapterError> {
        if let Some(list) = value.as_array().filter(|list| list.len() > at_most) {
            return Err(refused(self.path, name, &format!("at most {at_most} names"), list.len().to_string()));
        }
        let list = value.as_array();
        let texts = list.and_then(|list| {
            list.iter().map(|item| item.as_str().filter(|text| !text.is_empty()).map(str::to_owned)).collect()
        });
        texts.ok_or_else(|| self.wrong(name, "a list of module names", Some(value)))
    }

    fn modules(
        &self,
        name: &str,
        takes_all: bool,
        budget: &PatternBudget,
    ) -> Result<Option<ModuleNames>, AdapterError> {
        Ok(match self.get(name) {
            None => None,
            Some(Json::String(text)) if takes_all && text.eq_ignore_ascii_case(ALL_LINEAR) => {
                Some(ModuleNames::AllLinear)
            }
            Some(Json::String(text)) if text.is_empty() => None,
            Some(Json::String(text)) => {
                let pattern =
                    budget.compile(text, Extent::Path).map_err(|error| self.bad_pattern(name, text, error))?;
                Some(ModuleNames::Pattern(pattern))
            }
            Some(value @ Json::Array(list)) if !list.is_empty() || takes_all => {
                Some(ModuleNames::List(self.names(name, value, MAX_NAMES)?.into_iter().collect()))
            }
            Some(Json::Array(_)) => None,
            other => return Err(self.wrong(name, "a list of module names, or a regular expression", other)),
        })
    }

    fn layers_to_transform(&self) -> Result<Vec<u64>, AdapterError> {
        let wrong = |value| self.wrong("layers_to_transform", "a layer's number, or a list of them", Some(value));
        match self.get("layers_to_transform") {
            None => Ok(Vec::new()),
            Some(value @ Json::Array(list)) if list.len() <= MAX_NAMES => {
                list.iter().map(Json::as_u64).collect::<Option<_>>().ok_or_else(|| wrong(value))
            }
            Some(value) => value.as_u64().map(|layer| vec![layer]).ok_or_else(|| wrong(value)),
        }
    }

    fn layers_pattern(&self, budget: &PatternBudget) -> Result<Vec<PathPattern>, AdapterError> {
        let names = match self.get("layers_pattern") {
            None => return Ok(Vec::new()),
            Some(Json::String(text)) if text.is_empty() => return Ok(Vec::new()),
            Some(Json::String(text)) => vec![text.clone()],
            Some(value) => self.names("layers_pattern", value, MAX_NAMES)?,
        };
        let pattern = |text: &String| {
            let compiled = budget.compile(text, Extent::End);
            compiled.map_err(|error| self.bad_pattern("layers_pattern", text, error))
        };
        names.iter().map(pattern).collect()
    }
}

fn clipped(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}
