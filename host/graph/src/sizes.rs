//! Numbers in the place of symbols, so that a plan can be asked for and bytes be counted.

use unswag_abi::doc::{Dim, Meta, Value};

/// What `batch`, `seq` and any other symbol are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub batch: u64,
    pub seq: u64,
    pub other: u64,
}

impl Sizes {
    /// The call at which bytes per token are counted: one sequence of 2,048 tokens.
    pub const REFERENCE: Sizes = Sizes { batch: 1, seq: 2048, other: 1 };

    /// A second call, odd in every size, at which a plan must agree with the stated types too.
    pub const ODD: Sizes = Sizes { batch: 3, seq: 37, other: 5 };

    /// Tokens in the call.
    pub fn tokens(&self) -> u64 {
        self.batch.saturating_mul(self.seq)
    }

    pub fn of(&self, dim: &Dim) -> u64 {
        match dim {
            Dim::Fixed(size) => *size,
            Dim::Symbol(name) => match name.as_str() {
                "batch" => self.batch,
                "seq" => self.seq,
                _ => self.other,
            },
        }
    }

    /// The value with its symbols filled in.
    pub fn meta(&self, value: &Value) -> Meta {
        Meta { dtype: value.dtype, shape: value.shape.iter().map(|dim| self.of(dim)).collect() }
    }

    /// Bytes per token of the value. A size that does not fit 64 bits counts as the largest: `validate` refuses it.
    pub fn bytes_per_token(&self, value: &Value) -> f64 {
        self.meta(value).bytes().unwrap_or(u64::MAX) as f64 / self.tokens().max(1) as f64
    }
}
