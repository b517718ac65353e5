//! The engine's operations in libtorch's own, on any device of its.

use std::rc::Rc;

use tch::{Device, Kind, TchError, Tensor};
use unswag_abi::doc::Dtype;
use unswag_engine::{
    Activation, AttentionSpec, Backend, CrossEntropy, Dropout, EmbeddingSpec, Gate, LayerNorm, PluginCall, PluginRun,
    RmsNorm, RopeSpec, View,
};

use crate::{
    Torch,
    attention::{self, Masked},
    composed, cpu, plugin, product,
    tensor::{TorchTensor, dtype_of, kind_of, torch_error, wide},
    torch::{Made, sizes},
};

fn viewed(x: &Tensor, view: View) -> Result<Tensor, TchError> {
    match view {
        View::AsIs => Ok(x.shallow_clone()),
        View::Transposed => x.f_tr(),
    }
}

impl Backend for Torch {
    type Tensor = TorchTensor;

    fn shape(&self, x: &TorchTensor) -> [u64; 2] {
        if let Some(of) = &x.quantized {
            return of.shape();
        }
        let (rows, columns) = x.view.size2().expect("every tensor here has two dimensions");
        [rows as u64, columns as u64]
    }

    fn dtype(&self, x: &TorchTensor) -> Dtype {
        x.quantized.as_ref().map_or_else(|| dtype_of(x.view.kind()), |of| of.dtype())
    }

    fn is_unique(&self, x: &TorchTensor) -> bool {
        Rc::strong_count(&x.memory) == 1
    }

    fn tensor_from_f32(&self, shape: [u64; 2], dtype: Dtype, values: &dyn Fn() -> Vec<f32>) -> Made {
        let kind = kind_of(dtype)?;
        if self.device == Device::Cpu {
            let tensor = self.fresh(shape, kind)?;
            let copy = || {
                let values = Tensor::f_from_slice(&values())?.f_reshape(sizes(shape))?;
                tensor.view.shallow_clone().f_copy_(&values)
            };
            copy().map_err(torch_error)?;
            return Ok(tensor);
        }
        let made =
            || Tensor::f_from_slice(&values())?.f_reshape(sizes(shape))?.f_to_kind(kind)?.f_to_device(self.device);
        self.owned(made())
    }

    fn zeros(&self, shape: [u64; 2], dtype: Dtype) -> Made {
        self.filled(shape, kind_of(dtype)?)
    }

    fn cast(&self, x: &TorchTensor, dtype: Dtype) -> Made {
        let y = self.fresh(self.shape(x), kind_of(dtype)?)?;
        y.view.shallow_clone().f_copy_(&x.view).map_err(torch_error)?;
        Ok(y)
    }

    fn dequantize(&self, x: &TorchTensor) -> Made {
        match &x.quantized {
            Some(of) => self.elements_of(x, of),
            None => Ok(x.clone()),
        }
    }

    fn rows(&self, x: &TorchTensor, start: u64, count: u64) -> TorchTensor {
        let view = x.view.narrow(0, start as i64, count as i64);
        TorchTensor { view: Rc::new(view), memory: x.memory.clone(), quantized: None }
    }

    fn columns(&self, x: &TorchTensor, start: u64, count: u64) -> Made {
        // `narrow_copy` copies where `narrow` and `contiguous` would hand back the whole of one column's worth.
        self.owned(x.view.f_narrow_copy(1, start as i64, count as i64).and_then(|x| x.f_contiguous()))
    }

    fn concat(&self, parts: &[TorchTensor]) -> Made {
        let parts: Vec<&Tensor> = parts.iter().map(TorchTensor::tensor).collect();
        self.owned(Tensor::f_cat(&parts, 1))
    }

    fn copy_rows(&self, to: &TorchTensor, start: u64, from: &TorchTensor) -> Made<()> {
        let rows = from.view.size()[0];
        let mut to = to.view.f_narrow(0, start as i64, rows).map_err(torch_error)?;
        to.f_copy_(&from.view).map_err(torch_error)
    }

