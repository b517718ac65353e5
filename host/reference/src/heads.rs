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
            // Two products, each rounded before the sum. A rotation moves at most the pair's size between the two.
            let size = |at: usize| {
                let head = &x[at / head_dim * head_dim..][..head_dim];
                head.iter().fold(0f32, |size, x| size.max(x.abs()))
            };
            let element = |(at, value)| Element { value, wide: 0.0, narrow: f64::from(size(at)) };
            y.into_iter().enumerate().map(element).collect()
        })
        .into()
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
    let (y, _) = attention::reference::forward::<f32>(&config, [q, k, v], call.param("sinks"));
    // Weights are rounded to the element type for their product with v: off by units of the largest value that is summed.
    let most = v.iter().fold(0f32, |most, v| most.max(v.abs()));
    let element = |y: f64| Element {
        value: rounded(call.dtype(), y as f32),
        wide: f64::from(most) * 16.0,
        narrow: f64::from(most),
    };
    y.into_iter().map(element).collect()
}
