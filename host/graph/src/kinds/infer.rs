//! Output types of each kind. Sizes come from files and plugins: every product is checked.

use unswag_abi::doc::{Dim, Dtype, Param, Value};

use super::{
    Call, KindError,
    call::{last_fixed, show_shape, show_value},
};

type Types = Result<Vec<Value>, KindError>;

pub(super) fn embedding(call: &Call<'_>) -> Types {
    let ids = call.inputs[0];
    if ids.dtype.is_float() || ids.dtype == Dtype::Bool {
        return Err(call.bad_type("ids", "whole numbers such as I64", ids.dtype));
    }
    let weight = float_param(call, "weight", 2)?;
    let mut shape = ids.shape.clone();
    shape.push(Dim::Fixed(weight.shape[1]));
    let dtype = call.dtype("dtype").unwrap_or(weight.dtype);
    Ok(vec![Value { dtype, shape }])
}

pub(super) fn linear(call: &Call<'_>) -> Types {
    let x = float_input(call, 0)?;
    let weight = float_param(call, "weight", 2)?;
    let (out, width) = match call.bool("transposed") {
        false => (weight.shape[0], weight.shape[1]),
        true => (weight.shape[1], weight.shape[0]),
    };
    let last = last_fixed(call, "x", &x.shape)?;
    if last != width {
        let expected = format!("[.., {width}], as weight {} takes", show_shape(&weight.shape));
        return Err(call.bad_type("x", expected, show_shape(&x.shape)));
    }
    vector(call, "bias", out)?;
    Ok(vec![with_last(x, out)])
}

pub(super) fn rms_norm(call: &Call<'_>) -> Types {
    let x = float_input(call, 0)?;
    let width = last_fixed(call, "x", &x.shape)?;
    let group = call.u64("group").unwrap_or(width);
    if group == 0 || width % group != 0 {
        let expected = format!("a last dimension that is a multiple of the group, {group}");
        return Err(call.bad_type("x", expected, show_shape(&x.shape)));
    }
    vector(call, "weight", group)?;
    Ok(vec![x.clone()])
}

pub(super) fn layer_norm(call: &Call<'_>) -> Types {
    let x = float_input(call, 0)?;
    let width = last_fixed(call, "x", &x.shape)?;
    vector(call, "weight", width)?;
    vector(call, "bias", width)?;
    Ok(vec![x.clone()])
}

pub(super) fn rotary_embedding(call: &Call<'_>) -> Types {
    let positions = call.inputs[0];
    if positions.dtype.is_float() || positions.dtype == Dtype::Bool {
        return Err(call.bad_type("position_ids", "whole numbers such as I64", positions.dtype));
    }
    let dim = call.u64("dim").unwrap_or(0);
    if !dim.is_multiple_of(2) {
        return Err(call.bad_type("dim", "an even number", dim));
    }
    let rope_type = call.text("rope_type").unwrap_or("default");
    let needs: &[&str] = match rope_type {
        "linear" | "yarn" => &["factor"],
        "dynamic" => &["factor", "max_position_embeddings"],
        "llama3" => &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
        "longrope" => &["short_factor", "long_factor"],
        _ => &[],
    };
    if let Some(missing) = needs.iter().find(|name| !call.attrs.contains_key(**name)) {
        let expected = format!("the attribute `{missing}`, as rope_type {rope_type} needs");
        return Err(call.bad_type("attributes", expected, "none"));
    }
    for name in ["short_factor", "long_factor"] {
        if let Some(length) = call.list_len(name).filter(|&length| length as u64 != dim / 2) {
            return Err(call.bad_type(name, format!("{} numbers, half of dim", dim / 2), length));
        }
    }
    let mut shape = positions.shape.clone();
    shape.push(Dim::Fixed(dim));
    let dtype = call.dtype("dtype").unwrap_or(super::DEFAULT_FLOAT);
    let table = Value { dtype, shape };
    Ok(vec![table.clone(), table])
}

pub(super) fn rope(call: &Call<'_>) -> Types {
    let (q, k) = (float_input(call, 0)?, float_input(call, 1)?);
    let (cos, sin) = (float_input(call, 2)?, float_input(call, 3)?);
    if cos != sin {
        return Err(call.bad_type("sin", format!("the type of cos, {}", show_value(cos)), show_value(sin)));
    }
    let head_dim = call.u64("head_dim").unwrap_or(1).max(1);
    let dim = last_fixed(call, "cos", &cos.shape)?;
    if dim > head_dim || dim % 2 != 0 {
        let expected = format!("an even last dimension of at most head_dim, {head_dim}");
        return Err(call.bad_type("cos", expected, show_shape(&cos.shape)));
    }
    for (name, value) in [("q", q), ("k", k)] {
        let width = last_fixed(call, name, &value.shape)?;
        if width % head_dim != 0 {
            let expected = format!("a last dimension that is a multiple of head_dim, {head_dim}");
            return Err(call.bad_type(name, expected, show_shape(&value.shape)));
        }
        if leading(value) != leading(cos) {
            let expected = format!("{} before the last dimension, as cos has", show_shape(leading(cos)));
            return Err(call.bad_type(name, expected, show_shape(&value.shape)));
        }
    }
    Ok(vec![q.clone(), k.clone()])
}

