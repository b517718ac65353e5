//! softmax: the reference's bits everywhere, whole attention in f64 from blocks of every size, masks, NaN and infinity.

mod common;

use common::{Seeded, awkward, execs, far, numerical_gradient, same, shifted, sum_error, unit, widened};
use half::{bf16, f16};
use unswag_kernels::{
    Element, Exec, KernelError,
    softmax::{self, Block, Documents, reference},
};

/// Blocks of every kind of mask, for `rows` queries and `cols` keys.
fn blocks<'a>(rows: usize, cols: usize, documents: Documents<'a>) -> Vec<Block<'a>> {
    let plain = Block { rows, cols, scale: 0.37, ..Block::default() };
    let causal = Block { causal: true, ..plain };
    vec![
        plain,
        causal,
        Block { first_query: cols / 2, first_key: cols / 3, ..causal },
        // No query sees a key.
        Block { first_key: rows + 5, ..causal },
        Block { first_query: 3, sliding_window: Some(5), logit_softcap: Some(2.5), ..causal },
        Block { sliding_window: Some(1), ..causal },
        Block { documents: Some(documents), ..plain },
        Block { documents: Some(documents), logit_softcap: Some(30.0), first_query: 2, ..causal },
    ]
}

/// n numbers that never decrease: documents of some thirty tokens.
fn documents(seed: u64, n: usize) -> Vec<u32> {
    let (mut random, mut document) = (Seeded(seed), 3);
    (0..n)
        .map(|_| {
            document += u32::from(random.next().is_multiple_of(30));
            document
        })
        .collect()
}

/// Matrices, rows, cols.
const SHAPES: [[usize; 3]; 8] =
    [[0, 4, 8], [1, 1, 1], [3, 4, 0], [2, 5, 31], [1, 3, 64], [6, 42, 123], [2, 70, 70], [2, 40, 1000]];

fn agrees<T: Element>() {
    for [matrices, rows, cols] in SHAPES {
        let (all, n) = (matrices * rows, matrices * rows * cols);
        let (queries, keys) = (documents(5, rows), documents(6, cols));
        for block in blocks(rows, cols, Documents { queries: &queries, keys: &keys }) {
            for (x, dp) in
                [(Seeded(1).normals::<T>(n), Seeded(2).normals::<T>(n)), (awkward::<T>(3, n), awkward::<T>(4, n))]
            {
                // Half of the rows come from a block before.
                let before = |row: usize| if row.is_multiple_of(2) { (f32::NEG_INFINITY, 0.0) } else { (0.75, 3.0) };
                let (old_max, old_sum): (Vec<f32>, Vec<f32>) = (0..all).map(before).unzip();
                let (mut p, mut max, mut sum) = (x.clone(), old_max.clone(), old_sum.clone());
                let mut rescale = vec![7.0; all];
                reference::forward(&block, &mut p, &mut max, &mut sum, &mut rescale);
                let (mut lse, mut y) = (vec![7.0; all], dp.clone());
                reference::finish(cols, &mut y, &max, &sum, &mut lse);
                let mut delta = vec![7.0; all];
                reference::delta(cols, &dp, &x, &mut delta);
                let (mut scores, mut dx, mut rescaled) = (x.clone(), dp.clone(), dp.clone());
                reference::backward(&block, &mut scores, &mut dx, &lse, &delta);
                reference::rescale(cols, &mut rescaled, &rescale);
                for exec in execs() {
                    let name = format!("{} {matrices} x {rows} x {cols}, {block:?}, {exec:?}", T::NAME);
                    let check = |what: &str, a: &[T], b: &[T]| {
                        same(a, b).unwrap_or_else(|e| panic!("{name}: {what}: {e}"));
                    };
                    let check_f32 = |what: &str, a: &[f32], b: &[f32]| {
                        same(a, b).unwrap_or_else(|e| panic!("{name}: {what}: {e}"));
                    };
                    let (mut got, mut got_max, mut got_sum) = (shifted(&x, 1), old_max.clone(), old_sum.clone());
                    let mut got_rescale = vec![-1.0; all];
                    softmax::forward(exec, &block, &mut got[1..], &mut got_max, &mut got_sum, &mut got_rescale)
                        .unwrap();
                    check("p", &got[1..], &p);
                    check_f32("max", &got_max, &max);
                    check_f32("sum", &got_sum, &sum);
                    check_f32("rescale", &got_rescale, &rescale);
                    let (mut got, mut got_lse, mut got_delta) = (dp.clone(), vec![-1.0; all], vec![-1.0; all]);
                    softmax::finish(exec, cols, &mut got, &max, &sum, &mut got_lse).unwrap();
                    check("y", &got, &y);
                    check_f32("lse", &got_lse, &lse);
                    softmax::delta(exec, cols, &dp, &x, &mut got_delta).unwrap();
                    check_f32("delta", &got_delta, &delta);
                    let (mut got, mut got_dx) = (x.clone(), dp.clone());
                    softmax::backward(exec, &block, &mut got, &mut got_dx, &lse, &delta).unwrap();
                    check("p of the backward", &got, &scores);
                    check("dx", &got_dx, &dx);
                    let mut got = dp.clone();
                    softmax::rescale(exec, cols, &mut got, &rescale).unwrap();
                    check("rescaled", &got, &rescaled);
                }
            }
        }
    }
}

