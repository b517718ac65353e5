//! What each kind computes, forward and backward: the one place where gradients are written.
//!
//! An op says what it saves by returning it; the tape owns how long it lives. A backward gets exactly what its forward
//! returned. Parameters' gradients are summed in f32 into [`Grads`]; a frozen parameter costs no work. Which kinds there are, and
//! what they mean, stands in `unswag-graph`'s table.

use unswag_abi::doc::Dtype;
use unswag_graph::Sizes;

use crate::{
    Activation, AttentionSpec, Backend, Batch, Dropout, EmbeddingSpec, EngineError, Gate, Grads, LayerNorm, PluginRun,
    RmsNorm, RopeSpec, linear::Linear, plugin::PluginOp, rope::Rotary,
};

/// Which of the batch's number lists a node reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    Input,
    Position,
}

/// A node's work. Parameters are positions in the program's list.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Embedding { weight: usize, spec: EmbeddingSpec, ids: Ids },
    Linear(Linear),
    RmsNorm { weight: usize, spec: RmsNorm },
    LayerNorm { weight: usize, bias: Option<usize>, spec: LayerNorm },
    Rotary { rotary: Rotary, dtype: Dtype },
    Rope(RopeSpec),
    Split { sizes: Vec<u64> },
    Concat,
    Slice { start: u64, end: u64 },
    Attention { sinks: Option<usize>, spec: AttentionSpec },
    Activation(Activation),
    Gated(Gate),
    Add,
    Sub,
    Mul,
    Scale(f64),
    Softcap(f64),
    Softmax,
    Dropout { p: f64 },
    Plugin(Box<PluginOp>),
}

/// What an op may look at besides its inputs.
pub(crate) struct Cx<'a, B: Backend> {
    pub backend: &'a B,
    pub params: &'a [B::Tensor],
    pub trainable: &'a [bool],
    pub batch: &'a Batch,
    /// Of this node in this step: recomputing a node gives the same numbers again.
    pub seed: u64,
    /// Whether a backward will come, so that what it needs is to be saved.
    pub saves: bool,
    /// Whether dropout drops.
    pub drops: bool,
    /// Whether anybody will use the outputs: where not, an op may leave them out.
    pub outputs: bool,
    /// The number of the inputs' first row, where they are a stretch of the batch's.
    pub first_row: u64,
    /// Whether the node's forward has run before in this step.
    pub recomputes: bool,
}

pub(crate) type Forward<T> = (Vec<T>, Vec<T>);