pub(super) fn split(call: &Call<'_>) -> Types {
    let x = call.inputs[0];
    let width = last_fixed(call, "x", &x.shape)?;
    let sizes = call.sizes("sizes");
    let sum = sizes.iter().try_fold(0u64, |sum, &size| sum.checked_add(size));
    if sum != Some(width) {
        let expected = format!("numbers whose sum is {width}, the last dimension of x");
        return Err(call.bad_type("sizes", expected, show_shape(&sizes)));
    }
    Ok(sizes.into_iter().map(|size| with_last(x, size)).collect())
}

pub(super) fn concat(call: &Call<'_>) -> Types {
    let first = call.inputs[0];
    let mut width = 0u64;
    for (i, value) in call.inputs.iter().enumerate() {
        let name = format!("input {i}");
        let last = last_fixed(call, &name, &value.shape)?;
        if value.dtype != first.dtype || leading(value) != leading(first) {
            let expected = format!("{} {} before the last dimension", first.dtype, show_shape(leading(first)));
            return Err(call.bad_type(&name, expected, show_value(value)));
        }
        width =
            width.checked_add(last).ok_or_else(|| call.bad_type(&name, "a sum of sizes that fits 64 bits", last))?;
    }
    Ok(vec![with_last(first, width)])
}

pub(super) fn slice(call: &Call<'_>) -> Types {
    let x = call.inputs[0];
    let width = last_fixed(call, "x", &x.shape)?;
    let (start, end) = (call.u64("start").unwrap_or(0), call.u64("end").unwrap_or(0));
    if start >= end || end > width {
        let expected = format!("start below end and end at most {width}");
        return Err(call.bad_type("start..end", expected, format!("{start}..{end}")));
    }
    Ok(vec![with_last(x, end - start)])
}

pub(super) fn attention(call: &Call<'_>) -> Types {
    let (q, k, v) = (float_input(call, 0)?, float_input(call, 1)?, float_input(call, 2)?);
    let size = |name: &str| call.u64(name).unwrap_or(1);
    let (heads, kv_heads, head_dim) = (size("num_heads"), size("num_key_value_heads"), size("head_dim"));
    let v_head_dim = call.u64("v_head_dim").unwrap_or(head_dim);
    if heads % kv_heads != 0 {
        let expected = format!("a divisor of num_heads, {heads}");
        return Err(call.bad_type("num_key_value_heads", expected, kv_heads));
    }
    let expected = [("q", q, heads, head_dim), ("k", k, kv_heads, head_dim), ("v", v, kv_heads, v_head_dim)];
    for (name, value, heads, head_dim) in expected {
        let fits = value.shape.len() == 3
            && value.shape[2].fixed().is_some_and(|width| Some(width) == heads.checked_mul(head_dim));
        if !fits || value.dtype != q.dtype {
            let expected = format!("{} [batch, seq, {heads} * {head_dim}]", q.dtype);
            return Err(call.bad_type(name, expected, show_value(value)));
        }
    }
    let one_length = k.shape[1] == v.shape[1] && (!call.bool("causal") || q.shape[1] == k.shape[1]);
    if q.shape[0] != k.shape[0] || k.shape[0] != v.shape[0] || !one_length {
        let got = [q, k, v].map(|value| show_shape(&value.shape)).join(", ");
        return Err(call.bad_type("q, k, v", "one batch and one length of sequence", got));
    }
    vector(call, "sinks", heads)?;
    let width = heads
        .checked_mul(v_head_dim)
        .ok_or_else(|| call.bad_type("v_head_dim", "a width that fits 64 bits", v_head_dim))?;
    Ok(vec![with_last(q, width)])
}

pub(super) fn unary(call: &Call<'_>) -> Types {
    Ok(vec![float_input(call, 0)?.clone()])
}

pub(super) fn dropout(call: &Call<'_>) -> Types {
    let p = call.f64("p").unwrap_or(0.0);
    if !(0.0..1.0).contains(&p) {
        return Err(call.bad_type("p", "at least 0 and below 1", p));
    }
    unary(call)
}

pub(super) fn gated(call: &Call<'_>) -> Types {
    same_pair(call)?;
    unary(call)
}

pub(super) fn to_scalar(call: &Call<'_>) -> Types {
    let dtype = float_input(call, 0)?.dtype;
    Ok(vec![Value { dtype, shape: Vec::new() }])
}

pub(super) fn pair_to_scalar(call: &Call<'_>) -> Types {
    same_pair(call)?;
    to_scalar(call)
}

