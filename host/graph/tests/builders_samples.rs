//! The sample graphs: well formed, small, and on disk as the plugins' conformance suite reads them.
//!
//! To write the files anew: `UNSWAG_BLESS=1 cargo test -p unswag-graph --test builders_samples`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::Value as Json;
use unswag_abi::doc::Graph;
use unswag_graph::{
    builders::{FAMILIES, sample_graph, supported_model_types},
    validate,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/sdk/samples")
}

fn sample(family: &str) -> Graph {
    sample_graph(family).unwrap_or_else(|| panic!("no sample of {family}"))
}

/// JSON with one node, value or parameter a line, so that a change can be read.
fn as_file(graph: &Graph) -> String {
    let document = serde_json::to_value(graph).expect("a graph is a document");
    let rows = |rows: Vec<String>, [open, close]: [char; 2]| match rows.is_empty() {
        true => format!("{open}{close}"),
        false => format!("{open}\n    {}\n  {close}", rows.join(",\n    ")),
    };
    let fields = document.as_object().expect("an object").iter().map(|(name, value)| {
        let text = match value {
            Json::Array(list) => rows(list.iter().map(Json::to_string).collect(), ['[', ']']),
            Json::Object(map) => {
                let row = |(name, value)| format!("{}: {value}", Json::from(name as &str));
                rows(map.iter().map(|(name, value)| row((name.as_str(), value))).collect(), ['{', '}'])
            }
            other => other.to_string(),
        };
        format!("  {}: {text}", Json::from(name.as_str()))
    });
    format!("{{\n{}\n}}\n", fields.collect::<Vec<_>>().join(",\n"))
}

#[test]
fn there_is_a_sample_of_every_family() {
    assert!(supported_model_types().eq(FAMILIES));
    assert!(sample_graph("mamba").is_none());
}

#[test]
fn samples_are_well_formed_and_small() {
    for family in FAMILIES {
        let graph = sample(family);
        validate(&graph).unwrap_or_else(|error| panic!("{family}: {error}"));
        let elements: u64 = graph.params.values().map(|param| param.shape.iter().product::<u64>()).sum();
        assert!(elements < 150_000, "{family}: {elements}");
        let layers: BTreeSet<&str> = graph
            .nodes
            .iter()
            .filter_map(|node| node.path.split('.').find(|part| part.parse::<u64>().is_ok()))
            .collect();
        assert_eq!(layers.len(), 2, "{family}");
    }
}

#[test]
fn samples_show_what_their_families_have() {
    let has = |family: &str, kind: &str, attr: &str| {
        sample(family).nodes.iter().any(|node| node.kind == kind && (attr.is_empty() || node.attrs.contains_key(attr)))
    };
    for (family, kind, attr) in [
        ("llama", "swiglu", ""),
        ("mistral", "attention", "sliding_window"),
        ("qwen2", "attention", "sliding_window"),
        ("qwen3", "rms_norm", "group"),
        ("gemma", "embedding", "scale"),
        ("gemma2", "attention", "logit_softcap"),
        ("gemma2", "softcap", "cap"),
        ("gemma3_text", "rms_norm", "unit_offset"),
        ("gemma3", "geglu", "approximate"),
        ("opt", "relu", ""),
        ("opt", "embedding", "offset"),
        ("gpt2", "linear", "transposed"),
        ("gpt2", "split", "sizes"),
        ("gpt2", "gelu", "approximate"),
    ] {
        assert!(has(family, kind, attr), "{family} has no {kind} {attr}");
    }
}

#[test]
fn sample_files_are_the_builders_own() {
    let bless = std::env::var_os("UNSWAG_BLESS").is_some();
    for family in FAMILIES {
        let path = folder().join(format!("{family}.json"));
        let text = as_file(&sample(family));
        if bless {
            std::fs::create_dir_all(folder()).expect("the folder of samples");
            std::fs::write(&path, &text).expect("a sample is written");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == text,
            "{} is not what the builders make of {family}; if the change is meant, write it anew with \
             UNSWAG_BLESS=1 cargo test -p unswag-graph --test builders_samples",
            path.display()
        );
        let read: Graph = serde_json::from_str(&found).expect("a sample is a graph");
        assert_eq!(read, sample(family));
    }
    let files = std::fs::read_dir(folder()).expect("the folder of samples").count();
    assert_eq!(files, FAMILIES.len(), "a sample of no family lies in {}", folder().display());
}
