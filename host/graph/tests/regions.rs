//! On every family's sample graph: what is true wherever one cuts.

mod common;

use std::collections::{BTreeSet, HashMap};

use common::TestOps;
use unswag_abi::doc::*;
use unswag_graph::{
    NoOps, apply,
    builders::{FAMILIES, sample_graph},
    diff,
    saved::saved,
    tree::{Plain, TreeOptions, tree},
    validate,
};

fn samples() -> impl Iterator<Item = (&'static str, Graph)> {
    FAMILIES.into_iter().map(|family| (family, sample_graph(family).expect("every family has a sample")))
}

/// Every node and every block above it.
fn places(graph: &Graph) -> BTreeSet<String> {
    let mut places = BTreeSet::new();
    for node in &graph.nodes {
        let mut path = node.path.as_str();
        places.insert(path.to_owned());
        while let Some((parent, _)) = path.rsplit_once('.') {
            places.insert(parent.to_owned());
            path = parent;
        }
    }
    places
}

/// The region's own nodes as a subgraph, under local names.
fn copy_of(graph: &Graph, at: &str) -> Subgraph {
    let region = graph.region(at).expect("a place has a region");
    let mut local: HashMap<String, String> = HashMap::new();
    let mut named = |value: &String| {
        let next = format!("v{}", local.len());
        local.entry(value.clone()).or_insert(next).clone()
    };
    let inputs = region.inputs.iter().map(&mut named).collect();
    let nodes = region
        .nodes
        .iter()
        .map(|&i| {
            let node = &graph.nodes[i];
            SubNode {
                name: node.path[at.len()..].trim_start_matches('.').to_owned(),
                kind: node.kind.clone(),
                inputs: node.inputs.iter().map(&mut named).collect(),
                outputs: node.outputs.iter().map(&mut named).collect(),
                params: node.params.clone(),
                attrs: node.attrs.clone(),
                ..SubNode::default()
            }
        })
        .collect();
    Subgraph { inputs, outputs: region.outputs.iter().map(&mut named).collect(), nodes }
}

#[test]
fn any_block_replaced_by_itself_gives_the_graph_back() {
    for (family, graph) in samples() {
        for at in places(&graph) {
            let edit = Edit::Replace { at: at.clone(), with: copy_of(&graph, &at) };
            let patch = Patch { version: Patch::VERSION, edits: vec![edit], ..Patch::default() };
            let applied = apply(&graph, &patch, &NoOps).unwrap_or_else(|error| panic!("{family} {at}: {error}"));
            let changed = diff(&graph, &applied.graph);
            assert!(changed.is_empty(), "{family} {at}:\n{changed}");
        }
    }
}

#[test]
fn all_blocks_replaced_by_themselves_one_after_another_give_the_graph_back() {
    for (family, graph) in samples() {
        let replace = |at: String| Edit::Replace { with: copy_of(&graph, &at), at };
        let edits: Vec<Edit> = places(&graph).into_iter().map(replace).collect();
        let patch = Patch { version: Patch::VERSION, edits, ..Patch::default() };
        let applied = apply(&graph, &patch, &NoOps).unwrap_or_else(|error| panic!("{family}: {error}"));
        assert!(diff(&graph, &applied.graph).is_empty(), "{family}");
    }
}

#[test]
fn a_region_is_closed() {
    for (family, graph) in samples() {
        for at in places(&graph) {
            let region = graph.region(&at).expect("a place has a region");
            let inside: Vec<&Node> = region.nodes.iter().map(|&i| &graph.nodes[i]).collect();
            let made: BTreeSet<&String> = inside.iter().flat_map(|node| &node.outputs).collect();
            let read: BTreeSet<&String> = inside.iter().flat_map(|node| &node.inputs).collect();
            assert!(region.inputs.iter().all(|name| read.contains(name) && !made.contains(name)), "{family} {at}");
            assert!(region.outputs.iter().all(|name| made.contains(name)), "{family} {at}");
            assert!(read.iter().all(|name| made.contains(name) || region.inputs.contains(name)), "{family} {at}");
        }
        assert_eq!(graph.region(""), None);
        assert_eq!(graph.region("nothing.here"), None);
    }
}

#[test]
fn every_family_is_well_formed_and_can_be_looked_at() {
    for (family, graph) in samples() {
        assert_eq!(validate(&graph), Ok(()), "{family}");
        assert!(saved(&graph).bytes_per_token > 0.0, "{family}");
        let shown = tree(&graph, TreeOptions::default());
        assert_eq!(shown.saved_bytes_per_token, saved(&graph).bytes_per_token, "{family}");
        assert!(shown.render(&Plain).lines().count() > 10, "{family}");
    }
}

#[test]
fn every_gated_mlp_takes_an_op_that_keeps_less() {
    let mut operated = 0;
    for (family, graph) in samples() {
        let patch = common::swiglu_patch(&graph, "exact");
        if patch.edits.is_empty() {
            continue;
        }
        operated += 1;
        let applied = apply(&graph, &patch, &TestOps).unwrap_or_else(|error| panic!("{family}: {error}"));
        assert!(saved(&applied.graph).bytes_per_token < saved(&graph).bytes_per_token, "{family}");
    }
    assert!(operated >= 4, "llama, mistral, qwen2 and qwen3 at least have swiglu");
}
