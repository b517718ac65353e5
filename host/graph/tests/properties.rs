//! Random patches and damaged documents.

mod common;

use std::sync::LazyLock;

use common::{SMALL, TestOps, latent_attention, patch, swiglu_patch};
use proptest::{prelude::*, sample::Index};
use serde_json::{Value as Json, json};
use unswag_abi::doc::*;
use unswag_graph::{
    apply,
    builders::{FAMILIES, sample_graph},
    diff, expr,
    saved::saved,
    tree::{Plain, TreeOptions, tree},
    validate,
};

static GRAPH: LazyLock<Graph> = LazyLock::new(|| SMALL.graph());

/// A patch document that uses everything a patch can do.
static DOCUMENT: LazyLock<Json> = LazyLock::new(|| {
    let mut edits = json!(swiglu_patch(&GRAPH, "code2").edits);
    let list = edits.as_array_mut().expect("a list");
    list.extend(latent_attention(1).as_array().expect("a list").iter().cloned());
    list.push(json!({"attr": {"at": "model.norm", "name": "eps", "value": 1e-6}}));
    json!({"version": 1, "requires": ["patch/1", "expr.svd/1"], "edits": edits})
});

/// One valid way to change a layer; the second number picks which.
fn valid_edits(layer: u64, choice: usize) -> Vec<Json> {
    let act = format!("model.layers.{layer}.mlp.act_fn");
    let replace =
        |nodes: Json| json!({"replace": {"at": act, "with": {"inputs": ["g", "u"], "outputs": ["h"], "nodes": nodes}}});
    match choice {
        0 => vec![json!(swiglu_patch(&GRAPH, "exact").edits[layer as usize])],
        1 => vec![replace(json!([
            {"name": "s", "kind": "silu", "inputs": ["g"], "outputs": ["s"]},
            {"name": "m", "kind": "mul", "inputs": ["s", "u"], "outputs": ["h"]},
            {"name": "l", "kind": "mse", "inputs": ["g", "u"], "outputs": ["l"]},
        ]))],
        2 => vec![replace(json!([{"kind": "reglu", "inputs": ["g", "u"], "outputs": ["h"]}]))],
        3 => latent_attention(layer).as_array().expect("a list").clone(),
        4 => vec![
            json!({"replace": {"at": format!("model.layers.{layer}.input_layernorm"), "with":
                {"inputs": ["x"], "outputs": ["x"], "nodes": []}}}),
            json!({"drop": {"param": format!("model.layers.{layer}.input_layernorm.weight")}}),
        ],
        5 => vec![
            json!({"param": {"name": format!("model.layers.{layer}.mlp.up_proj.weight"), "dtype": "F32", "shape": [160, 64],
            "init": {"expr": {"normal": {"shape": [160, 64], "std": 0.02, "seed": layer}}}}}),
        ],
        6 => vec![
            json!({"cache": {"at": act, "slots": [{"at": act, "name": "state", "dtype": "F32", "shape": ["batch", 8]}]}}),
        ],
        _ => vec![
            json!({"attr": {"at": format!("model.layers.{layer}.self_attn.attn"), "name": "sliding_window", "value": 16}}),
        ],
    }
}

/// Spoils one place of a document: something else there, nothing there, or the same twice.
fn spoil(document: &mut Json, at: &Index, how: u8, with: Json) {
    fn count(value: &Json) -> usize {
        1 + match value {
            Json::Array(list) => list.iter().map(count).sum(),
            Json::Object(map) => map.values().map(count).sum(),
            _ => 0,
        }
    }
    fn find(value: &mut Json, mut left: usize) -> Option<&mut Json> {
        if left == 0 {
            return Some(value);
        }
        left -= 1;
        let children: Vec<&mut Json> = match value {
            Json::Array(list) => list.iter_mut().collect(),
            Json::Object(map) => map.values_mut().collect(),
            _ => return None,
        };
        for child in children {
            let size = count(child);
            if left < size {
                return find(child, left);
            }
            left -= size;
        }
        None
    }
    let place = at.index(count(document));
    let Some(value) = find(document, place) else { return };
    match (how % 4, value) {
        (0, Json::Array(list)) if !list.is_empty() => {
            let twice = list[at.index(list.len())].clone();
            list.push(twice);
        }
        (1, Json::Array(list)) if !list.is_empty() => {
            list.remove(at.index(list.len()));
        }
        (1, Json::Object(map)) if !map.is_empty() => {
            let key = map.keys().nth(at.index(map.len())).cloned();
            key.and_then(|key| map.remove(&key));
        }
        (_, value) => *value = with,
    }
}

