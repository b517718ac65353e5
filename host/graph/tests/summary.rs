//! A patch as text.

mod common;

use common::{Llama, SMALL, latent_attention, patch, swiglu_patch};
use serde_json::json;
use unswag_graph::summary;

#[test]
fn equal_edits_are_one_line() {
    let graph = Llama { layers: 30, ..SMALL }.graph();
    let mut patch = swiglu_patch(&graph, "exact");
    patch.lossy = Some("nothing is lost".into());
    assert_eq!(
        summary(&patch),
        "replace  model.layers.{0..29}.mlp.act_fn  by test.swiglu {mode: exact}\nlossy    nothing is lost\n"
    );
}

#[test]
fn every_kind_of_edit_says_what_it_does() {
    let mut edits = latent_attention(1);
    let more = [
        json!({"attr": {"at": "model.norm", "name": "eps", "value": 0.5}}),
        json!({"replace": {"at": "model.norm", "with": {"inputs": ["x"], "outputs": ["x"], "nodes": []}}}),
    ];
    edits.as_array_mut().expect("a list").extend(more);
    let text = summary(&patch(edits));
    let lines: Vec<String> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let at = "model.layers.1.self_attn";
    let (k, v) = ("model.layers.{}.self_attn.k_proj.weight", "model.layers.{}.self_attn.v_proj.weight");
    let svd = format!("svd(cat({k}, {v}; dim 0); rank 24)");
    let expected = [
        format!("param {at}.kv_a_proj.weight BF16 [24, 64] = Vh of {svd}"),
        format!("param {at}.kv_b_proj.weight F32 [64, 24] = (U of {svd} * S of {svd})"),
        format!("param {at}.sinks BF16 [4] = output 0 of sinks.{{}}"),
        format!("replace {at} by 8 nodes: linear, linear, linear, split, rope, attention, linear, mse"),
        format!("drop {at}.k_proj.weight"),
        format!("drop {at}.v_proj.weight"),
        format!("cache {at} latent: BF16 [batch, seq, 24]"),
        format!("loss closeness_1 0.5 * {at}.closeness"),
        "attr model.norm eps = 0.5".to_owned(),
        "replace model.norm by its own input".to_owned(),
    ];
    for (line, expected) in lines.iter().zip(&expected) {
        assert_eq!(line, expected);
    }
    assert_eq!(lines.len(), expected.len());
}

#[test]
fn a_hostile_name_cannot_garble_the_page() {
    let text = summary(&patch(json!([
        {"drop": {"param": "a\u{1b}[2J\nreplace  everything"}},
        {"replace": {"at": "x", "with": {"inputs": [], "outputs": [], "nodes": [{"kind": "\u{7}", "inputs": [], "outputs": []}]}}},
    ])));
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text}");
}
