//! Every way in which a patch can be wrong gives an error that names the place, and changes nothing.

mod common;

use common::{SMALL, TestOps, patch};
use serde_json::{Value as Json, json};
use unswag_abi::doc::*;
use unswag_graph::{Place, apply};

/// The message, which must name the edit (counted from 1), as long as a person reads it.
fn refused_at(number: usize, edits: Json) -> String {
    let error = apply(&SMALL.graph(), &patch(edits), &TestOps).expect_err("the patch is wrong");
    assert!(matches!(&error.place, Place::Edit { number: at, .. } if *at == number), "expected edit {number}: {error}");
    let text = error.to_string();
    assert!(text.len() < 700, "{text}");
    text
}

fn refused(edit: Json) -> String {
    refused_at(1, json!([edit]))
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "expected {part:?} in: {text}");
    }
}

const ACT: &str = "model.layers.1.mlp.act_fn";

/// Replaces the activation of layer 1 by this subgraph.
fn with(inputs: &[&str], outputs: &[&str], nodes: Json) -> Json {
    json!({"replace": {"at": ACT, "with": {"inputs": inputs, "outputs": outputs, "nodes": nodes}}})
}

fn one(node: Json) -> Json {
    with(&["g", "u"], &["h"], json!([node]))
}

fn param(name: &str, shape: Json, init: Json) -> Json {
    json!({"param": {"name": name, "dtype": "BF16", "shape": shape, "init": init}})
}

fn ones(shape: Json) -> Json {
    json!({"expr": {"full": {"shape": shape, "value": 1.0}}})
}

#[test]
fn a_document_of_another_version() {
    let mut other = patch(json!([]));
    other.version = 2;
    let error = apply(&SMALL.graph(), &other, &TestOps).expect_err("version 2 is unknown");
    assert_eq!(
        error.to_string(),
        "patch: version: expected 1, got 2; the plugin was built for another version of unswag"
    );
}

#[test]
fn a_feature_that_this_host_lacks() {
    let mut other = patch(json!([]));
    other.requires = vec!["patch/1".into(), "expr.eigh/1".into()];
    let error = apply(&SMALL.graph(), &other, &TestOps).expect_err("expr.eigh/1 is unknown");
    contains(&error.to_string(), &["requires `expr.eigh/1`", "it has patch/1, expr/1, expr.svd/1"]);
}

#[test]
fn a_graph_that_is_wrong_already() {
    let mut graph = SMALL.graph();
    graph.nodes.swap(3, 9);
    let error = apply(&graph, &patch(json!([])), &TestOps).expect_err("the graph is wrong");
    contains(&error.to_string(), &["patch: the graph to be patched is not well formed: graph: node"]);
}

#[test]
fn a_place_that_does_not_exist() {
    let text = refused(
        json!({"replace": {"at": "model.layers.9.mlp.act_fn", "with": {"inputs": [], "outputs": [], "nodes": []}}}),
    );
    contains(
        &text,
        &["patch: edit 1 (replace model.layers.9.mlp.act_fn): there is no node or block `model.layers.9.mlp.act_fn`"],
    );
    refused(json!({"replace": {"at": "", "with": {"inputs": [], "outputs": [], "nodes": []}}}));
    refused(json!({"replace": {"at": "model.", "with": {"inputs": [], "outputs": [], "nodes": []}}}));
    let text = refused(json!({"attr": {"at": "model.layers.1.mlp", "name": "a", "value": 1}}));
    contains(&text, &["it is a block of several nodes, expected one node"]);
    let text = refused(json!({"attr": {"at": "model.layers.1.mlp.act", "name": "a", "value": 1}}));
    contains(&text, &["near it is model.layers.1.mlp."]);
}

#[test]
fn the_number_of_the_edit_is_the_users() {
    let good = json!({"attr": {"at": "model.norm", "name": "eps", "value": 1e-6}});
    let bad = json!({"drop": {"param": "nothing"}});
    let text = refused_at(3, json!([good, good, bad]));
    contains(&text, &["patch: edit 3 (drop nothing): there is no parameter `nothing`"]);
}

