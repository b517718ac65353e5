//! Lion. With g the scaled gradient:
//!
//! ```text
//! p = p (1 - lr wd) - lr sign(beta1 m + (1 - beta1) g)
//! m = beta2 m + (1 - beta2) g
//! ```
//!
//! One state, so half of Adam's memory. As in bitsandbytes, the sum under the sign is one fused multiply-add with f32 state, and
//! two products and a sum in 8 bits; the update of m is fused in both. sign(0) = 0, and a NaN in m reaches p.
//!
//! Bytes per parameter: f32 state reads p, g, 4 and writes p, 4; 8-bit state reads p, g, 1.02 and writes p, 1.02. The ladder is
//! AdamW's.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{LANES, Moment8bit, Pair, Step, check_betas, check_rates, count_false};
use crate::{
    Element, Exec, KernelError,
    error::length,
    quant::{BLOCK, CHUNK, DynamicMap, Float, FloatsMut, blockwise},
    simd::{Body, Simd},
};

/// Lion's settings; the defaults are the paper's and bitsandbytes'. Its learning rate is about a tenth of Adam's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lion {
    pub beta1: f64,
    pub beta2: f64,
    pub weight_decay: f64,
}

impl Default for Lion {
    fn default() -> Lion {
        Lion { beta1: 0.9, beta2: 0.99, weight_decay: 0.0 }
    }
}

/// The settings of one step as the arithmetic uses them.
#[derive(Clone, Copy)]
pub(super) struct Constants {
    pub grad_scale: f32,
    pub decay: f32,
    pub minus_rate: f32,
    pub beta1: f32,
    pub rest1: f32,
    pub beta2: f32,
    pub rest2: f32,
}

impl Lion {
    /// One step with f32 state. params, grads, m: \[n\]; m zero before the first step. Returns how many elements were left
    /// alone because their gradient is not finite.
    ///
    /// # Errors
    /// Where lengths differ, a setting is out of its range, or the CPU lacks `exec.isa`. Then nothing was written.
    ///
    /// ```
    /// use unswag_kernels::{Exec, optim::{Lion, Step}};
    /// let (mut p, g, mut m) = ([1.0f32, 1.0, 1.0], [3.0f32, -0.1, 0.0], [0.0; 3]);
    /// let step = Step { number: 1, learning_rate: 0.5, grad_scale: 1.0 };
    /// Lion::default().step(Exec::new(1), step, &mut p, &g, &mut m)?;
    /// assert_eq!(p, [0.5, 1.5, 1.0]);
    /// # Ok::<(), unswag_kernels::KernelError>(())
    /// ```
    pub fn step<P: Float, G: Float>(
        &self,
        exec: Exec,
        step: Step,
        params: &mut [P],
        grads: &[G],
        m: &mut [f32],
    ) -> Result<u64, KernelError> {
        const OP: &str = "optim.lion";
        let constants = self.constants(OP, step)?;
        length(OP, "grads", params.len(), grads.len())?;
        length(OP, "m", params.len(), m.len())?;
        run_f32(exec, constants, Pair { params: P::floats_mut(params), grads: G::floats(grads) }, m)
    }

    /// One step with 8-bit state on the signed map. params, grads: \[n\]. Returns as [`Lion::step`].
    ///
    /// # Errors
    /// As [`Lion::step`].
    pub fn step_8bit<P: Float, G: Float>(
        &self,
        exec: Exec,
        step: Step,
        params: &mut [P],
        grads: &[G],
        m: Moment8bit<'_>,
    ) -> Result<u64, KernelError> {
        const OP: &str = "optim.lion_8bit";
        let constants = self.constants(OP, step)?;
        length(OP, "grads", params.len(), grads.len())?;
        m.check(OP, ["m.codes", "m.absmax"], params.len())?;
        run_8bit(exec, constants, Pair { params: P::floats_mut(params), grads: G::floats(grads) }, m)
    }

    pub(super) fn constants(&self, op: &'static str, step: Step) -> Result<Constants, KernelError> {
        check_betas(op, [self.beta1, self.beta2])?;
        check_rates(op, step, self.weight_decay)?;
        Ok(Constants {
            grad_scale: step.grad_scale,
            decay: (1.0 - step.learning_rate * self.weight_decay) as f32,
            minus_rate: -step.learning_rate as f32,
            beta1: self.beta1 as f32,
            rest1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            rest2: (1.0 - self.beta2) as f32,
        })
    }
}

fn run_f32(exec: Exec, constants: Constants, pair: Pair<'_>, m: &mut [f32]) -> Result<u64, KernelError> {
    let left_alone = AtomicU64::new(0);
    let chunks = m.len().div_ceil(CHUNK);
    let work = pair.params.chunks(CHUNK).zip(pair.grads.chunks(CHUNK)).zip(m.chunks_mut(CHUNK));
    exec.for_each(chunks, work, |((params, grads), m)| {
        let (pair, m) = (Pair { params, grads }, FloatsMut::F32(m));
        half::bf16::launch(exec.isa, StepF32 { constants, pair, m, left_alone: &left_alone });
    })?;
    Ok(left_alone.into_inner())
}

