//! Optimizers: every instruction set against the reference, the formulas against f64, and gradients that are not numbers.

mod common;

use common::{Seeded, awkward, same, shifted};
use half::{bf16, f16};
use unswag_kernels::{
    Exec, Isa, KernelError,
    optim::{AdamW, Lion, Moment8bit, Step, reference, reference::Moment},
    quant::{DynamicMap, Float, blockwise},
};

const SIZES: [usize; 12] = [0, 1, 15, 17, 31, 33, 255, 256, 257, 1000, 6 * 42 * 123, 40_001];

fn execs() -> Vec<Exec> {
    let mut execs: Vec<Exec> = Isa::available().into_iter().map(|isa| Exec { isa, threads: 1 }).collect();
    execs.push(Exec::new(0));
    execs.push(Exec::new(3));
    execs
}

fn adams() -> [AdamW; 3] {
    [
        AdamW::default(),
        AdamW { beta1: 0.3, beta2: 0.95, eps: 1e-6, weight_decay: 0.1 },
        AdamW { beta1: 0.0, beta2: 0.0, eps: 0.0, weight_decay: 0.0 },
    ]
}

fn steps() -> impl Iterator<Item = Step> {
    (1..4).map(|number| Step {
        number,
        learning_rate: 1e-2 / number as f64,
        grad_scale: [1.0, 0.25, 1e3][number as usize - 1],
    })
}

fn fresh(n: usize) -> Moment {
    Moment { codes: vec![0; n], absmax: vec![0.0; blockwise::blocks(n)] }
}

fn moment(moment: &mut Moment) -> Moment8bit<'_> {
    Moment8bit { codes: &mut moment.codes, absmax: &mut moment.absmax }
}

/// Moments of which NaN or infinity would be the same bits in both, so `==` would not do.
fn same_moment(a: &Moment, b: &Moment) -> Result<(), String> {
    if a.codes != b.codes {
        return Err("codes".into());
    }
    same(&a.absmax, &b.absmax)
}

fn agree<P: Float, G: Float>() {
    for n in SIZES {
        let start = Seeded(1).normals::<P>(n);
        let grads: Vec<Vec<G>> = (0..3).map(|seed| awkward::<G>(10 + seed, n)).collect();
        for adam in adams() {
            let (mut p, mut m, mut v) = (start.clone(), vec![0.0; n], vec![0.0; n]);
            let (mut q, mut m8, mut v8) = (start.clone(), fresh(n), fresh(n));
            let mut alone = Vec::new();
            for (step, g) in steps().zip(&grads) {
                alone.push(reference::adamw(&adam, step, &mut p, g, &mut m, &mut v));
                reference::adamw_8bit(&adam, step, &mut q, g, &mut m8, &mut v8);
            }
            for exec in execs() {
                let name = format!("{adam:?} {} {} x {n}, {exec:?}", P::NAME, G::NAME);
                let (mut got_p, mut got_m, mut got_v) = (shifted(&start, 1), vec![0.0; n], vec![0.0; n]);
                let (mut got_q, mut got_m8, mut got_v8) = (start.clone(), fresh(n), fresh(n));
                for ((step, g), alone) in steps().zip(&grads).zip(&alone) {
                    let got = adam.step(exec, step, &mut got_p[1..], g, &mut got_m, &mut got_v).unwrap();
                    assert_eq!(got, *alone, "{name}");
                    let (m, v) = (moment(&mut got_m8), moment(&mut got_v8));
                    assert_eq!(adam.step_8bit(exec, step, &mut got_q, g, m, v).unwrap(), *alone, "{name}");
                }
                same(&got_p[1..], &p).unwrap_or_else(|e| panic!("{name}: p: {e}"));
                same(&got_m, &m).unwrap_or_else(|e| panic!("{name}: m: {e}"));
                same(&got_v, &v).unwrap_or_else(|e| panic!("{name}: v: {e}"));
                same(&got_q, &q).unwrap_or_else(|e| panic!("{name}: p of 8 bits: {e}"));
                same_moment(&got_m8, &m8).unwrap_or_else(|e| panic!("{name}: m of 8 bits: {e}"));
                same_moment(&got_v8, &v8).unwrap_or_else(|e| panic!("{name}: v of 8 bits: {e}"));
            }
        }
        let lion = Lion { weight_decay: 0.1, ..Lion::default() };
        let (mut p, mut m, mut q, mut m8) = (start.clone(), vec![0.0; n], start.clone(), fresh(n));
        for (step, g) in steps().zip(&grads) {
            reference::lion(&lion, step, &mut p, g, &mut m);
            reference::lion_8bit(&lion, step, &mut q, g, &mut m8);
        }
        for exec in execs() {
            let name = format!("lion {} {} x {n}, {exec:?}", P::NAME, G::NAME);
            let (mut got_p, mut got_m, mut got_q, mut got_m8) = (start.clone(), vec![0.0; n], start.clone(), fresh(n));
            for (step, g) in steps().zip(&grads) {
                lion.step(exec, step, &mut got_p, g, &mut got_m).unwrap();
                lion.step_8bit(exec, step, &mut got_q, g, moment(&mut got_m8)).unwrap();
            }
            same(&got_p, &p).unwrap_or_else(|e| panic!("{name}: p: {e}"));
            same(&got_m, &m).unwrap_or_else(|e| panic!("{name}: m: {e}"));
            same(&got_q, &q).unwrap_or_else(|e| panic!("{name}: p of 8 bits: {e}"));
            same_moment(&got_m8, &m8).unwrap_or_else(|e| panic!("{name}: m of 8 bits: {e}"));
        }
    }
}

