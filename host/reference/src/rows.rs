//! Kinds that work on the last dimension: tables, products, norms, and what only moves elements.

use unswag_abi::doc::{Dtype, Meta};
use unswag_kernels::{
    Element as Word,
    norm::{layer_norm, reference, rms_norm},
};

use crate::{Call, Element, tensor::rounded};

fn moved(value: f32) -> Element {
    Element { value, wide: 0.0, narrow: 0.0 }
}

/// weight\[ids + offset\] in the output's element type, times scale in that type.
pub(crate) fn embedding(call: &Call<'_>) -> Result<Vec<Element>, String> {
    let weight = call.param("weight").ok_or("it has no weight")?;
    let width = call.outputs[0].shape.last().map_or(1, |&size| size as usize).max(1);
    let offset = call.size("offset").unwrap_or(0);
    let dtype = call.dtype();
    let scale = rounded(dtype, call.number("scale").unwrap_or(1.0) as f32);
    let mut elements = Vec::with_capacity(call.values[0].len() * width);
    for &id in &call.values[0] {
        let start = (id as usize + offset) * width;
        let row = weight.get(start..start + width).ok_or_else(|| format!("id {id} is beyond the table"))?;
        elements.extend(row.iter().map(|&w| moved(rounded(dtype, rounded(dtype, w) * scale))));
    }
    Ok(elements)
}

/// x weight^T, summed in f64 and rounded, then the bias added and rounded.
pub(crate) fn linear(call: &Call<'_>) -> Vec<Element> {
    let (dtype, inner) = (call.dtype(), call.width(0));
    let (weight, bias) = (call.param("weight").unwrap_or_default(), call.param("bias"));
    let out = call.outputs[0].shape.last().map_or(0, |&size| size as usize);
    let is_transposed = call.flag("transposed");
    let at = |row: usize, k: usize| if is_transposed { k * out + row } else { row * inner + k };
    let mut elements = Vec::with_capacity(call.values[0].len() / inner * out);
    for x in call.values[0].chunks_exact(inner) {
        for row in 0..out {
            let terms = x.iter().enumerate().map(|(k, x)| f64::from(*x) * f64::from(weight[at(row, k)]));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            let product = rounded(dtype, sum as f32);
            elements.push(match bias {
                None => Element { value: product, wide: size, narrow: 0.0 },
                Some(bias) => Element {
                    value: rounded(dtype, product + bias[row]),
                    wide: size,
                    narrow: f64::from(product.abs().max(bias[row].abs())),
                },
            });
        }
    }
    elements
}

/// Relative to the value: a sum of n squares in any order is off by about the root of n units.
fn of_sum(value: f32, terms: usize, extra: f64) -> Element {
    Element { value, wide: f64::from(value.abs()) * (terms as f64).sqrt() + extra, narrow: 0.0 }
}

/// Runs a function over the output's element type.
macro_rules! in_dtype {
    ($dtype:expr, $function:ident($($argument:expr),*)) => {
        match $dtype {
            Dtype::Bf16 => $function::<half::bf16>($($argument),*),
            Dtype::F16 => $function::<half::f16>($($argument),*),
            _ => $function::<f32>($($argument),*),
        }
    };
}
pub(crate) use in_dtype;

/// `values` as elements of type T: exact, since they were read from such.
pub(crate) fn narrowed<T: Word>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&value| T::from_f32(value)).collect()
}

pub(crate) fn rms_norm(call: &Call<'_>) -> Vec<Element> {
    let hidden = call.size("group").unwrap_or_else(|| call.width(0)).max(1);
    let eps = call.number("eps").unwrap_or(0.0) as f32;
    let config = rms_norm::Config { hidden, eps, unit_offset: call.flag("unit_offset") };
    let y = in_dtype!(call.dtype(), rms_forward(&config, &call.values[0], call.param("weight").unwrap_or_default()));
    y.into_iter().map(|value| of_sum(value, hidden, 0.0)).collect()
}

