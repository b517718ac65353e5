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
    Yarn(Yarn),
    /// Llama 3.1's: frequencies below a wavelength are divided by `factor`, those above another kept.
    Llama3 {
        factor: f32,
        original_context: u64,
    },
}

/// YaRN's parameters. What a file does not state is left to transformers, whose defaults are llama.cpp's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Yarn {
    factor: f32,
    original_context: u64,
    /// What cosine and sine are multiplied by.
    attention_factor: Option<f64>,
    mscale_all_dim: Option<f32>,
    beta_fast: Option<f32>,
    beta_slow: Option<f32>,
}

/// Token ids that config.json repeats from the tokenizer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TokenIds {
    pub bos: Option<u64>,
    pub pad: Option<u64>,
    /// Every id at which generation stops: the text's end, the turn's and the message's, none twice.
    pub stops: Vec<u64>,
}

impl TokenIds {
    /// As published models state it: one id, or a list where a turn ends otherwise than a text.
    fn eos_json(&self) -> Json {
        match self.stops.as_slice() {
            [] => Json::Null,
            [one] => json!(one),
            several => json!(several),
        }
    }
}

/// `config.json`. `dtype` is transformers' name of the weights' element type.
pub(super) fn config_json(
    meta: &Metadata<'_, '_>,
    sizes: &Sizes,
    scaling: RopeScaling,
    ids: &TokenIds,
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
    set("eos_token_id", ids.eos_json());
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
pub(super) fn generation_json(ids: &TokenIds) -> Json {
    let mut config = Map::new();
    config.insert("_from_model_config".into(), json!(true));
    let roles = [("bos_token_id", json!(ids.bos)), ("eos_token_id", ids.eos_json()), ("pad_token_id", json!(ids.pad))];
    config.extend(roles.into_iter().filter(|(_, id)| !id.is_null()).map(|(key, id)| (key.to_owned(), id)));
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
        "yarn" => RopeScaling::Yarn(yarn(meta, sizes, needed()?)?),
        other => return Err(meta.wrong(key, "none, linear or yarn", other)),
    };
    // A factor of 0 or 1 is how some writers say "none".
    let scaling = match scaling {
        RopeScaling::Linear { factor: 0.0 | 1.0 } => RopeScaling::None,
        RopeScaling::Yarn(Yarn { factor: 0.0 | 1.0, attention_factor: None, .. }) => RopeScaling::None,
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

/// YaRN as llama.cpp computes it, in transformers' terms.
///
/// llama.cpp multiplies cosine and sine by `attn_factor * (1 + 0.1 ln factor)`. Its converter writes a configuration's
/// `attention_factor`, which stands for that product's second factor, as `yarn_attn_factor`; and `mscale_all_dim`, beside an `mscale` of 1,
/// as a tenth of it, `yarn_log_multiplier`. Source: llama.cpp, `llama-context.cpp` and `convert_hf_to_gguf.py`.
fn yarn(meta: &Metadata<'_, '_>, sizes: &Sizes, factor: f32) -> Result<Yarn, GgufError> {
    let positive = |key: &str| match meta.f32(key)? {
        Some(found) if found < 0.0 => Err(meta.wrong(key, "a number above 0", found)),
        // Writers say 0 for what they do not state.
        found => Ok(found.filter(|&found| found > 0.0)),
    };
    let extrapolation = ".rope.scaling.yarn_ext_factor";
    if let Some(found) = positive(extrapolation)?
        && found != 1.0
    {
        let what = format!("an extrapolation factor of {found}");
        let next = "config.json can only say 1; take the model's own safetensors".to_owned();
        return Err(meta.error(extrapolation, Problem::Unsupported { what, next }));
    }
    let mscale_all_dim = positive(".rope.scaling.yarn_log_multiplier")?.map(|tenth| (shortest(tenth) * 10.0) as f32);
    let stated = positive(".rope.scaling.yarn_attn_factor")?.map(shortest);
    let attention_factor = match positive(".rope.scaling.attn_factor")?.map(shortest) {
        None | Some(1.0) => stated,
        Some(more) => {
            let mscale = |mscale: f64| 1.0 + 0.1 * mscale * f64::from(factor).max(1.0).ln();
            let of_factor = mscale(1.0) / mscale_all_dim.map_or(1.0, |all| mscale(all.into()));
            Some(more * stated.unwrap_or(of_factor))
        }
    };
    Ok(Yarn {
        factor,
        // As llama.cpp: the context that the model was trained on.
        original_context: meta.size(".rope.scaling.original_context_length")?.unwrap_or(sizes.context),
        attention_factor,
        mscale_all_dim,
        beta_fast: positive(".rope.scaling.yarn_beta_fast")?,
        beta_slow: positive(".rope.scaling.yarn_beta_slow")?,
    })
}

fn yarn_json(yarn: Yarn) -> Json {
    let mut scaling = Map::new();
    scaling.insert("rope_type".into(), json!("yarn"));
    scaling.insert("factor".into(), number(yarn.factor));
    scaling.insert("original_max_position_embeddings".into(), json!(yarn.original_context));
    let stated = [
        ("attention_factor", yarn.attention_factor.map(|factor| json!(factor))),
        ("mscale", yarn.mscale_all_dim.map(|_| json!(1.0))),
        ("mscale_all_dim", yarn.mscale_all_dim.map(number)),
        ("beta_fast", yarn.beta_fast.map(number)),
        ("beta_slow", yarn.beta_slow.map(number)),
    ];
    scaling.extend(stated.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    scaling.into()
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
        RopeScaling::Yarn(yarn) => yarn_json(yarn),
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
    json!(shortest(value))
}

fn shortest(value: f32) -> f64 {
    value.to_string().parse().expect("Rust prints an f32 as a number")
}
