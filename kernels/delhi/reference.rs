//! The specification: each op as plain loops over f32, one element or one group at a time.
//!
//! Slow on purpose and free of cleverness. It must never share code with the vector bodies beyond the scalar functions
//! of `crate::math`, the tables and the random numbers: it is what they are tested against. Slices must have the lengths that
//! the ops' own functions ask for; here a wrong length panics.

use half::bf16;

use super::{Activation, CodeTable, Config, Rounding, Saved, SavedMut, Shape};
use crate::{Element, math, random::RowRandom};

/// act(x).
pub fn value(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Silu => math::silu(x),
        Activation::Gelu => math::gelu(x),
        Activation::GeluTanh => math::gelu_tanh(x),
    }
}

/// act(x) and act'(x).
pub fn value_and_derivative(activation: Activation, x: f32) -> (f32, f32) {
    match activation {
        Activation::Silu => math::silu_with_derivative(x),
        Activation::Gelu => math::gelu_with_derivative(x),
        Activation::GeluTanh => math::gelu_tanh_with_derivative(x),
    }
}

/// The code of x: how many borders are at or below it. NaN is at or above none: code 0.
pub fn code(table: &CodeTable, x: f32) -> u32 {
    table.borders().iter().filter(|border| x >= **border).count() as u32
}

/// Writes `code` as the `index`-th of a stream of `bits`-bit codes; its bits must be zero before.
pub fn put(words: &mut [u32], index: usize, bits: u32, code: u32) {
    for k in 0..bits as usize {
        let at = index * bits as usize + k;
        words[at / 32] |= (code >> k & 1) << (at % 32);
    }
}

/// Reads what [`put`] wrote.
pub fn get(words: &[u32], index: usize, bits: u32) -> u32 {
    (0..bits as usize)
        .map(|k| (k, index * bits as usize + k))
        .map(|(k, at)| (words[at / 32] >> (at % 32) & 1) << k)
        .sum()
}

/// y = act(x); `codes` gets the code of each x.
pub fn forward<T: Element>(table: &CodeTable, x: &[T], y: &mut [T], codes: &mut [u32]) {
    codes.fill(0);
    for (i, (x, y)) in x.iter().zip(y).enumerate() {
        *y = T::from_f32(value(table.activation(), x.to_f32()));
        put(codes, i, table.bits(), code(table, x.to_f32()));
    }
}

/// dx = dy level\[code\].
pub fn backward<T: Element>(table: &CodeTable, dy: &[T], codes: &[u32], dx: &mut [T]) {
    for (i, (dy, dx)) in dy.iter().zip(dx).enumerate() {
        let level = table.levels()[get(codes, i, table.bits()) as usize];
        *dx = T::from_f32(dy.to_f32() * level);
    }
}

/// h = act(g) u, rounded once.
pub fn gated_plain<T: Element>(activation: Activation, g: &[T], u: &[T], h: &mut [T]) {
    for ((g, u), h) in g.iter().zip(u).zip(h) {
        *h = T::from_f32(value(activation, g.to_f32()) * u.to_f32());
    }
}

/// dg = (dh u) act'(g) and du = dh act(g), from g and u themselves.
pub fn gated_exact_backward<T: Element>(
    activation: Activation,
    dh: &[T],
    g: &[T],
    u: &[T],
    dg: &mut [T],
    du: &mut [T],
) {
    for i in 0..dh.len() {
        let (value, derivative) = value_and_derivative(activation, g[i].to_f32());
        dg[i] = T::from_f32(dh[i].to_f32() * u[i].to_f32() * derivative);
        du[i] = T::from_f32(dh[i].to_f32() * value);
    }
}

/// The greatest bf16 at or below a finite `value`.
pub fn bf16_at_or_below(value: f32) -> bf16 {
    let bits = value.to_bits();
    let truncated = bits & 0xffff_0000;
    // Truncation goes toward zero, which is up for negative numbers.
    let down = if value < 0.0 && bits != truncated { truncated + 0x1_0000 } else { truncated };
    bf16::from_bits((down >> 16) as u16)
}

/// The least bf16 at or above a finite, non-negative `value`.
pub fn bf16_at_or_above(value: f32) -> bf16 {
    bf16::from_bits((value.to_bits().wrapping_add(0xffff) >> 16) as u16)
}

/// Values of this magnitude and above make their group NaN, as inf and NaN do: their range would overflow.
pub const GROUP_LIMIT: f32 = (1u128 << 126) as f32;

/// A group's least value and step: value(code) = min + step code, and every value of the group lies within the codes.
/// Both are NaN where an element is NaN, infinite or of magnitude 2^126 or more; the step is 0 where it would be denormal.
pub fn group_parameters(values: &[f32], bits: u32) -> [bf16; 2] {
    if values.iter().any(|v| v.is_nan()) {
        return [bf16::NAN; 2];
    }
    let least = values.iter().fold(f32::INFINITY, |a, b| if *b < a { *b } else { a });
    let most = values.iter().fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a });
    if least <= -GROUP_LIMIT || most >= GROUP_LIMIT {
        return [bf16::NAN; 2];
    }
    // Adding 0 makes -0 into 0: which of the two a minimum returns is not defined.
    let min = bf16_at_or_below(least + 0.0);
    let steps = ((1u32 << bits) - 1) as f32;
    let step = (most - min.to_f32()) * (1.0 / steps);
    if step < f32::MIN_POSITIVE {
        return [min, bf16::ZERO];
    }
    [min, bf16_at_or_above(step)]
}

