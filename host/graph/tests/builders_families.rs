//! The builders against transformers, through what `tests/peers/families.py` recorded of real models.
//!
//! To make the recordings anew: `python tests/peers/families.py golden`. Where `make venv` has laid down the Python
//! environment, the graphs are also run and compared by their logits.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;
use serde_json::Value as Json;
use unswag_abi::doc::{Attrs, Dtype, Graph, Node};
use unswag_graph::builders::{self, Built, TensorInfo};

#[derive(Deserialize)]
struct Golden {
    case: String,
    base_model: bool,
    /// Elements of the parameters that the decoder has, the images' part left out.
    text_parameters: u64,
    /// The same model in several spellings.
    configs: BTreeMap<String, Attrs>,
    rotaries: Vec<Rotary>,
    attention: Vec<Attention>,
    trace: Vec<Row>,
    tensors: Vec<(String, String, Vec<u64>)>,
}

#[derive(Deserialize)]
struct Rotary {
    layer_type: String,
    inv_freq: Vec<f64>,
    attention_scaling: f64,
}

#[derive(Deserialize)]
struct Attention {
    path: String,
    num_heads: Option<u64>,
    num_key_value_heads: Option<u64>,
    head_dim: u64,
    scale: f64,
    softcap: Option<f64>,
    sliding_window: Option<u64>,
    keys_seen_by_last_query: Option<u64>,
}

/// One leaf module's run.
#[derive(Deserialize)]
struct Row {
    path: String,
    #[serde(rename = "type")]
    class: String,
    input: Vec<u64>,
    outputs: Vec<Vec<u64>>,
    /// The module whose output is this one's input, where nothing stands between them.
    source: Option<String>,
}

const BATCH: u64 = 2;
const SEQ: u64 = 5;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families")
}

/// Every file of the folder, so that none can lie there unread.
fn goldens() -> Vec<Golden> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder())
        .expect("the folder of recordings")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    assert!(paths.len() > 40, "only {} recordings found", paths.len());
    let read = |path: &PathBuf| {
        let golden: Golden = serde_json::from_slice(&std::fs::read(path).expect("a recording")).expect("its format");
        assert_eq!(path.file_stem().and_then(|stem| stem.to_str()), Some(golden.case.as_str()));
        golden
    };
    paths.iter().map(read).collect()
}

impl Golden {
    fn build(&self, spelling: &str) -> Built {
        let tensors: Vec<(&str, Dtype, &[u64])> = self
            .tensors
            .iter()
            .map(|(name, dtype, shape)| (name.as_str(), Dtype::from_name(dtype).expect("a dtype"), shape.as_slice()))
            .collect();
        let tensors = tensors.iter().map(|&(name, dtype, shape)| TensorInfo { name, dtype, shape });
        builders::build(&self.configs[spelling], tensors)
            .unwrap_or_else(|error| panic!("{} ({spelling}): {error}", self.case))
    }

    fn graph(&self) -> Graph {
        self.build("full").graph
    }

    fn attention_of<'g>(&self, graph: &'g Graph, call: &Attention) -> &'g Node {
        let path = format!("{}.attn", call.path);
        graph.node(&path).unwrap_or_else(|| panic!("{}: no node {path}", self.case))
    }
}

fn of_images(name: &str) -> bool {
    name.contains("vision") || name.contains("multi_modal")
}

#[test]
fn every_tensor_of_a_saved_model_is_claimed_by_one_parameter() {
    for golden in goldens() {
        let built = golden.build("full");
        let params: BTreeSet<&str> = built.graph.params.keys().map(String::as_str).collect();
        let of_text: BTreeSet<&str> =
            golden.tensors.iter().map(|(name, ..)| name.as_str()).filter(|name| !of_images(name)).collect();
        assert_eq!(params, of_text, "{}", golden.case);
        let unclaimed: Vec<&str> =
            golden.tensors.iter().map(|(name, ..)| name.as_str()).filter(|name| of_images(name)).collect();
        assert_eq!(built.unclaimed, unclaimed, "{}", golden.case);
        assert!(built.buffers.is_empty() && built.duplicates.is_empty(), "{}", golden.case);
    }
}

