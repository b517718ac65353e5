//! A backend of sizes: every tensor has a shape and no elements, and every byte is counted.

use std::{cell::Cell, rc::Rc};

use unswag_abi::doc::Dtype;

use crate::{
    Activation, AttentionSpec, Backend, Charge, CrossEntropy, EmbeddingSpec, EngineError, Gate, LayerNorm, Meter,
    RmsNorm, RopeSpec, View,
};

/// Counts what a real backend would allocate.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    meter: Meter,
    tensors: Rc<Cell<u64>>,
}

/// A tensor of no elements. Rows of a tensor share its memory, so they hold it.
#[derive(Clone, Debug)]
pub struct MetaTensor {
    shape: [u64; 2],
    dtype: Dtype,
    memory: Rc<Charge>,
}

impl Meta {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Tensors made so far.
    pub fn tensors_made(&self) -> u64 {
        self.tensors.get()
    }

    /// A tensor that is there already (a parameter): it counts.
    pub fn tensor(&self, shape: [u64; 2], dtype: Dtype) -> MetaTensor {
        self.tensors.set(self.tensors.get() + 1);
        let bytes = shape[0] * shape[1] * dtype.bytes();
        MetaTensor { shape, dtype, memory: Rc::new(self.meter.charge(bytes)) }
    }

    fn like(&self, x: &MetaTensor) -> Result<MetaTensor, EngineError> {
        Ok(self.tensor(x.shape, x.dtype))
    }

    fn in_place(&self, x: MetaTensor) -> Result<MetaTensor, EngineError> {
        if self.is_unique(&x) { Ok(x) } else { self.like(&x) }
    }
}

type Made<T = MetaTensor> = Result<T, EngineError>;

impl Backend for Meta {
    type Tensor = MetaTensor;

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
        Ok(self.tensor(x.shape, dtype))
    }

    fn rows(&self, x: &MetaTensor, _start: u64, count: u64) -> MetaTensor {
        MetaTensor { shape: [count, x.shape[1]], ..x.clone() }
    }

    fn columns(&self, x: &MetaTensor, _start: u64, count: u64) -> Made {
        Ok(self.tensor([x.shape[0], count], x.dtype))
    }

    fn concat(&self, parts: &[MetaTensor]) -> Made {
        let columns = parts.iter().map(|part| part.shape[1]).sum();
        Ok(self.tensor([parts[0].shape[0], columns], parts[0].dtype))
    }

    fn copy_rows(&self, _to: &MetaTensor, _start: u64, _from: &MetaTensor) -> Made<()> {
        Ok(())
    }

    fn matmul(&self, a: &MetaTensor, av: View, b: &MetaTensor, bv: View) -> Made {
        let rows = a.shape[usize::from(av == View::Transposed)];
        let columns = b.shape[usize::from(bv == View::AsIs)];
        Ok(self.tensor([rows, columns], a.dtype))
    }

    fn matmul_add(&self, _y: &MetaTensor, _alpha: f64, _a: (&MetaTensor, View), _b: (&MetaTensor, View)) -> Made<()> {
        Ok(())
    }

    fn add_bias(&self, x: MetaTensor, _bias: &MetaTensor) -> Made {
        Ok(x)
    }

    fn sum_rows(&self, x: &MetaTensor) -> Made {
        Ok(self.tensor([1, x.shape[1]], Dtype::F32))
    }

    fn add(&self, a: MetaTensor, b: MetaTensor) -> Made {
        if self.is_unique(&a) { Ok(a) } else { self.in_place(b) }
    }

    fn sub(&self, a: MetaTensor, _b: &MetaTensor) -> Made {
        self.in_place(a)
    }

    fn mul(&self, a: MetaTensor, _b: &MetaTensor) -> Made {
        self.in_place(a)
    }

    fn scale(&self, x: MetaTensor, _by: f64) -> Made {
        self.in_place(x)
    }

    fn embedding(&self, weight: &MetaTensor, ids: &[u32], spec: &EmbeddingSpec) -> Made {
        Ok(self.tensor([ids.len() as u64, weight.shape[1]], spec.dtype))
    }

    fn embedding_backward(
        &self,
        _dweight: &MetaTensor,
        _dy: &MetaTensor,
        _ids: &[u32],
        _spec: &EmbeddingSpec,
    ) -> Made<()> {
        Ok(())
    }

    fn rms_norm(&self, x: &MetaTensor, _weight: &MetaTensor, spec: &RmsNorm) -> Made<(MetaTensor, MetaTensor)> {
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
        let dx = self.like(x)?;
        let made = || self.tensor(weight.shape, Dtype::F32);
        Ok((dx, wants_dweight.then(|| (made(), made()))))
    }

    fn rope(&self, x: MetaTensor, _cos: &MetaTensor, _sin: &MetaTensor, _spec: &RopeSpec, _back: bool) -> Made {
        self.in_place(x)
    }

    fn attention(
        &self,
        q: &MetaTensor,
        _k: &MetaTensor,
        _v: &MetaTensor,
        _sinks: Option<&MetaTensor>,
        spec: &AttentionSpec,
    ) -> Made<(MetaTensor, MetaTensor)> {
        let y = self.tensor([q.shape[0], spec.heads * spec.v_head_dim], q.dtype);
        Ok((y, self.tensor([q.shape[0], spec.heads], Dtype::F32)))
    }

    fn attention_backward(
        &self,
        _dy: &MetaTensor,
        [q, k, v, _, _]: [&MetaTensor; 5],
        _spec: &AttentionSpec,
    ) -> Made<[MetaTensor; 3]> {
        Ok([self.like(q)?, self.like(k)?, self.like(v)?])
    }

    fn activation(&self, x: &MetaTensor, _of: Activation) -> Made {
        self.like(x)
    }

    fn activation_backward(&self, _dy: &MetaTensor, x: &MetaTensor, _of: Activation) -> Made {
        self.like(x)
    }

    fn gated(&self, gate: &MetaTensor, _up: &MetaTensor, _of: Gate) -> Made {
        self.like(gate)
    }

    fn gated_backward(
        &self,
        _dy: &MetaTensor,
        gate: &MetaTensor,
        up: &MetaTensor,
        _of: Gate,
    ) -> Made<(MetaTensor, MetaTensor)> {
        Ok((self.like(gate)?, self.like(up)?))
    }

    fn softcap(&self, x: &MetaTensor, _cap: f64) -> Made {
        self.like(x)
    }

    fn softcap_backward(&self, dy: MetaTensor, _y: &MetaTensor, _cap: f64) -> Made {
        self.in_place(dy)
    }

    fn softmax(&self, x: &MetaTensor) -> Made {
        self.like(x)
    }

    fn softmax_backward(&self, dy: &MetaTensor, _y: &MetaTensor) -> Made {
        self.like(dy)
    }

    fn dropout(&self, x: &MetaTensor, _p: f64, _seed: u64) -> Made {
        self.like(x)
    }

    fn cross_entropy(&self, logits: MetaTensor, _targets: &[i64], _scale: f64) -> Made<(CrossEntropy, MetaTensor)> {
        Ok((CrossEntropy::default(), self.in_place(logits)?))
    }

    fn cross_entropy_value(&self, _logits: &MetaTensor, _targets: &[i64]) -> Made<CrossEntropy> {
        Ok(CrossEntropy::default())
    }
}
