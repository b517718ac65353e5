//! `docs/kinds.md`: every kind of the graph's table with its exact arithmetic, for plugin authors.
//!
//! The inputs and outputs of a kind are in the graph's table; its rounding is described here, beside the code that does it.

use std::fmt::Write as _;

use unswag_graph::kinds::{self, Attr, AttrType, Inputs, Kind, Role};

use crate::{Arithmetic, arithmetic};

const HEAD: &str = "\
# The kinds of a graph

This page is printed by `unswag plugin kinds`. Every node of a graph is of one of these kinds, or a plugin's op, whose
name contains a dot. `unswag plugin check` and `unswag surgery` compare an op that `stands_for` a kind with the
arithmetic that is stated here.

**Element types.** Inputs are F32, BF16 or F16. \"In f32\" means: read exactly, computed in IEEE f32 in the order of the
formula, and rounded once, to nearest, ties to even, when the result is stored. A step that is rounded to the element
type of the output says so. `exp`, `tanh`, `silu`, `gelu` and `gelu_tanh` are the functions of `kernels/math`: within
0.9, 2, 2.3 and 7.1 units in the last place of the true value, `gelu_tanh` within 3 + 2.5 |z|, z the argument of its
exponential.

**What is compared.** *Exact* kinds must have the same bits; zeros of either sign are equal, and so are all NaNs.
*Rounding* kinds may differ by 2 units in the last place of the output's element type, and by 4 units of f32 of the
largest intermediate term: their last bit depends on the order of a sum or on how an exponential is computed. The
result, bit for bit or up to rounding, is printed and recorded. The other kinds have no reference: a claim to be one of
them is recorded as unverified, and the output is marked as computing something else.
";

/// The page.
pub fn kinds_page() -> String {
    let mut page = HEAD.to_owned();
    for kind in kinds::all() {
        section(&mut page, kind);
    }
    page
}

fn section(page: &mut String, kind: &Kind) {
    let name = kind.name;
    let inputs = match kind.inputs {
        Inputs::Exactly(names) => names.join(", "),
        Inputs::AtLeast(least) => format!("at least {least}, all of one sort"),
    };
    let outputs = if kind.variadic() { "one for each of its sizes".to_owned() } else { kind.outputs.join(", ") };
    let compared = match arithmetic(name) {
        Some(Arithmetic::Exact) => "exact",
        Some(Arithmetic::Rounding) => "rounding",
        None => "no reference: a claim is unverified",
    };
    let line = |page: &mut String, text: std::fmt::Arguments<'_>| {
        page.write_fmt(text).expect("writing to a string does not fail");
        page.push('\n');
    };
    line(page, format_args!("\n## {name}\n\n{}\n", kind.doc));
    line(page, format_args!("- inputs: {inputs}; outputs: {outputs}"));
    line(page, format_args!("- arithmetic: {}", exactly(name)));
    line(page, format_args!("- compared: {compared}"));
    line(page, format_args!("- saved for the backward: {}", kind.saves_doc));
    if !kind.params.is_empty() {
        let role =
            |role: &Role| format!("`{}` {}{}", role.name, role.shape, if role.required { "" } else { ", optional" });
        line(page, format_args!("- parameters: {}", kind.params.iter().map(role).collect::<Vec<_>>().join("; ")));
    }
    if !kind.attrs.is_empty() {
        page.push_str("\n| attribute | type | required | meaning |\n|---|---|---|---|\n");
        for Attr { name, of, required, doc } in kind.attrs {
            let required = if *required { "yes" } else { "no" };
            line(page, format_args!("| `{name}` | {} | {required} | {} |", type_of(of), doc.replace('|', "\\|")));
        }
    }
}

