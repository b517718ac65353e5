//! Attention on the CPU: libtorch's matrix products, and between them the softmax kernels in one pass over the scores.
//!
//! What is worked on at once is one block of queries against all keys that it sees. Scores are in the element type, as in
//! transformers' eager attention; maxima, sums, probabilities' exponents and the gradients of keys and values over blocks are
//! in f32.

use tch::{Kind, Tensor};
use unswag_engine::EngineError;
use unswag_kernels::softmax;

use super::{Masked, Range, Shape};
use crate::{
    cpu::{Done, Torchlike, by_element, kernel_error, read, write},
    memory::{Pool, Pooled},
    tensor::torch_error,
    threads::exec,
};

/// Memory that is handed back at the end of the call.
struct Scratch<'a> {
    pool: &'a Pool,
    kind: Kind,
}

impl Scratch<'_> {
    fn of(&self, shape: &[i64], kind: Kind) -> Result<Pooled, EngineError> {
        self.pool.tensor(shape, kind).map_err(torch_error)
    }

    /// A dense copy.
    fn copy(&self, x: &Tensor) -> Result<Pooled, EngineError> {
        let mut held = self.of(&x.size(), x.kind())?;
        held.tensor.f_copy_(x).map_err(torch_error)?;
        Ok(held)
    }

    /// a b, one product for each pair of matrices.
    fn bmm(&self, a: &Tensor, b: &Tensor) -> Result<Pooled, EngineError> {
        let held = self.of(&[a.size()[0], a.size()[1], b.size()[2]], self.kind)?;
        drop(a.f_bmm_out(&held.tensor, b).map_err(torch_error)?);
        Ok(held)
    }
}

/// The scores of one sequence, or of all where none has several documents.
fn block<'a>(range: &Range, masked: &Masked<'a>, sequence: usize) -> softmax::Block<'a> {
    let spec = masked.spec;
    let of = |first: i64, count: i64| first as usize..(first + count) as usize;
    softmax::Block {
        rows: range.queries as usize,
        cols: range.keys as usize,
        first_query: range.first_query as usize,
        first_key: range.first_key as usize,
        scale: spec.scale as f32,
        causal: spec.causal,
        sliding_window: spec.window.map(|window| window as usize),
        logit_softcap: spec.softcap.map(|cap| cap as f32),
        documents: masked.sequence(sequence).map(|documents| softmax::Documents {
            queries: &documents[of(range.first_query, range.queries)],
            keys: &documents[of(range.first_key, range.keys)],
        }),
    }
}

/// y and lse are written.
pub(super) fn forward(
    [q, k, v]: [&Tensor; 3],
    sinks: Option<&Tensor>,
    masked: &Masked<'_>,
    pool: &Pool,
    [y, lse]: [&Tensor; 2],
) -> Done {
    by_element!(q.kind(), T => forward_in::<T>([q, k, v], sinks, masked, pool, [y, lse]))
}

