//! AdamW. With g the scaled gradient, t the step's number, c1 = 1 - beta1^t, c2 = sqrt(1 - beta2^t):
//!
//! ```text
//! p = p (1 - lr wd)
//! m = m + (1 - beta1) (g - m)           8 bits: m = beta1 m + (1 - beta1) g
//! v = beta2 v + ((1 - beta2) g) g
//! p = p + ((-lr / c1) m) / (sqrt(v) / c2 + eps)
//! ```
//!
//! The two forms of m are torch's and bitsandbytes'; each product that is added to something is one fused multiply-add, as in
//! torch's vector code. In 8 bits m and v are decoded, updated, used for p as f32, then coded again: m on the signed map, v
//! on the unsigned one.
//!
//! Bytes per parameter: f32 state reads p, g, 8 and writes p, 8; 8-bit state reads p, g, 2.03 and writes p, 2.03.
//!
//! The ladder:
//! 1. reference.
//! 2. one pass over all tensors, block by block of 256 in the first-level cache, arithmetic in sixteen lanes, codes through the
//!    map's table. What it is up against does each operation as a pass over memory, or (8 bits) several.
//! 3. where all four are f32, in place: a copy on the stack took as long as the arithmetic.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{LANES, Moment8bit, Pair, Step, check_betas, check_rates, count_false, hyper};
use crate::{
    Element, Exec, KernelError,
    error::length,
    quant::{BLOCK, CHUNK, DynamicMap, Float, Floats, FloatsMut, blockwise},
    simd::{Body, Simd},
};

/// AdamW's settings; the defaults are torch's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> AdamW {
        AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}

/// The settings of one step as the arithmetic uses them.
#[derive(Clone, Copy)]
pub(super) struct Constants {
    pub grad_scale: f32,
    pub decay: f32,
    pub beta1: f32,
    pub rest1: f32,
    pub beta2: f32,
    pub rest2: f32,
    pub eps: f32,
    pub correction2: f32,
    pub minus_step: f32,
}

impl AdamW {
    /// One step with f32 state. params, grads, m, v: \[n\]; m and v zero before the first step. Returns how many elements
    /// were left alone because their gradient, or its square, is not finite.
    ///
    /// # Errors
    /// Where lengths differ, a setting is out of its range, or the CPU lacks `exec.isa`. Then nothing was written.
    ///
    /// ```
    /// use unswag_kernels::{Exec, optim::{AdamW, Step}};
    /// let (mut p, g, mut m, mut v) = ([1.0f32, -1.0, 3.0], [0.5f32, -0.25, f32::NAN], [0.0; 3], [0.0; 3]);
    /// let step = Step { number: 1, learning_rate: 0.1, grad_scale: 1.0 };
    /// let adam = AdamW { weight_decay: 0.0, ..AdamW::default() };
    /// let left_alone = adam.step(Exec::new(1), step, &mut p, &g, &mut m, &mut v)?;
    /// // The first step goes by the learning rate, whatever the gradient.
    /// assert!((p[0] - 0.9).abs() < 1e-6 && (p[1] + 0.9).abs() < 1e-6);
    /// assert_eq!((p[2], left_alone), (3.0, 1));
    /// # Ok::<(), unswag_kernels::KernelError>(())
    /// ```
    pub fn step<P: Float, G: Float>(
        &self,
        exec: Exec,
        step: Step,
        params: &mut [P],
        grads: &[G],
        m: &mut [f32],
        v: &mut [f32],
    ) -> Result<u64, KernelError> {
        const OP: &str = "optim.adamw";
        let constants = self.constants(OP, step)?;
        length(OP, "grads", params.len(), grads.len())?;
        length(OP, "m", params.len(), m.len())?;
        length(OP, "v", params.len(), v.len())?;
        run_f32(exec, constants, Pair { params: P::floats_mut(params), grads: G::floats(grads) }, m, v)
    }

    /// One step with 8-bit state: m on the signed map, v on the unsigned one. params, grads: \[n\]. Returns as [`AdamW::step`].
    ///
    /// # Errors
    /// As [`AdamW::step`].
    pub fn step_8bit<P: Float, G: Float>(
        &self,
        exec: Exec,
        step: Step,
        params: &mut [P],
        grads: &[G],
        m: Moment8bit<'_>,
        v: Moment8bit<'_>,
    ) -> Result<u64, KernelError> {
        const OP: &str = "optim.adamw_8bit";
        let constants = self.constants(OP, step)?;
        length(OP, "grads", params.len(), grads.len())?;
        m.check(OP, ["m.codes", "m.absmax"], params.len())?;
        v.check(OP, ["v.codes", "v.absmax"], params.len())?;
        run_8bit(exec, constants, Pair { params: P::floats_mut(params), grads: G::floats(grads) }, m, v)
    }