fn any_json() -> impl Strategy<Value = Json> {
    let number = prop_oneof![
        Just(json!(0)),
        Just(json!(1)),
        Just(json!(u64::MAX)),
        Just(json!(1u64 << 63)),
        Just(json!(-1)),
        Just(json!(1e300)),
        Just(json!(0.5)),
    ];
    let names = GRAPH.nodes.iter().flat_map(|node| [node.path.clone(), node.kind.clone()]).collect::<Vec<_>>();
    let text = prop_oneof![proptest::sample::select(names).prop_map(Json::from), ".{0,12}".prop_map(Json::from)];
    prop_oneof![
        3 => number,
        4 => text,
        1 => Just(json!(null)),
        1 => Just(json!([])),
        1 => Just(json!({})),
        1 => Just(json!([u64::MAX, 2, 0])),
        1 => Just(json!({"tensor": "lm_head"})),
    ]
}

/// What a caller does with any graph that it was given.
fn look_at(graph: &Graph) {
    let _ = validate(graph);
    let _ = saved(graph);
    let _ = tree(graph, TreeOptions::default()).render(&Plain);
    let _ = diff(&GRAPH, graph).to_string();
    let _ = graph.region("model.layers.1");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn valid_patches_give_well_formed_graphs(choices in prop::collection::vec((0u64..3, 0usize..8), 0..8)) {
        let mut seen = std::collections::HashSet::new();
        let mut edits = Vec::new();
        for (layer, choice) in choices {
            // The activation is replaced once per layer, and nothing is asked of what is gone.
            let part = if choice < 3 { 0 } else if choice == 7 { 3 } else { choice };
            if seen.insert((layer, part)) {
                edits.extend(valid_edits(layer, choice));
            }
        }
        let applied = apply(&GRAPH, &patch(json!(edits)), &TestOps);
        let applied = applied.map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(validate(&applied.graph), Ok(()));
        let document = serde_json::to_string(&applied.graph).expect("a graph is a document");
        let read: Graph = serde_json::from_str(&document).expect("a graph is a document");
        prop_assert_eq!(&read, &applied.graph);
        prop_assert_eq!(diff(&GRAPH, &read).is_empty(), edits.is_empty() || read == *GRAPH);
        let shown = tree(&read, TreeOptions::default());
        prop_assert!((shown.saved_bytes_per_token - saved(&read).bytes_per_token).abs() < 1e-6);
    }

    #[test]
    fn damaged_patches_are_refused_or_give_well_formed_graphs(
        places in prop::collection::vec((any::<Index>(), any::<u8>(), any_json()), 1..4),
    ) {
        let mut document = DOCUMENT.clone();
        for (at, how, with) in places {
            spoil(&mut document, &at, how, with);
        }
        if let Ok(patch) = serde_json::from_value::<Patch>(document) {
            match apply(&GRAPH, &patch, &TestOps) {
                Ok(applied) => prop_assert_eq!(validate(&applied.graph), Ok(())),
                Err(error) => prop_assert!(error.to_string().len() < 4000, "{}", error),
            }
        }
    }

    #[test]
    fn damaged_graphs_are_refused_and_can_still_be_looked_at(
        family in proptest::sample::select(FAMILIES.to_vec()),
        places in prop::collection::vec((any::<Index>(), any::<u8>(), any_json()), 1..4),
    ) {
        let mut document = json!(sample_graph(family).expect("every family has a sample"));
        for (at, how, with) in places {
            spoil(&mut document, &at, how, with);
        }
        if let Ok(graph) = serde_json::from_value::<Graph>(document) {
            look_at(&graph);
            let _ = apply(&graph, &swiglu_patch(&GRAPH, "exact"), &TestOps);
        }
    }

    #[test]
    fn bytes_are_no_patch_or_one_that_is_handled(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(patch) = serde_json::from_slice::<Patch>(&bytes) {
            let _ = apply(&GRAPH, &patch, &TestOps);
        }
    }

    #[test]
    fn expressions_of_any_numbers_have_a_shape_or_an_error(
        shape in prop::collection::vec(any::<u64>(), 0..4), dim in any::<usize>(),
        start in any::<u64>(), end in any::<u64>(), rank in any::<u64>(), small in 1u64..9,
    ) {
        let full = || Box::new(Expr::Full { shape: shape.clone(), value: 0.5 });
        let eye = || Box::new(Expr::Eye(small));
        let none = |_: &str| None;
        let kinds: [&dyn Fn() -> Box<Expr>; 2] = [&full, &eye];
        for of in kinds {
            for expr in [
                Expr::Slice { of: of(), dim, start, end },
                Expr::Cat { of: vec![*of(), *of()], dim },
                Expr::Reshape { of: of(), shape: shape.clone() },
                Expr::Permute { of: of(), dims: vec![dim, start as usize] },
                Expr::Svd { of: of(), rank, part: SvdPart::Vh },
                Expr::Add(of(), eye()),
                Expr::Matmul(of(), eye()),
            ] {
                if let Ok(shape) = expr::shape(&expr, &none) {
                    let elements = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
                    prop_assert!(elements.is_some_and(|elements| elements <= expr::MOST_ELEMENTS));
                }
            }
        }
    }
}
