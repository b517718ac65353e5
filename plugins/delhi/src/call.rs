//! What both kinds of op read from a call: types, sizes, the activation.

use unswag_kernels::delhi::Activation;
use unswag_sdk::{Attrs, AttrsExt, Dtype, Error, Meta, OpCall, bail};

/// Refuses element types that no kernel has.
pub fn check_dtype(call: &OpCall, meta: &Meta) -> Result<(), Error> {
    match meta.dtype {
        Dtype::F32 | Dtype::Bf16 | Dtype::F16 => Ok(()),
        other => bail!("{}: expected inputs of F32, BF16 or F16, got {other}", call.kind),
    }
}

/// The number of elements, where a tensor of them can exist at all.
pub fn elements(call: &OpCall, meta: &Meta) -> Result<usize, Error> {
    let fits = meta.bytes().is_some_and(|bytes| isize::try_from(bytes).is_ok());
    let elements = meta.elements().filter(|_| fits).and_then(|elements| usize::try_from(elements).ok());
    elements.ok_or_else(|| unswag_sdk::error!("{}: {} {:?} does not fit memory", call.kind, meta.dtype, meta.shape))
}

/// The activation function of an op or of the primitive it stands for; GELU's form is its attribute `approximate`.
pub fn activation(kind: &str, attrs: &Attrs) -> Result<Activation, Error> {
    let kind = kind.rsplit('.').next().unwrap_or(kind);
    if matches!(kind, "silu" | "swiglu") {
        return Ok(Activation::Silu);
    }
    match attrs.read::<String>("approximate")?.as_deref() {
        None | Some("none") => Ok(Activation::Gelu),
        Some("tanh") => Ok(Activation::GeluTanh),
        Some(other) => bail!("attribute \"approximate\": expected \"none\" or \"tanh\", got {other:?}"),
    }
}

/// Runs `$body` with `$T` as the Rust type of `$dtype`'s elements.
macro_rules! by_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            unswag_sdk::Dtype::F32 => {
                type $T = f32;
                $body
            }
            unswag_sdk::Dtype::Bf16 => {
                type $T = unswag_sdk::half::bf16;
                $body
            }
            unswag_sdk::Dtype::F16 => {
                type $T = unswag_sdk::half::f16;
                $body
            }
            other => Err(unswag_sdk::error!("expected tensors of F32, BF16 or F16, got {other}")),
        }
    };
}
pub(crate) use by_dtype;
