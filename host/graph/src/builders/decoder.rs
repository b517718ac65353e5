//! The decoder that llama, mistral, qwen and gemma share: rotary attention and a gated MLP between norms, added to a
//! residual stream. A family's file says which of the variations below it has; this file writes the nodes.
//!
//! ```text
//! layers.N.input_layernorm -> self_attn.{q,k,v}_proj [-> q_norm, k_norm] -> self_attn.rope -> self_attn.attn
//!   -> self_attn.o_proj [-> post_attention_layernorm] -> add_attn
//!   -> post_attention_layernorm | pre_feedforward_layernorm -> mlp.{gate,up}_proj -> mlp.act_fn -> mlp.down_proj
//!   [-> post_feedforward_layernorm] -> add_mlp
//! ```

use serde_json::json;
use unswag_abi::doc::Attrs;

use super::{
    activation::Activation,
    config::Fields,
    error::BuildError,
    rope::LAYER_TYPES,
    tensors::Prefix,
    writer::{INPUT_IDS, Linear, POSITION_IDS, RmsNorm, Writer, attrs},
};

/// What a family's config comes to.
pub(super) struct Decoder {
    /// Module path of the decoder: `model.`.
    pub root: &'static str,
    pub vocab_size: u64,
    pub hidden_size: u64,
    pub intermediate_size: u64,
    pub layers: u64,
    pub heads: Heads,
    pub eps: f64,
    /// A norm's factor is 1 + weight (gemma).
    pub unit_offset: bool,
    /// Factor on the embedding, rounded to the activations' dtype where it is applied (gemma: sqrt(hidden_size)).
    pub embedding_scale: Option<f64>,
    pub biases: Biases,
    pub qk_norm: QkNorm,
    /// Norms also after attention and after the MLP, before each is added (gemma2, gemma3).
    pub norms_around: bool,
    pub activation: Activation,
    pub attention_scale: f64,
    pub attention_softcap: Option<f64>,
    pub logits_softcap: Option<f64>,
    /// Keys a query sees, of each layer; one entry per layer.
    pub windows: Windows,
    /// Attributes of `rotary_emb`, of the layers that see everything and of those with a window.
    pub rotary: Rotaries,
    pub tied: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub query: u64,
    pub key_value: u64,
    pub dim: u64,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Biases {
    pub qkv: bool,
    pub attention_output: bool,
    pub mlp: bool,
}

/// Whether q and k are normalised head by head, and where transformers runs it; the result is the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum QkNorm {
    None,
    /// Each directly after its projection (qwen3).
    AfterEach,
    /// Both after the three projections (gemma3).
    AfterAll,
}

/// Which layers see only the last keys.
pub(super) enum Windows {
    Same(Option<u64>),
    /// Of each layer whether it slides, and the size of the window if it does.
    PerLayer {
        sliding: Vec<bool>,
        window: Option<u64>,
    },
}

impl Windows {
    fn slides(&self, layer: usize) -> bool {
        match self {
            Windows::Same(window) => window.is_some(),
            Windows::PerLayer { sliding, .. } => sliding.get(layer).copied().unwrap_or(false),
        }
    }

    fn of(&self, layer: usize) -> Option<u64> {
        match self {
            Windows::Same(window) => *window,
            Windows::PerLayer { window, .. } => window.filter(|_| self.slides(layer)),
        }
    }
}

pub(super) enum Rotaries {
    Shared(Attrs),
    /// gemma3: other frequencies in the layers with a window.
    ByLayerType {
        full: Attrs,
        sliding: Attrs,
    },
}

/// Where the decoder's tensors stand: as transformers writes them, inside a multimodal checkpoint in either of its
/// spellings, or without a root (a base model saved alone).
const PREFIXES: [Prefix; 4] = [PLAIN, MULTIMODAL, MULTIMODAL_MODULES, BARE];
const MULTIMODAL_PREFIXES: [Prefix; 4] = [MULTIMODAL, MULTIMODAL_MODULES, PLAIN, BARE];

