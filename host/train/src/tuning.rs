//! What of a model is trained.

use unswag_abi::doc::Graph;

use crate::LoraConfig;

#[derive(Clone, Debug, PartialEq)]
pub enum Tuning {
    /// Adapters on linear layers; all else is frozen.
    Lora(LoraConfig),
    /// Every weight.
    Full,
}

impl From<LoraConfig> for Tuning {
    fn from(config: LoraConfig) -> Self {
        Tuning::Lora(config)
    }
}

/// Whether weight decay applies to a weight of the graph. As in transformers, not to norms and biases: what has one dimension.
pub(crate) fn decays(graph: &Graph, name: &str) -> bool {
    graph.params.get(name).is_some_and(|param| param.shape.len() > 1)
}
