//! How a new parameter is made from the checkpoint's tensors: a small expression language, evaluated by the host.

use serde::{Deserialize, Serialize};

use super::Dtype;

/// A tensor expression. Arithmetic is done in f64 and rounded once, to the parameter's dtype, at the end.
///
/// `{"svd": {"of": {"cat": {"of": [{"tensor": "k"}, {"tensor": "v"}], "dim": 0}}, "rank": 24, "part": "vh"}}`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expr {
    /// A tensor of the checkpoint as it was before the patch, by name.
    Tensor(String),
    /// Every element is `value`.
    Full {
        shape: Vec<u64>,
        value: f64,
    },
    /// The identity matrix.
    Eye(u64),
    /// Independent normal deviates, the same for the same seed on every machine.
    Normal {
        shape: Vec<u64>,
        std: f64,
        seed: u64,
    },
    Cat {
        of: Vec<Expr>,
        dim: usize,
    },
    /// Elements `start..end` of dimension `dim`.
    Slice {
        of: Box<Expr>,
        dim: usize,
        start: u64,
        end: u64,
    },
    Reshape {
        of: Box<Expr>,
        shape: Vec<u64>,
    },
    /// `dims[i]` is the source dimension of result dimension `i`.
    Permute {
        of: Box<Expr>,
        dims: Vec<usize>,
    },
    /// Element by element, with NumPy's broadcasting.
    Add(Box<Expr>, Box<Expr>),
    Sub(Box<Expr>, Box<Expr>),
    Mul(Box<Expr>, Box<Expr>),
    /// Two matrices.
    Matmul(Box<Expr>, Box<Expr>),
    Scale {
        of: Box<Expr>,
        by: f64,
    },
    Sqrt(Box<Expr>),
    /// One part of the thin singular value decomposition of a matrix, cut to `rank`.
    Svd {
        of: Box<Expr>,
        rank: u64,
        part: SvdPart,
    },
    /// Rounds to `dtype` in the middle of an expression.
    Cast {
        of: Box<Expr>,
        dtype: Dtype,
    },
}

/// Which factor of `of = U diag(S) Vh`: `u` is [m, rank], `s` is [rank], descending, `vh` is [rank, n].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SvdPart {
    U,
    S,
    Vh,
}
