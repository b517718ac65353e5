//! `config.json` and `generation_config.json` from the metadata.
//!
//! The fields are those that transformers' own GGUF loader derives, and those that it leaves at a default which need
//! not be this model's: head sizes, rotary scaling, Gemma's soft caps and attention scale. What llama.cpp hard-codes per
//! architecture is stated here with its source. Numbers the file has as f32 are written with the fewest digits that
//! give the same f32 back, so 1e-5 is `1e-5`.

use serde_json::{Map, Value as Json, json};

use super::arch::{Family, ROPE_FREQS, Sizes};
use super::error::{GgufError, Problem};
use super::metadata::Metadata;

/// llama.cpp's value where a file states none.
const DEFAULT_ROPE_THETA: f32 = 10_000.0;

/// How rotary positions are stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum RopeScaling {
    None,
    Linear {
        factor: f32,
    },
    Yarn {
        factor: f32,
        original_context: u64,
    },
    /// Llama 3.1's: frequencies below a wavelength are divided by `factor`, those above another kept.
    Llama3 {
        factor: f32,
        original_context: u64,
    },
}

/// Token ids that config.json repeats from the tokenizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TokenIds {
    pub bos: Option<u64>,
    pub eos: Option<u64>,
    pub pad: Option<u64>,
}

/// `config.json`. `dtype` is transformers' name of the weights' element type.
pub(super) fn config_json(
    meta: &Metadata<'_, '_>,
    sizes: &Sizes,
    scaling: RopeScaling,
    ids: TokenIds,
    dtype: &str,
) -> Result<Json, GgufError> {
    let mut config = Map::new();
    let mut set = |key: &str, value: Json| {
        config.insert(key.to_owned(), value);
    };
    set("model_type", json!(sizes.family.model_type()));
    set("architectures", json!([class_name(sizes.family)]));
    set("torch_dtype", json!(dtype));
    set("vocab_size", json!(sizes.vocab));
    set("tie_word_embeddings", json!(sizes.tied));
    set("use_cache", json!(true));
    set("bos_token_id", json!(ids.bos));
    set("eos_token_id", json!(ids.eos));
    if ids.pad.is_some() {
        set("pad_token_id", json!(ids.pad));
    }

    if sizes.family == Family::Gpt2 {
        set("n_embd", json!(sizes.hidden));
        set("n_layer", json!(sizes.layers));
        set("n_head", json!(sizes.heads));
        set("n_positions", json!(sizes.context));
        set("n_ctx", json!(sizes.context));
        set("n_inner", json!(sizes.intermediate));
        set("layer_norm_epsilon", number(needed_f32(meta, ".attention.layer_norm_epsilon")?));
        set("activation_function", json!("gelu_new"));
        if sizes.kv_heads != sizes.heads || sizes.head_dim * sizes.heads != sizes.hidden {
            let expected = format!("{} heads that divide {}", sizes.heads, sizes.hidden);
            return Err(meta.wrong(".attention.head_count", expected, sizes.kv_heads));
        }
        return Ok(config.into());
    }

    set("hidden_size", json!(sizes.hidden));
    set("intermediate_size", json!(sizes.intermediate));
    set("num_hidden_layers", json!(sizes.layers));
    set("num_attention_heads", json!(sizes.heads));
    set("num_key_value_heads", json!(sizes.kv_heads));
    set("head_dim", json!(sizes.head_dim));
    set("max_position_embeddings", json!(sizes.context));
    set("rms_norm_eps", number(needed_f32(meta, ".attention.layer_norm_rms_epsilon")?));
    set("rope_theta", number(rope_theta(meta)?));
    set("rope_scaling", rope_scaling_json(scaling));
    set("attention_dropout", json!(0.0));
    // Some writers say 0 for none.
    let window = meta.u64(".attention.sliding_window")?.filter(|&window| window > 0);
    match sizes.family {
        Family::Llama => {
            set("hidden_act", json!("silu"));
            set("attention_bias", json!(sizes.attention_bias));
            set("mlp_bias", json!(sizes.mlp_bias));
        }
        Family::Mistral => {
            set("hidden_act", json!("silu"));
            set("sliding_window", json!(window));
        }
        Family::Qwen2 | Family::Qwen3 => {
            set("hidden_act", json!("silu"));
            set("use_sliding_window", json!(false));
            if sizes.family == Family::Qwen3 {
                set("attention_bias", json!(false));
            }
        }
        Family::Gemma | Family::Gemma2 | Family::Gemma3 => {
            set("hidden_activation", json!("gelu_pytorch_tanh"));
            set("attention_bias", json!(false));
            if sizes.family == Family::Gemma {
                set("hidden_act", json!("gelu_pytorch_tanh"));
            } else {
                let window = window.ok_or_else(|| {
                    meta.missing(".attention.sliding_window", "convert the model again with a current llama.cpp")
                })?;
                set("sliding_window", json!(window));
                set("query_pre_attn_scalar", json!(query_pre_attn_scalar(sizes)));
            }
            if sizes.family == Family::Gemma2 {
                // llama.cpp's defaults for files from before it stored them.
                let attention = meta.f32(".attn_logit_softcapping")?.unwrap_or(50.0);
                let last = meta.f32(".final_logit_softcapping")?.unwrap_or(30.0);
                set("attn_logit_softcapping", number(attention));
                set("final_logit_softcapping", number(last));
            }
            if sizes.family == Family::Gemma3 {
                // Five local layers for each global one, and the local ones' theta: hard-coded in llama.cpp's loader.
                set("sliding_window_pattern", json!(6));
                set("rope_local_base_freq", number(meta.f32(".rope.freq_base_swa")?.unwrap_or(10_000.0)));
                set("attn_logit_softcapping", json!(meta.f32(".attn_logit_softcapping")?.map(number)));
                set("final_logit_softcapping", json!(meta.f32(".final_logit_softcapping")?.map(number)));
            }
        }
        Family::Gpt2 => unreachable!("returned above"),
    }
    Ok(config.into())
}