/// The code of one value of a group: floor((v - min)/step + r), at most 2^bits - 1; r = 1/2 rounds to nearest.
pub fn group_code(value: f32, parameters: [bf16; 2], bits: u32, r: f32) -> u32 {
    let [min, step] = parameters.map(bf16::to_f32);
    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
    // A NaN group has its codes too, so that equal inputs give equal bytes.
    let min = if min.is_nan() { 0.0 } else { min };
    let scaled = (value - min).mul_add(inverse, r);
    let most = ((1u32 << bits) - 1) as f32;
    (if scaled < most { scaled } else { most }) as u32
}

/// min + step code.
pub fn group_value(code: u32, parameters: [bf16; 2]) -> f32 {
    let [min, step] = parameters.map(bf16::to_f32);
    (code as f32).mul_add(step, min)
}

fn quantise_row<T: Element>(
    values: &[T],
    bits: u32,
    config: &Config,
    (stream, row): (u64, usize),
    codes: &mut [u32],
    parameters: &mut [bf16],
) {
    codes.fill(0);
    let groups = values.chunks(config.group).zip(parameters.as_chunks_mut::<2>().0);
    for (at, (group, stored)) in groups.enumerate() {
        let values: Vec<f32> = group.iter().map(|v| v.to_f32()).collect();
        *stored = group_parameters(&values, bits);
        for (i, value) in values.into_iter().enumerate() {
            let column = at * config.group + i;
            let r = match config.rounding {
                Rounding::Nearest => 0.5,
                Rounding::Stochastic { seed, offset } => RowRandom::new(seed, offset, stream, row as u64).at(column),
            };
            put(codes, column, bits, group_code(value, *stored, bits, r));
        }
    }
}

/// h = act(g) u; `saved` gets g and u in groups.
///
/// # Panics
/// In mode `exact`, which saves g and u themselves, and for lengths that do not fit `shape`.
pub fn gated_forward<T: Element>(
    activation: Activation,
    shape: Shape,
    config: &Config,
    g: &[T],
    u: &[T],
    h: &mut [T],
    saved: SavedMut<'_>,
) {
    gated_plain(activation, g, u, h);
    let bits = config.mode.bits().expect("mode exact packs nothing");
    let words = (shape.cols * bits as usize).div_ceil(32);
    let parameters = 2 * shape.cols.div_ceil(config.group);
    for row in 0..shape.rows {
        let values = row * shape.cols..(row + 1) * shape.cols;
        let words = row * words..(row + 1) * words;
        let parameters = row * parameters..(row + 1) * parameters;
        quantise_row(
            &g[values.clone()],
            bits,
            config,
            (0, row),
            &mut saved.g_codes[words.clone()],
            &mut saved.g_params[parameters.clone()],
        );
        quantise_row(&u[values], bits, config, (1, row), &mut saved.u_codes[words], &mut saved.u_params[parameters]);
    }
}

/// The g and u that `saved` stands for, as f32, row by row.
pub fn dequantise(shape: Shape, config: &Config, saved: Saved<'_>) -> (Vec<f32>, Vec<f32>) {
    let bits = config.mode.bits().expect("mode exact packs nothing");
    let words = (shape.cols * bits as usize).div_ceil(32);
    let groups = shape.cols.div_ceil(config.group);
    let one = |codes: &[u32], parameters: &[bf16]| {
        let mut values = Vec::with_capacity(shape.rows * shape.cols);
        for row in 0..shape.rows {
            for column in 0..shape.cols {
                let at = 2 * (row * groups + column / config.group);
                let code = get(&codes[row * words..(row + 1) * words], column, bits);
                values.push(group_value(code, [parameters[at], parameters[at + 1]]));
            }
        }
        values
    };
    (one(saved.g_codes, saved.g_params), one(saved.u_codes, saved.u_params))
}

/// [`gated_exact_backward`] at the g and u that `saved` stands for.
pub fn gated_backward<T: Element>(
    activation: Activation,
    shape: Shape,
    config: &Config,
    dh: &[T],
    saved: Saved<'_>,
    dg: &mut [T],
    du: &mut [T],
) {
    let (g, u) = dequantise(shape, config, saved);
    for i in 0..dh.len() {
        let (value, derivative) = value_and_derivative(activation, g[i]);
        dg[i] = T::from_f32(dh[i].to_f32() * u[i] * derivative);
        du[i] = T::from_f32(dh[i].to_f32() * value);
    }
}

/// act(g) u at the g and u that `saved` stands for.
pub fn gated_rematerialize<T: Element>(
    activation: Activation,
    shape: Shape,
    config: &Config,
    saved: Saved<'_>,
    h: &mut [T],
) {
    let (g, u) = dequantise(shape, config, saved);
    for i in 0..h.len() {
        h[i] = T::from_f32(value(activation, g[i]) * u[i]);
    }
}
