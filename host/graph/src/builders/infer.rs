//! What the tensors alone say of a model: enough to tell a user without `config.json` what is missing, never enough to
//! build a graph, since head counts, frequencies and epsilons leave no trace in the shapes.

use std::{collections::BTreeSet, fmt};

use super::{TensorInfo, tensors::layer_of};

/// What could be read from names and shapes. It prints as one sentence for the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inferred {
    /// Values of `model_type` that fit the names, the likeliest first; empty where the names are of no known family.
    pub candidates: Vec<&'static str>,
    pub layers: Option<u64>,
    pub hidden_size: Option<u64>,
    pub intermediate_size: Option<u64>,
    pub vocab_size: Option<u64>,
    /// Known only where each head has a norm of its own.
    pub head_dim: Option<u64>,
    /// Query heads for each key-value head.
    pub query_heads_per_key_value_head: Option<u64>,
    /// Whether the file has no output matrix, so that it must be the embedding.
    pub tied: bool,
    tensors: u64,
}

/// Roots under which a decoder's tensors are found in files.
const ROOTS: [&str; 7] =
    ["model.language_model.", "language_model.model.", "model.decoder.", "decoder.", "model.", "transformer.", ""];

/// Reads what the tensors' names and shapes tell. Costs one pass over the names.
pub fn infer<'a>(tensors: impl IntoIterator<Item = TensorInfo<'a>>) -> Inferred {
    let mut seen = Inferred::default();
    let mut layers = BTreeSet::new();
    let mut marks = Marks::default();
    for TensorInfo { name, shape, .. } in tensors {
        seen.tensors += 1;
        marks.head |= name.ends_with("lm_head.weight");
        let Some(root) = ROOTS.iter().find(|root| name.starts_with(**root)) else { continue };
        let rest = &name[root.len()..];
        if let Some(layer) = layer_of(name, root) {
            layers.insert(layer);
        }
        let part = rest.strip_prefix("layers.").or_else(|| rest.strip_prefix("h."));
        let part = part.and_then(|part| part.split_once('.')).map_or(rest, |(_, part)| part);
        match (part, shape) {
            ("embed_tokens.weight" | "wte.weight", &[vocab, width]) => {
                seen.vocab_size = Some(vocab);
                marks.embedding_width = Some(width);
            }
            ("mlp.gate_proj.weight", &[inner, width]) => {
                (seen.intermediate_size, seen.hidden_size) = (Some(inner), Some(width));
                marks.gated = true;
            }
            ("fc1.weight", &[inner, width]) => {
                (seen.intermediate_size, seen.hidden_size) = (Some(inner), Some(width));
                marks.opt = true;
            }
            ("mlp.c_fc.weight", &[width, inner]) => {
                (seen.intermediate_size, seen.hidden_size) = (Some(inner), Some(width));
                marks.gpt2 = true;
            }
            ("self_attn.q_proj.weight", &[out, _]) => marks.query_width = Some(out),
            ("self_attn.k_proj.weight", &[out, _]) => marks.key_width = Some(out),
            ("self_attn.q_norm.weight", &[dim]) => seen.head_dim = Some(dim),
            ("self_attn.q_proj.bias", _) => marks.query_bias = true,
            ("self_attn.o_proj.bias", _) => marks.output_bias = true,
            ("pre_feedforward_layernorm.weight", _) => marks.norms_around = true,
            _ => {}
        }
    }
    seen.candidates = marks.candidates(seen.head_dim.is_some());
    seen.layers = (!layers.is_empty()).then_some(layers.len() as u64);
    seen.hidden_size = seen.hidden_size.or(marks.embedding_width);
    seen.tied = !marks.head && seen.vocab_size.is_some();
    if let (Some(query), Some(key)) = (marks.query_width, marks.key_width) {
        seen.query_heads_per_key_value_head =
            query.checked_div(key).filter(|ratio| ratio.checked_mul(key) == Some(query));
    }
    seen
}

/// Names that tell families apart.
#[derive(Default)]
struct Marks {
    gated: bool,
    opt: bool,
    gpt2: bool,
    head: bool,
    norms_around: bool,
    query_bias: bool,
    output_bias: bool,
    query_width: Option<u64>,
    key_width: Option<u64>,
    embedding_width: Option<u64>,
}

impl Marks {
    fn candidates(&self, qk_norm: bool) -> Vec<&'static str> {
        match self {
            Marks { gpt2: true, .. } => vec!["gpt2"],
            Marks { opt: true, .. } => vec!["opt"],
            Marks { gated: false, .. } => Vec::new(),
            Marks { norms_around: true, .. } if qk_norm => vec!["gemma3_text", "gemma3"],
            Marks { norms_around: true, .. } => vec!["gemma2"],
            _ if qk_norm => vec!["qwen3"],
            Marks { query_bias: true, output_bias: false, .. } => vec!["qwen2"],
            // gemma has llama's names and always ties its output matrix.
            Marks { head: false, .. } => vec!["llama", "mistral", "gemma"],
            _ => vec!["llama", "mistral"],
        }
    }
}

impl fmt::Display for Inferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(likeliest) = self.candidates.first() else {
            return write!(
                f,
                "none of its {} tensors is named as in a supported family ({}), so nothing can be inferred",
                self.tensors,
                super::supported_model_types().collect::<Vec<_>>().join(", ")
            );
        };
        match self.candidates.as_slice() {
            ["opt"] => write!(f, "looks like an opt decoder")?,
            [_] => write!(f, "looks like a {likeliest} decoder")?,
            several => write!(f, "looks like a {likeliest}-family decoder ({})", several.join(" or "))?,
        }
        let facts: Vec<String> = [
            (self.layers, "layers"),
            (self.hidden_size, "hidden"),
            (self.intermediate_size, "intermediate"),
            (self.vocab_size, "vocab"),
            (self.head_dim, "head_dim"),
        ]
        .iter()
        .filter_map(|(value, name)| value.map(|value| fact(value, name)))
        .chain(self.query_heads_per_key_value_head.map(|ratio| format!("{ratio} query heads to a key-value head")))
        .collect();
        if !facts.is_empty() {
            write!(f, ": {} read from the shapes", facts.join(", "))?;
        }
        if self.tied {
            write!(f, "; the output matrix is the embedding")?;
        }
        let unknown = match *likeliest {
            "gpt2" => "head count and layer_norm_epsilon",
            "opt" => "head count, dropout and where the norms stand",
            "qwen3" | "gemma2" | "gemma3_text" => "windows, rope_theta and rms_norm_eps",
            _ => "head count, rope_theta and rms_norm_eps",
        };
        write!(f, "; {unknown} cannot be inferred")
    }
}

fn fact(value: u64, name: &str) -> String {
    if name == "layers" { format!("{value} layers") } else { format!("{name} {value}") }
}
