//! What PyTorch saves for the backward of each kind, with fused norms and SDPA, where every linear layer is trained or has
//! LoRA. Transformers' eager RMSNorm saves more: intermediate tensors in f32.
//!
//! Only called on calls that passed inference, so an index or a last dimension that inference asked for is there.

use unswag_abi::doc::{Dim, Dtype, Value};

use super::{Call, Save};

pub(super) fn nothing(_: &Call<'_>) -> Vec<Save> {
    Vec::new()
}

pub(super) fn input(_: &Call<'_>) -> Vec<Save> {
    vec![Save::Input(0)]
}

pub(super) fn inputs(call: &Call<'_>) -> Vec<Save> {
    (0..call.inputs.len()).map(Save::Input).collect()
}

pub(super) fn outputs(call: &Call<'_>) -> Vec<Save> {
    (0..call.kind.outputs.len()).map(Save::Output).collect()
}

pub(super) fn rms_norm(call: &Call<'_>) -> Vec<Save> {
    let mut rows = per_row(call);
    if let Some((group, width)) = call.u64("group").zip(call.inputs[0].shape.last().and_then(Dim::fixed)) {
        rows.push(Dim::Fixed(width / group));
    }
    vec![Save::Input(0), made("rstd", Dtype::F32, rows)]
}

pub(super) fn layer_norm(call: &Call<'_>) -> Vec<Save> {
    let rows = per_row(call);
    vec![Save::Input(0), made("mean", Dtype::F32, rows.clone()), made("rstd", Dtype::F32, rows)]
}

pub(super) fn attention(call: &Call<'_>) -> Vec<Save> {
    let mut lse = per_row(call);
    lse.extend(call.u64("num_heads").map(Dim::Fixed));
    let mut saves = inputs(call);
    saves.extend([Save::Output(0), made("lse", Dtype::F32, lse)]);
    saves
}

pub(super) fn relu2(call: &Call<'_>) -> Vec<Save> {
    vec![like_input("relu(x)", call, 0)]
}

pub(super) fn softcap(call: &Call<'_>) -> Vec<Save> {
    vec![like_input("tanh(x / cap)", call, 0)]
}

pub(super) fn swiglu(call: &Call<'_>) -> Vec<Save> {
    vec![Save::Input(0), Save::Input(1), like_input("silu(gate)", call, 0)]
}

pub(super) fn geglu(call: &Call<'_>) -> Vec<Save> {
    vec![Save::Input(0), Save::Input(1), like_input("gelu(gate)", call, 0)]
}

/// ReLU's backward reads its result, so the gate itself is free to go.
pub(super) fn reglu(call: &Call<'_>) -> Vec<Save> {
    vec![Save::Input(1), like_input("relu(gate)", call, 0)]
}

pub(super) fn dropout(call: &Call<'_>) -> Vec<Save> {
    if call.f64("p") == Some(0.0) {
        return Vec::new();
    }
    vec![made("mask", Dtype::Bool, call.inputs[0].shape.clone())]
}

pub(super) fn kl_div(call: &Call<'_>) -> Vec<Save> {
    vec![like_input("log_softmax(student)", call, 0), like_input("softmax(teacher)", call, 1)]
}

fn like_input(label: &'static str, call: &Call<'_>, index: usize) -> Save {
    Save::Made { label, value: call.inputs[index].clone() }
}

fn made(label: &'static str, dtype: Dtype, shape: Vec<Dim>) -> Save {
    Save::Made { label, value: Value { dtype, shape } }
}

/// The first input's shape without its last dimension.
fn per_row(call: &Call<'_>) -> Vec<Dim> {
    let shape = &call.inputs[0].shape;
    shape[..shape.len().saturating_sub(1)].to_vec()
}
