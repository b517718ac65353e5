//! The scalar functions that every kernel means when it says `exp`, `silu` or `gelu`: f32, defined operation by operation.
//!
//! libm's results differ between systems and no vector unit follows them, so the project fixes its own: only IEEE
//! operations with one answer (add, multiply, divide, fused multiply-add, round to even, compare), in a stated order. The
//! vector forms (`simd/math.rs`) do the same operations, so every instruction set gives these bits. The coefficients come
//! from `coefficients.py` beside this file. Off f64 by at most (`tests/math.rs`, 8 million values): `exp` 0.9 ulp,
//! `tanh` 2, `silu` 2.3, `gelu` 7.1; `gelu_tanh` 3 + 2.5 |z|, z the argument of its exponential, as any f32 form of it.
//!
//! Nothing here may call libm: that would tie results to a system.

/// log2(e), to f32.
pub(crate) const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln(2) to f32.
pub(crate) const LN_2: f32 = std::f32::consts::LN_2;
/// ln(2) - `LN_2`.
pub(crate) const LN_2_REST: f32 = -1.904_654_3e-9;
/// Above this `exp` is infinity, whatever is added.
pub(crate) const EXP_HIGH: f32 = 89.0;
/// Below this `exp` is zero: half the least denormal is exp(-103.97).
pub(crate) const EXP_LOW: f32 = -104.0;

/// exp(r) on |r| <= ln(2)/2, highest degree first; relative error 2^-27.4.
pub(crate) const EXP: [f32; 7] = [0.001_384_204_3, 0.008_369_197, 0.041_668_22, 0.166_665_23, 0.499_999_94, 1.0, 1.0];

/// Q(a) = exp(-a^2/2) t P(t), t = 1/(1 + a/4), for 0 <= a <= 16; highest degree first; relative error 2^-25.8.
pub(crate) const TAIL: [f32; 10] = [
    0.017_673_284,
    -0.068_859_78,
    0.066_254_41,
    0.008_464_321,
    0.029_788_703,
    0.077_208_236,
    0.075_375_97,
    0.094_765_56,
    0.099_586_435,
    0.099_742_87,
];
/// Beyond this the normal density and tail are zero in f32.
pub(crate) const TAIL_HIGH: f32 = 16.0;

/// 2 sqrt(2/pi), the factor of GELU's tanh form once tanh is written as a sigmoid.
pub(crate) const GELU_TANH_OUTER: f32 = (std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::SQRT_2) as f32;
/// Hendrycks & Gimpel 2016.
pub(crate) const GELU_TANH_CUBIC: f32 = 0.044_715;
/// 1/sqrt(2 pi).
pub(crate) const NORMAL_PEAK: f32 = (std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2 / 2.0) as f32;

/// `low < value ? .. : low`, as the vector units have it: a NaN comes through.
fn clamp(value: f32, low: f32, high: f32) -> f32 {
    let value = if high < value { high } else { value };
    if low > value { low } else { value }
}

/// p 2^n for |n| <= 150 with a single rounding: the first factor cannot leave the normal range.
fn scale(p: f32, n: f32) -> f32 {
    let n = n as i32;
    let half = n >> 1;
    let power = |k: i32| f32::from_bits(((k + 127) as u32) << 23);
    p * power(half) * power(n - half)
}

/// exp(x + rest), where `rest` is a correction far below `x`'s own ulp.
fn exp_with(x: f32, rest: f32) -> f32 {
    let x = clamp(x, EXP_LOW, EXP_HIGH);
    let n = (x * LOG2_E).round_ties_even();
    let r = (-n).mul_add(LN_2, x);
    let r = (-n).mul_add(LN_2_REST, r) + rest;
    let mut p = EXP[0];
    for c in &EXP[1..] {
        p = p.mul_add(r, *c);
    }
    scale(p, n)
}

/// e^x. exp(-inf) = 0, exp(inf) = inf, denormal results kept, NaN in, NaN out.
///
/// ```
/// assert_eq!(unswag_kernels::math::exp(0.0), 1.0);
/// ```
pub fn exp(x: f32) -> f32 {
    exp_with(x, 0.0)
}

/// tanh(x) = x + x^3 P(x^2) on |x| < [`TANH_SMALL`], highest degree first; relative error 2^-27.7.
pub(crate) const TANH: [f32; 5] = [-0.005_692_479, 0.020_628_23, -0.053_736_515, 0.133_314_06, -0.333_332_8];
/// Where tanh changes from its polynomial to the form with an exponential, which cancels near 0.
pub(crate) const TANH_SMALL: f32 = 0.625;

