//! LoRA: which linear layers get an adapter, and what its tensors are called in PEFT's files.

use unswag_abi::doc::Dtype;

use crate::{EngineError, Program, Storage, View, linear::LinearAdapter, ops::Op, program::ParamInfo};

/// Hu et al. 2021; `rank_stabilized` is rsLoRA, Kalajdzievski 2023; `dora` is DoRA, Liu et al. 2024.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraSpec {
    pub r: u64,
    pub alpha: f64,
    /// alpha / sqrt(r) instead of alpha / r.
    pub rank_stabilized: bool,
    /// The share of the adapters' inputs that is dropped in training.
    pub dropout: f64,
    /// Whether each output has a magnitude that is trained apart from its direction.
    pub dora: bool,
    /// Last parts of module paths (`q_proj`), whole paths, or `all-linear`: every linear layer but the head.
    pub targets: Vec<String>,
}

/// One layer's adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// The module's path: `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// Positions in the program's parameters: A \[r, in\], B \[out, r\].
    pub a: usize,
    pub b: usize,
    /// DoRA's, f32 \[1, out\].
    pub magnitude: Option<usize>,
    /// The layer's own weight, and how it stands in the product.
    pub weight: usize,
    pub weight_view: View,
}

impl Adapter {
    /// PEFT's names of the adapter's tensors, and their positions.
    pub fn peft_tensors(&self) -> Vec<(String, usize)> {
        let name = |end: &str| format!("base_model.model.{}.{end}", self.module);
        let mut tensors = vec![(name("lora_A.weight"), self.a), (name("lora_B.weight"), self.b)];
        // The one without `.weight` at its end.
        tensors.extend(self.magnitude.map(|magnitude| (name("lora_magnitude_vector"), magnitude)));
        tensors
    }
}

impl LoraSpec {
    /// What B A is multiplied by.
    pub fn scale(&self) -> f64 {
        self.alpha / if self.rank_stabilized { (self.r as f64).sqrt() } else { self.r as f64 }
    }

    fn matches(&self, module: &str) -> bool {
        self.targets.iter().any(|target| {
            target == "all-linear"
                || module.strip_suffix(target.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    }
}

impl Program {
    /// Gives every linear layer that matches an adapter, and freezes all else. The adapters' parameters come after the
    /// graph's.
    ///
    /// # Errors
    /// No layer matches.
    pub fn add_lora(&mut self, spec: &LoraSpec) -> Result<Vec<Adapter>, EngineError> {
        self.trainable.iter_mut().for_each(|trainable| *trainable = false);
        let scale = spec.scale();
        let mut adapters = Vec::new();
        let mut known = Vec::new();
        for index in 0..self.nodes.len() {
            let Op::Linear(layer) = &self.nodes[index].op else { continue };
            let (weight, weight_view) = (layer.weight, layer.weight_view);
            let info = &self.params[weight];
            let module = info.name.strip_suffix(".weight").unwrap_or(&info.name).to_owned();
            // A tied head is the embedding's weight: an adapter on it would be one on the embedding.
            if self.head.contains(&index) || !spec.matches(&module) {
                known.push(module);
                continue;
            }
            let dtype = info.dtype;
            let [out, input] = match (weight_view, info.shape) {
                (View::Transposed, shape) => shape,
                (View::AsIs, [input, out]) => [out, input],
            };
            let mut add = |end: &str, shape, dtype| {
                let name = format!("{module}.{end}");
                self.params.push(ParamInfo { name, shape, dtype, storage: Storage::Plain });
                self.trainable.push(true);
                self.params.len() - 1
            };
            let (a, b) = (add("lora_A.weight", [spec.r, input], dtype), add("lora_B.weight", [out, spec.r], dtype));
            // In half precision a layer's first magnitudes would not be its norms.
            let magnitude = spec.dora.then(|| add("lora_magnitude_vector", [1, out], Dtype::F32));
            if let Op::Linear(layer) = &mut self.nodes[index].op {
                layer.adapter = Some(LinearAdapter { a, b, magnitude, scale, dropout: spec.dropout });
            }
            adapters.push(Adapter { module, a, b, magnitude, weight, weight_view });
        }
        if adapters.is_empty() {
            let mut last: Vec<_> = known.iter().map(|module| module.rsplit('.').next().unwrap_or(module)).collect();
            last.sort_unstable();
            last.dedup();
            return Err(EngineError::NoTarget { targets: spec.targets.join(", "), known: last.join(", ") });
        }
        self.find_what_needs_gradients();
        Ok(adapters)
    }
}
