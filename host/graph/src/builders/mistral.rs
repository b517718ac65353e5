//! mistral: llama's layers with a sliding window in each of them. Jiang et al. 2023. Defaults are those of transformers'
//! `MistralConfig`, whose window is 4096 where the config says nothing, and none where it says `null`.

use super::{
    config::Fields,
    decoder::{self, Biases, Decoder, QkNorm, Rotaries, Windows},
    error::BuildError,
    rope::Rotary,
    writer::Writer,
};

pub(super) fn build(fields: &Fields<'_>, writer: &mut Writer<'_>) -> Result<String, BuildError> {
    let hidden_size = fields.size("hidden_size", 4096)?;
    let heads = decoder::heads(fields, hidden_size, [32, 8], None)?;
    let rotary = Rotary {
        fields: fields.clone(),
        head_dim: heads.dim,
        max_position_embeddings: fields.size("max_position_embeddings", 131_072)?,
    };
    let decoder = Decoder {
        root: "model.",
        vocab_size: fields.size("vocab_size", 32_000)?,
        hidden_size,
        intermediate_size: fields.size("intermediate_size", 14_336)?,
        layers: decoder::layers(fields, "num_hidden_layers", 32, writer)?,
        heads,
        eps: fields.epsilon("rms_norm_eps", 1e-6)?,
        unit_offset: false,
        embedding_scale: None,
        biases: Biases::default(),
        qk_norm: QkNorm::None,
        norms_around: false,
        activation: decoder::activation(fields, "hidden_act", "silu")?,
        attention_scale: decoder::inverse_root(heads.dim as f64),
        attention_softcap: None,
        logits_softcap: None,
        windows: Windows::Same(fields.optional_size("sliding_window", Some(4096))?),
        rotary: Rotaries::Shared(rotary.shared()?),
        tied: fields.flag("tie_word_embeddings", false)?,
    };
    decoder.write(writer)
}
