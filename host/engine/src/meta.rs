//! A backend of sizes: every tensor has a shape and no elements, and every byte is counted.

use std::{cell::Cell, rc::Rc};

use unswag_abi::doc::Dtype;

use crate::{
    Activation, AttentionSpec, Backend, CrossEntropy, Dropout, EmbeddingSpec, EngineError, Gate, Held, LayerNorm,
    Meter, ParamInfo, Place, PluginCall, PluginRun, RmsNorm, RopeSpec, Storage, View, Work,
    ledger::{Entry, Ledger},
    workspace,
};

/// Counts what a real backend would allocate.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    ledger: Rc<Ledger>,
    tensors: Rc<Cell<u64>>,
    /// Of the kernels that it counts for; 0 is one.
    threads: usize,
}

/// A tensor of no elements. Rows of a tensor share its memory, so they hold it.
#[derive(Clone, Debug)]
pub struct MetaTensor {
    shape: [u64; 2],
    dtype: Dtype,
    is_quantized: bool,
    memory: Rc<Entry>,
}

impl Meta {
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts what so many threads of kernels want lent.
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    pub fn meter(&self) -> &Meter {
        self.ledger.meter()
    }

    /// Tensors made so far.
    pub fn tensors_made(&self) -> u64 {
        self.tensors.get()
    }

    /// A tensor that is there already: it counts.
    pub fn tensor(&self, shape: [u64; 2], dtype: Dtype) -> MetaTensor {
        self.tensors.set(self.tensors.get() + 1);
        let bytes = shape[0] * shape[1] * dtype.bytes();
        MetaTensor { shape, dtype, is_quantized: false, memory: Rc::new(self.ledger.charge(bytes)) }
    }

    /// The same of a parameter, however it is stored.
    pub fn param(&self, info: &ParamInfo) -> MetaTensor {
        self.tensors.set(self.tensors.get() + 1);
        let is_quantized = info.storage != Storage::Plain;
        MetaTensor {
            shape: info.shape,
            dtype: info.dtype,
            is_quantized,
            memory: Rc::new(self.ledger.charge(info.bytes())),
        }
    }

    /// So many bytes, whatever is in them.
    pub(crate) fn bytes(&self, bytes: u64) -> MetaTensor {
        MetaTensor {
            shape: [1, bytes],
            dtype: Dtype::U8,
            is_quantized: false,
            memory: Rc::new(self.ledger.charge(bytes)),
        }
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Two for each multiplication and addition.
    fn multiplies(&self, rows: u64, inner: u64, columns: u64) {
        let matmul_flops = 2.0 * rows as f64 * inner as f64 * columns as f64;
        self.ledger.work(Work { matmul_flops, ..Work::default() });
    }

    /// An element-wise operation reads and writes tensors of x's size, so many of them.
    fn moves(&self, x: &MetaTensor, tensors: f64) {
        let bytes = x.shape[0] as f64 * x.shape[1] as f64 * x.dtype.bytes() as f64;
        self.ledger.work(Work { moved_bytes: tensors * bytes, ..Work::default() });
    }

    /// Products of queries and keys, `wide` elements to each pair over all heads.
    fn attends(&self, spec: &AttentionSpec, wide: u64) {
        let attention_flops = 2.0 * pairs(spec) * (spec.batch * spec.heads * wide) as f64;
        self.ledger.work(Work { attention_flops, ..Work::default() });
    }

    fn like(&self, x: &MetaTensor) -> Result<MetaTensor, EngineError> {
        Ok(self.tensor(x.shape, x.dtype))
    }

    fn in_place(&self, x: MetaTensor) -> Result<MetaTensor, EngineError> {
        if self.is_unique(&x) { Ok(x) } else { self.like(&x) }
    }
}

/// Pairs of a query and a key whose score is computed, in one sequence: whole blocks of queries against the keys that any of
/// them sees.
fn pairs(spec: &AttentionSpec) -> f64 {
    let (seq, block) = (spec.seq as f64, AttentionSpec::BLOCK as f64);
    // Keys that a block of queries sees grow by a block each time, up to what the window lets it see.
    let most = spec.window.map_or(seq, |window| (window as f64 + block - 1.0).min(seq));
    match spec.causal {
        false => seq * most,
        true => most * (most + block.min(most)) / 2.0 + (seq - most) * most,
    }
}

type Made<T = MetaTensor> = Result<T, EngineError>;

impl Backend for Meta {
    type Tensor = MetaTensor;

    fn entering(&self, place: Place) {
        self.ledger.enter(place);
    }

    fn holds(&self, x: &MetaTensor, held: Held) {
        x.memory.hold(held);
    }