#[test]
fn softmax_gives_the_reference_bits() {
    agrees::<f32>();
    agrees::<bf16>();
    agrees::<f16>();
}

/// Whether query sees key, token by token.
fn sees(block: &Block<'_>, query: usize, key: usize) -> bool {
    let (q, k) = (block.first_query + query, block.first_key + key);
    let in_order = !block.causal || k <= q;
    let near = block.sliding_window.is_none_or(|window| k + window > q);
    let same_document = block.documents.is_none_or(|d| d.queries[query] == d.keys[key]);
    in_order && near && same_document
}

#[test]
fn what_a_row_sees_is_one_range() {
    for (rows, cols) in [(1, 1), (7, 40), (42, 123), (64, 64)] {
        let (queries, keys) = (documents(5, rows), documents(6, cols));
        for block in blocks(rows, cols, Documents { queries: &queries, keys: &keys }) {
            for row in 0..rows {
                let seen = block.visible(row);
                assert!(seen.start <= seen.end && seen.end <= cols);
                for key in 0..cols {
                    assert_eq!(seen.contains(&key), sees(&block, row, key), "{block:?} row {row} key {key}");
                }
            }
        }
    }
}

/// softmax of one row's scores in f64; masked keys get 0, and a row that sees nothing gets zeros.
fn probabilities(block: &Block<'_>, row: usize, x: &[f64]) -> Vec<f64> {
    let z = |x: f64| {
        let z = f64::from(block.scale) * x;
        block.logit_softcap.map_or(z, |cap| f64::from(cap) * (z / f64::from(cap)).tanh())
    };
    let e: Vec<f64> = (0..x.len()).map(|k| if sees(block, row, k) { z(x[k]).exp() } else { 0.0 }).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|e| if sum == 0.0 { 0.0 } else { e / sum }).collect()
}

/// A whole row of attention weights, made in blocks of `step` keys: y = sum of p v with v the identity, so y is p.
fn in_blocks<T: Element>(block: &Block<'_>, step: usize, x: &[T]) -> (Vec<f32>, Vec<f32>) {
    let (rows, cols) = (block.rows, block.cols);
    let exec = Exec::new(2);
    let (mut max, mut sum, mut rescale) = (vec![f32::NEG_INFINITY; rows], vec![0.0; rows], vec![0.0; rows]);
    // NaN, as memory that nobody cleared may hold: the first factor is 0 and clears it.
    let mut y = vec![f32::NAN; rows * cols];
    for start in (0..cols).step_by(step) {
        let width = step.min(cols - start);
        let mut scores: Vec<T> = (0..rows).flat_map(|r| &x[r * cols + start..][..width]).copied().collect();
        let documents = block.documents.map(|d| Documents { keys: &d.keys[start..start + width], ..d });
        let part = Block { cols: width, first_key: block.first_key + start, documents, ..*block };
        softmax::forward(exec, &part, &mut scores, &mut max, &mut sum, &mut rescale).unwrap();
        softmax::rescale(exec, cols, &mut y, &rescale).unwrap();
        for row in 0..rows {
            for (column, p) in scores[row * width..][..width].iter().enumerate() {
                y[row * cols + start + column] += p.to_f32();
            }
        }
    }
    let mut lse = vec![0.0; rows];
    softmax::finish(exec, cols, &mut y, &max, &sum, &mut lse).unwrap();
    (y, lse)
}

