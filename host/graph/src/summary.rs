//! A patch as a page of text, before it is applied: what it does where, equal edits of many layers in one line.

use std::fmt::Write;

use unswag_abi::doc::{Edit, Expr, Init, Patch, SubNode, Subgraph, SvdPart};

use crate::{
    group::{grouped, numbers, relative},
    kinds::{clipped, clipped_at, show_shape},
    names::quoted,
};

/// One line per group of equal edits, in the order of the patch, and what the patch loses:
///
/// ```text
/// replace  model.layers.{0..29}.mlp.act_fn  by delhi.swiglu {mode: exact}
/// ```
pub fn summary(patch: &Patch) -> String {
    let lines = grouped(patch.edits.iter().map(|edit| {
        let (what, at, text) = line(edit);
        (at.to_owned(), format!("{what}\n{text}"))
    }));
    let width = lines.iter().map(|(at, ..)| at.len()).filter(|&width| width <= 60).max().unwrap_or(0);
    let mut page = String::new();
    for (at, line, _) in &lines {
        let (what, text) = line.split_once('\n').unwrap_or((line, ""));
        let line = format!("{what:8} {:width$}  {text}", quoted(at));
        let _ = writeln!(page, "{}", line.trim_end());
    }
    if let Some(lossy) = &patch.lossy {
        let _ = writeln!(page, "lossy    {}", clipped_at(400, &lossy.escape_debug().to_string()));
    }
    page
}

fn line(edit: &Edit) -> (&'static str, &str, String) {
    match edit {
        Edit::Replace { at, with } => ("replace", at, subgraph(with)),
        Edit::Attr { at, name, value } => ("attr", at, format!("{name} = {}", clipped(&value.to_string()))),
        Edit::Param { name, dtype, shape, init } => {
            let made = match init {
                Init::Expr(expr) => shown(expr, &numbers(name), 0),
                Init::Transform { job, output, .. } => {
                    format!("output {output} of {}", relative(job, &numbers(name)))
                }
            };
            ("param", name, format!("{dtype} {} = {}", show_shape(shape), clipped_at(300, &made)))
        }
        Edit::Drop { param } => ("drop", param, String::new()),
        Edit::Cache { at, slots } => {
            let slot = |slot: &unswag_abi::doc::CacheSlot| {
                format!("{}: {} {}", quoted(&slot.name), slot.dtype, show_shape(&slot.shape))
            };
            ("cache", at, slots.iter().take(8).map(slot).collect::<Vec<_>>().join(", "))
        }
        Edit::Loss { name, value, weight } => {
            ("loss", name, format!("{weight} * {}", relative(&quoted(value), &numbers(name))))
        }
    }
}

fn subgraph(with: &Subgraph) -> String {
    match &with.nodes[..] {
        [] => "by its own input".to_owned(),
        [node] => format!("by {}", node_text(node)),
        nodes => {
            let mut kinds: Vec<String> = nodes.iter().take(8).map(|node| quoted(&node.kind)).collect();
            if nodes.len() > 8 {
                kinds.push("…".to_owned());
            }
            format!("by {} nodes: {}", nodes.len(), kinds.join(", "))
        }
    }
}

fn node_text(node: &SubNode) -> String {
    let attr = |(name, value): (&String, &serde_json::Value)| {
        let plain = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{}: {}", quoted(name), quoted(&plain))
    };
    let attrs: Vec<String> = node.attrs.iter().map(attr).collect();
    let attrs = if attrs.is_empty() { String::new() } else { format!(" {{{}}}", attrs.join(", ")) };
    format!("{}{attrs}", quoted(&node.kind))
}

/// An expression as mathematics is written. Deeper than a line can show it is cut.
fn shown(expr: &Expr, numbers: &[u64], depth: usize) -> String {
    if depth > 6 {
        return "…".to_owned();
    }
    let inner = |of: &Expr| shown(of, numbers, depth + 1);
    match expr {
        Expr::Tensor(name) => relative(&quoted(name), numbers),
        Expr::Full { value, .. } => format!("full({value})"),
        Expr::Eye(size) => format!("eye({size})"),
        Expr::Normal { std, seed, .. } => format!("normal(std {std}, seed {seed})"),
        Expr::Cat { of, dim } => {
            let parts: Vec<String> = of.iter().take(4).map(inner).collect();
            let more = if of.len() > 4 { ", …" } else { "" };
            format!("cat({}{more}; dim {dim})", parts.join(", "))
        }
        Expr::Slice { of, dim, start, end } => format!("{}[{start}..{end}; dim {dim}]", inner(of)),
        Expr::Reshape { of, .. } => format!("reshape({})", inner(of)),
        Expr::Permute { of, dims } => format!("permute({}; {})", inner(of), show_shape(dims)),
        Expr::Add(a, b) => format!("({} + {})", inner(a), inner(b)),
        Expr::Sub(a, b) => format!("({} - {})", inner(a), inner(b)),
        Expr::Mul(a, b) => format!("({} * {})", inner(a), inner(b)),
        Expr::Matmul(a, b) => format!("({} @ {})", inner(a), inner(b)),
        Expr::Scale { of, by } => format!("{by} * {}", inner(of)),
        Expr::Sqrt(of) => format!("sqrt({})", inner(of)),
        Expr::Svd { of, rank, part } => {
            let part = match part {
                SvdPart::U => "U",
                SvdPart::S => "S",
                SvdPart::Vh => "Vh",
            };
            format!("{part} of svd({}; rank {rank})", inner(of))
        }
        Expr::Cast { of, dtype } => format!("{dtype}({})", inner(of)),
    }
}