#[test]
fn inputs_and_outputs_that_do_not_bind() {
    let node = json!([{"kind": "silu", "inputs": ["g"], "outputs": ["h"]}]);
    let text = refused(with(&["g"], &["h"], node.clone()));
    contains(&text, &["inputs: expected 2 names", "model.layers.1.mlp.gate_proj, model.layers.1.mlp.up_proj", "got 1"]);
    let text = refused(with(&["g", "u"], &["h", "h"], node.clone()));
    contains(&text, &["outputs: expected 1 names", "got 2"]);
    contains(&refused(with(&["g", "g"], &["h"], node.clone())), &["input of the subgraph `g` stands twice"]);
    contains(&refused(with(&["g", "u"], &["z"], node)), &["there is no value of the subgraph `z`"]);
}

#[test]
fn a_subgraph_that_uses_what_is_not_there() {
    let text = refused(one(json!({"kind": "swiglu", "inputs": ["g", "w"], "outputs": ["h"]})));
    contains(&text, &["node model.layers.1.mlp.act_fn: input `w` is neither"]);
    // The outside names of values are not the subgraph's.
    refused(one(json!({"kind": "swiglu", "inputs": ["g", "model.layers.1.mlp.up_proj"], "outputs": ["h"]})));
    let text =
        refused(one(json!({"kind": "linear", "inputs": ["g"], "outputs": ["h"], "params": {"weight": "no.weight"}})));
    contains(&text, &["parameter `no.weight` (role weight) does not exist"]);
}

#[test]
fn a_subgraph_that_waits_for_itself() {
    let text = refused(one(json!({"kind": "swiglu", "inputs": ["g", "h"], "outputs": ["h"]})));
    contains(&text, &["input `h`", "a later node (or itself) makes it"]);
    let nodes = json!([
        {"name": "a", "kind": "add", "inputs": ["g", "b"], "outputs": ["a"]},
        {"name": "b", "kind": "add", "inputs": ["a", "u"], "outputs": ["b"]},
    ]);
    contains(&refused(with(&["g", "u"], &["b"], nodes)), &["node model.layers.1.mlp.act_fn.a: input `b`"]);
}

#[test]
fn a_cycle_through_the_rest_of_the_model() {
    // The block's inputs hold what its first node feeds: q_proj's replacement would read rope's q.
    let mut graph = SMALL.graph();
    for node in &mut graph.nodes {
        if node.path == "model.layers.1.self_attn.rope" {
            node.path = "model.layers.1.turn".into();
            node.outputs = common::names(&["model.layers.1.turn", "model.layers.1.turn:1"]);
        }
        for input in &mut node.inputs {
            *input = input.replace("layers.1.self_attn.rope", "layers.1.turn");
        }
    }
    graph.values = std::mem::take(&mut graph.values)
        .into_iter()
        .map(|(name, value)| (name.replace("layers.1.self_attn.rope", "layers.1.turn"), value))
        .collect();
    let region = graph.region("model.layers.1.self_attn").expect("there");
    assert_eq!(region.inputs.len(), 3);
    let edits = json!([{"replace": {"at": "model.layers.1.self_attn", "with": {
        "inputs": ["x", "q", "k"], "outputs": ["q1", "k1", "y"],
        "nodes": [
            {"name": "q", "kind": "silu", "inputs": ["q"], "outputs": ["q1"]},
            {"name": "k", "kind": "silu", "inputs": ["k"], "outputs": ["k1"]},
            {"name": "o", "kind": "silu", "inputs": ["q"], "outputs": ["y"]},
        ],
    }}}]);
    let error = apply(&graph, &patch(edits), &TestOps).expect_err("a cycle");
    contains(&error.to_string(), &["edit 1 (replace model.layers.1.self_attn)", "would wait for each other"]);
}

