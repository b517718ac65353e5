//! An adapter's folder, opened for a model: `adapter_config.json` and `adapter_model.safetensors`, as PEFT writes them.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use unswag_abi::doc::{Dtype, Graph};
use unswag_checkpoint::{Checkpoint, next_step_without, parse_header, regular_file};

use crate::{
    AdapterError,
    config::Config,
    float,
    spec::{A, AdaptedLayer, B, MAGNITUDE, PREFIX, ReplacedParam, Resolved, Resolver},
    tie::HeadTie,
};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// The key in the weights' `__metadata__` under which training records that the base was quantised, and how.
pub const BASE_QUANTIZATION: &str = "base_quantization";

/// Bytes of a README that are searched for what PEFT says of the base.
const MOST_README_BYTES: u64 = 1 << 20;

/// What to do where a path is no adapter's folder.
fn next_step(path: &Path) -> String {
    let adapter = path.join("adapter");
    if adapter.join(CONFIG).exists() {
        return format!("give {}", adapter.display());
    }
    if path.is_file() {
        return "give the folder that the file is in".to_owned();
    }
    if !path.exists() {
        return next_step_without(path);
    }
    match path.join("config.json").exists() {
        true => "it has config.json, as a complete model: give it as the model, without --adapter".to_owned(),
        false => "give the folder that training or PEFT's save_pretrained wrote".to_owned(),
    }
}

/// An adapter's folder, checked within itself and against the model's graph.
#[derive(Debug)]
pub struct AdapterSpec {
    path: PathBuf,
    weights: Checkpoint,
    config: Config,
    resolved: Resolved,
    tie: HeadTie,
}

impl AdapterSpec {
    /// Opens an adapter for a model: its graph, and the checkpoint that has the weights.
    ///
    /// # Errors
    /// A file is missing or unsound; a kind of adapter or a setting that is not understood; a tensor without its other half, or
    /// without a module of the model; settings that select other modules than the file has tensors for.
    pub fn open(path: &Path, graph: &Graph, base: &Checkpoint) -> Result<Self, AdapterError> {
        if !path.join(CONFIG).exists() {
            return Err(AdapterError::NoAdapter { path: path.to_owned(), next: next_step(path) });
        }
        let config = Config::read(&path.join(CONFIG))?;
        let weights = Checkpoint::open(path.join(WEIGHTS))?;
        let file = path.join(WEIGHTS);
        let mut resolved = Resolver::new(&file, &config, graph, weights.tensors()).resolve()?;
        let mut spec = AdapterSpec {
            path: path.to_owned(),
            weights,
            config,
            resolved: Resolved { layers: Vec::new(), replaced: Vec::new(), notes: Vec::new() },
            tie: HeadTie::None,
        };
        spec.drop_copies_of_the_base(&mut resolved, base)?;
        spec.resolved = resolved;
        spec.tie = HeadTie::of(graph, &spec.resolved.replaced, |a, b| spec.holds_the_same(a, b))?;
        spec.tie.rename(&mut spec.resolved.replaced);
        spec.resolved.notes.extend(spec.quantization_note());
        Ok(spec)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The LoRA of each layer that has one, in the graph's order.
    pub fn layers(&self) -> &[AdaptedLayer] {
        &self.resolved.layers
    }

    /// The parameters whose values the adapter has, by the names of [`AdapterSpec::graph`].
    pub fn replaced(&self) -> &[ReplacedParam] {
        &self.resolved.replaced
    }

    /// What a user should know, in sentences.
    pub fn notes(&self) -> &[String] {
        &self.resolved.notes
    }

    /// The rank of modules that no pattern gives another, where the settings say it.
    pub fn r(&self) -> Option<u64> {
        self.config.r
    }

    pub fn lora_alpha(&self) -> f64 {
        self.config.lora_alpha
    }

    pub fn use_rslora(&self) -> bool {
        self.config.use_rslora
    }

    /// Whether each output has a magnitude (DoRA).
    pub fn use_dora(&self) -> bool {
        self.config.use_dora
    }

    /// Ends of the paths of modules whose weights the adapter has.
    pub fn modules_to_save(&self) -> &[String] {
        &self.config.modules_to_save
    }

    pub(crate) fn tie(&self) -> &HeadTie {
        &self.tie
    }

    /// The graph that the adapter runs on: the model's own, but for a tied head that the adapter gives another weight than the
    /// embedding. That has a separate parameter, which [`AdapterSpec::source`] finds.
    pub fn graph(&self, graph: &Graph) -> Graph {
        self.tie.cut(graph)
    }

    /// Where the values of a parameter come from; `None` where the base's tensor of that name counts.
    pub fn source(&self, param: &str) -> Option<ParamSource<'_>> {
        let replaced = self.resolved.replaced.iter().find(|replaced| replaced.param == param);
        match replaced {
            Some(replaced) => Some(ParamSource::Adapter(replaced)),
            None => self.tie.copied(param).map(ParamSource::Base),
        }
    }

