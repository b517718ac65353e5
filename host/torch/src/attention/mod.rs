//! Attention in blocks of queries, from plain matrix products, with its backward.
//!
//! For each block of queries: s = scale q k^T over the keys that any of them sees, capped and masked; lse = log sum exp(s)
//! (with the sink, where there is one); p = exp(s - lse); y = p v. The backward makes p again from lse:
//! dv += p^T dy, ds = p (dy v^T - sum(dy y)), dq = scale ds k, dk += scale ds^T q. Dao et al. 2022.
//!
//! Heads that share a key lie side by side as rows of one product, so that keys are never repeated. Scores exist for one
//! block of [`AttentionSpec::BLOCK`] queries at a time. Products are in the element type, everything between in f32. What stands
//! here runs on any device, in libtorch's own operations; `cpu.rs` has the kernels.

mod cpu;

use tch::{Kind, TchError, Tensor};
use unswag_engine::{AttentionSpec, EngineError};

use crate::{
    memory::Pool,
    tensor::{torch_error, wide},
};

type Made<T = Tensor> = Result<T, TchError>;

/// An attention, and which document each row is of where its sequences hold several.
pub(crate) struct Masked<'a> {
    pub spec: &'a AttentionSpec,
    pub documents: Option<&'a [u32]>,
}

impl<'a> Masked<'a> {
    /// The documents of one sequence.
    fn sequence(&self, index: usize) -> Option<&'a [u32]> {
        let seq = self.spec.seq as usize;
        self.documents.map(|documents| &documents[index * seq..(index + 1) * seq])
    }

    /// The first token of any sequence's document that `token` is in: nobody from there on sees an earlier one.
    fn document_start(&self, token: u64) -> u64 {
        let start =
            |documents: &[u32]| documents.partition_point(|&document| document < documents[token as usize]) as u64;
        let sequences = (0..self.spec.batch as usize).filter_map(|index| self.sequence(index));
        sequences.map(start).min().unwrap_or(0)
    }
}

/// y \[rows, heads * v_head_dim\] and lse \[rows, heads\] f32 are written.
pub(crate) fn forward(
    [q, k, v]: [&Tensor; 3],
    sinks: Option<&Tensor>,
    masked: &Masked<'_>,
    kernels: Option<&Pool>,
    [y, lse]: [&Tensor; 2],
) -> Result<(), EngineError> {
    if let Some(pool) = kernels.filter(|_| cpu::is_served(q, masked)) {
        return cpu::forward([q, k, v], sinks, masked, pool, [y, lse]);
    }
    let (made, sums) = composed(q, k, v, sinks, masked).map_err(torch_error)?;
    let put = |to: &Tensor, from: &Tensor| to.shallow_clone().f_copy_(from);
    put(y, &made).and_then(|()| put(lse, &sums)).map_err(torch_error)
}

/// dq, dk and dv, shaped as q, k and v, are written.
pub(crate) fn backward(
    dy: &Tensor,
    saved: [&Tensor; 5],
    masked: &Masked<'_>,
    kernels: Option<&Pool>,
    to: [&Tensor; 3],
) -> Result<(), EngineError> {
    if let Some(pool) = kernels.filter(|_| cpu::is_served(dy, masked)) {
        return cpu::backward(dy, saved, masked, pool, to);
    }
    let made = composed_backward(dy, saved, masked).map_err(torch_error)?;
    let mut pairs = to.iter().zip(&made);
    pairs.try_for_each(|(to, from)| to.shallow_clone().f_copy_(from)).map_err(torch_error)
}

/// A sink is a score whose value is 0: p (0 - y dy), p = exp(sink - lse), summed over rows.
pub(crate) fn sinks_backward([dy, y, lse, sinks]: [&Tensor; 4], spec: &AttentionSpec) -> Made<Tensor> {
    let heads = [dy.size()[0], spec.heads as i64, spec.v_head_dim as i64];
    let kind = wide(dy.kind());
    let through = dy.f_to_kind(kind)?.f_mul(y)?.f_reshape(heads)?.f_sum_dim_intlist(2i64, false, kind)?;
    let p = sinks.f_to_kind(kind)?.f_reshape([1, heads[1]])?.f_sub(lse)?.f_exp()?;
    p.f_mul(&through)?.f_sum_dim_intlist(0i64, true, Kind::Float)?.f_neg()
}

