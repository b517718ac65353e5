//! What Delhi makes of each family's graph, and what it says where it makes nothing.

use unswag_delhi::unswag_plugin;
use unswag_sdk::{
    Edit, Graph, OpCall, Patch, SubNode,
    serde_json::{Value, json},
    test::{FAMILIES, PluginTest, sample},
};

fn rewrite(options: Value, graph: &Graph) -> Result<Patch, String> {
    let protocol = PluginTest::new(unswag_plugin()).open("delhi", options).map_err(|error| error.to_string())?;
    protocol.rewrite(graph).map_err(|error| error.to_string())
}

fn new_nodes(patch: &Patch) -> Vec<(&str, &SubNode)> {
    fn replaced(edit: &Edit) -> (&str, &SubNode) {
        match edit {
            Edit::Replace { at, with } => (at, &with.nodes[0]),
            other => panic!("Delhi replaces nodes and does nothing else, got {other:?}"),
        }
    }
    patch.edits.iter().map(replaced).collect()
}

fn refusal(options: Value, family: &str) -> String {
    rewrite(options, &sample(family)).expect_err("there is nothing to do")
}

#[test]
fn every_gated_mlp_is_rewritten_and_stands_for_what_it_was() {
    for family in FAMILIES {
        let graph = sample(family);
        let gated: Vec<_> =
            graph.nodes.iter().filter(|node| ["swiglu", "geglu"].contains(&node.kind.as_str())).collect();
        if gated.is_empty() {
            continue;
        }
        let patch = rewrite(json!({}), &graph).unwrap();
        let nodes = new_nodes(&patch);
        assert_eq!(nodes.len(), gated.len(), "{family}");
        for ((at, new), old) in nodes.into_iter().zip(gated) {
            assert_eq!(at, old.path);
            assert_eq!(new.kind, format!("delhi.{}", old.kind));
            assert_eq!(new.stands_for.as_deref(), Some(old.kind.as_str()));
            assert_eq!(
                new.attrs.get("approximate"),
                old.attrs.get("approximate"),
                "{family}: the form of GELU is kept"
            );
        }
        assert_eq!(patch.lossy, None, "{family}: mode exact loses nothing");
    }
}

#[test]
fn a_lossy_mode_says_what_it_loses() {
    let said = |options, family| rewrite(options, &sample(family)).unwrap().lossy.expect("it is lossy");
    assert_eq!(
        said(json!({"mode": "2bit"}), "llama"),
        "in the backward, 2 gated MLPs see gate and up rounded to 2 bits; the forward is unchanged"
    );
    assert_eq!(
        said(json!({"mode": "3bit"}), "gpt2"),
        "in the backward, 2 activations see their derivative rounded to a code of 3 bits; the forward is unchanged"
    );
}

#[test]
fn a_mode_that_does_not_suit_says_which_do() {
    assert!(refusal(json!({"mode": "1bit"}), "llama").contains("use mode=exact, 8bit, 4bit or 2bit"));
    assert!(refusal(json!({}), "gpt2").contains("use mode=1bit, 2bit, 3bit or 4bit (all are approximate)"));
    assert!(refusal(json!({"mode": "8bit"}), "gpt2").contains("un-gated"));
    assert!(refusal(json!({}), "opt").contains("2 nodes of kind relu; try alpha"));
}

#[test]
fn layers_choose_where_it_operates() {
    let graph = sample("llama");
    let patch = rewrite(json!({"layers": "1"}), &graph).unwrap();
    assert_eq!(new_nodes(&patch).iter().map(|(at, _)| *at).collect::<Vec<_>>(), ["model.layers.1.mlp.act_fn"]);
    assert!(refusal(json!({"layers": "7-9"}), "llama").contains("no SiLU or GELU in these layers"));
    assert!(rewrite(json!({"layers": "3-1"}), &graph).unwrap_err().contains("numbers and ranges like 0-9,20"));
    assert!(rewrite(json!({"layers": ""}), &graph).unwrap_err().contains("numbers and ranges"));
}

#[test]
fn gate_and_up_of_different_shapes_are_refused_by_module() {
    let mut graph = sample("llama");
    let up = graph.node("model.layers.1.mlp.act_fn").unwrap().inputs[1].clone();
    graph.values[&up].shape[2] = 8.into();
    let error = rewrite(json!({}), &graph).unwrap_err();
    assert!(error.contains("model.layers.1.mlp: plugin delhi expects gate and up of one shape"), "{error}");
    assert!(error.contains("8]"), "{error}");
}

#[test]
fn a_calibration_file_is_carried_in_the_node_and_changes_what_is_coded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("histograms.json");
    let narrow = json!({"min": -1.0, "max": 1.0, "counts": [1, 2, 2, 1]});
    let at = |layer: u32| format!("transformer.h.{layer}.mlp.act");
    std::fs::write(&path, json!({at(0): narrow, at(1): narrow}).to_string()).unwrap();
    let options = json!({"mode": "2bit", "calibration": path.to_str().unwrap()});
    let graph = sample("gpt2");
    let patch = rewrite(options.clone(), &graph).unwrap();
    let (_, node) = new_nodes(&patch)[0];
    assert_eq!(node.attrs["histogram"]["counts"], json!([1, 2, 2, 1]));

    std::fs::write(&path, json!({at(0): narrow}).to_string()).unwrap();
    let error = rewrite(options.clone(), &graph).unwrap_err();
    assert!(error.contains("no histogram for transformer.h.1.mlp.act"), "{error}");
    std::fs::write(&path, "[1, 2").unwrap();
    assert!(rewrite(options.clone(), &graph).unwrap_err().contains("histograms.json"));
    std::fs::remove_file(&path).unwrap();
    assert!(rewrite(options.clone(), &graph).unwrap_err().contains("No such file"));
    // A pipe without a writer is not waited for.
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    for path in [path.to_str().unwrap(), "/dev/zero", folder.path().to_str().unwrap()] {
        let error = rewrite(json!({"mode": "2bit", "calibration": path}), &graph).unwrap_err();
        assert!(error.contains("expected a file"), "{path}: {error}");
    }
}

#[test]
fn saved_bytes_are_what_the_mode_promises() {
    // SmolLM2-135M: 1536 columns of gate and of up in bf16. Two bf16 numbers (least, step) for each group of 64.
    let plan = |mode: &str| {
        let protocol = PluginTest::new(unswag_plugin()).open("delhi", json!({})).unwrap();
        let meta = unswag_sdk::Meta { dtype: unswag_sdk::Dtype::Bf16, shape: vec![1, 2048, 1536] };
        let attrs = [("mode".to_owned(), json!(mode))].into_iter().collect();
        let call = OpCall { kind: "delhi.swiglu".into(), inputs: vec![meta.clone(), meta], attrs };
        protocol.op("delhi.swiglu").unwrap().plan(&call).unwrap()
    };
    let bytes_per_token = |mode| plan(mode).saved.iter().map(|meta| meta.bytes().unwrap()).sum::<u64>() / 2048;
    let params = 2 * (1536 / 64) * 4;
    assert_eq!(bytes_per_token("8bit"), 2 * 1536 + params);
    assert_eq!(bytes_per_token("4bit"), 1536 + params);
    assert_eq!(bytes_per_token("2bit"), 1536 / 2 + params);
    let exact = plan("exact");
    assert!(exact.saved.is_empty());
    assert_eq!((exact.saves_inputs, exact.rematerializes_exactly), (vec![0, 1], true));
}
