//! What the kernels do, in libtorch's own operations: several passes over memory each, on any device and in any element type.
//!
//! This is what a device without kernels of ours runs, and what the kernels are held against.

use tch::{Kind, TchError, Tensor};
use unswag_engine::{Activation, IGNORED, LayerNorm, RmsNorm, RopeSpec};

use crate::tensor::wide;

type Made<T = Tensor> = Result<T, TchError>;

pub(crate) fn act(x: &Tensor, of: Activation) -> Made {
    match of {
        Activation::Silu => x.f_silu(),
        Activation::Gelu => x.f_gelu("none"),
        Activation::GeluTanh => x.f_gelu("tanh"),
        Activation::Relu => x.f_relu(),
        Activation::Relu2 => x.f_relu()?.f_pow_tensor_scalar(2),
        Activation::Tanh => x.f_tanh(),
        Activation::Sigmoid => x.f_sigmoid(),
    }
}

/// dy act'(x).
pub(crate) fn act_backward(dy: &Tensor, x: &Tensor, of: Activation) -> Made {
    match of {
        Activation::Silu => x.f_silu_backward(dy),
        Activation::Gelu => x.f_gelu_backward(dy, "none"),
        Activation::GeluTanh => x.f_gelu_backward(dy, "tanh"),
        Activation::Relu => x.f_threshold_backward(dy, 0),
        Activation::Relu2 => x.f_relu()?.f_mul_scalar(2)?.f_mul(dy),
        Activation::Tanh => Tensor::f_tanh_backward(dy, &x.f_tanh()?),
        Activation::Sigmoid => Tensor::f_sigmoid_backward(dy, &x.f_sigmoid()?),
    }
}

/// values\[codes\] absmax, a scale for each `block` codes.
pub(crate) fn scaled_blocks(codes: &Tensor, absmax: &Tensor, values: &[f32], block: i64) -> Made {
    let (elements, values) = (codes.numel() as i64, Tensor::f_from_slice(values)?.f_to_device(codes.device())?);
    let scales = absmax.f_repeat_interleave_self_int(block, 0, None)?.f_narrow(0, 0, elements)?;
    values.f_index_select(0, &codes.f_to_kind(Kind::Int)?)?.f_mul(&scales)
}

/// x as \[rows, groups, group\] in f32.
fn grouped(x: &Tensor, spec: &RmsNorm) -> Made {
    let (rows, columns) = x.size2()?;
    let group = spec.group.map_or(columns, |group| group as i64);
    x.f_to_kind(wide(x.kind()))?.f_reshape([rows, columns / group, group])
}

/// The factor in f32, and whether the product is taken in it (Gemma) or after rounding to the element type (Llama).
fn factor(weight: &Tensor, spec: &RmsNorm) -> Made {
    let weight = weight.f_to_kind(wide(weight.kind()))?;
    if spec.unit_offset { weight.f_add_scalar(1) } else { Ok(weight) }
}

/// cos or sin as \[rows, 1, dim\].
fn per_head(table: &Tensor) -> Made {
    table.f_unsqueeze(1)
}

/// (-x2, x1), of halves or of neighbours.
fn rotate_half(x: &Tensor, spec: &RopeSpec) -> Made {
    let dim = x.size()[2];
    if spec.interleaved {
        let (rows, heads) = (x.size()[0], x.size()[1]);
        let pairs = x.f_reshape([rows, heads, dim / 2, 2])?;
        let (even, odd) = (pairs.f_narrow(3, 0, 1)?, pairs.f_narrow(3, 1, 1)?);
        Tensor::f_cat(&[odd.f_neg()?, even], 3)?.f_reshape([rows, heads, dim])
    } else {
        let (low, high) = (x.f_narrow(2, 0, dim / 2)?, x.f_narrow(2, dim / 2, dim / 2)?);
        Tensor::f_cat(&[high.f_neg()?, low], 2)
    }
}

pub(crate) fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, spec: &RopeSpec, back: bool) -> Made {
    let (rows, columns) = x.size2()?;
    let (head_dim, dim) = (spec.head_dim as i64, cos.size()[1]);
    let x = x.f_reshape([rows, columns / head_dim, head_dim])?;
    let turned = x.f_narrow(2, 0, dim)?;
    let (cos, sin) = (per_head(cos)?, per_head(sin)?);
    // The tables repeat each frequency in halves; neighbours take each frequency twice in a row.
    let (cos, sin) = if spec.interleaved {
        let twice = |x: &Tensor| x.f_narrow(2, 0, dim / 2)?.f_repeat_interleave_self_int(2, 2, None);
        (twice(&cos)?, twice(&sin)?)
    } else {
        (cos, sin)
    };
    // A rotation's transpose is the rotation by the opposite angle.
    let sin = if back { sin.f_neg()? } else { sin };
    let y = turned.f_mul(&cos)?.f_add(&rotate_half(&turned, spec)?.f_mul(&sin)?)?.f_to_kind(x.kind())?;
    let y = if dim < head_dim { Tensor::f_cat(&[y, x.f_narrow(2, dim, head_dim - dim)?], 2)? } else { y };
    y.f_reshape([rows, columns])
}

