//! An adapter's files checked against the model's graph: the one place that says what an adapter does to a model.
//!
//! Training from an adapter, evaluation, generation and merging all read this. Nothing in the files is trusted: each name, shape
//! and setting is checked, and what PEFT would leave out or compute otherwise is refused.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use unswag_abi::doc::{Dtype, Graph};
use unswag_checkpoint::TensorInfo;

use crate::{
    AdapterError,
    config::{Config, MAX_RANK},
    float,
    layers::{LayerIndex, LinearLayer, last_names, linear_layers},
};

/// PEFT's names: `base_model.model.MODULE.lora_A.weight`.
pub(crate) const PREFIX: &str = "base_model.model.";
pub(crate) const A: &str = ".lora_A.weight";
pub(crate) const B: &str = ".lora_B.weight";
/// The one without `.weight` at its end.
pub(crate) const MAGNITUDE: &str = ".lora_magnitude_vector";
/// What PEFT saves beside the LoRA of a head: the head's own weight.
const BASE_LAYER: &str = ".base_layer.";

/// The LoRA of one linear layer.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptedLayer {
    pub layer: LinearLayer,
    pub r: u64,
    /// alpha / r, or alpha / sqrt(r).
    pub scale: f64,
    pub has_magnitude: bool,
    /// What the file calls the module: its path as a rule.
    pub(crate) name_in_file: String,
}

/// A parameter whose values the adapter has: PEFT's `modules_to_save`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplacedParam {
    /// The graph's name of it.
    pub param: String,
    /// The module's path and the parameter's role in it.
    pub module: String,
    /// The adapter's tensor.
    pub tensor: String,
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    /// Whether it is a copy of the base's, which PEFT saves beside the LoRA of a head or an embedding.
    pub(crate) is_base_layer: bool,
}

/// What the files come to, before any data is read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resolved {
    /// In the graph's order.
    pub layers: Vec<AdaptedLayer>,
    pub replaced: Vec<ReplacedParam>,
    pub notes: Vec<String>,
}

/// Holds an adapter's settings and tensors against a graph.
pub(crate) struct Resolver<'a> {
    pub path: &'a Path,
    pub config: &'a Config,
    pub graph: &'a Graph,
    pub tensors: HashMap<&'a str, TensorInfo<'a>>,
    layers: Vec<LinearLayer>,
}

impl<'a> Resolver<'a> {
    /// `path` is the weights' file, as messages call it.
    pub fn new(
        path: &'a Path,
        config: &'a Config,
        graph: &'a Graph,
        tensors: impl Iterator<Item = TensorInfo<'a>>,
    ) -> Self {
        let tensors = tensors.map(|tensor| (tensor.name, tensor)).collect();
        Resolver { path, config, graph, tensors, layers: linear_layers(graph) }
    }

    /// # Errors
    /// A tensor that no module of the graph has, one without its other half, another shape, or settings that select other modules
    /// than the file has tensors for.
    pub fn resolve(&self) -> Result<Resolved, AdapterError> {
        let index = LayerIndex::new(&self.layers);
        let mut found: BTreeMap<usize, &str> = BTreeMap::new();
        let mut whole: Vec<(&str, &str)> = Vec::new();
        let mut renamed = None;
        let mut names: Vec<&str> = self.tensors.keys().copied().collect();
        names.sort_unstable();
        for name in names {
            let Some(rest) = name.strip_prefix(PREFIX) else {
                return Err(self.wrong(name, format!("{PREFIX}MODULE.lora_A.weight or .lora_B.weight"), "this name"));
            };
            let Some(module) = self.lora_module(name, rest)? else {
                whole.push((name, rest));
                continue;
            };
            let Some((layer, is_renamed)) = index.find(module) else { return Err(self.no_such_layer(module)) };
            if is_renamed {
                renamed = Some((module, layer));
            }
            if found.insert(layer, module).is_some_and(|before| before != module) {
                let got = format!("the names {} and {module}", found[&layer]);
                return Err(self.wrong(name, "one name for each module".into(), &got));
            }
        }
        let mut layers = Vec::new();
        for (&at, &module) in &found {
            layers.push(self.layer(&self.layers[at], module)?);
        }
        self.check_selection(&found)?;
        let replaced = self.replaced(&whole)?;
        if layers.is_empty() && replaced.is_empty() {
            return Err(self.wrong("lora_A.weight", "at least one module".into(), "none"));
        }
        let note = |(module, at): (&str, usize)| {
            format!(
                "the adapter names its layers {module}, …; PEFT looks for {}, …, and would leave them out",
                self.layers[at].path
            )
        };
        Ok(Resolved { layers, replaced, notes: renamed.map(note).into_iter().collect() })
    }

