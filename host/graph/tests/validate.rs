//! Graph documents that are and are not well formed.

mod common;

use common::{SMALL, TestOps, attrs, swiglu_patch};
use serde_json::json;
use unswag_abi::doc::*;
use unswag_graph::{GraphError, NodeFault, apply, validate};

fn refused(change: impl FnOnce(&mut Graph)) -> GraphError {
    let mut graph = SMALL.graph();
    change(&mut graph);
    let error = validate(&graph).expect_err("the change makes the graph ill formed");
    let text = error.to_string();
    assert!(text.starts_with("graph: ") && text.len() < 600, "{text}");
    error
}

fn node<'a>(graph: &'a mut Graph, path: &str) -> &'a mut Node {
    graph.nodes.iter_mut().find(|node| node.path == path).expect("the test names a node")
}

#[test]
fn a_llama_graph_is_well_formed() {
    assert_eq!(validate(&SMALL.graph()), Ok(()));
}

#[test]
fn an_operated_graph_is_well_formed_without_its_plugin() {
    let graph = SMALL.graph();
    let applied = apply(&graph, &swiglu_patch(&graph, "exact"), &TestOps).expect("a valid patch");
    assert_eq!(validate(&applied.graph), Ok(()));
}

#[test]
fn another_version_is_refused() {
    assert_eq!(refused(|graph| graph.version = 2), GraphError::Version { got: 2 });
}

#[test]
fn a_path_that_stands_twice_is_refused() {
    let error = refused(|graph| graph.nodes[5].path = graph.nodes[4].path.clone());
    assert!(matches!(error, GraphError::Duplicate { what: "node", .. }), "{error}");
}

#[test]
fn a_hostile_name_is_refused() {
    for bad in ["", ".", "a..b", "a\0b", "a b", "../x", "é", &"x".repeat(100_000)] {
        let error = refused(|graph| graph.nodes[3].path = bad.to_owned());
        assert!(matches!(error, GraphError::Name { .. }), "{error}");
    }
}

#[test]
fn an_input_from_nowhere_is_refused() {
    let error = refused(|graph| node(graph, "lm_head").inputs[0] = "nowhere".into());
    assert_eq!(
        error.to_string(),
        "graph: node lm_head: input `nowhere` does not exist; expected an input of the graph or an earlier node's output"
    );
}

#[test]
fn a_cycle_is_refused() {
    let error = refused(|graph| {
        node(graph, "model.layers.0.add_attn").inputs[0] = "model.layers.0.add_mlp".into();
    });
    let GraphError::Node { fault, .. } = error else { panic!("{error}") };
    assert!(matches!(*fault, NodeFault::Order { .. }));
}

#[test]
fn nodes_out_of_order_are_refused() {
    let error = refused(|graph| graph.nodes.reverse());
    assert!(matches!(error, GraphError::Node { .. }), "{error}");
}

#[test]
fn a_stated_type_that_the_kind_does_not_give_is_refused() {
    let error = refused(|graph| graph.values["model.norm"].dtype = Dtype::F32);
    assert_eq!(
        error.to_string(),
        "graph: node model.norm: output 0: expected BF16 [batch, seq, 64], which is what rms_norm gives, got F32 [batch, seq, 64]"
    );
}

#[test]
fn a_weight_of_the_wrong_shape_is_refused() {
    let error = refused(|graph| graph.params["model.layers.1.mlp.up_proj.weight"].shape = vec![160, 65]);
    assert!(error.to_string().contains("model.layers.1.mlp.up_proj: linear: x: expected [.., 65]"), "{error}");
}

#[test]
fn an_unknown_kind_is_refused_with_the_known_ones() {
    let error = refused(|graph| node(graph, "model.layers.1.mlp.act_fn").kind = "swigloo".into());
    assert!(
        error.to_string().contains("no host primitive `swigloo`") && error.to_string().contains("swiglu"),
        "{error}"
    );
}

#[test]
fn an_attribute_that_no_kind_reads_is_refused() {
    let error = refused(|graph| {
        node(graph, "model.norm").attrs.insert("epsilon".into(), json!(1e-5));
    });
    assert_eq!(
        error.to_string(),
        "graph: node model.norm: rms_norm has no attribute `epsilon`; it has eps, unit_offset, group"
    );
}