    fn matmul(&self, a: &TorchTensor, av: View, b: &TorchTensor, bv: View) -> Made {
        let [rows, columns] =
            [self.shape(a)[usize::from(av == View::Transposed)], self.shape(b)[usize::from(bv == View::AsIs)]];
        let y = self.fresh([rows, columns], a.view.kind())?;
        let make = || product::matmul(&y.view, &viewed(&a.view, av)?, &viewed(&b.view, bv)?);
        make().map_err(torch_error)?;
        Ok(y)
    }

    fn matmul_add(
        &self,
        y: &TorchTensor,
        alpha: f64,
        (a, av): (&TorchTensor, View),
        (b, bv): (&TorchTensor, View),
    ) -> Made<()> {
        let add = || {
            let (mut a, mut b) = (viewed(&a.view, av)?, viewed(&b.view, bv)?);
            if alpha != 1.0 {
                let smaller = if a.numel() < b.numel() { &mut a } else { &mut b };
                *smaller = smaller.f_mul_scalar(alpha)?;
            }
            product::matmul_add(&y.view, &a, &b)
        };
        add().map_err(torch_error)
    }

    fn add_bias(&self, x: TorchTensor, bias: &TorchTensor) -> Made {
        drop(x.view.shallow_clone().f_add_(&bias.view).map_err(torch_error)?);
        Ok(x)
    }

    fn mul_columns(&self, x: TorchTensor, factors: &TorchTensor) -> Made {
        if self.is_unique(&x) && self.is_served(&[&x]) {
            cpu::mul_columns(&x.view, &factors.view)?;
            return Ok(x);
        }
        let factors = factors.view.f_to_kind(x.view.kind()).map_err(torch_error)?;
        self.changed(x, |x| x.f_mul_(&factors), |x| x.f_mul(&factors))
    }

    fn weight_norms(&self, (weight, view): (&TorchTensor, View), scale: f64, product: &TorchTensor) -> Made {
        let columns = i64::from(view == View::Transposed);
        let norms = || {
            let kind = wide(weight.view.kind());
            let sum = product.view.f_to_kind(kind)?.f_mul_scalar(scale)?.f_add_(&weight.view)?;
            sum.f_mul(&sum)?.f_sum_dim_intlist(columns, false, kind)?.f_sqrt()?.f_unsqueeze(0)
        };
        self.owned(norms())
    }

    fn ratio(&self, a: &TorchTensor, b: &TorchTensor) -> Made {
        let ratio = || {
            let kind = wide(b.view.kind());
            let (a, b) = (a.view.f_to_kind(kind)?, b.view.f_to_kind(kind)?);
            a.f_div(&b)?.f_masked_fill(&b.f_eq(0)?, 0)
        };
        self.owned(ratio())
    }

    fn sum_rows(&self, x: &TorchTensor) -> Made {
        self.owned(x.view.f_sum_dim_intlist(0i64, true, Kind::Float))
    }

    fn add(&self, a: TorchTensor, b: TorchTensor) -> Made {
        let (a, b) = if self.is_unique(&a) { (a, b) } else { (b, a) };
        if self.is_unique(&a) && self.is_served(&[&a, &b]) {
            cpu::add(&a.view, &b.view)?;
            return Ok(a);
        }
        self.changed(a, |a| a.f_add_(&b.view), |a| a.f_add(&b.view))
    }

    fn sub(&self, a: TorchTensor, b: &TorchTensor) -> Made {
        self.changed(a, |a| a.f_sub_(&b.view), |a| a.f_sub(&b.view))
    }

    fn mul(&self, a: TorchTensor, b: &TorchTensor) -> Made {
        self.changed(a, |a| a.f_mul_(&b.view), |a| a.f_mul(&b.view))
    }

