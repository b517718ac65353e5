//! Programs without weights: plans need none.

use serde_json::{Value as Json, json};
use unswag_abi::doc::{Attrs, Dtype, Graph};
use unswag_engine::{LoraSpec, Program, Trainable};
use unswag_graph::builders::{self, TensorInfo};

/// A program of this config, with adapters on every linear layer or with everything trained.
pub fn program(config: &Attrs, dtype: Dtype, lora: Option<u64>) -> Program {
    of_graph(&graph(config, dtype), lora)
}

pub fn graph(config: &Attrs, dtype: Dtype) -> Graph {
    let tensors = builders::expected(config).expect("a sound config");
    let infos = tensors.iter().map(|tensor| TensorInfo { name: &tensor.name, dtype, shape: &tensor.shape });
    builders::build(config, infos).expect("a sound config").graph
}

pub fn of_graph(graph: &Graph, lora: Option<u64>) -> Program {
    let trainable = if lora.is_some() { Trainable::Nothing } else { Trainable::Everything };
    let mut program = Program::new(graph, trainable).expect("the engine runs it");
    if let Some(r) = lora {
        let targets = vec!["all-linear".to_owned()];
        program
            .add_lora(&LoraSpec { r, alpha: 16.0, rank_stabilized: false, dropout: 0.0, dora: false, targets })
            .expect("there are linear layers");
    }
    program
}

/// The sample of a family with so many layers.
pub fn sample(family: &str, layers: u64) -> Attrs {
    let mut config = builders::sample_config(family).expect("a family");
    match config.get_mut("text_config") {
        Some(inner) => inner["num_hidden_layers"] = json!(layers),
        None => drop(config.insert("num_hidden_layers".to_owned(), json!(layers))),
    }
    config
}

/// SmolLM2-135M.
pub fn smollm2() -> Attrs {
    let config = json!({
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152,
        "tie_word_embeddings": true, "rope_theta": 100000.0, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "max_position_embeddings": 8192
    });
    match config {
        Json::Object(config) => config.into_iter().collect(),
        _ => unreachable!("an object was written"),
    }
}