#[test]
fn types_that_the_rest_of_the_model_does_not_expect() {
    let text = refused(with(
        &["g", "u"],
        &["h"],
        json!([
            {"kind": "slice", "inputs": ["g"], "outputs": ["h"], "attrs": {"start": 0, "end": 159}},
        ]),
    ));
    contains(
        &text,
        &[
            "output 0 takes the place of `model.layers.1.mlp.act_fn`",
            "expected BF16 [batch, seq, 160]",
            "got BF16 [batch, seq, 159]",
        ],
    );
    let text =
        refused(one(json!({"kind": "test.swiglu", "inputs": ["g", "u"], "outputs": ["h"], "attrs": {"mode": "exact"},
        "values": [{"dtype": "F32", "shape": ["batch", "seq", 160]}]})));
    contains(
        &text,
        &[
            "outputs for batch 1, seq 2048: expected 1 tensors: F32 [1, 2048, 160], as the patch states",
            "got 1 tensors: BF16 [1, 2048, 160]",
        ],
    );
}

#[test]
fn a_primitive_that_states_what_it_does_not_give() {
    let text = refused(one(json!({"kind": "swiglu", "inputs": ["g", "u"], "outputs": ["h"],
        "values": [{"dtype": "BF16", "shape": ["batch", "seq", 161]}]})));
    contains(&text, &["output 0: expected BF16 [batch, seq, 160], which is what swiglu gives"]);
    let text = refused(one(json!({"kind": "split", "inputs": ["g"], "outputs": ["h"], "attrs": {"sizes": [80, 80]}})));
    contains(&text, &["outputs: expected 2 for this split, got 1"]);
}

#[test]
fn kinds_and_attributes_that_are_not_known() {
    contains(
        &refused(one(json!({"kind": "swish", "inputs": ["g"], "outputs": ["h"]}))),
        &["no host primitive `swish`"],
    );
    let text = refused(one(
        json!({"kind": "geglu", "inputs": ["g", "u"], "outputs": ["h"], "attrs": {"approximate": "fast"}}),
    ));
    contains(&text, &["geglu: attribute `approximate`: expected one of none, tanh, got \"fast\""]);
    let text = refused(one(json!({"kind": "silu", "inputs": ["g", "u"], "outputs": ["h"]})));
    contains(&text, &["silu takes 1 input (x), got 2"]);
    contains(
        &refused(json!({"attr": {"at": "model.norm", "name": "epsilon", "value": 1}})),
        &["no attribute `epsilon`"],
    );
    contains(
        &refused(json!({"attr": {"at": "model.norm", "name": "eps", "value": -1}})),
        &["expected a finite number above 0"],
    );
    contains(
        &refused(json!({"attr": {"at": "model.norm", "name": "eps", "value": null}})),
        &["needs the attribute `eps`"],
    );
}

#[test]
fn an_attribute_that_changes_what_a_node_gives() {
    let text = refused(json!({"attr": {"at": "model.rotary_emb", "name": "dim", "value": 8}}));
    contains(&text, &["output 0: expected BF16 [batch, seq, 8]", "got BF16 [batch, seq, 16]"]);
}

#[test]
fn ops_whose_plan_is_not_to_be_believed() {
    let op = |kind: &str| {
        one(json!({"kind": kind, "inputs": ["g", "u"], "outputs": ["h"], "attrs": {"mode": "exact"},
            "values": [{"dtype": "BF16", "shape": ["batch", "seq", 160]}]}))
    };
    contains(
        &refused(op("test.nothing")),
        &["refuses to plan its op test.nothing: this plugin has no op test.nothing"],
    );
    contains(&refused(op("test.forgets_seq")), &["outputs for batch 3, seq 37: expected 1 tensors: BF16 [3, 37, 160]"]);
    contains(&refused(op("test.saves_what_is_not")), &["saves_inputs", "expected numbers below 2, got 7"]);
    contains(&refused(op("test.saves_too_much")), &["saved for batch 1, seq 2048: expected sizes that fit"]);
    contains(&refused(op("test.changes_its_mind")), &["rematerializes: expected the same as for other sizes"]);
}

#[test]
fn an_op_without_types() {
    let text = refused(one(
        json!({"kind": "test.swiglu", "inputs": ["g", "u"], "outputs": ["h"], "attrs": {"mode": "exact"}}),
    ));
    contains(&text, &["expected one type in `values` for each of the 1 outputs, got 0"]);
    let text =
        refused(one(json!({"kind": "test.swiglu", "inputs": ["g", "u"], "outputs": ["h"], "attrs": {"mode": "exact"},
        "values": [{"dtype": "BF16", "shape": ["batch", "kept", 160]}]})));
    contains(&text, &["the size `kept` is fixed by no input of the graph"]);
}

