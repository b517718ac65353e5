//! Differences between graphs, as data and as text.

mod common;

use common::{Llama, SMALL, TestOps, patch, swiglu_patch};
use serde_json::json;
use unswag_abi::doc::Dtype;
use unswag_graph::{NoOps, apply, diff};

#[test]
fn a_graph_does_not_differ_from_itself() {
    let diff = diff(&SMALL.graph(), &SMALL.graph());
    assert!(diff.is_empty());
    assert_eq!(diff.to_string(), "no difference");
}

#[test]
fn thirty_equal_changes_are_one_line() {
    let graph = Llama { layers: 30, ..SMALL }.graph();
    let operated = apply(&graph, &swiglu_patch(&graph, "exact"), &TestOps).expect("a valid patch").graph;
    let diff = diff(&graph, &operated);
    assert_eq!(diff.nodes_changed.len(), 30);
    assert_eq!(diff.to_string(), "~ model.layers.{0..29}.mlp.act_fn  swiglu -> test.swiglu {mode: exact}");
}

#[test]
fn layers_treated_differently_are_told_apart() {
    let graph = Llama { layers: 12, ..SMALL }.graph();
    let mut some = swiglu_patch(&graph, "exact");
    let others = swiglu_patch(&graph, "code2");
    some.edits.splice(4..6, others.edits[4..6].iter().cloned());
    some.edits.remove(9);
    let operated = apply(&graph, &some, &TestOps).expect("a valid patch").graph;
    assert_eq!(
        diff(&graph, &operated).to_string(),
        "~ model.layers.{0..3,6..8,10,11}.mlp.act_fn  swiglu -> test.swiglu {mode: exact}\n\
         ~ model.layers.{4,5}.mlp.act_fn              swiglu -> test.swiglu {mode: code2}"
    );
}

#[test]
fn what_came_and_went_is_listed_with_its_parameters() {
    let edits: Vec<_> = (0..3)
        .map(|layer| {
            let at = format!("model.layers.{layer}.mlp.act_fn");
            json!({"replace": {"at": at, "with": {"inputs": ["g", "u"], "outputs": ["h"], "nodes": [
                {"name": "silu", "kind": "silu", "inputs": ["g"], "outputs": ["s"]},
                {"name": "mul", "kind": "mul", "inputs": ["s", "u"], "outputs": ["h"]},
            ]}}})
        })
        .collect();
    let graph = SMALL.graph();
    let operated = apply(&graph, &patch(json!(edits)), &NoOps).expect("a valid patch").graph;
    assert_eq!(
        diff(&graph, &operated).to_string(),
        "~ model.layers.{0..2}.mlp.down_proj    linear inputs: [model.layers.{}.mlp.act_fn] -> [model.layers.{}.mlp.act_fn.mul]\n\
         - model.layers.{0..2}.mlp.act_fn       swiglu\n\
         + model.layers.{0..2}.mlp.act_fn.silu  silu\n\
         + model.layers.{0..2}.mlp.act_fn.mul   mul"
    );
}

#[test]
fn every_field_that_can_differ_is_seen() {
    let graph = SMALL.graph();
    let mut other = graph.clone();
    other.arch.model_type = "mistral".into();
    other.params["model.norm.weight"].dtype = Dtype::F32;
    let norm = other.nodes.iter_mut().find(|node| node.path == "model.norm").expect("there");
    norm.attrs.insert("eps".into(), json!(1e-6));
    let text = diff(&graph, &other).to_string();
    assert_eq!(
        text,
        "~ model              model_type: llama -> mistral\n\
         ~ model.norm         rms_norm eps: 1e-5 -> 1e-6\n\
         ~ model.norm.weight  BF16 [64] -> F32 [64]"
            .replace("1e-5", &json!(1e-5).to_string())
            .replace("1e-6", &json!(1e-6).to_string())
    );
    let back = diff(&other, &graph);
    assert_eq!((back.model_changed.len(), back.nodes_changed.len(), back.params_changed.len()), (1, 1, 1));
}

#[test]
fn a_diff_is_a_document() {
    let graph = SMALL.graph();
    let operated = apply(&graph, &swiglu_patch(&graph, "exact"), &TestOps).expect("a valid patch").graph;
    let document = serde_json::to_value(diff(&graph, &operated)).expect("a diff is a document");
    assert_eq!(document["nodes_changed"][0]["kind_after"], "test.swiglu");
    assert_eq!(
        document["nodes_changed"][0]["fields"][0],
        json!({"field": "attrs.mode", "before": null, "after": "exact"})
    );
}
