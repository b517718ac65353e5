//! rms_norm and layer_norm: the reference's bits everywhere, the mathematics in f64, and transformers' own bf16.

mod common;

use common::{Golden, Seeded, awkward, execs, far, numerical_gradient, same, shifted, sum_error, unit, widened};
use half::{bf16, f16};
use unswag_kernels::{
    Element, Exec, KernelError,
    norm::{layer_norm, reference, rms_norm, rms_norm::Write},
};

/// None, one row, one element, around the lanes, 6 x 42 x 123, a model's, and enough rows for several tasks and blocks.
const SHAPES: [(usize, usize); 12] = [
    (0, 64),
    (1, 1),
    (3, 15),
    (1, 31),
    (2, 32),
    (5, 33),
    (6 * 42, 123),
    (3, 576),
    (700, 64),
    (130, 257),
    (1, 40_001),
    (65, 640),
];

fn config(hidden: usize, unit_offset: bool) -> rms_norm::Config {
    rms_norm::Config { hidden, eps: 1e-5, unit_offset }
}

fn rms_agrees<T: Element>() {
    for (rows, hidden) in SHAPES {
        for unit_offset in [false, true] {
            let (config, n) = (config(hidden, unit_offset), rows * hidden);
            // Clean rows and rows with awkward values: a NaN must not hide the rest.
            for awkwardly in [false, true] {
                let make = |seed| if awkwardly { awkward::<T>(seed, n) } else { Seeded(seed).normals::<T>(n) };
                let (x, r, dy, before) = (make(1), make(2), make(3), make(4));
                let weight: Vec<T> = Seeded(5).normals(hidden);
                let zeros = || vec![T::ZERO; n];
                let (mut y, mut rstd) = (zeros(), vec![0.0; rows]);
                reference::rms_forward(&config, &x, &weight, &mut y, &mut rstd);
                let (mut s, mut y_of_s, mut rstd_of_s) = (zeros(), zeros(), vec![0.0; rows]);
                reference::add(&x, &r, &mut s);
                reference::rms_forward(&config, &s, &weight, &mut y_of_s, &mut rstd_of_s);
                let (mut dx, mut dx_added) = (dy.clone(), before.clone());
                reference::rms_backward(&config, [&dy, &x], &weight, &rstd, &mut dx, Write::Set);
                reference::rms_backward(&config, [&dy, &x], &weight, &rstd, &mut dx_added, Write::Add);
                let mut dweight = vec![0.5; hidden];
                reference::rms_weight_gradient(&config, [&dy, &x], &rstd, &mut dweight);
                for exec in execs() {
                    let name = format!("{config:?} {} {rows} rows, awkward {awkwardly}, {exec:?}", T::NAME);
                    let check = |what: &str, a: &[T], b: &[T]| {
                        same(a, b).unwrap_or_else(|e| panic!("{name}: {what}: {e}"));
                    };
                    let check_f32 = |what: &str, a: &[f32], b: &[f32]| {
                        same(a, b).unwrap_or_else(|e| panic!("{name}: {what}: {e}"));
                    };
                    // Slices start off any alignment, and what was there before must not matter.
                    let x = &shifted(&x, 1)[1..];
                    let (mut got, mut got_rstd) = (before.clone(), vec![7.0; rows]);
                    rms_norm::forward(exec, &config, x, &weight, &mut got, &mut got_rstd).unwrap();
                    check("y", &got, &y);
                    check_f32("rstd", &got_rstd, &rstd);
                    let (mut got_s, mut got) = (before.clone(), before.clone());
                    rms_norm::forward_add(exec, &config, [x, &r], &weight, &mut got_s, &mut got, &mut got_rstd)
                        .unwrap();
                    check("s", &got_s, &s);
                    check("y of s", &got, &y_of_s);
                    check_f32("rstd of s", &got_rstd, &rstd_of_s);
                    let (mut got_s, mut got) = (x.to_vec(), before.clone());
                    rms_norm::forward_add_in_place(exec, &config, &mut got_s, &r, &weight, &mut got, &mut got_rstd)
                        .unwrap();
                    check("s in place", &got_s, &s);
                    check("y of s in place", &got, &y_of_s);
                    let mut got = before.clone();
                    rms_norm::backward(exec, &config, [&dy, x], &weight, &rstd, &mut got, Write::Set).unwrap();
                    check("dx", &got, &dx);
                    let mut got = before.clone();
                    rms_norm::backward(exec, &config, [&dy, x], &weight, &rstd, &mut got, Write::Add).unwrap();
                    check("dx added", &got, &dx_added);
                    let mut got = vec![0.5; hidden];
                    rms_norm::weight_gradient(exec, &config, [&dy, x], &rstd, &mut got).unwrap();
                    check_f32("dweight", &got, &dweight);
                }
            }
        }
    }
}

