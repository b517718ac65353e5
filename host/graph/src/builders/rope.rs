//! Rotary position embeddings: what `config.json` says of them, as attributes of a `rotary_embedding` node.
//!
//! Two spellings are in use. Older configs have `rope_theta` and, where the context was stretched, `rope_scaling`; newer
//! ones put all of it into `rope_parameters`. Both are read, with transformers' precedence (`rope_scaling` before
//! `rope_parameters`, a theta inside before one outside). What transformers derives from other fields (an attention factor
//! from the stretch, an original context length) is derived here, so that a node states every number it needs.

use serde_json::{Value as Json, json};
use unswag_abi::doc::Attrs;

use super::{config::Fields, error::BuildError};

/// transformers' `default_theta`, Su et al. 2021.
pub(super) const THETA: f64 = 10_000.0;

/// What a family says of its rotary embedding before its config is read.
pub(super) struct Rotary<'a> {
    /// The config, or the part of it that describes the decoder.
    pub fields: Fields<'a>,
    pub head_dim: u64,
    pub max_position_embeddings: u64,
}

impl<'a> Rotary<'a> {
    /// One embedding for all layers.
    pub fn shared(&self) -> Result<Attrs, BuildError> {
        let (scaling, parameters) = self.objects()?;
        if let Some(layer_type) = LAYER_TYPES.iter().find(|name| parameters.states(name)) {
            let found = format!("an embedding for {layer_type} alone");
            return Err(parameters.unsupported(layer_type, found, "this architecture has one for all its layers"));
        }
        let chosen = if scaling.is_empty() { parameters } else { scaling };
        self.attrs(&[chosen], "rope_theta", THETA)
    }

    /// gemma3's embedding of the layers that see everything: theta 10^6, stretched where the config says so.
    pub fn full_attention(&self) -> Result<Attrs, BuildError> {
        let (scaling, parameters) = self.objects()?;
        self.attrs(&[scaling, parameters.nested(LAYER_TYPES[0])?], "rope_theta", 1_000_000.0)
    }

    /// gemma3's embedding of the layers with a sliding window: never stretched by `rope_scaling`.
    pub fn sliding_attention(&self) -> Result<Attrs, BuildError> {
        let (_, parameters) = self.objects()?;
        self.attrs(&[parameters.nested(LAYER_TYPES[1])?], "rope_local_base_freq", THETA)
    }

    fn objects(&self) -> Result<(Fields<'a>, Fields<'a>), BuildError> {
        Ok((self.fields.nested("rope_scaling")?, self.fields.nested("rope_parameters")?))
    }