fn composed(q: &Tensor, k: &Tensor, v: &Tensor, sinks: Option<&Tensor>, masked: &Masked<'_>) -> Made<(Tensor, Tensor)> {
    let shape = Shape::of(masked.spec);
    let (q, k, v) = (shape.queries(q, shape.d)?, shape.keys(k, shape.d)?, shape.keys(v, shape.dv)?);
    let device = q.device();
    let y = Tensor::f_empty([shape.b, shape.t, shape.h, shape.g, shape.dv], (q.kind(), device))?;
    let lse = Tensor::f_empty([shape.b, shape.t, shape.h, shape.g], (wide(q.kind()), device))?;
    for range in shape.ranges(masked) {
        let (part, sum) = attend(&shape, &shape.part(&q, &range)?, [&k, &v], sinks, &range, masked)?;
        shape.put(&y, &part, &range, shape.dv)?;
        let part = sum.f_reshape([shape.b, shape.h, shape.g, range.queries])?.f_permute([0, 3, 1, 2])?;
        lse.f_narrow(1, range.first_query, range.queries)?.f_copy_(&part)?;
    }
    let rows = shape.b * shape.t;
    Ok((y.f_reshape([rows, shape.h * shape.g * shape.dv])?, lse.f_reshape([rows, shape.h * shape.g])?))
}

/// A range's values, and the log-sum-exp of its scores.
fn attend(
    shape: &Shape,
    queries: &Tensor,
    [k, v]: [&Tensor; 2],
    sinks: Option<&Tensor>,
    range: &Range,
    masked: &Masked<'_>,
) -> Made<(Tensor, Tensor)> {
    let keys = |x: &Tensor| x.f_narrow(1, range.first_key, range.keys);
    let mut scores = shape.scores(queries, &keys(k)?, range, masked)?.0;
    let mut sum = scores.f_logsumexp(-1i64, true)?;
    if let Some(sinks) = sinks {
        let sinks = sinks.f_to_kind(wide(queries.kind()))?.f_reshape([1, shape.h, shape.g, 1, 1])?;
        let whole = sum.f_reshape([shape.b, shape.h, shape.g, range.queries, 1])?;
        sum = whole.f_logaddexp(&sinks)?.f_reshape(sum.size())?;
    }
    let p = scores.f_sub_(&sum)?.f_exp_()?.f_to_kind(queries.kind())?;
    Ok((p.f_bmm(&keys(v)?)?, sum))
}

/// y of queries that are the last of a sequence of `spec.seq` keys.
pub(crate) fn after([q, k, v]: [&Tensor; 3], sinks: Option<&Tensor>, spec: &AttentionSpec) -> Made<Tensor> {
    let (shape, masked) = (Shape::of(spec), Masked { spec, documents: None });
    let new = Shape { t: q.size()[0], ..shape };
    let past = shape.t - new.t;
    let y = Tensor::f_empty([1, new.t, new.h, new.g, new.dv], (q.kind(), q.device()))?;
    let (q, k, v) = (new.queries(q, new.d)?, shape.keys(k, shape.d)?, shape.keys(v, shape.dv)?);
    for start in (0..new.t).step_by(AttentionSpec::BLOCK as usize) {
        let queries = (new.t - start).min(AttentionSpec::BLOCK as i64);
        let (first, last) = spec.keys((past + start) as u64, (past + start + queries) as u64);
        let here = Range { first_query: start, queries, first_key: first as i64, keys: (last - first) as i64 };
        let part = new.part(&q, &here)?;
        let in_text = Range { first_query: past + start, ..here };
        let part = attend(&shape, &part, [&k, &v], sinks, &in_text, &masked)?.0;
        new.put(&y, &part, &here, new.dv)?;
    }
    y.f_reshape([new.t, new.h * new.g * new.dv])
}

