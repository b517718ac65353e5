//! cross_entropy: the reference's bits everywhere, the mathematics in f64, and what is said of NaN and infinity.

mod common;

use common::{Seeded, awkward, execs, far, numerical_gradient, same, shifted, sum_error, unit, widened};
use half::{bf16, f16};
use unswag_kernels::{
    Element, Exec, KernelError,
    cross_entropy::{self, Config, IGNORE_INDEX, reference},
};

fn config(vocab: usize) -> Config {
    Config { vocab, ignore_index: IGNORE_INDEX }
}

/// Some rows have no target.
fn targets(seed: u64, rows: usize, vocab: usize) -> Vec<i64> {
    let mut random = Seeded(seed);
    let target = |_| if random.next().is_multiple_of(5) { IGNORE_INDEX } else { (random.next() % vocab as u64) as i64 };
    (0..rows).map(target).collect()
}

fn logits<T: Element>(seed: u64, n: usize) -> Vec<T> {
    let mut random = Seeded(seed);
    (0..n).map(|_| T::from_f32(random.normal() as f32 * 6.0)).collect()
}

fn agrees<T: Element>() {
    for (rows, vocab) in [(0, 5), (1, 1), (4, 31), (3, 32), (6 * 42, 123), (5, 49_152), (300, 257)] {
        let (config, n, targets) = (config(vocab), rows * vocab, targets(1, rows, vocab));
        for x in [logits::<T>(2, n), awkward::<T>(3, n)] {
            let (mut loss, mut lse, mut dx) = (vec![0.0; rows], vec![0.0; rows], x.clone());
            reference::forward(&config, &x, &targets, &mut loss, &mut lse);
            reference::backward(&config, &mut dx, &targets, &lse, 0.125);
            for exec in execs() {
                let name = format!("{} {rows} x {vocab}, {exec:?}", T::NAME);
                let check = |what: &str, a: &[f32], b: &[f32]| {
                    same(a, b).unwrap_or_else(|e| panic!("{name}: {what}: {e}"));
                };
                let (mut got_loss, mut got_lse) = (vec![7.0; rows], vec![7.0; rows]);
                let x = &shifted(&x, 1)[1..];
                cross_entropy::forward(exec, &config, x, &targets, &mut got_loss, &mut got_lse).unwrap();
                check("loss", &got_loss, &loss);
                check("lse", &got_lse, &lse);
                let mut got = x.to_vec();
                cross_entropy::backward(exec, &config, &mut got, &targets, &lse, 0.125).unwrap();
                same(&got, &dx).unwrap_or_else(|e| panic!("{name}: dx: {e}"));
                let (mut got, mut got_loss, mut got_lse) = (x.to_vec(), vec![7.0; rows], vec![7.0; rows]);
                cross_entropy::forward_backward(exec, &config, &mut got, &targets, 0.125, &mut got_loss, &mut got_lse)
                    .unwrap();
                check("loss of both", &got_loss, &loss);
                check("lse of both", &got_lse, &lse);
                same(&got, &dx).unwrap_or_else(|e| panic!("{name}: dx of both: {e}"));
            }
        }
    }
}

#[test]
fn cross_entropy_gives_the_reference_bits() {
    agrees::<f32>();
    agrees::<bf16>();
    agrees::<f16>();
}

/// ln(sum(exp(x))) in f64.
fn lse_exact(x: &[f64]) -> f64 {
    let max = x.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    max + x.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
}

fn is_exact<T: Element>() {
    for (rows, vocab) in [(3, 1), (5, 7), (6 * 42, 123), (2, 49_152)] {
        let (config, targets, x) = (config(vocab), targets(1, rows, vocab), logits::<T>(2, rows * vocab));
        let wide = widened(&x);
        let (mut loss, mut lse, mut dx) = (vec![0.0; rows], vec![0.0; rows], x.clone());
        cross_entropy::forward_backward(Exec::new(2), &config, &mut dx, &targets, 0.5, &mut loss, &mut lse).unwrap();
        let mut gradient = Vec::new();
        for (row, target) in targets.iter().enumerate() {
            let x = &wide[row * vocab..][..vocab];
            if *target == IGNORE_INDEX {
                assert_eq!((loss[row], lse[row]), (0.0, 0.0));
                gradient.extend(vec![0.0; vocab]);
                continue;
            }
            let exact = lse_exact(x);
            // The sum's relative error, and the rounding of the result.
            let bound = sum_error(vocab) + exact.abs() * (-24f64).exp2();
            assert!((f64::from(lse[row]) - exact).abs() <= bound, "lse {} of {exact}", lse[row]);
            let exact_loss = exact - x[*target as usize];
            assert!((f64::from(loss[row]) - exact_loss).abs() <= bound + exact_loss.abs() * (-24f64).exp2());
            gradient.extend((0..vocab).map(|i| {
                let hit = if i == *target as usize { 1.0 } else { 0.0 };
                0.5 * ((x[i] - exact).exp() - hit)
            }));
        }
        // p carries lse's own rounding (|lse| < 64: 2^-19) and exp's; 1 - p an absolute one. Denormals of f16 end at 2^-25.
        let bound = |i: usize| gradient[i].abs() * (unit::<T>() + 8e-6) + 3e-8 * (gradient[i].abs() + 1.0);
        assert_eq!(far(&dx, &gradient, bound), None, "{} {rows} x {vocab}", T::NAME);
        // A gradient without the target's share is told apart.
        let wrong: Vec<f64> = (0..rows * vocab)
            .map(|i| if targets[i / vocab] == (i % vocab) as i64 { gradient[i] + 0.5 } else { gradient[i] })
            .collect();
        assert!(far(&dx, &wrong, bound).is_some());
    }
}