#[test]
fn images_tensors_of_a_multimodal_model_are_unclaimed() {
    let golden = goldens().into_iter().find(|golden| golden.case == "gemma3").expect("gemma3");
    let unclaimed = golden.build("saved").unclaimed;
    assert!(unclaimed.len() > 10, "{unclaimed:?}");
    assert!(unclaimed.iter().all(|name| of_images(name)), "{unclaimed:?}");
}

#[test]
fn parameters_have_as_many_elements_as_transformers_counts() {
    for golden in goldens() {
        let graph = golden.graph();
        let elements: u64 = graph.params.values().map(|param| param.shape.iter().product::<u64>()).sum();
        assert_eq!(elements, golden.text_parameters, "{}", golden.case);
    }
}

/// As saved, with every field, with no field that equals transformers' default, and as older releases wrote it.
#[test]
fn every_spelling_of_a_config_builds_the_same_graph() {
    let mut spellings = BTreeSet::new();
    for golden in goldens() {
        let full = golden.graph();
        for spelling in golden.configs.keys() {
            let mut graph = golden.build(spelling).graph;
            graph.arch = full.arch.clone();
            assert_eq!(graph, full, "{} ({spelling})", golden.case);
            spellings.insert(spelling.clone());
        }
    }
    assert_eq!(spellings.into_iter().collect::<Vec<_>>(), ["full", "old", "saved", "sparse"]);
}

#[test]
fn expected_tensors_are_the_saved_ones() {
    for golden in goldens().iter().filter(|golden| !golden.base_model) {
        let expected = builders::expected(&golden.configs["full"]).expect("a config that builds");
        let expected: BTreeMap<&str, &[u64]> =
            expected.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice())).collect();
        let saved: BTreeMap<&str, &[u64]> = golden
            .tensors
            .iter()
            .filter(|(name, ..)| !of_images(name))
            .map(|(name, _, shape)| (name.as_str(), shape.as_slice()))
            .collect();
        assert_eq!(expected, saved, "{}", golden.case);
    }
}

/// A kind that takes two modules' work into one node: its own path is the activation's, whose input is the gate.
fn is_gated(node: &Node) -> bool {
    matches!(node.kind.as_str(), "swiglu" | "geglu" | "reglu")
}

#[test]
fn modules_are_nodes_in_the_order_in_which_transformers_runs_them() {
    for golden in goldens().iter().filter(|golden| !golden.trace.is_empty()) {
        let graph = golden.graph();
        // Nodes that are no module of transformers': functions, and gemma3's second call of one module.
        let modules: BTreeSet<&str> = golden.trace.iter().map(|row| row.path.as_str()).collect();
        let gated: BTreeSet<&str> =
            graph.nodes.iter().filter(|node| is_gated(node)).map(|node| node.path.as_str()).collect();
        let ours: Vec<&str> = graph
            .nodes
            .iter()
            .map(|node| node.path.as_str())
            .filter(|path| modules.contains(path) && !gated.contains(path) && !path.ends_with("rotary_emb"))
            .collect();
        let theirs: Vec<&str> = golden
            .trace
            .iter()
            // A dropout that drops nothing has no node.
            .filter(|row| row.class != "Dropout" || graph.node(&row.path).is_some())
            .map(|row| row.path.as_str())
            .filter(|path| !gated.contains(path) && !path.ends_with("rotary_emb"))
            .collect();
        assert_eq!(ours, theirs, "{}", golden.case);
    }
}

#[test]
fn values_have_the_shapes_that_modules_took_and_gave() {
    for golden in goldens() {
        let graph = golden.graph();
        for row in &golden.trace {
            let Some(node) = graph.node(&row.path) else {
                assert_eq!(row.class, "Dropout", "{}: {} is no node", golden.case, row.path);
                continue;
            };
            let takes_ids = matches!(node.kind.as_str(), "embedding" | "rotary_embedding");
            // transformers gives a rotary embedding the hidden values too, and the recording shows those.
            if node.kind != "rotary_embedding" {
                check_shape(&golden.case, &graph, &node.inputs[0], &row.input, takes_ids);
            }
            assert_eq!(node.outputs.len(), row.outputs.len(), "{}: {}", golden.case, row.path);
            for (value, shape) in node.outputs.iter().zip(&row.outputs) {
                check_shape(&golden.case, &graph, value, shape, false);
            }
        }
    }
}

