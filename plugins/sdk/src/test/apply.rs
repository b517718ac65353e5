//! Applies a patch to a graph by structure alone: names, counts and uses are checked, types of host primitives are not
//! inferred. Stands in for the host's validation where the host is not there; `unswag plugin check` uses the host's own.

use std::collections::{BTreeMap, HashMap, HashSet};

use unswag_abi::doc::{Edit, Graph, Loss, Node, Param, Patch, Subgraph};

use crate::{error::Error, graph::GraphExt};

/// The patched graph. A value that a host primitive of the patch makes has no entry in its `values`, unless the patch
/// states its type.
///
/// # Errors
/// The first edit that does not fit, by number.
pub fn apply_structurally(graph: &Graph, patch: &Patch) -> Result<Graph, Error> {
    if patch.version != Patch::VERSION {
        crate::bail!("patch: version {}, expected {}", patch.version, Patch::VERSION);
    }
    let mut graph = graph.clone();
    for (number, edit) in patch.edits.iter().enumerate() {
        apply(&mut graph, edit).map_err(|error| error.at(format!("edits[{number}]")))?;
    }
    sort(&mut graph)?;
    Ok(graph)
}

fn apply(graph: &mut Graph, edit: &Edit) -> Result<(), Error> {
    match edit {
        Edit::Replace { at, with } => replace(graph, at, with).map_err(|error| error.at(format!("replace {at}"))),
        Edit::Attr { at, name, value } => {
            let node = graph.nodes.iter_mut().find(|node| node.path == *at);
            let node = node.ok_or_else(|| crate::error!("attr {name} at {at}: no such node"))?;
            node.attrs.insert(name.clone(), value.clone());
            Ok(())
        }
        Edit::Param { name, dtype, shape, .. } => {
            graph.params.insert(name.clone(), Param { dtype: *dtype, shape: shape.clone() });
            Ok(())
        }
        Edit::Drop { param } => {
            if let Some(user) = graph.nodes.iter().find(|node| node.params.values().any(|used| used == param)) {
                crate::bail!("drop {param}: {} still uses it", user.path);
            }
            match graph.params.shift_remove(param) {
                Some(_) => Ok(()),
                None => Err(crate::error!("drop {param}: no such parameter")),
            }
        }
        Edit::Cache { at, slots } => {
            graph.region_at(at).map_err(|error| error.at("cache"))?;
            graph.cache.extend(slots.iter().cloned());
            Ok(())
        }
        Edit::Loss { name, value, weight } => {
            if !weight.is_finite() {
                crate::bail!("loss {name}: weight {weight} is not finite");
            }
            if !graph.nodes.iter().any(|node| node.outputs.contains(value)) {
                crate::bail!("loss {name}: no node makes {value}");
            }
            graph.losses.push(Loss { name: name.clone(), value: value.clone(), weight: *weight });
            Ok(())
        }
    }
}

fn replace(graph: &mut Graph, at: &str, with: &Subgraph) -> Result<(), Error> {
    let region = graph.region_at(at)?;
    for (what, stated, found) in [("inputs", &with.inputs, &region.inputs), ("outputs", &with.outputs, &region.outputs)]
    {
        if stated.len() != found.len() {
            crate::bail!(
                "the region has {} {what} ({}), the replacement {}",
                found.len(),
                found.join(", "),
                stated.len()
            );
        }
    }
    // Local name to the graph's.
    let mut names: HashMap<&str, String> =
        with.inputs.iter().map(String::as_str).zip(region.inputs.iter().cloned()).collect();
    let mut nodes = Vec::with_capacity(with.nodes.len());
    let mut values = Vec::new();
    for sub in &with.nodes {
        let path = sub.path(at);
        let mut node = Node {
            path: path.clone(),
            kind: sub.kind.clone(),
            params: sub.params.clone(),
            attrs: sub.attrs.clone(),
            stands_for: sub.stands_for.clone(),
            ..Node::default()
        };
        for input in &sub.inputs {
            let name = names.get(input.as_str());
            node.inputs.push(name.cloned().ok_or_else(|| crate::error!("{path}: nothing before it makes {input:?}"))?);
        }
        for (index, output) in sub.outputs.iter().enumerate() {
            let name = if index == 0 { path.clone() } else { format!("{path}:{index}") };
            if names.insert(output, name.clone()).is_some() {
                crate::bail!("{path}: {output:?} is made twice");
            }
            if let Some(value) = sub.values.get(index) {
                values.push((name.clone(), value.clone()));
            } else if sub.kind.contains('.') {
                crate::bail!("{path}: a plugin's op must state the type of its output {output:?}");
            }
            node.outputs.push(name);
        }
        if let Some(missing) = node.params.values().find(|param| !graph.params.contains_key(*param)) {
            crate::bail!("{path}: no parameter {missing}; add it in an edit before this one");
        }
        nodes.push(node);
    }
    let mut renamed = HashMap::new();
    for (local, old) in with.outputs.iter().zip(&region.outputs) {
        let new = names.get(local.as_str()).ok_or_else(|| crate::error!("nothing makes its output {local:?}"))?;
        renamed.insert(old.clone(), new.clone());
    }
    let gone: HashSet<usize> = region.nodes.iter().copied().collect();
    for &index in &region.nodes {
        for output in &graph.nodes[index].outputs {
            graph.values.shift_remove(output);
        }
    }
    graph.values.extend(values);
    let rename = |name: &mut String| {
        if let Some(new) = renamed.get(name) {
            new.clone_into(name);
        }
    };
    let mut kept = Vec::with_capacity(graph.nodes.len() + nodes.len());
    let last = region.nodes.last().copied();
    for (index, mut node) in std::mem::take(&mut graph.nodes).into_iter().enumerate() {
        if gone.contains(&index) {
            if Some(index) == last {
                kept.append(&mut nodes);
            }
            continue;
        }
        node.inputs.iter_mut().for_each(rename);
        kept.push(node);
    }
    graph.nodes = kept;
    graph.outputs.iter_mut().for_each(rename);
    graph.losses.iter_mut().for_each(|loss| rename(&mut loss.value));
    Ok(())
}

/// Puts nodes in an order in which they can run; says so where there is none, or where a name is made twice or never.
fn sort(graph: &mut Graph) -> Result<(), Error> {
    let mut made: HashSet<String> = graph.inputs.iter().cloned().collect();
    let mut paths = HashSet::new();
    for node in &graph.nodes {
        if !paths.insert(node.path.clone()) {
            crate::bail!("two nodes have the path {}", node.path);
        }
    }
    let mut waiting: BTreeMap<usize, Node> = std::mem::take(&mut graph.nodes).into_iter().enumerate().collect();
    while !waiting.is_empty() {
        let ready = waiting.iter().find(|(_, node)| node.inputs.iter().all(|input| made.contains(input)));
        let Some(index) = ready.map(|(index, _)| *index) else {
            let stuck = waiting.values().next().expect("it is not empty");
            crate::bail!("{}: one of its inputs ({}) is never made before it", stuck.path, stuck.inputs.join(", "));
        };
        let node = waiting.remove(&index).expect("it was just found");
        made.extend(node.outputs.iter().cloned());
        graph.nodes.push(node);
    }
    match graph.outputs.iter().find(|output| !made.contains(*output)) {
        Some(missing) => Err(crate::error!("nothing makes the model's output {missing}")),
        None => Ok(()),
    }
}
