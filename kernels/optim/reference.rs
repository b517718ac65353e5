//! The specification: each optimizer as plain loops, one element at a time.
//!
//! Slow on purpose. It must never share more with the vector bodies than the settings of a step and the quantisers'
//! reference. Slices must have the lengths that the steps ask for; here a wrong length or setting panics.

use super::{AdamW, Lion, Step};
use crate::{
    Element,
    quant::{DynamicMap, reference},
};

/// An 8-bit moment that owns its codes and scales.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    pub codes: Vec<u8>,
    pub absmax: Vec<f32>,
}

fn decoded(map: &DynamicMap, moment: &Moment) -> Vec<f32> {
    let mut values = vec![0.0; moment.codes.len()];
    reference::dequantize(map, 0.0, &moment.codes, &moment.absmax, &mut values);
    values
}

fn encode(map: &DynamicMap, values: &[f32], moment: &mut Moment) {
    reference::quantize(map, 0.0, values, &mut moment.codes, &mut moment.absmax);
}

/// [`AdamW::step`].
pub fn adamw<P: Element, G: Element>(
    adam: &AdamW,
    step: Step,
    params: &mut [P],
    grads: &[G],
    m: &mut [f32],
    v: &mut [f32],
) -> u64 {
    adamw_with(true, adam, step, params, grads, m, v)
}

/// [`AdamW::step_8bit`].
pub fn adamw_8bit<P: Element, G: Element>(
    adam: &AdamW,
    step: Step,
    params: &mut [P],
    grads: &[G],
    m: &mut Moment,
    v: &mut Moment,
) -> u64 {
    let (mut m32, mut v32) = (decoded(DynamicMap::signed(), m), decoded(DynamicMap::unsigned(), v));
    let left_alone = adamw_with(false, adam, step, params, grads, &mut m32, &mut v32);
    encode(DynamicMap::signed(), &m32, m);
    encode(DynamicMap::unsigned(), &v32, v);
    left_alone
}

fn adamw_with<P: Element, G: Element>(
    lerp: bool,
    adam: &AdamW,
    step: Step,
    params: &mut [P],
    grads: &[G],
    m: &mut [f32],
    v: &mut [f32],
) -> u64 {
    let c = adam.constants("reference", step).expect("the caller has checked the settings");
    let mut left_alone = 0;
    for i in 0..params.len() {
        let g = grads[i].to_f32() * c.grad_scale;
        if !(g * g).is_finite() {
            left_alone += 1;
            continue;
        }
        m[i] = if !lerp {
            g.mul_add(c.rest1, m[i] * c.beta1)
        } else if c.rest1 < 0.5 {
            c.rest1.mul_add(g - m[i], m[i])
        } else {
            (c.rest1 - 1.0).mul_add(g - m[i], g)
        };
        v[i] = (c.rest2 * g).mul_add(g, v[i] * c.beta2);
        let denominator = v[i].sqrt() / c.correction2 + c.eps;
        params[i] = P::from_f32(params[i].to_f32() * c.decay + c.minus_step * m[i] / denominator);
    }
    left_alone
}

/// [`Lion::step`].
pub fn lion<P: Element, G: Element>(lion: &Lion, step: Step, params: &mut [P], grads: &[G], m: &mut [f32]) -> u64 {
    lion_with(true, lion, step, params, grads, m)
}

/// [`Lion::step_8bit`].
pub fn lion_8bit<P: Element, G: Element>(
    lion: &Lion,
    step: Step,
    params: &mut [P],
    grads: &[G],
    m: &mut Moment,
) -> u64 {
    let mut m32 = decoded(DynamicMap::signed(), m);
    let left_alone = lion_with(false, lion, step, params, grads, &mut m32);
    encode(DynamicMap::signed(), &m32, m);
    left_alone
}

fn lion_with<P: Element, G: Element>(
    fused: bool,
    lion: &Lion,
    step: Step,
    params: &mut [P],
    grads: &[G],
    m: &mut [f32],
) -> u64 {
    let c = lion.constants("reference", step).expect("the caller has checked the settings");
    let mut left_alone = 0;
    for i in 0..params.len() {
        let g = grads[i].to_f32() * c.grad_scale;
        if !g.is_finite() {
            left_alone += 1;
            continue;
        }
        let kept = m[i] * c.beta1;
        let direction = if fused { g.mul_add(c.rest1, kept) } else { kept + g * c.rest1 };
        let change = if direction > 0.0 {
            c.minus_rate
        } else if direction < 0.0 {
            -c.minus_rate
        } else {
            direction * 0.0
        };
        params[i] = P::from_f32(params[i].to_f32() * c.decay + change);
        m[i] = g.mul_add(c.rest2, m[i] * c.beta2);
    }
    left_alone
}