    fn only_counts(&self) -> bool {
        true
    }

    fn shape(&self, x: &MetaTensor) -> [u64; 2] {
        x.shape
    }

    fn dtype(&self, x: &MetaTensor) -> Dtype {
        x.dtype
    }

    fn is_unique(&self, x: &MetaTensor) -> bool {
        Rc::strong_count(&x.memory) == 1
    }

    fn tensor_from_f32(&self, shape: [u64; 2], dtype: Dtype, _values: &dyn Fn() -> Vec<f32>) -> Made {
        Ok(self.tensor(shape, dtype))
    }

    fn zeros(&self, shape: [u64; 2], dtype: Dtype) -> Made {
        Ok(self.tensor(shape, dtype))
    }

    fn cast(&self, x: &MetaTensor, dtype: Dtype) -> Made {
        self.moves(x, 2.0);
        Ok(self.tensor(x.shape, dtype))
    }

    fn dequantize(&self, x: &MetaTensor) -> Made {
        if !x.is_quantized {
            return Ok(x.clone());
        }
        // Four bits are read and an element is written.
        self.moves(x, 1.0 + 0.5 / x.dtype.bytes() as f64);
        self.like(x)
    }

    fn rows(&self, x: &MetaTensor, _start: u64, count: u64) -> MetaTensor {
        MetaTensor { shape: [count, x.shape[1]], ..x.clone() }
    }

    fn columns(&self, x: &MetaTensor, _start: u64, count: u64) -> Made {
        self.moves(x, 2.0 * count as f64 / x.shape[1].max(1) as f64);
        Ok(self.tensor([x.shape[0], count], x.dtype))
    }

    fn concat(&self, parts: &[MetaTensor]) -> Made {
        let columns = parts.iter().map(|part| part.shape[1]).sum();
        let y = self.tensor([parts[0].shape[0], columns], parts[0].dtype);
        self.moves(&y, 2.0);
        Ok(y)
    }

    fn copy_rows(&self, _to: &MetaTensor, _start: u64, from: &MetaTensor) -> Made<()> {
        self.moves(from, 2.0);
        Ok(())
    }

    fn matmul(&self, a: &MetaTensor, av: View, b: &MetaTensor, bv: View) -> Made {
        let rows = a.shape[usize::from(av == View::Transposed)];
        let columns = b.shape[usize::from(bv == View::AsIs)];
        self.multiplies(rows, a.shape[usize::from(av == View::AsIs)], columns);
        Ok(self.tensor([rows, columns], a.dtype))
    }

    fn matmul_add(
        &self,
        y: &MetaTensor,
        _alpha: f64,
        (a, av): (&MetaTensor, View),
        _b: (&MetaTensor, View),
    ) -> Made<()> {
        self.multiplies(y.shape[0], a.shape[usize::from(av == View::AsIs)], y.shape[1]);
        // A sum in another type is added to when the product is there.
        if y.dtype != a.dtype {
            self.ledger.takes(y.shape[0] * y.shape[1] * a.dtype.bytes());
        }
        Ok(())
    }

    fn add_bias(&self, x: MetaTensor, _bias: &MetaTensor) -> Made {
        self.moves(&x, 2.0);
        Ok(x)
    }

    fn mul_columns(&self, x: MetaTensor, _factors: &MetaTensor) -> Made {
        self.moves(&x, 2.0);
        self.in_place(x)
    }

    fn weight_norms(&self, (weight, view): (&MetaTensor, View), _scale: f64, product: &MetaTensor) -> Made {
        self.moves(weight, 1.0);
        self.moves(product, 1.0);
        self.ledger.takes(2 * weight.shape[0] * weight.shape[1] * Dtype::F32.bytes());
        Ok(self.tensor([1, weight.shape[usize::from(view == View::AsIs)]], Dtype::F32))
    }

    fn ratio(&self, a: &MetaTensor, _b: &MetaTensor) -> Made {
        Ok(self.tensor(a.shape, Dtype::F32))
    }

    fn sum_rows(&self, x: &MetaTensor) -> Made {
        self.moves(x, 1.0);
        Ok(self.tensor([1, x.shape[1]], Dtype::F32))
    }

    fn add(&self, a: MetaTensor, b: MetaTensor) -> Made {
        self.moves(&a, 3.0);
        if self.is_unique(&a) { Ok(a) } else { self.in_place(b) }
    }

    fn sub(&self, a: MetaTensor, _b: &MetaTensor) -> Made {
        self.moves(&a, 3.0);
        self.in_place(a)
    }

    fn mul(&self, a: MetaTensor, _b: &MetaTensor) -> Made {
        self.moves(&a, 3.0);
        self.in_place(a)
    }