    /// A \[r, in\] and B \[out, r\] of a layer, row by row.
    ///
    /// # Errors
    /// The file cannot be read, changed since it was opened, or has a value that is not finite.
    pub fn matrices(&self, layer: &AdaptedLayer) -> Result<[Vec<f64>; 2], AdapterError> {
        let name = |end: &str| format!("{PREFIX}{}{end}", layer.name_in_file);
        Ok([self.read(&name(A))?, self.read(&name(B))?])
    }

    /// DoRA's magnitudes of a layer, \[out\]; `None` where the adapter has none.
    ///
    /// # Errors
    /// As [`AdapterSpec::matrices`].
    pub fn magnitude(&self, layer: &AdaptedLayer) -> Result<Option<Vec<f64>>, AdapterError> {
        let name = format!("{PREFIX}{}{MAGNITUDE}", layer.name_in_file);
        layer.has_magnitude.then(|| self.read(&name)).transpose()
    }

    /// A replaced parameter's elements, row by row and little-endian, in its dtype.
    ///
    /// # Errors
    /// As [`AdapterSpec::matrices`].
    pub fn replacement(&self, replaced: &ReplacedParam) -> Result<Vec<u8>, AdapterError> {
        Ok(self.read_bytes(&replaced.tensor)?.1)
    }

    fn read(&self, name: &str) -> Result<Vec<f64>, AdapterError> {
        let (dtype, bytes) = self.read_bytes(name)?;
        Ok(float::decode(dtype, &bytes))
    }

    fn read_bytes(&self, name: &str) -> Result<(Dtype, Vec<u8>), AdapterError> {
        let mut bytes = Vec::new();
        self.weights.read(name, &mut bytes)?;
        let dtype = self.weights.tensor(name).expect("it was checked when the adapter was opened").dtype;
        match float::first_not_finite(dtype, &bytes) {
            Some((index, value)) => {
                let (path, name) = (self.path.join(WEIGHTS), name.to_owned());
                Err(AdapterError::NotFinite { path, name, index, value })
            }
            None => Ok((dtype, bytes)),
        }
    }

    /// Whether two of the adapter's tensors hold the same numbers.
    fn holds_the_same(&self, a: &str, b: &str) -> Result<bool, AdapterError> {
        let ((a_type, a), (b_type, b)) = (self.read_bytes(a)?, self.read_bytes(b)?);
        Ok(float::is_same((a_type, &a), (b_type, &b)))
    }

    /// PEFT saves the base's own weight beside the LoRA of a head. Where it is what the base has, there is nothing to replace.
    fn drop_copies_of_the_base(&self, resolved: &mut Resolved, base: &Checkpoint) -> Result<(), AdapterError> {
        let mut remaining = Vec::new();
        for replaced in resolved.replaced.drain(..) {
            if let Some(tensor) = base.tensor(&replaced.param).filter(|_| replaced.is_base_layer) {
                let mut bytes = Vec::new();
                base.read(&replaced.param, &mut bytes)?;
                let (dtype, saved) = self.read_bytes(&replaced.tensor)?;
                if float::is_same((tensor.dtype, &bytes), (dtype, &saved)) {
                    continue;
                }
            }
            remaining.push(replaced);
        }
        resolved.replaced = remaining;
        Ok(())
    }

