//! Which layers get a LoRA in training, with which rank and scale, and which modules are fully trained.
//!
//! Modules are matched as PEFT matches them, so that PEFT selects the same layers by what is written. Unlike in PEFT each name must
//! match: a misspelt one would silently stay untrained.

use unswag_abi::doc::Graph;

use crate::{
    AdapterError,
    config::{MAX_RANK, SHOWN_CHARS},
    layers::{LinearLayer, last_name, last_names, linear_layers},
    names::{ALL_LINEAR, ends_with_name},
    pattern::{Extent, PatternBudget, PatternError},
    spec::is_within,
};

/// LoRA's settings, under PEFT's names.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraTargets<'a> {
    /// Last parts of module paths, full paths, or `all-linear`.
    pub target_modules: &'a [String],
    pub r: u64,
    pub lora_alpha: f64,
    pub use_rslora: bool,
    /// Other ranks and alphas, by regular expressions for the ends of paths; the first that matches counts.
    pub rank_pattern: &'a [(String, u64)],
    pub alpha_pattern: &'a [(String, f64)],
    /// Ends of the paths of modules that are fully trained.
    pub modules_to_save: &'a [String],
}

/// A layer that gets a LoRA.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectedLayer {
    pub layer: LinearLayer,
    pub r: u64,
    /// alpha / r, or alpha / sqrt(r).
    pub scale: f64,
}

impl LoraTargets<'_> {
    /// The layers of this graph that get a LoRA, in its order.
    ///
    /// # Errors
    /// A name or a pattern that matches no layer, or a rank or an alpha that cannot be.
    pub fn select(&self, graph: &Graph) -> Result<Vec<SelectedLayer>, AdapterError> {
        self.check()?;
        let layers = linear_layers(graph);
        let is_saved = |layer: &LinearLayer| self.modules_to_save.iter().any(|name| is_within(&layer.path, name));
        for name in self.target_modules {
            if !layers.iter().any(|layer| matches(layer, name)) {
                return Err(no_target("lora_target_modules", name, graph, &layers));
            }
        }
        let is_target = |layer: &LinearLayer| self.target_modules.iter().any(|name| matches(layer, name));
        let chosen: Vec<LinearLayer> =
            layers.iter().filter(|layer| is_target(layer) && !is_saved(layer)).cloned().collect();
        let ranks = patterns("rank_pattern", self.rank_pattern, &chosen)?;
        let alphas = patterns("alpha_pattern", self.alpha_pattern, &chosen)?;
        let selected = chosen.into_iter().zip(ranks.into_iter().zip(alphas)).map(|(layer, (rank, alpha))| {
            let (r, alpha) = (rank.unwrap_or(self.r), alpha.unwrap_or(self.lora_alpha));
            let scale = alpha / if self.use_rslora { (r as f64).sqrt() } else { r as f64 };
            SelectedLayer { layer, r, scale }
        });
        Ok(selected.collect())
    }

    /// The parameters of the modules that are fully trained, by the graph's names, each once.
    ///
    /// # Errors
    /// A name that no module with parameters has.
    pub fn saved_params(&self, graph: &Graph) -> Result<Vec<String>, AdapterError> {
        let mut params: Vec<String> = Vec::new();
        for name in self.modules_to_save {
            let nodes = graph.nodes.iter().filter(|node| is_within(&node.path, name) && !node.params.is_empty());
            let mut found = false;
            for param in nodes.flat_map(|node| node.params.values()) {
                found = true;
                if !params.contains(param) {
                    params.push(param.clone());
                }
            }
            if !found {
                let with_params = graph.nodes.iter().filter(|node| !node.params.is_empty());
                let mut known: Vec<&str> = with_params.map(|node| last_name(&node.path)).collect();
                known.sort_unstable();
                known.dedup();
                let near = nearest(name, &known);
                let (setting, name, known) = ("modules_to_save", name.clone(), known.join(", "));
                return Err(AdapterError::NoModule { setting, name, near, known });
            }
        }
        Ok(params)
    }

    fn check(&self) -> Result<(), AdapterError> {
        let wrong = |setting, what: &str, expected: &str, got: String| {
            Err(AdapterError::Setting { setting, what: what.to_owned(), expected: expected.to_owned(), got })
        };
        let ranks = self.rank_pattern.iter().map(|(name, r)| ("rank_pattern", name.as_str(), *r));
        for (setting, name, r) in ranks.chain([("lora_r", "the rank", self.r)]) {
            if !(1..=MAX_RANK).contains(&r) {
                return wrong(setting, name, "1 to 65536", r.to_string());
            }
        }
        let alphas = self.alpha_pattern.iter().map(|(name, alpha)| ("alpha_pattern", name.as_str(), *alpha));
        for (setting, name, alpha) in alphas.chain([("lora_alpha", "alpha", self.lora_alpha)]) {
            if !(alpha.is_finite() && alpha > 0.0) {
                return wrong(setting, name, "a number above 0", alpha.to_string());
            }
        }
        Ok(())
    }
}

fn matches(layer: &LinearLayer, name: &str) -> bool {
    if name == ALL_LINEAR { !layer.is_head } else { ends_with_name(&layer.path, name) }
}

/// For each chosen layer the value of the first pattern that matches. Each pattern must match one.
fn patterns<T: Copy>(
    setting: &'static str,
    entries: &[(String, T)],
    chosen: &[LinearLayer],
) -> Result<Vec<Option<T>>, AdapterError> {
    let mut values = vec![None; chosen.len()];
    let wrong = |text: &str, PatternError { expected, got }: PatternError| {
        let what = text.chars().take(SHOWN_CHARS).collect();
        AdapterError::Setting { setting, what, expected, got }
    };
    let mut budget = PatternBudget::default();
    for (text, _) in entries {
        budget.add(text).map_err(|error| wrong(text, error))?;
    }
    for (text, value) in entries {
        let pattern = budget.compile(text, Extent::End).map_err(|error| wrong(text, error))?;
        let mut found = false;
        for (layer, slot) in chosen.iter().zip(&mut values) {
            let costly =
                |got| wrong(text, PatternError { expected: "an expression that is matched in 3 s".into(), got });
            if pattern.is_match(&layer.path).map_err(costly)? {
                found = true;
                slot.get_or_insert(*value);
            }
        }
        if !found {
            let known = last_names(chosen);
            let near = nearest(text, &known);
            return Err(AdapterError::NoTarget { setting, name: text.clone(), near, known: known.join(", ") });
        }
    }
    Ok(values)
}

fn no_target(setting: &'static str, name: &str, graph: &Graph, layers: &[LinearLayer]) -> AdapterError {
    let name = name.to_owned();
    let is_embedding = graph.nodes.iter().any(|node| node.kind == "embedding" && ends_with_name(&node.path, &name));
    if is_embedding {
        return AdapterError::Embedding { setting, name };
    }
    let known = last_names(layers);
    let near = nearest(&name, &known);
    AdapterError::NoTarget { setting, name, near, known: known.join(", ") }
}

/// The known name that is spelt most like this one, where one is near enough to be meant.
fn nearest(name: &str, known: &[&str]) -> Option<String> {
    let last = last_name(name);
    if last.len() > 64 {
        return None;
    }
    let lower = last.to_lowercase();
    let distances = known.iter().map(|other| (strsim::levenshtein(&lower, &other.to_lowercase()), *other));
    let (distance, near) = distances.min()?;
    (distance <= (last.len() / 3).max(2)).then(|| near.to_owned())
}