fn forward_in<T: Torchlike>(
    [q, k, v]: [&Tensor; 3],
    sinks: Option<&Tensor>,
    masked: &Masked<'_>,
    pool: &Pool,
    [y, lse]: [&Tensor; 2],
) -> Done {
    let (shape, scratch) = (Shape::of(masked.spec), Scratch { pool, kind: q.kind() });
    let (b, h, g, t) = (shape.b, shape.h, shape.g, shape.t);
    let places = || {
        let (k, v) = (shape.strided_keys(k, shape.d)?, shape.strided_keys(v, shape.dv)?);
        Ok((shape.queries(q, shape.d)?, k, v, y.f_view([b, t, h, g, shape.dv])?, lse.f_view([b, t, h, g])?))
    };
    let (q, k, v, y, lse) = places().map_err(torch_error)?;
    let (k, v) = (scratch.copy(&k)?, scratch.copy(&v)?);
    let first = match sinks {
        None => None,
        Some(sinks) => {
            let wide = sinks.f_to_kind(Kind::Float).and_then(|sinks| sinks.f_contiguous()).map_err(torch_error)?;
            Some(read::<f32>(&wide)?.to_vec())
        }
    };
    for range in shape.ranges(masked) {
        let queries = shape.pack(&q, &range, &scratch, shape.d)?;
        let keys = |x: &Tensor| x.f_view([b * h, t, -1])?.f_narrow(1, range.first_key, range.keys);
        let scores = scratch.bmm(&queries, &keys(&k).and_then(|k| k.f_transpose(1, 2)).map_err(torch_error)?)?;
        let rows = (b * h * g * range.queries) as usize;
        let (mut max, mut sum) = match &first {
            None => (vec![f32::NEG_INFINITY; rows], vec![0.0; rows]),
            Some(sinks) => {
                let heads = (0..b).flat_map(|_| sinks.iter().copied());
                let max = heads.flat_map(|sink| std::iter::repeat_n(sink, range.queries as usize)).collect();
                (max, vec![1.0; rows])
            }
        };
        let mut rescale = vec![0.0; rows];
        // SAFETY: the scores were made for this block.
        let weights = unsafe { write::<T>(&scores)? };
        for (sequence, [scores, rows]) in shape.sequences(&range, masked).enumerate() {
            let (max, sum, rescale) = (&mut max[rows.clone()], &mut sum[rows.clone()], &mut rescale[rows]);
            softmax::forward(exec(), &block(&range, masked, sequence), &mut weights[scores], max, sum, rescale)
                .map_err(kernel_error)?;
        }
        let part = scratch.bmm(&scores, &keys(&v).map_err(torch_error)?)?;
        let logs = scratch.of(&[b, h, g, range.queries], Kind::Float)?;
        // SAFETY: both were made for this block.
        let (values, to) = unsafe { (write::<T>(&part)?, write(&logs)?) };
        softmax::finish(exec(), shape.dv as usize, values, &max, &sum, to).map_err(kernel_error)?;
        let put = || {
            shape.put(&y, &part, &range, shape.dv)?;
            lse.f_narrow(1, range.first_query, range.queries)?.f_copy_(&logs.f_permute([0, 3, 1, 2])?)
        };
        put().map_err(torch_error)?;
    }
    Ok(())
}

/// dq, dk and dv are written.
pub(super) fn backward(dy: &Tensor, saved: [&Tensor; 5], masked: &Masked<'_>, pool: &Pool, to: [&Tensor; 3]) -> Done {
    by_element!(dy.kind(), T => backward_in::<T>(dy, saved, masked, pool, to))
}

