//! The vector forms of `crate::math`, operation for operation. The comments on the mathematics are there.

use super::Simd;
use crate::math::{
    EXP, EXP_HIGH, EXP_LOW, GELU_TANH_CUBIC, GELU_TANH_OUTER, LN_2, LN_2_REST, LOG2_E, NORMAL_PEAK, TAIL, TAIL_HIGH,
    TANH, TANH_SMALL,
};

#[inline(always)]
fn clamp<S: Simd>(s: S, value: S::F, low: f32, high: f32) -> S::F {
    s.max(s.splat(low), s.min(s.splat(high), value))
}

#[inline(always)]
fn horner<S: Simd, const N: usize>(s: S, c: &[f32; N], x: S::F) -> S::F {
    let mut p = s.splat(c[0]);
    for c in &c[1..] {
        p = s.fma(p, x, s.splat(*c));
    }
    p
}

#[inline(always)]
fn exp_of<S: Simd>(s: S, x: S::F, rest: Option<S::F>) -> S::F {
    let x = clamp(s, x, EXP_LOW, EXP_HIGH);
    let n = s.round(s.mul(x, s.splat(LOG2_E)));
    let r = s.fnma(n, s.splat(LN_2), x);
    let mut r = s.fnma(n, s.splat(LN_2_REST), r);
    if let Some(rest) = rest {
        r = s.add(r, rest);
    }
    s.scale(horner(s, &EXP, r), n)
}

/// One activation: its value, and its value with its derivative.
pub trait Function: Copy + Send + Sync {
    fn value<S: Simd>(s: S, x: S::F) -> S::F;
    fn with_derivative<S: Simd>(s: S, x: S::F) -> (S::F, S::F);
}

#[derive(Clone, Copy)]
pub struct Silu;
#[derive(Clone, Copy)]
pub struct Gelu;
#[derive(Clone, Copy)]
pub struct GeluTanh;

/// e^x.
#[derive(Clone, Copy)]
pub struct Exp;
#[derive(Clone, Copy)]
pub struct Tanh;

impl Function for Exp {
    #[inline(always)]
    fn value<S: Simd>(s: S, x: S::F) -> S::F {
        exp_of(s, x, None)
    }

    #[inline(always)]
    fn with_derivative<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
        let e = exp_of(s, x, None);
        (e, e)
    }
}

impl Function for Tanh {
    #[inline(always)]
    fn value<S: Simd>(s: S, x: S::F) -> S::F {
        let (one, two, a) = (s.splat(1.0), s.splat(2.0), s.abs(x));
        let magnitude = s.sub(one, s.div(two, s.add(one, exp_of(s, s.add(a, a), None))));
        let large = s.select(s.ge(x, s.splat(0.0)), magnitude, s.neg(magnitude));
        let square = s.mul(x, x);
        let small = s.mul(x, s.fma(square, horner(s, &TANH, square), one));
        s.select(s.ge(a, s.splat(TANH_SMALL)), large, small)
    }

    #[inline(always)]
    fn with_derivative<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
        let t = Tanh::value(s, x);
        (t, s.fnma(t, t, s.splat(1.0)))
    }
}

impl Function for Silu {
    #[inline(always)]
    fn value<S: Simd>(s: S, x: S::F) -> S::F {
        s.div(x, s.add(s.splat(1.0), exp_of(s, s.neg(x), None)))
    }

    #[inline(always)]
    fn with_derivative<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
        let one = s.splat(1.0);
        let d = s.add(one, exp_of(s, s.neg(x), None));
        let sigmoid = s.div(one, d);
        let limited = clamp(s, x, -128.0, 128.0);
        let derivative = s.mul(sigmoid, s.fma(limited, s.sub(one, sigmoid), one));
        (s.div(x, d), derivative)
    }
}

#[inline(always)]
fn normal<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    let one = s.splat(1.0);
    let a = s.min(s.splat(TAIL_HIGH), s.abs(x));
    let square = s.mul(a, a);
    let lost = s.fma(a, a, s.neg(square));
    let half = s.splat(-0.5);
    let e = exp_of(s, s.mul(square, half), Some(s.mul(lost, half)));
    let t = s.div(one, s.fma(a, s.splat(0.25), one));
    let tail = s.mul(e, s.mul(t, horner(s, &TAIL, t)));
    (s.select(s.ge(x, s.splat(0.0)), s.sub(one, tail), tail), e)
}

impl Function for Gelu {
    #[inline(always)]
    fn value<S: Simd>(s: S, x: S::F) -> S::F {
        s.mul(x, normal(s, x).0)
    }

    #[inline(always)]
    fn with_derivative<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
        let (phi, e) = normal(s, x);
        let limited = clamp(s, x, -TAIL_HIGH, TAIL_HIGH);
        (s.mul(x, phi), s.fma(s.mul(limited, s.splat(NORMAL_PEAK)), e, phi))
    }
}

#[inline(always)]
fn gelu_tanh_divisor<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    let inner = s.mul(x, s.fma(s.mul(s.splat(GELU_TANH_CUBIC), x), x, one));
    s.add(one, exp_of(s, s.mul(inner, s.splat(-GELU_TANH_OUTER)), None))
}

impl Function for GeluTanh {
    #[inline(always)]
    fn value<S: Simd>(s: S, x: S::F) -> S::F {
        s.div(x, gelu_tanh_divisor(s, x))
    }

    #[inline(always)]
    fn with_derivative<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
        let one = s.splat(1.0);
        let d = gelu_tanh_divisor(s, x);
        let sigmoid = s.div(one, d);
        let l = clamp(s, x, -TAIL_HIGH, TAIL_HIGH);
        let outer = s.mul(l, s.splat(GELU_TANH_OUTER));
        let slope = s.mul(outer, s.fma(s.mul(s.splat(3.0 * GELU_TANH_CUBIC), l), l, one));
        let derivative = s.fma(s.mul(sigmoid, slope), s.sub(one, sigmoid), sigmoid);
        (s.div(x, d), derivative)
    }
}
