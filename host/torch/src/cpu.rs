//! The kernels of `unswag-kernels` on libtorch's tensors: where both are on the CPU, one pass over memory takes the place
//! of the many that libtorch's own operations would make.
//!
//! Every function here checks that tensors are dense, on the CPU and of one element type; the kernels check the lengths.

use half::{bf16, f16};
use tch::{Device, Kind, Tensor};
use unswag_engine::{Dropout, EngineError, Gate, IGNORED, LayerNorm, RmsNorm, RopeSpec};
use unswag_kernels::{
    Element, KernelError, cross_entropy,
    delhi::{Activation, geglu, swiglu},
    elementwise,
    norm::{layer_norm, rms_norm},
    rope,
};

use crate::threads::exec;

pub(crate) type Done = Result<(), EngineError>;

/// Runs `$body` with `$T` being the tensors' element type.
macro_rules! by_element {
    ($kind:expr, $T:ident => $body:expr) => {
        match $kind {
            Kind::Float => {
                type $T = f32;
                $body
            }
            Kind::BFloat16 => {
                type $T = half::bf16;
                $body
            }
            Kind::Half => {
                type $T = half::f16;
                $body
            }
            other => Err(EngineError::Backend(format!("there is no kernel for elements of {other:?}"))),
        }
    };
}
pub(crate) use by_element;

/// Whether there are kernels for tensors like this one.
pub(crate) fn is_served(x: &Tensor) -> bool {
    x.device() == Device::Cpu && matches!(x.kind(), Kind::Float | Kind::BFloat16 | Kind::Half)
}

/// An element type of kernels and what libtorch calls it.
pub(crate) trait Torchlike: Element {
    const KIND: Kind;
}

impl Torchlike for f32 {
    const KIND: Kind = Kind::Float;
}
impl Torchlike for bf16 {
    const KIND: Kind = Kind::BFloat16;
}
impl Torchlike for f16 {
    const KIND: Kind = Kind::Half;
}

fn start<T: Torchlike>(x: &Tensor) -> Result<(*mut T, usize), EngineError> {
    if x.device() != Device::Cpu || x.kind() != T::KIND || !x.is_contiguous() {
        let (kind, device) = (x.kind(), x.device());
        return Err(EngineError::Backend(format!(
            "a kernel expected dense {} on the CPU, got {kind:?} on {device:?}",
            T::NAME
        )));
    }
    match x.numel() {
        // An empty tensor may have no memory at all.
        0 => Ok((std::ptr::NonNull::dangling().as_ptr(), 0)),
        elements => Ok((x.data_ptr().cast(), elements)),
    }
}

/// A tensor's elements.
pub(crate) fn read<T: Torchlike>(x: &Tensor) -> Result<&[T], EngineError> {
    let (start, elements) = start::<T>(x)?;
    // SAFETY: a dense tensor of this kind has so many elements there, any bits are a float, and the borrow keeps it alive.
    // Nothing writes to a tensor while another operation reads it: operations run one after the other.
    Ok(unsafe { std::slice::from_raw_parts(start, elements) })
}

/// A tensor's elements, to be written.
///
/// # Safety
/// No other slice of this memory may be alive.
#[expect(clippy::mut_from_ref, reason = "libtorch's handles are shared; who may write is the caller's promise")]
pub(crate) unsafe fn write<T: Torchlike>(x: &Tensor) -> Result<&mut [T], EngineError> {
    let (start, elements) = start::<T>(x)?;
    // SAFETY: as in `read`; the caller holds the only slice.
    Ok(unsafe { std::slice::from_raw_parts_mut(start, elements) })
}

/// Where a tensor's bytes are, and how many.
fn place(x: &Tensor) -> Result<(*mut u8, usize), EngineError> {
    if x.device() != Device::Cpu || !x.is_contiguous() {
        return Err(EngineError::Backend(format!("expected the bytes of a dense tensor on the CPU, got {x:?}")));
    }
    match x.numel() * x.kind().elt_size_in_bytes() {
        // Aligned for whatever element an empty slice may be taken to be of.
        0 => Ok((std::ptr::NonNull::<u64>::dangling().as_ptr().cast(), 0)),
        bytes => Ok((x.data_ptr().cast(), bytes)),
    }
}

/// A tensor's elements as they lie in memory.
pub(crate) fn read_bytes(x: &Tensor) -> Result<&[u8], EngineError> {
    let (start, bytes) = place(x)?;
    // SAFETY: as in `read`.
    Ok(unsafe { std::slice::from_raw_parts(start, bytes) })
}

/// The same, to be written.
///
/// # Safety
/// As [`write`].
#[expect(clippy::mut_from_ref, reason = "as in `write`")]
pub(crate) unsafe fn write_bytes(x: &Tensor) -> Result<&mut [u8], EngineError> {
    let (start, bytes) = place(x)?;
    // SAFETY: as in `write`.
    Ok(unsafe { std::slice::from_raw_parts_mut(start, bytes) })
}

