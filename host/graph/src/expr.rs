//! Shapes of weight expressions, known without touching a weight.
//!
//! A patch is refused for a bad expression before anything is read or allocated; the numbers in it (sizes, ranks, ranges)
//! come from a plugin and are believed only after they were checked here.

use unswag_abi::doc::{Dtype, Expr, Param, SvdPart};

use crate::{kinds::show_shape, names};

/// Steps from an expression's outside to its inside (an operand of `add` is two). More is no weight surgery, and
/// evaluation recurses, so it must be bounded.
pub const MOST_NESTING: usize = 128;

/// Elements of any tensor on the way: 2^38 in f64 are 2 TiB, beyond any checkpoint's single tensor.
pub const MOST_ELEMENTS: u64 = 1 << 38;

/// Why an expression has no value, and where in it: `svd.of.cat[1]`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{place}: expected {expected}, got {got}")]
pub struct ExprError {
    pub place: String,
    pub expected: String,
    pub got: String,
}

/// The shape of an expression's value. `tensor` gives the checkpoint's tensors by name.
///
/// # Errors
/// A tensor that is not there or holds no numbers, operands that do not fit, sizes out of range, numbers that are not
/// finite, nesting beyond [`MOST_NESTING`].
pub fn shape<'a>(expr: &Expr, tensor: &dyn Fn(&str) -> Option<&'a Param>) -> Result<Vec<u64>, ExprError> {
    Checker { tensor, place: Vec::new() }.shape(expr)
}

/// Names of the tensors that an expression reads, in order of use, repeats included.
pub fn tensors(expr: &Expr) -> Vec<&str> {
    let mut found = Vec::new();
    let mut open = vec![expr];
    while let Some(expr) = open.pop() {
        match expr {
            Expr::Tensor(name) => found.push(name.as_str()),
            Expr::Full { .. } | Expr::Eye(_) | Expr::Normal { .. } => {}
            Expr::Cat { of, .. } => open.extend(of.iter().rev()),
            Expr::Add(a, b) | Expr::Sub(a, b) | Expr::Mul(a, b) | Expr::Matmul(a, b) => open.extend([&**b, &**a]),
            Expr::Slice { of, .. }
            | Expr::Reshape { of, .. }
            | Expr::Permute { of, .. }
            | Expr::Scale { of, .. }
            | Expr::Sqrt(of)
            | Expr::Svd { of, .. }
            | Expr::Cast { of, .. } => open.push(of),
        }
    }
    found
}

/// Whether an expression can read and make tensors of this type.
pub fn computes(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16)
}

/// What [`computes`] allows, for errors.
pub(crate) const COMPUTED: &str = "one of F64, F32, F16, BF16";

struct Checker<'t, 'a> {
    tensor: &'t dyn Fn(&str) -> Option<&'a Param>,
    place: Vec<String>,
}

type Shape = Result<Vec<u64>, ExprError>;

impl Checker<'_, '_> {
    fn shape(&mut self, expr: &Expr) -> Shape {
        if self.place.len() >= MOST_NESTING {
            return Err(self.bad(format!("at most {MOST_NESTING} steps of nesting"), "more"));
        }
        self.place.push(name_of(expr).to_owned());
        let shape = match expr {
            Expr::Tensor(name) => self.tensor(name)?,
            Expr::Full { shape, value } => {
                self.finite("value", *value)?;
                shape.clone()
            }
            Expr::Eye(size) => vec![*size, *size],
            Expr::Normal { shape, std, .. } => {
                self.finite("std", *std)?;
                if *std < 0.0 {
                    return Err(self.bad("std of at least 0", std));
                }
                shape.clone()
            }
            Expr::Cat { of, dim } => self.cat(of, *dim)?,
            Expr::Slice { of, dim, start, end } => self.slice(of, *dim, *start, *end)?,
            Expr::Reshape { of, shape } => {
                let from = self.shape(of)?;
                if self.elements(&from)? != self.elements(shape)? {
                    return Err(
                        self.bad(format!("a shape of as many elements as {}", show_shape(&from)), show_shape(shape))
                    );
                }
                shape.clone()
            }
            Expr::Permute { of, dims } => self.permute(of, dims)?,
            Expr::Add(a, b) | Expr::Sub(a, b) | Expr::Mul(a, b) => {
                let (a, b) = (self.at("0", a)?, self.at("1", b)?);
                broadcast(&a, &b).ok_or_else(|| {
                    self.bad(format!("a shape that broadcasts with {}", show_shape(&a)), show_shape(&b))
                })?
            }
            Expr::Matmul(a, b) => {
                let (a, b) = (self.at("0", a)?, self.at("1", b)?);
                match (&a[..], &b[..]) {
                    (&[m, k], &[inner, n]) if k == inner => vec![m, n],
                    _ => {
                        let got = format!("{} and {}", show_shape(&a), show_shape(&b));
                        return Err(self.bad("matrices [m, k] and [k, n]", got));
                    }
                }
            }
            Expr::Scale { of, by } => {
                self.finite("by", *by)?;
                self.shape(of)?
            }
            Expr::Sqrt(of) => self.shape(of)?,
            Expr::Svd { of, rank, part } => self.svd(of, *rank, *part)?,
            Expr::Cast { of, dtype } => {
                if !computes(*dtype) {
                    return Err(self.bad(COMPUTED, dtype));
                }
                self.shape(of)?
            }
        };
        self.elements(&shape)?;
        self.place.pop();
        Ok(shape)
    }

