//! The evaluator's own dense tensor: row-major f64, and the handful of operations that [`unswag_abi::doc::Expr`] names.

use faer::{Accum, MatMut, MatRef, Par, linalg::matmul};

use super::EvalError;

#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    /// Row-major; as many as the product of `shape`.
    pub data: Vec<f64>,
}

/// A thin decomposition: `u` [m, k], `s` [k] descending, `vh` [k, n], k = min(m, n).
pub struct Svd {
    pub u: Tensor,
    pub s: Tensor,
    pub vh: Tensor,
}

/// Number of elements of `shape`, if a `Vec<f64>` of them can exist at all.
pub fn elements(op: &'static str, shape: &[u64]) -> Result<usize, EvalError> {
    let count = shape.iter().fold(1u128, |product, &size| product.saturating_mul(u128::from(size)));
    if count > (isize::MAX as u128) / 8 {
        return Err(EvalError::TooLarge { op, elements: count });
    }
    Ok(count as usize)
}

/// A buffer for `count` values, or an error where the allocator refuses: a record may name any shape.
pub fn buffer(op: &'static str, count: usize) -> Result<Vec<f64>, EvalError> {
    let mut data = Vec::new();
    data.try_reserve_exact(count).map_err(|_| EvalError::TooLarge { op, elements: count as u128 })?;
    Ok(data)
}

fn usize_shape(shape: &[u64]) -> Vec<usize> {
    shape.iter().map(|&size| size as usize).collect()
}

fn mismatch(op: &'static str, expected: impl Into<String>, got: impl Into<String>) -> EvalError {
    EvalError::Shape { op, expected: expected.into(), got: got.into() }
}

impl Tensor {
    pub fn full(shape: &[u64], value: f64) -> Result<Self, EvalError> {
        let count = elements("full", shape)?;
        let mut data = buffer("full", count)?;
        data.resize(count, value);
        Ok(Self { shape: usize_shape(shape), data })
    }

    pub fn eye(size: u64) -> Result<Self, EvalError> {
        let mut eye = Self::full(&[size, size], 0.0)?;
        for row in 0..eye.shape[0] {
            eye.data[row * (eye.shape[0] + 1)] = 1.0;
        }
        Ok(eye)
    }

    pub fn shape_u64(&self) -> Vec<u64> {
        self.shape.iter().map(|&size| size as u64).collect()
    }

    pub fn map(mut self, f: impl Fn(f64) -> f64) -> Self {
        self.data.iter_mut().for_each(|x| *x = f(*x));
        self
    }

    pub fn reshape(mut self, shape: &[u64]) -> Result<Self, EvalError> {
        if elements("reshape", shape)? != self.data.len() {
            return Err(mismatch("reshape", format!("{} elements", self.data.len()), format!("shape {shape:?}")));
        }
        self.shape = usize_shape(shape);
        Ok(self)
    }

    /// Elements `start..end` of dimension `dim`.
    pub fn slice(&self, dim: usize, start: u64, end: u64) -> Result<Self, EvalError> {
        let Some(&size) = self.shape.get(dim) else {
            return Err(mismatch("slice", format!("a dimension below {}", self.shape.len()), format!("{dim}")));
        };
        if start > end || end > size as u64 {
            return Err(mismatch("slice", format!("a range within 0..{size}"), format!("{start}..{end}")));
        }
        let (start, end) = (start as usize, end as usize);
        let inner: usize = self.shape[dim + 1..].iter().product();
        let outer: usize = self.shape[..dim].iter().product();
        let mut data = buffer("slice", outer * (end - start) * inner)?;
        for row in 0..outer {
            let base = row * size * inner;
            data.extend_from_slice(&self.data[base + start * inner..base + end * inner]);
        }
        let mut shape = self.shape.clone();
        shape[dim] = end - start;
        Ok(Self { shape, data })
    }

    /// `dims[i]` is the source dimension of result dimension `i`.
    pub fn permute(&self, dims: &[usize]) -> Result<Self, EvalError> {
        let rank = self.shape.len();
        let mut seen = vec![false; rank];
        for &dim in dims {
            if dim >= rank || std::mem::replace(&mut seen[dim], true) {
                return Err(mismatch("permute", format!("each of 0..{rank} once"), format!("{dims:?}")));
            }
        }
        if dims.len() != rank {
            return Err(mismatch("permute", format!("each of 0..{rank} once"), format!("{dims:?}")));
        }
        let strides = row_major_strides(&self.shape);
        let shape: Vec<usize> = dims.iter().map(|&dim| self.shape[dim]).collect();
        let steps: Vec<usize> = dims.iter().map(|&dim| strides[dim]).collect();
        let mut data = buffer("permute", self.data.len())?;
        for_each_offset(&shape, &[&steps], |[at]| data.push(self.data[at]));
        Ok(Self { shape, data })
    }

    fn matrix(&self, op: &'static str) -> Result<MatRef<'_, f64>, EvalError> {
        match self.shape[..] {
            [rows, cols] => Ok(MatRef::from_row_major_slice(&self.data, rows, cols)),
            _ => Err(mismatch(op, "a matrix", format!("shape {:?}", self.shape))),
        }
    }
}

fn row_major_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for dim in (1..shape.len()).rev() {
        strides[dim - 1] = strides[dim] * shape[dim];
    }
    strides
}

