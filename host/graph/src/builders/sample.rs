//! A tiny graph of every family, for tests that need one and no checkpoint: the plugins' conformance suite above all.

use serde_json::{Value as Json, json};
use unswag_abi::doc::{Attrs, Dtype, Graph};

use super::{BuildError, TensorInfo, build, expected};

/// The families that there is a sample of: every supported `model_type`, in the registry's order.
pub const FAMILIES: [&str; 10] =
    ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gemma3", "opt", "gpt2"];

/// A config of two layers and hidden size 64 that shows what the family has: grouped heads, windows, caps.
///
/// `None` for a family that is not in [`FAMILIES`].
pub fn sample_config(family: &str) -> Option<Attrs> {
    let mut config = match family {
        "llama" => json!({ "num_key_value_heads": 2 }),
        "mistral" => json!({ "num_key_value_heads": 2, "sliding_window": 8 }),
        "qwen2" => json!({
            "num_key_value_heads": 2, "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1,
            "tie_word_embeddings": true
        }),
        "qwen3" => json!({ "num_key_value_heads": 2, "head_dim": 32 }),
        "gemma" => json!({ "num_key_value_heads": 1, "head_dim": 32 }),
        "gemma2" => {
            json!({ "num_key_value_heads": 2, "head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 32 })
        }
        "gemma3_text" | "gemma3" => json!({
            "num_key_value_heads": 2, "head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 32,
            "sliding_window_pattern": 2
        }),
        "opt" => json!({ "ffn_dim": 96, "word_embed_proj_dim": 32, "dropout": 0.0 }),
        "gpt2" => json!({ "n_inner": 96 }),
        _ => return None,
    };
    let shared = json!({
        "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 32
    });
    if let (Json::Object(config), Json::Object(mut shared)) = (&mut config, shared) {
        shared.append(config);
        *config = shared;
    }
    if family == "gemma3" {
        config = json!({ "text_config": config });
    }
    config["model_type"] = json!(family);
    match config {
        Json::Object(config) => Some(config.into_iter().collect()),
        _ => None,
    }
}

/// The graph of [`sample_config`] with weights in bf16. `None` for a family that is not in [`FAMILIES`].
pub fn sample_graph(family: &str) -> Option<Graph> {
    let config = sample_config(family)?;
    let built: Result<Graph, BuildError> = expected(&config).and_then(|tensors| {
        let tensors =
            tensors.iter().map(|tensor| TensorInfo { name: &tensor.name, dtype: Dtype::Bf16, shape: &tensor.shape });
        build(&config, tensors).map(|built| built.graph)
    });
    Some(built.expect("a sample's config is well formed"))
}