/// Log-probabilities need no more than the log-sum-exp and the target's logit.
fn losses(logits: &Tensor, targets: &Tensor) -> Result<(f64, Tensor, Tensor), TchError> {
    let logits = logits.f_to_kind(wide(logits.kind()))?;
    let lse = logits.f_logsumexp(1, true)?;
    let counted = targets.f_ne(IGNORED)?;
    let index = targets.f_clamp_min(0)?.f_unsqueeze(1)?;
    let loss = lse.f_sub(&logits.f_gather(1, &index, false)?)?.f_squeeze_dim(1)?;
    let sum =
        loss.f_to_kind(Kind::Double)?.f_where_self(&counted, &Tensor::f_zeros([1], (Kind::Double, loss.device()))?)?;
    Ok((sum.f_sum(Kind::Double)?.f_double_value(&[])?, logits.f_sub(&lse)?, index))
}

/// y and rstd.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, spec: &RmsNorm) -> Made<(Tensor, Tensor)> {
    let kind = x.kind();
    let wide = grouped(x, spec)?;
    let squares = wide.f_mul(&wide)?.f_mean_dim(2i64, true, None::<Kind>)?;
    let rstd = squares.f_add_scalar(spec.eps)?.f_rsqrt()?;
    let normal = wide.f_mul(&rstd)?;
    let y = if spec.unit_offset {
        normal.f_mul(&factor(weight, spec)?)?.f_to_kind(kind)?
    } else {
        normal.f_to_kind(kind)?.f_mul(weight)?
    };
    Ok((y.f_reshape(x.size())?, rstd.f_squeeze_dim(2)?))
}

/// dx, and dweight where it is wanted.
pub(crate) fn rms_norm_backward(
    [dy, x, weight, rstd]: [&Tensor; 4],
    spec: &RmsNorm,
    wants_dweight: bool,
) -> Made<(Tensor, Option<Tensor>)> {
    let (dy, wide) = (grouped(dy, spec)?, grouped(x, spec)?);
    let rstd = rstd.f_unsqueeze(2)?;
    let normal = wide.f_mul(&rstd)?;
    let dweight = match wants_dweight {
        true => Some(dy.f_mul(&normal)?.f_sum_dim_intlist(&[0i64, 1][..], false, Kind::Float)?.f_reshape([1, -1])?),
        false => None,
    };
    let dnormal = dy.f_mul(&factor(weight, spec)?)?;
    let along = dnormal.f_mul(&normal)?.f_mean_dim(2i64, true, None::<Kind>)?;
    let dx = dnormal.f_sub(&normal.f_mul(&along)?)?.f_mul(&rstd)?;
    Ok((dx.f_to_kind(x.kind())?.f_reshape(x.size())?, dweight))
}

/// y, mean and rstd.
pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, spec: &LayerNorm) -> Made<[Tensor; 3]> {
    let columns = x.size()[1];
    let flat = |x: &Tensor| x.f_reshape([columns]);
    let bias = bias.map(flat).transpose()?;
    let (y, mean, rstd) = x.f_native_layer_norm(columns, Some(flat(weight)?), bias, spec.eps)?;
    Ok([y, mean.f_to_kind(wide(x.kind()))?, rstd.f_to_kind(wide(x.kind()))?])
}

/// dx, and dweight and dbias where they are wanted.
pub(crate) fn layer_norm_backward(
    [dy, x, weight, mean, rstd]: [&Tensor; 5],
    wants_dparams: bool,
) -> Made<(Tensor, Option<(Tensor, Tensor)>)> {
    let widened = |x: &Tensor| x.f_to_kind(wide(x.kind()));
    let dy = widened(dy)?;
    let normal = widened(x)?.f_sub(mean)?.f_mul(rstd)?;
    let sum = |x: &Tensor| x.f_sum_dim_intlist(0i64, true, Kind::Float);
    let dparams = if wants_dparams { Some((sum(&dy.f_mul(&normal)?)?, sum(&dy)?)) } else { None };
    let dnormal = dy.f_mul(&widened(weight)?)?;
    let average = |x: &Tensor| x.f_mean_dim(1i64, true, None::<Kind>);
    let along = average(&dnormal.f_mul(&normal)?)?;
    let dx = dnormal.f_sub(&average(&dnormal)?)?.f_sub(&normal.f_mul(&along)?)?.f_mul(rstd)?;
    Ok((dx.f_to_kind(x.kind())?, dparams))
}

/// The summed loss, and the gradient of that sum times `scale`, in f32.
pub(crate) fn cross_entropy(logits: &Tensor, targets: &[i64], scale: f64) -> Made<(f64, Tensor)> {
    let device = logits.device();
    let targets = Tensor::f_from_slice(targets)?.f_to_device(device)?;
    let (sum, mut log_p, index) = losses(logits, &targets)?;
    let mut gradient = log_p.f_exp_()?;
    let minus = Tensor::f_full(index.size(), -1.0, (gradient.kind(), device))?;
    drop(gradient.f_scatter_add_(1, &index, &minus)?);
    let factor = targets.f_ne(IGNORED)?.f_to_kind(gradient.kind())?.f_mul_scalar(scale)?.f_unsqueeze(1)?;
    // A row that does not count has no gradient, whatever its logits are.
    Ok((sum, gradient.f_mul(&factor)?.f_where_self(&factor.f_ne(0)?, &factor.f_zeros_like()?)?))
}

/// The summed loss alone.
pub(crate) fn cross_entropy_value(logits: &Tensor, targets: &[i64]) -> Made<f64> {
    Ok(losses(logits, &Tensor::f_from_slice(targets)?.f_to_device(logits.device())?)?.0)
}
