//! llama (Llama 1 to 3, SmolLM, TinyLlama, …): Touvron et al. 2023. Defaults are those of transformers' `LlamaConfig`.

use super::{
    config::Fields,
    decoder::{self, Biases, Decoder, QkNorm, Rotaries, Windows},
    error::BuildError,
    rope::Rotary,
    writer::Writer,
};

pub(super) fn build(fields: &Fields<'_>, writer: &mut Writer<'_>) -> Result<String, BuildError> {
    let hidden_size = fields.size("hidden_size", 4096)?;
    let query_heads = fields.size("num_attention_heads", 32)?;
    let heads = decoder::heads(fields, hidden_size, [32, query_heads], None)?;
    let attention_bias = fields.flag("attention_bias", false)?;
    let rotary = Rotary {
        fields: fields.clone(),
        head_dim: heads.dim,
        max_position_embeddings: fields.size("max_position_embeddings", 2048)?,
    };
    let decoder = Decoder {
        root: "model.",
        vocab_size: fields.size("vocab_size", 32_000)?,
        hidden_size,
        intermediate_size: fields.size("intermediate_size", 11_008)?,
        layers: decoder::layers(fields, "num_hidden_layers", 32, writer)?,
        heads,
        eps: fields.epsilon("rms_norm_eps", 1e-6)?,
        unit_offset: false,
        embedding_scale: None,
        biases: Biases { qkv: attention_bias, attention_output: attention_bias, mlp: fields.flag("mlp_bias", false)? },
        qk_norm: QkNorm::None,
        norms_around: false,
        activation: decoder::activation(fields, "hidden_act", "silu")?,
        attention_scale: decoder::inverse_root(heads.dim as f64),
        attention_softcap: None,
        logits_softcap: None,
        windows: Windows::Same(None),
        rotary: Rotaries::Shared(rotary.shared()?),
        tied: fields.flag("tie_word_embeddings", false)?,
    };
    decoder.write(writer)
}