fn composed_backward(dy: &Tensor, [q, k, v, y, lse]: [&Tensor; 5], masked: &Masked<'_>) -> Made<[Tensor; 3]> {
    let shape = Shape::of(masked.spec);
    let kind = q.kind();
    let products = dy.f_to_kind(wide(kind))?.f_mul(y)?;
    let rows = shape.b * shape.t;
    let delta = products.f_reshape([rows, shape.h * shape.g, shape.dv])?.f_sum_dim_intlist(2i64, false, wide(kind))?;
    drop(products);
    let (delta, lse) = (shape.queries(&delta, 1)?, shape.queries(lse, 1)?);
    let (q, dy) = (shape.queries(q, shape.d)?, shape.queries(dy, shape.dv)?);
    let (k, v) = (shape.keys(k, shape.d)?, shape.keys(v, shape.dv)?);
    let device = q.device();
    let dq = Tensor::f_empty([shape.b, shape.t, shape.h, shape.g, shape.d], (kind, device))?;
    let sums = |like: &Tensor| Tensor::f_zeros(like.size(), (wide(kind), device));
    let (dk, dv) = (sums(&k)?, sums(&v)?);
    for range in shape.ranges(masked) {
        let keys = |x: &Tensor| x.f_narrow(1, range.first_key, range.keys);
        let (queries, dy) = (shape.part(&q, &range)?, shape.part(&dy, &range)?);
        let (mut scores, slope) = shape.scores(&queries, &keys(&k)?, &range, masked)?;
        let p = scores.f_sub_(&shape.part(&lse, &range)?)?.f_exp_()?;
        let narrow = p.f_to_kind(kind)?;
        drop(keys(&dv)?.f_add_(&narrow.f_transpose(1, 2)?.f_bmm(&dy)?)?);
        let dp = dy.f_bmm(&keys(&v)?.f_transpose(1, 2)?)?.f_to_kind(wide(kind))?;
        let mut ds = dp.f_sub(&shape.part(&delta, &range)?)?.f_mul_(&p)?;
        if let Some(slope) = slope {
            drop(ds.f_mul_(&slope)?);
        }
        let ds = ds.f_mul_scalar_(masked.spec.scale)?.f_to_kind(kind)?;
        shape.put(&dq, &ds.f_bmm(&keys(&k)?)?, &range, shape.d)?;
        drop(keys(&dk)?.f_add_(&ds.f_transpose(1, 2)?.f_bmm(&queries)?)?);
    }
    let back = |x: &Tensor, d: i64| {
        let x = x.f_to_kind(kind)?.f_reshape([shape.b, shape.h, shape.t, d])?;
        x.f_permute([0, 2, 1, 3])?.f_contiguous()?.f_reshape([rows, shape.h * d])
    };
    Ok([dq.f_reshape([rows, shape.h * shape.g * shape.d])?, back(&dk, shape.d)?, back(&dv, shape.dv)?])
}

/// b sequences of t tokens; h heads of keys, g heads of queries to each; d elements of a query and a key, dv of a value.
#[derive(Clone, Copy)]
struct Shape {
    b: i64,
    t: i64,
    h: i64,
    g: i64,
    d: i64,
    dv: i64,
}

#[derive(Clone, Copy)]
struct Range {
    first_query: i64,
    queries: i64,
    first_key: i64,
    keys: i64,
}

impl Shape {
    fn of(spec: &AttentionSpec) -> Self {
        let [b, t, h] = [spec.batch, spec.seq, spec.kv_heads].map(|size| size as i64);
        Shape { b, t, h, g: spec.heads as i64 / h, d: spec.head_dim as i64, dv: spec.v_head_dim as i64 }
    }

    /// Blocks of queries, each with the keys that any of its queries sees.
    fn ranges(&self, masked: &Masked<'_>) -> Vec<Range> {
        let (spec, at_once) = (masked.spec, AttentionSpec::BLOCK);
        let range = |index: u64| {
            let (start, end) = (index * at_once, ((index + 1) * at_once).min(spec.seq));
            let (first, last) = spec.keys(start, end);
            let first = first.max(masked.document_start(start));
            Range {
                first_query: start as i64,
                queries: (end - start) as i64,
                first_key: first as i64,
                keys: (last - first) as i64,
            }
        };
        (0..spec.seq.div_ceil(at_once)).map(range).collect()
    }