const PLAIN: Prefix = Prefix { body: "model.", head: "" };
/// As published checkpoints have it, and as transformers saves it to this day.
const MULTIMODAL: Prefix = Prefix { body: "language_model.model.", head: "language_model." };
/// As transformers' modules have been named since 4.52.
const MULTIMODAL_MODULES: Prefix = Prefix { body: "model.language_model.", head: "" };
const BARE: Prefix = Prefix { body: "", head: "" };

/// Module path of a decoder inside a multimodal model.
pub(super) const MULTIMODAL_ROOT: &str = "model.language_model.";

impl Decoder {
    /// Writes the whole graph; gives the name of the logits.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<String, BuildError> {
        let candidates = if self.root == MULTIMODAL_ROOT { &MULTIMODAL_PREFIXES } else { &PREFIXES };
        writer.set_root(
            self.root,
            candidates,
            &["embed_tokens.weight", "norm.weight", "layers.0.mlp.down_proj.weight"],
        );
        let width = self.hidden_size;
        let embed_tokens = writer.path("embed_tokens");
        let scale = self.embedding_scale.map(|scale| attrs([("scale", json!(scale))])).unwrap_or_default();
        let mut x = writer.embedding(&embed_tokens, INPUT_IDS, [self.vocab_size, width], scale)?;
        let mut rotary = Rotated::default();
        for layer in 0..self.layers as usize {
            let rotated = rotary.of(self, writer, layer);
            x = self.layer(writer, layer, &x, &rotated)?;
        }
        let norm = writer.path("norm");
        x = writer.rms_norm(&norm, &x, self.norm(None))?;
        let mut logits = writer.lm_head(&x, &embed_tokens, [self.vocab_size, width], self.tied)?;
        if let Some(cap) = self.logits_softcap {
            logits =
                writer.function("logits_softcap", "softcap", &[&logits], self.vocab_size, attrs([("cap", json!(cap))]));
        }
        Ok(logits)
    }

    fn norm(&self, group: Option<u64>) -> RmsNorm {
        RmsNorm { width: self.hidden_size, group, eps: self.eps, unit_offset: self.unit_offset }
    }

    fn layer(
        &self,
        writer: &mut Writer<'_>,
        index: usize,
        x: &str,
        rotated: &[String; 2],
    ) -> Result<String, BuildError> {
        let width = self.hidden_size;
        let path = |name: &str| format!("{}layers.{index}.{name}", self.root);
        let normed = writer.rms_norm(&path("input_layernorm"), x, self.norm(None))?;
        let mut attended = self.attention(writer, index, &normed, rotated)?;
        if self.norms_around {
            attended = writer.rms_norm(&path("post_attention_layernorm"), &attended, self.norm(None))?;
        }
        let x = writer.add(&path("add_attn"), x, &attended, width);

        let before = if self.norms_around { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        let normed = writer.rms_norm(&path(before), &x, self.norm(None))?;
        let mut mixed = self.mlp(writer, &path("mlp"), &normed)?;
        if self.norms_around {
            mixed = writer.rms_norm(&path("post_feedforward_layernorm"), &mixed, self.norm(None))?;
        }
        Ok(writer.add(&path("add_mlp"), &x, &mixed, width))
    }

    fn attention(
        &self,
        writer: &mut Writer<'_>,
        index: usize,
        x: &str,
        rotated: &[String; 2],
    ) -> Result<String, BuildError> {
        let Heads { query, key_value, dim } = self.heads;
        // `heads` was checked: neither product overflows.
        let (query_width, key_value_width) = (query * dim, key_value * dim);
        let path = |name: &str| format!("{}layers.{index}.self_attn.{name}", self.root);
        let project = |out| Linear::new(self.hidden_size, out, self.biases.qkv);
        let head_norm = |width| RmsNorm { width, ..self.norm(Some(dim)) };

        let mut q = writer.linear(&path("q_proj"), x, project(query_width))?;
        if self.qk_norm == QkNorm::AfterEach {
            q = writer.rms_norm(&path("q_norm"), &q, head_norm(query_width))?;
        }
        let mut k = writer.linear(&path("k_proj"), x, project(key_value_width))?;
        if self.qk_norm == QkNorm::AfterEach {
            k = writer.rms_norm(&path("k_norm"), &k, head_norm(key_value_width))?;
        }
        let v = writer.linear(&path("v_proj"), x, project(key_value_width))?;
        if self.qk_norm == QkNorm::AfterAll {
            q = writer.rms_norm(&path("q_norm"), &q, head_norm(query_width))?;
            k = writer.rms_norm(&path("k_norm"), &k, head_norm(key_value_width))?;
        }
        let [cos, sin] = rotated;
        let turned = writer.node(
            &path("rope"),
            "rope",
            &[&q, &k, cos, sin],
            &[query_width, key_value_width],
            &[],
            attrs([("head_dim", json!(dim))]),
        );
        let attributes =
            attention_attrs(self.heads, self.attention_scale, self.windows.of(index), self.attention_softcap);
        let inputs = [turned[0].as_str(), turned[1].as_str(), v.as_str()];
        let y = writer.function(&path("attn"), "attention", &inputs, query_width, attributes);
        writer.linear(&path("o_proj"), &y, Linear::new(query_width, self.hidden_size, self.biases.attention_output))
    }

    fn mlp(&self, writer: &mut Writer<'_>, mlp: &str, x: &str) -> Result<String, BuildError> {
        let (width, inner) = (self.hidden_size, self.intermediate_size);
        let path = |name: &str| format!("{mlp}.{name}");
        let shape = Linear::new(width, inner, self.biases.mlp);
        let act_fn = path("act_fn");
        let mut gate = writer.linear(&path("gate_proj"), x, shape)?;
        // Where no kind does both, activation and product are two nodes.
        let gated_kind = self.activation.gated_kind();
        if gated_kind.is_none() {
            gate = writer.activation(&act_fn, self.activation, &gate, inner);
        }
        let up = writer.linear(&path("up_proj"), x, shape)?;
        let y = match gated_kind {
            Some(kind) => writer.function(&act_fn, kind, &[&gate, &up], inner, self.activation.attrs()),
            None => writer.function(&path("mul"), "mul", &[&gate, &up], inner, Attrs::new()),
        };
        writer.linear(&path("down_proj"), &y, Linear::new(inner, width, self.biases.mlp))
    }
}