fn run_8bit(exec: Exec, constants: Constants, pair: Pair<'_>, m: Moment8bit<'_>) -> Result<u64, KernelError> {
    let left_alone = AtomicU64::new(0);
    let chunks = m.codes.len().div_ceil(CHUNK);
    let work = pair.params.chunks(CHUNK).zip(pair.grads.chunks(CHUNK));
    let work = work.zip(m.codes.chunks_mut(CHUNK).zip(m.absmax.chunks_mut(CHUNK / BLOCK)));
    exec.for_each(chunks, work, |((params, grads), (codes, absmax))| {
        let (pair, m, map) = (Pair { params, grads }, Moment8bit { codes, absmax }, DynamicMap::signed());
        half::bf16::launch(exec.isa, Step8bit { constants, map, pair, m, left_alone: &left_alone });
    })?;
    Ok(left_alone.into_inner())
}

struct StepF32<'a> {
    constants: Constants,
    pair: Pair<'a>,
    m: FloatsMut<'a>,
    left_alone: &'a AtomicU64,
}

impl Body for StepF32<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let mut left_alone = 0;
        for at in 0..self.pair.params.len().div_ceil(LANES) {
            let (mut p, g) = self.pair.read(s, at);
            let mut m = [0.0; LANES];
            self.m.read(s, at * LANES, &mut m);
            left_alone += update::<S, true, LANES>(s, &self.constants, &mut p, &g, &mut m);
            self.m.write(s, at * LANES, &m);
            self.pair.write(s, at, &p);
        }
        self.left_alone.fetch_add(left_alone, Ordering::Relaxed);
    }
}

struct Step8bit<'a> {
    constants: Constants,
    map: &'static DynamicMap,
    pair: Pair<'a>,
    m: Moment8bit<'a>,
    left_alone: &'a AtomicU64,
}

impl Body for Step8bit<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let mut left_alone = 0;
        for (at, (codes, absmax)) in self.m.codes.chunks_mut(BLOCK).zip(self.m.absmax).enumerate() {
            let (mut p, g) = self.pair.read(s, at);
            let mut m = [0.0; BLOCK];
            blockwise::decode(s, self.map, codes, *absmax, &mut m);
            left_alone += update::<S, false, BLOCK>(s, &self.constants, &mut p, &g, &mut m);
            self.pair.write(s, at, &p);
            blockwise::encode(s, self.map, &m, codes, absmax);
        }
        self.left_alone.fetch_add(left_alone, Ordering::Relaxed);
    }
}

/// A block's update. Elements that are zero in all three stay zero, so what is behind the end of a tensor does not show.
#[inline(always)]
fn update<S: Simd, const FUSED: bool, const N: usize>(
    s: S,
    c: &Constants,
    p: &mut [f32; N],
    g: &[f32; N],
    m: &mut [f32; N],
) -> u64 {
    let mut left_alone = 0;
    let gs = g.as_chunks::<32>().0.iter();
    for ((p, m), g) in p.as_chunks_mut::<32>().0.iter_mut().zip(m.as_chunks_mut::<32>().0).zip(gs) {
        let (p2, g2, m2) = (p.as_chunks::<16>().0, g.as_chunks::<16>().0, m.as_chunks::<16>().0);
        let low = lanes::<S, FUSED>(s, c, &p2[0], &g2[0], &m2[0]);
        let high = lanes::<S, FUSED>(s, c, &p2[1], &g2[1], &m2[1]);
        left_alone += low.2 + high.2;
        s.store_f32(p, low.0, high.0, false);
        s.store_f32(m, low.1, high.1, false);
    }
    left_alone
}

/// p and m of sixteen elements, and how many were left alone.
#[inline(always)]
fn lanes<S: Simd, const FUSED: bool>(
    s: S,
    c: &Constants,
    p: &[f32; 16],
    g: &[f32; 16],
    m: &[f32; 16],
) -> (S::F, S::F, u64) {
    /// The least f32 above zero: "at or above" it is "above zero".
    const LEAST: f32 = f32::from_bits(1);
    let (old_p, old_m) = (s.load_f32(p), s.load_f32(m));
    let g = s.mul(s.load_f32(g), s.splat(c.grad_scale));
    let finite = s.ge(s.splat(f32::MAX), s.abs(g));
    let (kept, rest) = (s.mul(old_m, s.splat(c.beta1)), s.splat(c.rest1));
    let direction = if FUSED { s.fma(g, rest, kept) } else { s.add(kept, s.mul(g, rest)) };
    // 0 for a zero, NaN for a NaN.
    let neither = s.mul(direction, s.splat(0.0));
    let (up, down) = (s.ge(direction, s.splat(LEAST)), s.ge(s.splat(-LEAST), direction));
    let change = s.select(up, s.splat(c.minus_rate), s.select(down, s.splat(-c.minus_rate), neither));
    let p = s.add(s.mul(old_p, s.splat(c.decay)), change);
    let m = s.fma(g, s.splat(c.rest2), s.mul(old_m, s.splat(c.beta2)));
    (s.select(finite, p, old_p), s.select(finite, m, old_m), count_false(s, finite))
}
