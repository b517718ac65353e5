//! LoRA: linear layers with adapters, and what the adapters' tensors are called in PEFT's files.
//!
//! Which layers get one is decided elsewhere, by PEFT's rules; here they come by their paths.

use std::collections::HashMap;

use unswag_abi::doc::Dtype;

use crate::{EngineError, Program, Storage, View, linear::LinearAdapter, ops::Op, program::ParamInfo};

/// The same adapter for several layers. Hu et al. 2021; `rank_stabilized` is rsLoRA, Kalajdzievski 2023; `dora` is DoRA, Liu et al.
/// 2024.
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

/// One layer's adapter, as it is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraLayer {
    /// The node's path.
    pub module: String,
    pub r: u64,
    /// What B A is multiplied by.
    pub scale: f64,
    pub dropout: f64,
    pub dora: bool,
}

/// One layer's adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// The module's path, which is the node's: `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// Positions in the program's parameters: A \[r, in\], B \[out, r\].
    pub a: usize,
    pub b: usize,
    /// DoRA's, f32 \[1, out\].
    pub magnitude: Option<usize>,
    /// The layer's own weight, and how it stands in the product.
    pub weight: usize,
    pub weight_view: View,
    pub scale: f64,
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

    fn matches(&self, module: &str, is_head: bool) -> bool {
        self.targets.iter().any(|target| match target.as_str() {
            "all-linear" => !is_head,
            target => module.strip_suffix(target).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
        })
    }
}

impl Program {
    /// Gives every linear layer that matches the same adapter, and freezes all else.
    ///
    /// # Errors
    /// No layer matches.
    pub fn add_lora(&mut self, spec: &LoraSpec) -> Result<Vec<Adapter>, EngineError> {
        let linear = |(index, node): (usize, &crate::program::Node)| {
            matches!(node.op, Op::Linear(_)).then(|| (node.path.clone(), self.head.start == index))
        };
        let (chosen, others): (Vec<_>, Vec<_>) = self
            .nodes
            .iter()
            .enumerate()
            .filter_map(linear)
            .partition(|(module, is_head)| spec.matches(module, *is_head));
        if chosen.is_empty() {
            let mut last: Vec<_> =
                others.iter().map(|(module, _)| module.rsplit('.').next().unwrap_or(module)).collect();
            last.sort_unstable();
            last.dedup();
            return Err(EngineError::NoTarget { targets: spec.targets.join(", "), known: last.join(", ") });
        }
        let layer =
            |(module, _)| LoraLayer { module, r: spec.r, scale: spec.scale(), dropout: spec.dropout, dora: spec.dora };
        self.add_adapters(&chosen.into_iter().map(layer).collect::<Vec<_>>())
    }

    /// Gives these linear layers adapters, in the program's order, and freezes all else. The adapters' parameters come after the
    /// graph's. A head that shares the embedding's matrix may have one: it adds to the head's product and leaves the matrix alone.
    ///
    /// # Errors
    /// One of them is no linear layer of this program.
    pub fn add_adapters(&mut self, layers: &[LoraLayer]) -> Result<Vec<Adapter>, EngineError> {
        self.trainable.iter_mut().for_each(|trainable| *trainable = false);
        let mut wanted: HashMap<&str, &LoraLayer> = layers.iter().map(|layer| (layer.module.as_str(), layer)).collect();
        let mut adapters = Vec::new();
        for node in &mut self.nodes {
            let Op::Linear(layer) = &mut node.op else { continue };
            let Some(LoraLayer { r, scale, dropout, dora, .. }) = wanted.remove(node.path.as_str()) else { continue };
            let (weight, weight_view) = (layer.weight, layer.weight_view);
            let (shape, dtype) = (self.params[weight].shape, self.params[weight].dtype);
            let [out, input] = match (weight_view, shape) {
                (View::Transposed, shape) => shape,
                (View::AsIs, [input, out]) => [out, input],
            };
            let module = node.path.clone();
            let mut add = |end: &str, shape, dtype| {
                let name = format!("{module}.{end}");
                self.params.push(ParamInfo { name, shape, dtype, storage: Storage::Plain });
                self.trainable.push(true);
                self.params.len() - 1
            };
            let (a, b) = (add("lora_A.weight", [*r, input], dtype), add("lora_B.weight", [out, *r], dtype));
            // In half precision a layer's first magnitudes would not be its norms.
            let magnitude = dora.then(|| add("lora_magnitude_vector", [1, out], Dtype::F32));
            layer.adapter = Some(LinearAdapter { a, b, magnitude, scale: *scale, dropout: *dropout });
            adapters.push(Adapter { module, a, b, magnitude, weight, weight_view, scale: *scale });
        }
        if let Some(&module) = wanted.keys().min() {
            return Err(EngineError::NoTarget { targets: module.to_owned(), known: "no such layer".to_owned() });
        }
        self.find_what_needs_gradients();
        Ok(adapters)
    }

    /// Trains these parameters of the graph beside the adapters: `modules_to_save`.
    ///
    /// # Errors
    /// One is quantised, and has no gradient.
    pub fn train_params(&mut self, params: &[usize]) -> Result<(), EngineError> {
        for &param in params {
            if self.params[param].storage != Storage::Plain {
                return Err(EngineError::TrainsQuantized { name: self.params[param].name.clone() });
            }
            self.trainable[param] = true;
        }
        self.find_what_needs_gradients();
        Ok(())
    }
}