/// The rotary embeddings' values, each written when the first layer needs it.
#[derive(Default)]
struct Rotated {
    full: Option<[String; 2]>,
    sliding: Option<[String; 2]>,
}

impl Rotated {
    fn of(&mut self, decoder: &Decoder, writer: &mut Writer<'_>, layer: usize) -> [String; 2] {
        // transformers has one module for both of gemma3's embeddings; a graph needs a path for each.
        let (slot, name, attrs) = match &decoder.rotary {
            Rotaries::ByLayerType { sliding, .. } if decoder.windows.slides(layer) => {
                (&mut self.sliding, "rotary_emb_local", sliding)
            }
            Rotaries::Shared(attrs) | Rotaries::ByLayerType { full: attrs, .. } => {
                (&mut self.full, "rotary_emb", attrs)
            }
        };
        slot.get_or_insert_with(|| {
            let path = writer.path(name);
            let width = decoder.heads.dim;
            writer.node(&path, "rotary_embedding", &[POSITION_IDS], &[width, width], &[], attrs.clone());
            [path.clone(), format!("{path}:1")]
        })
        .clone()
    }
}

pub(super) fn attention_attrs(heads: Heads, scale: f64, window: Option<u64>, softcap: Option<f64>) -> Attrs {
    let mut attributes = attrs([
        ("num_heads", json!(heads.query)),
        ("num_key_value_heads", json!(heads.key_value)),
        ("head_dim", json!(heads.dim)),
        ("scale", json!(scale)),
        ("causal", json!(true)),
    ]);
    if let Some(window) = window {
        attributes.insert("sliding_window".to_owned(), json!(window));
    }
    if let Some(cap) = softcap {
        attributes.insert("logit_softcap".to_owned(), json!(cap));
    }
    attributes
}