#[test]
fn a_claim_to_equal_what_it_cannot_equal() {
    let op = |stands_for: &str| {
        one(json!({"kind": "test.swiglu", "inputs": ["g", "u"], "outputs": ["h"], "attrs": {"mode": "exact"},
            "stands_for": stands_for, "values": [{"dtype": "BF16", "shape": ["batch", "seq", 160]}]}))
    };
    contains(&refused(op("swigloo")), &["stands_for: there is no host primitive `swigloo`"]);
    contains(&refused(op("silu")), &["stands_for: silu takes 1 input (x), got 2"]);
    contains(&refused(op("concat")), &["stands_for: output 0: expected BF16 [batch, seq, 320]"]);
    let text = refused(one(json!({"kind": "swiglu", "inputs": ["g", "u"], "outputs": ["h"], "stands_for": "swiglu"})));
    contains(&text, &["swiglu is a host primitive already"]);
}

#[test]
fn names_that_are_taken_or_hostile() {
    let silu = |name: &str, input: &str, output: &str| json!({"name": name, "kind": "silu", "inputs": [input], "outputs": [output]});
    let text = refused(with(&["g", "u"], &["h"], json!([silu("a", "g", "s"), silu("a", "s", "h")])));
    contains(&text, &["node `model.layers.1.mlp.act_fn.a` stands twice"]);
    let text = refused(with(&["g", "u"], &["h"], json!([silu("a", "g", "h"), silu("b", "g", "h")])));
    contains(&text, &["value of the subgraph `h` stands twice"]);
    contains(
        &refused(with(&["g", "u"], &["g"], json!([silu("a", "u", "g")]))),
        &["value of the subgraph `g` stands twice"],
    );
    for bad in ["a:1", "a/b", "..", "a b", "\u{1b}[2J", "é"] {
        let text = refused(with(&["g", "u"], &["h"], json!([silu(bad, "g", "h")])));
        assert!(!text.contains('\u{1b}'), "what is quoted is escaped: {text:?}");
    }
    let text = refused(with(&["g", "u"], &["h"], json!([silu(&"x".repeat(100_000), "g", "h")])));
    contains(&text, &["expected at most 512 bytes"]);
    // A path outside the region, reached through the name.
    let graph_path = json!({"replace": {"at": "model.layers.1.mlp.gate_proj", "with": {"inputs": ["x"], "outputs": ["y"],
        "nodes": [{"name": "", "kind": "silu", "inputs": ["x"], "outputs": ["y"]}]}}});
    contains(&refused(graph_path), &["expected BF16 [batch, seq, 160], got BF16 [batch, seq, 64]"]);
}

#[test]
fn a_parameter_that_its_expression_does_not_make() {
    let text = refused(param("w", json!([4]), ones(json!([5]))));
    contains(&text, &["init: expected shape [4], as the edit states, got [5]"]);
    let text = refused(param("w", json!([64]), json!({"expr": {"tensor": "nothing"}})));
    contains(&text, &["init: tensor: expected a tensor of the checkpoint as it was before the patch, got `nothing`"]);
    let svd = json!({"svd": {"of": {"tensor": "model.layers.0.self_attn.k_proj.weight"}, "rank": 33, "part": "u"}});
    contains(
        &refused(param("w", json!([32, 33]), json!({"expr": svd}))),
        &["expected a rank of 1 to 32, the smaller side of [32, 64], got 33"],
    );
    let endless = json!({"expr": {"full": {"shape": [4294967296u64, 4294967296u64], "value": 0.0}}});
    contains(&refused(param("w", json!([4]), endless)), &["elements in at most 8 dimensions"]);
    let text = refused(json!({"param": {"name": "w", "dtype": "U8", "shape": [1], "init": ones(json!([1]))}}));
    contains(&text, &["expected one of F64, F32, F16, BF16, got U8"]);
}