fn backward_in<T: Torchlike>(
    dy: &Tensor,
    [q, k, v, y, lse]: [&Tensor; 5],
    masked: &Masked<'_>,
    pool: &Pool,
    [dq, dk, dv]: [&Tensor; 3],
) -> Done {
    let (shape, scratch) = (Shape::of(masked.spec), Scratch { pool, kind: q.kind() });
    let (b, h, g, t) = (shape.b, shape.h, shape.g, shape.t);
    let delta = scratch.of(&lse.size(), Kind::Float)?;
    // SAFETY: delta was made just now.
    let to = unsafe { write::<f32>(&delta)? };
    softmax::delta(exec(), shape.dv as usize, read::<T>(dy)?, read(y)?, to).map_err(kernel_error)?;
    let places = || {
        let (k, v) = (shape.strided_keys(k, shape.d)?, shape.strided_keys(v, shape.dv)?);
        Ok((shape.queries(q, shape.d)?, shape.queries(dy, shape.dv)?, k, v, dq.f_view([b, t, h, g, shape.d])?))
    };
    let (q, dy, k, v, dq) = places().map_err(torch_error)?;
    let (delta, lse) = (shape.queries(&delta, 1).map_err(torch_error)?, shape.queries(lse, 1).map_err(torch_error)?);
    let (k, v) = (scratch.copy(&k)?, scratch.copy(&v)?);
    let sums = |d: i64| -> Result<Pooled, EngineError> {
        let mut held = scratch.of(&[b * h, t, d], Kind::Float)?;
        drop(held.tensor.f_zero_().map_err(torch_error)?);
        Ok(held)
    };
    let (dk_sum, dv_sum) = (sums(shape.d)?, sums(shape.dv)?);
    for range in shape.ranges(masked) {
        let (queries, dy) = (shape.pack(&q, &range, &scratch, shape.d)?, shape.pack(&dy, &range, &scratch, shape.dv)?);
        let (delta, lse) = (shape.pack(&delta, &range, &scratch, 1)?, shape.pack(&lse, &range, &scratch, 1)?);
        let keys = |x: &Tensor| x.f_view([b * h, t, -1])?.f_narrow(1, range.first_key, range.keys);
        let turned = |x: &Tensor| keys(x)?.f_transpose(1, 2);
        let scores = scratch.bmm(&queries, &turned(&k).map_err(torch_error)?)?;
        let dp = scratch.bmm(&dy, &turned(&v).map_err(torch_error)?)?;
        // SAFETY: both were made for this block.
        let (p, ds) = unsafe { (write::<T>(&scores)?, write::<T>(&dp)?) };
        let (lse, delta) = (read::<f32>(&lse)?, read::<f32>(&delta)?);
        for (sequence, [scores, rows]) in shape.sequences(&range, masked).enumerate() {
            let (p, ds) = (&mut p[scores.clone()], &mut ds[scores]);
            softmax::backward(exec(), &block(&range, masked, sequence), p, ds, &lse[rows.clone()], &delta[rows])
                .map_err(kernel_error)?;
        }
        let add = |sum: &Pooled, weights: &Pooled, rows: &Pooled| -> Done {
            let part = scratch.bmm(&weights.f_transpose(1, 2).map_err(torch_error)?, rows)?;
            keys(sum).and_then(|mut sum| sum.f_add_(&part)).map(drop).map_err(torch_error)
        };
        add(&dv_sum, &scores, &dy)?;
        add(&dk_sum, &dp, &queries)?;
        let part = scratch.bmm(&dp, &keys(&k).map_err(torch_error)?)?;
        shape.put(&dq, &part, &range, shape.d).map_err(torch_error)?;
    }
    let back = |sum: &Pooled, to: &Tensor, d: i64| {
        let sum = sum.f_view([b, h, t, d])?.f_permute([0, 2, 1, 3])?;
        to.f_view([b, t, h, d])?.f_copy_(&sum)
    };
    back(&dk_sum, dk, shape.d).and_then(|()| back(&dv_sum, dv, shape.dv)).map_err(torch_error)
}

impl Shape {
    /// Which of a range's scores, and of its rows, belong to each sequence; all at once where their masks are the same.
    fn sequences(&self, range: &Range, masked: &Masked<'_>) -> impl Iterator<Item = [std::ops::Range<usize>; 2]> {
        let (pieces, together) = if masked.documents.is_some() { (self.b, 1) } else { (1, self.b) };
        let rows = (together * self.h * self.g * range.queries) as usize;
        let keys = range.keys as usize;
        (0..pieces as usize).map(move |piece| {
            let rows = piece * rows..(piece + 1) * rows;
            [rows.start * keys..rows.end * keys, rows]
        })
    }

    /// \[rows, h d\] as \[b, h, t, d\], nothing copied.
    fn strided_keys(&self, x: &Tensor, d: i64) -> Result<Tensor, tch::TchError> {
        x.f_view([self.b, self.t, self.h, d])?.f_permute([0, 2, 1, 3])
    }

    /// A range's queries as a dense \[b h, g queries, d\].
    fn pack(&self, x: &Tensor, range: &Range, scratch: &Scratch<'_>, d: i64) -> Result<Pooled, EngineError> {
        let part = x.f_narrow(3, range.first_query, range.queries).map_err(torch_error)?;
        let Pooled { tensor, block } = scratch.copy(&part)?;
        let tensor = tensor.f_view([self.b * self.h, self.g * range.queries, d]).map_err(torch_error)?;
        Ok(Pooled { tensor, block })
    }
}