pub(super) fn broadcast(call: &Call<'_>) -> Types {
    let (a, b) = (float_input(call, 0)?, float_input(call, 1)?);
    if a.dtype != b.dtype {
        return Err(call.bad_type("b", format!("the element type of a, {}", a.dtype), b.dtype));
    }
    let rank = a.shape.len().max(b.shape.len());
    let one = Dim::Fixed(1);
    let at = |value: &Value, i: usize| {
        let missing = rank - value.shape.len();
        if i < missing { one.clone() } else { value.shape[i - missing].clone() }
    };
    let mut shape = Vec::with_capacity(rank);
    for i in 0..rank {
        match (at(a, i), at(b, i)) {
            (x, y) if x == y || y == one => shape.push(x),
            (x, y) if x == one => shape.push(y),
            _ => {
                let expected = format!("a shape that broadcasts with a, {}", show_shape(&a.shape));
                return Err(call.bad_type("b", expected, show_shape(&b.shape)));
            }
        }
    }
    Ok(vec![Value { dtype: a.dtype, shape }])
}

pub(super) fn causal_conv1d(call: &Call<'_>) -> Types {
    let x = float_input(call, 0)?;
    let width = last_fixed(call, "x", &x.shape)?;
    let weight = float_param(call, "weight", 2)?;
    if x.shape.len() < 2 || weight.shape[0] != width || weight.shape[1] == 0 {
        let expected = format!("[.., seq, {}], as weight {} takes", weight.shape[0], show_shape(&weight.shape));
        return Err(call.bad_type("x", expected, show_shape(&x.shape)));
    }
    vector(call, "bias", width)?;
    Ok(vec![x.clone()])
}

pub(super) fn matmul(call: &Call<'_>) -> Types {
    let (a, b) = (float_input(call, 0)?, float_input(call, 1)?);
    let rank = a.shape.len();
    let bad = || {
        let expected =
            format!("{} of {} dimensions whose inner size fits a, {}", a.dtype, rank.max(2), show_shape(&a.shape));
        call.bad_type("b", expected, show_value(b))
    };
    if rank < 2 || b.shape.len() != rank || a.dtype != b.dtype || a.shape[..rank - 2] != b.shape[..rank - 2] {
        return Err(bad());
    }
    let (inner, outer) = match call.bool("transpose_b") {
        false => (&b.shape[rank - 2], &b.shape[rank - 1]),
        true => (&b.shape[rank - 1], &b.shape[rank - 2]),
    };
    if a.shape[rank - 1] != *inner {
        return Err(bad());
    }
    let mut shape = a.shape.clone();
    shape[rank - 1] = outer.clone();
    Ok(vec![Value { dtype: a.dtype, shape }])
}

fn same_pair(call: &Call<'_>) -> Result<(), KindError> {
    let (a, b) = (call.inputs[0], call.inputs[1]);
    if a == b {
        return Ok(());
    }
    let (first, second) = match call.kind.inputs {
        super::Inputs::Exactly([first, second]) => (*first, *second),
        _ => ("input 0", "input 1"),
    };
    Err(call.bad_type(second, format!("the type of {first}, {}", show_value(a)), show_value(b)))
}

fn float_input<'a>(call: &Call<'a>, index: usize) -> Result<&'a Value, KindError> {
    let value = call.inputs[index];
    if value.dtype.is_float() {
        return Ok(value);
    }
    let name = match call.kind.inputs {
        super::Inputs::Exactly(names) => names[index],
        super::Inputs::AtLeast(_) => "input",
    };
    Err(call.bad_type(name, "floating point", show_value(value)))
}

fn float_param<'a>(call: &'a Call<'_>, role: &str, rank: usize) -> Result<&'a Param, KindError> {
    let param = call.param(role).ok_or_else(|| call.bad_type(role, "a parameter", "none"))?;
    if param.shape.len() != rank {
        return Err(call.bad_type(role, format!("{rank} dimensions"), show_shape(&param.shape)));
    }
    if !param.dtype.is_float() {
        return Err(call.bad_type(role, "floating point", param.dtype));
    }
    Ok(param)
}

/// Checks that the parameter, where there is one, is a vector of this length.
fn vector(call: &Call<'_>, role: &str, length: u64) -> Result<(), KindError> {
    if call.param(role).is_none() {
        return Ok(());
    }
    let param = float_param(call, role, 1)?;
    if param.shape[0] != length {
        return Err(call.bad_type(role, format!("[{length}]"), show_shape(&param.shape)));
    }
    Ok(())
}

fn leading(value: &Value) -> &[Dim] {
    &value.shape[..value.shape.len().saturating_sub(1)]
}

fn with_last(value: &Value, last: u64) -> Value {
    let mut value = value.clone();
    value.shape.pop();
    value.shape.push(Dim::Fixed(last));
    value
}
