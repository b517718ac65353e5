//! What a graph keeps for its backward.

mod common;

use common::{SMALL, TINY_LLAMA, TestOps, swiglu_patch};
use unswag_graph::{apply, saved::saved};

/// bf16 is 2 bytes; hidden 2048, intermediate 5632, 4 KV heads of 64.
const LAYER: f64 = {
    let hidden = 2.0 * 2048.0;
    let inter = 2.0 * 5632.0;
    let kv = 2.0 * 256.0;
    let norms = 2.0 * (hidden + 4.0);
    let projections = 2.0 * hidden;
    let attention = hidden + kv + kv + hidden + 4.0 * 32.0;
    norms + projections + attention + 3.0 * inter + inter
};

#[test]
fn a_llama_layer_saves_what_pytorch_saves_with_fused_norms_and_sdpa() {
    let report = saved(&TINY_LLAMA.graph());
    assert_eq!(report.under("model.layers.0"), LAYER);
    assert_eq!(report.under("model.layers.21"), LAYER);
    let all_layers: f64 = report.under("model.layers");
    assert_eq!(all_layers, 22.0 * LAYER);
}

#[test]
fn a_path_that_starts_alike_is_not_under_it() {
    let report = saved(&TINY_LLAMA.graph());
    assert_eq!(report.under("model.layers.2"), LAYER, "not layers 20 and 21 as well");
}

#[test]
fn recomputing_silu_and_the_product_cuts_a_layer_by_31_8_percent() {
    let graph = TINY_LLAMA.graph();
    let applied = apply(&graph, &swiglu_patch(&graph, "exact"), &TestOps).expect("a valid patch");
    let kept = saved(&applied.graph).under("model.layers.3");
    assert_eq!(format!("{:.1}", 100.0 * (1.0 - kept / LAYER)), "31.8");
}

#[test]
fn two_bits_for_the_gate_alone_cut_a_layer_by_13_9_percent() {
    let graph = TINY_LLAMA.graph();
    let applied = apply(&graph, &swiglu_patch(&graph, "code2"), &TestOps).expect("a valid patch");
    let kept = saved(&applied.graph).under("model.layers.3");
    assert_eq!(format!("{:.1}", 100.0 * (1.0 - kept / LAYER)), "13.9");
}

#[test]
fn a_tensor_that_three_nodes_keep_is_counted_at_the_first() {
    let report = saved(&SMALL.graph());
    let bytes = |path: &str| report.under(&format!("model.layers.1.self_attn.{path}"));
    assert_eq!([bytes("q_proj"), bytes("k_proj"), bytes("v_proj")], [128.0, 0.0, 0.0]);
}

#[test]
fn the_shared_rope_tables_are_counted_once_for_the_model() {
    let report = saved(&SMALL.graph());
    assert_eq!(report.under("model.rotary_emb"), 2.0 * 16.0 * 2.0);
}

#[test]
fn the_recorded_graph_tells_without_the_plugin_what_is_made_again() {
    let graph = SMALL.graph();
    let applied = apply(&graph, &swiglu_patch(&graph, "exact"), &TestOps).expect("a valid patch");
    let document = serde_json::to_string(&applied.graph).expect("a graph is a document");
    let read = serde_json::from_str(&document).expect("a graph is a document");
    assert_eq!(saved(&read), saved(&applied.graph));
    assert_eq!(saved(&read).under("model.layers.0.mlp.down_proj"), 0.0, "its input is made again");
}

#[test]
fn a_plugin_node_states_its_own_share() {
    let graph = SMALL.graph();
    let applied = apply(&graph, &swiglu_patch(&graph, "code2"), &TestOps).expect("a valid patch");
    let node = applied.graph.node("model.layers.0.mlp.act_fn").expect("the node is there");
    let (gate, up, code) = (2.0 * 160.0, 2.0 * 160.0, 160.0 / 4.0);
    assert_eq!(node.saved_bytes_per_token, Some(gate + up + code));
    assert_eq!(saved(&applied.graph).under("model.layers.0.mlp.act_fn"), gate + up + code);
}

#[test]
fn the_models_sum_is_the_sum_of_its_nodes() {
    let report = saved(&SMALL.graph());
    let nodes: f64 = report.nodes.iter().map(|node| node.bytes_per_token).sum();
    assert_eq!(report.bytes_per_token, nodes);
    for node in &report.nodes {
        let tensors: f64 = node.tensors.iter().map(|tensor| tensor.bytes_per_token).sum();
        assert_eq!(node.bytes_per_token, tensors, "{}", node.path);
    }
}