#[test]
fn a_parameter_of_absurd_name_or_size() {
    for name in ["", "a/../b", "a\0", "a b"] {
        refused(param(name, json!([1]), ones(json!([1]))));
    }
    for shape in
        [json!([0]), json!([u64::MAX]), json!([1, 1, 1, 1, 1, 1, 1, 1, 1]), json!([4294967296u64, 4294967296u64])]
    {
        refused(param("w", shape.clone(), ones(shape)));
    }
    let twice = param("w", json!([1]), ones(json!([1])));
    contains(&refused_at(2, json!([twice, twice])), &["parameter `w` stands twice"]);
}

#[test]
fn an_expression_reads_the_checkpoint_and_not_the_patch() {
    let first = param("w", json!([1]), ones(json!([1])));
    let second = param("v", json!([1]), json!({"expr": {"tensor": "w"}}));
    contains(&refused_at(2, json!([first, second])), &["before the patch, got `w`"]);
}

#[test]
fn a_parameter_that_nothing_uses() {
    let text = refused(param("w", json!([1]), ones(json!([1]))));
    contains(&text, &["edit 1 (param w): parameter `w` would be used by no node"]);
    // A replaced block leaves its weights behind, unless they are dropped.
    let text = refused(
        json!({"replace": {"at": "model.layers.1.input_layernorm", "with": {"inputs": ["x"], "outputs": ["x"], "nodes": []}}}),
    );
    contains(
        &text,
        &["parameter `model.layers.1.input_layernorm.weight` would be used by no node; use it, or drop it"],
    );
}

#[test]
fn a_parameter_dropped_while_in_use() {
    let text = refused(json!({"drop": {"param": "model.layers.1.mlp.up_proj.weight"}}));
    contains(&text, &["is used by node model.layers.1.mlp.up_proj"]);
    // Tied: the head still needs what the embedding gave up.
    let text = refused(json!({"drop": {"param": "model.embed_tokens.weight"}}));
    contains(&text, &["is used by node model.embed_tokens"]);
}

#[test]
fn a_parameter_made_anew_that_its_user_cannot_take() {
    let text = refused(param("model.layers.0.mlp.up_proj.weight", json!([160, 63]), ones(json!([160, 63]))));
    contains(&text, &["edit 1 (param model.layers.0.mlp.up_proj.weight): node model.layers.0.mlp.up_proj: linear: x"]);
}

#[test]
fn transform_jobs_that_disagree() {
    let make = |name: &str, job: &str, inputs: Json, output: usize, attrs: Json| {
        param(name, json!([1]), json!({"transform": {"job": job, "inputs": inputs, "output": output, "attrs": attrs}}))
    };
    // Each is used, so that the job is what is wrong.
    let used = |names: &[&str]| {
        let nodes: Vec<Json> = names
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let (input, output) = (if i == 0 { "x".to_owned() } else { format!("v{i}") }, format!("v{}", i + 1));
                json!({"name": format!("n{i}"), "kind": "test.scale", "inputs": [input], "outputs": [output],
                    "params": {"weight": name}, "values": [{"dtype": "BF16", "shape": ["batch", "seq", 64]}]})
            })
            .collect();
        json!([{"replace": {"at": "model.norm", "with": {"inputs": ["x"], "outputs": [format!("v{}", names.len())], "nodes": nodes}}},
               {"drop": {"param": "model.norm.weight"}}])
    };
    let with_users = |params: Vec<Json>, names: &[&str]| {
        let mut edits = params;
        edits.extend(used(names).as_array().expect("a list").iter().cloned());
        json!(edits)
    };
    let q = "model.layers.0.self_attn.q_proj.weight";
    let good = |name: &str, output| make(name, "j", json!([q]), output, json!({}));
    apply(&SMALL.graph(), &patch(with_users(vec![good("a", 1), good("b", 0)], &["a", "b"])), &TestOps)
        .expect("a valid patch");

    let text = refused_at(2, with_users(vec![good("a", 0), make("b", "j", json!([]), 1, json!({}))], &["a", "b"]));
    contains(&text, &["transform job `j`: inputs: expected the same as edit 1 gives"]);
    let text =
        refused_at(2, with_users(vec![good("a", 0), make("b", "j", json!([q]), 1, json!({"x": 1}))], &["a", "b"]));
    contains(&text, &["transform job `j`: attrs"]);
    let text = refused_at(2, with_users(vec![good("a", 0), good("b", 0)], &["a", "b"]));
    contains(&text, &["output 0: expected one parameter, got a and b"]);
    let text = refused_at(1, with_users(vec![good("a", 0), good("b", usize::MAX)], &["a", "b"]));
    contains(&text, &["output 1 goes to no parameter"]);
    contains(
        &refused(make("a", "j", json!(["nothing"]), 0, json!({}))),
        &["input `nothing`: expected a tensor of the checkpoint"],
    );
    refused(make("a", "", json!([q]), 0, json!({})));
}

