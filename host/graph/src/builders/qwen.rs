//! qwen2 (biases on q, k and v) and qwen3 (a norm on each head of q and k in their place). Qwen team 2024, 2025. Defaults
//! are those of transformers' `Qwen2Config` and `Qwen3Config`.

use super::{
    config::Fields,
    decoder::{self, Biases, Decoder, QkNorm, Rotaries, Windows},
    error::BuildError,
    rope::Rotary,
    writer::Writer,
};

pub(super) fn build_qwen2(fields: &Fields<'_>, writer: &mut Writer<'_>) -> Result<String, BuildError> {
    let biases = Biases { qkv: true, ..Biases::default() };
    build(fields, writer, None, biases, QkNorm::None)
}

pub(super) fn build_qwen3(fields: &Fields<'_>, writer: &mut Writer<'_>) -> Result<String, BuildError> {
    let attention_bias = fields.flag("attention_bias", false)?;
    let biases = Biases { qkv: attention_bias, attention_output: attention_bias, mlp: false };
    build(fields, writer, Some(128), biases, QkNorm::AfterEach)
}

fn build(
    fields: &Fields<'_>,
    writer: &mut Writer<'_>,
    default_head_dim: Option<u64>,
    biases: Biases,
    qk_norm: QkNorm,
) -> Result<String, BuildError> {
    let hidden_size = fields.size("hidden_size", 4096)?;
    let heads = decoder::heads(fields, hidden_size, [32, 32], default_head_dim)?;
    let layers = decoder::layers(fields, "num_hidden_layers", 32, writer)?;
    let rotary = Rotary {
        fields: fields.clone(),
        head_dim: heads.dim,
        max_position_embeddings: fields.size("max_position_embeddings", 32_768)?,
    };
    let decoder = Decoder {
        root: "model.",
        vocab_size: fields.size("vocab_size", 151_936)?,
        hidden_size,
        intermediate_size: fields.size("intermediate_size", 22_016)?,
        layers,
        heads,
        eps: fields.epsilon("rms_norm_eps", 1e-6)?,
        unit_offset: false,
        embedding_scale: None,
        biases,
        qk_norm,
        norms_around: false,
        activation: decoder::activation(fields, "hidden_act", "silu")?,
        attention_scale: decoder::inverse_root(heads.dim as f64),
        attention_softcap: None,
        logits_softcap: None,
        windows: windows(fields, layers)?,
        rotary: Rotaries::Shared(rotary.shared()?),
        tied: fields.flag("tie_word_embeddings", false)?,
    };
    decoder.write(writer)
}

/// A window counts only where `use_sliding_window` is set; then the layers from `max_window_layers` on have it, unless
/// `layer_types` says otherwise.
fn windows(fields: &Fields<'_>, layers: u64) -> Result<Windows, BuildError> {
    let stated = fields.optional_size("sliding_window", Some(4096))?;
    let used = fields.flag("use_sliding_window", false)?;
    let window = stated.filter(|_| used);
    // 0 is allowed here: then every layer slides.
    let first = match fields.get("max_window_layers") {
        Some(value) => {
            value.as_u64().ok_or_else(|| fields.wrong("max_window_layers", "a whole number of at least 0", value))?
        }
        None => 28,
    };
    let sliding = decoder::sliding_layers(fields, layers, |layer| window.is_some() && layer >= first)?;
    Ok(Windows::PerLayer { sliding, window })
}
