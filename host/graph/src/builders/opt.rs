//! opt: learned positions, layer norms, biases, an ungated MLP. Zhang et al. 2022. Defaults are those of transformers'
//! `OPTConfig`.
//!
//! transformers multiplies q by the attention's scale before the product where the graph states the scale as the
//! attention's own: the same mathematics, another rounding.

use serde_json::json;
use unswag_abi::doc::Attrs;

use super::{
    activation::Activation,
    config::Fields,
    decoder::{self, Heads},
    error::BuildError,
    tensors::Prefix,
    writer::{INPUT_IDS, Linear, POSITION_IDS, Writer, attrs},
};

/// Checkpoints of the model, of the model without its head, and of the decoder alone.
const PREFIXES: [Prefix; 3] =
    [Prefix { body: "model.decoder.", head: "" }, Prefix { body: "decoder.", head: "" }, Prefix { body: "", head: "" }];

/// torch's default, which OPT does not make a field of.
const EPS: f64 = 1e-5;

/// Rows of the position table that no position uses; position 0 is row 2.
const POSITION_OFFSET: u64 = 2;

struct Opt {
    width: u64,
    inner: u64,
    heads: Heads,
    norm_before: bool,
    bias: bool,
    activation: Activation,
    dropout: f64,
}

pub(super) fn build(fields: &Fields<'_>, writer: &mut Writer<'_>) -> Result<String, BuildError> {
    let width = fields.size("hidden_size", 768)?;
    let query = fields.size("num_attention_heads", 12)?;
    let dim = decoder::per_head(fields, "num_attention_heads", width, query)?;
    if !fields.flag("layer_norm_elementwise_affine", true)? {
        let next = "the builder writes layer norms with weight and bias";
        return Err(fields.unsupported("layer_norm_elementwise_affine", "false", next));
    }
    let opt = Opt {
        width,
        inner: fields.size("ffn_dim", 3072)?,
        heads: Heads { query, key_value: query, dim },
        norm_before: fields.flag("do_layer_norm_before", true)?,
        bias: fields.flag("enable_bias", true)?,
        activation: decoder::activation(fields, "activation_function", "relu")?,
        dropout: fields.chance("dropout", 0.1)?,
    };
    let vocab = fields.size("vocab_size", 50_272)?;
    let positions = fields.size("max_position_embeddings", 2048)?;
    let positions = positions
        .checked_add(POSITION_OFFSET)
        .ok_or_else(|| fields.wrong("max_position_embeddings", "a size that fits the model", &json!(positions)))?;
    let embedded = fields.optional_size("word_embed_proj_dim", None)?.unwrap_or(width);
    let layers = decoder::layers(fields, "num_hidden_layers", 12, writer)?;
    let final_norm = opt.norm_before && !fields.flag("_remove_final_layer_norm", false)?;
    let tied = fields.flag("tie_word_embeddings", true)?;
    if fields.chance("attention_dropout", 0.0)? > 0.0 {
        writer.notes.push("config states attention_dropout, which the graph leaves out".to_owned());
    }

    writer.set_root("model.decoder.", &PREFIXES, &["embed_tokens.weight", "embed_positions.weight"]);
    let path = |name: &str| format!("model.decoder.{name}");
    let embed_tokens = path("embed_tokens");
    let mut x = writer.embedding(&embed_tokens, INPUT_IDS, [vocab, embedded], Attrs::new())?;
    let offset = attrs([("offset", json!(POSITION_OFFSET))]);
    let position = writer.embedding(&path("embed_positions"), POSITION_IDS, [positions, width], offset)?;
    if embedded != width {
        x = writer.linear(&path("project_in"), &x, Linear::new(embedded, width, false))?;
    }
    x = writer.add(&path("add_positions"), &x, &position, width);
    for layer in 0..layers {
        x = opt.layer(writer, &path(&format!("layers.{layer}")), x)?;
    }
    if final_norm {
        x = writer.layer_norm(&path("final_layer_norm"), &x, width, EPS)?;
    }
    if embedded != width {
        x = writer.linear(&path("project_out"), &x, Linear::new(width, embedded, false))?;
    }
    writer.lm_head(&x, &embed_tokens, [vocab, embedded], tied)
}

impl Opt {
    fn layer(&self, writer: &mut Writer<'_>, layer: &str, x: String) -> Result<String, BuildError> {
        let width = self.width;
        let path = |name: &str| format!("{layer}.{name}");

        let (attention_norm, mlp_norm) = (path("self_attn_layer_norm"), path("final_layer_norm"));
        let mut normed = x.clone();
        if self.norm_before {
            normed = writer.layer_norm(&attention_norm, &normed, width, EPS)?;
        }
        let attended = self.attention(writer, &path("self_attn"), &normed)?;
        let attended = writer.dropout(&path("dropout_attn"), attended, self.dropout, width);
        let mut x = writer.add(&path("add_attn"), &x, &attended, width);
        if !self.norm_before {
            x = writer.layer_norm(&attention_norm, &x, width, EPS)?;
        }

        let mut normed = x.clone();
        if self.norm_before {
            normed = writer.layer_norm(&mlp_norm, &normed, width, EPS)?;
        }
        let inner = writer.linear(&path("fc1"), &normed, Linear::new(width, self.inner, self.bias))?;
        let inner = writer.activation(&path("activation_fn"), self.activation, &inner, self.inner);
        let mixed = writer.linear(&path("fc2"), &inner, Linear::new(self.inner, width, self.bias))?;
        let mixed = writer.dropout(&path("dropout_mlp"), mixed, self.dropout, width);
        let mut x = writer.add(&path("add_mlp"), &x, &mixed, width);
        if !self.norm_before {
            x = writer.layer_norm(&mlp_norm, &x, width, EPS)?;
        }
        Ok(x)
    }

    fn attention(&self, writer: &mut Writer<'_>, attention: &str, x: &str) -> Result<String, BuildError> {
        let width = self.width;
        let path = |name: &str| format!("{attention}.{name}");
        let shape = Linear::new(width, width, self.bias);
        let q = writer.linear(&path("q_proj"), x, shape)?;
        let k = writer.linear(&path("k_proj"), x, shape)?;
        let v = writer.linear(&path("v_proj"), x, shape)?;
        let scale = decoder::inverse_root(self.heads.dim as f64);
        let attributes = decoder::attention_attrs(self.heads, scale, None, None);
        let y = writer.function(&path("attn"), "attention", &[&q, &k, &v], width, attributes);
        writer.linear(&path("out_proj"), &y, shape)
    }
}

/// A version mark that early releases carry.
pub(super) fn is_buffer(name: &str) -> bool {
    name.ends_with("decoder.version")
}