fn layer_agrees<T: Element>() {
    for (rows, hidden) in SHAPES {
        let (config, n) = (layer_norm::Config { hidden, eps: 1e-5 }, rows * hidden);
        for awkwardly in [false, true] {
            let make = |seed| if awkwardly { awkward::<T>(seed, n) } else { Seeded(seed).normals::<T>(n) };
            let (x, dy, before) = (make(1), make(3), make(4));
            let (weight, bias): (Vec<T>, Vec<T>) = (Seeded(5).normals(hidden), Seeded(6).normals(hidden));
            for bias in [None, Some(bias.as_slice())] {
                let (mut y, mut mean, mut rstd) = (dy.clone(), vec![0.0; rows], vec![0.0; rows]);
                reference::layer_forward(&config, &x, &weight, bias, &mut y, [&mut mean, &mut rstd]);
                let (mut dx, mut dx_added) = (dy.clone(), before.clone());
                let statistics = [mean.as_slice(), &rstd];
                reference::layer_backward(&config, [&dy, &x], &weight, statistics, &mut dx, Write::Set);
                reference::layer_backward(&config, [&dy, &x], &weight, statistics, &mut dx_added, Write::Add);
                let (mut dweight, mut dbias) = (vec![0.5; hidden], vec![0.25; hidden]);
                reference::layer_weight_gradient(&config, [&dy, &x], statistics, &mut dweight, &mut dbias);
                for exec in execs() {
                    let name = format!("{config:?} {} {rows} rows, awkward {awkwardly}, {exec:?}", T::NAME);
                    let check = |what: &str, a: &[T], b: &[T]| {
                        same(a, b).unwrap_or_else(|e| panic!("{name}: {what}: {e}"));
                    };
                    let check_f32 = |what: &str, a: &[f32], b: &[f32]| {
                        same(a, b).unwrap_or_else(|e| panic!("{name}: {what}: {e}"));
                    };
                    let x = &shifted(&x, 1)[1..];
                    let (mut got, mut got_mean, mut got_rstd) = (before.clone(), vec![7.0; rows], vec![7.0; rows]);
                    let got_statistics = [got_mean.as_mut_slice(), &mut got_rstd];
                    layer_norm::forward(exec, &config, x, &weight, bias, &mut got, got_statistics).unwrap();
                    check("y", &got, &y);
                    check_f32("mean", &got_mean, &mean);
                    check_f32("rstd", &got_rstd, &rstd);
                    let mut got = before.clone();
                    layer_norm::backward(exec, &config, [&dy, x], &weight, statistics, &mut got, Write::Set).unwrap();
                    check("dx", &got, &dx);
                    let mut got = before.clone();
                    layer_norm::backward(exec, &config, [&dy, x], &weight, statistics, &mut got, Write::Add).unwrap();
                    check("dx added", &got, &dx_added);
                    let (mut got, mut got_bias) = (vec![0.5; hidden], vec![0.25; hidden]);
                    let into_bias = bias.is_some().then_some(got_bias.as_mut_slice());
                    layer_norm::weight_gradient(exec, &config, [&dy, x], statistics, &mut got, into_bias).unwrap();
                    check_f32("dweight", &got, &dweight);
                    let expected_bias = if bias.is_some() { dbias.clone() } else { vec![0.25; hidden] };
                    check_f32("dbias", &got_bias, &expected_bias);
                }
            }
        }
    }
}