    fn scale(&self, x: TorchTensor, by: f64) -> Made {
        if self.is_unique(&x) && self.is_served(&[&x]) {
            cpu::scale(&x.view, by)?;
            return Ok(x);
        }
        self.changed(x, |x| x.f_mul_scalar_(by), |x| x.f_mul_scalar(by))
    }

    fn embedding(&self, weight: &TorchTensor, ids: &[u32], spec: &EmbeddingSpec) -> Made {
        let (rows, kind) = (self.ids(ids, spec.offset)?, kind_of(spec.dtype)?);
        if spec.scale == 1.0 && kind == weight.view.kind() {
            let y = self.fresh([ids.len() as u64, self.shape(weight)[1]], kind)?;
            drop(weight.view.f_index_select_out(&y.view, 0, &rows).map_err(torch_error)?);
            return Ok(y);
        }
        let made = || {
            let y = weight.view.f_index_select(0, &rows)?.f_to_kind(kind)?;
            if spec.scale == 1.0 {
                return Ok(y);
            }
            // transformers keeps the factor in the embedding's own element type.
            y.f_mul(&Tensor::f_from_slice(&[spec.scale])?.f_to_kind(kind)?.f_to_device(self.device)?)
        };
        self.owned(made())
    }

    fn embedding_backward(
        &self,
        dweight: &TorchTensor,
        dy: &TorchTensor,
        ids: &[u32],
        spec: &EmbeddingSpec,
    ) -> Made<()> {
        let rows = self.ids(ids, spec.offset)?;
        let add = || {
            let dy = dy.view.f_to_kind(Kind::Float)?.f_mul_scalar(spec.scale)?;
            dweight.view.shallow_clone().f_index_add_(0, &rows, &dy)
        };
        add().map(drop).map_err(torch_error)
    }

    fn rms_norm(&self, x: &TorchTensor, weight: &TorchTensor, spec: &RmsNorm) -> Made<(TorchTensor, TorchTensor)> {
        if self.is_served(&[x, weight]) {
            let [rows, columns] = self.shape(x);
            let groups = spec.group.map_or(1, |group| columns / group);
            let (y, rstd) = (self.like(x)?, self.fresh([rows, groups], Kind::Float)?);
            cpu::rms_norm(&x.view, &weight.view, spec, [&y.view, &rstd.view])?;
            return Ok((y, rstd));
        }
        let (y, rstd) = composed::rms_norm(&x.view, &weight.view, spec).map_err(torch_error)?;
        Ok((self.owned(Ok(y))?, self.owned(Ok(rstd))?))
    }

    fn rms_norm_backward(
        &self,
        dy: &TorchTensor,
        x: &TorchTensor,
        weight: &TorchTensor,
        rstd: &TorchTensor,
        spec: &RmsNorm,
        wants_dweight: bool,
    ) -> Made<(TorchTensor, Option<TorchTensor>)> {
        if self.is_served(&[x, dy, weight]) {
            let dx = self.like(x)?;
            let dweight = wants_dweight.then(|| self.filled(self.shape(weight), Kind::Float)).transpose()?;
            let to = dweight.as_ref().map(TorchTensor::tensor);
            cpu::rms_norm_backward([&dy.view, &x.view, &weight.view, &rstd.view], spec, &dx.view, to)?;
            return Ok((dx, dweight));
        }
        let inputs = [&dy.view, &x.view, &weight.view, &rstd.view].map(|x| &**x);
        let (dx, dweight) = composed::rms_norm_backward(inputs, spec, wants_dweight).map_err(torch_error)?;
        Ok((self.owned(Ok(dx))?, dweight.map(|dweight| self.owned(Ok(dweight))).transpose()?))
    }