/// `generation_config.json`.
pub(super) fn generation_json(ids: TokenIds) -> Json {
    let mut config = Map::new();
    config.insert("_from_model_config".into(), json!(true));
    for (key, id) in [("bos_token_id", ids.bos), ("eos_token_id", ids.eos), ("pad_token_id", ids.pad)] {
        if let Some(id) = id {
            config.insert(key.into(), json!(id));
        }
    }
    config.into()
}

/// What the metadata say of rotary scaling. `rope_freqs` are the values of [`ROPE_FREQS`], where the file has it.
pub(super) fn rope_scaling(
    meta: &Metadata<'_, '_>,
    sizes: &Sizes,
    rope_freqs: Option<&[f32]>,
) -> Result<RopeScaling, GgufError> {
    let key = ".rope.scaling.type";
    let factor = match meta.f32(".rope.scaling.factor")? {
        Some(factor) => Some(factor),
        // The key's first name.
        None => meta.f32(".rope.scale_linear")?,
    };
    let stated = meta.text(key)?.unwrap_or(if factor.is_some() { "linear" } else { "none" });
    let needed = || factor.ok_or_else(|| meta.missing(".rope.scaling.factor", "the scaling type needs one"));
    let scaling = match stated {
        "none" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: needed()? },
        "yarn" => RopeScaling::Yarn {
            factor: needed()?,
            original_context: meta.needed_size(".rope.scaling.original_context_length")?,
        },
        other => return Err(meta.wrong(key, "none, linear or yarn", other)),
    };
    // A factor of 0 or 1 is how some writers say "none".
    let scaling = match scaling {
        RopeScaling::Linear { factor } | RopeScaling::Yarn { factor, .. } if factor == 0.0 || factor == 1.0 => {
            RopeScaling::None
        }
        scaling => scaling,
    };
    match (rope_freqs, scaling) {
        (None, scaling) => Ok(scaling),
        (Some(freqs), RopeScaling::None) => llama3_scaling(freqs, sizes.head_dim, rope_theta(meta)?).ok_or_else(|| {
            let what = "a table of rotary factors other than Llama 3's".to_owned();
            let next = "config.json has no way to say them; take the model's own safetensors".to_owned();
            GgufError::unplaced(format!("tensor {ROPE_FREQS}"), Problem::Unsupported { what, next })
        }),
        (Some(_), _) => Err(meta.wrong(key, format!("none, since the file has {ROPE_FREQS}"), stated)),
    }
}