impl Op {
    /// The outputs, and what the backward needs.
    pub fn forward<B: Backend>(
        &self,
        cx: &Cx<'_, B>,
        inputs: Vec<B::Tensor>,
    ) -> Result<Forward<B::Tensor>, EngineError> {
        let b = cx.backend;
        let mut inputs = inputs.into_iter();
        let mut next = || inputs.next().expect("a graph's calls have as many inputs as their kind");
        let one = |y| (vec![y], Vec::new());
        Ok(match self {
            Op::Embedding { weight, spec, ids } => one(b.embedding(&cx.params[*weight], cx.ids(*ids), spec)?),
            Op::Linear(layer) => layer.forward(cx, next())?,
            Op::RmsNorm { weight, spec } => {
                let x = next();
                let (y, rstd) = b.rms_norm(&x, &cx.params[*weight], spec)?;
                (vec![y], vec![x, rstd])
            }
            Op::LayerNorm { weight, bias, spec } => {
                let x = next();
                let bias = bias.map(|bias| &cx.params[bias]);
                let [y, mean, rstd] = b.layer_norm(&x, &cx.params[*weight], bias, spec)?;
                (vec![y], vec![x, mean, rstd])
            }
            Op::Rotary { rotary, dtype } => {
                let rows = cx.batch.rows();
                let positions = &cx.batch.position_ids;
                let table = |sin| b.tensor_from_f32([rows, rotary.dim], *dtype, &|| rotary.table(positions, sin));
                (vec![table(false)?, table(true)?], Vec::new())
            }
            Op::Rope(spec) => {
                let (q, k, cos, sin) = (next(), next(), next(), next());
                let turned = vec![b.rope(q, &cos, &sin, spec, false)?, b.rope(k, &cos, &sin, spec, false)?];
                (turned, vec![cos, sin])
            }
            Op::Split { sizes } => {
                let x = next();
                let mut start = 0;
                let mut parts = Vec::new();
                for &size in sizes {
                    parts.push(b.columns(&x, start, size)?);
                    start += size;
                }
                (parts, Vec::new())
            }
            Op::Concat => {
                let parts: Vec<_> = std::iter::from_fn(|| inputs.next()).collect();
                (vec![b.concat(&parts)?], parts)
            }
            Op::Slice { start, end } => {
                let x = next();
                (vec![b.columns(&x, *start, end - start)?], vec![x])
            }
            Op::Attention { sinks, spec } => {
                let (q, k, v) = (next(), next(), next());
                let sinks = sinks.map(|sinks| &cx.params[sinks]);
                let (y, lse) = b.attention(&q, &k, &v, sinks, cx.documents(), &cx.sized(spec))?;
                (vec![y.clone()], vec![q, k, v, y, lse])
            }
            Op::Activation(of) => {
                let x = next();
                (vec![b.activation(&x, *of)?], vec![x])
            }
            Op::Gated(of) => {
                let (gate, up) = (next(), next());
                (vec![b.gated(&gate, &up, *of)?], vec![gate, up])
            }
            Op::Add => one(b.add(next(), next())?),
            Op::Sub => one(b.sub(next(), &next())?),
            Op::Mul => {
                let (x, y) = (next(), next());
                (vec![b.mul(x.clone(), &y)?], vec![x, y])
            }
            Op::Scale(by) => one(b.scale(next(), *by)?),
            Op::Softcap(cap) => {
                let y = b.softcap(&next(), *cap)?;
                (vec![y.clone()], vec![y])
            }
            Op::Softmax => {
                let y = b.softmax(&next())?;
                (vec![y.clone()], vec![y])
            }
            Op::Dropout { p } if *p > 0.0 && cx.drops => one(b.dropout(&next(), &cx.dropout(*p))?),
            Op::Dropout { .. } => one(next()),
            Op::Plugin(op) => {
                let mut all: Vec<_> = inputs.collect();
                all.extend(op.params.iter().map(|(param, _)| cx.params[*param].clone()));
                let call = op.call(cx.sizes(), all.iter().map(|x| b.dtype(x)).collect())?;
                let (outputs, mut saved) = b.plugin_forward(&call, &all, cx.plugin_run())?;
                saved.extend(call.plan.saves_inputs.iter().map(|&index| all[index].clone()));
                saved.extend(call.plan.saves_outputs.iter().map(|&index| outputs[index].clone()));
                (outputs, saved)
            }
        })
        .map(|(outputs, saved)| (outputs, if cx.saves { saved } else { Vec::new() }))
    }

