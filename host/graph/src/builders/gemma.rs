//! gemma, gemma2 and gemma3 (text). Gemma team 2024, 2025. Norms multiply by 1 + weight, the embedding is scaled by
//! sqrt(hidden_size), and the output matrix is the embedding. gemma2 adds norms behind attention and MLP, a window in every
//! second layer and soft caps; gemma3 drops the caps, normalises q and k, and gives layers with a window other rotary
//! frequencies. Defaults are those of transformers' `GemmaConfig`, `Gemma2Config` and `Gemma3TextConfig`.

use super::{
    activation::Activation,
    config::Fields,
    decoder::{self, Biases, Decoder, Heads, QkNorm, Rotaries, Windows},
    error::BuildError,
    rope::Rotary,
    writer::Writer,
};

pub(super) fn build_gemma(fields: &Fields<'_>, writer: &mut Writer<'_>) -> Result<String, BuildError> {
    let common = Common::read(
        fields,
        writer,
        Defaults { hidden: 3072, inner: 24_576, layers: 28, heads: [16, 16], vocab: 256_000 },
    )?;
    // The first release said "gelu" and meant its tanh form; transformers corrects that, and so must a reader.
    let activation = match decoder::activation(fields, "hidden_act", "gelu_pytorch_tanh")? {
        Activation::Gelu => Activation::GeluTanh,
        other => other,
    };
    let rotary = common.rotary(fields, 8192)?.shared()?;
    let scale = decoder::inverse_root(common.heads.dim as f64);
    let decoder = common.decoder(activation, scale, Rotaries::Shared(rotary));
    decoder.write(writer)
}

pub(super) fn build_gemma2(fields: &Fields<'_>, writer: &mut Writer<'_>) -> Result<String, BuildError> {
    let common = Common::read(
        fields,
        writer,
        Defaults { hidden: 2304, inner: 9216, layers: 26, heads: [8, 4], vocab: 256_000 },
    )?;
    let layers = common.layers;
    let activation = decoder::activation(fields, "hidden_activation", "gelu_pytorch_tanh")?;
    let rotary = common.rotary(fields, 8192)?.shared()?;
    let decoder = Decoder {
        norms_around: true,
        attention_softcap: fields.optional_positive("attn_logit_softcapping", Some(50.0))?,
        logits_softcap: fields.optional_positive("final_logit_softcapping", Some(30.0))?,
        windows: Windows::PerLayer {
            sliding: decoder::sliding_layers(fields, layers, |layer| layer.is_multiple_of(2))?,
            window: fields.optional_size("sliding_window", Some(4096))?,
        },
        ..common.decoder(activation, query_scale(fields)?, Rotaries::Shared(rotary))
    };
    decoder.write(writer)
}

pub(super) fn build_gemma3_text(fields: &Fields<'_>, writer: &mut Writer<'_>) -> Result<String, BuildError> {
    let tied = fields.flag("tie_word_embeddings", true)?;
    build_gemma3(fields, writer, "model.", tied)
}

/// The decoder inside a multimodal checkpoint; its image tensors stay unclaimed.
pub(super) fn build_gemma3_multimodal(fields: &Fields<'_>, writer: &mut Writer<'_>) -> Result<String, BuildError> {
    let tied = fields.flag("tie_word_embeddings", true)?;
    build_gemma3(&fields.nested("text_config")?, writer, decoder::MULTIMODAL_ROOT, tied)
}

fn build_gemma3(
    fields: &Fields<'_>,
    writer: &mut Writer<'_>,
    root: &'static str,
    tied: bool,
) -> Result<String, BuildError> {
    let common = Common::read(
        fields,
        writer,
        Defaults { hidden: 2304, inner: 9216, layers: 26, heads: [8, 4], vocab: 262_208 },
    )?;
    let layers = common.layers;
    let activation = decoder::activation(fields, "hidden_activation", "gelu_pytorch_tanh")?;
    let rotary = common.rotary(fields, 131_072)?;
    let rotary = Rotaries::ByLayerType { full: rotary.full_attention()?, sliding: rotary.sliding_attention()? };
    let pattern = fields.size("sliding_window_pattern", 6)?;
    if fields.optional_positive("attn_logit_softcapping", None)?.is_some() {
        writer.notes.push("config states attn_logit_softcapping, which gemma3's attention does not apply".to_owned());
    }
    let decoder = Decoder {
        root,
        tied,
        norms_around: true,
        qk_norm: QkNorm::AfterAll,
        logits_softcap: fields.optional_positive("final_logit_softcapping", None)?,
        windows: Windows::PerLayer {
            // Layers are counted from 1: with a pattern of 6, the sixth sees everything.
            sliding: decoder::sliding_layers(fields, layers, |layer| !(layer + 1).is_multiple_of(pattern))?,
            window: fields.optional_size("sliding_window", Some(4096))?,
        },
        ..common.decoder(activation, query_scale(fields)?, rotary)
    };
    decoder.write(writer)
}

/// gemma2 and gemma3 fix the attention's scale in the config, apart from head_dim.
fn query_scale(fields: &Fields<'_>) -> Result<f64, BuildError> {
    Ok(decoder::inverse_root(fields.positive("query_pre_attn_scalar", 256.0)?))
}

struct Defaults {
    hidden: u64,
    inner: u64,
    layers: u64,
    heads: [u64; 2],
    vocab: u64,
}

/// What the three read alike.
struct Common {
    vocab_size: u64,
    hidden_size: u64,
    intermediate_size: u64,
    layers: u64,
    heads: Heads,
    eps: f64,
    attention_bias: bool,
    tied: bool,
}

impl Common {
    fn read(fields: &Fields<'_>, writer: &Writer<'_>, defaults: Defaults) -> Result<Self, BuildError> {
        decoder::check_causal(fields)?;
        let hidden_size = fields.size("hidden_size", defaults.hidden)?;
        Ok(Common {
            vocab_size: fields.size("vocab_size", defaults.vocab)?,
            hidden_size,
            intermediate_size: fields.size("intermediate_size", defaults.inner)?,
            layers: decoder::layers(fields, "num_hidden_layers", defaults.layers, writer)?,
            heads: decoder::heads(fields, hidden_size, defaults.heads, Some(256))?,
            eps: fields.epsilon("rms_norm_eps", 1e-6)?,
            attention_bias: fields.flag("attention_bias", false)?,
            tied: fields.flag("tie_word_embeddings", true)?,
        })
    }

    fn rotary<'a>(&self, fields: &Fields<'a>, default_positions: u64) -> Result<Rotary<'a>, BuildError> {
        Ok(Rotary {
            fields: fields.clone(),
            head_dim: self.heads.dim,
            max_position_embeddings: fields.size("max_position_embeddings", default_positions)?,
        })
    }

    /// gemma's decoder; the later ones change what they have more of.
    fn decoder(self, activation: Activation, attention_scale: f64, rotary: Rotaries) -> Decoder {
        Decoder {
            root: "model.",
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            layers: self.layers,
            heads: self.heads,
            eps: self.eps,
            unit_offset: true,
            embedding_scale: Some((self.hidden_size as f64).sqrt()),
            biases: Biases { qkv: self.attention_bias, attention_output: self.attention_bias, mlp: false },
            qk_norm: QkNorm::None,
            norms_around: false,
            activation,
            attention_scale,
            attention_softcap: None,
            logits_softcap: None,
            windows: Windows::Same(None),
            rotary,
            tied: self.tied,
        }
    }
}
