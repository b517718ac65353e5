//! Rotary tables: position times inverse frequency, as transformers' `modeling_rope_utils` scales them.
//!
//! Su et al. 2021; linear and dynamic NTK (bloc97, 2023); YaRN (Peng et al. 2023); longrope (Ding et al. 2024); llama3's
//! bands. Frequencies are taken in f32, as transformers takes them.

use std::f64::consts::PI;

use unswag_abi::doc::Attrs;

use crate::EngineError;

/// Inverse frequencies of one `rotary_embedding`, and the factor on cos and sin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rotary {
    /// Rotated elements of a head.
    pub dim: u64,
    theta: f64,
    factor: f64,
    scaling: Scaling,
}

#[derive(Clone, Debug, PartialEq)]
enum Scaling {
    None,
    /// All frequencies divided.
    Linear {
        by: f64,
    },
    /// The base grows with what is longer than the model was made for.
    Dynamic {
        by: f64,
        original: f64,
    },
    /// Fixed frequencies.
    Fixed(Vec<f32>),
    /// One list for texts up to the original length, one for longer ones.
    Long {
        short: Vec<f32>,
        long: Vec<f32>,
        original: f64,
    },
}

impl Rotary {
    pub fn new(path: &str, attrs: &Attrs) -> Result<Self, EngineError> {
        let number = |name: &str| attrs.get(name).and_then(serde_json::Value::as_f64);
        let need = |name: &'static str| {
            number(name).ok_or_else(|| EngineError::Graph {
                path: path.to_owned(),
                what: name.to_owned(),
                expected: "a number".into(),
                got: "none".into(),
            })
        };
        let list = |name: &'static str| -> Vec<f64> {
            let list = attrs.get(name).and_then(serde_json::Value::as_array);
            list.into_iter().flatten().filter_map(serde_json::Value::as_f64).collect()
        };
        let (dim, theta) = (need("dim")? as u64, need("theta")?);
        let plain = inverse_frequencies(dim, theta);
        let mut factor = 1.0;
        let scaling = match attrs.get("rope_type").and_then(serde_json::Value::as_str).unwrap_or("default") {
            "default" => Scaling::None,
            "linear" => Scaling::Linear { by: need("factor")? },
            "dynamic" => Scaling::Dynamic {
                by: need("factor")?,
                original: number("original_max_position_embeddings")
                    .map_or_else(|| need("max_position_embeddings"), Ok)?,
            },
            "llama3" => {
                let (by, low, high) = (need("factor")?, need("low_freq_factor")?, need("high_freq_factor")?);
                let original = need("original_max_position_embeddings")?;
                Scaling::Fixed(llama3(&plain, by, low, high, original))
            }
            "yarn" => {
                let original =
                    number("original_max_position_embeddings").map_or_else(|| need("max_position_embeddings"), Ok)?;
                let by = need("factor")?;
                factor = number("attention_factor").unwrap_or_else(|| {
                    let mscale = |m: f64| if by <= 1.0 { 1.0 } else { 0.1 * m * by.ln() + 1.0 };
                    match (number("mscale"), number("mscale_all_dim")) {
                        (Some(one), Some(all)) if one != 0.0 && all != 0.0 => mscale(one) / mscale(all),
                        _ => mscale(1.0),
                    }
                });
                let fast = number("beta_fast").unwrap_or(32.0);
                let slow = number("beta_slow").unwrap_or(1.0);
                let truncate = attrs.get("truncate").and_then(serde_json::Value::as_bool).unwrap_or(true);
                Scaling::Fixed(yarn(&plain, by, theta, original, [fast, slow], truncate))
            }
            "longrope" => {
                let original = need("original_max_position_embeddings")?;
                let by =
                    number("factor").or_else(|| Some(number("max_position_embeddings")? / original)).unwrap_or(1.0);
                factor = number("attention_factor").unwrap_or(if by <= 1.0 {
                    1.0
                } else {
                    (1.0 + by.ln() / original.ln()).sqrt()
                });
                let over = |list: Vec<f64>| -> Vec<f32> {
                    plain.iter().zip(list).map(|(&f, by)| (f64::from(f) / by) as f32).collect()
                };
                Scaling::Long { short: over(list("short_factor")), long: over(list("long_factor")), original }
            }
            other => {
                return Err(EngineError::Unsupported {
                    path: path.to_owned(),
                    kind: format!("rope_type {other}"),
                    why: "the table of kinds does not know it".into(),
                });
            }
        };
        Ok(Rotary { dim, theta, factor, scaling })
    }

    /// cos or sin of every position: \[positions, dim\], each frequency standing twice.
    pub fn table(&self, positions: &[u32], sin: bool) -> Vec<f32> {
        let length = positions.iter().max().map_or(0.0, |&last| f64::from(last) + 1.0);
        let frequencies = self.frequencies(length);
        let mut table = Vec::with_capacity(positions.len() * frequencies.len() * 2);
        for &position in positions {
            let start = table.len();
            table.extend(frequencies.iter().map(|&frequency| {
                // In f32, as transformers multiplies them.
                let angle = f64::from(position as f32 * frequency);
                (if sin { angle.sin() } else { angle.cos() } * self.factor) as f32
            }));
            table.extend_from_within(start..);
        }
        table
    }

    /// Whether texts of both lengths turn by the same frequencies.
    pub fn is_same_at(&self, a: u64, b: u64) -> bool {
        match &self.scaling {
            Scaling::None | Scaling::Linear { .. } | Scaling::Fixed(_) => true,
            Scaling::Dynamic { original, .. } => a == b || (a.max(b) as f64) <= *original,
            Scaling::Long { original, .. } => (a as f64 > *original) == (b as f64 > *original),
        }
    }

    fn frequencies(&self, length: f64) -> Vec<f32> {
        match &self.scaling {
            Scaling::None => inverse_frequencies(self.dim, self.theta),
            Scaling::Linear { by } => {
                inverse_frequencies(self.dim, self.theta).iter().map(|&f| (f64::from(f) / by) as f32).collect()
            }
            Scaling::Dynamic { by, original } => {
                let dim = self.dim as f64;
                let stretch = (by * length.max(*original) / original - (by - 1.0)).powf(dim / (dim - 2.0));
                inverse_frequencies(self.dim, self.theta * stretch)
            }
            Scaling::Fixed(frequencies) => frequencies.clone(),
            Scaling::Long { short, long, original } => {
                if length > *original {
                    long.clone()
                } else {
                    short.clone()
                }
            }
        }
    }
}

