//! What differs between two graphs, as data and as a page of text.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::{Value as Json, json};
use unswag_abi::doc::{CacheSlot, Graph, Loss, Node, Param};

use crate::{
    group::{grouped, numbers, relative},
    kinds::show_shape,
};

/// What must change in the first graph to give the second. Everything is matched by name; nothing is guessed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GraphDiff {
    pub nodes_added: Vec<Node>,
    pub nodes_removed: Vec<Node>,
    pub nodes_changed: Vec<NodeChange>,
    pub params_added: IndexMap<String, Param>,
    pub params_removed: IndexMap<String, Param>,
    pub params_changed: Vec<ParamChange>,
    pub cache_added: Vec<CacheSlot>,
    pub cache_removed: Vec<CacheSlot>,
    pub losses_added: Vec<Loss>,
    pub losses_removed: Vec<Loss>,
    /// The model as a whole: `model_type`, `inputs`, `outputs`, and keys of its config.
    pub model_changed: Vec<FieldChange>,
}

/// A node that both graphs have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeChange {
    pub path: String,
    pub kind_before: String,
    pub kind_after: String,
    /// The kind's own change is not among them.
    pub fields: Vec<FieldChange>,
}

/// One field, as JSON; `None` where it is absent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FieldChange {
    /// `attrs.mode`, `inputs`, `params.weight`, `type of output 0`, ….
    pub field: String,
    pub before: Option<Json>,
    pub after: Option<Json>,
}

/// A parameter that both graphs have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParamChange {
    pub name: String,
    pub before: Param,
    pub after: Param,
}

impl GraphDiff {
    pub fn is_empty(&self) -> bool {
        *self == GraphDiff::default()
    }
}

/// Compares two graphs, in time linear in their size. What a node saves is not compared: it follows from the rest.
pub fn diff(before: &Graph, after: &Graph) -> GraphDiff {
    let mut diff = GraphDiff::default();
    let old: HashMap<&str, &Node> = before.nodes.iter().map(|node| (node.path.as_str(), node)).collect();
    let new: BTreeSet<&str> = after.nodes.iter().map(|node| node.path.as_str()).collect();
    for node in &after.nodes {
        match old.get(node.path.as_str()) {
            None => diff.nodes_added.push(node.clone()),
            Some(was) => diff.nodes_changed.extend(node_change(before, after, was, node)),
        }
    }
    diff.nodes_removed = before.nodes.iter().filter(|node| !new.contains(node.path.as_str())).cloned().collect();
    for (name, param) in &after.params {
        match before.params.get(name) {
            None => {
                diff.params_added.insert(name.clone(), param.clone());
            }
            Some(was) if was != param => {
                let (name, before, after) = (name.clone(), was.clone(), param.clone());
                diff.params_changed.push(ParamChange { name, before, after });
            }
            Some(_) => {}
        }
    }
    let removed = before.params.iter().filter(|(name, _)| !after.params.contains_key(*name));
    diff.params_removed = removed.map(|(name, param)| (name.clone(), param.clone())).collect();

    let slot_key = |slot: &CacheSlot| json!(slot).to_string();
    diff.cache_added = missing(&after.cache, &before.cache, slot_key);
    diff.cache_removed = missing(&before.cache, &after.cache, slot_key);
    let loss_key = |loss: &Loss| format!("{:?}", (&loss.name, &loss.value, loss.weight.to_bits()));
    diff.losses_added = missing(&after.losses, &before.losses, loss_key);
    diff.losses_removed = missing(&before.losses, &after.losses, loss_key);

    let model = |graph: &Graph| json!({"model_type": graph.arch.model_type, "inputs": graph.inputs, "outputs": graph.outputs, "config": graph.arch.config});
    fields("", &model(before), &model(after), &mut diff.model_changed);
    diff
}

/// Entries of `here` that `there` lacks.
fn missing<T: Clone>(here: &[T], there: &[T], key: impl Fn(&T) -> String) -> Vec<T> {
    let known: BTreeSet<String> = there.iter().map(&key).collect();
    here.iter().filter(|entry| !known.contains(&key(entry))).cloned().collect()
}

fn node_change(before: &Graph, after: &Graph, was: &Node, node: &Node) -> Option<NodeChange> {
    let mut changes = Vec::new();
    let shown = |node: &Node| json!({"attrs": node.attrs, "inputs": node.inputs, "params": node.params, "stands_for": node.stands_for});
    if (&was.attrs, &was.inputs, &was.params, &was.stands_for)
        != (&node.attrs, &node.inputs, &node.params, &node.stands_for)
    {
        fields("", &shown(was), &shown(node), &mut changes);
    }
    for index in 0..was.outputs.len().max(node.outputs.len()) {
        let value = |graph: &Graph, node: &Node| graph.values.get(node.outputs.get(index)?).cloned();
        let (was, is) = (value(before, was), value(after, node));
        if was != is {
            let field = format!("type of output {index}");
            changes.push(FieldChange {
                field,
                before: was.map(|value| json!(value)),
                after: is.map(|value| json!(value)),
            });
        }
    }
    let is_same = was.kind == node.kind && changes.is_empty();
    (!is_same).then(|| NodeChange {
        path: node.path.clone(),
        kind_before: was.kind.clone(),
        kind_after: node.kind.clone(),
        fields: changes,
    })
}