#[test]
fn rms_norm_gives_the_reference_bits() {
    rms_agrees::<f32>();
    rms_agrees::<bf16>();
    rms_agrees::<f16>();
}

#[test]
fn layer_norm_gives_the_reference_bits() {
    layer_agrees::<f32>();
    layer_agrees::<bf16>();
    layer_agrees::<f16>();
}

/// rms_norm of one row in f64.
fn rms_exact(x: &[f64], weight: &[f64], unit_offset: bool) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let rstd = 1.0 / (mean + 1e-5).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * rstd * if unit_offset { 1.0 + w } else { *w }).collect()
}

/// layer_norm of one row in f64.
fn layer_exact(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
    let rstd = 1.0 / (variance + 1e-5).sqrt();
    x.iter().zip(weight).zip(bias).map(|((x, w), b)| (x - mean) * rstd * w + b).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn is_exact<T: Element>() {
    for (rows, hidden) in [(3, 7), (6 * 42, 123), (4, 4097)] {
        let n = rows * hidden;
        let mut random = Seeded(11);
        let (x, weight, bias): (Vec<T>, Vec<T>, Vec<T>) =
            (random.normals(n), random.normals(hidden), random.normals(hidden));
        let (wide_x, wide_weight, wide_bias) = (widened(&x), widened(&weight), widened(&bias));
        let exec = Exec::new(2);
        let (mut y, mut mean, mut rstd) = (vec![T::ZERO; n], vec![0.0; rows], vec![0.0; rows]);
        // x rstd is rounded, then the product; in f32 also rstd's own few operations show.
        let relative = 2.0 * unit::<T>() * (1.0 + unit::<T>()) + sum_error(hidden) + 6.0 * (-24f64).exp2();
        let least = f64::from(f16::MIN_POSITIVE_SUBNORMAL.to_f32());
        for unit_offset in [false, true] {
            rms_norm::forward(exec, &config(hidden, unit_offset), &x, &weight, &mut y, &mut rstd).unwrap();
            let expected: Vec<f64> =
                wide_x.chunks(hidden).flat_map(|x| rms_exact(x, &wide_weight, unit_offset)).collect();
            // A value near f16's least has an absolute error of its own, times a weight of a few units.
            let off = far(&y, &expected, |i| relative * expected[i].abs() + 4.0 * least);
            assert_eq!(off, None, "rms_norm {} {rows} x {hidden}", T::NAME);
        }
        let layer = layer_norm::Config { hidden, eps: 1e-5 };
        layer_norm::forward(exec, &layer, &x, &weight, Some(&bias), &mut y, [&mut mean, &mut rstd]).unwrap();
        let expected: Vec<f64> = wide_x.chunks(hidden).flat_map(|x| layer_exact(x, &wide_weight, &wide_bias)).collect();
        let largest = |i: usize| 4.0 * wide_weight[i % hidden].abs() + wide_bias[i % hidden].abs();
        let off =
            far(&y, &expected, |i| unit::<T>() * expected[i].abs() + (sum_error(hidden) + 1e-6) * largest(i) + least);
        assert_eq!(off, None, "layer_norm {} {rows} x {hidden}", T::NAME);
    }
}

#[test]
fn forwards_are_the_formula_to_the_rounding_of_the_type() {
    is_exact::<f32>();
    is_exact::<bf16>();
    is_exact::<f16>();
}

/// Gradients of sum(dy y) at f32 inputs: the kernel's, and central differences of the f64 formula.
#[test]
fn backwards_are_the_derivatives() {
    for (rows, hidden) in [(1, 1), (2, 5), (5, 33), (70, 9)] {
        let n = rows * hidden;
        let mut random = Seeded(21);
        let (x, dy): (Vec<f32>, Vec<f32>) = (random.normals(n), random.normals(n));
        let (weight, bias): (Vec<f32>, Vec<f32>) = (random.normals(hidden), random.normals(hidden));
        let (wide_x, wide_dy, wide_weight) = (widened(&x), widened(&dy), widened(&weight));
        let exec = Exec::new(2);
        let (mut y, mut mean, mut rstd) = (vec![0.0; n], vec![0.0; rows], vec![0.0; rows]);
        let (mut dx, mut dweight, mut dbias) = (vec![0.0; n], vec![0.0; hidden], vec![0.0; hidden]);
        // Central differences are good to some 1e-9; a row of one element has a dx that is all cancellation.
        let bound = |expected: &[f64]| 3e-6 * (1.0 + expected.iter().fold(0.0f64, |a, b| a.max(b.abs())));
        for unit_offset in [false, true] {
            let config = config(hidden, unit_offset);
            let loss = |x: &[f64], w: &[f64]| -> f64 {
                x.chunks(hidden).zip(wide_dy.chunks(hidden)).map(|(x, dy)| dot(&rms_exact(x, w, unit_offset), dy)).sum()
            };
            rms_norm::forward(exec, &config, &x, &weight, &mut y, &mut rstd).unwrap();
            rms_norm::backward(exec, &config, [&dy, &x], &weight, &rstd, &mut dx, Write::Set).unwrap();
            let expected = numerical_gradient(&wide_x, |x| loss(x, &wide_weight));
            assert_eq!(far(&dx, &expected, |_| bound(&expected)), None, "rms_norm dx {rows} x {hidden}");
            dweight.fill(0.0);
            rms_norm::weight_gradient(exec, &config, [&dy, &x], &rstd, &mut dweight).unwrap();
            let expected = numerical_gradient(&wide_weight, |w| loss(&wide_x, w));
            assert_eq!(far(&dweight, &expected, |_| bound(&expected)), None, "rms_norm dweight {rows} x {hidden}");
            // The bound tells a wrong backward from a right one: here one that forgets the mean.
            let wrong: Vec<f32> = (0..n)
                .map(|i| {
                    let w = weight[i % hidden];
                    rstd[i / hidden] * dy[i] * if unit_offset { 1.0 + w } else { w }
                })
                .collect();
            let expected = numerical_gradient(&wide_x, |x| loss(x, &wide_weight));
            assert!(far(&wrong, &expected, |_| bound(&expected)).is_some(), "a wrong backward passes");
        }
        let config = layer_norm::Config { hidden, eps: 1e-5 };
        let loss = |x: &[f64], w: &[f64], b: &[f64]| -> f64 {
            x.chunks(hidden).zip(wide_dy.chunks(hidden)).map(|(x, dy)| dot(&layer_exact(x, w, b), dy)).sum()
        };
        let wide_bias = widened(&bias);
        layer_norm::forward(exec, &config, &x, &weight, Some(&bias), &mut y, [&mut mean, &mut rstd]).unwrap();
        layer_norm::backward(exec, &config, [&dy, &x], &weight, [&mean, &rstd], &mut dx, Write::Set).unwrap();
        dweight.fill(0.0);
        layer_norm::weight_gradient(exec, &config, [&dy, &x], [&mean, &rstd], &mut dweight, Some(&mut dbias)).unwrap();
        // One element: its norm is 0 whatever it is, rstd is 1 / sqrt(eps), and differences see nothing but rounding.
        let bound = |expected: &[f64]| if hidden == 1 { 1e-3 } else { 3.0 * bound(expected) };
        let expected = numerical_gradient(&wide_x, |x| loss(x, &wide_weight, &wide_bias));
        assert_eq!(far(&dx, &expected, |_| bound(&expected)), None, "layer_norm dx {rows} x {hidden}");
        let expected = numerical_gradient(&wide_weight, |w| loss(&wide_x, w, &wide_bias));
        assert_eq!(far(&dweight, &expected, |_| bound(&expected)), None, "layer_norm dweight {rows} x {hidden}");
        let expected = numerical_gradient(&wide_bias, |b| loss(&wide_x, &wide_weight, b));
        assert_eq!(far(&dbias, &expected, |_| bound(&expected)), None, "layer_norm dbias {rows} x {hidden}");
    }
}

/// `golden/norm.bin` from transformers and torch: see `golden/norm.py`.
#[test]
fn bf16_forwards_have_the_bits_of_transformers() {
    const ROWS: usize = 13;
    const HIDDEN: usize = 123;
    let mut golden = Golden(include_bytes!("golden/norm.bin"));
    let (x, weight, bias) = (golden.bf16(ROWS * HIDDEN), golden.bf16(HIDDEN), golden.bf16(HIDDEN));
    let (mut y, mut mean, mut rstd) = (vec![bf16::ZERO; ROWS * HIDDEN], vec![0.0; ROWS], vec![0.0; ROWS]);
    for unit_offset in [false, true] {
        let config = rms_norm::Config { hidden: HIDDEN, eps: 1e-6, unit_offset };
        let expected = golden.bf16(ROWS * HIDDEN);
        rms_norm::forward(Exec::new(2), &config, &x, &weight, &mut y, &mut rstd).unwrap();
        same(&y, &expected).unwrap_or_else(|e| panic!("unit_offset {unit_offset}: {e}"));
        // The other rounding is told apart.
        let other = rms_norm::Config { unit_offset: !unit_offset, ..config };
        let shift = if unit_offset { 1.0 } else { -1.0 };
        let shifted: Vec<bf16> = weight.iter().map(|w| bf16::from_f32(w.to_f32() + shift)).collect();
        rms_norm::forward(Exec::new(2), &other, &x, &shifted, &mut y, &mut rstd).unwrap();
        assert!(same(&y, &expected).is_err());
    }
    let expected = golden.bf16(ROWS * HIDDEN);
    let config = layer_norm::Config { hidden: HIDDEN, eps: 1e-6 };
    layer_norm::forward(Exec::new(2), &config, &x, &weight, Some(&bias), &mut y, [&mut mean, &mut rstd]).unwrap();
    // torch multiplies in another order, which can tip a rounding: never more than one step of bf16.
    let wide = widened(&expected);
    assert_eq!(far(&y, &wide, |i| 2.0 * unit::<bf16>() * wide[i].abs() + 1e-6), None);
    let tipped = y.iter().zip(&expected).filter(|(a, b)| a != b).count();
    assert!(tipped <= ROWS * HIDDEN / 200, "{tipped} elements differ");
}

#[test]
fn a_bad_call_is_refused_before_anything_is_written() {
    let (exec, x, weight) = (Exec::new(1), [1.0f32; 6], [1.0f32; 3]);
    let (mut y, mut rstd) = ([9.0f32; 6], [9.0f32; 2]);
    let short = rms_norm::forward(exec, &config(3, false), &x, &weight[..2], &mut y, &mut rstd);
    assert_eq!(short, Err(KernelError::Length { op: "rms_norm", argument: "weight", expected: 3, got: 2 }));
    let rows = rms_norm::forward(exec, &config(3, false), &x, &weight, &mut y, &mut rstd[..1]);
    assert_eq!(rows, Err(KernelError::Length { op: "rms_norm", argument: "x", expected: 3, got: 6 }));
    let none = rms_norm::forward(exec, &config(0, false), &[], &[0.0f32; 0], &mut [], &mut rstd);
    assert!(matches!(none, Err(KernelError::Argument { argument: "hidden", .. })));
    let eps = layer_norm::Config { hidden: 3, eps: f32::NAN };
    let mut mean = [9.0f32; 2];
    let eps = layer_norm::forward(exec, &eps, &x, &weight, None, &mut y, [&mut mean, &mut rstd]);
    assert_eq!(eps.unwrap_err().to_string(), "layer_norm: `eps` must be a finite number that is not negative, got NaN");
    let huge = rms_norm::Config { hidden: usize::MAX, eps: 1e-5, unit_offset: false };
    assert!(rms_norm::forward(exec, &huge, &x, &weight, &mut y, &mut rstd).is_err());
    assert_eq!((y, rstd, mean), ([9.0; 6], [9.0; 2], [9.0; 2]));
}