    fn layer_norm(
        &self,
        x: &TorchTensor,
        weight: &TorchTensor,
        bias: Option<&TorchTensor>,
        spec: &LayerNorm,
    ) -> Made<[TorchTensor; 3]> {
        let params: Vec<_> = [x, weight].into_iter().chain(bias).collect();
        if self.is_served(&params) {
            let stat = || self.fresh([self.shape(x)[0], 1], Kind::Float);
            let made = [self.like(x)?, stat()?, stat()?];
            let to = made.each_ref().map(TorchTensor::tensor);
            cpu::layer_norm([&x.view, &weight.view], bias.map(TorchTensor::tensor), spec, to)?;
            return Ok(made);
        }
        let bias = bias.map(TorchTensor::tensor);
        let [y, mean, rstd] = composed::layer_norm(&x.view, &weight.view, bias, spec).map_err(torch_error)?;
        Ok([self.owned(Ok(y))?, self.owned(Ok(mean))?, self.owned(Ok(rstd))?])
    }

    fn layer_norm_backward(
        &self,
        dy: &TorchTensor,
        x: &TorchTensor,
        weight: &TorchTensor,
        [mean, rstd]: [&TorchTensor; 2],
        wants_dweight: bool,
    ) -> Made<(TorchTensor, Option<(TorchTensor, TorchTensor)>)> {
        if self.is_served(&[x, dy, weight]) {
            let dx = self.like(x)?;
            let zeros = || self.filled(self.shape(weight), Kind::Float);
            let dparams = if wants_dweight { Some((zeros()?, zeros()?)) } else { None };
            let to = dparams.as_ref().map(|(dweight, dbias)| [dweight.tensor(), dbias.tensor()]);
            cpu::layer_norm_backward([dy, x, weight, mean, rstd].map(TorchTensor::tensor), &dx.view, to)?;
            return Ok((dx, dparams));
        }
        let inputs = [dy, x, weight, mean, rstd].map(TorchTensor::tensor);
        let (dx, dparams) = composed::layer_norm_backward(inputs, wants_dweight).map_err(torch_error)?;
        let counted = |(dweight, dbias)| -> Made<_> { Ok((self.owned(Ok(dweight))?, self.owned(Ok(dbias))?)) };
        let dparams = dparams.map(counted);
        Ok((self.owned(Ok(dx))?, dparams.transpose()?))
    }

    fn rope(&self, x: TorchTensor, cos: &TorchTensor, sin: &TorchTensor, spec: &RopeSpec, back: bool) -> Made {
        if self.is_served(&[&x, cos, sin]) {
            if self.is_unique(&x) {
                cpu::rope(&x.view, None, [&cos.view, &sin.view], spec, back)?;
                return Ok(x);
            }
            let y = self.like(&x)?;
            cpu::rope(&y.view, Some(&x.view), [&cos.view, &sin.view], spec, back)?;
            return Ok(y);
        }
        let turned = |x: &Tensor| composed::rope(x, &cos.view, &sin.view, spec, back);
        self.changed(x, |x| x.f_copy_(&turned(x)?).map(|()| x.shallow_clone()), turned)
    }

    fn attention(
        &self,
        q: &TorchTensor,
        k: &TorchTensor,
        v: &TorchTensor,
        sinks: Option<&TorchTensor>,
        documents: Option<&[u32]>,
        spec: &AttentionSpec,
    ) -> Made<(TorchTensor, TorchTensor)> {
        let rows = self.shape(q)[0];
        let y = self.fresh([rows, spec.heads * spec.v_head_dim], q.view.kind())?;
        let lse = self.fresh([rows, spec.heads], wide(q.view.kind()))?;
        let inputs = [q, k, v].map(TorchTensor::tensor);
        attention::forward(
            inputs,
            sinks.map(TorchTensor::tensor),
            &Masked { spec, documents },
            self.kernels(),
            [&y.view, &lse.view],
        )?;
        Ok((y, lse))
    }

