//! Delhi: activations whose backward reads a few bits per element instead of the input.
//!
//! * [`silu`], [`gelu`]: y = act(x) exactly; the forward leaves a 1 to 4-bit code of x, and the backward multiplies by the
//!   code's level, the best piecewise-constant derivative of that many pieces ([`tables`]).
//! * [`swiglu`], [`geglu`]: h = act(g) u exactly; what is saved is g and u themselves (`exact`), or both in groups of 8, 4
//!   or 2 bits, from which the backward takes value and derivative alike, and from which h can be made again.
//!
//! Only the backward is an approximation, and `exact` is none. [`reference`] is the specification; the vector bodies in
//! `code.rs` and `gated/` give its bits.
//!
//! **Layout.** Codes of b bits are one little-endian bit stream in u32 words: code i is bits b i .. b (i + 1), bit k being bit
//! k mod 32 of word k / 32, so a 3-bit code may straddle two words; unused bits at the end are zero. The un-gated ops run one
//! stream through the whole tensor; the gated ops start a new word at each row.

pub(crate) mod code;
pub(crate) mod gated;
pub mod geglu;
pub mod gelu;
mod group;
pub mod reference;
pub mod silu;
pub mod swiglu;
pub mod tables;

use serde::{Deserialize, Serialize};

pub use gated::{Config, Mode, Rounding, Saved, SavedMut, Shape};
pub use group::{DEFAULT_GROUP, SavedSizes, saved_sizes};
pub use tables::{CodeTable, Weighting};

use crate::KernelError;

/// An activation function; its formula is the function of the same name in [`crate::math`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x sigmoid(x).
    Silu,
    /// x Phi(x), by the error function.
    Gelu,
    /// The tanh form of GELU (`gelu_pytorch_tanh`, `gelu_new`).
    GeluTanh,
}

impl Activation {
    pub const ALL: [Activation; 3] = [Activation::Silu, Activation::Gelu, Activation::GeluTanh];

    /// `silu`, `gelu` or `gelu_tanh`.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_tanh",
        }
    }
}

impl std::str::FromStr for Activation {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        Activation::ALL.into_iter().find(|activation| activation.name() == name).ok_or_else(|| KernelError::Name {
            what: "activation",
            expected: "silu, gelu, gelu_tanh",
            got: name.into(),
        })
    }
}

/// Words that `elements` codes of `bits` bits take; the size of `codes` in [`silu::forward`]. `None` on overflow.
pub fn code_words(elements: usize, bits: u32) -> Option<usize> {
    Some(elements.checked_mul(bits as usize)?.div_ceil(32))
}
