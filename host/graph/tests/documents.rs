//! How the documents are spelled as JSON.

mod common;

use common::{SMALL, TestOps, swiglu_patch};
use serde_json::{Value as Json, json};
use unswag_abi::doc::*;
use unswag_graph::apply;

#[test]
fn a_size_is_a_number_or_a_name() {
    for (spelled, dim) in
        [(json!(0), Dim::Fixed(0)), (json!(u64::MAX), Dim::Fixed(u64::MAX)), (json!("seq"), Dim::symbol("seq"))]
    {
        assert_eq!(serde_json::from_value::<Dim>(spelled.clone()).expect("a size"), dim);
        assert_eq!(serde_json::from_str::<Dim>(&spelled.to_string()).expect("a size"), dim);
        assert_eq!(json!(dim), spelled);
    }
    for bad in ["-1", "1.5", "1e30", "null", "true", "[1]", "{}", "18446744073709551616"] {
        let error = serde_json::from_str::<Dim>(bad).expect_err(bad).to_string();
        assert!(error.contains("expected a size: a whole number of at least 0, or the name of a symbol"), "{error}");
    }
}

#[test]
fn a_graph_reads_back_as_it_was_written() {
    let graph = SMALL.graph();
    let operated = apply(&graph, &swiglu_patch(&graph, "code2"), &TestOps).expect("a valid patch").graph;
    for graph in [graph, operated] {
        let text = serde_json::to_string(&graph).expect("a graph is a document");
        assert_eq!(serde_json::from_str::<Graph>(&text).expect("a graph is a document"), graph);
        // Through an untyped value too, as YAML readers go.
        let value: Json = serde_json::from_str(&text).expect("JSON");
        assert_eq!(serde_json::from_value::<Graph>(value).expect("a graph is a document"), graph);
    }
}

#[test]
fn unknown_fields_are_ignored_and_missing_optional_ones_take_their_defaults() {
    let read: Graph = serde_json::from_value(json!({
        "version": 1, "arch": {"model_type": "llama"}, "inputs": [], "outputs": [], "nodes": [], "values": {}, "params": {},
        "from_a_later_version": {"of": ["anything"]},
    }))
    .expect("a later document is read");
    assert_eq!((read.cache, read.losses), (vec![], vec![]));
}
