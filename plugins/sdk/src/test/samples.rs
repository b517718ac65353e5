//! Graphs of every model family that the host builds, small, as the host writes them: what `rewrite` is tried on.

use unswag_abi::doc::Graph;

/// transformers' `model_type`, and the graph document.
static SAMPLES: &[(&str, &str)] =
    &[("llama", include_str!("../../samples/llama.json")), ("opt", include_str!("../../samples/opt.json"))];

/// Every family that has a sample.
pub static FAMILIES: &[&str] = &["llama", "opt"];

/// The sample graph of a family.
///
/// # Panics
/// There is no sample of this family: [`FAMILIES`] lists them.
pub fn sample(family: &str) -> Graph {
    let text = SAMPLES.iter().find(|(name, _)| *name == family).map(|(_, text)| *text);
    let text = text.unwrap_or_else(|| panic!("no sample of family {family:?}; there are {FAMILIES:?}"));
    serde_json::from_str(text).expect("samples are graph documents; a test reads each")
}