    /// What says that the adapter learned on a quantised base, whose weights a merge does not have.
    fn quantization_note(&self) -> Option<String> {
        let recorded = self.weights.metadata().get(BASE_QUANTIZATION).map(|how| match how.as_str() {
            "nf4" | "nf4_double_quant" => "in 4 bits (NF4)".to_owned(),
            other => format!("quantised ({})", other.chars().take(40).collect::<String>()),
        });
        let how = recorded.or_else(|| self.named_quantization()).or_else(|| self.readme_quantization())?;
        Some(format!(
            "the adapter was trained on a base whose weights were held {how}; on the plain weights its outputs differ somewhat \
             from those in training, so evaluate the result"
        ))
    }

    /// From the name of the base: published quantised models say so in their names.
    fn named_quantization(&self) -> Option<String> {
        let name = self.config.base_model.as_ref()?.rsplit('/').next()?.to_lowercase();
        let known = ["bnb-4bit", "4bit", "8bit", "int4", "int8", "gptq", "awq"];
        let found =
            known.iter().find(|mark| name.split(['-', '_', '.']).collect::<Vec<_>>().join("-").contains(**mark))?;
        Some(format!("quantised ({found}, by the base's name)"))
    }

    /// From the README that earlier PEFT releases wrote: bitsandbytes' settings, as they were in training.
    fn readme_quantization(&self) -> Option<String> {
        let mut text = String::new();
        let (file, _) = regular_file(&self.path.join("README.md")).ok()?;
        file.take(MOST_README_BYTES).read_to_string(&mut text).ok()?;
        let says = |mark: &str| text.contains(mark);
        match (says("load_in_4bit: True"), says("load_in_8bit: True")) {
            (true, _) => Some("in 4 bits (by its README)".into()),
            (_, true) => Some("in 8 bits (by its README)".into()),
            _ => None,
        }
    }
}

/// Where a parameter's values come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParamSource<'a> {
    /// The adapter's tensor.
    Adapter(&'a ReplacedParam),
    /// Another tensor of the base: the embedding, for a head that no longer shares it.
    Base(&'a str),
}

/// Reads an adapter's two files from memory and holds them against a graph, as opening its folder does before it reads data:
/// the entry for fuzzing.
///
/// # Errors
/// As [`AdapterSpec::open`].
pub fn check_adapter_bytes(config: &[u8], weights: &[u8], graph: &Graph) -> Result<usize, AdapterError> {
    let config = Config::parse(config, Path::new(CONFIG))?;
    let path = Path::new(WEIGHTS);
    let header = parse_header(weights, weights.len() as u64)
        .map_err(|fault| AdapterError::Header { path: path.to_owned(), fault })?;
    let resolved = Resolver::new(path, &config, graph, header.tensors.iter()).resolve()?;
    let mut values = 0;
    let data = weights.get(header.bytes as usize..).unwrap_or(&[]);
    let first = header.tensors.iter().map(|tensor| tensor.range.start).min().unwrap_or(0);
    for tensor in header.tensors.iter() {
        // Ranges count from the start of the file.
        let range = (tensor.range.start - first) as usize..(tensor.range.end - first) as usize;
        values += data.get(range).map_or(0, |bytes| float::decode(tensor.dtype, bytes).len());
    }
    let tied = |a: &str, b: &str| Ok(a == b);
    let tie = HeadTie::of(graph, &resolved.replaced, tied)?;
    let _ = tie.cut(graph);
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_no_adapter_is_answered_with_what_to_give() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for file in ["run/adapter/adapter_config.json", "model/config.json", "other/readme"] {
            std::fs::create_dir_all(path(file).parent().expect("a folder")).expect("created");
            std::fs::write(path(file), "{}").expect("written");
        }
        for (name, expected) in [
            ("run", format!("give {}", path("run/adapter").display())),
            ("run/adapter/adapter_config.json", "give the folder that the file is in".to_owned()),
            ("model", "it has config.json, as a complete model".to_owned()),
            ("other", "give the folder that training".to_owned()),
            ("nothing", "check the path".to_owned()),
        ] {
            let next = next_step(&path(name));
            assert!(next.starts_with(&expected), "{name}: {next}");
        }
    }
}