    fn attention_after(
        &self,
        q: &TorchTensor,
        k: &TorchTensor,
        v: &TorchTensor,
        sinks: Option<&TorchTensor>,
        spec: &AttentionSpec,
    ) -> Made {
        self.owned(attention::after([q, k, v].map(TorchTensor::tensor), sinks.map(TorchTensor::tensor), spec))
    }

    fn attention_backward(
        &self,
        dy: &TorchTensor,
        saved: [&TorchTensor; 5],
        documents: Option<&[u32]>,
        spec: &AttentionSpec,
    ) -> Made<[TorchTensor; 3]> {
        let [q, k, v, ..] = saved;
        let made = [self.like(q)?, self.like(k)?, self.like(v)?];
        let to = made.each_ref().map(TorchTensor::tensor);
        attention::backward(&dy.view, saved.map(TorchTensor::tensor), &Masked { spec, documents }, self.kernels(), to)?;
        Ok(made)
    }

    fn attention_sinks_backward(
        &self,
        dy: &TorchTensor,
        [y, lse]: [&TorchTensor; 2],
        sinks: &TorchTensor,
        spec: &AttentionSpec,
    ) -> Made {
        self.owned(attention::sinks_backward([&dy.view, &y.view, &lse.view, &sinks.view], spec))
    }

    fn activation(&self, x: &TorchTensor, of: Activation) -> Made {
        self.owned(composed::act(&x.view, of))
    }

    fn activation_backward(&self, dy: &TorchTensor, x: &TorchTensor, of: Activation) -> Made {
        self.owned(composed::act_backward(&dy.view, &x.view, of))
    }

    fn gated(&self, gate: &TorchTensor, up: &TorchTensor, of: Gate) -> Made {
        if let Some(kernel) = cpu::gate_kernel(of).filter(|_| self.is_served(&[gate, up])) {
            let y = self.like(gate)?;
            cpu::gated([&gate.view, &up.view], kernel, &y.view)?;
            return Ok(y);
        }
        let made = || composed::act(&gate.view, of.activation())?.f_mul(&up.view);
        self.owned(made())
    }

    fn gated_backward(
        &self,
        dy: &TorchTensor,
        gate: &TorchTensor,
        up: &TorchTensor,
        of: Gate,
    ) -> Made<(TorchTensor, TorchTensor)> {
        if let Some(kernel) = cpu::gate_kernel(of).filter(|_| self.is_served(&[gate, up, dy])) {
            let (dgate, dup) = (self.like(gate)?, self.like(up)?);
            cpu::gated_backward([&dy.view, &gate.view, &up.view], kernel, [&dgate.view, &dup.view])?;
            return Ok((dgate, dup));
        }
        let dgate = || composed::act_backward(&dy.view.f_mul(&up.view)?, &gate.view, of.activation());
        let dup = || dy.view.f_mul(&composed::act(&gate.view, of.activation())?);
        Ok((self.owned(dgate())?, self.owned(dup())?))
    }

    fn softcap(&self, x: &TorchTensor, cap: f64) -> Made {
        let made = || x.view.f_div_scalar(cap)?.f_tanh_()?.f_mul_scalar_(cap);
        self.owned(made())
    }

    fn softcap_backward(&self, dy: TorchTensor, y: &TorchTensor, cap: f64) -> Made {
        let made = || y.view.f_div_scalar(cap)?.f_square_()?.f_neg_()?.f_add_scalar_(1);
        let slope = made().map_err(torch_error)?;
        self.changed(dy, |dy| dy.f_mul_(&slope), |dy| dy.f_mul(&slope))
    }

    fn softmax(&self, x: &TorchTensor) -> Made {
        self.owned(x.view.f_softmax(1, None::<Kind>))
    }

    fn softmax_backward(&self, dy: &TorchTensor, y: &TorchTensor) -> Made {
        self.owned(Tensor::f_internal_softmax_backward_data(&dy.view, &y.view, 1, y.view.kind()))
    }

