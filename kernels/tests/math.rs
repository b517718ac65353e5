//! `math` against f64: how many units in the last place each function is off, over the whole range of f32.

use unswag_kernels::math;

/// Every this many-th bit pattern of f32: about 8 million values, a different residue in every binade.
const STRIDE: usize = 509;

/// The distance of `got` from `exact` in units of the f32 at `exact`; denormals have the unit of the least normal's binade.
fn ulps(got: f32, exact: f64) -> f64 {
    let exponent = exact.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor();
    ((f64::from(got) - exact) / (exponent - 23.0).exp2()).abs()
}

/// The worst `ulps` of `ours` over the values of `low..=high`, and where.
fn worst(low: f32, high: f32, ours: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> (f64, f32) {
    let mut worst = (0.0, 0.0);
    for bits in (0..=u32::MAX).step_by(STRIDE) {
        let x = f32::from_bits(bits);
        if (low..=high).contains(&x) {
            let off = ulps(ours(x), exact(f64::from(x)));
            if off > worst.0 || off.is_nan() {
                worst = (off, x);
            }
        }
    }
    worst
}

/// Phi(x), good to about 1e-14 of its value: a series of positive terms near 0, Laplace's continued fraction beyond.
fn phi(x: f64) -> f64 {
    let a = x.abs();
    let density = (-0.5 * a * a).exp() / std::f64::consts::TAU.sqrt();
    if a < 2.5 {
        let (mut term, mut sum, mut odd) = (a, a, 1.0);
        while term > sum * 1e-17 {
            odd += 2.0;
            term *= a * a / odd;
            sum += term;
        }
        return if x < 0.0 { 0.5 - density * sum } else { 0.5 + density * sum };
    }
    let mut fraction = 0.0;
    for k in (1..160).rev() {
        fraction = f64::from(k) / (a + fraction);
    }
    let tail = density / (a + fraction);
    if x < 0.0 { tail } else { 1.0 - tail }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[test]
fn exp_is_within_an_ulp() {
    let (off, at) = worst(-103.9, 88.72, math::exp, f64::exp);
    assert!(off <= 1.0, "{off} ulp at {at}");
}

#[test]
fn silu_is_within_two_and_a_half_ulp() {
    // Below -87.3 the exponential leaves the normal range, and PyTorch's formula with it.
    let (off, at) = worst(-87.3, f32::MAX, math::silu, |x| x * sigmoid(x));
    assert!(off <= 2.5, "{off} ulp at {at}");
}

#[test]
fn gelu_is_within_eight_ulp() {
    let (off, at) = worst(-13.0, f32::MAX, math::gelu, |x| x * phi(x));
    assert!(off <= 8.0, "{off} ulp at {at}");
}

#[test]
fn gelu_tanh_is_right_to_its_arguments_rounding() {
    // e^z of an f32 z carries the rounding of z itself, |z| units and more: the bound grows with it, as in any f32 form.
    let outer = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
    let argument = |x: f64| outer * x * (1.0 + 0.044715 * x * x);
    let (mut worst, mut at) = (0.0, 0.0);
    for bits in (0..=u32::MAX).step_by(STRIDE) {
        let x = f32::from_bits(bits);
        if !(-9.0..=f32::MAX).contains(&x) {
            continue;
        }
        let z = argument(f64::from(x).min(100.0));
        let off = ulps(math::gelu_tanh(x), f64::from(x) * sigmoid(z)) / (3.0 + 2.5 * z.min(0.0).abs());
        if off > worst || off.is_nan() {
            (worst, at) = (off, x);
        }
    }
    assert!(worst <= 1.0, "{worst} of the bound at {at}");
}

/// The worst is the tanh form at 3.5: a slope of 15 on 1 - sigmoid, which is one rounding of 1 off.
#[test]
fn derivatives_are_right_to_twenty_units_of_one() {
    let density = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
    let outer = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
    let mut x = -30.0f32;
    while x < 30.0 {
        let z = f64::from(x);
        let s = sigmoid(z);
        let t = sigmoid(outer * z * (1.0 + 0.044715 * z * z));
        for (name, got, exact) in [
            ("silu", math::silu_with_derivative(x), s * (1.0 + z * (1.0 - s))),
            ("gelu", math::gelu_with_derivative(x), phi(z) + z * density(z)),
            (
                "gelu_tanh",
                math::gelu_tanh_with_derivative(x),
                t + z * t * (1.0 - t) * outer * (1.0 + 3.0 * 0.044715 * z * z),
            ),
        ] {
            assert!(
                (f64::from(got.1) - exact).abs() < 20.0 * f64::from(f32::EPSILON),
                "{name}'({x}) = {}, exactly {exact}",
                got.1
            );
        }
        assert_eq!(math::silu_with_derivative(x).0.to_bits(), math::silu(x).to_bits());
        assert_eq!(math::gelu_with_derivative(x).0.to_bits(), math::gelu(x).to_bits());
        assert_eq!(math::gelu_tanh_with_derivative(x).0.to_bits(), math::gelu_tanh(x).to_bits());
        x += 0.000_37;
    }
}

#[test]
fn ends_of_the_range_are_as_documented() {
    assert_eq!(math::exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(math::exp(f32::INFINITY), f32::INFINITY);
    assert_eq!(math::exp(f32::MAX), f32::INFINITY);
    assert_eq!(math::exp(f32::MIN), 0.0);
    assert_eq!(math::exp(-0.0), 1.0);
    assert!(math::exp(-100.0).is_subnormal());
    for function in [math::silu, math::gelu, math::gelu_tanh] {
        assert_eq!(function(f32::INFINITY), f32::INFINITY);
        assert!(function(f32::NEG_INFINITY).is_nan());
        assert!(function(f32::NAN).is_nan());
        assert_eq!(function(f32::MAX), f32::MAX);
        assert_eq!(function(f32::MIN).to_bits(), (-0.0f32).to_bits());
        assert_eq!(function(-0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(function(0.0).to_bits(), 0.0f32.to_bits());
    }
    for function in [math::silu_with_derivative, math::gelu_with_derivative, math::gelu_tanh_with_derivative] {
        assert_eq!(function(f32::INFINITY).1, 1.0);
        assert_eq!(function(f32::NEG_INFINITY).1, 0.0);
        assert_eq!(function(f32::MAX).1, 1.0);
        assert!(function(f32::NAN).1.is_nan());
        assert_eq!(function(0.0).1, 0.5);
    }
}

#[test]
fn tanh_is_within_two_ulp() {
    let (off, at) = worst(f32::MIN, f32::MAX, math::tanh, f64::tanh);
    assert!(off <= 2.0, "{off} ulp at {at}");
    assert_eq!(math::tanh(-0.0).to_bits(), (-0.0f32).to_bits());
    assert_eq!((math::tanh(f32::INFINITY), math::tanh(f32::NEG_INFINITY)), (1.0, -1.0));
    assert!(math::tanh(f32::NAN).is_nan());
}

#[test]
fn ln_is_right_to_fifteen_digits() {
    for bits in (1..f32::INFINITY.to_bits()).step_by(STRIDE) {
        let x = f32::from_bits(bits);
        let (got, exact) = (math::ln(x), f64::from(x).ln());
        assert!((got - exact).abs() <= 1e-15 * exact.abs().max(1e-2), "ln({x}) = {got}, not {exact}");
    }
    assert_eq!(
        (math::ln(0.0), math::ln(-0.0), math::ln(f32::INFINITY)),
        (f64::NEG_INFINITY, f64::NEG_INFINITY, f64::INFINITY)
    );
    assert!(math::ln(-1.0).is_nan() && math::ln(f32::NAN).is_nan() && math::ln(f32::NEG_INFINITY).is_nan());
}