fn is_exact<T: Element>() {
    let (rows, cols) = (42, 123);
    let (queries, keys) = (documents(5, rows), documents(6, cols));
    let mut random = Seeded(7);
    let x: Vec<T> = (0..rows * cols).map(|_| T::from_f32(random.normal() as f32 * 8.0)).collect();
    let (wide, dp): (Vec<f64>, Vec<T>) = (widened(&x), random.normals(rows * cols));
    for block in blocks(rows, cols, Documents { queries: &queries, keys: &keys }) {
        let expected: Vec<f64> =
            wide.chunks(cols).enumerate().flat_map(|(row, x)| probabilities(&block, row, x)).collect();
        // exp's argument reaches 30 and is off by an ulp or two of it; a soft cap adds tanh's.
        let relative = 32.0 * 4.0 * (-24f64).exp2() + sum_error(cols) + unit::<T>();
        let bound = |i: usize| relative * expected[i] + f64::from(f16::MIN_POSITIVE_SUBNORMAL.to_f32());
        let mut lse = Vec::new();
        for step in [123, 64, 32, 7] {
            let (p, got_lse) = in_blocks(&block, step, &x);
            assert_eq!(far(&p, &expected, bound), None, "{} {block:?} in blocks of {step}", T::NAME);
            lse = got_lse;
        }
        // The backward makes the same p, and dx = p (dp - sum(p dp)) dz/dx.
        let exec = Exec::new(2);
        let (mut p, mut dx) = (x.clone(), dp.clone());
        let wide_dp = widened(&dp);
        let dot = |row: usize| -> f64 { (0..cols).map(|k| expected[row * cols + k] * wide_dp[row * cols + k]).sum() };
        let delta: Vec<f32> = (0..rows).map(|row| dot(row) as f32).collect();
        softmax::backward(exec, &block, &mut p, &mut dx, &lse, &delta).unwrap();
        assert_eq!(far(&p, &expected, bound), None, "{} {block:?} backward", T::NAME);
        if T::NAME != "f32" {
            continue;
        }
        for row in 0..rows {
            let (x, dp) = (&wide[row * cols..][..cols], &wide_dp[row * cols..][..cols]);
            let loss = |x: &[f64]| probabilities(&block, row, x).iter().zip(dp).map(|(p, dp)| p * dp).sum();
            let expected = numerical_gradient(x, loss);
            let got = &dx[row * cols..][..cols];
            assert_eq!(far(got, &expected, |_| 4e-5), None, "{block:?} dx of row {row}");
        }
        // A dx that forgets delta is told apart, where there is anything to see.
        let mut wrong = dp.clone();
        softmax::backward(exec, &block, &mut x.clone(), &mut wrong, &lse, &vec![0.0; rows]).unwrap();
        let right = widened(&dx);
        assert!(expected.iter().all(|p| *p == 0.0 || *p == 1.0) || far(&wrong, &right, |_| 1e-3).is_some());
    }
}

#[test]
fn blocks_of_any_size_give_the_softmax_and_its_gradient() {
    is_exact::<f32>();
    is_exact::<bf16>();
    is_exact::<f16>();
}

#[test]
fn a_row_that_sees_nothing_is_zeros() {
    let block = Block { rows: 2, cols: 2, first_key: 1, causal: true, ..Block::default() };
    let nan = f32::NAN;
    let (mut scores, mut dp) = ([nan, nan, 1.0, nan], [nan, nan, 2.0, nan]);
    let mut again = scores;
    let (mut max, mut sum, mut rescale) = ([f32::NEG_INFINITY; 2], [0.0; 2], [nan; 2]);
    let exec = Exec::new(1);
    softmax::forward(exec, &block, &mut scores, &mut max, &mut sum, &mut rescale).unwrap();
    assert_eq!((scores, max, sum), ([0.0, 0.0, 1.0, 0.0], [f32::NEG_INFINITY, 1.0], [0.0, 1.0]));
    let (mut y, mut lse) = ([nan, 3.0], [nan; 2]);
    softmax::finish(exec, 1, &mut y, &max, &sum, &mut lse).unwrap();
    assert_eq!((y, lse), ([0.0, 3.0], [f32::NEG_INFINITY, 1.0]));
    softmax::backward(exec, &block, &mut again, &mut dp, &lse, &[nan, 0.5]).unwrap();
    assert_eq!((again, dp), ([0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.5, 0.0]));
}