#[test]
fn steps_give_the_reference_bits_in_f32() {
    agree::<f32, f32>();
}

#[test]
fn steps_give_the_reference_bits_in_bf16() {
    agree::<bf16, bf16>();
}

#[test]
fn steps_give_the_reference_bits_where_types_differ() {
    agree::<bf16, f32>();
    agree::<f32, f16>();
}

/// The textbook's AdamW in f64. A missing bias correction, decay or scale is off by a hundred times the tolerance.
#[test]
fn adamw_follows_the_formula() {
    let (n, adam) = (1000, AdamW { weight_decay: 0.1, ..AdamW::default() });
    let start = Seeded(5).normals::<f32>(n);
    let (mut p, mut m, mut v) = (start.clone(), vec![0.0; n], vec![0.0; n]);
    let mut expected: Vec<[f64; 3]> = start.iter().map(|p| [f64::from(*p), 0.0, 0.0]).collect();
    for number in 1..=20 {
        let g = Seeded(number).normals::<f32>(n);
        let step = Step { number, learning_rate: 1e-2, grad_scale: 0.5 };
        adam.step(Exec::new(2), step, &mut p, &g, &mut m, &mut v).unwrap();
        let t = number as i32;
        for ([p, m, v], g) in expected.iter_mut().zip(&g) {
            let g = 0.5 * f64::from(*g);
            *m = 0.9 * *m + 0.1 * g;
            *v = 0.999 * *v + 0.001 * g * g;
            let (m_hat, v_hat) = (*m / (1.0 - 0.9f64.powi(t)), *v / (1.0 - 0.999f64.powi(t)));
            *p -= 1e-2 * (m_hat / (v_hat.sqrt() + 1e-8) + 0.1 * *p);
        }
    }
    for (p, [expected, ..]) in p.iter().zip(&expected) {
        assert!((f64::from(*p) - expected).abs() < 2e-5, "{p} and {expected}");
    }
}

/// A thousand steps down a quadratic: 8-bit state ends where f32 state does, and a state that is never written does not.
#[test]
fn eight_bit_state_finds_the_minimum_that_f32_state_finds() {
    let n = 4096;
    let goal = Seeded(6).normals::<f32>(n);
    let distance = |p: &[f32]| p.iter().zip(&goal).map(|(p, goal)| (p - goal).powi(2)).sum::<f32>() / n as f32;
    let adam = AdamW { weight_decay: 0.0, ..AdamW::default() };
    let (mut p, mut m, mut v) = (vec![0.0f32; n], vec![0.0; n], vec![0.0; n]);
    let (mut q, mut m8, mut v8) = (p.clone(), fresh(n), fresh(n));
    let (mut l, mut l8, mut lq, mut lm8) = (p.clone(), vec![0.0; n], p.clone(), fresh(n));
    for number in 1..=1000 {
        let learning_rate = 0.02 * (1.0 - number as f64 / 1001.0);
        let step = Step { number, learning_rate, grad_scale: 1.0 };
        let grad = |p: &[f32]| p.iter().zip(&goal).map(|(p, goal)| p - goal).collect::<Vec<f32>>();
        let [gp, gq, gl, glq] = [&p, &q, &l, &lq].map(|p| grad(p));
        adam.step(Exec::new(1), step, &mut p, &gp, &mut m, &mut v).unwrap();
        adam.step_8bit(Exec::new(1), step, &mut q, &gq, moment(&mut m8), moment(&mut v8)).unwrap();
        Lion::default().step(Exec::new(1), step, &mut l, &gl, &mut l8).unwrap();
        Lion::default().step_8bit(Exec::new(1), step, &mut lq, &glq, moment(&mut lm8)).unwrap();
    }
    assert!(distance(&[0.0; 4096]) > 0.9);
    for (name, p) in [("adamw", &p), ("adamw 8 bits", &q), ("lion", &l), ("lion 8 bits", &lq)] {
        assert!(distance(p) < 1e-3, "{name}: {}", distance(p));
    }
}