/// transformers folds batch and sequence together in OPT's MLP, and takes heads apart for their norms.
fn check_shape(case: &str, graph: &Graph, value: &str, recorded: &[u64], ids: bool) {
    let sizes: Vec<u64> = graph.values[value]
        .shape
        .iter()
        .map(|dim| match dim.to_string().as_str() {
            "batch" => BATCH,
            "seq" => SEQ,
            fixed => fixed.parse().expect("a size"),
        })
        .collect();
    assert_eq!(sizes[..2], [BATCH, SEQ], "{case}: {value}");
    let tokens = if ids { recorded.iter().product() } else { recorded.iter().product::<u64>() / sizes[2] };
    assert_eq!(tokens, BATCH * SEQ, "{case}: {value}: {sizes:?} against {recorded:?}");
    let last = recorded[recorded.len() - 1];
    assert!(ids || sizes[2].is_multiple_of(last), "{case}: {value}: {sizes:?} against {recorded:?}");
}

#[test]
fn a_node_takes_its_input_from_where_the_module_took_it() {
    let mut checked = 0;
    for golden in goldens() {
        let graph = golden.graph();
        for row in &golden.trace {
            let (Some(node), Some(source)) = (graph.node(&row.path), &row.source) else { continue };
            // A dropout without a node passes on what it was given.
            if node.kind == "rotary_embedding" || graph.node(source).is_none() {
                continue;
            }
            assert_eq!(&node.inputs[0], source, "{}: {}", golden.case, row.path);
            checked += 1;
        }
    }
    assert!(checked > 500, "only {checked} edges compared");
}

#[test]
fn attention_has_the_numbers_that_transformers_calls_it_with() {
    let mut windows = 0;
    for golden in goldens() {
        let graph = golden.graph();
        let nodes = graph.nodes.iter().filter(|node| node.kind == "attention").count();
        assert_eq!(nodes, golden.attention.len(), "{}", golden.case);
        for call in &golden.attention {
            let node = golden.attention_of(&graph, call);
            let what = format!("{}: {}", golden.case, node.path);
            let number = |name: &str| node.attrs.get(name).and_then(Json::as_u64);
            assert_eq!(number("head_dim"), Some(call.head_dim), "{what}");
            assert_eq!(node.attrs["scale"].as_f64(), Some(call.scale), "{what}");
            assert_eq!(node.attrs.get("logit_softcap").and_then(Json::as_f64), call.softcap, "{what}");
            assert_eq!(number("sliding_window"), call.sliding_window, "{what}");
            assert_eq!(node.attrs["causal"], Json::Bool(true), "{what}");
            if let (Some(heads), Some(key_value), Some(seen)) =
                (call.num_heads, call.num_key_value_heads, call.keys_seen_by_last_query)
            {
                assert_eq!(number("num_heads"), Some(heads), "{what}");
                assert_eq!(number("num_key_value_heads"), Some(key_value), "{what}");
                // What the mask really hides, whatever the module's field says.
                assert_eq!(number("sliding_window").unwrap_or(SEQ).min(SEQ), seen, "{what}");
                windows += u64::from(seen < SEQ);
            }
        }
    }
    assert!(windows > 8, "only {windows} windows compared");
}

#[test]
fn rotary_embeddings_have_the_frequencies_of_transformers() {
    let mut types = BTreeSet::new();
    for golden in goldens() {
        let graph = golden.graph();
        for rotary in &golden.rotaries {
            let name = if rotary.layer_type == "sliding_attention" { "rotary_emb_local" } else { "rotary_emb" };
            let node = graph.nodes.iter().find(|node| node.path.ends_with(&format!(".{name}")));
            let attrs = &node.unwrap_or_else(|| panic!("{}: no {name}", golden.case)).attrs;
            let (ours, scaling) = frequencies(attrs);
            assert_eq!(ours.len(), rotary.inv_freq.len(), "{}", golden.case);
            for (ours, theirs) in ours.iter().zip(&rotary.inv_freq) {
                // transformers computes them in f32.
                assert!((ours - theirs).abs() <= 4e-6 * theirs, "{}: {ours} against {theirs}", golden.case);
            }
            assert!((scaling - rotary.attention_scaling).abs() < 1e-12, "{}: {scaling}", golden.case);
            types.insert(attrs["rope_type"].as_str().expect("a word").to_owned());
        }
    }
    assert_eq!(types.into_iter().collect::<Vec<_>>(), ["default", "dynamic", "linear", "llama3", "longrope", "yarn"]);
}