    pub(super) fn constants(&self, op: &'static str, step: Step) -> Result<Constants, KernelError> {
        check_betas(op, [self.beta1, self.beta2])?;
        check_rates(op, step, self.weight_decay)?;
        hyper(op, "eps", "a number, at least 0", self.eps, self.eps >= 0.0 && self.eps.is_finite())?;
        hyper(op, "step.number", "at least 1", step.number as f64, step.number > 0)?;
        let number = step.number as f64;
        let (correction1, correction2) = (1.0 - self.beta1.powf(number), (1.0 - self.beta2.powf(number)).sqrt());
        Ok(Constants {
            grad_scale: step.grad_scale,
            decay: (1.0 - step.learning_rate * self.weight_decay) as f32,
            beta1: self.beta1 as f32,
            rest1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            rest2: (1.0 - self.beta2) as f32,
            eps: self.eps as f32,
            correction2: correction2 as f32,
            minus_step: (-step.learning_rate / correction1) as f32,
        })
    }
}

fn run_f32(exec: Exec, constants: Constants, pair: Pair<'_>, m: &mut [f32], v: &mut [f32]) -> Result<u64, KernelError> {
    let left_alone = AtomicU64::new(0);
    let chunks = m.len().div_ceil(CHUNK);
    let work = pair.params.chunks(CHUNK).zip(pair.grads.chunks(CHUNK));
    let work = work.zip(m.chunks_mut(CHUNK)).zip(v.chunks_mut(CHUNK));
    exec.for_each(chunks, work, |(((params, grads), m), v)| {
        let (m, v) = (FloatsMut::F32(m), FloatsMut::F32(v));
        let body = StepF32 { constants, pair: Pair { params, grads }, m, v, left_alone: &left_alone };
        half::bf16::launch(exec.isa, body);
    })?;
    Ok(left_alone.into_inner())
}

fn run_8bit(
    exec: Exec,
    constants: Constants,
    pair: Pair<'_>,
    m: Moment8bit<'_>,
    v: Moment8bit<'_>,
) -> Result<u64, KernelError> {
    let left_alone = AtomicU64::new(0);
    let chunks = m.codes.len().div_ceil(CHUNK);
    let work = pair.params.chunks(CHUNK).zip(pair.grads.chunks(CHUNK));
    let work = work.zip(m.codes.chunks_mut(CHUNK).zip(m.absmax.chunks_mut(CHUNK / BLOCK)));
    let work = work.zip(v.codes.chunks_mut(CHUNK).zip(v.absmax.chunks_mut(CHUNK / BLOCK)));
    exec.for_each(chunks, work, |(((params, grads), m), v)| {
        let m = Moment8bit { codes: m.0, absmax: m.1 };
        let v = Moment8bit { codes: v.0, absmax: v.1 };
        let maps = [DynamicMap::signed(), DynamicMap::unsigned()];
        let body = Step8bit { constants, maps, pair: Pair { params, grads }, m, v, left_alone: &left_alone };
        half::bf16::launch(exec.isa, body);
    })?;
    Ok(left_alone.into_inner())
}

struct StepF32<'a> {
    constants: Constants,
    pair: Pair<'a>,
    m: FloatsMut<'a>,
    v: FloatsMut<'a>,
    left_alone: &'a AtomicU64,
}

impl Body for StepF32<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (mut left_alone, mut done) = (0, 0);
        if let (FloatsMut::F32(p), Floats::F32(g), FloatsMut::F32(m), FloatsMut::F32(v)) =
            (&mut self.pair.params, self.pair.grads, &mut self.m, &mut self.v)
        {
            let (ps, gs) = (p.as_chunks_mut().0, g.as_chunks().0);
            done = ps.len();
            for (((p, g), m), v) in ps.iter_mut().zip(gs).zip(m.as_chunks_mut().0).zip(v.as_chunks_mut().0) {
                left_alone += update::<S, true, LANES>(s, &self.constants, p, g, m, v);
            }
        }
        for at in done..self.pair.params.len().div_ceil(LANES) {
            let (mut p, g) = self.pair.read(s, at);
            let (mut m, mut v) = ([0.0; LANES], [0.0; LANES]);
            self.m.read(s, at * LANES, &mut m);
            self.v.read(s, at * LANES, &mut v);
            left_alone += update::<S, true, LANES>(s, &self.constants, &mut p, &g, &mut m, &mut v);
            self.m.write(s, at * LANES, &m);
            self.v.write(s, at * LANES, &v);
            self.pair.write(s, at, &p);
        }
        self.left_alone.fetch_add(left_alone, Ordering::Relaxed);
    }
}

