//! gpt2: learned positions, q, k and v from one matrix, weights stored as [in, out]. Radford et al. 2019. Defaults are
//! those of transformers' `GPT2Config`.

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

/// The original release is the model without its head, and so without the prefix.
const PREFIXES: [Prefix; 2] = [Prefix { body: "transformer.", head: "" }, Prefix { body: "", head: "" }];

struct Gpt2 {
    width: u64,
    inner: u64,
    heads: Heads,
    eps: f64,
    activation: Activation,
    dropout: f64,
    scale_by_root: bool,
    scale_by_layer: bool,
}

pub(super) fn build(fields: &Fields<'_>, writer: &mut Writer<'_>) -> Result<String, BuildError> {
    let width_field = named(fields, "n_embd", "hidden_size");
    let width = fields.size(width_field, 768)?;
    let heads_field = named(fields, "n_head", "num_attention_heads");
    let query = fields.size(heads_field, 12)?;
    let dim = decoder::per_head(fields, heads_field, width, query)?;
    fields.product(width_field, width, 3)?;
    if fields.flag("add_cross_attention", false)? {
        let next = "the builders write decoders that stand alone";
        return Err(fields.unsupported("add_cross_attention", "true", next));
    }
    let inner = match fields.optional_size("n_inner", None)? {
        Some(inner) => inner,
        None => fields.product(width_field, width, 4)?,
    };
    let gpt2 = Gpt2 {
        width,
        inner,
        heads: Heads { query, key_value: query, dim },
        eps: fields.epsilon("layer_norm_epsilon", 1e-5)?,
        activation: decoder::activation(fields, "activation_function", "gelu_new")?,
        dropout: fields.chance("resid_pdrop", 0.1)?,
        scale_by_root: fields.flag("scale_attn_weights", true)?,
        scale_by_layer: fields.flag("scale_attn_by_inverse_layer_idx", false)?,
    };
    let vocab = fields.size("vocab_size", 50_257)?;
    let positions = fields.size(named(fields, "n_positions", "max_position_embeddings"), 1024)?;
    let embedding_dropout = fields.chance("embd_pdrop", 0.1)?;
    let layers = decoder::layers(fields, named(fields, "n_layer", "num_hidden_layers"), 12, writer)?;
    let tied = fields.flag("tie_word_embeddings", true)?;
    if fields.chance("attn_pdrop", 0.1)? > 0.0 {
        writer.notes.push("config has attn_pdrop above 0, which the graph leaves out".to_owned());
    }

    writer.set_root("transformer.", &PREFIXES, &["wte.weight", "wpe.weight"]);
    let path = |name: &str| format!("transformer.{name}");
    let wte = path("wte");
    let token = writer.embedding(&wte, INPUT_IDS, [vocab, width], Attrs::new())?;
    let position = writer.embedding(&path("wpe"), POSITION_IDS, [positions, width], Attrs::new())?;
    let x = writer.add(&path("add_positions"), &token, &position, width);
    let mut x = writer.dropout(&path("drop"), x, embedding_dropout, width);
    for layer in 0..layers {
        x = gpt2.layer(writer, layer, &path(&format!("h.{layer}")), &x)?;
    }
    x = writer.layer_norm(&path("ln_f"), &x, width, gpt2.eps)?;
    writer.lm_head(&x, &wte, [vocab, width], tied)
}

/// transformers takes either name.
fn named<'n>(fields: &Fields<'_>, own: &'n str, common: &'n str) -> &'n str {
    if !fields.states(own) && fields.states(common) { common } else { own }
}

impl Gpt2 {
    fn layer(&self, writer: &mut Writer<'_>, index: u64, layer: &str, x: &str) -> Result<String, BuildError> {
        let width = self.width;
        let path = |name: &str| format!("{layer}.{name}");
        let normed = writer.layer_norm(&path("ln_1"), x, width, self.eps)?;
        let attended = self.attention(writer, index, &path("attn"), &normed)?;
        let x = writer.add(&path("add_attn"), x, &attended, width);
        let normed = writer.layer_norm(&path("ln_2"), &x, width, self.eps)?;
        let inner = writer.linear(&path("mlp.c_fc"), &normed, stored_in_out(width, self.inner))?;
        let inner = writer.activation(&path("mlp.act"), self.activation, &inner, self.inner);
        let mixed = writer.linear(&path("mlp.c_proj"), &inner, stored_in_out(self.inner, width))?;
        let mixed = writer.dropout(&path("mlp.dropout"), mixed, self.dropout, width);
        Ok(writer.add(&path("add_mlp"), &x, &mixed, width))
    }

    fn attention(&self, writer: &mut Writer<'_>, index: u64, attention: &str, x: &str) -> Result<String, BuildError> {
        let width = self.width;
        let path = |name: &str| format!("{attention}.{name}");
        // 3 * width was checked.
        let joined = writer.linear(&path("c_attn"), x, stored_in_out(width, 3 * width))?;
        let sizes = attrs([("sizes", json!([width, width, width]))]);
        let qkv = writer.node(&path("split"), "split", &[&joined], &[width; 3], &[], sizes);
        let mut scale = if self.scale_by_root { decoder::inverse_root(self.heads.dim as f64) } else { 1.0 };
        if self.scale_by_layer {
            scale /= (index + 1) as f64;
        }
        let inputs: Vec<&str> = qkv.iter().map(String::as_str).collect();
        let attributes = decoder::attention_attrs(self.heads, scale, None, None);
        let y = writer.function(&path("attn"), "attention", &inputs, width, attributes);
        let y = writer.linear(&path("c_proj"), &y, stored_in_out(width, width))?;
        Ok(writer.dropout(&path("resid_dropout"), y, self.dropout, width))
    }
}

/// `Conv1D` is a linear layer whose weight is stored transposed.
fn stored_in_out(inputs: u64, outputs: u64) -> Linear {
    Linear { transposed: true, ..Linear::new(inputs, outputs, true) }
}

/// The causal masks that early releases carry in every layer.
pub(super) fn is_buffer(name: &str) -> bool {
    name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")
}
