//! Builds safetensors files byte by byte, sound or not, for the tests. Knows the format only from its specification.

#![allow(dead_code)] // each test file uses its part

use std::{collections::HashMap, path::Path};

use safetensors::tensor::{Dtype, TensorView};

/// A file with this header text and these data.
pub fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A header's entry for an F32 tensor.
pub fn entry(name: &str, shape: &[u64], begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#)
}

/// Writes a sound file of F32 tensors with the `safetensors` crate. Values count up from each tensor's own start.
pub fn write_model(path: &Path, tensors: &[(&str, &[usize])]) {
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .enumerate()
        .map(|(number, (_, shape))| {
            let elements = shape.iter().product::<usize>();
            (0..elements).flat_map(|element| ((number * 1000 + element) as f32).to_le_bytes()).collect()
        })
        .collect();
    let views = tensors.iter().zip(&data).map(|((name, shape), data)| {
        (*name, TensorView::new(Dtype::F32, shape.to_vec(), data).expect("shape and data agree"))
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), path).expect("a sound model is written");
}

/// A folder as `transformers` leaves it: config, tokenizer, one weight file.
pub fn write_folder(folder: &Path) {
    std::fs::create_dir_all(folder).expect("the folder is made");
    write_model(
        &folder.join("model.safetensors"),
        &[("model.embed_tokens.weight", &[7, 3]), ("model.norm.weight", &[3]), ("scale", &[])],
    );
    for (name, text) in [
        ("config.json", r#"{"model_type": "llama", "hidden_size": 3}"#),
        ("tokenizer.json", "{}"),
        ("generation_config.json", "{}"),
        ("README.md", "# A model\n"),
    ] {
        std::fs::write(folder.join(name), text).expect("the file is written");
    }
}

/// Two shards and their index.
pub fn write_sharded_folder(folder: &Path) {
    std::fs::create_dir_all(folder).expect("the folder is made");
    write_model(&folder.join("model-00001-of-00002.safetensors"), &[("a", &[4]), ("c", &[2, 2])]);
    write_model(&folder.join("model-00002-of-00002.safetensors"), &[("b", &[5])]);
    let index = r#"{"metadata": {"total_size": 52}, "weight_map": {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors",
        "c": "model-00001-of-00002.safetensors"}}"#;
    std::fs::write(folder.join("model.safetensors.index.json"), index).expect("the index is written");
    std::fs::write(folder.join("config.json"), "{}").expect("the config is written");
}
