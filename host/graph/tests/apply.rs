//! Valid patches, and what they make of a graph.

mod common;

use common::{Builder, SMALL, TestOps, attrs, latent_attention, names, patch, swiglu_patch};
use serde_json::json;
use unswag_abi::doc::*;
use unswag_graph::{NoOps, apply, diff, validate};

#[test]
fn a_patch_without_edits_gives_the_same_graph() {
    let graph = SMALL.graph();
    let applied = apply(&graph, &patch(json!([])), &NoOps).expect("an empty patch is valid");
    assert_eq!(applied.graph, graph);
    assert!(applied.new_params.is_empty() && applied.dropped.is_empty() && applied.transforms.is_empty());
}

#[test]
fn one_node_becomes_another_at_the_same_place() {
    let graph = SMALL.graph();
    let applied = apply(&graph, &swiglu_patch(&graph, "exact"), &TestOps).expect("a valid patch");
    let paths = |graph: &Graph| graph.nodes.iter().map(|node| node.path.clone()).collect::<Vec<_>>();
    assert_eq!(paths(&applied.graph), paths(&graph), "nothing moved");
    let node = applied.graph.node("model.layers.2.mlp.act_fn").expect("the node is there");
    assert_eq!(node.kind, "test.swiglu");
    assert_eq!(node.inputs, names(&["model.layers.2.mlp.gate_proj", "model.layers.2.mlp.up_proj"]));
    assert_eq!(
        node.saves,
        Some(Saves {
            own_bytes_per_token: 0.0,
            inputs: vec![0, 1],
            outputs: vec![],
            rematerializes: vec![0],
            rematerializes_exactly: true
        })
    );
}

#[test]
fn the_callers_graph_stays_as_it_was() {
    let graph = SMALL.graph();
    let copy = graph.clone();
    apply(&graph, &swiglu_patch(&graph, "exact"), &TestOps).expect("a valid patch");
    assert_eq!(graph, copy);
}

#[test]
fn an_attention_block_becomes_a_composite_with_every_kind_of_edit() {
    let graph = SMALL.graph();
    let mut edits = latent_attention(1);
    let more = json!({"attr": {"at": "model.norm", "name": "eps", "value": 1e-6}});
    edits.as_array_mut().expect("a list").push(more);
    let applied = apply(&graph, &patch(edits), &NoOps).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(validate(&applied.graph), Ok(()));
    let at = "model.layers.1.self_attn";
    let block = applied.graph.region(at).expect("the block is there");
    assert_eq!(block.inputs, names(&["model.layers.1.input_layernorm", "model.rotary_emb", "model.rotary_emb:1"]));
    assert_eq!(block.outputs, names(&[&format!("{at}.o_proj"), &format!("{at}.closeness")]), "the loss uses one too");
    assert_eq!(applied.dropped, names(&[&format!("{at}.k_proj.weight"), &format!("{at}.v_proj.weight")]));
    let made: Vec<&str> = applied.new_params.iter().map(|param| param.name.as_str()).collect();
    assert_eq!(made.len(), 3);
    assert_eq!(made[2], format!("{at}.sinks"));
    assert_eq!(applied.transforms.len(), 1);
    assert_eq!(applied.transforms[0].outputs, names(&[&format!("{at}.sinks")]));
    assert_eq!(applied.graph.cache.len(), 1);
    assert_eq!(applied.graph.losses[0].value, format!("{at}.closeness"));
    assert_eq!(applied.graph.node("model.norm").expect("there").attrs["eps"], json!(1e-6));
    let before = graph.nodes.iter().position(|node| node.path == "model.layers.1.add_attn");
    let after = applied.graph.nodes.iter().position(|node| node.path == "model.layers.1.add_attn");
    assert_eq!(after, before.map(|at| at + 2), "eight nodes stand where six stood");
    let first = apply(&graph, &patch(latent_attention(0)), &NoOps).expect("a valid patch");
    let second = apply(&first.graph, &swiglu_patch(&first.graph, "code2"), &TestOps).expect("a valid patch");
    assert_eq!(second.graph.nodes.iter().filter(|node| node.kind == "test.swiglu").count(), 3);
}

