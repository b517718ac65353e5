//! What is fuzzed: one function per kind of untrusted input. Each must return, whatever the bytes; where it accepts them,
//! what it made of them must hold together.
//!
//! libFuzzer calls these through `fuzz_targets/`; the stable tests (`tests/mutations`) include this file and call them with
//! mutated seeds. So it must not name libFuzzer, and may use only what both packages depend on.

mod documents;
mod kernels;

use std::sync::OnceLock;

pub use documents::{adapter, chat_template, conversation, lock, recipe, record, rows, tokenizer};
pub use kernels::{delhi_codes, delhi_groups};
use unswag_abi::doc::{Attrs, Graph, OpCall, OpPlan, Patch};
use unswag_checkpoint::{gguf, parse_header};
use unswag_graph::{Applied, Ops, PatchError, apply, builders, diff, saved, validate};

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// Every target: its name (its program, its folder under `corpus/`) and its function.
pub const TARGETS: &[(&str, Target)] = &[
    ("safetensors_header", safetensors_header),
    ("gguf_header", gguf_header),
    ("patch", patch),
    ("config", config),
    ("delhi_codes", delhi_codes),
    ("delhi_groups", delhi_groups),
    ("chat_template", chat_template),
    ("tokenizer", tokenizer),
    ("adapter", adapter),
    ("record", record),
    ("lock", lock),
    ("recipe", recipe),
    ("rows", rows),
    ("conversation", conversation),
];

/// A whole safetensors file. What this project accepts, the `safetensors` crate accepts and understands in the same way.
pub fn safetensors_header(data: &[u8]) {
    let Ok(header) = parse_header(data, data.len() as u64) else { return };
    let theirs = safetensors::SafeTensors::deserialize(data).expect("a header that is accepted here is sound");
    assert_eq!(header.tensors().len(), theirs.len());
    for tensor in header.tensors() {
        let other = theirs.tensor(tensor.name).expect("both readers see the same tensors");
        assert!(tensor.shape.iter().copied().eq(other.shape().iter().map(|&size| size as u64)));
        let range = tensor.range.start as usize..tensor.range.end as usize;
        assert!(data[range].as_ptr_range() == other.data().as_ptr_range(), "{}: other bytes", tensor.name);
    }
}

/// A whole GGUF file.
pub fn gguf_header(data: &[u8]) {
    let Ok(file) = gguf::parse(data) else { return };
    for (key, value) in file.keys() {
        assert!(file.get(key).is_some(), "{key}: listed, and cannot be got");
        if let Some(array) = value.as_array() {
            // An array's length was checked against the file: each element takes at least a byte of it.
            assert!(array.len() <= data.len() as u64);
            let strings = array.strings().into_iter().flatten().count();
            let integers = array.integers().into_iter().flatten().count();
            let floats = array.floats().into_iter().flatten().count();
            assert!([0, array.len()].contains(&(strings.max(integers).max(floats) as u64)));
        }
    }
    for tensor in file.tensors() {
        assert!(tensor.shape().len() <= 4);
        let _ = tensor.elements();
    }
    assert!(file.header_bytes() <= file.data_start() || file.tensors().is_empty());
}

/// A patch document for the sample graph of the llama family. What it is applied to stays sound.
pub fn patch(data: &[u8]) {
    let graph = sample();
    let Some(Ok(applied)) = apply_patch(data) else { return };
    validate(&applied.graph).expect("a patch that was applied leaves a sound graph");
    diff(graph, &applied.graph);
    assert!(saved::saved(&applied.graph).bytes_per_token >= 0.0);
    for param in &applied.new_params {
        let in_graph = &applied.graph.params[&param.name];
        assert_eq!((&in_graph.shape, in_graph.dtype), (&param.shape, param.dtype));
    }
    for name in &applied.dropped {
        assert!(!applied.graph.params.contains_key(name), "{name}: dropped, and still there");
    }
}

/// What becomes of a patch document, where it is one.
pub fn apply_patch(data: &[u8]) -> Option<Result<Applied, PatchError>> {
    let patch = serde_json::from_slice::<Patch>(data).ok()?;
    Some(apply(sample(), &patch, &SameAsInput))
}

fn sample() -> &'static Graph {
    static GRAPH: OnceLock<Graph> = OnceLock::new();
    GRAPH.get_or_init(|| builders::sample_graph("llama").expect("there is a sample of llama"))
}

/// A `config.json`.
pub fn config(data: &[u8]) {
    let Ok(config) = serde_json::from_slice::<Attrs>(data) else { return };
    let Ok(tensors) = builders::expected(&config) else { return };
    assert!(!tensors.is_empty(), "a model of no tensors was accepted");
}

/// Plans every plugin op as one that gives its first input back and saves it.
struct SameAsInput;

impl Ops for SameAsInput {
    fn plan(&self, call: &OpCall) -> Result<OpPlan, String> {
        let first = call.inputs.first().ok_or("an op without input")?;
        Ok(OpPlan { outputs: vec![first.clone()], saved: vec![first.clone()], ..OpPlan::default() })
    }
}
