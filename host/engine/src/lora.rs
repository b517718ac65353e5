//! LoRA: which linear layers get an adapter, and what its tensors are called in PEFT's files.

use crate::{
    EngineError, Program, View,
    ops::{LinearAdapter, Op},
    program::ParamInfo,
};

/// Hu et al. 2021; `rank_stabilized` is rsLoRA, Kalajdzievski 2023.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraSpec {
    pub r: u64,
    pub alpha: f64,
    /// alpha / sqrt(r) instead of alpha / r.
    pub rank_stabilized: bool,
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
}

impl Adapter {
    /// PEFT's names of A and B.
    pub fn peft_names(&self) -> [String; 2] {
        ["A", "B"].map(|matrix| format!("base_model.model.{}.lora_{matrix}.weight", self.module))
    }
}

impl LoraSpec {
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
        let scale = spec.alpha / if spec.rank_stabilized { (spec.r as f64).sqrt() } else { spec.r as f64 };
        let mut adapters = Vec::new();
        let mut known = Vec::new();
        for index in 0..self.nodes.len() {
            let Op::Linear { weight, weight_view, .. } = self.nodes[index].op else { continue };
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
            let mut add = |matrix: &str, shape| {
                let name = format!("{module}.lora_{matrix}.weight");
                self.params.push(ParamInfo { name, shape, dtype });
                self.trainable.push(true);
                self.params.len() - 1
            };
            let (a, b) = (add("A", [spec.r, input]), add("B", [out, spec.r]));
            if let Op::Linear { adapter, .. } = &mut self.nodes[index].op {
                *adapter = Some(LinearAdapter { a, b, scale });
            }
            adapters.push(Adapter { module, a, b });
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