/// The parameters of Llama 3's scaling behind a table of factors: the last one is `factor`; the wavelengths where the
/// change starts and ends follow from `low_freq_factor` 1, `high_freq_factor` 4 and 8192 positions, as in every Llama
/// 3.1 to 3.3. `None` where they do not give this table. Source: transformers, `_compute_llama3_parameters`.
fn llama3_scaling(freqs: &[f32], head_dim: u64, theta: f32) -> Option<RopeScaling> {
    const ORIGINAL_CONTEXT: u64 = 8192;
    const LOW: f64 = 1.0;
    const HIGH: f64 = 4.0;
    let factor = *freqs.last()?;
    if freqs.len() as u64 * 2 != head_dim || !factor.is_finite() || factor < 1.0 {
        return None;
    }
    let fits = freqs.iter().enumerate().all(|(pair, &found)| {
        let frequency = f64::from(theta).powf(-2.0 * pair as f64 / head_dim as f64);
        let wavelength = std::f64::consts::TAU / frequency;
        let turns = ORIGINAL_CONTEXT as f64 / wavelength;
        let smooth = ((turns - LOW) / (HIGH - LOW)).clamp(0.0, 1.0);
        let expected = 1.0 / ((1.0 - smooth) / f64::from(factor) + smooth);
        // The table was computed in f32 from f32 frequencies.
        (f64::from(found) - expected).abs() <= 1e-3 * expected
    });
    fits.then_some(RopeScaling::Llama3 { factor, original_context: ORIGINAL_CONTEXT })
}

fn rope_scaling_json(scaling: RopeScaling) -> Json {
    match scaling {
        RopeScaling::None => Json::Null,
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": number(factor)}),
        RopeScaling::Yarn { factor, original_context } => json!({
            "rope_type": "yarn",
            "factor": number(factor),
            "original_max_position_embeddings": original_context,
        }),
        RopeScaling::Llama3 { factor, original_context } => json!({
            "rope_type": "llama3",
            "factor": number(factor),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": original_context,
        }),
    }
}

/// Gemma 2 and 3 scale attention by `1/sqrt` of this. The files do not state it; llama.cpp takes the head size, but for
/// the 27B models (46 layers in Gemma 2, 62 in Gemma 3), which were trained with `hidden / heads`.
fn query_pre_attn_scalar(sizes: &Sizes) -> u64 {
    match (sizes.family, sizes.layers) {
        (Family::Gemma2, 46) | (Family::Gemma3, 62) => sizes.hidden / sizes.heads,
        _ => sizes.head_dim,
    }
}

fn class_name(family: Family) -> &'static str {
    match family {
        Family::Llama => "LlamaForCausalLM",
        Family::Mistral => "MistralForCausalLM",
        Family::Qwen2 => "Qwen2ForCausalLM",
        Family::Qwen3 => "Qwen3ForCausalLM",
        Family::Gemma => "GemmaForCausalLM",
        Family::Gemma2 => "Gemma2ForCausalLM",
        Family::Gemma3 => "Gemma3ForCausalLM",
        Family::Gpt2 => "GPT2LMHeadModel",
    }
}

fn rope_theta(meta: &Metadata<'_, '_>) -> Result<f32, GgufError> {
    let theta = meta.f32(".rope.freq_base")?.unwrap_or(DEFAULT_ROPE_THETA);
    if theta <= 0.0 {
        return Err(meta.wrong(".rope.freq_base", "a number above 0", theta));
    }
    Ok(theta)
}

fn needed_f32(meta: &Metadata<'_, '_>, key: &str) -> Result<f32, GgufError> {
    meta.f32(key)?.ok_or_else(|| meta.missing(key, "convert the model again with a current llama.cpp"))
}

/// The f64 whose shortest digits are the f32's: 1e-5, not 0.000009999999747378752. Reading it as f32 gives the same.
fn number(value: f32) -> Json {
    let shortest: f64 = value.to_string().parse().expect("Rust prints an f32 as a number");
    json!(shortest)
}