#[test]
fn later_edits_see_what_earlier_ones_left() {
    let composite = json!({"replace": {"at": "model.layers.0.mlp.act_fn", "with": {
        "inputs": ["g", "u"], "outputs": ["h"],
        "nodes": [
            {"name": "silu", "kind": "silu", "inputs": ["g"], "outputs": ["s"]},
            {"name": "mul", "kind": "mul", "inputs": ["s", "u"], "outputs": ["h"]},
        ],
    }}});
    let inner = json!({"replace": {"at": "model.layers.0.mlp.act_fn.silu", "with": {
        "inputs": ["g"], "outputs": ["r"],
        "nodes": [{"kind": "relu", "inputs": ["g"], "outputs": ["r"]}],
    }}});
    let applied = apply(&SMALL.graph(), &patch(json!([composite, inner])), &NoOps).expect("a valid patch");
    let node = |path: &str| applied.graph.node(path).map(|node| (node.kind.as_str(), node.inputs.clone()));
    assert_eq!(node("model.layers.0.mlp.act_fn.silu"), Some(("relu", names(&["model.layers.0.mlp.gate_proj"]))));
    assert_eq!(
        node("model.layers.0.mlp.act_fn.mul"),
        Some(("mul", names(&["model.layers.0.mlp.act_fn.silu", "model.layers.0.mlp.up_proj"])))
    );
    let down = node("model.layers.0.mlp.down_proj").expect("there");
    assert_eq!(down.1, names(&["model.layers.0.mlp.act_fn.mul"]));
}

#[test]
fn an_input_may_take_the_place_of_an_output() {
    let skip = json!([{"replace": {"at": "model.layers.1.post_attention_layernorm", "with": {
        "inputs": ["x"], "outputs": ["x"], "nodes": [],
    }}}, {"drop": {"param": "model.layers.1.post_attention_layernorm.weight"}}]);
    let applied = apply(&SMALL.graph(), &patch(skip), &NoOps).expect("a valid patch");
    let gate = applied.graph.node("model.layers.1.mlp.gate_proj").expect("there");
    assert_eq!(gate.inputs, names(&["model.layers.1.add_attn"]));
    assert_eq!(applied.dropped, names(&["model.layers.1.post_attention_layernorm.weight"]));
}

#[test]
fn two_outputs_may_change_places() {
    // rope gives q and k; where they have one shape a subgraph may give them the other way round.
    let mut b = Builder::new();
    let weight: &[u64] = &[10, 8];
    let x = b.node("embed", "embedding", &["input_ids"], &[("weight", weight)], Attrs::new()).remove(0);
    let halves = b.node("cut", "split", &[&x], &[], attrs(json!({"sizes": [4, 4]})));
    let minus = b.node("minus", "sub", &[&halves[0], &halves[1]], &[], Attrs::new()).remove(0);
    b.graph.outputs = vec![minus, halves[1].clone()];
    let swap = json!([{"replace": {"at": "cut", "with": {
        "inputs": ["x"], "outputs": ["b", "a"],
        "nodes": [{"kind": "split", "inputs": ["x"], "outputs": ["a", "b"], "attrs": {"sizes": [4, 4]}}],
    }}}]);
    let applied = apply(&b.graph, &patch(swap), &NoOps).expect("a valid patch");
    assert_eq!(applied.graph.node("minus").expect("there").inputs, names(&["cut:1", "cut"]));
    assert_eq!(applied.graph.outputs, names(&["minus", "cut"]), "the model's own outputs follow");
}

#[test]
fn nodes_move_only_as_far_as_they_must() {
    // a = silu(x); b = relu(x); c = a + b. The new `a` reads b, so it must come after it.
    let mut b = Builder::new();
    let weight: &[u64] = &[10, 8];
    let none = Attrs::new;
    let x = b.node("embed", "embedding", &["input_ids"], &[("weight", weight)], none()).remove(0);
    let first = b.node("pair.a", "silu", &[&x], &[], none()).remove(0);
    let second = b.node("b", "relu", &[&x], &[], none()).remove(0);
    let third = b.node("pair.c", "add", &[&first, &second], &[], none()).remove(0);
    b.graph.outputs = vec![third];
    let edit = json!([{"replace": {"at": "pair", "with": {
        "inputs": ["x", "b"], "outputs": ["c"],
        "nodes": [
            {"name": "a", "kind": "mul", "inputs": ["x", "b"], "outputs": ["a"]},
            {"name": "c", "kind": "silu", "inputs": ["a"], "outputs": ["c"]},
        ],
    }}}]);
    let applied = apply(&b.graph, &patch(edit), &NoOps).expect("a valid patch");
    let paths: Vec<&str> = applied.graph.nodes.iter().map(|node| node.path.as_str()).collect();
    assert_eq!(paths, ["embed", "b", "pair.a", "pair.c"]);
}

