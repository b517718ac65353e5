//! The plugin through its own entry point, without the host.

use unswag_low_rank::unswag_plugin;
use unswag_sdk::{
    Edit,
    serde_json::json,
    test::{PluginTest, sample},
};

#[test]
fn it_passes_the_conformance_suite() {
    PluginTest::new(unswag_plugin()).check().assert_passed();
}

#[test]
fn every_down_projection_becomes_two_and_is_dropped() {
    let graph = sample("llama");
    let protocol = PluginTest::new(unswag_plugin()).open("low-rank", json!({"rank": 8})).unwrap();
    let patch = protocol.rewrite(&graph).unwrap();
    let dropped = patch.edits.iter().filter(|edit| matches!(edit, Edit::Drop { .. })).count();
    let layers = graph.nodes.iter().filter(|node| node.path.ends_with(".mlp.down_proj")).count();
    assert_eq!((dropped, patch.edits.len()), (layers, 4 * layers));
    assert!(patch.lossy.unwrap().contains("rank 8"));
}

#[test]
fn a_rank_that_saves_nothing_is_refused() {
    let protocol = PluginTest::new(unswag_plugin()).open("low-rank", json!({"rank": 64})).unwrap();
    let error = protocol.rewrite(&sample("llama")).unwrap_err();
    assert!(error.message().contains("choose a smaller one"), "{error}");
}
