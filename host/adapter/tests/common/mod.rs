//! A model of three linear layers and adapters for it, written to a folder.

#![allow(dead_code)] // each test file uses its part

use std::{
    fs,
    path::{Path, PathBuf},
};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value as Json, json};
use tempfile::TempDir;
use unswag_abi::doc::Graph;
use unswag_adapter::AdapterSpec;
use unswag_checkpoint::Checkpoint;

pub const PREFIX: &str = "base_model.model.";
/// The paths of the layers with 6 inputs and 5 outputs; the head has 7 outputs.
pub const Q: [&str; 2] = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"];

/// The graph; its files leave out the root, and its head is tied if asked for.
pub fn graph(is_tied: bool) -> Graph {
    let head = if is_tied { "embed_tokens.weight" } else { "lm_head.weight" };
    let linear = |path: &str, input: &str, weight: &str| {
        json!({
            "path": path, "kind": "linear", "inputs": [input], "outputs": [path], "params": {"weight": weight},
        })
    };
    let mut params = json!({
        "embed_tokens.weight": {"dtype": "F32", "shape": [7, 6]},
        "layers.0.self_attn.q_proj.weight": {"dtype": "F32", "shape": [5, 6]},
        "layers.1.self_attn.q_proj.weight": {"dtype": "F32", "shape": [5, 6]},
    });
    if !is_tied {
        params["lm_head.weight"] = json!({"dtype": "F32", "shape": [7, 6]});
    }
    let embedding = json!({
        "path": "model.embed_tokens", "kind": "embedding", "inputs": ["input_ids"], "outputs": ["model.embed_tokens"],
        "params": {"weight": "embed_tokens.weight"},
    });
    serde_json::from_value(json!({
        "version": 1, "arch": {"model_type": "llama"}, "inputs": ["input_ids"], "outputs": ["lm_head"], "values": {},
        "nodes": [
            embedding,
            linear(Q[0], "model.embed_tokens", "layers.0.self_attn.q_proj.weight"),
            linear(Q[1], "model.embed_tokens", "layers.1.self_attn.q_proj.weight"),
            linear("lm_head", "model.embed_tokens", head),
        ],
        "params": params,
    }))
    .expect("a graph")
}

/// Tensors of f32 by name and shape, each element the same.
pub fn write_tensors(path: &Path, tensors: &[(String, Vec<usize>, f32)]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, shape, value)| value.to_le_bytes().repeat(shape.iter().product())).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("its bytes"))
    });
    safetensors::serialize_to_file(views, None, path).expect("written");
}

pub fn lora(module: &str, r: usize, input: usize, output: usize) -> [(String, Vec<usize>, f32); 2] {
    [
        (format!("{PREFIX}{module}.lora_A.weight"), vec![r, input], 0.5),
        (format!("{PREFIX}{module}.lora_B.weight"), vec![output, r], 0.25),
    ]
}

/// A folder with a base and an adapter.
pub struct Case {
    pub temp: TempDir,
    pub graph: Graph,
}

impl Case {
    pub fn new(is_tied: bool, tensors: &[(String, Vec<usize>, f32)]) -> Self {
        let (temp, graph) = (TempDir::new().expect("a folder"), graph(is_tied));
        let base: Vec<_> = graph
            .params
            .iter()
            .map(|(name, param)| (name.clone(), param.shape.iter().map(|&size| size as usize).collect(), 1.0))
            .collect();
        let folder = temp.path().join("base");
        fs::create_dir(&folder).expect("made");
        write_tensors(&folder.join("model.safetensors"), &base);
        fs::write(folder.join("config.json"), json!({"tie_word_embeddings": is_tied}).to_string()).expect("written");
        fs::create_dir(temp.path().join("adapter")).expect("made");
        write_tensors(&temp.path().join("adapter/adapter_model.safetensors"), tensors);
        Case { temp, graph }
    }

    pub fn adapter(&self) -> PathBuf {
        self.temp.path().join("adapter")
    }

    pub fn base(&self) -> Checkpoint {
        Checkpoint::open(self.temp.path().join("base")).expect("sound")
    }

    /// What is said of the adapter with these settings.
    pub fn opened(&self, config: &Map<String, Json>) -> Result<AdapterSpec, String> {
        let text = serde_json::to_vec(config).expect("JSON");
        fs::write(self.adapter().join("adapter_config.json"), text).expect("written");
        AdapterSpec::open(&self.adapter(), &self.graph, &self.base()).map_err(|error| error.to_string())
    }

    /// The same with more settings on plain ones of rank 4.
    pub fn with(&self, settings: Json) -> Result<AdapterSpec, String> {
        let mut config = plain();
        config.extend(settings.as_object().expect("settings").clone());
        self.opened(&config)
    }
}

pub fn plain() -> Map<String, Json> {
    json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8}).as_object().expect("settings").clone()
}