#[test]
fn cache_slots_in_the_wrong_place() {
    let cache = |at: &str, slot_at: &str, shape: Json| json!({"cache": {"at": at, "slots": [{"at": slot_at, "name": "k", "dtype": "BF16", "shape": shape}]}});
    contains(
        &refused(cache("model.layers.7", "model.layers.7", json!([1]))),
        &["there is no node or block `model.layers.7`"],
    );
    contains(
        &refused(cache("model.layers.1", "model.layers.0", json!([1]))),
        &["expected model.layers.1, or a node under it, got model.layers.0"],
    );
    contains(&refused(cache("model.layers.1", "model.layers.1", json!(["kept"]))), &["`kept` is fixed by no input"]);
    contains(&refused(cache("model.layers.1", "model.layers.1", json!([u64::MAX, 2]))), &["expected a size that fits"]);
    let good = cache("model.layers.1", "model.layers.1.self_attn", json!(["batch", "seq", 8]));
    contains(&refused_at(2, json!([good, good])), &["cache slot `model.layers.1.self_attn/k` stands twice"]);
}

#[test]
fn a_cache_slot_whose_owner_goes() {
    let slot = json!({"cache": {"at": "model.layers.1.mlp.act_fn", "slots":
        [{"at": "model.layers.1.mlp.act_fn", "name": "k", "dtype": "BF16", "shape": [1]}]}});
    let gone = with(&["g", "u"], &["g"], json!([]));
    let error = apply(&SMALL.graph(), &patch(json!([slot, gone])), &TestOps).expect_err("the owner is gone");
    contains(&error.to_string(), &["cache slot model.layers.1.mlp.act_fn/k: there is no node or block"]);
}

#[test]
fn losses_that_are_not_one_finite_number() {
    let loss = |name: &str, value: &str, weight: f64| {
        let edit = Edit::Loss { name: name.into(), value: value.into(), weight };
        Patch { version: 1, edits: vec![edit], ..Patch::default() }
    };
    let refused = |patch: Patch| apply(&SMALL.graph(), &patch, &TestOps).expect_err("the loss is wrong").to_string();
    contains(
        &refused(loss("l", "lm_head", 1.0)),
        &["edit 1 (loss l): loss: expected a floating-point scalar, shape []"],
    );
    contains(&refused(loss("l", "nothing", 1.0)), &["there is no value `nothing`"]);

    let scalar = with(
        &["g", "u"],
        &["h"],
        json!([
            {"name": "h", "kind": "swiglu", "inputs": ["g", "u"], "outputs": ["h"]},
            {"name": "l", "kind": "mean", "inputs": ["h"], "outputs": ["l"]},
        ]),
    );
    for weight in [f64::NAN, f64::INFINITY] {
        let mut wrong = patch(json!([scalar]));
        wrong.edits.extend(loss("l", "model.layers.1.mlp.act_fn.l", weight).edits);
        contains(&refused(wrong), &["edit 2 (loss l)", "a finite weight"]);
    }
    let good = json!({"loss": {"name": "l", "value": "model.layers.1.mlp.act_fn.l", "weight": 1.0}});
    contains(&refused(patch(json!([scalar, good, good]))), &["edit 3 (loss l): loss `l` stands twice"]);
}
