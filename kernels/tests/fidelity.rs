//! How good each approximation is, on normal data: bounds on both sides, so that zeros fail, and so does a perfect answer
//! that would mean the wrong thing was measured. And finite differences for the backward that claims to be exact.

mod common;

use common::Seeded;
use half::bf16;
use unswag_kernels::{
    Element, Exec,
    delhi::{
        Activation::{self, Silu},
        Config, DEFAULT_GROUP, Mode, Rounding, Saved, SavedMut, Shape, Weighting, code_words, geglu, reference,
        saved_sizes, silu, swiglu, tables,
    },
};

const SHAPE: Shape = Shape { rows: 64, cols: 1536 };
const N: usize = SHAPE.rows * SHAPE.cols;

/// act(x) in f64, for finite differences.
fn value(activation: Activation, x: f64) -> f64 {
    match activation {
        Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let k = (2.0 / std::f64::consts::PI).sqrt();
            0.5 * x * (1.0 + (k * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::Gelu => {
            // Phi by Simpson's rule on the density.
            let density = |t: f64| (-t * t / 2.0).exp() / std::f64::consts::TAU.sqrt();
            let step = x / 400.0;
            let inner: f64 = (1..400).map(|i| density(f64::from(i) * step) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
            x * (0.5 + (density(0.0) + inner + density(x)) * step / 3.0)
        }
    }
}

#[test]
fn exact_backward_agrees_with_finite_differences() {
    let mut random = Seeded(11);
    let n = 1000;
    let (g, u, dh) = (random.normals::<f32>(n), random.normals::<f32>(n), random.normals::<f32>(n));
    for activation in Activation::ALL {
        let (mut dg, mut du) = (vec![0.0; n], vec![0.0; n]);
        if activation == Silu {
            swiglu::exact_backward(Exec::new(1), &dh, &g, &u, &mut dg, &mut du).unwrap();
        } else {
            geglu::exact_backward(Exec::new(1), activation, &dh, &g, &u, &mut dg, &mut du).unwrap();
        }
        for i in 0..n {
            let [g, u, dh] = [g[i], u[i], dh[i]].map(f64::from);
            let loss = |g: f64, u: f64| dh * value(activation, g) * u;
            let e = 1e-5;
            let by_g = (loss(g + e, u) - loss(g - e, u)) / (2.0 * e);
            let by_u = (loss(g, u + e) - loss(g, u - e)) / (2.0 * e);
            // f32's rounding, of terms up to |dh u| and |dh g|.
            let tolerance = 1e-6 * (1.0 + (dh * u).abs() + (dh * g).abs());
            assert!((f64::from(dg[i]) - by_g).abs() < tolerance, "{}: dg {} {by_g}", activation.name(), dg[i]);
            assert!((f64::from(du[i]) - by_u).abs() < tolerance, "{}: du {} {by_u}", activation.name(), du[i]);
        }
    }
}

/// Cosine of the angle between, and |a - b| / |b|.
fn compare(a: &[f32], b: &[f32]) -> (f64, f64) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let norm = |a: &[f32]| dot(a, a).sqrt();
    (dot(a, b) / (norm(a) * norm(b)), norm(&difference) / norm(b))
}

#[test]
fn derivative_errors_of_the_codes_are_the_tables_own() {
    let x = Seeded(12).normals::<f32>(N);
    // Root mean square of level - silu'(x) for x ~ N(0, 1) with the table made for it.
    for (bits, known) in [(1, 0.1785), (2, 0.0894), (3, 0.0440), (4, 0.0218)] {
        let table = tables::table(Silu, bits, &Weighting::Normal).unwrap();
        let (mut y, mut dx) = (vec![0.0; N], vec![0.0; N]);
        let mut codes = vec![0; code_words(N, bits).unwrap()];
        silu::forward(Exec::new(2), &table, &x, &mut y, &mut codes).unwrap();
        silu::backward(Exec::new(2), &table, &vec![1.0; N], &codes, &mut dx).unwrap();
        let square: f64 = x
            .iter()
            .zip(&dx)
            .map(|(x, level)| (f64::from(*level) - f64::from(reference::value_and_derivative(Silu, *x).1)).powi(2))
            .sum();
        let rms = (square / N as f64).sqrt();
        assert!((rms - known).abs() < 0.01 * known + 5e-5, "{bits} bits: {rms}");
        assert!(
            (rms - table.rms_error()).abs() < 0.01 * rms,
            "{bits} bits: {rms}, the table says {}",
            table.rms_error()
        );
    }
}

struct Measured {
    dg: (f64, f64),
    du: (f64, f64),
    h: (f64, f64),
}

fn measure<T: Element>(mode: Mode, group: usize, rounding: Rounding) -> Measured {
    let config = Config { mode, group, rounding };
    let mut random = Seeded(13);
    let (g, u, dh) = (random.normals::<T>(N), random.normals::<T>(N), random.normals::<T>(N));
    let sizes = saved_sizes(SHAPE.rows, SHAPE.cols, mode, group).unwrap();
    let words = || vec![0; SHAPE.rows * sizes.words_per_row];
    let params = || vec![bf16::ZERO; SHAPE.rows * sizes.params_per_row];
    let (mut g_codes, mut u_codes, mut g_params, mut u_params) = (words(), words(), params(), params());
    let mut tensors: [Vec<T>; 6] = std::array::from_fn(|_| vec![T::ZERO; N]);
    let [h, again, dg, du, exact_dg, exact_du] = &mut tensors;
    let exec = Exec::new(2);
    let saved =
        SavedMut { g_codes: &mut g_codes, g_params: &mut g_params, u_codes: &mut u_codes, u_params: &mut u_params };
    swiglu::forward(exec, SHAPE, &config, &g, &u, h, saved).unwrap();
    let saved = Saved { g_codes: &g_codes, g_params: &g_params, u_codes: &u_codes, u_params: &u_params };
    swiglu::backward(exec, SHAPE, &config, &dh, saved, dg, du).unwrap();
    swiglu::rematerialize(exec, SHAPE, &config, saved, again).unwrap();
    swiglu::exact_backward(exec, &dh, &g, &u, exact_dg, exact_du).unwrap();
    let wide = |values: &[T]| values.iter().map(|v| v.to_f32()).collect::<Vec<_>>();
    let of = |a: &[T], b: &[T]| compare(&wide(a), &wide(b));
    Measured { dg: of(dg, exact_dg), du: of(du, exact_du), h: of(again, h) }
}

/// (mode, relative error of dg, of du, of h) on N(0, 1), bf16, group 64, to nearest. Measured; held to within 6 %.
const RELATIVE_ERRORS: [(Mode, f64, f64, f64); 3] = [
    (Mode::Bits8, 0.00677, 0.00607, 0.00805),
    (Mode::Bits4, 0.1063, 0.0917, 0.1296),
    (Mode::Bits2, 0.537, 0.462, 0.690),
];

#[test]
fn gradients_of_the_packed_modes_have_the_measured_errors() {
    for (mode, dg, du, h) in RELATIVE_ERRORS {
        let got = measure::<bf16>(mode, DEFAULT_GROUP, Rounding::Nearest);
        for (name, (cosine, error), known) in [("dg", got.dg, dg), ("du", got.du, du), ("h", got.h, h)] {
            assert!((error - known).abs() < 0.06 * known, "{} {name}: {error}, known {known}", mode.name());
            // An error at right angles to the gradient would give this cosine; a wrong direction gives less.
            assert!(cosine > (1.0 - 1.3 * error * error).max(0.0), "{} {name}: cosine {cosine}", mode.name());
        }
    }
}

#[test]
fn smaller_groups_and_more_bits_are_better() {
    let error = |mode, group| measure::<f32>(mode, group, Rounding::Nearest).dg.1;
    for mode in [Mode::Bits8, Mode::Bits4, Mode::Bits2] {
        assert!(error(mode, 32) < error(mode, 64) && error(mode, 64) < error(mode, 256), "{}", mode.name());
    }
    assert!(error(Mode::Bits8, 64) * 8.0 < error(Mode::Bits4, 64));
    assert!(error(Mode::Bits4, 64) * 3.0 < error(Mode::Bits2, 64));
}

/// Why a group's parameters are bf16: the error of 8-bit codes with them against the same codes with f32 parameters.
#[test]
fn bf16_parameters_cost_little_error() {
    let values = Seeded(14).normals::<f32>(N);
    let (mut with_bf16, mut with_f32) = (0.0f64, 0.0f64);
    for group in values.chunks(DEFAULT_GROUP) {
        let parameters = reference::group_parameters(group, 8);
        let (low, high) = group.iter().fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        let step = (high - low) / 255.0;
        for v in group {
            let code = reference::group_code(*v, parameters, 8, 0.5);
            with_bf16 += f64::from(reference::group_value(code, parameters) - v).powi(2);
            let plain = low + step * ((v - low) / step).round();
            with_f32 += f64::from(plain - v).powi(2);
        }
    }
    let ratio = (with_bf16 / with_f32).sqrt();
    // Measured 1.023: min rounds down and step up, both by at most 2^-8 of themselves.
    assert!((1.0..1.03).contains(&ratio), "{ratio}");
}

#[test]
fn stochastic_rounding_is_unbiased_and_nearest_is_not() {
    let values: Vec<f32> = Seeded(15).normals(DEFAULT_GROUP);
    let (zeros, n) = (vec![0.0f32; DEFAULT_GROUP], DEFAULT_GROUP);
    let shape = Shape { rows: 1, cols: n };
    // u = g, so that rematerialising shows nothing new: the codes of u are read through the reference.
    let decoded = |rounding| {
        let config = Config { mode: Mode::Bits2, group: 64, rounding };
        let (mut g_codes, mut u_codes) = (vec![0; 4], vec![0; 4]);
        let (mut g_params, mut u_params) = (vec![bf16::ZERO; 2], vec![bf16::ZERO; 2]);
        let mut h = vec![0.0f32; n];
        let saved =
            SavedMut { g_codes: &mut g_codes, g_params: &mut g_params, u_codes: &mut u_codes, u_params: &mut u_params };
        swiglu::forward(Exec::new(1), shape, &config, &zeros, &values, &mut h, saved).unwrap();
        let saved = Saved { g_codes: &g_codes, g_params: &g_params, u_codes: &u_codes, u_params: &u_params };
        reference::dequantise(shape, &config, saved).1
    };
    let repeats = 20_000;
    let mut mean = vec![0.0f64; n];
    for offset in 0..repeats {
        for (mean, v) in mean.iter_mut().zip(decoded(Rounding::Stochastic { seed: 3, offset })) {
            *mean += f64::from(v) / repeats as f64;
        }
    }
    // Steps of about 1.5: a mean of 20,000 has a standard error of at most 0.75/141 = 0.0053.
    let worst = mean.iter().zip(&values).map(|(m, v)| (m - f64::from(*v)).abs()).fold(0.0, f64::max);
    assert!(worst < 5.0 * 0.0053, "{worst}");
    let nearest = decoded(Rounding::Nearest);
    let worst = nearest.iter().zip(&values).map(|(m, v)| (m - v).abs()).fold(0.0, f32::max);
    assert!(worst > 0.3, "{worst}");
}

#[test]
fn seed_and_offset_repeat_and_differ() {
    let values: Vec<f32> = Seeded(16).normals(4096);
    let shape = Shape { rows: 4, cols: 1024 };
    let codes = |rounding| {
        let config = Config { mode: Mode::Bits4, group: 64, rounding };
        let (mut g_codes, mut u_codes) = (vec![0; 512], vec![0; 512]);
        let (mut g_params, mut u_params) = (vec![bf16::ZERO; 128], vec![bf16::ZERO; 128]);
        let saved =
            SavedMut { g_codes: &mut g_codes, g_params: &mut g_params, u_codes: &mut u_codes, u_params: &mut u_params };
        swiglu::forward(Exec::new(1), shape, &config, &values, &values, &mut vec![0.0; 4096], saved).unwrap();
        (g_codes, u_codes)
    };
    let at = |seed, offset| codes(Rounding::Stochastic { seed, offset });
    assert_eq!(at(1, 2), at(1, 2));
    assert_ne!(at(1, 2), at(1, 3));
    assert_ne!(at(1, 2), at(2, 2));
    let (g, u) = at(1, 2);
    assert_ne!(g, u, "g and u draw their own numbers");
    assert_ne!(g[..128], g[128..256], "rows draw their own numbers");
}

/// The values the original prototype decodes its 2-bit codes to: code 2 (x <= -2) becomes a derivative of 1. A kernel that
/// does this must not pass for ours.
#[test]
fn a_wrong_decoder_fails_the_fidelity_bound() {
    let x = Seeded(17).normals::<f32>(N);
    let right = |x: f32| f64::from(reference::value_and_derivative(Silu, x).1);
    let rms = |derivative: &dyn Fn(f32) -> f64| {
        let square: f64 = x.iter().map(|x| (derivative(*x) - right(*x)).powi(2)).sum();
        (square / N as f64).sqrt()
    };
    let table = tables::table(Silu, 2, &Weighting::Normal).unwrap();
    let ours = rms(&|x| f64::from(table.levels()[reference::code(&table, x) as usize]));
    let swapped = rms(&|x| f64::from(table.levels()[3 - reference::code(&table, x) as usize]));
    let zeros = rms(&|_| 0.0);
    assert!(ours < 0.09, "{ours}");
    assert!(swapped > 0.3 && zeros > 0.3, "{swapped} {zeros}");
}