#[test]
fn minus_infinity_has_no_weight_and_nan_stays_in_its_row() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let block = Block { rows: 5, cols: 3, ..Block::default() };
    let mut scores = [[-inf, 0.0, 0.0], [-inf, -inf, -inf], [0.0, nan, 0.0], [inf, 0.0, 0.0], [1e-45, -0.0, -1e-45]];
    let (mut max, mut sum, mut rescale) = ([-inf; 5], [0.0; 5], [nan; 5]);
    let p = scores.as_flattened_mut();
    softmax::forward(Exec::new(1), &block, p, &mut max, &mut sum, &mut rescale).unwrap();
    assert_eq!((scores[0], sum[0]), ([0.0, 1.0, 1.0], 2.0));
    assert_eq!((scores[1], sum[1], max[1]), ([0.0; 3], 0.0, -inf));
    assert!(sum[2].is_nan() && sum[3].is_nan());
    assert_eq!((scores[4], sum[4]), ([1.0; 3], 3.0));
}

#[test]
fn a_sink_takes_its_share() {
    let block = Block { rows: 1, cols: 2, ..Block::default() };
    let (mut scores, mut max, mut sum, mut rescale) = ([1.0f32, 2.0], [1.5], [1.0], [0.0]);
    softmax::forward(Exec::new(1), &block, &mut scores, &mut max, &mut sum, &mut rescale).unwrap();
    let exact = (1f64.exp() + 2f64.exp() + 1.5f64.exp()).ln();
    let mut lse = [0.0];
    softmax::finish(Exec::new(1), 2, &mut scores, &max, &sum, &mut lse).unwrap();
    assert!((f64::from(lse[0]) - exact).abs() < 1e-6);
    let left: f32 = 1.0 - scores.iter().sum::<f32>();
    assert!((f64::from(left) - (1.5 - exact).exp()).abs() < 1e-6);
}

#[test]
fn a_bad_call_is_refused_before_anything_is_written() {
    let exec = Exec::new(1);
    let good = Block { rows: 2, cols: 3, causal: true, ..Block::default() };
    let (mut x, mut max, mut sum, mut rescale) = ([9.0f32; 6], [9.0; 2], [9.0; 2], [9.0; 2]);
    let mut call =
        |block: Block<'_>| softmax::forward(exec, &block, &mut x, &mut max, &mut sum, &mut rescale).unwrap_err();
    for (block, argument) in [
        (Block { scale: 0.0, ..good }, "scale"),
        (Block { scale: f32::NAN, ..good }, "scale"),
        (Block { logit_softcap: Some(-1.0), ..good }, "logit_softcap"),
        (Block { sliding_window: Some(0), ..good }, "sliding_window"),
        (Block { sliding_window: Some(4), causal: false, ..good }, "sliding_window"),
        (Block { first_query: usize::MAX - 1, ..good }, "first_query"),
        (Block { documents: Some(Documents { queries: &[2, 1], keys: &[1, 1, 1] }), ..good }, "documents.queries"),
    ] {
        assert!(matches!(call(block), KernelError::Argument { argument: got, .. } if got == argument), "{argument}");
    }
    let short = call(Block { documents: Some(Documents { queries: &[1], keys: &[1, 1, 1] }), ..good });
    let expected = KernelError::Length { op: "softmax", argument: "documents.queries", expected: 2, got: 1 };
    assert_eq!(short, expected);
    assert!(matches!(call(Block { cols: 4, ..good }), KernelError::Length { .. }));
    assert!(matches!(call(Block { rows: 4, ..good }), KernelError::Length { .. }));
    assert!(matches!(call(Block { rows: usize::MAX / 8, cols: 16, ..good }), KernelError::Overflow { .. }));
    assert!(matches!(call(Block { rows: 0, ..good }), KernelError::Length { .. }));
    assert_eq!((x, max, sum, rescale), ([9.0; 6], [9.0; 2], [9.0; 2], [9.0; 2]));
}