/// 1 / sqrt(head_dim), computed as Python computes `head_dim ** -0.5`.
pub(super) fn inverse_root(size: f64) -> f64 {
    size.powf(-0.5)
}

/// Reads the number of layers, and holds it against the file before anything is made for each.
pub(super) fn layers(fields: &Fields<'_>, name: &str, default: u64, writer: &Writer<'_>) -> Result<u64, BuildError> {
    let layers = fields.size(name, default)?;
    writer.tensors.check_layers(fields.place(name), layers)?;
    Ok(layers)
}

/// Reads the heads: `num_key_value_heads` divides `num_attention_heads`, and their widths fit 64 bits.
pub(super) fn heads(
    fields: &Fields<'_>,
    hidden_size: u64,
    [default_query, default_key_value]: [u64; 2],
    default_dim: Option<u64>,
) -> Result<Heads, BuildError> {
    let query = fields.size("num_attention_heads", default_query)?;
    let key_value = fields.optional_size("num_key_value_heads", Some(default_key_value))?.unwrap_or(query);
    let dim = match fields.optional_size("head_dim", default_dim)? {
        Some(dim) => dim,
        None => per_head(fields, "num_attention_heads", hidden_size, query)?,
    };
    fields.product("head_dim", dim, query)?;
    if !query.is_multiple_of(key_value) {
        let expected = format!("a divisor of num_attention_heads ({query})");
        return Err(fields.wrong("num_key_value_heads", expected, &json!(key_value)));
    }
    Ok(Heads { query, key_value, dim })
}

/// hidden_size / heads, where that comes out even.
pub(super) fn per_head(fields: &Fields<'_>, name: &str, hidden_size: u64, heads: u64) -> Result<u64, BuildError> {
    if !hidden_size.is_multiple_of(heads) {
        return Err(fields.wrong(name, format!("a divisor of the hidden size ({hidden_size})"), &json!(heads)));
    }
    Ok(hidden_size / heads)
}

/// Reads `layer_types`, one word for each layer; `pattern` says whether a layer slides where the field is missing.
pub(super) fn sliding_layers(
    fields: &Fields<'_>,
    layers: u64,
    pattern: impl Fn(u64) -> bool,
) -> Result<Vec<bool>, BuildError> {
    if !fields.states("layer_types") {
        return Ok((0..layers).map(pattern).collect());
    }
    let value = fields.get("layer_types").unwrap_or(&serde_json::Value::Null);
    let list = value
        .as_array()
        .filter(|list| list.len() as u64 == layers)
        .ok_or_else(|| fields.wrong("layer_types", format!("a list of {layers} words, one for each layer"), value))?;
    list.iter()
        .map(|word| match word.as_str() {
            Some(word) if word == LAYER_TYPES[0] => Ok(false),
            Some(word) if word == LAYER_TYPES[1] => Ok(true),
            _ => {
                let next = "the builders know full_attention and sliding_attention";
                Err(fields.unsupported("layer_types", super::error::printable(&word.to_string()), next))
            }
        })
        .collect()
}

/// Reads the activation under `name`.
pub(super) fn activation(fields: &Fields<'_>, name: &str, default: &'static str) -> Result<Activation, BuildError> {
    let stated = fields.text(name, default)?;
    Activation::of(stated).ok_or_else(|| {
        let next = format!("a graph can express {}", super::activation::NAMES);
        fields.unsupported(name, super::error::printable(stated), next)
    })
}

/// Refuses attention in both directions, which embedding models made of decoders have.
pub(super) fn check_causal(fields: &Fields<'_>) -> Result<(), BuildError> {
    if fields.flag("use_bidirectional_attention", false)? {
        let next = "the builders write causal language models";
        return Err(fields.unsupported("use_bidirectional_attention", "true", next));
    }
    Ok(())
}
