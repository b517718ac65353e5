//! Attention as it is written down, in f64: for tests.

use super::{Attention, Word};

/// y, and lse \[batch seq, heads\].
pub fn forward<T: Word>(config: &Attention<'_>, [q, k, v]: [&[T]; 3], sinks: Option<&[f32]>) -> (Vec<f64>, Vec<f64>) {
    let (rows, heads, dv) = (config.batch * config.seq, config.heads, config.v_head_dim);
    let (mut y, mut lse) = (vec![0.0; rows * heads * dv], vec![0.0; rows * heads]);
    for row in 0..rows {
        for head in 0..heads {
            let logits = logits(config, q, k, row, head);
            let sink = sinks.map(|sinks| f64::from(sinks[head]));
            let max = logits.iter().map(|(_, z, _)| *z).chain(sink).fold(f64::NEG_INFINITY, f64::max);
            let shift = if max == f64::NEG_INFINITY { 0.0 } else { max };
            let weights = logits.iter().map(|(_, z, _)| (z - shift).exp());
            let sum: f64 = weights.clone().chain(sink.map(|sink| (sink - shift).exp())).sum();
            lse[row * heads + head] = shift + sum.ln();
            for ((key, ..), weight) in logits.iter().zip(weights) {
                for c in 0..dv {
                    let value = f64::from(v[place(config, *key, head, dv) + c].to_f32());
                    y[(row * heads + head) * dv + c] += weight / sum * value;
                }
            }
        }
    }
    (y, lse)
}

/// dq, dk and dv.
pub fn backward<T: Word>(
    config: &Attention<'_>,
    dy: &[T],
    [q, k, v]: [&[T]; 3],
    sinks: Option<&[f32]>,
) -> [Vec<f64>; 3] {
    let (heads, d, dv) = (config.heads, config.head_dim, config.v_head_dim);
    let (y, lse) = forward(config, [q, k, v], sinks);
    let mut gradients = [q.len(), k.len(), v.len()].map(|len| vec![0.0; len]);
    for row in 0..config.batch * config.seq {
        for head in 0..heads {
            let out = (row * heads + head) * dv;
            let of = |c: usize| f64::from(dy[out + c].to_f32());
            let delta: f64 = (0..dv).map(|c| of(c) * y[out + c]).sum();
            for (key, z, slope) in logits(config, q, k, row, head) {
                let p = (z - lse[row * heads + head]).exp();
                let (at_k, at_v) = (place(config, key, head, d), place(config, key, head, dv));
                let dp: f64 = (0..dv).map(|c| of(c) * f64::from(v[at_v + c].to_f32())).sum();
                let ds = p * (dp - delta) * slope;
                for c in 0..d {
                    let at_q = (row * heads + head) * d + c;
                    gradients[0][at_q] += ds * f64::from(k[at_k + c].to_f32());
                    gradients[1][at_k + c] += ds * f64::from(q[at_q].to_f32());
                }
                for c in 0..dv {
                    gradients[2][at_v + c] += p * of(c);
                }
            }
        }
    }
    gradients
}

/// Where a key's or value's row of elements begins.
fn place(config: &Attention<'_>, key: usize, head: usize, width: usize) -> usize {
    (key * config.kv_heads + head / (config.heads / config.kv_heads)) * width
}

/// The keys that a query sees, each with its logit and the slope of that.
fn logits<T: Word>(config: &Attention<'_>, q: &[T], k: &[T], row: usize, head: usize) -> Vec<(usize, f64, f64)> {
    let (sequence, query) = (row / config.seq, row % config.seq);
    let d = config.head_dim;
    let scale = f64::from(config.scale);
    let document = |token: usize| config.documents.map(|documents| documents[sequence * config.seq + token]);
    let sees = |key: &usize| {
        (!config.causal || *key <= query)
            && config.sliding_window.is_none_or(|window| key + window > query)
            && document(*key) == document(query)
    };
    let logit = |key: usize| {
        let key = sequence * config.seq + key;
        let at = place(config, key, head, d);
        let product =
            |c: usize| f64::from(q[(row * config.heads + head) * d + c].to_f32()) * f64::from(k[at + c].to_f32());
        let score = scale * (0..d).map(product).sum::<f64>();
        match config.logit_softcap.map(f64::from) {
            None => (key, score, scale),
            Some(cap) => {
                let t = (score / cap).tanh();
                (key, cap * t, scale * (1.0 - t * t))
            }
        }
    };
    (0..config.seq).filter(sees).map(logit).collect()
}