/// cos and sin of each position times each frequency of a `rotary_embedding` with these attributes, \[positions, dim\] each.
///
/// # Errors
/// An attribute that the kind requires is missing.
pub fn rotary_tables(attrs: &Attrs, positions: &[u32]) -> Result<[Vec<f32>; 2], EngineError> {
    let rotary = Rotary::new("rotary_embedding", attrs)?;
    Ok([false, true].map(|sin| rotary.table(positions, sin)))
}

fn inverse_frequencies(dim: u64, theta: f64) -> Vec<f32> {
    (0..dim / 2).map(|i| 1.0 / theta.powf(2.0 * i as f64 / dim as f64) as f32).collect()
}

/// Short waves stay, long ones are divided, those between are blended.
fn llama3(plain: &[f32], by: f64, low: f64, high: f64, original: f64) -> Vec<f32> {
    let scaled = |&f: &f32| {
        let frequency = f64::from(f);
        let wavelength = 2.0 * PI / frequency;
        if wavelength < original / high {
            f
        } else if wavelength > original / low {
            (frequency / by) as f32
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            ((1.0 - smooth) * frequency / by + smooth * frequency) as f32
        }
    };
    plain.iter().map(scaled).collect()
}

/// Frequencies that turn often in the original length stay, those that hardly turn are divided, with a ramp between.
fn yarn(plain: &[f32], by: f64, theta: f64, original: f64, [fast, slow]: [f64; 2], truncate: bool) -> Vec<f32> {
    let dim = plain.len() as f64 * 2.0;
    let correction = |turns: f64| dim * (original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
    let (mut low, mut high) = (correction(fast), correction(slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    let blended = plain.iter().enumerate().map(|(i, &f)| {
        let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        let frequency = f64::from(f);
        (frequency / by * ramp + frequency * (1.0 - ramp)) as f32
    });
    blended.collect()
}
