//! Checkpoints of real architectures at toy size, with random weights from a seed.
//!
//! Names, shapes and configs are those that transformers' `save_pretrained` writes; transformers opens every one of them.
//! The files are written with the `safetensors` crate, never with the project's own writer.

mod family;
mod tokenizer;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};

pub use family::Family;
use family::{Fill, Tensor};

/// A toy checkpoint to be written: 2 layers of 64, 4 heads over 2 key-value heads where the family has that, 256 tokens.
#[derive(Clone, Copy, Debug)]
pub struct Tiny {
    pub family: Family,
    pub seed: u64,
    /// Of every tensor: F32, F16 or BF16.
    pub dtype: Dtype,
    /// With more than one, `model.safetensors.index.json` says which tensor is where.
    pub shards: usize,
    /// Whether a byte-level tokenizer lies beside the weights.
    pub tokenizer: bool,
}

impl Tiny {
    /// One bf16 `model.safetensors` with a tokenizer.
    pub fn new(family: Family) -> Self {
        Tiny { family, seed: 1, dtype: Dtype::BF16, shards: 1, tokenizer: true }
    }

    /// Writes the checkpoint into a folder, which is made if need be.
    ///
    /// # Panics
    /// Where the folder cannot be written, or `dtype` is none of the three.
    pub fn write(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.join(name);
            fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        };
        write("config.json", &pretty(&self.config()));
        write("generation_config.json", &pretty(&json!({"bos_token_id": 0, "eos_token_id": 0})));
        if self.tokenizer {
            write("tokenizer.json", &pretty(&tokenizer::byte_level()));
            write("tokenizer_config.json", &pretty(&json!({"tokenizer_class": "PreTrainedTokenizerFast"})));
        }

        let tensors = self.family.tensors();
        let data: Vec<Vec<u8>> = tensors.iter().enumerate().map(|(index, tensor)| self.data(index, tensor)).collect();
        let metadata = Some(HashMap::from([("format".to_owned(), "pt".to_owned())]));
        let shards = self.shards.max(1);
        let mut weight_map = Map::new();
        for shard in 0..shards {
            let name = match shards {
                1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{shards:05}.safetensors", shard + 1),
            };
            // Every shards-th tensor, so that a layer's tensors lie in different files.
            let views = tensors.iter().zip(&data).skip(shard).step_by(shards).map(|(tensor, bytes)| {
                weight_map.insert(tensor.name.clone(), json!(name));
                let view = TensorView::new(self.dtype, tensor.shape.clone(), bytes);
                (tensor.name.as_str(), view.expect("the data has the shape's size"))
            });
            let file = safetensors::serialize(views, metadata.clone()).expect("tensors of toy size serialize");
            write(&name, &file);
        }
        if shards > 1 {
            let total_size: usize = data.iter().map(Vec::len).sum();
            let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
            write("model.safetensors.index.json", &pretty(&index));
        }
    }

    fn config(&self) -> Value {
        let mut config = self.family.config();
        let dtype = match self.dtype {
            Dtype::F32 => "float32",
            Dtype::F16 => "float16",
            _ => "bfloat16",
        };
        config["torch_dtype"] = json!(dtype);
        config
    }

    /// A tensor's elements. Each depends on the seed, the tensor's place and its own place only.
    fn data(&self, index: usize, tensor: &Tensor) -> Vec<u8> {
        let count: usize = tensor.shape.iter().product();
        let mut state = self.seed ^ ((index as u64 + 1) << 32);
        let values = (0..count).map(|_| {
            let unit = uniform(&mut state);
            match tensor.fill {
                Fill::Weight => 0.1 * unit,
                Fill::NormAroundOne => 1.0 + 0.1 * unit,
            }
        });
        match self.dtype {
            Dtype::F32 => values.flat_map(|value| value.to_le_bytes()).collect(),
            Dtype::F16 => values.flat_map(|value| half::f16::from_f32(value).to_le_bytes()).collect(),
            Dtype::BF16 => values.flat_map(|value| half::bf16::from_f32(value).to_le_bytes()).collect(),
            other => panic!("a tiny checkpoint is made of F32, F16 or BF16, not {other:?}"),
        }
    }
}

fn pretty(value: &Value) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("a JSON value serializes")
}

/// The next number of SplitMix64 (Steele et al. 2014), in [-1, 1).
fn uniform(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut bits = *state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^= bits >> 31;
    // 24 bits are what an f32 holds exactly.
    (bits >> 40) as f32 / (1u32 << 23) as f32 - 1.0
}