#[test]
fn loss_and_gradient_are_the_formula_to_the_rounding_of_the_type() {
    is_exact::<f32>();
    is_exact::<bf16>();
    is_exact::<f16>();
}

#[test]
fn the_gradient_is_the_derivative_of_the_loss() {
    let (rows, vocab) = (6, 11);
    let (config, targets, x) = (config(vocab), targets(8, rows, vocab), logits::<f32>(9, rows * vocab));
    let (mut loss, mut lse, mut dx) = (vec![0.0; rows], vec![0.0; rows], x.clone());
    cross_entropy::forward_backward(Exec::new(1), &config, &mut dx, &targets, 0.25, &mut loss, &mut lse).unwrap();
    let total = |x: &[f64]| -> f64 {
        let rows = x.chunks(vocab).zip(&targets).filter(|(_, target)| **target != IGNORE_INDEX);
        rows.map(|(x, target)| 0.25 * (lse_exact(x) - x[*target as usize])).sum()
    };
    assert_eq!(far(&dx, &numerical_gradient(&widened(&x), total), |_| 1e-6), None);
}

#[test]
fn nan_and_infinity_stay_in_their_row() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let mut x = [
        [0.0, nan, 1.0],
        [0.0, inf, 1.0],
        [0.0, -inf, 0.0],
        [0.0, -inf, 0.0],     // the target is impossible
        [-inf, -inf, -inf],   // no distribution
        [nan, inf, f32::MAX], // ignored
        [f32::MAX, f32::MIN, -0.0],
        [1e-45, -1e-45, -0.0],
    ];
    let targets = [0, 0, 0, 1, 0, IGNORE_INDEX, 0, 2];
    let (mut loss, mut lse) = ([7.0; 8], [7.0; 8]);
    let dx = x.as_flattened_mut();
    cross_entropy::forward_backward(Exec::new(2), &config(3), dx, &targets, 1.0, &mut loss, &mut lse).unwrap();
    for row in [0, 1, 4] {
        assert!(loss[row].is_nan() && x[row].iter().all(|dx| dx.is_nan()), "row {row}: {} {:?}", loss[row], x[row]);
    }
    let ln_2 = std::f32::consts::LN_2;
    assert_eq!((loss[2], lse[2], x[2]), (ln_2, ln_2, [-0.5, 0.0, 0.5]));
    assert_eq!((loss[3], lse[3], x[3]), (inf, ln_2, [0.5, -1.0, 0.5]));
    assert_eq!((loss[5], lse[5], x[5]), (0.0, 0.0, [0.0; 3]));
    assert_eq!((loss[6], lse[6], x[6]), (0.0, f32::MAX, [0.0, 0.0, 0.0]));
    assert_eq!(loss[7], 3f32.ln());
}

#[test]
fn a_bad_call_is_refused_before_anything_is_written() {
    let exec = Exec::new(1);
    let (mut x, mut loss, mut lse) = ([9.0f32; 6], [9.0; 2], [9.0; 2]);
    let mut call = |vocab, targets: &[i64]| {
        cross_entropy::forward_backward(exec, &config(vocab), &mut x, targets, 1.0, &mut loss, &mut lse).unwrap_err()
    };
    let beyond = call(3, &[0, 3]);
    let message = "cross_entropy: `targets` must be from 0 to 2, or -100 for none, got 3 at row 1";
    assert_eq!(beyond.to_string(), message);
    assert!(matches!(call(3, &[-1, 0]), KernelError::Argument { argument: "targets", .. }));
    assert!(matches!(call(3, &[i64::MIN, 0]), KernelError::Argument { argument: "targets", .. }));
    assert!(matches!(call(0, &[]), KernelError::Argument { argument: "vocab", .. }));
    let length = KernelError::Length { op: "cross_entropy", argument: "logits", expected: 8, got: 6 };
    assert_eq!(call(4, &[0, 1]), length);
    assert!(matches!(call(usize::MAX, &[0, 1]), KernelError::Overflow { .. }));
    assert_eq!((x, loss, lse), ([9.0; 6], [9.0; 2], [9.0; 2]));
}