    fn dropout(&self, x: &TorchTensor, of: &Dropout) -> Made {
        if self.is_served(&[x]) {
            let y = self.like(x)?;
            cpu::dropout(&x.view, of, &y.view)?;
            return Ok(y);
        }
        // The kernel's mask, so that it is the same everywhere.
        let ones = Tensor::f_ones(x.view.size(), (Kind::Float, Device::Cpu)).map_err(torch_error)?;
        let mask = ones.f_empty_like().map_err(torch_error)?;
        cpu::dropout(&ones, of, &mask)?;
        self.owned(mask.f_to_device(self.device).and_then(|mask| x.view.f_mul(&mask.f_to_kind(x.view.kind())?)))
    }

    fn plugin_forward(
        &self,
        call: &PluginCall,
        inputs: &[TorchTensor],
        run: PluginRun,
    ) -> Made<(Vec<TorchTensor>, Vec<TorchTensor>)> {
        self.runs_plugins(call)?;
        let outputs =
            call.outputs().map(|(shape, dtype)| self.fresh(shape, kind_of(dtype)?)).collect::<Made<Vec<_>>>()?;
        let saved = match run.saves {
            true => call.saved_bytes().map(|bytes| self.fresh([1, bytes], Kind::Uint8)).collect::<Made<Vec<_>>>()?,
            false => Vec::new(),
        };
        plugin::forward(call, &self.pool, run, [inputs, &outputs, &saved])?;
        Ok((outputs, saved))
    }

    fn plugin_backward(
        &self,
        call: &PluginCall,
        dys: &[TorchTensor],
        saved: &[TorchTensor],
        wants: &[bool],
        run: PluginRun,
    ) -> Made<Vec<Option<TorchTensor>>> {
        let made = |((shape, dtype), wanted): (([u64; 2], Dtype), &bool)| {
            wanted.then(|| self.fresh(shape, kind_of(dtype)?)).transpose()
        };
        let dinputs = call.inputs().zip(wants).map(made).collect::<Made<Vec<_>>>()?;
        plugin::backward(call, &self.pool, run, [dys, saved], &dinputs)?;
        Ok(dinputs)
    }

    fn plugin_rematerialize(&self, call: &PluginCall, saved: &[TorchTensor], run: PluginRun) -> Made<Vec<TorchTensor>> {
        let shapes: Vec<_> = call.outputs().collect();
        let made = |&index: &usize| self.fresh(shapes[index].0, kind_of(shapes[index].1)?);
        let outputs = call.plan.rematerializes.iter().map(made).collect::<Made<Vec<_>>>()?;
        plugin::rematerialize(call, &self.pool, run, [saved, &outputs])?;
        Ok(outputs)
    }

    fn cross_entropy(&self, logits: TorchTensor, targets: &[i64], scale: f64) -> Made<(CrossEntropy, TorchTensor)> {
        if self.is_served(&[&logits]) {
            let logits = if self.is_unique(&logits) { logits } else { self.cast(&logits, self.dtype(&logits))? };
            let sum = cpu::cross_entropy(&logits.view, targets, scale)?;
            return Ok((CrossEntropy { sum }, logits));
        }
        let (sum, gradient) = composed::cross_entropy(&logits.view, targets, scale).map_err(torch_error)?;
        let kind = logits.view.kind();
        let dlogits = self.changed(
            logits,
            |logits| logits.f_copy_(&gradient).map(|()| logits.shallow_clone()),
            |_| gradient.f_to_kind(kind),
        )?;
        Ok((CrossEntropy { sum }, dlogits))
    }

    fn cross_entropy_value(&self, logits: &TorchTensor, targets: &[i64]) -> Made<CrossEntropy> {
        if self.is_served(&[logits]) {
            return Ok(CrossEntropy { sum: cpu::cross_entropy_value(&logits.view, targets)? });
        }
        let sum = composed::cross_entropy_value(&logits.view, targets).map_err(torch_error)?;
        Ok(CrossEntropy { sum })
    }
}