/// The published formulas, in f64: Su et al. 2021; Peng et al. 2023 (YaRN); Ding et al. 2024 (LongRoPE); Llama 3.1.
fn frequencies(attrs: &Attrs) -> (Vec<f64>, f64) {
    use std::f64::consts::TAU;
    let number = |name: &str| attrs[name].as_f64().unwrap_or_else(|| panic!("{name} is a number"));
    let (dim, theta) = (number("dim"), number("theta"));
    let plain: Vec<f64> = (0..dim as u64 / 2).map(|pair| theta.powf(-2.0 * pair as f64 / dim)).collect();
    match attrs["rope_type"].as_str().expect("a word") {
        "linear" => (plain.iter().map(|freq| freq / number("factor")).collect(), 1.0),
        "llama3" => {
            let (low, high) = (number("low_freq_factor"), number("high_freq_factor"));
            let blend = |freq: &f64| {
                let turns = number("original_max_position_embeddings") * freq / TAU;
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                freq * (kept + (1.0 - kept) / number("factor"))
            };
            (plain.iter().map(blend).collect(), 1.0)
        }
        "yarn" => {
            let context = number("original_max_position_embeddings");
            let at = |turns: f64| dim * (context / (turns * TAU)).ln() / (2.0 * theta.ln());
            let (mut low, mut high) = (at(number("beta_fast")), at(number("beta_slow")));
            if attrs["truncate"] == Json::Bool(true) {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(dim - 1.0));
            let blend = |(pair, freq): (usize, &f64)| {
                let ramp = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                freq * ((1.0 - ramp) + ramp / number("factor"))
            };
            (plain.iter().enumerate().map(blend).collect(), number("attention_factor"))
        }
        "longrope" => {
            let factors = attrs["short_factor"].as_array().expect("a list").iter().filter_map(Json::as_f64);
            (plain.iter().zip(factors).map(|(freq, factor)| freq / factor).collect(), number("attention_factor"))
        }
        // "dynamic" is the default as long as the context is no longer than in training.
        _ => (plain, 1.0),
    }
}

#[test]
fn every_graph_is_well_formed() {
    for golden in goldens() {
        unswag_graph::validate(&golden.graph()).unwrap_or_else(|error| panic!("{}: {error}", golden.case));
    }
}

#[test]
fn a_base_model_has_the_paths_of_the_whole_model() {
    let goldens = goldens();
    for (base, whole) in [("gpt2_base_model", "gpt2"), ("opt_base_model", "opt"), ("llama_base_model", "llama_tied")] {
        let find = |case: &str| goldens.iter().find(|golden| golden.case == case).expect("a case");
        let paths = |golden: &Golden| golden.graph().nodes.iter().map(|node| node.path.clone()).collect::<Vec<_>>();
        assert_eq!(paths(find(base)), paths(find(whole)));
        assert_ne!(find(base).graph().params.keys().next(), find(whole).graph().params.keys().next());
    }
}

/// Runs every graph node by node in torch and compares with the model's own logits.
#[test]
fn logits_of_every_graph_equal_those_of_transformers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cache = std::env::var_os("UNSWAG_CACHE").map_or_else(|| PathBuf::from(".cache"), PathBuf::from);
    let python = root.join(cache).join("venv/bin/python");
    assert!(python.exists(), "{} is missing; run `scripts/fetch venv` (or `make test`)", python.display());
    let graphs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("graphs_of_families");
    std::fs::create_dir_all(&graphs).expect("a folder for the graphs");
    for golden in goldens() {
        let document = serde_json::to_vec(&golden.graph()).expect("a graph is a document");
        std::fs::write(graphs.join(format!("{}.json", golden.case)), document).expect("a graph is written");
    }
    let script = root.join("tests/peers/families.py");
    let output = Command::new(&python).arg(script).arg("logits").arg(&graphs).output().expect("the script starts");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.lines().filter(|line| line.starts_with("ok")).count() > 30, "{text}");
}