#[test]
fn values_and_params_that_nothing_uses_are_refused() {
    let error = refused(|graph| {
        let value = graph.values["model.norm"].clone();
        graph.values.insert("orphan".into(), value);
    });
    assert!(matches!(error, GraphError::Orphan { .. }), "{error}");
    let error = refused(|graph| {
        graph.params.insert("orphan.weight".into(), Param { dtype: Dtype::F32, shape: vec![1] });
    });
    assert!(matches!(error, GraphError::Unused { .. }), "{error}");
}

#[test]
fn sizes_that_overflow_are_refused() {
    for shape in [vec![u64::MAX], vec![1 << 32, 1 << 32], vec![2; 9], vec![u64::MAX; 100]] {
        let error = refused(|graph| graph.params["model.norm.weight"].shape = shape);
        assert!(matches!(error, GraphError::Type { what: "parameter", .. }), "{error}");
    }
    let error = refused(|graph| {
        graph.values["model.norm"].shape = vec![Dim::symbol("seq"), Dim::Fixed(u64::MAX)];
    });
    assert!(matches!(error, GraphError::Type { what: "value", .. }), "{error}");
}

#[test]
fn a_size_that_no_input_fixes_is_refused() {
    let error = refused(|graph| graph.values["model.norm"].shape[1] = Dim::symbol("kept"));
    assert!(error.to_string().contains("`kept` is fixed by no input"), "{error}");
}

#[test]
fn split_sizes_that_overflow_are_refused() {
    let error = refused(|graph| {
        let gate = node(graph, "model.layers.0.mlp.gate_proj");
        gate.kind = "split".into();
        gate.params.clear();
        gate.attrs = attrs(json!({"sizes": [u64::MAX, 2]}));
    });
    assert!(error.to_string().contains("split: sizes"), "{error}");
}

#[test]
fn cache_slots_and_losses_refer_to_what_is_there() {
    let slot = CacheSlot { at: "model.layers.9".into(), name: "k".into(), dtype: Dtype::F32, shape: vec![] };
    let error = refused(|graph| graph.cache.push(slot.clone()));
    assert!(error.to_string().contains("there is no node or block `model.layers.9`"), "{error}");
    // `model.layers.1` must not pass for being the start of another path.
    let error = refused(|graph| graph.cache.push(CacheSlot { at: "model.layer".into(), ..slot.clone() }));
    assert!(matches!(error, GraphError::Dangling { .. }), "{error}");
    let error = refused(|graph| {
        graph.losses.push(Loss { name: "extra".into(), value: "lm_head".into(), weight: 1.0 });
    });
    assert!(error.to_string().contains("loss extra: expected a floating-point scalar"), "{error}");

    let mut graph = SMALL.graph();
    graph.cache.push(CacheSlot { at: "model.layers.2".into(), ..slot });
    assert_eq!(validate(&graph), Ok(()));
}

#[test]
fn a_claim_to_equal_a_kind_of_another_type_is_refused() {
    let error = refused(|graph| {
        let act = node(graph, "model.layers.1.mlp.act_fn");
        act.kind = "test.swiglu".into();
        act.stands_for = Some("silu".into());
    });
    assert!(error.to_string().contains("stands_for: silu takes 1 input (x), got 2"), "{error}");
}

#[test]
fn a_note_about_an_output_that_is_not_there_is_refused() {
    let error = refused(|graph| {
        let act = node(graph, "model.layers.1.mlp.act_fn");
        act.saves = Some(Saves { rematerializes: vec![1], ..Saves::default() });
    });
    assert!(error.to_string().contains("saves: rematerializes: expected numbers below 1, got 1"), "{error}");
}

#[test]
fn a_hundred_thousand_nodes_under_one_deep_path_are_read_in_one_pass() {
    let mut graph = SMALL.graph();
    let deep = vec!["a"; 50].join(".");
    let mut x = graph.outputs[0].clone();
    for i in 0..100_000 {
        let path = format!("{deep}.{i}");
        graph.values.insert(path.clone(), graph.values[&x].clone());
        graph.nodes.push(Node {
            path: path.clone(),
            kind: "silu".into(),
            inputs: vec![x],
            outputs: vec![path.clone()],
            ..Node::default()
        });
        x = path;
    }
    graph.outputs = vec![x];
    assert_eq!(validate(&graph), Ok(()));
    let region = graph.region(&deep).expect("the region is there");
    assert_eq!((region.nodes.len(), region.inputs.len(), region.outputs.len()), (100_000, 1, 1));
}