pub(crate) fn kernel_error(error: KernelError) -> EngineError {
    EngineError::Backend(error.to_string())
}

fn width(x: &Tensor) -> usize {
    x.size().last().map_or(0, |&columns| columns as usize)
}

/// a += b.
pub(crate) fn add(a: &Tensor, b: &Tensor) -> Done {
    by_element!(a.kind(), T => {
        // SAFETY: a's handle is the only one, so b is other memory.
        let to = unsafe { write::<T>(a)? };
        elementwise::add(exec(), to, read(b)?).map_err(kernel_error)
    })
}

/// x *= by.
pub(crate) fn scale(x: &Tensor, by: f64) -> Done {
    by_element!(x.kind(), T => {
        // SAFETY: x's handle is the only one.
        elementwise::scale(exec(), unsafe { write::<T>(x)? }, by as f32).map_err(kernel_error)
    })
}

/// to = values, rounded.
pub(crate) fn from_f32(values: &[f32], to: &Tensor) -> Done {
    by_element!(to.kind(), T => {
        // SAFETY: the values are no tensor's.
        elementwise::from_f32(exec(), values, unsafe { write::<T>(to)? }).map_err(kernel_error)
    })
}

/// x's columns are multiplied by factors.
pub(crate) fn mul_columns(x: &Tensor, factors: &Tensor) -> Done {
    by_element!(x.kind(), T => {
        // SAFETY: x's handle is the only one.
        elementwise::mul_columns(exec(), unsafe { write::<T>(x)? }, read(factors)?).map_err(kernel_error)
    })
}

/// y is written.
pub(crate) fn dropout(x: &Tensor, of: &Dropout, y: &Tensor) -> Done {
    let mask = elementwise::Mask::new(of.p, of.seed, of.first_row);
    by_element!(x.kind(), T => {
        // SAFETY: y was made for this call.
        elementwise::dropout(exec(), mask, width(x), read::<T>(x)?, unsafe { write(y)? }).map_err(kernel_error)
    })
}

fn rms_config(x: &Tensor, spec: &RmsNorm) -> rms_norm::Config {
    let hidden = spec.group.map_or(width(x), |group| group as usize);
    rms_norm::Config { hidden, eps: spec.eps as f32, unit_offset: spec.unit_offset }
}

/// y and rstd are written.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, spec: &RmsNorm, [y, rstd]: [&Tensor; 2]) -> Done {
    by_element!(x.kind(), T => {
        // SAFETY: y and rstd were made for this call.
        let (y, rstd) = unsafe { (write::<T>(y)?, write(rstd)?) };
        rms_norm::forward(exec(), &rms_config(x, spec), read(x)?, read(weight)?, y, rstd).map_err(kernel_error)
    })
}

/// dx is written; dweight, zeros, is added to.
pub(crate) fn rms_norm_backward(
    [dy, x, weight, rstd]: [&Tensor; 4],
    spec: &RmsNorm,
    dx: &Tensor,
    dweight: Option<&Tensor>,
) -> Done {
    let config = rms_config(x, spec);
    by_element!(x.kind(), T => {
        let inputs: [&[T]; 2] = [read(dy)?, read(x)?];
        // SAFETY: dx was made for this call.
        let to = unsafe { write::<T>(dx)? };
        rms_norm::backward(exec(), &config, inputs, read(weight)?, read(rstd)?, to, rms_norm::Write::Set)
            .map_err(kernel_error)?;
        let Some(dweight) = dweight else { return Ok(()) };
        // SAFETY: dweight was made for this call.
        let dweight = unsafe { write(dweight)? };
        rms_norm::weight_gradient(exec(), &config, inputs, read(rstd)?, dweight).map_err(kernel_error)
    })
}

/// y, mean and rstd are written.
pub(crate) fn layer_norm(
    [x, weight]: [&Tensor; 2],
    bias: Option<&Tensor>,
    spec: &LayerNorm,
    [y, mean, rstd]: [&Tensor; 3],
) -> Done {
    let config = layer_norm::Config { hidden: width(x), eps: spec.eps as f32 };
    by_element!(x.kind(), T => {
        let bias = bias.map(read::<T>).transpose()?;
        // SAFETY: y, mean and rstd were made for this call.
        let (y, stats) = unsafe { (write::<T>(y)?, [write(mean)?, write(rstd)?]) };
        layer_norm::forward(exec(), &config, read(x)?, read(weight)?, bias, y, stats).map_err(kernel_error)
    })
}

