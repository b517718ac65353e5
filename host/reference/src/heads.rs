//! Kinds that work on heads and positions.

use unswag_abi::doc::Dtype;
use unswag_kernels::{
    Element as Word,
    attention::{self, Attention},
    rope::{self, Config},
};

use crate::{
    Call, Element,
    rows::{in_dtype, narrowed},
    tensor::rounded,
};

/// cos and sin of position times frequency.
pub(crate) fn rotary(call: &Call<'_>) -> Result<Vec<Vec<Element>>, String> {
    let positions: Vec<u32> = call.values[0].iter().map(|&position| position as u32).collect();
    let tables = unswag_engine::rotary_tables(call.attrs, &positions).map_err(|error| error.to_string())?;
    let dtype = call.dtype();
    let furthest = positions.iter().copied().max().unwrap_or(0);
    // The angle is rounded to f32, so that cos and sin are off by units of it.
    let element = |value| Element { value: rounded(dtype, value), wide: 1.0 + f64::from(furthest), narrow: 0.0 };
    Ok(tables.into_iter().map(|table| table.into_iter().map(element).collect()).collect())
}

/// q and k, rotated.
pub(crate) fn rope(call: &Call<'_>) -> Vec<Vec<Element>> {
    let head_dim = call.size("head_dim").unwrap_or(1).max(1);
    let dim = call.width(2);
    [0, 1]
        .map(|index| {
            let config =
                Config { heads: call.width(index) / head_dim, head_dim, dim, interleaved: call.flag("interleaved") };
            let x = &call.values[index];
            let y = in_dtype!(call.dtype(), rotated(&config, [&call.values[2], &call.values[3], x]));
            let terms = Terms { config: &config, cos: &call.values[2], sin: &call.values[3], x };
            let element = |(at, value)| Element { value, wide: 0.0, narrow: terms.largest(at) };
            y.into_iter().enumerate().map(element).collect()
        })
        .into()
}

/// What a rotation adds up: two products, each rounded before the sum.
struct Terms<'a> {
    config: &'a Config,
    cos: &'a [f32],
    sin: &'a [f32],
    x: &'a [f32],
}

impl Terms<'_> {
    /// The larger of the two products of element `at`; 0 where the element is beyond the rotated ones.
    fn largest(&self, at: usize) -> f64 {
        let Config { heads, head_dim, dim, interleaved } = *self.config;
        let (token, of_head) = (at / (heads * head_dim).max(1), at % head_dim);
        let half = dim / 2;
        if of_head >= 2 * half {
            return 0.0;
        }
        let (other, angle) = match (interleaved, of_head < half) {
            (true, _) => (of_head ^ 1, of_head / 2),
            (false, true) => (of_head + half, of_head),
            (false, false) => (of_head - half, of_head),
        };
        let product = |of: usize, by: &[f32]| f64::from((self.x[at - of_head + of] * by[token * dim + angle]).abs());
        product(of_head, self.cos).max(product(other, self.sin))
    }
}

fn rotated<T: Word>(config: &Config, [cos, sin, x]: [&[f32]; 3]) -> Vec<f32> {
    let mut x: Vec<T> = narrowed(x);
    rope::reference::forward::<T>(config, &narrowed(cos), &narrowed(sin), &mut x);
    x.into_iter().map(T::to_f32).collect()
}

pub(crate) fn attention(call: &Call<'_>) -> Vec<Element> {
    let size = |name: &str| call.size(name).unwrap_or(1).max(1);
    let shape = &call.metas[0].shape;
    let config = Attention {
        batch: shape[0] as usize,
        seq: shape[1] as usize,
        heads: size("num_heads"),
        kv_heads: size("num_key_value_heads"),
        head_dim: size("head_dim"),
        v_head_dim: call.size("v_head_dim").unwrap_or_else(|| size("head_dim")),
        scale: call.number("scale").unwrap_or(1.0) as f32,
        causal: call.flag("causal"),
        sliding_window: call.size("sliding_window"),
        logit_softcap: call.number("logit_softcap").map(|cap| cap as f32),
        documents: None,
    };
    let [q, k, v] = [0, 1, 2].map(|index| call.values[index].as_slice());
    // Beside each value its size, so that one pass sums both: what an element may be off by is relative to sum_j p_j |v_j|.
    let dv = config.v_head_dim;
    let with_sizes: Vec<f32> =
        v.chunks_exact(dv).flat_map(|v| v.iter().copied().chain(v.iter().map(|v| v.abs()))).collect();
    let doubled = Attention { v_head_dim: 2 * dv, ..config };
    let (y, _) = attention::reference::forward::<f32>(&doubled, [q, k, &with_sizes], call.param("sinks"));
    let scores = largest_scores(&config, q, k);
    let element = |(row, y): (usize, &[f64])| {
        let (y, sizes) = y.split_at(dv);
        // A score's terms are rounded to f32, which changes its exponential by units of them; the weights are rounded to the element
        // type for their product with v.
        let wide = 16.0 + scores[row];
        let element = move |(y, size): (&f64, &f64)| Element {
            value: rounded(call.dtype(), *y as f32),
            wide: size * wide,
            narrow: *size,
        };
        y.iter().zip(sizes).map(element).collect::<Vec<_>>()
    };
    y.chunks_exact(2 * dv).enumerate().flat_map(element).collect()
}

/// For every row and head, at least the sum of the sizes of a score's terms: scale * sum_i |q_i| max_j |k_ji|.
fn largest_scores(config: &Attention<'_>, q: &[f32], k: &[f32]) -> Vec<f64> {
    let Attention { seq, heads, kv_heads, head_dim, .. } = *config;
    let mut largest = vec![0f32; config.batch * kv_heads * head_dim];
    for (row, k) in k.chunks_exact(kv_heads * head_dim).enumerate() {
        let of_sequence = &mut largest[row / seq * kv_heads * head_dim..][..kv_heads * head_dim];
        of_sequence.iter_mut().zip(k).for_each(|(largest, k)| *largest = largest.max(k.abs()));
    }
    let score = |(at, q): (usize, &[f32])| {
        let (row, head) = (at / heads, at % heads);
        let k = &largest[(row / seq * kv_heads + head / (heads / kv_heads)) * head_dim..][..head_dim];
        let sum: f64 = q.iter().zip(k).map(|(q, k)| f64::from(q.abs()) * f64::from(*k)).sum();
        sum * f64::from(config.scale.abs())
    };
    q.chunks_exact(head_dim).enumerate().map(score).collect()
}