fn type_of(of: &AttrType) -> String {
    match of {
        AttrType::Integer(least) => format!("integer of at least {least}"),
        AttrType::Number => "finite number".to_owned(),
        AttrType::Positive => "finite number above 0".to_owned(),
        AttrType::Boolean => "boolean".to_owned(),
        AttrType::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or "),
        AttrType::Sizes => "list of integers above 0".to_owned(),
        AttrType::Numbers => "list of finite numbers above 0".to_owned(),
        AttrType::Float => "element type as safetensors spells it: `F32`, `BF16`, `F16`".to_owned(),
    }
}

/// The formula with its rounding points.
fn exactly(kind: &str) -> &'static str {
    match kind {
        "embedding" => {
            "the row in the output's element type; with `scale`, times the scale rounded to that type, in f32, rounded once"
        }
        "linear" => {
            "products summed in f32 or wider, rounded to the element type; then + bias in f32, rounded. The order of the sum is not fixed"
        }
        "rms_norm" => {
            "in f32: rstd = 1 / sqrt(sum(x * x) / n + eps), the sum in sixteen lanes of fused multiply-adds; n = x * rstd, rounded to the \
             element type; y = n * weight, rounded. With `unit_offset`: y = (x * rstd) * (1 + weight), rounded once"
        }
        "layer_norm" => {
            "in f32: m = sum(x) / n; d = x - m; rstd = 1 / sqrt(sum(d * d) / n + eps); y = fma(d * rstd, weight, bias), or \
             (d * rstd) * weight without a bias; rounded once"
        }
        "rotary_embedding" => {
            "inverse frequencies in f32, as transformers computes them for the `rope_type`; angle = position * frequency in f32; cos and sin \
             of it in f64, times the attention factor, rounded to f32 and to `dtype`. Half the frequencies stand twice"
        }
        "rope" => {
            "for each pair (a, b): a' = a * cos - b * sin and b' = b * cos + a * sin; each product is computed in f32 and rounded to the element \
             type, and so is the sum"
        }
        "split" | "concat" | "slice" => "elements are moved, not computed",
        "attention" => {
            "per head, in f32: scores = scale * (q k^T), then cap * tanh(score / cap) where `logit_softcap` is given; weights by a running \
             maximum and sum of exponentials, a sink in the sum alone; weights rounded to the element type for their product with v, which is \
             summed in f32; rounded once. The order of the sums is not fixed"
        }
        "silu" => "silu(x) = x / (1 + exp(-x)) in f32, rounded once. silu(-inf) is NaN",
        "gelu" => {
            "x * Phi(x) in f32, rounded once; with `approximate` tanh, x / (1 + exp(-2 sqrt(2 / pi) * x * (1 + 0.044715 * x * x))). gelu(-inf) \
             is NaN"
        }
        "relu" => "0 where x <= 0, else x: NaN stays NaN, denormals stay",
        "relu2" => "r = relu(x); r * r in f32, rounded once",
        "tanh" => "tanh(x) in f32, rounded once",
        "sigmoid" => "1 / (1 + exp(-x)) in f32, rounded once",
        "swiglu" => "silu(gate) * up, both in f32, rounded once: silu(gate) is not rounded in between",
        "geglu" => {
            "gelu(gate) * up as `approximate` says, both in f32, rounded once: gelu(gate) is not rounded in between"
        }
        "reglu" => "relu(gate) * up in f32, rounded once",
        "add" => "a + b in f32, rounded once",
        "sub" => "a - b in f32, rounded once",
        "mul" => "a * b in f32, rounded once",
        "scale" => "x * by, `by` rounded to f32, in f32, rounded once",
        "softcap" => "t = x / cap, rounded to the element type; tanh(t), rounded; times cap, rounded: each step in f32",
        "softmax" => "exp(x - max) / sum(exp(x - max)) in f32, rounded once; the order of the sum is not fixed",
        "dropout" => {
            "without training: x as it is, which is what is compared. In training: 0 where the mask drops the element, else x * (1 / (1 - p)) in \
             f32, rounded once; the mask is a function of the step's seed, the row and the column"
        }
        _ => "not run by the engine; a graph may hold it, and a plugin's composite may use it for a loss",
    }
}