/// Compares two JSON values; objects field by field, anything else as a whole.
fn fields(place: &str, before: &Json, after: &Json, changes: &mut Vec<FieldChange>) {
    if before == after {
        return;
    }
    let (Json::Object(was), Json::Object(is)) = (before, after) else {
        let known = |value: &Json| (!value.is_null()).then(|| value.clone());
        changes.push(FieldChange { field: place.to_owned(), before: known(before), after: known(after) });
        return;
    };
    let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    for name in names {
        let field = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
        let at = |object: &serde_json::Map<String, Json>| object.get(name).cloned().unwrap_or(Json::Null);
        fields(&field, &at(was), &at(is), changes);
    }
}

/// Equal changes of many layers stand in one line:
/// `~ model.layers.{0..29}.mlp.act_fn  swiglu -> delhi.swiglu {mode: 2bit}`.
impl fmt::Display for GraphDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        let mut section = |sign: &'static str, entries: Vec<(String, String)>| {
            lines.extend(grouped(entries).into_iter().map(|(name, text, _)| (sign, name, text)));
        };
        section("~", self.model_changed.iter().map(|change| ("model".to_owned(), field_text(change, &[]))).collect());
        section("~", self.nodes_changed.iter().map(|change| (change.path.clone(), change_text(change))).collect());
        section("-", self.nodes_removed.iter().map(|node| (node.path.clone(), node.kind.clone())).collect());
        section("+", self.nodes_added.iter().map(|node| (node.path.clone(), node_text(node))).collect());
        let param = |(name, param): (&String, &Param)| (name.clone(), param_text(param));
        section("-", self.params_removed.iter().map(param).collect());
        let changed = |change: &ParamChange| {
            (change.name.clone(), format!("{} -> {}", param_text(&change.before), param_text(&change.after)))
        };
        section("~", self.params_changed.iter().map(changed).collect());
        section("+", self.params_added.iter().map(param).collect());
        section("-", self.cache_removed.iter().map(slot_text).collect());
        section("+", self.cache_added.iter().map(slot_text).collect());
        section("-", self.losses_removed.iter().map(loss_text).collect());
        section("+", self.losses_added.iter().map(loss_text).collect());
        if lines.is_empty() {
            return f.write_str("no difference");
        }
        // One long name must not push every line off the screen.
        let width = lines.iter().map(|(_, name, _)| name.len()).filter(|&width| width <= 60).max().unwrap_or(0);
        for (i, (sign, name, text)) in lines.iter().enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            write!(f, "{end}{sign} {name:width$}  {text}")?;
        }
        Ok(())
    }
}

fn change_text(change: &NodeChange) -> String {
    let numbers = numbers(&change.path);
    let is_new = |change: &&FieldChange| change.before.is_none() && change.field.starts_with("attrs.");
    let mut parts = Vec::new();
    if change.kind_before == change.kind_after {
        parts.extend(change.fields.iter().map(|change| field_text(change, &numbers)));
        return format!("{} {}", change.kind_after, parts.join(", "));
    }
    // With a new kind, its attributes read best as its own.
    let attrs: Vec<String> = change
        .fields
        .iter()
        .filter(is_new)
        .map(|change| format!("{}: {}", &change.field["attrs.".len()..], plain(change.after.as_ref(), &numbers)))
        .collect();
    let attrs = if attrs.is_empty() { String::new() } else { format!(" {{{}}}", attrs.join(", ")) };
    let rest = change.fields.iter().filter(|change| !is_new(change) && change.field != "stands_for");
    parts.push(format!("{} -> {}{attrs}", change.kind_before, change.kind_after));
    parts.extend(rest.map(|change| field_text(change, &numbers)));
    parts.join(", ")
}

fn field_text(change: &FieldChange, numbers: &[u64]) -> String {
    let (before, after) = (plain(change.before.as_ref(), numbers), plain(change.after.as_ref(), numbers));
    let field = change.field.strip_prefix("attrs.").unwrap_or(&change.field);
    format!("{field}: {before} -> {after}")
}

fn node_text(node: &Node) -> String {
    let attrs: Vec<String> =
        node.attrs.iter().map(|(name, value)| format!("{name}: {}", plain(Some(value), &[]))).collect();
    let attrs = if attrs.is_empty() { String::new() } else { format!(" {{{}}}", attrs.join(", ")) };
    format!("{}{attrs}", node.kind)
}

/// JSON as people write it: no quotes, names told relative to the layer, nothing longer than a line's half.
fn plain(value: Option<&Json>, numbers: &[u64]) -> String {
    let text = match value {
        None => "none".to_owned(),
        Some(Json::String(text)) => relative(text, numbers),
        Some(Json::Array(list)) => {
            let entries: Vec<String> = list.iter().map(|entry| plain(Some(entry), numbers)).collect();
            format!("[{}]", entries.join(", "))
        }
        Some(other) => other.to_string(),
    };
    crate::kinds::clipped(&text)
}

fn param_text(param: &Param) -> String {
    format!("{} {}", param.dtype, show_shape(&param.shape))
}

fn slot_text(slot: &CacheSlot) -> (String, String) {
    (slot.at.clone(), format!("cache {}: {} {}", slot.name, slot.dtype, show_shape(&slot.shape)))
}

fn loss_text(loss: &Loss) -> (String, String) {
    (loss.name.clone(), format!("loss: {} * {}", loss.weight, loss.value))
}
