//! Products of matrices on the CPU.
//!
//! libtorch multiplies 16-bit floats fast where oneDNN does: on x86-64 that takes AVX-512, for f16 its FP16 instructions
//! too. On every other x86-64 machine its own loops run at a few GFLOP/s, or at one where the right side is not transposed
//! (the gradient of a linear layer's input). There the sides are widened to f32 a block at a time, and multiplied in f32.

use tch::{Device, Kind, TchError, Tensor};

/// Rows and columns of y that are computed at once, and how much of the inner dimension, which is all of it in most layers:
/// 9 MiB of f32 at most, and so large that neither widening nor waiting for the other threads costs much beside multiplying.
const ROWS: i64 = 512;
const COLUMNS: i64 = 512;
const INNER: i64 = 2048;

/// Below this many rows libtorch's loops read each weight about once, which widening cannot undercut.
const FEWEST_ROWS: i64 = 16;

/// Of a product that is added to a tensor of another type: 4 MiB in bf16, and few enough calls that none is noticed.
const PRODUCT_ELEMENTS: i64 = 2 << 20;

/// y = a b.
pub(crate) fn matmul(y: &Tensor, a: &Tensor, b: &Tensor) -> Result<(), TchError> {
    if is_widened(a) { widened(y, a, b, false) } else { a.f_mm_out(y, b).map(drop) }
}

/// y += a b. y may be wider than a and b.
pub(crate) fn matmul_add(y: &Tensor, a: &Tensor, b: &Tensor) -> Result<(), TchError> {
    if is_widened(a) {
        return widened(y, a, b, true);
    }
    if y.kind() == a.kind() {
        return y.shallow_clone().f_addmm_(a, b).map(drop);
    }
    // libtorch makes the product, and then a copy of it in y's type: a few rows at a time, neither is large.
    let [rows, columns] = [y.size()[0], y.size()[1]];
    let at_once = (PRODUCT_ELEMENTS / columns.max(1)).clamp(1, rows.max(1));
    for (start, count) in blocks(rows, at_once) {
        drop(y.f_narrow(0, start, count)?.f_add_(&a.f_narrow(0, start, count)?.f_matmul(b)?)?);
    }
    Ok(())
}

fn is_widened(a: &Tensor) -> bool {
    a.device() == Device::Cpu && a.size()[0] >= FEWEST_ROWS && !is_fast(a.kind())
}