    /// The gradients of the inputs, `None` where `needs` says that nobody asks or where there is none.
    ///
    /// `dys`: one per output.
    pub fn backward<B: Backend>(
        &self,
        cx: &Cx<'_, B>,
        dys: Vec<B::Tensor>,
        saved: Vec<B::Tensor>,
        needs: &[bool],
        grads: &mut Grads<B::Tensor>,
    ) -> Result<Vec<Option<B::Tensor>>, EngineError> {
        let b = cx.backend;
        let mut dys = dys.into_iter();
        let mut dy = || dys.next().expect("one gradient for each output");
        let one = |dx| vec![Some(dx)];
        Ok(match self {
            Op::Embedding { weight, spec, ids } => {
                if cx.trainable[*weight] {
                    let dweight = grads.of(b, *weight, b.shape(&cx.params[*weight]))?;
                    b.embedding_backward(&dweight, &dy(), cx.ids(*ids), spec)?;
                }
                Vec::new()
            }
            Op::Linear(layer) => vec![layer.backward(cx, dy(), saved, needs[0], grads)?],
            Op::RmsNorm { weight, spec } => {
                let [x, rstd] = exactly(saved);
                let (dx, dweight) =
                    b.rms_norm_backward(&dy(), &x, &cx.params[*weight], &rstd, spec, cx.trainable[*weight])?;
                if let Some(dweight) = dweight {
                    grads.add(b, *weight, dweight)?;
                }
                one(dx)
            }
            Op::LayerNorm { weight, bias, .. } => {
                let [x, mean, rstd] = exactly(saved);
                let wants = cx.trainable[*weight] || bias.is_some_and(|bias| cx.trainable[bias]);
                let (dx, dparams) = b.layer_norm_backward(&dy(), &x, &cx.params[*weight], [&mean, &rstd], wants)?;
                if let Some((dweight, dbias)) = dparams {
                    if cx.trainable[*weight] {
                        grads.add(b, *weight, dweight)?;
                    }
                    if let Some(bias) = bias.filter(|&bias| cx.trainable[bias]) {
                        grads.add(b, bias, dbias)?;
                    }
                }
                one(dx)
            }
            Op::Rotary { .. } => Vec::new(),
            Op::Rope(spec) => {
                let [cos, sin] = exactly(saved);
                let dq = b.rope(dy(), &cos, &sin, spec, true)?;
                let dk = b.rope(dy(), &cos, &sin, spec, true)?;
                vec![Some(dq), Some(dk), None, None]
            }
            Op::Split { .. } => one(b.concat(&dys.collect::<Vec<_>>())?),
            Op::Concat => {
                let dy = dy();
                let mut start = 0;
                let mut parts = Vec::new();
                for part in saved {
                    let columns = b.shape(&part)[1];
                    parts.push(Some(b.columns(&dy, start, columns)?));
                    start += columns;
                }
                parts
            }
            Op::Slice { start, end } => {
                let [x] = exactly(saved);
                let (dy, [rows, columns], dtype) = (dy(), b.shape(&x), b.dtype(&x));
                drop(x);
                let mut parts = Vec::new();
                if *start > 0 {
                    parts.push(b.zeros([rows, *start], dtype)?);
                }
                parts.push(dy);
                if *end < columns {
                    parts.push(b.zeros([rows, columns - end], dtype)?);
                }
                one(b.concat(&parts)?)
            }
            Op::Attention { spec, sinks } => {
                let ([q, k, v, y, lse], dy) = (exactly(saved), dy());
                let spec = cx.sized(spec);
                if let Some(sinks) = sinks.filter(|&sinks| cx.trainable[sinks]) {
                    let dsinks = b.attention_sinks_backward(&dy, [&y, &lse], &cx.params[sinks], &spec)?;
                    grads.add(b, sinks, dsinks)?;
                }
                let dqkv = b.attention_backward(&dy, [&q, &k, &v, &y, &lse], cx.documents(), &spec)?;
                dqkv.map(Some).into()
            }
            Op::Activation(of) => {
                let [x] = exactly(saved);
                one(b.activation_backward(&dy(), &x, *of)?)
            }
            Op::Gated(of) => {
                let [gate, up] = exactly(saved);
                let (dgate, dup) = b.gated_backward(&dy(), &gate, &up, *of)?;
                vec![Some(dgate), Some(dup)]
            }
            Op::Add => {
                let dy = dy();
                vec![Some(dy.clone()), Some(dy)]
            }
            Op::Sub => {
                let dy = dy();
                vec![Some(dy.clone()), needs[1].then(|| b.scale(dy, -1.0)).transpose()?]
            }
            Op::Mul => {
                let ([x, y], dy) = (exactly(saved), dy());
                let dx = needs[0].then(|| b.mul(dy.clone(), &y)).transpose()?;
                drop(y);
                vec![dx, needs[1].then(|| b.mul(dy, &x)).transpose()?]
            }
            Op::Scale(by) => one(b.scale(dy(), *by)?),
            Op::Softcap(cap) => {
                let [y] = exactly(saved);
                one(b.softcap_backward(dy(), &y, *cap)?)
            }
            Op::Softmax => {
                let [y] = exactly(saved);
                one(b.softmax_backward(&dy(), &y)?)
            }
            // The mask is a function of the seed, so that nothing of it is kept.
            Op::Dropout { p } if *p > 0.0 && cx.drops => one(b.dropout(&dy(), &cx.dropout(*p))?),
            Op::Dropout { .. } => one(dy()),
            Op::Plugin(op) => {
                let dys: Vec<_> = dys.collect();
                let call = op.planned(cx.sizes())?;
                let trained = op.params.iter().map(|(param, _)| cx.trainable[*param]);
                let wants: Vec<bool> = needs.iter().copied().chain(trained).collect();
                let mut dxs = b.plugin_backward(&call, &dys, &saved, &wants, cx.plugin_run())?;
                for ((param, _), dparam) in op.params.iter().zip(dxs.split_off(needs.len())) {
                    if let Some(dparam) = dparam {
                        grads.add(b, *param, b.cast(&dparam, Dtype::F32)?)?;
                    }
                }
                dxs
            }
        })
    }