struct Step8bit<'a> {
    constants: Constants,
    maps: [&'static DynamicMap; 2],
    pair: Pair<'a>,
    m: Moment8bit<'a>,
    v: Moment8bit<'a>,
    left_alone: &'a AtomicU64,
}

impl Body for Step8bit<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let mut left_alone = 0;
        let [m_map, v_map] = self.maps;
        let m_blocks = self.m.codes.chunks_mut(BLOCK).zip(self.m.absmax);
        let v_blocks = self.v.codes.chunks_mut(BLOCK).zip(self.v.absmax);
        for (at, ((m_codes, m_absmax), (v_codes, v_absmax))) in m_blocks.zip(v_blocks).enumerate() {
            let (mut p, g) = self.pair.read(s, at);
            let (mut m, mut v) = ([0.0; BLOCK], [0.0; BLOCK]);
            blockwise::decode(s, m_map, m_codes, *m_absmax, &mut m);
            blockwise::decode(s, v_map, v_codes, *v_absmax, &mut v);
            left_alone += update::<S, false, BLOCK>(s, &self.constants, &mut p, &g, &mut m, &mut v);
            self.pair.write(s, at, &p);
            blockwise::encode(s, m_map, &m, m_codes, m_absmax);
            blockwise::encode(s, v_map, &v, v_codes, v_absmax);
        }
        self.left_alone.fetch_add(left_alone, Ordering::Relaxed);
    }
}

/// A block's update. Elements that are zero in all four stay zero, so what is behind the end of a tensor does not show.
#[inline(always)]
fn update<S: Simd, const LERP: bool, const N: usize>(
    s: S,
    c: &Constants,
    p: &mut [f32; N],
    g: &[f32; N],
    m: &mut [f32; N],
    v: &mut [f32; N],
) -> u64 {
    let mut left_alone = 0;
    let gs = g.as_chunks::<32>().0.iter();
    let (ps, ms, vs) = (p.as_chunks_mut::<32>().0, m.as_chunks_mut::<32>().0, v.as_chunks_mut::<32>().0);
    for (((p, m), v), g) in ps.iter_mut().zip(ms).zip(vs).zip(gs) {
        let (p2, g2, m2, v2) =
            (p.as_chunks::<16>().0, g.as_chunks::<16>().0, m.as_chunks::<16>().0, v.as_chunks::<16>().0);
        let low = lanes::<S, LERP>(s, c, &p2[0], &g2[0], &m2[0], &v2[0]);
        let high = lanes::<S, LERP>(s, c, &p2[1], &g2[1], &m2[1], &v2[1]);
        left_alone += low.3 + high.3;
        s.store_f32(p, low.0, high.0, false);
        s.store_f32(m, low.1, high.1, false);
        s.store_f32(v, low.2, high.2, false);
    }
    left_alone
}

/// p, m and v of sixteen elements, and how many were left alone.
#[inline(always)]
fn lanes<S: Simd, const LERP: bool>(
    s: S,
    c: &Constants,
    p: &[f32; 16],
    g: &[f32; 16],
    m: &[f32; 16],
    v: &[f32; 16],
) -> (S::F, S::F, S::F, u64) {
    let (old_p, old_m, old_v) = (s.load_f32(p), s.load_f32(m), s.load_f32(v));
    let g = s.mul(s.load_f32(g), s.splat(c.grad_scale));
    let finite = s.ge(s.splat(f32::MAX), s.mul(g, g));
    let m = if !LERP {
        s.fma(g, s.splat(c.rest1), s.mul(old_m, s.splat(c.beta1)))
    } else if c.rest1 < 0.5 {
        s.fma(s.splat(c.rest1), s.sub(g, old_m), old_m)
    } else {
        s.fma(s.splat(c.rest1 - 1.0), s.sub(g, old_m), g)
    };
    let v = s.fma(s.mul(s.splat(c.rest2), g), g, s.mul(old_v, s.splat(c.beta2)));
    let denominator = s.add(s.div(s.sqrt(v), s.splat(c.correction2)), s.splat(c.eps));
    let decayed = s.mul(old_p, s.splat(c.decay));
    let p = s.add(decayed, s.div(s.mul(s.splat(c.minus_step), m), denominator));
    (s.select(finite, p, old_p), s.select(finite, m, old_m), s.select(finite, v, old_v), count_false(s, finite))
}
