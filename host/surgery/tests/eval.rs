//! Expressions against values worked out by hand, and decompositions against what defines them.

use std::collections::BTreeMap;

use unswag_abi::doc::{Dtype, Expr, Meta, SvdPart};
use unswag_surgery::eval::{EvalError, Evaluator, Source, Tensor, encode};

struct Map(BTreeMap<&'static str, Tensor>);

impl Source for Map {
    fn tensor(&self, name: &str) -> Result<(Meta, Vec<u8>), String> {
        let tensor = self.0.get(name).ok_or("not in the checkpoint")?;
        let bytes = encode(tensor, Dtype::F64).expect("F64 is a float");
        Ok((Meta { dtype: Dtype::F64, shape: tensor.shape_u64() }, bytes))
    }
}

fn tensor(shape: &[usize], data: &[f64]) -> Tensor {
    Tensor { shape: shape.to_vec(), data: data.to_vec() }
}

fn map() -> Map {
    Map(BTreeMap::from([
        ("a", tensor(&[2, 3], &[1., 2., 3., 4., 5., 6.])),
        ("b", tensor(&[2, 3], &[10., 20., 30., 40., 50., 60.])),
        ("row", tensor(&[3], &[1., 0., -1.])),
        ("tall", tensor(&[7, 3], &(0..21).map(|i| ((i * i * 7 + 3) % 11) as f64 - 5.0).collect::<Vec<_>>())),
        ("nan", tensor(&[2, 2], &[1., f64::NAN, 0., 1.])),
    ]))
}

fn t(name: &str) -> Box<Expr> {
    Box::new(Expr::Tensor(name.into()))
}

fn eval(expr: Expr) -> Result<Tensor, EvalError> {
    let map = map();
    Evaluator::default().eval(&expr, &map)
}

#[test]
fn cat_joins_along_either_dimension() {
    let of = vec![*t("a"), *t("b")];
    let rows = eval(Expr::Cat { of: of.clone(), dim: 0 }).unwrap();
    assert_eq!(rows, tensor(&[4, 3], &[1., 2., 3., 4., 5., 6., 10., 20., 30., 40., 50., 60.]));
    let columns = eval(Expr::Cat { of, dim: 1 }).unwrap();
    assert_eq!(columns, tensor(&[2, 6], &[1., 2., 3., 10., 20., 30., 4., 5., 6., 40., 50., 60.]));
}

#[test]
fn slice_and_permute_move_the_right_elements() {
    let slice = Expr::Slice { of: t("a"), dim: 1, start: 1, end: 3 };
    assert_eq!(eval(slice).unwrap(), tensor(&[2, 2], &[2., 3., 5., 6.]));
    let transpose = Expr::Permute { of: t("a"), dims: vec![1, 0] };
    assert_eq!(eval(transpose).unwrap(), tensor(&[3, 2], &[1., 4., 2., 5., 3., 6.]));
    let cube = Expr::Reshape { of: t("tall"), shape: vec![7, 1, 3] };
    let turned = eval(Expr::Permute { of: Box::new(cube), dims: vec![2, 1, 0] }).unwrap();
    let (tall, map) = (&turned, map());
    assert!((0..7).all(|i| (0..3).all(|j| tall.data[j * 7 + i] == map.0["tall"].data[i * 3 + j])));
}

#[test]
fn arithmetic_broadcasts_from_the_right() {
    assert_eq!(eval(Expr::Mul(t("a"), t("row"))).unwrap(), tensor(&[2, 3], &[1., 0., -3., 4., 0., -6.]));
    assert_eq!(eval(Expr::Sub(t("b"), t("a"))).unwrap(), tensor(&[2, 3], &[9., 18., 27., 36., 45., 54.]));
    let column = Box::new(Expr::Slice { of: t("a"), dim: 1, start: 0, end: 1 });
    assert_eq!(eval(Expr::Add(column, t("row"))).unwrap(), tensor(&[2, 3], &[2., 1., 0., 5., 4., 3.]));
    let wrong = eval(Expr::Add(t("a"), Box::new(Expr::Eye(2)))).unwrap_err();
    assert!(wrong.to_string().contains("[2, 3] and [2, 2]"), "{wrong}");
}

#[test]
fn matmul_is_rows_times_columns() {
    let product = Expr::Matmul(t("a"), Box::new(Expr::Permute { of: t("b"), dims: vec![1, 0] }));
    assert_eq!(eval(product).unwrap(), tensor(&[2, 2], &[140., 320., 320., 770.]));
}

#[test]
fn the_parts_of_a_decomposition_multiply_back_and_are_orthonormal() {
    for name in ["a", "tall"] {
        let part = |part| Box::new(Expr::Svd { of: t(name), rank: if name == "a" { 2 } else { 3 }, part });
        let scaled = Box::new(Expr::Mul(part(SvdPart::U), part(SvdPart::S)));
        let back = eval(Expr::Matmul(scaled, part(SvdPart::Vh))).unwrap();
        let want = &map().0[name];
        assert_eq!(back.shape, want.shape);
        assert!(back.data.iter().zip(&want.data).all(|(x, y)| (x - y).abs() < 1e-12), "{name}: {back:?}");

        let u = part(SvdPart::U);
        let gram = eval(Expr::Matmul(Box::new(Expr::Permute { of: u.clone(), dims: vec![1, 0] }), u)).unwrap();
        let eye = Tensor::eye(gram.shape[0] as u64).unwrap();
        assert!(gram.data.iter().zip(&eye.data).all(|(x, y)| (x - y).abs() < 1e-12), "{name}: {gram:?}");
        let s = eval(*part(SvdPart::S)).unwrap();
        assert!(s.data.is_sorted_by(|x, y| x >= y) && s.data.iter().all(|&x| x > 0.0), "{s:?}");
    }
}

#[test]
fn a_cut_decomposition_is_the_best_of_its_rank() {
    // Eckart & Young 1936: what is lost has the size of the singular values left out.
    let part = |part, rank| Box::new(Expr::Svd { of: t("tall"), rank, part });
    let scaled = Box::new(Expr::Mul(part(SvdPart::U, 2), part(SvdPart::S, 2)));
    let lost = eval(Expr::Sub(t("tall"), Box::new(Expr::Matmul(scaled, part(SvdPart::Vh, 2))))).unwrap();
    let all = eval(*part(SvdPart::S, 3)).unwrap();
    let norm = lost.data.iter().map(|x| x * x).sum::<f64>().sqrt();
    assert!((norm - all.data[2]).abs() < 1e-12 && all.data[2] > 0.1, "{norm} against {:?}", all.data);
}

#[test]
fn normal_deviates_are_normal_and_the_same_for_the_same_seed() {
    let normal = |seed| eval(Expr::Normal { shape: vec![100, 100], std: 0.5, seed }).unwrap();
    let (first, again, other) = (normal(7), normal(7), normal(8));
    assert_eq!(first, again);
    assert_ne!(first, other);
    let mean = first.data.iter().sum::<f64>() / 1e4;
    let variance = first.data.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e4;
    // Four standard errors of each estimate.
    assert!(mean.abs() < 4.0 * 0.5 / 100.0, "{mean}");
    assert!((variance / 0.25 - 1.0).abs() < 4.0 * (2.0f64 / 1e4).sqrt(), "{variance}");
    assert!(eval(Expr::Normal { shape: vec![2], std: f64::NAN, seed: 0 }).is_err());
}

#[test]
fn what_cannot_be_made_is_an_error_that_says_why() {
    let says = |expr, text: &str| {
        let error = eval(expr).unwrap_err().to_string();
        assert!(error.contains(text), "{error:?} does not say {text:?}");
    };
    says(*t("missing"), "tensor missing: not in the checkpoint");
    says(Expr::Full { shape: vec![u64::MAX, 3], value: 0.0 }, "do not fit");
    says(Expr::Svd { of: t("nan"), rank: 1, part: SvdPart::U }, "1 values that are NaN or infinite");
    says(Expr::Svd { of: t("a"), rank: 9, part: SvdPart::U }, "0..9");
    says(Expr::Slice { of: t("a"), dim: 0, start: 1, end: 3 }, "within 0..2");
    says(Expr::Permute { of: t("a"), dims: vec![0, 0] }, "each of 0..2 once");
    says(Expr::Cast { of: t("a"), dtype: Dtype::U8 }, "U8");
}