fn rms_forward<T: Word>(config: &rms_norm::Config, x: &[f32], weight: &[f32]) -> Vec<f32> {
    let (mut y, mut rstd) = (vec![T::ZERO; x.len()], vec![0.0; x.len() / config.hidden]);
    reference::rms_forward::<T>(config, &narrowed(x), &narrowed(weight), &mut y, &mut rstd);
    y.into_iter().map(T::to_f32).collect()
}

pub(crate) fn layer_norm(call: &Call<'_>) -> Vec<Element> {
    let config = layer_norm::Config { hidden: call.width(0), eps: call.number("eps").unwrap_or(0.0) as f32 };
    let (weight, bias) = (call.param("weight").unwrap_or_default(), call.param("bias"));
    in_dtype!(call.dtype(), layer_forward(&config, &call.values[0], weight, bias))
}

fn layer_forward<T: Word>(
    config: &layer_norm::Config,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
) -> Vec<Element> {
    let (hidden, rows) = (config.hidden, x.len() / config.hidden);
    let (mut y, mut mean, mut rstd) = (vec![T::ZERO; x.len()], vec![0.0; rows], vec![0.0; rows]);
    let bias_in_type: Option<Vec<T>> = bias.map(narrowed);
    let stats = [mean.as_mut_slice(), rstd.as_mut_slice()];
    reference::layer_forward::<T>(config, &narrowed(x), &narrowed(weight), bias_in_type.as_deref(), &mut y, stats);
    let element = |(at, value): (usize, T)| {
        let (row, column) = (at / hidden, at % hidden);
        // x - mean cancels, and so may the bias: what is left is off by units of the terms.
        let size = (x[at].abs() + mean[row].abs()) * rstd[row] * weight[column].abs();
        of_sum(value.to_f32(), hidden, f64::from(size) + bias.map_or(0.0, |bias| f64::from(bias[column].abs())))
    };
    y.into_iter().enumerate().map(element).collect()
}

pub(crate) fn softmax(call: &Call<'_>) -> Vec<Element> {
    let width = call.width(0);
    let mut elements = Vec::with_capacity(call.values[0].len());
    for row in call.values[0].chunks_exact(width) {
        let max = row.iter().fold(f32::NEG_INFINITY, |a, b| if *b > a || b.is_nan() { *b } else { a });
        let shifted = |x: &f32| f64::from(*x) - f64::from(max);
        let sum: f64 = row.iter().map(|x| shifted(x).exp()).sum();
        elements.extend(row.iter().map(|x| {
            let value = rounded(call.dtype(), (shifted(x).exp() / sum) as f32);
            of_sum(value, width, f64::from(value) * (1.0 + shifted(x).abs()))
        }));
    }
    elements
}

pub(crate) fn split(call: &Call<'_>) -> Vec<Vec<Element>> {
    let mut start = 0;
    let piece = |output: &Meta| {
        let width = output.shape.last().map_or(1, |&size| size as usize);
        start += width;
        columns(call, 0, start - width, width)
    };
    call.outputs.iter().map(piece).collect()
}

pub(crate) fn slice(call: &Call<'_>) -> Vec<Element> {
    let start = call.size("start").unwrap_or(0);
    columns(call, 0, start, call.size("end").unwrap_or(0).saturating_sub(start))
}

pub(crate) fn concat(call: &Call<'_>) -> Vec<Element> {
    let rows = call.values[0].len() / call.width(0);
    let row = |row: usize| {
        let of = move |index: usize| {
            let width = call.width(index);
            call.values[index][row * width..(row + 1) * width].iter().copied().map(moved)
        };
        (0..call.values.len()).flat_map(of)
    };
    (0..rows).flat_map(row).collect()
}

fn columns(call: &Call<'_>, input: usize, start: usize, count: usize) -> Vec<Element> {
    let rows = call.values[input].chunks_exact(call.width(input));
    rows.flat_map(|row| row[start..start + count].iter().copied().map(moved)).collect()
}