    fn scale(&self, x: MetaTensor, _by: f64) -> Made {
        self.moves(&x, 2.0);
        self.in_place(x)
    }

    fn embedding(&self, weight: &MetaTensor, ids: &[u32], spec: &EmbeddingSpec) -> Made {
        let y = self.tensor([ids.len() as u64, weight.shape[1]], spec.dtype);
        self.moves(&y, 2.0);
        Ok(y)
    }

    fn embedding_backward(
        &self,
        _dweight: &MetaTensor,
        dy: &MetaTensor,
        _ids: &[u32],
        _spec: &EmbeddingSpec,
    ) -> Made<()> {
        self.moves(dy, 3.0);
        self.ledger.takes(dy.shape[0] * dy.shape[1] * Dtype::F32.bytes());
        Ok(())
    }

    fn rms_norm(&self, x: &MetaTensor, _weight: &MetaTensor, spec: &RmsNorm) -> Made<(MetaTensor, MetaTensor)> {
        self.moves(x, 2.0);
        let groups = spec.group.map_or(1, |group| x.shape[1] / group);
        Ok((self.like(x)?, self.tensor([x.shape[0], groups], Dtype::F32)))
    }

    fn rms_norm_backward(
        &self,
        _dy: &MetaTensor,
        x: &MetaTensor,
        weight: &MetaTensor,
        _rstd: &MetaTensor,
        _spec: &RmsNorm,
        wants_dweight: bool,
    ) -> Made<(MetaTensor, Option<MetaTensor>)> {
        self.moves(x, 3.0);
        let dx = self.like(x)?;
        Ok((dx, wants_dweight.then(|| self.tensor(weight.shape, Dtype::F32))))
    }

    fn layer_norm(
        &self,
        x: &MetaTensor,
        _weight: &MetaTensor,
        _bias: Option<&MetaTensor>,
        _spec: &LayerNorm,
    ) -> Made<[MetaTensor; 3]> {
        self.moves(x, 2.0);
        let stat = || self.tensor([x.shape[0], 1], Dtype::F32);
        Ok([self.like(x)?, stat(), stat()])
    }

    fn layer_norm_backward(
        &self,
        _dy: &MetaTensor,
        x: &MetaTensor,
        weight: &MetaTensor,
        _stats: [&MetaTensor; 2],
        wants_dweight: bool,
    ) -> Made<(MetaTensor, Option<(MetaTensor, MetaTensor)>)> {
        self.moves(x, 3.0);
        let dx = self.like(x)?;
        let made = || self.tensor(weight.shape, Dtype::F32);
        Ok((dx, wants_dweight.then(|| (made(), made()))))
    }

    fn rope(&self, x: MetaTensor, _cos: &MetaTensor, _sin: &MetaTensor, _spec: &RopeSpec, _back: bool) -> Made {
        self.moves(&x, 2.0);
        self.in_place(x)
    }

    fn attention(
        &self,
        q: &MetaTensor,
        _k: &MetaTensor,
        _v: &MetaTensor,
        _sinks: Option<&MetaTensor>,
        _documents: Option<&[u32]>,
        spec: &AttentionSpec,
    ) -> Made<(MetaTensor, MetaTensor)> {
        self.attends(spec, spec.head_dim + spec.v_head_dim);
        let y = self.tensor([q.shape[0], spec.heads * spec.v_head_dim], q.dtype);
        let lse = self.tensor([q.shape[0], spec.heads], Dtype::F32);
        self.ledger.takes(workspace::attention(spec, q.dtype, self.threads)[0]);
        Ok((y, lse))
    }

    fn attention_after(
        &self,
        q: &MetaTensor,
        _k: &MetaTensor,
        _v: &MetaTensor,
        _sinks: Option<&MetaTensor>,
        spec: &AttentionSpec,
    ) -> Made {
        let seen = spec.window.map_or(spec.seq, |window| window.min(spec.seq));
        let wide = spec.heads * (spec.head_dim + spec.v_head_dim);
        let attention_flops = 2.0 * (q.shape[0] * seen) as f64 * wide as f64;
        self.ledger.work(Work { attention_flops, ..Work::default() });
        Ok(self.tensor([q.shape[0], spec.heads * spec.v_head_dim], q.dtype))
    }

    fn attention_backward(
        &self,
        _dy: &MetaTensor,
        [q, k, v, _, _]: [&MetaTensor; 5],
        _documents: Option<&[u32]>,
        spec: &AttentionSpec,
    ) -> Made<[MetaTensor; 3]> {
        // The scores again, dv, dp, dq and dk.
        self.attends(spec, 3 * spec.head_dim + 2 * spec.v_head_dim);
        let made = [self.like(q)?, self.like(k)?, self.like(v)?];
        self.ledger.takes(workspace::attention(spec, q.dtype, self.threads)[1]);
        Ok(made)
    }

