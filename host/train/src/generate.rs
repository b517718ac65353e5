//! Text, token by token: the logits of the last token, and a draw from them.
//!
//! Keys and values of what stands before are kept, so that each token is computed once.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use crate::{TrainError, TrainingModel};

/// How the next token is drawn, under transformers' names and in its order: temperature, top-k, top-p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the likeliest token always.
    pub temperature: f64,
    /// Only so many of the likeliest are drawn from; 0 for all.
    pub top_k: usize,
    /// Only the likeliest that together reach this probability are drawn from; 1 for all.
    pub top_p: f64,
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { temperature: 1.0, top_k: 50, top_p: 1.0, seed: 42 }
    }
}

/// Why generation ended, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// Without the prompt, and without the token that ended it.
    pub ids: Vec<u32>,
    /// Whether a token that ends a text was drawn.
    pub ended: bool,
}

/// Goes on from `prompt` until one of `eos_ids` is drawn, `max_new_tokens` are there, or `on_token` says false.
///
/// # Errors
/// An empty prompt, a setting that cannot be, logits that are not finite, or no memory.
pub fn generate(
    model: &TrainingModel,
    prompt: &[u32],
    max_new_tokens: usize,
    eos_ids: &[u32],
    sampling: &Sampling,
    on_token: &mut dyn FnMut(u32) -> bool,
) -> Result<Generated, TrainError> {
    let wrong = |what, expected: &str, got: String| Err(TrainError::Argument { what, expected: expected.into(), got });
    if prompt.is_empty() {
        return wrong("the prompt", "at least one token", "none".into());
    }
    if !(sampling.temperature >= 0.0 && sampling.temperature.is_finite()) {
        return wrong("temperature", "a number, at least 0", sampling.temperature.to_string());
    }
    if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) {
        return wrong("top_p", "above 0 and at most 1", sampling.top_p.to_string());
    }
    let mut random = ChaCha8Rng::seed_from_u64(sampling.seed);
    let (mut ids, mut cache) = (prompt.to_vec(), model.cache());
    let mut ended = false;
    while ids.len() - prompt.len() < max_new_tokens {
        let logits = model.next_logits(&ids, &mut cache)?;
        // 53 bits are what an f64 between 0 and 1 holds.
        let uniform = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let Some(id) = draw(&logits, sampling, uniform) else {
            return wrong("the logits", "finite numbers", "NaN or infinity; the model or the adapter is broken".into());
        };
        if eos_ids.contains(&id) {
            ended = true;
            break;
        }
        ids.push(id);
        if !on_token(id) {
            break;
        }
    }
    Ok(Generated { ids: ids.split_off(prompt.len()), ended })
}

/// The token at `uniform` (0 to 1) of the distribution; `None` where logits are not finite.
fn draw(logits: &[f32], sampling: &Sampling, uniform: f64) -> Option<u32> {
    if !logits.iter().all(|logit| logit.is_finite()) {
        return None;
    }
    // The likeliest first; of equals the lower id.
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if sampling.temperature == 0.0 {
        return order.first().map(|&id| id as u32);
    }
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let most = f64::from(logits[*order.first()?]);
    let weight = |&id: &usize| ((f64::from(logits[id]) - most) / sampling.temperature).exp();
    let weights: Vec<f64> = order.iter().map(weight).collect();
    let total: f64 = weights.iter().sum();
    // As many as it takes to reach top_p, the one that reaches it included.
    let mut kept = 0.0;
    let mut count = 0;
    while count < weights.len() && (count == 0 || kept < sampling.top_p * total) {
        kept += weights[count];
        count += 1;
    }
    let mut left = uniform * kept;
    for (&id, weight) in order.iter().zip(&weights).take(count) {
        left -= weight;
        if left < 0.0 {
            return Some(id as u32);
        }
    }
    order.get(count - 1).map(|&id| id as u32)
}