/// Whether libtorch multiplies elements of this kind by instructions for them.
#[cfg(target_arch = "x86_64")]
fn is_fast(kind: Kind) -> bool {
    use std::arch::is_x86_feature_detected as has;
    let avx512 = || has!("avx512bw") && has!("avx512vl") && has!("avx512dq");
    match kind {
        Kind::BFloat16 => avx512(),
        Kind::Half => avx512() && has!("avx512fp16"),
        _ => true,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn is_fast(_: Kind) -> bool {
    true
}

/// The product in f32, rounded once, where it is written to y.
fn widened(y: &Tensor, a: &Tensor, b: &Tensor, is_added: bool) -> Result<(), TchError> {
    let ([rows, inner], columns) = ([a.size()[0], a.size()[1]], b.size()[1]);
    let sum = Tensor::f_empty([ROWS.min(rows) * COLUMNS.min(columns)], (Kind::Float, Device::Cpu))?;
    let left = Tensor::f_empty([ROWS.min(rows) * INNER.min(inner)], (Kind::Float, Device::Cpu))?;
    let right = Tensor::f_empty([INNER.min(inner) * COLUMNS.min(columns)], (Kind::Float, Device::Cpu))?;
    for (row, of_rows) in blocks(rows, ROWS) {
        let a = a.f_narrow(0, row, of_rows)?;
        // Widened once where there is room for the whole inner dimension.
        let whole = if inner <= INNER { Some(wide(&a, &left)?) } else { None };
        for (column, of_columns) in blocks(columns, COLUMNS) {
            let y = y.f_narrow(0, row, of_rows)?.f_narrow(1, column, of_columns)?;
            let mut sum = sum.f_narrow(0, 0, of_rows * of_columns)?.f_view([of_rows, of_columns])?;
            if is_added {
                sum.f_copy_(&y)?;
            } else if whole.is_none() {
                drop(sum.f_zero_()?);
            }
            for (start, count) in blocks(inner.max(1), INNER) {
                let count = count.min(inner);
                let b = wide(&b.f_narrow(0, start, count)?.f_narrow(1, column, of_columns)?, &right)?;
                match &whole {
                    Some(a) if is_added => drop(sum.f_addmm_(a, &b)?),
                    Some(a) => drop(a.f_mm_out(&sum, &b)?),
                    None => drop(sum.f_addmm_(&wide(&a.f_narrow(1, start, count)?, &left)?, &b)?),
                }
            }
            y.shallow_clone().f_copy_(&sum)?;
        }
    }
    Ok(())
}

/// x in f32, laid out in `memory` in the order in which x lies, so that a transposed x is not copied against its grain.
fn wide(x: &Tensor, memory: &Tensor) -> Result<Tensor, TchError> {
    let memory = memory.f_narrow(0, 0, x.numel() as i64)?;
    let mut wide = match x.stride()[..] {
        [1, stride] if stride > 1 => memory.f_view([x.size()[1], x.size()[0]])?.f_tr()?,
        _ => memory.f_view([x.size()[0], x.size()[1]])?,
    };
    wide.f_copy_(x)?;
    Ok(wide)
}

/// Start and size of each block of at most `at_once`.
fn blocks(all: i64, at_once: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..all).step_by(at_once as usize).map(move |start| (start, at_once.min(all - start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small integers, so that no sum rounds.
    fn made(rows: i64, columns: i64, kind: Kind) -> Tensor {
        let at = Tensor::arange(rows * columns, (Kind::Int64, Device::Cpu));
        (at * 7).remainder(5).view([rows, columns]).to_kind(kind) - 2.0
    }

    #[test]
    fn blocks_of_every_shape_and_layout_come_to_the_product() {
        let _guard = tch::no_grad_guard();
        for kind in [Kind::BFloat16, Kind::Half] {
            for (rows, inner, columns) in
                [(1, 1, 1), (16, 1, 3), (513, 511, 2), (40, 1025, 513), (512, 512, 512), (520, 2051, 5), (3, 0, 5)]
            {
                let plain = (made(rows, inner, kind), made(inner, columns, kind));
                let transposed =
                    (made(rows, inner, kind).tr().contiguous().tr(), made(inner, columns, kind).tr().contiguous().tr());
                let exact = plain.0.to_kind(Kind::Double).matmul(&plain.1.to_kind(Kind::Double));
                for (a, b) in [(&plain.0, &plain.1), (&transposed.0, &transposed.1), (&plain.0, &transposed.1)] {
                    for y_kind in [kind, Kind::Float] {
                        let y = Tensor::full([rows, columns], f64::NAN, (y_kind, Device::Cpu));
                        widened(&y, a, b, false).unwrap();
                        assert!(y.equal(&exact.to_kind(y_kind)), "{kind:?} {rows} {inner} {columns} into {y_kind:?}");
                        widened(&y, a, b, true).unwrap();
                        let twice = (exact.to_kind(y_kind).to_kind(Kind::Double) + &exact).to_kind(y_kind);
                        assert!(y.equal(&twice), "{kind:?} {rows} {inner} {columns} added to {y_kind:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let _guard = tch::no_grad_guard();
        let a = made(20, 600, Kind::BFloat16);
        let _ = a.get(3).get(590).fill_(f64::NAN);
        let _ = a.get(4).get(0).fill_(f64::INFINITY);
        let b = Tensor::ones([600, 4], (Kind::BFloat16, Device::Cpu));
        let y = Tensor::zeros([20, 4], (Kind::BFloat16, Device::Cpu));
        widened(&y, &a, &b, false).unwrap();
        let finite: Vec<i64> = y.isfinite().all_dim(1, false).to_kind(Kind::Int64).try_into().unwrap();
        let expected: Vec<i64> = (0..20).map(|row| i64::from(row != 3 && row != 4)).collect();
        assert_eq!(finite, expected);
    }
}