    fn attention_sinks_backward(
        &self,
        dy: &MetaTensor,
        _saved: [&MetaTensor; 2],
        _sinks: &MetaTensor,
        spec: &AttentionSpec,
    ) -> Made {
        self.moves(dy, 2.0);
        Ok(self.tensor([1, spec.heads], Dtype::F32))
    }

    fn activation(&self, x: &MetaTensor, _of: Activation) -> Made {
        self.moves(x, 2.0);
        self.like(x)
    }

    fn activation_backward(&self, _dy: &MetaTensor, x: &MetaTensor, _of: Activation) -> Made {
        self.moves(x, 3.0);
        self.like(x)
    }

    fn gated(&self, gate: &MetaTensor, _up: &MetaTensor, _of: Gate) -> Made {
        self.moves(gate, 3.0);
        self.like(gate)
    }

    fn gated_backward(
        &self,
        _dy: &MetaTensor,
        gate: &MetaTensor,
        up: &MetaTensor,
        _of: Gate,
    ) -> Made<(MetaTensor, MetaTensor)> {
        self.moves(gate, 5.0);
        Ok((self.like(gate)?, self.like(up)?))
    }

    fn softcap(&self, x: &MetaTensor, _cap: f64) -> Made {
        self.moves(x, 2.0);
        self.like(x)
    }

    fn softcap_backward(&self, dy: MetaTensor, _y: &MetaTensor, _cap: f64) -> Made {
        self.moves(&dy, 3.0);
        self.in_place(dy)
    }

    fn softmax(&self, x: &MetaTensor) -> Made {
        self.moves(x, 2.0);
        self.like(x)
    }

    fn softmax_backward(&self, dy: &MetaTensor, _y: &MetaTensor) -> Made {
        self.moves(dy, 3.0);
        self.like(dy)
    }

    fn dropout(&self, x: &MetaTensor, _of: &Dropout) -> Made {
        self.moves(x, 2.0);
        self.like(x)
    }

    fn plugin_forward(
        &self,
        call: &PluginCall,
        inputs: &[MetaTensor],
        run: PluginRun,
    ) -> Made<(Vec<MetaTensor>, Vec<MetaTensor>)> {
        inputs.iter().for_each(|x| self.moves(x, 1.0));
        let outputs: Vec<_> = call.outputs().map(|(shape, dtype)| self.tensor(shape, dtype)).collect();
        outputs.iter().for_each(|y| self.moves(y, 1.0));
        let saved: Vec<_> =
            if run.saves { call.saved_bytes().map(|bytes| self.bytes(bytes)).collect() } else { Vec::new() };
        saved.iter().for_each(|x| self.moves(x, 1.0));
        self.ledger.takes(call.plan.scratch_bytes);
        Ok((outputs, saved))
    }

    fn plugin_backward(
        &self,
        call: &PluginCall,
        dys: &[MetaTensor],
        saved: &[MetaTensor],
        wants: &[bool],
        _run: PluginRun,
    ) -> Made<Vec<Option<MetaTensor>>> {
        saved.iter().chain(dys).for_each(|x| self.moves(x, 1.0));
        let dx = |(shape, dtype)| {
            let dx = self.tensor(shape, dtype);
            self.moves(&dx, 1.0);
            dx
        };
        let made = call.inputs().zip(wants).map(|(x, wanted)| wanted.then(|| dx(x))).collect();
        self.ledger.takes(call.plan.scratch_bytes);
        Ok(made)
    }

    fn plugin_rematerialize(&self, call: &PluginCall, saved: &[MetaTensor], _run: PluginRun) -> Made<Vec<MetaTensor>> {
        saved.iter().for_each(|x| self.moves(x, 1.0));
        let made = |&index: &usize| {
            let (shape, dtype) = call.outputs().nth(index).expect("checked when the call was planned");
            let y = self.tensor(shape, dtype);
            self.moves(&y, 1.0);
            y
        };
        Ok(call.plan.rematerializes.iter().map(made).collect())
    }

    fn cross_entropy(&self, logits: MetaTensor, _targets: &[i64], _scale: f64) -> Made<(CrossEntropy, MetaTensor)> {
        self.moves(&logits, 3.0);
        Ok((CrossEntropy::default(), self.in_place(logits)?))
    }

    fn cross_entropy_value(&self, logits: &MetaTensor, _targets: &[i64]) -> Made<CrossEntropy> {
        self.moves(logits, 1.0);
        Ok(CrossEntropy::default())
    }
}
