//! Optimizers: one step of one tensor, in place. AdamW and Lion, with their state in f32 or in 8 bits.
//!
//! * [`AdamW`]: Loshchilov & Hutter 2019, arXiv:1711.05101. [`AdamW::step`] has the order of operations of torch's fused AdamW,
//!   [`AdamW::step_8bit`] that of bitsandbytes on the CPU.
//! * [`Lion`]: Chen et al. 2023, arXiv:2302.06675; likewise in both.
//!
//! Parameters and gradients may be f32, bf16 or f16, and need not agree; the arithmetic is f32, and a parameter is rounded
//! once, to nearest, at the store. Hyperparameters are f64 and are rounded to f32 where torch rounds them, so that a
//! schedule gives the same learning rates here and there.
//!
//! **Not a number.** An element whose gradient is NaN or infinite (for AdamW also one whose square is) is left alone: parameter
//! and state keep their values, and the step returns how many there were. bitsandbytes' CPU path and torch let the NaN in.
//!
//! **8-bit state** is [`Moment8bit`]: codes and scales as [`crate::quant::blockwise`] has them, all zeros at the start. Small
//! tensors (bitsandbytes: fewer than 4096 elements) are better kept in f32: that is the caller's to decide.
//!
//! [`reference`] is the specification; every instruction set and thread count gives its bits. Nothing here may allocate, keep
//! anything between calls, or panic on what a caller passes.

mod adamw;
mod lion;
pub mod reference;

pub use adamw::AdamW;
pub use lion::Lion;

use crate::{
    KernelError,
    error::length,
    quant::{Floats, FloatsMut, blockwise},
    simd::Simd,
};

/// What changes from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The number of this step, from 1: Adam's bias correction depends on it. Lion does not look at it.
    pub number: u64,
    pub learning_rate: f64,
    /// Gradients are multiplied by this first: 1, or what clipping by global norm asks for.
    pub grad_scale: f32,
}

/// One state tensor in 8 bits. For n parameters: n codes, [`blockwise::blocks`]\(n) scales; all zeros is zero.
pub struct Moment8bit<'a> {
    pub codes: &'a mut [u8],
    pub absmax: &'a mut [f32],
}

impl Moment8bit<'_> {
    fn check(&self, op: &'static str, names: [&'static str; 2], elements: usize) -> Result<(), KernelError> {
        length(op, names[0], elements, self.codes.len())?;
        length(op, names[1], blockwise::blocks(elements), self.absmax.len())
    }
}

/// Checks one hyperparameter.
fn hyper(
    op: &'static str,
    argument: &'static str,
    expected: &'static str,
    value: f64,
    holds: bool,
) -> Result<(), KernelError> {
    if holds {
        return Ok(());
    }
    Err(KernelError::Argument { op, argument, expected: expected.into(), got: value.to_string() })
}

fn check_betas(op: &'static str, betas: [f64; 2]) -> Result<(), KernelError> {
    for (name, beta) in ["beta1", "beta2"].into_iter().zip(betas) {
        hyper(op, name, "at least 0 and below 1", beta, (0.0..1.0).contains(&beta))?;
    }
    Ok(())
}

fn check_rates(op: &'static str, step: Step, weight_decay: f64) -> Result<(), KernelError> {
    let at_least_zero = |value: f64| value >= 0.0 && value.is_finite();
    hyper(op, "learning_rate", "a number, at least 0", step.learning_rate, at_least_zero(step.learning_rate))?;
    hyper(op, "weight_decay", "a number, at least 0", weight_decay, at_least_zero(weight_decay))
}

/// How many lanes of sixteen are false.
#[inline(always)]
fn count_false<S: Simd>(s: S, mask: S::M) -> u64 {
    u64::from(16 - s.bits(mask).count_ones())
}

/// Elements that a step with f32 state takes at a time: few enough that what is read need not leave the registers.
const LANES: usize = 32;

/// The parameters and gradients of a chunk, block by block.
struct Pair<'a> {
    params: FloatsMut<'a>,
    grads: Floats<'a>,
}

impl Pair<'_> {
    /// Block `at`, with zeros behind the last element.
    #[inline(always)]
    fn read<S: Simd, const N: usize>(&self, s: S, at: usize) -> ([f32; N], [f32; N]) {
        let (mut p, mut g) = ([0.0; N], [0.0; N]);
        self.params.read(s, at * N, &mut p);
        self.grads.read(s, at * N, &mut g);
        (p, g)
    }

    #[inline(always)]
    fn write<S: Simd, const N: usize>(&mut self, s: S, at: usize, p: &[f32; N]) {
        self.params.write(s, at * N, p);
    }
}
