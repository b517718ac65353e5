//! An adapter's folder: `adapter_config.json` and `adapter_model.safetensors`, as PEFT writes them.

use std::path::{Path, PathBuf};

use unswag_checkpoint::{Checkpoint, TensorInfo};

use crate::{AdapterError, config::Config, float};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// PEFT's names: `base_model.model.MODULE.lora_A.weight`.
const PREFIX: &str = "base_model.model.";

/// The adapter of one linear layer.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterModule {
    /// The layer's path: `model.layers.0.self_attn.q_proj`.
    pub module: String,
    pub r: u64,
    pub input: u64,
    pub output: u64,
    /// alpha / r, or alpha / sqrt(r).
    pub scale: f64,
}

/// An adapter's folder, opened and checked within itself.
#[derive(Debug)]
pub struct Adapter {
    path: PathBuf,
    weights: Checkpoint,
    config: Config,
    modules: Vec<AdapterModule>,
}

impl Adapter {
    /// # Errors
    /// A file is missing or unsound; a kind of adapter or a setting that is not understood; a tensor without its other half.
    pub fn open(path: &Path) -> Result<Self, AdapterError> {
        let config = Config::read(&path.join(CONFIG))?;
        let weights = Checkpoint::open(path.join(WEIGHTS))?;
        let mut adapter = Adapter { path: path.to_owned(), weights, config, modules: Vec::new() };
        let names: Vec<String> = adapter.weights.tensors().map(|tensor| tensor.name.to_owned()).collect();
        for name in &names {
            let module = name.strip_prefix(PREFIX).and_then(|name| {
                let of = |end| name.strip_suffix(end);
                let magnitude = || of(".lora_magnitude_vector").filter(|_| adapter.config.use_dora);
                of(".lora_A.weight").or_else(|| of(".lora_B.weight")).or_else(magnitude)
            });
            let Some(module) = module else {
                let expected = format!("{PREFIX}MODULE.lora_A.weight or .lora_B.weight");
                return Err(adapter.tensor_error(name, expected, "this name".into()));
            };
            if name.ends_with(".lora_A.weight") {
                let checked = adapter.check(module)?;
                adapter.modules.push(checked);
            } else {
                adapter.shape(&a_name(module))?;
            }
        }
        Ok(adapter)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn modules(&self) -> &[AdapterModule] {
        &self.modules
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

    /// Whether the base stores the adapted weights \[in, out\].
    pub fn is_stored_transposed(&self) -> bool {
        self.config.fan_in_fan_out
    }

    /// A \[r, in\] and B \[out, r\] of a module, row by row.
    ///
    /// # Errors
    /// The file cannot be read, or changed since it was opened.
    pub fn matrices(&self, module: &AdapterModule) -> Result<[Vec<f64>; 2], AdapterError> {
        Ok([self.read(&a_name(&module.module))?, self.read(&b_name(&module.module))?])
    }

    /// DoRA's magnitudes of a module, \[out\]; `None` where the adapter has none.
    ///
    /// # Errors
    /// As [`Adapter::matrices`].
    pub fn magnitude(&self, module: &AdapterModule) -> Result<Option<Vec<f64>>, AdapterError> {
        self.config.use_dora.then(|| self.read(&magnitude_name(&module.module))).transpose()
    }

    fn read(&self, name: &str) -> Result<Vec<f64>, AdapterError> {
        let mut bytes = Vec::new();
        self.weights.read(name, &mut bytes)?;
        let dtype = self.weights.tensor(name).map(|tensor| tensor.dtype);
        Ok(float::decode(dtype.expect("it was checked when the adapter was opened"), &bytes))
    }

    fn check(&self, module: &str) -> Result<AdapterModule, AdapterError> {
        let ([r, input], [output, b_r]) = (self.shape(&a_name(module))?, self.shape(&b_name(module))?);
        if b_r != r || r == 0 {
            let (expected, got) = (format!("[{output}, {r}], as lora_A has it"), format!("[{output}, {b_r}]"));
            return Err(self.tensor_error(&b_name(module), expected, got));
        }
        if let Some(expected) = self.config.r.filter(|expected| *expected != r) {
            let expected = format!("[{expected}, {input}], for the config's r is {expected}");
            return Err(self.tensor_error(&a_name(module), expected, format!("[{r}, {input}]")));
        }
        if self.config.use_dora {
            let name = magnitude_name(module);
            let found = self.weights.tensor(&name);
            let fits = |tensor: &TensorInfo<'_>| *tensor.shape == [output] && float::is_known(tensor.dtype);
            if !found.as_ref().is_some_and(fits) {
                let got = found.map_or("no such tensor".into(), |found| format!("{} {:?}", found.dtype, found.shape));
                return Err(self.tensor_error(&name, format!("[{output}] of F32, F64, F16 or BF16"), got));
            }
        }
        let alpha = self.config.lora_alpha;
        let scale = alpha / if self.config.use_rslora { (r as f64).sqrt() } else { r as f64 };
        Ok(AdapterModule { module: module.to_owned(), r, input, output, scale })
    }

    /// Two dimensions of floating-point numbers.
    fn shape(&self, name: &str) -> Result<[u64; 2], AdapterError> {
        let expected = || "two dimensions of F32, F64, F16 or BF16".to_owned();
        let Some(tensor) = self.weights.tensor(name) else {
            return Err(self.tensor_error(name, expected(), "no such tensor".into()));
        };
        match tensor.shape {
            &[rows, columns] if float::is_known(tensor.dtype) => Ok([rows, columns]),
            shape => Err(self.tensor_error(name, expected(), format!("{} {shape:?}", tensor.dtype))),
        }
    }

    fn tensor_error(&self, name: &str, expected: String, got: String) -> AdapterError {
        AdapterError::Tensor { path: self.path.join(WEIGHTS), name: name.to_owned(), expected, got }
    }
}

fn a_name(module: &str) -> String {
    format!("{PREFIX}{module}.lora_A.weight")
}

fn b_name(module: &str) -> String {
    format!("{PREFIX}{module}.lora_B.weight")
}

/// The one without `.weight` at its end.
fn magnitude_name(module: &str) -> String {
    format!("{PREFIX}{module}.lora_magnitude_vector")
}
