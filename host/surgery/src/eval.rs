//! Makes a new parameter's data from the checkpoint's tensors: evaluates [`Expr`] in f64 and rounds once.
//!
//! The input is a patch that the graph crate has already checked, so a wrong shape here is a defect of ours; it is still an
//! error and not a panic, because records are files that people edit. Singular value decompositions are kept for as long
//! as neighbours in the patch ask for other parts of the same one.

mod random;
mod round;
mod tensor;

use unswag_abi::doc::{Dtype, Expr, Meta, SvdPart};

pub use round::{decode, encode};
pub use tensor::Tensor;

/// Where an expression's tensors come from: the checkpoint, or a test's map.
pub trait Source {
    /// Element type and shape of tensor `name`, and its data as stored: row-major, little-endian.
    fn tensor(&self, name: &str) -> Result<(Meta, Vec<u8>), String>;
}

/// What went wrong, from the innermost operation outwards.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    #[error("tensor {name}: {reason}")]
    Source { name: String, reason: String },
    #[error("{op}: expected {expected}, got {got}")]
    Shape { op: &'static str, expected: String, got: String },
    #[error(
        "{dtype} of tensor {name} holds no numbers that an expression can use; expected one of F64, F32, F16, BF16"
    )]
    Dtype { name: String, dtype: Dtype },
    #[error(
        "svd of a {rows}x{cols} matrix did not converge; it holds {non_finite} values that are NaN or infinite: check the checkpoint's tensors"
    )]
    Svd { rows: usize, cols: usize, non_finite: usize },
    #[error("{op}: {elements} elements do not fit this machine's memory")]
    TooLarge { op: &'static str, elements: u128 },
}

/// Evaluates the expressions of one patch; keeps the last few decompositions, so all calls must be given one source.
#[derive(Default)]
pub struct Evaluator {
    decompositions: Vec<(Expr, tensor::Svd)>,
}

/// A layer's patch takes the parts of one or two decompositions, one after the other.
const KEPT_DECOMPOSITIONS: usize = 2;

impl Evaluator {
    /// The expression's value.
    ///
    /// # Errors
    /// A tensor that the source lacks, an operand of the wrong shape, a decomposition that does not converge.
    pub fn eval(&mut self, expr: &Expr, source: &dyn Source) -> Result<Tensor, EvalError> {
        match expr {
            Expr::Tensor(name) => load(name, source),
            Expr::Full { shape, value } => Tensor::full(shape, *value),
            Expr::Eye(size) => Tensor::eye(*size),
            Expr::Normal { shape, std, seed } => random::normal(shape, *std, *seed),
            Expr::Cat { of, dim } => {
                let parts = of.iter().map(|part| self.eval(part, source)).collect::<Result<Vec<_>, _>>()?;
                tensor::cat(&parts, *dim)
            }
            Expr::Slice { of, dim, start, end } => self.eval(of, source)?.slice(*dim, *start, *end),
            Expr::Reshape { of, shape } => self.eval(of, source)?.reshape(shape),
            Expr::Permute { of, dims } => self.eval(of, source)?.permute(dims),
            Expr::Add(a, b) => tensor::zip("add", &self.eval(a, source)?, &self.eval(b, source)?, |a, b| a + b),
            Expr::Sub(a, b) => tensor::zip("sub", &self.eval(a, source)?, &self.eval(b, source)?, |a, b| a - b),
            Expr::Mul(a, b) => tensor::zip("mul", &self.eval(a, source)?, &self.eval(b, source)?, |a, b| a * b),
            Expr::Matmul(a, b) => tensor::matmul(&self.eval(a, source)?, &self.eval(b, source)?),
            Expr::Scale { of, by } => Ok(self.eval(of, source)?.map(|x| x * by)),
            Expr::Sqrt(of) => Ok(self.eval(of, source)?.map(f64::sqrt)),
            Expr::Svd { of, rank, part } => self.svd_part(of, *rank, *part, source),
            Expr::Cast { of, dtype } => {
                let value = self.eval(of, source)?;
                let bytes = encode(&value, *dtype).map_err(|dtype| EvalError::Dtype { name: "cast".into(), dtype })?;
                decode(&Meta { dtype: *dtype, shape: value.shape_u64() }, &bytes)
                    .map_err(|dtype| EvalError::Dtype { name: "cast".into(), dtype })
            }
        }
    }

    fn svd_part(&mut self, of: &Expr, rank: u64, part: SvdPart, source: &dyn Source) -> Result<Tensor, EvalError> {
        let known = self.decompositions.iter().position(|(expr, _)| expr == of);
        let at = match known {
            Some(at) => at,
            None => {
                let decomposition = tensor::svd(&self.eval(of, source)?)?;
                if self.decompositions.len() == KEPT_DECOMPOSITIONS {
                    self.decompositions.remove(0);
                }
                self.decompositions.push((of.clone(), decomposition));
                self.decompositions.len() - 1
            }
        };
        let svd = &self.decompositions[at].1;
        match part {
            SvdPart::U => svd.u.slice(1, 0, rank),
            SvdPart::S => svd.s.slice(0, 0, rank),
            SvdPart::Vh => svd.vh.slice(0, 0, rank),
        }
    }
}

fn load(name: &str, source: &dyn Source) -> Result<Tensor, EvalError> {
    let (meta, bytes) = source.tensor(name).map_err(|reason| EvalError::Source { name: name.to_owned(), reason })?;
    decode(&meta, &bytes).map_err(|dtype| EvalError::Dtype { name: name.to_owned(), dtype })
}