/// dx is written; dweight and dbias, zeros, are added to.
pub(crate) fn layer_norm_backward(
    [dy, x, weight, mean, rstd]: [&Tensor; 5],
    dx: &Tensor,
    dparams: Option<[&Tensor; 2]>,
) -> Done {
    // rstd has eps in it already.
    let config = layer_norm::Config { hidden: width(x), eps: 0.0 };
    by_element!(x.kind(), T => {
        let inputs: [&[T]; 2] = [read(dy)?, read(x)?];
        let stats: [&[f32]; 2] = [read(mean)?, read(rstd)?];
        // SAFETY: dx was made for this call.
        let to = unsafe { write::<T>(dx)? };
        layer_norm::backward(exec(), &config, inputs, read(weight)?, stats, to, rms_norm::Write::Set)
            .map_err(kernel_error)?;
        let Some([dweight, dbias]) = dparams else { return Ok(()) };
        // SAFETY: both were made for this call.
        let (dweight, dbias) = unsafe { (write(dweight)?, write(dbias)?) };
        layer_norm::weight_gradient(exec(), &config, inputs, stats, dweight, Some(dbias)).map_err(kernel_error)
    })
}

/// x's heads are turned where they are, or from `from`.
pub(crate) fn rope(x: &Tensor, from: Option<&Tensor>, [cos, sin]: [&Tensor; 2], spec: &RopeSpec, back: bool) -> Done {
    let head_dim = spec.head_dim as usize;
    let config = rope::Config { heads: width(x) / head_dim, head_dim, dim: width(cos), interleaved: spec.interleaved };
    by_element!(x.kind(), T => {
        let (cos, sin) = (read::<T>(cos)?, read::<T>(sin)?);
        // SAFETY: x's handle is the only one, or x was made for this call.
        let to = unsafe { write::<T>(x)? };
        match (from, back) {
            (None, false) => rope::forward(exec(), &config, cos, sin, to),
            (None, true) => rope::backward(exec(), &config, cos, sin, to),
            (Some(from), false) => rope::forward_into(exec(), &config, cos, sin, read(from)?, to),
            (Some(from), true) => rope::backward_into(exec(), &config, cos, sin, read(from)?, to),
        }
        .map_err(kernel_error)
    })
}

/// The kernels' name of a gate, where they have it.
pub(crate) fn gate_kernel(gate: Gate) -> Option<Activation> {
    match gate {
        Gate::Silu => Some(Activation::Silu),
        Gate::Gelu => Some(Activation::Gelu),
        Gate::GeluTanh => Some(Activation::GeluTanh),
        Gate::Relu => None,
    }
}

/// y is written.
pub(crate) fn gated([gate, up]: [&Tensor; 2], of: Activation, y: &Tensor) -> Done {
    by_element!(gate.kind(), T => {
        let (g, u) = (read::<T>(gate)?, read(up)?);
        // SAFETY: y was made for this call.
        let to = unsafe { write(y)? };
        match of {
            Activation::Silu => swiglu::plain(exec(), g, u, to),
            of => geglu::plain(exec(), of, g, u, to),
        }
        .map_err(kernel_error)
    })
}

/// dgate and dup are written.
pub(crate) fn gated_backward([dy, gate, up]: [&Tensor; 3], of: Activation, [dgate, dup]: [&Tensor; 2]) -> Done {
    by_element!(gate.kind(), T => {
        let (dy, g, u) = (read::<T>(dy)?, read(gate)?, read(up)?);
        // SAFETY: both were made for this call.
        let (dg, du) = unsafe { (write(dgate)?, write(dup)?) };
        match of {
            Activation::Silu => swiglu::exact_backward(exec(), dy, g, u, dg, du),
            of => geglu::exact_backward(exec(), of, dy, g, u, dg, du),
        }
        .map_err(kernel_error)
    })
}

fn sum(losses: &[f32]) -> f64 {
    losses.iter().map(|&loss| f64::from(loss)).sum()
}

/// The summed loss; the logits become their gradient.
pub(crate) fn cross_entropy(logits: &Tensor, targets: &[i64], scale: f64) -> Result<f64, EngineError> {
    let config = cross_entropy::Config { vocab: width(logits), ignore_index: IGNORED };
    let [mut loss, mut lse] = [(); 2].map(|()| vec![0.0; targets.len()]);
    by_element!(logits.kind(), T => {
        // SAFETY: the logits' handle is the only one.
        let logits = unsafe { write::<T>(logits)? };
        cross_entropy::forward_backward(exec(), &config, logits, targets, scale as f32, &mut loss, &mut lse)
            .map_err(kernel_error)
    })?;
    Ok(sum(&loss))
}

/// The summed loss alone.
pub(crate) fn cross_entropy_value(logits: &Tensor, targets: &[i64]) -> Result<f64, EngineError> {
    let config = cross_entropy::Config { vocab: width(logits), ignore_index: IGNORED };
    let [mut loss, mut lse] = [(); 2].map(|()| vec![0.0; targets.len()]);
    by_element!(logits.kind(), T => {
        cross_entropy::forward(exec(), &config, read::<T>(logits)?, targets, &mut loss, &mut lse).map_err(kernel_error)
    })?;
    Ok(sum(&loss))
}