/// Visits every index of `shape` in row-major order and gives the offset that each set of strides has there.
fn for_each_offset<const N: usize>(shape: &[usize], strides: &[&[usize]; N], mut visit: impl FnMut([usize; N])) {
    let count: usize = shape.iter().product();
    let mut index = vec![0; shape.len()];
    let mut offsets = [0; N];
    for _ in 0..count {
        visit(offsets);
        for dim in (0..shape.len()).rev() {
            index[dim] += 1;
            for (offset, strides) in offsets.iter_mut().zip(strides) {
                *offset += strides[dim];
            }
            if index[dim] < shape[dim] {
                break;
            }
            for (offset, strides) in offsets.iter_mut().zip(strides) {
                *offset -= strides[dim] * shape[dim];
            }
            index[dim] = 0;
        }
    }
}

/// Element by element with NumPy's broadcasting: shapes align at the right, a size of 1 repeats.
pub fn zip(op: &'static str, a: &Tensor, b: &Tensor, f: impl Fn(f64, f64) -> f64) -> Result<Tensor, EvalError> {
    let rank = a.shape.len().max(b.shape.len());
    let padded = |t: &Tensor| -> Vec<usize> {
        std::iter::repeat_n(1, rank - t.shape.len()).chain(t.shape.iter().copied()).collect()
    };
    let (a_shape, b_shape) = (padded(a), padded(b));
    let mut shape = Vec::with_capacity(rank);
    for (&x, &y) in a_shape.iter().zip(&b_shape) {
        if x != y && x != 1 && y != 1 {
            return Err(mismatch(op, "shapes that broadcast", format!("{:?} and {:?}", a.shape, b.shape)));
        }
        shape.push(if x == 1 { y } else { x });
    }
    let steps = |padded: &[usize]| -> Vec<usize> {
        row_major_strides(padded)
            .into_iter()
            .zip(padded)
            .map(|(stride, &size)| if size == 1 { 0 } else { stride })
            .collect()
    };
    let count = elements(op, &shape.iter().map(|&size| size as u64).collect::<Vec<_>>())?;
    let mut data = buffer(op, count)?;
    for_each_offset(&shape, &[&steps(&a_shape), &steps(&b_shape)], |[i, j]| data.push(f(a.data[i], b.data[j])));
    Ok(Tensor { shape, data })
}

pub fn cat(parts: &[Tensor], dim: usize) -> Result<Tensor, EvalError> {
    let Some(first) = parts.first() else {
        return Err(mismatch("cat", "at least one tensor", "none"));
    };
    if dim >= first.shape.len() {
        return Err(mismatch("cat", format!("a dimension below {}", first.shape.len()), format!("{dim}")));
    }
    let mut shape = first.shape.clone();
    shape[dim] = 0;
    for part in parts {
        let agrees = part.shape.len() == first.shape.len()
            && part.shape.iter().zip(&first.shape).enumerate().all(|(at, (x, y))| at == dim || x == y);
        if !agrees {
            return Err(mismatch(
                "cat",
                format!("{:?} but for dimension {dim}", first.shape),
                format!("{:?}", part.shape),
            ));
        }
        shape[dim] += part.shape[dim];
    }
    let outer: usize = shape[..dim].iter().product();
    let mut data = buffer("cat", shape.iter().product())?;
    for row in 0..outer {
        for part in parts {
            let chunk: usize = part.shape[dim..].iter().product();
            data.extend_from_slice(&part.data[row * chunk..(row + 1) * chunk]);
        }
    }
    Ok(Tensor { shape, data })
}

pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor, EvalError> {
    let (left, right) = (a.matrix("matmul")?, b.matrix("matmul")?);
    if left.ncols() != right.nrows() {
        return Err(mismatch("matmul", "[m, k] and [k, n]", format!("{:?} and {:?}", a.shape, b.shape)));
    }
    let (rows, cols) = (left.nrows(), right.ncols());
    let mut out = Tensor::full(&[rows as u64, cols as u64], 0.0)?;
    let product = MatMut::from_row_major_slice_mut(&mut out.data, rows, cols);
    // One thread: the order of the sums, and so the bits, must not depend on how many cores a machine has.
    matmul::matmul(product, Accum::Replace, left, right, 1.0, Par::Seq);
    Ok(out)
}

/// The thin decomposition, with signs fixed so that the largest entry of each column of `u` is positive: the
/// decomposition leaves them open, and two machines should write the same file.
pub fn svd(of: &Tensor) -> Result<Svd, EvalError> {
    let matrix = of.matrix("svd")?;
    let (m, n) = (matrix.nrows(), matrix.ncols());
    let k = m.min(n);
    let non_finite = of.data.iter().filter(|x| !x.is_finite()).count();
    let failed = || EvalError::Svd { rows: m, cols: n, non_finite };
    if non_finite > 0 {
        return Err(failed());
    }
    faer::set_global_parallelism(Par::Seq);
    let parts = matrix.thin_svd().map_err(|_| failed())?;
    let (u, s, v) = (parts.U(), parts.S(), parts.V());
    let mut result = Svd {
        u: Tensor::full(&[m as u64, k as u64], 0.0)?,
        s: Tensor::full(&[k as u64], 0.0)?,
        vh: Tensor::full(&[k as u64, n as u64], 0.0)?,
    };
    for col in 0..k {
        let largest =
            (0..m).map(|row| u[(row, col)]).fold(0.0, |best: f64, x| if x.abs() > best.abs() { x } else { best });
        let sign = if largest < 0.0 { -1.0 } else { 1.0 };
        for row in 0..m {
            result.u.data[row * k + col] = sign * u[(row, col)];
        }
        for row in 0..n {
            result.vh.data[col * n + row] = sign * v[(row, col)];
        }
        result.s.data[col] = s.column_vector()[col];
    }
    Ok(result)
}