    /// The module of a LoRA's tensor; `None` for other tensors.
    fn lora_module<'n>(&self, name: &str, rest: &'n str) -> Result<Option<&'n str>, AdapterError> {
        if rest.contains(".lora_embedding_") {
            let (expected, got) = ("LoRA on linear layers alone", "LoRA on an embedding; let PEFT merge it");
            return Err(self.wrong(name, expected.into(), got));
        }
        if let Some(module) = rest.strip_suffix(A).or_else(|| rest.strip_suffix(B)) {
            return Ok(Some(module));
        }
        match rest.strip_suffix(MAGNITUDE) {
            Some(_) if !self.config.use_dora => {
                Err(self.wrong(name, "no magnitudes, for use_dora is false".into(), "this tensor"))
            }
            found => Ok(found),
        }
    }

    fn layer(&self, layer: &LinearLayer, module: &str) -> Result<AdaptedLayer, AdapterError> {
        let [a, b, magnitude] = [A, B, MAGNITUDE].map(|end| format!("{PREFIX}{module}{end}"));
        let ([r, input], [output, b_r]) = (self.matrix(&a)?, self.matrix(&b)?);
        if [output, input] != [layer.output, layer.input] {
            let path = self.path.to_owned();
            let expected = format!("of {input} inputs and {output} outputs, as the adapter has it");
            let got = format!("{} inputs and {} outputs ({})", layer.input, layer.output, layer.weight);
            return Err(AdapterError::Base { path, module: module.to_owned(), expected, got });
        }
        if b_r != r {
            let (expected, got) = (format!("[{output}, {r}], as lora_A has it"), format!("[{output}, {b_r}]"));
            return Err(self.wrong(&b, expected, &got));
        }
        if !(1..=MAX_RANK).contains(&r) {
            return Err(self.wrong(&a, format!("a rank of 1 to {MAX_RANK}"), &r.to_string()));
        }
        let matching = |error| self.costly(&layer.path, error);
        let expected_r = self.config.rank(&layer.path).map_err(matching)?;
        if let Some(expected) = expected_r.filter(|expected| *expected != r) {
            let expected = format!("[{expected}, {input}], for the config's r is {expected}");
            return Err(self.wrong(&a, expected, &format!("[{r}, {input}]")));
        }
        if self.config.use_dora {
            let found = self.tensors.get(magnitude.as_str());
            let fits = |tensor: &&TensorInfo<'_>| *tensor.shape == [output] && float::is_known(tensor.dtype);
            if !found.is_some_and(|found| fits(&found)) {
                let got = found.map_or("no such tensor".into(), |found| format!("{} {:?}", found.dtype, found.shape));
                return Err(self.wrong(&magnitude, format!("[{output}] of F32, F64, F16 or BF16"), &got));
            }
        }
        let scale = self.config.scale(&layer.path, r).map_err(matching)?;
        let (layer, name_in_file) = (layer.clone(), module.to_owned());
        Ok(AdaptedLayer { layer, r, scale, has_magnitude: self.config.use_dora, name_in_file })
    }

    /// The settings must select the layers that have tensors and no others: PEFT would leave tensors out, or run without some.
    fn check_selection(&self, found: &BTreeMap<usize, &str>) -> Result<(), AdapterError> {
        for (at, layer) in self.layers.iter().enumerate() {
            let picked = self.config.picks(&layer.path, layer.is_head);
            let Some(is_picked) = picked.map_err(|error| self.costly(&layer.path, error))? else { continue };
            let has = found.contains_key(&at);
            if has && !is_picked {
                let expected = "a layer that target_modules, exclude_modules and layers_to_transform select";
                let got = format!("{}; PEFT would leave it out", layer.path);
                return Err(self.wrong(&format!("{PREFIX}{}{A}", found[&at]), expected.into(), &got));
            }
            if !has && is_picked {
                let name = format!("{PREFIX}{}{A}", layer.path);
                let expected = "a tensor for each layer that target_modules selects";
                return Err(self.wrong(&name, expected.into(), "no such tensor"));
            }
        }
        Ok(())
    }

    /// The tensors that belong to no LoRA: parameters of fully trained modules.
    fn replaced(&self, whole: &[(&str, &str)]) -> Result<Vec<ReplacedParam>, AdapterError> {
        let mut by_name = HashMap::new();
        for node in &self.graph.nodes {
            for (role, param) in &node.params {
                by_name.insert(format!("{}.{role}", node.path), (node, param));
            }
        }
        let mut replaced = Vec::new();
        let mut had: HashSet<String> = HashSet::new();
        for &(name, rest) in whole {
            let plain = rest.replace(BASE_LAYER, ".");
            let is_base_layer = plain != rest;
            let Some((node, param)) = by_name.get(&plain) else {
                let expected = "a LoRA's tensor, or a parameter of one of this model's modules";
                return Err(self.wrong(name, expected.into(), "this name"));
            };
            let is_saved = self.config.modules_to_save.iter().any(|module| is_within(&node.path, module));
            // PEFT saves both where a vocabulary was resized, and the base's own beside the LoRA of one of them.
            let is_vocabulary =
                node.kind == "embedding" || self.layers.iter().any(|l| l.is_head && l.path == node.path);
            if !is_saved && !is_vocabulary {
                let expected = "a LoRA's tensor, or one of a module that modules_to_save names";
                return Err(self.wrong(name, expected.into(), "this name"));
            }
            let tensor = &self.tensors[name];
            let shape = &self.graph.params[*param].shape;
            if tensor.shape != shape.as_slice() || !float::is_known(tensor.dtype) {
                let expected = format!("{shape:?} of F32, F64, F16 or BF16, as the model's {param} has it");
                return Err(self.wrong(name, expected, &format!("{} {:?}", tensor.dtype, tensor.shape)));
            }
            replaced.push(ReplacedParam {
                param: (*param).clone(),
                module: node.path.clone(),
                tensor: name.to_owned(),
                dtype: tensor.dtype,
                shape: shape.clone(),
                is_base_layer,
            });
            if !had.insert(plain) {
                let expected = "one tensor for each parameter";
                return Err(self.wrong(name, expected.into(), "a second one"));
            }
        }
        for node in &self.graph.nodes {
            if !self.config.modules_to_save.iter().any(|module| is_within(&node.path, module)) {
                continue;
            }
            for role in node.params.keys() {
                let name = format!("{}.{role}", node.path);
                if !had.contains(&name) {
                    let expected = "a tensor for each parameter of what modules_to_save names";
                    return Err(self.wrong(&format!("{PREFIX}{name}"), expected.into(), "no such tensor"));
                }
            }
        }
        Ok(replaced)
    }

    /// Two dimensions of floating-point numbers.
    fn matrix(&self, name: &str) -> Result<[u64; 2], AdapterError> {
        let expected = || "two dimensions of F32, F64, F16 or BF16".to_owned();
        let Some(tensor) = self.tensors.get(name) else {
            return Err(self.wrong(name, expected(), "no such tensor"));
        };
        match tensor.shape {
            &[rows, columns] if float::is_known(tensor.dtype) => Ok([rows, columns]),
            shape => Err(self.wrong(name, expected(), &format!("{} {shape:?}", tensor.dtype))),
        }
    }

    fn no_such_layer(&self, module: &str) -> AdapterError {
        let known = last_names(&self.layers).join(", ");
        let path = self.path.to_owned();
        let expected = format!("a linear layer of this model, which has {known}");
        let module = module.chars().take(200).collect();
        AdapterError::Base { path, module, expected, got: "no such layer".into() }
    }

    fn costly(&self, module: &str, error: String) -> AdapterError {
        let what = "target_modules, exclude_modules, layers_pattern, rank_pattern or alpha_pattern".to_owned();
        let expected = format!("expressions that can be matched against {module} in little time");
        AdapterError::Config { path: self.path.to_owned(), what, expected, got: error }
    }

    fn wrong(&self, name: &str, expected: String, got: &str) -> AdapterError {
        AdapterError::Tensor { path: self.path.to_owned(), name: name.to_owned(), expected, got: got.to_owned() }
    }
}

/// Whether a module is one whose path ends with this name, as PEFT matches `modules_to_save`, or stands in one.
pub(crate) fn is_within(path: &str, name: &str) -> bool {
    let ends = |end: &usize| path[..*end].ends_with(name);
    path.match_indices('.').map(|(at, _)| at).chain([path.len()]).any(|end| ends(&end))
}