    /// \[rows, h g d\] as \[b, h, g, t, d\].
    fn queries(&self, x: &Tensor, d: i64) -> Made {
        x.f_reshape([self.b, self.t, self.h, self.g, d])?.f_permute([0, 2, 3, 1, 4])
    }

    /// \[rows, h d\] as \[b h, t, d\].
    fn keys(&self, x: &Tensor, d: i64) -> Made {
        x.f_reshape([self.b, self.t, self.h, d])?.f_permute([0, 2, 1, 3])?.f_reshape([self.b * self.h, self.t, d])
    }

    /// A range's queries as \[b h, g queries, d\].
    fn part(&self, x: &Tensor, range: &Range) -> Made {
        let d = x.size()[4];
        x.f_narrow(3, range.first_query, range.queries)?.f_reshape([self.b * self.h, self.g * range.queries, d])
    }

    /// Writes \[b h, g queries, d\] to its place in \[b, t, h, g, d\].
    fn put(&self, to: &Tensor, part: &Tensor, range: &Range, d: i64) -> Made<()> {
        let part = part.f_reshape([self.b, self.h, self.g, range.queries, d])?.f_permute([0, 3, 1, 2, 4])?;
        to.f_narrow(1, range.first_query, range.queries)?.f_copy_(&part)
    }

    /// The scores in f32, \[b h, g queries, keys\], -inf where a query does not see a key; and the soft cap's slope.
    fn scores(&self, q: &Tensor, k: &Tensor, range: &Range, masked: &Masked<'_>) -> Made<(Tensor, Option<Tensor>)> {
        let spec = masked.spec;
        let mut scores = q.f_bmm(&k.f_transpose(1, 2)?)?.f_to_kind(wide(q.kind()))?.f_mul_scalar_(spec.scale)?;
        let mut slope = None;
        if let Some(cap) = spec.softcap {
            let capped = scores.f_div_scalar_(cap)?.f_tanh_()?;
            slope = Some(capped.f_square()?.f_neg_()?.f_add_scalar_(1)?);
            scores = scores.f_mul_scalar_(cap)?;
        }
        if let Some(hidden) = self.hidden(range, masked, q.device())? {
            let mut whole = scores.f_reshape([self.b, self.h * self.g, range.queries, range.keys])?;
            drop(whole.f_masked_fill_(&hidden, f64::NEG_INFINITY)?);
        }
        Ok((scores, slope))
    }

    /// Which keys of the range each query does not see, \[b or 1, 1, queries, keys\]; `None` where it sees all.
    fn hidden(&self, range: &Range, masked: &Masked<'_>, device: tch::Device) -> Made<Option<Tensor>> {
        let numbers = |start: i64, count: i64| Tensor::f_arange_start(start, start + count, (Kind::Int64, device));
        let query = numbers(range.first_query, range.queries)?.f_view([1, 1, -1, 1])?;
        let key = numbers(range.first_key, range.keys)?.f_view([1, 1, 1, -1])?;
        let mut hidden: Option<Tensor> = None;
        let mut hide = |more: Tensor| {
            hidden = Some(match hidden.take() {
                Some(hidden) => hidden.f_bitwise_or_tensor(&more)?,
                None => more,
            });
            Ok::<_, TchError>(())
        };
        if masked.spec.causal {
            hide(key.f_gt_tensor(&query)?)?;
        }
        if let Some(window) = masked.spec.window {
            hide(key.f_le_tensor(&query.f_sub_scalar(window as i64)?)?)?;
        }
        if let Some(documents) = masked.documents {
            let documents: Vec<i64> = documents.iter().map(|&document| document.into()).collect();
            let documents = Tensor::f_from_slice(&documents)?.f_to_device(device)?.f_view([self.b, 1, self.t])?;
            let of = |first: i64, count: i64| documents.f_narrow(2, first, count);
            let (query, key) = (of(range.first_query, range.queries)?, of(range.first_key, range.keys)?);
            hide(query.f_unsqueeze(3)?.f_ne_tensor(&key.f_unsqueeze(2)?)?)?;
        }
        Ok(hidden)
    }
}