    /// `objects` in order of precedence; `outside` names the theta beside them.
    fn attrs(&self, objects: &[Fields<'a>], outside: &str, default_theta: f64) -> Result<Attrs, BuildError> {
        let Some(last) = objects.last() else { return Ok(Attrs::new()) };
        // The object that states the field, else one in which it is missing.
        let stating = |name: &str| objects.iter().find(|object| object.states(name)).unwrap_or(last);
        for part in objects.iter().chain([&self.fields]) {
            if part.optional_positive("partial_rotary_factor", None)?.is_some_and(|factor| factor != 1.0) {
                let next = "the supported families rotate whole heads";
                return Err(part.unsupported("partial_rotary_factor", "a partial rotation", next));
            }
        }
        if !self.head_dim.is_multiple_of(2) {
            let expected = "an even number, since rotary embeddings turn pairs";
            return Err(self.fields.wrong("head_dim", expected, &json!(self.head_dim)));
        }

        let theta = match stating("rope_theta").optional_positive("rope_theta", None)? {
            Some(theta) => theta,
            None => self.fields.optional_positive(outside, None)?.unwrap_or(default_theta),
        };
        let type_field = if objects.iter().any(|object| object.states("rope_type")) { "rope_type" } else { "type" };
        let rope_type = stating(type_field).text(type_field, "default").or_else(|error| {
            // `null` is how a config without scaling may say so.
            if stating(type_field).states(type_field) { Err(error) } else { Ok("default") }
        })?;

        let mut attrs = Attrs::new();
        attrs.insert("dim".to_owned(), json!(self.head_dim));
        attrs.insert("theta".to_owned(), json!(theta));
        attrs.insert("rope_type".to_owned(), json!(rope_type));
        let mut put = |name: &str, value: Json| attrs.insert(name.to_owned(), value);

        let stretched = self.max_position_embeddings as f64;
        let required = |name: &str| -> Result<f64, BuildError> {
            let expected = format!("a finite number above 0, which rope_type {rope_type} needs");
            let object = stating(name);
            object.optional_positive(name, None)?.ok_or_else(|| object.wrong(name, expected, &Json::Null))
        };
        let optional = |name: &str| stating(name).optional_positive(name, None);
        // To transformers, a 0 in these fields of YaRN is as if they were not there.
        let nonzero = |name: &str| {
            let object = stating(name);
            let is_zero = object.get(name).and_then(Json::as_f64) == Some(0.0);
            if is_zero { Ok(None) } else { object.optional_positive(name, None) }
        };
        let original = || -> Result<u64, BuildError> {
            let name = "original_max_position_embeddings";
            // transformers lets the one beside the object win.
            if let Some(outside) = self.fields.optional_size(name, None)? {
                return Ok(outside);
            }
            Ok(stating(name).optional_size(name, None)?.unwrap_or(self.max_position_embeddings))
        };

        match rope_type {
            "default" => {}
            "linear" => {
                put("factor", json!(required("factor")?));
            }
            "dynamic" => {
                if self.head_dim == 2 {
                    let expected = "a head of more than 2 for rope_type dynamic, whose exponent is dim / (dim - 2)";
                    return Err(self.fields.wrong("head_dim", expected, &json!(self.head_dim)));
                }
                put("factor", json!(required("factor")?));
                put("max_position_embeddings", json!(self.max_position_embeddings));
            }
            "llama3" => {
                let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
                if low == high {
                    let expected = format!("a number other than low_freq_factor ({low})");
                    return Err(stating("high_freq_factor").wrong("high_freq_factor", expected, &json!(high)));
                }
                put("factor", json!(required("factor")?));
                put("low_freq_factor", json!(low));
                put("high_freq_factor", json!(high));
                put("original_max_position_embeddings", json!(original()?));
            }
            "yarn" => {
                let original = original()?;
                let factor = optional("factor")?.unwrap_or(stretched / original as f64);
                let attention_factor = match optional("attention_factor")? {
                    Some(stated) => stated,
                    None => match (nonzero("mscale")?, nonzero("mscale_all_dim")?) {
                        (Some(mscale), Some(all)) => yarn_mscale(factor, mscale) / yarn_mscale(factor, all),
                        _ => yarn_mscale(factor, 1.0),
                    },
                };
                put("factor", json!(factor));
                put("original_max_position_embeddings", json!(original));
                put("attention_factor", finite(stating("attention_factor"), attention_factor)?);
                put("beta_fast", json!(nonzero("beta_fast")?.unwrap_or(32.0)));
                put("beta_slow", json!(nonzero("beta_slow")?.unwrap_or(1.0)));
                put("truncate", json!(stating("truncate").flag("truncate", true)?));
            }
            "longrope" => {
                let original = original()?;
                let factor = optional("factor")?.unwrap_or(stretched / original as f64);
                let attention_factor = match optional("attention_factor")? {
                    Some(stated) => stated,
                    None if factor <= 1.0 => 1.0,
                    None => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
                };
                put("original_max_position_embeddings", json!(original));
                put("attention_factor", finite(stating("attention_factor"), attention_factor)?);
                for name in ["short_factor", "long_factor"] {
                    put(name, self.factors(stating(name), name)?);
                }
            }
            other => {
                let next = "the builders know default, linear, dynamic, llama3, yarn and longrope";
                return Err(stating(type_field).unsupported(type_field, super::error::printable(other), next));
            }
        }
        Ok(attrs)
    }

    /// One positive factor for each pair of a head.
    fn factors(&self, object: &Fields<'a>, name: &str) -> Result<Json, BuildError> {
        let pairs = self.head_dim / 2;
        let value = object.get(name).unwrap_or(&Json::Null);
        let fits = value.as_array().is_some_and(|list| {
            list.len() as u64 == pairs
                && list.iter().all(|factor| factor.as_f64().is_some_and(|factor| factor.is_finite() && factor > 0.0))
        });
        if fits {
            return Ok(value.clone());
        }
        Err(object.wrong(name, format!("a list of {pairs} finite numbers above 0, one for each pair of a head"), value))
    }
}

/// Refuses a derived attention factor that is no number any more, as absurd stretches and contexts of 1 give.
fn finite(object: &Fields<'_>, attention_factor: f64) -> Result<Json, BuildError> {
    if attention_factor.is_finite() && attention_factor > 0.0 {
        return Ok(json!(attention_factor));
    }
    let expected = "a factor and an original_max_position_embeddings that give a finite one";
    Err(object.wrong("attention_factor", expected, &json!(attention_factor.to_string())))
}

/// What `layer_types` and `rope_parameters` call the two sorts of layers.
pub(super) const LAYER_TYPES: [&str; 2] = ["full_attention", "sliding_attention"];

/// Peng et al. 2023, "YaRN", eq. 22: the temperature of attention over a context stretched `scale` times.
fn yarn_mscale(scale: f64, mscale: f64) -> f64 {
    if scale <= 1.0 { 1.0 } else { 0.1 * mscale * scale.ln() + 1.0 }
}