#[test]
fn many_edits_in_one_place_keep_the_order() {
    // Each round puts three nodes where the last one stood, which uses up the room between neighbours.
    let mut edits = Vec::new();
    let mut at = "model.layers.0.mlp.act_fn".to_owned();
    for round in 0..40 {
        let inputs = if round == 0 { json!(["g", "u"]) } else { json!(["g"]) };
        edits.push(json!({"replace": {"at": at, "with": {
            "inputs": inputs, "outputs": ["c"],
            "nodes": [
                {"name": "a", "kind": "silu", "inputs": ["g"], "outputs": ["a"]},
                {"name": "b", "kind": "relu", "inputs": ["a"], "outputs": ["b"]},
                {"name": "c", "kind": "tanh", "inputs": ["b"], "outputs": ["c"]},
            ],
        }}}));
        at.push_str(".c");
    }
    let applied = apply(&SMALL.graph(), &patch(json!(edits)), &NoOps).expect("a valid patch");
    let block = applied.graph.region("model.layers.0.mlp.act_fn").expect("there");
    assert_eq!(block.nodes.len(), 81);
    assert_eq!(block.nodes[80] - block.nodes[0], 80, "they stand together");
}

#[test]
fn a_parameter_may_be_made_anew_with_its_user() {
    let name = "model.layers.0.mlp.gate_proj.weight";
    let init = json!({"expr": {"scale": {"of": {"tensor": name}, "by": 0.5}}});
    let edit = json!([{"param": {"name": name, "dtype": "F32", "shape": [160, 64], "init": init}}]);
    let applied = apply(&SMALL.graph(), &patch(edit), &NoOps).expect("a valid patch");
    assert_eq!(applied.graph.params[name].dtype, Dtype::F32);
    assert_eq!((applied.new_params.len(), applied.dropped.len()), (1, 0));
}

#[test]
fn null_takes_an_attribute_away() {
    let edit = json!([{"attr": {"at": "model.rotary_emb", "name": "rope_type", "value": "default"}},
                      {"attr": {"at": "model.rotary_emb", "name": "rope_type", "value": null}}]);
    let graph = SMALL.graph();
    let applied = apply(&graph, &patch(edit), &NoOps).expect("a valid patch");
    assert_eq!(applied.graph, graph);
}

#[test]
fn an_ops_weights_come_last_in_its_plan_and_cost_nothing_to_keep() {
    let edit = json!([
        {"param": {"name": "scale.weight", "dtype": "F32", "shape": [1], "init": {"expr": {"full": {"shape": [1], "value": 1.0}}}}},
        {"replace": {"at": "model.norm", "with": {
            "inputs": ["x"], "outputs": ["y"],
            "nodes": [{"kind": "test.scale", "inputs": ["x"], "outputs": ["y"], "params": {"weight": "scale.weight"},
                       "values": [{"dtype": "BF16", "shape": ["batch", "seq", 64]}]}],
        }}},
        {"drop": {"param": "model.norm.weight"}},
    ]);
    let applied = apply(&SMALL.graph(), &patch(edit), &TestOps).expect("a valid patch");
    assert_eq!(applied.graph.node("model.norm").expect("there").saved_bytes_per_token, Some(128.0));
}

#[test]
fn undoing_by_hand_gives_the_graph_back() {
    let graph = SMALL.graph();
    let operated = apply(&graph, &swiglu_patch(&graph, "exact"), &TestOps).expect("a valid patch").graph;
    let mut back = swiglu_patch(&graph, "exact");
    for edit in &mut back.edits {
        let Edit::Replace { with, .. } = edit else { panic!("only replaces") };
        let node = &mut with.nodes[0];
        (node.kind, node.stands_for) = ("swiglu".into(), None);
        node.attrs.clear();
        node.values.clear();
    }
    let restored = apply(&operated, &back, &NoOps).expect("a valid patch").graph;
    assert!(diff(&graph, &restored).is_empty());
    assert_eq!(restored, graph);
}