    fn tensor(&self, name: &str) -> Shape {
        let quoted = names::quoted(name);
        let param = (self.tensor)(name)
            .ok_or_else(|| self.bad("a tensor of the checkpoint as it was before the patch", format!("`{quoted}`")))?;
        if !computes(param.dtype) {
            return Err(self.bad(format!("`{quoted}` to be {COMPUTED}"), param.dtype));
        }
        Ok(param.shape.clone())
    }

    fn cat(&mut self, of: &[Expr], dim: usize) -> Shape {
        let shapes =
            of.iter().enumerate().map(|(i, part)| self.at(&i.to_string(), part)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = shapes.first() else {
            return Err(self.bad("at least one part", "none"));
        };
        self.dimension(first, dim)?;
        let mut sum = 0u64;
        for (i, shape) in shapes.iter().enumerate() {
            let fits = shape.len() == first.len() && (0..first.len()).all(|d| d == dim || shape[d] == first[d]);
            if !fits {
                let expected = format!("part {i} like {} but for dimension {dim}", show_shape(first));
                return Err(self.bad(expected, show_shape(shape)));
            }
            sum = sum.checked_add(shape[dim]).ok_or_else(|| self.bad("sizes that add up in 64 bits", shape[dim]))?;
        }
        let mut shape = first.clone();
        shape[dim] = sum;
        Ok(shape)
    }

    fn slice(&mut self, of: &Expr, dim: usize, start: u64, end: u64) -> Shape {
        let mut shape = self.shape(of)?;
        self.dimension(&shape, dim)?;
        if start >= end || end > shape[dim] {
            let expected =
                format!("start below end and end at most {}, dimension {dim} of {}", shape[dim], show_shape(&shape));
            return Err(self.bad(expected, format!("{start}..{end}")));
        }
        shape[dim] = end - start;
        Ok(shape)
    }

    fn permute(&mut self, of: &Expr, dims: &[usize]) -> Shape {
        let shape = self.shape(of)?;
        let mut sorted = dims.to_vec();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..shape.len()) {
            let expected = format!("each of the {} dimensions of {} once", shape.len(), show_shape(&shape));
            return Err(self.bad(expected, show_shape(dims)));
        }
        Ok(dims.iter().map(|&dim| shape[dim]).collect())
    }

    fn svd(&mut self, of: &Expr, rank: u64, part: SvdPart) -> Shape {
        let shape = self.shape(of)?;
        let &[m, n] = &shape[..] else {
            return Err(self.bad("a matrix", show_shape(&shape)));
        };
        if rank == 0 || rank > m.min(n) {
            let expected = format!("a rank of 1 to {}, the smaller side of {}", m.min(n), show_shape(&shape));
            return Err(self.bad(expected, rank));
        }
        Ok(match part {
            SvdPart::U => vec![m, rank],
            SvdPart::S => vec![rank],
            SvdPart::Vh => vec![rank, n],
        })
    }

    fn at(&mut self, step: &str, expr: &Expr) -> Shape {
        self.place.push(step.to_owned());
        let shape = self.shape(expr)?;
        self.place.pop();
        Ok(shape)
    }

    fn dimension(&self, shape: &[u64], dim: usize) -> Result<(), ExprError> {
        match dim < shape.len() {
            true => Ok(()),
            false => Err(self.bad(format!("a dimension of {}", show_shape(shape)), dim)),
        }
    }

    fn finite(&self, what: &str, number: f64) -> Result<(), ExprError> {
        match number.is_finite() {
            true => Ok(()),
            false => Err(self.bad(format!("a finite {what}"), number)),
        }
    }

    /// Also the check that the shape is one that a tensor may have.
    fn elements(&self, shape: &[u64]) -> Result<u64, ExprError> {
        let elements = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
        match elements {
            Some(elements) if elements <= MOST_ELEMENTS && shape.len() <= 8 => Ok(elements),
            _ => {
                let expected = format!("at most {MOST_ELEMENTS} elements in at most 8 dimensions");
                Err(self.bad(expected, show_shape(shape)))
            }
        }
    }

    fn bad(&self, expected: impl ToString, got: impl ToString) -> ExprError {
        let steps = self.place.len();
        let shown = &self.place[..steps.min(16)];
        let place = match steps > 16 {
            true => format!("{}… ({steps} steps)", shown.join(".")),
            false => shown.join("."),
        };
        ExprError { place, expected: expected.to_string(), got: got.to_string() }
    }
}

/// NumPy's broadcasting; `None` where two sizes differ and neither is 1.
fn broadcast(a: &[u64], b: &[u64]) -> Option<Vec<u64>> {
    let rank = a.len().max(b.len());
    let at = |shape: &[u64], i: usize| (i + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y || y == 1 => Some(x),
            (1, y) => Some(y),
            _ => None,
        })
        .collect()
}

fn name_of(expr: &Expr) -> &'static str {
    match expr {
        Expr::Tensor(_) => "tensor",
        Expr::Full { .. } => "full",
        Expr::Eye(_) => "eye",
        Expr::Normal { .. } => "normal",
        Expr::Cat { .. } => "cat",
        Expr::Slice { .. } => "slice",
        Expr::Reshape { .. } => "reshape",
        Expr::Permute { .. } => "permute",
        Expr::Add(..) => "add",
        Expr::Sub(..) => "sub",
        Expr::Mul(..) => "mul",
        Expr::Matmul(..) => "matmul",
        Expr::Scale { .. } => "scale",
        Expr::Sqrt(_) => "sqrt",
        Expr::Svd { .. } => "svd",
        Expr::Cast { .. } => "cast",
    }
}
