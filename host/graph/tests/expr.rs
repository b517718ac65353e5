//! Shapes of weight expressions.

use indexmap::IndexMap;
use serde_json::{Value as Json, json};
use unswag_abi::doc::{Dtype, Expr, Param};
use unswag_graph::expr::{self, ExprError, MOST_NESTING};

fn shape_of(document: Json) -> Result<Vec<u64>, ExprError> {
    let param = |dtype, shape: &[u64]| Param { dtype, shape: shape.to_vec() };
    let tensors = IndexMap::from([
        ("a", param(Dtype::Bf16, &[6, 4])),
        ("b", param(Dtype::F32, &[4, 5])),
        ("v", param(Dtype::F16, &[4])),
        ("q", param(Dtype::U8, &[4])),
    ]);
    let expr: Expr = serde_json::from_value(document).expect("the test's expression is a document");
    expr::shape(&expr, &|name| tensors.get(name))
}

fn t(name: &str) -> Json {
    json!({"tensor": name})
}

#[test]
fn shapes_follow_numpy() {
    let cases = [
        (t("a"), vec![6, 4]),
        (json!({"eye": 3}), vec![3, 3]),
        (json!({"full": {"shape": [], "value": 1.0}}), vec![]),
        (json!({"normal": {"shape": [2, 3], "std": 0.02, "seed": 1}}), vec![2, 3]),
        (json!({"cat": {"of": [t("a"), t("a")], "dim": 0}}), vec![12, 4]),
        (json!({"slice": {"of": t("a"), "dim": 1, "start": 1, "end": 4}}), vec![6, 3]),
        (json!({"reshape": {"of": t("a"), "shape": [2, 3, 4]}}), vec![2, 3, 4]),
        (json!({"permute": {"of": {"reshape": {"of": t("a"), "shape": [2, 3, 4]}}, "dims": [2, 0, 1]}}), vec![4, 2, 3]),
        (json!({"add": [t("a"), t("v")]}), vec![6, 4]),
        (json!({"mul": [{"reshape": {"of": t("v"), "shape": [4, 1]}}, t("v")]}), vec![4, 4]),
        (json!({"sub": [{"full": {"shape": [], "value": 1.0}}, t("b")]}), vec![4, 5]),
        (json!({"matmul": [t("a"), t("b")]}), vec![6, 5]),
        (json!({"scale": {"of": {"sqrt": t("v")}, "by": -2.0}}), vec![4]),
        (json!({"svd": {"of": t("a"), "rank": 4, "part": "u"}}), vec![6, 4]),
        (json!({"svd": {"of": t("a"), "rank": 2, "part": "s"}}), vec![2]),
        (json!({"svd": {"of": t("b"), "rank": 3, "part": "vh"}}), vec![3, 5]),
        (json!({"cast": {"of": t("v"), "dtype": "BF16"}}), vec![4]),
    ];
    for (document, expected) in cases {
        assert_eq!(shape_of(document.clone()), Ok(expected), "{document}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_its_place() {
    let cases = [
        (t("c"), "tensor: expected a tensor of the checkpoint as it was before the patch, got `c`"),
        (t("q"), "tensor: expected `q` to be one of F64, F32, F16, BF16, got U8"),
        (json!({"cat": {"of": [], "dim": 0}}), "cat: expected at least one part, got none"),
        (
            json!({"cat": {"of": [t("a"), t("b")], "dim": 0}}),
            "cat: expected part 1 like [6, 4] but for dimension 0, got [4, 5]",
        ),
        (
            json!({"cat": {"of": [t("a"), t("c")], "dim": 0}}),
            "cat.1.tensor: expected a tensor of the checkpoint as it was before the patch, got `c`",
        ),
        (json!({"cat": {"of": [t("a")], "dim": 2}}), "cat: expected a dimension of [6, 4], got 2"),
        (
            json!({"slice": {"of": t("a"), "dim": 0, "start": 3, "end": 7}}),
            "slice: expected start below end and end at most 6, dimension 0 of [6, 4], got 3..7",
        ),
        (
            json!({"slice": {"of": t("a"), "dim": 0, "start": 3, "end": 3}}),
            "slice: expected start below end and end at most 6, dimension 0 of [6, 4], got 3..3",
        ),
        (
            json!({"reshape": {"of": t("a"), "shape": [5, 5]}}),
            "reshape: expected a shape of as many elements as [6, 4], got [5, 5]",
        ),
        (
            json!({"permute": {"of": t("a"), "dims": [0, 0]}}),
            "permute: expected each of the 2 dimensions of [6, 4] once, got [0, 0]",
        ),
        (json!({"add": [t("a"), t("b")]}), "add: expected a shape that broadcasts with [6, 4], got [4, 5]"),
        (json!({"matmul": [t("b"), t("a")]}), "matmul: expected matrices [m, k] and [k, n], got [4, 5] and [6, 4]"),
        (json!({"svd": {"of": t("v"), "rank": 1, "part": "s"}}), "svd: expected a matrix, got [4]"),
        (
            json!({"svd": {"of": t("a"), "rank": 0, "part": "s"}}),
            "svd: expected a rank of 1 to 4, the smaller side of [6, 4], got 0",
        ),
        (json!({"cast": {"of": t("v"), "dtype": "I8"}}), "cast: expected one of F64, F32, F16, BF16, got I8"),
        (json!({"normal": {"shape": [1], "std": -1.0, "seed": 0}}), "normal: expected std of at least 0, got -1"),
    ];
    for (document, expected) in cases {
        let error = shape_of(document).expect_err(expected);
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn sizes_that_overflow_are_refused_wherever_they_arise() {
    let big = json!({"full": {"shape": [1u64 << 20, 1], "value": 0.0}});
    let row = json!({"full": {"shape": [1, 1u64 << 20], "value": 0.0}});
    let cases = [
        json!({"eye": u64::MAX}),
        json!({"eye": 1u64 << 32}),
        json!({"full": {"shape": [u64::MAX, u64::MAX], "value": 0.0}}),
        json!({"reshape": {"of": t("a"), "shape": [u64::MAX, 2]}}),
        json!({"add": [big, row]}),
        json!({"matmul": [big, row]}),
        json!({"full": {"shape": [1, 1, 1, 1, 1, 1, 1, 1, 1], "value": 0.0}}),
    ];
    for document in cases {
        shape_of(document.clone()).expect_err(&document.to_string());
    }
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    let none = |_: &str| None;
    for bad in [f64::NAN, f64::INFINITY] {
        let full = Expr::Full { shape: vec![1], value: bad };
        let scaled = Expr::Scale { of: Box::new(Expr::Eye(1)), by: bad };
        let normal = Expr::Normal { shape: vec![1], std: bad, seed: 0 };
        for expr in [full, scaled, normal] {
            expr::shape(&expr, &none).expect_err("not finite");
        }
    }
}

#[test]
fn nesting_is_bounded_before_the_stack_is() {
    let deep = |levels: usize| (0..levels).fold(Expr::Eye(2), |expr, _| Expr::Sqrt(Box::new(expr)));
    let none = |_: &str| None;
    assert_eq!(expr::shape(&deep(MOST_NESTING - 1), &none), Ok(vec![2, 2]));
    let error = expr::shape(&deep(5_000), &none).expect_err("too deep");
    assert!(error.to_string().len() < 300, "{error}");
}

#[test]
fn tensors_are_listed_in_order_of_use() {
    let expr: Expr = serde_json::from_value(json!({"add": [{"cat": {"of": [t("a"), t("b")], "dim": 0}}, t("a")]}))
        .expect("a document");
    assert_eq!(expr::tensors(&expr), ["a", "b", "a"]);
}
