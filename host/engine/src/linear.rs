//! A linear layer, with an adapter or without.

use crate::{
    Backend, EngineError, Grads, View,
    ops::{Cx, Forward},
};

/// y = x W^T + bias, and what the adapter adds. Parameters are positions in the program's list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    pub weight: usize,
    pub bias: Option<usize>,
    pub weight_view: View,
    pub adapter: Option<LinearAdapter>,
}

/// y += scale (dropout(x) A^T) B^T. a: \[r, in\]; b: \[out, r\].
///
/// With a magnitude (f32, \[1, out\]), DoRA (Liu et al. 2024): y is multiplied by magnitude / norm, the norm being the length
/// of each output's weights in W + scale B A. As in PEFT, no gradient goes through the norm. Dropout is on the adapter's path
/// alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinearAdapter {
    pub a: usize,
    pub b: usize,
    pub magnitude: Option<usize>,
    pub scale: f64,
    pub dropout: f64,
}

impl Linear {
    pub fn params(&self) -> Vec<usize> {
        let adapter = self.adapter.map(|adapter| [Some(adapter.a), Some(adapter.b), adapter.magnitude]);
        [Some(self.weight), self.bias].into_iter().chain(adapter.into_iter().flatten()).flatten().collect()
    }

    /// The input is kept for the weight's gradient or the adapter's only.
    pub fn needs_x(&self, trainable: &[bool]) -> bool {
        self.adapter.is_some() || trainable[self.weight]
    }

    /// Saves x, x A^T, and with a magnitude y and the factors, in this order.
    pub fn forward<B: Backend>(&self, cx: &Cx<'_, B>, x: B::Tensor) -> Result<Forward<B::Tensor>, EngineError> {
        let b = cx.backend;
        let mut saved = Vec::new();
        let down = self.adapter.map(|adapter| self.down(cx, &adapter, &x)).transpose()?;
        let magnitude = self.adapter.filter(|adapter| adapter.magnitude.is_some());
        let mut outputs = Vec::new();
        if cx.outputs || magnitude.is_some() {
            let mut y = b.matmul(&x, View::AsIs, &cx.plain_weight(self.weight)?, self.weight_view)?;
            if let (Some(adapter), Some(down)) = (self.adapter, &down) {
                let up = (&cx.params[adapter.b], View::Transposed);
                b.matmul_add(&y, adapter.scale, (down, View::AsIs), up)?;
            }
            let factors = magnitude.map(|adapter| self.factors(cx, &adapter)).transpose()?;
            if let Some(factors) = &factors {
                y = b.mul_columns(y, factors)?;
            }
            if let Some(bias) = self.bias {
                y = b.add_bias(y, &cx.params[bias])?;
            }
            if let Some(factors) = factors {
                saved = vec![y.clone(), factors];
            }
            outputs.push(y);
        }
        if !cx.outputs {
            outputs.clear();
        }
        if self.needs_x(cx.trainable) {
            saved = [x].into_iter().chain(down).chain(saved).collect();
        }
        Ok((outputs, saved))
    }

    /// The gradient of x, where it is needed.
    pub fn backward<B: Backend>(
        &self,
        cx: &Cx<'_, B>,
        mut dy: B::Tensor,
        saved: Vec<B::Tensor>,
        needs_dx: bool,
        grads: &mut Grads<B::Tensor>,
    ) -> Result<Option<B::Tensor>, EngineError> {
        let b = cx.backend;
        let mut saved = saved.into_iter();
        if let Some(bias) = self.bias.filter(|&bias| cx.trainable[bias]) {
            grads.add(b, bias, b.sum_rows(&dy)?)?;
        }
        let (x, down) = (saved.next(), saved.next());
        if let (Some(y), Some(factors)) = (saved.next(), saved.next()) {
            self.magnitude_backward(cx, &dy, y, grads)?;
            dy = b.mul_columns(dy, &factors)?;
        }
        if let Some(x) = x.as_ref().filter(|_| cx.trainable[self.weight]) {
            let dweight = grads.of(b, self.weight, b.shape(&cx.params[self.weight]))?;
            let [left, right] = if self.weight_view == View::Transposed { [&dy, x] } else { [x, &dy] };
            b.matmul_add(&dweight, 1.0, (left, View::Transposed), (right, View::AsIs))?;
        }
        let mut ddown = None;
        if let (Some(adapter), Some(x), Some(down)) = (self.adapter, x, down) {
            let db = grads.of(b, adapter.b, b.shape(&cx.params[adapter.b]))?;
            b.matmul_add(&db, adapter.scale, (&dy, View::Transposed), (&down, View::AsIs))?;
            drop(down);
            let made = b.matmul(&dy, View::AsIs, &cx.params[adapter.b], View::AsIs)?;
            let made = b.scale(made, adapter.scale)?;
            // The mask is a function of the seed, so that what it left of x is made again.
            let x = adapter.dropped(cx, x)?;
            let da = grads.of(b, adapter.a, b.shape(&cx.params[adapter.a]))?;
            b.matmul_add(&da, 1.0, (&made, View::Transposed), (&x, View::AsIs))?;
            ddown = Some((made, adapter));
        }
        if !needs_dx {
            return Ok(None);
        }
        let back = if self.weight_view == View::Transposed { View::AsIs } else { View::Transposed };
        let mut dx = b.matmul(&dy, View::AsIs, &cx.plain_weight(self.weight)?, back)?;
        drop(dy);
        if let Some((ddown, adapter)) = ddown {
            let a = &cx.params[adapter.a];
            if adapter.drops(cx) {
                let through = b.matmul(&ddown, View::AsIs, a, View::AsIs)?;
                dx = b.add(dx, adapter.dropped(cx, through)?)?;
            } else {
                b.matmul_add(&dx, 1.0, (&ddown, View::AsIs), (a, View::AsIs))?;
            }
        }
        Ok(Some(dx))
    }

