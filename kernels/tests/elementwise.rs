//! relu, add, scale and casts: the reference's bits everywhere, and what they do with the awkward values.

mod common;

use common::{awkward, execs, same, shifted};
use half::{bf16, f16};
use unswag_kernels::{
    Element, Exec, KernelError,
    elementwise::{self, Mask, reference},
};

const SIZES: [usize; 9] = [0, 1, 15, 31, 32, 33, 65, 6 * 42 * 123, 3 * 32768 + 7];

fn agrees<T: Element>() {
    for n in SIZES {
        let (a, b) = (awkward::<T>(1, n), awkward::<T>(2, n));
        let wide: Vec<f32> = awkward(3, n);
        let [mut relu, mut relu_backward, mut add, mut scale] = [a.clone(), a.clone(), a.clone(), a.clone()];
        reference::relu(&mut relu);
        reference::relu_backward(&b, &mut relu_backward);
        reference::add(&mut add, &b);
        reference::scale(&mut scale, 0.3);
        let (mut dropped, mut columns) = (a.clone(), a.clone());
        let cols = [41, 7, 1].into_iter().find(|cols| n % cols == 0).unwrap();
        reference::dropout(Mask::new(0.1, 5, 9), cols, &b, &mut dropped);
        reference::mul_columns(&mut columns, &wide[..n.min(cols)]);
        let (mut widened, mut narrowed) = (vec![0.0; n], vec![T::ZERO; n]);
        reference::cast(&a, &mut widened);
        reference::cast(&wide, &mut narrowed);
        for exec in execs() {
            let check = |what: &str, got: &[T], expected: &[T]| {
                same(got, expected).unwrap_or_else(|e| panic!("{what} {} x {n}, {exec:?}: {e}", T::NAME));
            };
            // Slices start off any alignment.
            let mut got = shifted(&a, 1);
            elementwise::relu(exec, &mut got[1..]).unwrap();
            check("relu", &got[1..], &relu);
            let mut got = a.clone();
            elementwise::relu_backward(exec, &b, &mut got).unwrap();
            check("relu_backward", &got, &relu_backward);
            let mut got = a.clone();
            elementwise::add(exec, &mut got, &b).unwrap();
            check("add", &got, &add);
            let mut got = a.clone();
            elementwise::scale(exec, &mut got, 0.3).unwrap();
            check("scale", &got, &scale);
            let mut got = a.clone();
            elementwise::mul_columns(exec, &mut got, &wide[..n.min(cols)]).unwrap();
            check("mul_columns", &got, &columns);
            let mut got = a.clone();
            elementwise::dropout(exec, Mask::new(0.1, 5, 9), cols, &b, &mut got).unwrap();
            check("dropout", &got, &dropped);
            let mut got = vec![7.0; n];
            elementwise::to_f32(exec, &a, &mut got).unwrap();
            same(&got, &widened).unwrap_or_else(|e| panic!("to_f32 {} x {n}, {exec:?}: {e}", T::NAME));
            let mut got = b.clone();
            elementwise::from_f32(exec, &wide, &mut got).unwrap();
            check("from_f32", &got, &narrowed);
        }
    }
}

#[test]
fn elementwise_ops_give_the_reference_bits() {
    agrees::<f32>();
    agrees::<bf16>();
    agrees::<f16>();
}

#[test]
fn nan_comes_through_and_relu_of_minus_zero_is_zero() {
    let exec = Exec::new(1);
    let mut x = [f32::NAN, -0.0, f32::NEG_INFINITY, f32::INFINITY, -1e-45, 1e-45];
    elementwise::relu(exec, &mut x).unwrap();
    assert!(x[0].is_nan());
    assert_eq!(x[1..].iter().map(|x| x.to_bits()).collect::<Vec<_>>(), [0, 0, f32::INFINITY.to_bits(), 0, 1]);
    let mut dy = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    elementwise::relu_backward(exec, &x, &mut dy).unwrap();
    assert_eq!(dy, [1.0, 0.0, 0.0, 4.0, 0.0, 6.0]);
}

#[test]
fn dropout_drops_its_share_and_keeps_the_mean() {
    let (exec, n) = (Exec::new(2), 1 << 20);
    let (ones, mut y) = (vec![1.0f32; n], vec![7.0; n]);
    for p in [0.0, 0.003, 0.1, 0.5, 0.9, 1.0] {
        elementwise::dropout(exec, Mask::new(p, 11, 0), 64, &ones, &mut y).unwrap();
        let dropped = y.iter().filter(|y| **y == 0.0).count() as f64 / n as f64;
        // Five standard deviations of a share of n draws.
        let off = 5.0 * (p * (1.0 - p) / n as f64).sqrt();
        assert!((dropped - p).abs() <= off, "{dropped} of all are dropped at {p}");
        let kept = (1.0 / (1.0 - p)) as f32;
        assert!(y.iter().all(|y| *y == 0.0 || *y == kept), "{p}");
        let mut other = vec![7.0; n];
        elementwise::dropout(exec, Mask::new(p, 12, 0), 64, &ones, &mut other).unwrap();
        let agree = y.iter().zip(&other).filter(|(a, b)| a == b).count() as f64 / n as f64;
        let expected = p * p + (1.0 - p) * (1.0 - p);
        let off = 5.0 * (expected * (1.0 - expected) / n as f64).sqrt();
        assert!((agree - expected).abs() <= off, "another seed agrees on {agree} at {p}, expected {expected}");
    }
}

#[test]
fn dropout_of_some_rows_is_those_rows_of_dropout_of_all() {
    let exec = Exec::new(2);
    let (x, cols) = (awkward::<bf16>(1, 50 * 37), 37);
    let (mut whole, mut part) = (x.clone(), x[20 * cols..].to_vec());
    elementwise::dropout(exec, Mask::new(0.3, 8, 0), cols, &x, &mut whole).unwrap();
    elementwise::dropout(exec, Mask::new(0.3, 8, 20), cols, &x[20 * cols..], &mut part).unwrap();
    same(&part, &whole[20 * cols..]).unwrap();
    assert!(elementwise::dropout(exec, Mask::new(0.3, 8, 0), 40, &x, &mut whole).is_err(), "no whole rows");
}

#[test]
fn casting_to_bf16_and_back_keeps_every_bf16() {
    let all: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
    let (mut wide, mut back) = (vec![0.0; all.len()], vec![bf16::ZERO; all.len()]);
    for exec in execs() {
        elementwise::to_f32(exec, &all, &mut wide).unwrap();
        elementwise::from_f32(exec, &wide, &mut back).unwrap();
        same(&back, &all).unwrap();
    }
}

#[test]
fn lengths_that_differ_are_refused_before_anything_is_written() {
    let (exec, mut a) = (Exec::new(1), [9.0f32; 4]);
    let add = elementwise::add(exec, &mut a, &[1.0; 3]);
    assert_eq!(add, Err(KernelError::Length { op: "add", argument: "b", expected: 4, got: 3 }));
    assert!(elementwise::relu_backward(exec, &[1.0; 5], &mut a).is_err());
    assert!(elementwise::to_f32(exec, &[bf16::ONE; 5], &mut a).is_err());
    assert!(elementwise::from_f32(exec, &[1.0; 5], &mut [bf16::ONE; 4]).is_err());
    assert_eq!(a, [9.0; 4]);
}