/// tanh(x), within 2 ulp. tanh(-0) = -0; NaN in, NaN out.
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    if a >= TANH_SMALL {
        let magnitude = 1.0 - 2.0 / (1.0 + exp(a + a));
        return if x >= 0.0 { magnitude } else { -magnitude };
    }
    let square = x * x;
    let mut p = TANH[0];
    for c in &TANH[1..] {
        p = p.mul_add(square, *c);
    }
    // Not x + x^3 P: of -0 that would make 0.
    x * square.mul_add(p, 1.0)
}

/// The natural logarithm of an f32, in f64 to about 1e-15: ln(0) = -inf, NaN below 0.
///
/// ```
/// assert_eq!(unswag_kernels::math::ln(1.0), 0.0);
/// ```
pub fn ln(x: f32) -> f64 {
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x < 0.0 || !x.is_finite() {
        return if x > 0.0 { f64::INFINITY } else { f64::NAN };
    }
    // x = 2^e m with m around 1; ln(m) = 2 atanh(f), f = (m - 1) / (m + 1), |f| < 0.172. An f32 is normal in f64.
    let bits = f64::from(x).to_bits();
    let mut e = (bits >> 52) as f64 - 1023.0;
    let mut m = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if m > std::f64::consts::SQRT_2 {
        (m, e) = (0.5 * m, e + 1.0);
    }
    let f = (m - 1.0) / (m + 1.0);
    let square = f * f;
    let mut p = 0.0;
    for k in (0..12).rev() {
        p = p * square + 1.0 / f64::from(2 * k + 1);
    }
    2.0 * f * p + e * std::f64::consts::LN_2
}

/// 1 / (1 + e^-x).
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// x / (1 + e^-x). Elfwing et al. 2018. As in PyTorch, silu(-inf) is NaN and silu underflows to -0 below about -88.7.
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// silu and its derivative s (1 + x (1 - s)), s = sigmoid(x). At -inf and inf the derivative is its limit.
pub fn silu_with_derivative(x: f32) -> (f32, f32) {
    let d = 1.0 + exp(-x);
    let s = 1.0 / d;
    let limited = clamp(x, -128.0, 128.0);
    (x / d, s * limited.mul_add(1.0 - s, 1.0))
}

/// The standard normal's distribution function, and exp(-x^2/2).
fn normal(x: f32) -> (f32, f32) {
    let magnitude = x.abs();
    let a = if TAIL_HIGH < magnitude { TAIL_HIGH } else { magnitude };
    // a^2 needs more digits than f32 has: what its rounding lost goes into the exponential as a correction.
    let square = a * a;
    let lost = a.mul_add(a, -square);
    let e = exp_with(square * -0.5, lost * -0.5);
    let t = 1.0 / a.mul_add(0.25, 1.0);
    let mut p = TAIL[0];
    for c in &TAIL[1..] {
        p = p.mul_add(t, *c);
    }
    let tail = e * (t * p);
    (if x >= 0.0 { 1.0 - tail } else { tail }, e)
}

/// x Phi(x), Phi the normal distribution function: GELU as first defined (Hendrycks & Gimpel 2016). gelu(-inf) is NaN.
pub fn gelu(x: f32) -> f32 {
    x * normal(x).0
}

/// gelu and its derivative Phi(x) + x phi(x).
pub fn gelu_with_derivative(x: f32) -> (f32, f32) {
    let (phi, e) = normal(x);
    let limited = clamp(x, -TAIL_HIGH, TAIL_HIGH);
    (x * phi, (limited * NORMAL_PEAK).mul_add(e, phi))
}

/// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), computed as x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)).
pub fn gelu_tanh(x: f32) -> f32 {
    let inner = x * (GELU_TANH_CUBIC * x).mul_add(x, 1.0);
    x / (1.0 + exp(inner * -GELU_TANH_OUTER))
}

/// gelu_tanh and its derivative s + x s (1 - s) 2 sqrt(2/pi) (1 + 3 0.044715 x^2).
pub fn gelu_tanh_with_derivative(x: f32) -> (f32, f32) {
    let inner = x * (GELU_TANH_CUBIC * x).mul_add(x, 1.0);
    let d = 1.0 + exp(inner * -GELU_TANH_OUTER);
    let s = 1.0 / d;
    let l = clamp(x, -TAIL_HIGH, TAIL_HIGH);
    let slope = l * GELU_TANH_OUTER * (3.0 * GELU_TANH_CUBIC * l).mul_add(l, 1.0);
    (x / d, (s * slope).mul_add(1.0 - s, s))
}