    /// What a consumer did not keep, made again from what the op saved.
    pub fn rematerialize<B: Backend>(
        &self,
        cx: &Cx<'_, B>,
        saved: &[B::Tensor],
        output: usize,
    ) -> Result<B::Tensor, EngineError> {
        if let Op::Plugin(op) = self {
            let call = op.planned(cx.sizes())?;
            let made = &call.plan.rematerializes;
            let at = made.iter().position(|&index| index == output).expect("checked when it was planned");
            return Ok(cx.backend.plugin_rematerialize(&call, saved, cx.plugin_run())?.swap_remove(at));
        }
        let inputs = self.saved_inputs(saved.len(), cx.trainable);
        let inputs = inputs.into_iter().map(|(at, _)| saved[at].clone()).collect();
        let (mut made, _) = self.forward(&Cx { saves: false, ..*cx }, inputs)?;
        Ok(made.swap_remove(output))
    }

    /// Whether making the outputs again takes little beside a product.
    pub fn is_cheap(&self) -> bool {
        matches!(self, Op::RmsNorm { .. } | Op::LayerNorm { .. } | Op::Activation(_) | Op::Gated(_))
    }

    /// Which of the saved tensors are inputs as they came: (place among the saved, input).
    pub fn saved_inputs(&self, inputs: usize, trainable: &[bool]) -> Vec<(usize, usize)> {
        let first = |count: usize| (0..count).map(|at| (at, at)).collect();
        match self {
            Op::Linear(layer) if layer.needs_x(trainable) => first(1),
            Op::RmsNorm { .. } | Op::LayerNorm { .. } | Op::Slice { .. } | Op::Activation(_) => first(1),
            Op::Gated(_) | Op::Mul => first(2),
            Op::Attention { .. } => first(3),
            Op::Concat => first(inputs),
            _ => Vec::new(),
        }
    }

    /// Positions of the parameters that this op gives a gradient to, if they are trained.
    pub fn params(&self) -> Vec<usize> {
        match self {
            Op::Embedding { weight, .. } | Op::RmsNorm { weight, .. } => vec![*weight],
            Op::LayerNorm { weight, bias, .. } => [Some(*weight), *bias].into_iter().flatten().collect(),
            Op::Linear(layer) => layer.params(),
            Op::Attention { sinks, .. } => sinks.iter().copied().collect(),
            Op::Plugin(op) => op.params.iter().map(|(param, _)| *param).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether row i of the outputs depends on row i of the inputs alone, so that rows can be worked on in pieces.
    pub fn is_by_row(&self) -> bool {
        // What a plugin's op does with rows only the plugin knows.
        !matches!(self, Op::Attention { .. } | Op::Embedding { .. } | Op::Rotary { .. } | Op::Plugin(_))
    }
}

impl<B: Backend> Cx<'_, B> {
    /// A linear layer's weight for a product. Where it is stored quantised its elements are there as long as this handle is.
    pub fn plain_weight(&self, weight: usize) -> Result<B::Tensor, EngineError> {
        self.backend.dequantize(&self.params[weight])
    }

    fn ids(&self, ids: Ids) -> &[u32] {
        match ids {
            Ids::Input => &self.batch.input_ids,
            Ids::Position => &self.batch.position_ids,
        }
    }

    fn documents(&self) -> Option<&[u32]> {
        Some(self.batch.document_ids.as_slice()).filter(|documents| !documents.is_empty())
    }

    pub fn dropout(&self, p: f64) -> Dropout {
        Dropout { p, seed: self.seed, first_row: self.first_row }
    }

    fn plugin_run(&self) -> PluginRun {
        PluginRun { seed: self.seed, saves: self.saves, recomputes: self.recomputes }
    }

    fn sizes(&self) -> Sizes {
        Sizes { batch: self.batch.batch, seq: self.batch.seq, other: 1 }
    }

    fn sized(&self, spec: &AttentionSpec) -> AttentionSpec {
        AttentionSpec { batch: self.batch.batch, seq: self.batch.seq, ..*spec }
    }
}

fn exactly<T, const N: usize>(saved: Vec<T>) -> [T; N] {
    saved.try_into().unwrap_or_else(|saved: Vec<T>| unreachable!("saved {} tensors, took {N}", saved.len()))
}
