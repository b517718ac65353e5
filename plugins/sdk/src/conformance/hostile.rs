//! Graphs that no host builds: damaged, absurd, or not graphs at all. Each must be answered, by an error or a patch.

use serde_json::{Value, json};
use unswag_abi::doc::{Attrs, ProtocolInfo};

use super::{Checks, Verdict, not_a_panic, samples};
use crate::test::{PluginTest, ProtocolTest};

/// One way to damage a graph document, by name.
type Damage = (&'static str, fn(&mut Value));

/// What can go wrong with a document that is still JSON.
const DAMAGES: &[Damage] = &[
    ("no nodes", |graph| graph["nodes"] = json!([])),
    ("unknown kinds", |graph| each_node(graph, |node| node["kind"] = json!("no_such_kind"))),
    ("no inputs", |graph| each_node(graph, |node| node["inputs"] = json!([]))),
    ("no outputs", |graph| each_node(graph, |node| node["outputs"] = json!([]))),
    ("too many inputs", |graph| each_node(graph, |node| node["inputs"] = json!(["x", "x", "x", "x", "x", "x", "x"]))),
    ("no parameters in nodes", |graph| each_node(graph, |node| node["params"] = json!({}))),
    ("no attributes", |graph| each_node(graph, |node| node["attrs"] = json!({}))),
    ("attributes of other types", |graph| each_node(graph, |node| retype(&mut node["attrs"]))),
    ("empty paths", |graph| each_node(graph, |node| node["path"] = json!(""))),
    ("one path for all", |graph| each_node(graph, |node| node["path"] = json!("model.layers.0"))),
    ("no values", |graph| graph["values"] = json!({})),
    ("no parameters", |graph| graph["params"] = json!({})),
    ("scalars", |graph| each_shape(graph, |shape| *shape = json!([]))),
    ("sizes of 0", |graph| each_shape(graph, |shape| *shape = json!([0, 0, 0]))),
    ("sizes of 2^64 - 1", |graph| each_shape(graph, |shape| *shape = json!([u64::MAX, u64::MAX, u64::MAX]))),
    ("one value for all", |graph| {
        each_node(graph, |node| {
            node["inputs"] = json!(["x"]);
            node["outputs"] = json!(["x"]);
        })
    }),
    ("integer values", |graph| each_value(graph, |value| value["dtype"] = json!("I64"))),
    ("float8 values", |graph| each_value(graph, |value| value["dtype"] = json!("F8_E4M3"))),
    ("another version", |graph| graph["version"] = json!(999)),
    ("no model type", |graph| graph["arch"] = json!({"model_type": "", "config": {}})),
];

fn each_node(graph: &mut Value, change: impl Fn(&mut Value)) {
    graph["nodes"].as_array_mut().into_iter().flatten().for_each(change);
}

fn each_value(graph: &mut Value, change: impl Fn(&mut Value)) {
    graph["values"].as_object_mut().into_iter().flat_map(|values| values.values_mut()).for_each(change);
}

fn each_shape(graph: &mut Value, change: impl Fn(&mut Value)) {
    for list in ["values", "params"] {
        let entries = graph[list].as_object_mut().into_iter().flat_map(|entries| entries.values_mut());
        entries.for_each(|entry| change(&mut entry["shape"]));
    }
}

fn retype(attrs: &mut Value) {
    for value in attrs.as_object_mut().into_iter().flat_map(|attrs| attrs.values_mut()) {
        *value = if value.is_string() { json!(-1) } else { json!("text") };
    }
}

pub(super) fn check(plugin: &PluginTest, info: &ProtocolInfo, options: &Attrs, checks: &mut Checks<'_>) {
    let options = Value::Object(options.clone().into_iter().collect());
    let Ok(protocol) = plugin.open(&info.id, options) else { return };
    checks.run(&info.id, "answers what is no graph with an error", || {
        let whole = samples().map(|(_, graph)| serde_json::to_string(&graph)).next().transpose()?.unwrap_or_default();
        let deep = "[".repeat(100_000);
        let cut = &whole[..whole.len() / 2];
        for text in ["", "null", "[]", "{}", "7", "\"graph\"", "{\"version\":1}", "\u{0}", cut, &deep] {
            let outcome = protocol.rewrite_text(text);
            not_a_panic(&outcome)?;
            if outcome.is_ok() {
                crate::bail!("it answered {:?}… with a patch", text.chars().take(20).collect::<String>());
            }
        }
        Ok(Verdict::Pass)
    });
    checks.run(&info.id, "answers damaged graphs", || {
        for (family, graph) in samples() {
            let sound = serde_json::to_value(&graph)?;
            for (name, damage) in DAMAGES {
                let mut graph = sound.clone();
                damage(&mut graph);
                answers(&protocol, &graph).map_err(|error| error.at(format!("{family} with {name}")))?;
            }
        }
        Ok(Verdict::Measured(format!("{} kinds of damage", DAMAGES.len())))
    });
}

fn answers(protocol: &ProtocolTest, graph: &Value) -> Result<(), crate::Error> {
    let outcome = protocol.rewrite_text(&graph.to_string());
    not_a_panic(&outcome)?;
    if let Ok(patch) = outcome {
        // Whether it is a sensible patch is the host's to say; that it is one is not.
        serde_json::from_str::<unswag_abi::doc::Patch>(&patch)?;
    }
    Ok(())
}