    /// dropout(x) A^T.
    fn down<B: Backend>(
        &self,
        cx: &Cx<'_, B>,
        adapter: &LinearAdapter,
        x: &B::Tensor,
    ) -> Result<B::Tensor, EngineError> {
        let x = adapter.dropped(cx, x.clone())?;
        cx.backend.matmul(&x, View::AsIs, &cx.params[adapter.a], View::Transposed)
    }

    /// magnitude / norm.
    fn factors<B: Backend>(&self, cx: &Cx<'_, B>, adapter: &LinearAdapter) -> Result<B::Tensor, EngineError> {
        let [a, up] = [adapter.a, adapter.b].map(|param| &cx.params[param]);
        let weight = (&cx.params[self.weight], self.weight_view);
        let norms = dora_norms(cx.backend, weight, adapter.scale, [a, up])?;
        let magnitude = adapter.magnitude.expect("asked for where there is one");
        cx.backend.ratio(&cx.params[magnitude], &norms)
    }

    /// dmagnitude is the sum over rows of dy (x W'^T) / norm, and y without its bias is x W'^T magnitude / norm.
    fn magnitude_backward<B: Backend>(
        &self,
        cx: &Cx<'_, B>,
        dy: &B::Tensor,
        y: B::Tensor,
        grads: &mut Grads<B::Tensor>,
    ) -> Result<(), EngineError> {
        let b = cx.backend;
        let magnitude = self.adapter.and_then(|adapter| adapter.magnitude).expect("only then y is saved");
        let mut sum = b.sum_rows(&b.mul(dy.clone(), &y)?)?;
        drop(y);
        if let Some(bias) = self.bias {
            let of_bias = b.mul(b.sum_rows(dy)?, &b.cast(&cx.params[bias], unswag_abi::doc::Dtype::F32)?)?;
            sum = b.sub(sum, &of_bias)?;
        }
        grads.add(b, magnitude, b.ratio(&sum, &cx.params[magnitude])?)
    }
}

impl LinearAdapter {
    fn drops<B: Backend>(&self, cx: &Cx<'_, B>) -> bool {
        self.dropout > 0.0 && cx.drops
    }

    fn dropped<B: Backend>(&self, cx: &Cx<'_, B>, x: B::Tensor) -> Result<B::Tensor, EngineError> {
        if self.drops(cx) { cx.backend.dropout(&x, &cx.dropout(self.dropout)) } else { Ok(x) }
    }
}

/// The length of each output's weights in W + scale B A (f32, \[1, out\]): DoRA's first magnitudes, and what they are held
/// against in each step.
///
/// # Errors
/// What the backend says.
pub fn dora_norms<B: Backend>(
    b: &B,
    weight: (&B::Tensor, View),
    scale: f64,
    [down, up]: [&B::Tensor; 2],
) -> Result<B::Tensor, EngineError> {
    // In the weight's own layout.
    let product = match weight.1 {
        View::Transposed => b.matmul(up, View::AsIs, down, View::AsIs)?,
        View::AsIs => b.matmul(down, View::Transposed, up, View::Transposed)?,
    };
    b.weight_norms((&b.dequantize(weight.0)?, weight.1), scale, &product)
}