#[test]
fn elements_whose_gradient_is_not_finite_are_left_alone_and_counted() {
    let n = 600;
    let (adam, lion) = (AdamW::default(), Lion { weight_decay: 0.1, ..Lion::default() });
    let step = Step { number: 1, learning_rate: 0.1, grad_scale: 1.0 };
    let mut g = Seeded(7).normals::<f32>(n);
    // The square of the last overflows: Adam's second moment would be infinite for ever.
    for (at, bad) in [(3, f32::NAN), (300, f32::INFINITY), (301, f32::NEG_INFINITY), (599, 1e30)] {
        g[at] = bad;
    }
    let (mut p, mut m, mut v) = (vec![1.0f32; n], vec![0.5; n], vec![0.5; n]);
    assert_eq!(adam.step(Exec::new(2), step, &mut p, &g, &mut m, &mut v).unwrap(), 4);
    for i in 0..n {
        let alone = [3, 300, 301, 599].contains(&i);
        assert_eq!((p[i] == 1.0, m[i] == 0.5, v[i] == 0.5), (alone, alone, alone), "{i}");
    }
    let (mut p, mut m8, mut v8) = (vec![1.0f32; n], fresh(n), fresh(n));
    assert_eq!(adam.step_8bit(Exec::new(2), step, &mut p, &g, moment(&mut m8), moment(&mut v8)).unwrap(), 4);
    assert!(p[3] == 1.0 && p[4] != 1.0 && m8.absmax.iter().chain(&v8.absmax).all(|scale| scale.is_finite()));
    assert_eq!((DynamicMap::signed().values()[m8.codes[3] as usize], v8.codes[3]), (0.0, 0));

    let (mut p, mut m) = (vec![1.0f32; n], vec![0.5; n]);
    assert_eq!(lion.step(Exec::new(2), step, &mut p, &g, &mut m).unwrap(), 3, "Lion takes no square");
    assert!(p[300] == 1.0 && m[300] == 0.5 && p[599] != 1.0);
}

#[test]
fn wrong_settings_and_lengths_are_refused_before_anything_is_written() {
    let good = Step { number: 1, learning_rate: 0.1, grad_scale: 1.0 };
    let adam = AdamW::default();
    let cases = [
        (AdamW { beta1: 1.0, ..adam }, good, "beta1"),
        (AdamW { beta2: f64::NAN, ..adam }, good, "beta2"),
        (AdamW { eps: -1.0, ..adam }, good, "eps"),
        (AdamW { weight_decay: f64::INFINITY, ..adam }, good, "weight_decay"),
        (adam, Step { number: 0, ..good }, "step.number"),
        (adam, Step { learning_rate: f64::NAN, ..good }, "learning_rate"),
    ];
    let (mut p, g, mut m, mut v) = ([1.0f32; 3], [1.0f32; 3], [0.0; 3], [0.0; 3]);
    for (adam, step, name) in cases {
        let error = adam.step(Exec::new(1), step, &mut p, &g, &mut m, &mut v).unwrap_err();
        assert!(matches!(error, KernelError::Argument { argument, .. } if argument == name), "{name}: {error}");
    }
    assert!(adam.step(Exec::new(1), good, &mut p, &g[..2], &mut m, &mut v).is_err());
    assert!(adam.step(Exec::new(1), good, &mut p, &g, &mut m, &mut v[..2]).is_err());
    let mut short = Moment { codes: vec![0; 3], absmax: vec![] };
    assert!(Lion::default().step_8bit(Exec::new(1), good, &mut p, &g, moment(&mut short)).is_err());
    assert_eq!((p, m, v), ([1.0; 3], [0.0; 3], [0.0; 3]));
}
