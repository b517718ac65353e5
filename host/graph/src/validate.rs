//! Whether a graph document is well formed: what a reader may then rely on.
//!
//! The document may come from a plugin or a file that somebody edited. One pass over nodes, values and parameters, each
//! looked up by hash; nothing is allocated by a number that the document states.

use std::collections::{BTreeSet, HashMap, HashSet};

use unswag_abi::doc::{Attrs, Dim, Dtype, Graph, Node, Param, Value};

use crate::{
    kinds::{self, KindError, show_value},
    names,
    sizes::Sizes,
};

/// Real tensors have at most five dimensions or so.
const MOST_DIMENSIONS: usize = 8;

/// Why a graph is not well formed. Nothing of it should then be believed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    #[error("graph: version: expected {}, got {got}; it was written by another version of unswag", Graph::VERSION)]
    Version { got: u32 },
    #[error("graph: {what} `{name}`: {why}")]
    Name { what: &'static str, name: String, why: String },
    #[error("graph: {what} `{name}` stands twice; expected every {what} once")]
    Duplicate { what: &'static str, name: String },
    #[error("graph: {what} `{name}`: {why}")]
    Type { what: &'static str, name: String, why: String },
    #[error("graph: node {path}: {fault}")]
    Node { path: String, fault: Box<NodeFault> },
    #[error("graph: value `{name}` has a type, but no node and no input of the graph makes it")]
    Orphan { name: String },
    #[error("graph: parameter `{name}` is used by no node; drop it, or use it")]
    Unused { name: String },
    #[error("graph: {place}: there is no {what} `{name}`")]
    Dangling { place: String, what: &'static str, name: String },
    #[error("graph: {place}: expected {expected}, got {got}")]
    Entry { place: String, expected: String, got: String },
}

/// Why one node does not fit the graph around it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeFault {
    #[error("{0}")]
    Kind(Box<KindError>),
    #[error("input `{value}` does not exist; expected an input of the graph or an earlier node's output")]
    NoValue { value: String },
    #[error(
        "input `{value}` is made by a later node; expected nodes in an order in which they can run, without cycles"
    )]
    Order { value: String },
    #[error("parameter `{param}` (role {role}) does not exist")]
    NoParam { role: String, param: String },
    #[error("outputs: expected {expected}, got {got}")]
    Outputs { expected: String, got: String },
    #[error("output {index}: expected {expected}, which is what {kind} gives, got {got}")]
    Output { index: usize, kind: String, expected: String, got: String },
    #[error("stands_for: {why}")]
    StandsFor { why: String },
    #[error("saves: {why}")]
    Saves { why: String },
}

impl From<KindError> for NodeFault {
    fn from(error: KindError) -> Self {
        NodeFault::Kind(Box::new(error))
    }
}

/// Checks the whole document.
///
/// After `Ok`: paths, values and parameters are unique and named by the rules; every node's inputs come before it; every
/// primitive fits its kind and states the types that the kind infers; every parameter is used; no size overflows; cache
/// slots, losses and outputs refer to what exists. A plugin's op is checked for all of this but its types, which only
/// its plugin knows.
///
/// # Errors
/// The first defect found, with its place.
pub fn validate(graph: &Graph) -> Result<(), GraphError> {
    if graph.version != Graph::VERSION {
        return Err(GraphError::Version { got: graph.version });
    }
    let symbols = check_inputs(graph)?;
    for (name, value) in &graph.values {
        names::check(name).map_err(|why| bad_name("value", name, why))?;
        check_value(value, &symbols).map_err(|why| bad_type("value", name, why))?;
    }
    for (name, param) in &graph.params {
        names::check(name).map_err(|why| bad_name("parameter", name, why))?;
        check_sizes(param.dtype, &param.shape).map_err(|why| bad_type("parameter", name, why))?;
    }
    let used = check_nodes(graph)?;
    if let Some(name) = graph.params.keys().find(|name| !used.contains(name.as_str())) {
        return Err(GraphError::Unused { name: names::quoted(name) });
    }
    for name in &graph.outputs {
        if !graph.values.contains_key(name) {
            return Err(dangling("outputs", "value", name));
        }
    }
    check_cache(graph, &symbols)?;
    check_losses(graph)
}

/// The graph's inputs; returns the symbols that their shapes introduce.
fn check_inputs(graph: &Graph) -> Result<HashSet<&str>, GraphError> {
    let mut seen = HashSet::new();
    let mut symbols = HashSet::new();
    for name in &graph.inputs {
        if !seen.insert(name) {
            return Err(GraphError::Duplicate { what: "input", name: names::quoted(name) });
        }
        let value = graph.values.get(name).ok_or_else(|| dangling("inputs", "value", name))?;
        symbols.extend(symbols_of(&value.shape));
    }
    Ok(symbols)
}

pub(crate) fn symbols_of(shape: &[Dim]) -> impl Iterator<Item = &str> {
    shape.iter().filter_map(|dim| match dim {
        Dim::Symbol(name) => Some(name.as_str()),
        Dim::Fixed(_) => None,
    })
}

/// Few enough dimensions, no size that overflows, no symbol that no input of the graph fixes.
pub(crate) fn check_value<S: AsRef<str> + std::hash::Hash + Eq + std::borrow::Borrow<str>>(
    value: &Value,
    symbols: &HashSet<S>,
) -> Result<(), String> {
    if let Some(unknown) = symbols_of(&value.shape).find(|name| !symbols.contains(*name)) {
        let unknown = names::quoted(unknown);
        return Err(format!(
            "the size `{unknown}` is fixed by no input of the graph; expected a number or a size that is"
        ));
    }
    check_sizes(value.dtype, &Sizes::REFERENCE.meta(value).shape)
}

/// Few enough dimensions, and a number of bytes that fits.
pub(crate) fn check_sizes(dtype: Dtype, shape: &[u64]) -> Result<(), String> {
    if shape.len() > MOST_DIMENSIONS {
        return Err(format!("expected at most {MOST_DIMENSIONS} dimensions, got {}", shape.len()));
    }
    let bytes = shape.iter().try_fold(dtype.bytes(), |product, &size| product.checked_mul(size));
    match bytes {
        Some(bytes) if bytes <= i64::MAX as u64 => Ok(()),
        _ => Err(format!("expected a size that fits 63 bits, got {dtype} {}", kinds::show_shape(shape))),
    }
}

/// Every node in its place; returns the parameters that are used.
fn check_nodes(graph: &Graph) -> Result<HashSet<&str>, GraphError> {
    let mut paths = HashSet::with_capacity(graph.nodes.len());
    let mut made: HashSet<&str> = graph.inputs.iter().map(String::as_str).collect();
    let mut used = HashSet::with_capacity(graph.params.len());
    for node in &graph.nodes {
        names::check_path(&node.path).map_err(|why| bad_name("node", &node.path, why))?;
        if !paths.insert(node.path.as_str()) {
            return Err(GraphError::Duplicate { what: "node", name: names::quoted(&node.path) });
        }
        let at = |fault| GraphError::Node { path: node.path.clone(), fault: Box::new(fault) };
        check_node(graph, node, &made).map_err(at)?;
        for name in &node.outputs {
            if !made.insert(name) {
                return Err(GraphError::Duplicate { what: "value", name: names::quoted(name) });
            }
        }
        used.extend(node.params.values().map(String::as_str));
    }
    match graph.values.keys().find(|name| !made.contains(name.as_str())) {
        Some(name) => Err(GraphError::Orphan { name: names::quoted(name) }),
        None => Ok(used),
    }
}

fn check_node(graph: &Graph, node: &Node, made: &HashSet<&str>) -> Result<(), NodeFault> {
    let mut inputs = Vec::with_capacity(node.inputs.len());
    for name in &node.inputs {
        let known = graph.values.get(name).ok_or_else(|| NodeFault::NoValue { value: names::quoted(name) })?;
        if !made.contains(name.as_str()) {
            return Err(NodeFault::Order { value: names::quoted(name) });
        }
        inputs.push(known);
    }
    let mut params = Vec::with_capacity(node.params.len());
    for (role, name) in &node.params {
        let missing = || NodeFault::NoParam { role: names::quoted(role), param: names::quoted(name) };
        params.push((role.as_str(), graph.params.get(name).ok_or_else(missing)?));
    }
    let mut stated = Vec::with_capacity(node.outputs.len());
    for (index, name) in node.outputs.iter().enumerate() {
        let value = graph.values.get(name).filter(|_| names::is_output(name, &node.path, index));
        let wrong = || NodeFault::Outputs {
            expected: format!("output {index} to be a typed value named {}", names::output(&node.path, index)),
            got: names::quoted(name),
        };
        stated.push(value.ok_or_else(wrong)?);
    }
    check_types(&node.kind, &inputs, &params, &node.attrs, &stated)?;
    check_stands_for(node.stands_for.as_deref(), &node.kind, &inputs, &params, &node.attrs, &stated)?;
    check_saves(node)
}

/// A primitive's stated outputs are what its kind infers; a plugin's op has at least one.
pub(crate) fn check_types(
    kind: &str,
    inputs: &[&Value],
    params: &[(&str, &Param)],
    attrs: &Attrs,
    stated: &[&Value],
) -> Result<(), NodeFault> {
    if kinds::is_plugin_op(kind) {
        names::check_path(kind).map_err(|_| KindError::Unknown(names::quoted(kind)))?;
        return match stated.is_empty() {
            true => Err(NodeFault::Outputs { expected: "at least one".to_owned(), got: "none".to_owned() }),
            false => Ok(()),
        };
    }
    let inferred = kinds::infer(kind, inputs, params, attrs)?;
    if inferred.len() != stated.len() {
        return Err(NodeFault::Outputs {
            expected: format!("{} for this {kind}", inferred.len()),
            got: stated.len().to_string(),
        });
    }
    match inferred.iter().zip(stated).position(|(inferred, stated)| inferred != *stated) {
        None => Ok(()),
        Some(index) => Err(NodeFault::Output {
            index,
            kind: kind.to_owned(),
            expected: show_value(&inferred[index]),
            got: show_value(stated[index]),
        }),
    }
}

/// The primitive that an op claims to equal exists and gives the same types for the same inputs and parameters. The op's
/// attributes that the primitive does not know (`mode`) are its own affair.
pub(crate) fn check_stands_for(
    stands_for: Option<&str>,
    kind: &str,
    inputs: &[&Value],
    params: &[(&str, &Param)],
    attrs: &Attrs,
    stated: &[&Value],
) -> Result<(), NodeFault> {
    let Some(primitive) = stands_for else { return Ok(()) };
    let wrong = |why| NodeFault::StandsFor { why };
    if !kinds::is_plugin_op(kind) {
        return Err(wrong(format!("{kind} is a host primitive already; expected a plugin's op")));
    }
    let known =
        kinds::find(primitive).ok_or_else(|| wrong(KindError::Unknown(names::quoted(primitive)).to_string()))?;
    let shared: Attrs = attrs
        .iter()
        .filter(|(name, _)| known.attrs.iter().any(|attr| attr.name == name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    check_types(primitive, inputs, params, &shared, stated).map_err(|fault| wrong(fault.to_string()))
}

fn check_saves(node: &Node) -> Result<(), NodeFault> {
    let wrong = |why| Err(NodeFault::Saves { why });
    let finite = |bytes: f64| bytes.is_finite() && bytes >= 0.0;
    if !node.saved_bytes_per_token.is_none_or(finite) {
        return wrong("saved_bytes_per_token: expected a finite number of at least 0".to_owned());
    }
    let Some(saves) = &node.saves else { return Ok(()) };
    if !finite(saves.own_bytes_per_token) {
        return wrong("own_bytes_per_token: expected a finite number of at least 0".to_owned());
    }
    let lists = [
        ("inputs", &saves.inputs, node.inputs.len() + node.params.len()),
        ("outputs", &saves.outputs, node.outputs.len()),
        ("rematerializes", &saves.rematerializes, node.outputs.len()),
    ];
    for (name, list, count) in lists {
        if let Some(index) = list.iter().find(|&&index| index >= count) {
            return wrong(format!("{name}: expected numbers below {count}, got {index}"));
        }
    }
    Ok(())
}

fn check_cache(graph: &Graph, symbols: &HashSet<&str>) -> Result<(), GraphError> {
    if graph.cache.is_empty() {
        return Ok(());
    }
    let paths: BTreeSet<&str> = graph.nodes.iter().map(|node| node.path.as_str()).collect();
    let mut seen = HashSet::new();
    for slot in &graph.cache {
        let label = || format!("{}/{}", names::quoted(&slot.at), names::quoted(&slot.name));
        let place = || format!("cache slot {}", label());
        let under = format!("{}.", slot.at);
        let first_under = paths.range(under.as_str()..).next();
        if !paths.contains(slot.at.as_str()) && !first_under.is_some_and(|path| path.starts_with(&under)) {
            return Err(dangling(&place(), "node or block", &slot.at));
        }
        names::check_path(&slot.name).map_err(|why| bad_name("cache slot", &slot.name, why))?;
        if !seen.insert((&slot.at, &slot.name)) {
            return Err(GraphError::Duplicate { what: "cache slot", name: label() });
        }
        let value = Value { dtype: slot.dtype, shape: slot.shape.clone() };
        check_value(&value, symbols).map_err(|why| bad_type("cache slot", &label(), why))?;
    }
    Ok(())
}

fn check_losses(graph: &Graph) -> Result<(), GraphError> {
    let mut seen = HashMap::new();
    for loss in &graph.losses {
        let place = || format!("loss {}", names::quoted(&loss.name));
        names::check_path(&loss.name).map_err(|why| bad_name("loss", &loss.name, why))?;
        if seen.insert(&loss.name, ()).is_some() {
            return Err(GraphError::Duplicate { what: "loss", name: names::quoted(&loss.name) });
        }
        let value = graph.values.get(&loss.value).ok_or_else(|| dangling(&place(), "value", &loss.value))?;
        check_loss(value, loss.weight).map_err(|(expected, got)| GraphError::Entry {
            place: place(),
            expected,
            got,
        })?;
    }
    Ok(())
}

/// A loss adds a finite multiple of one number.
pub(crate) fn check_loss(value: &Value, weight: f64) -> Result<(), (String, String)> {
    if !value.dtype.is_float() || !value.shape.is_empty() {
        return Err(("a floating-point scalar, shape []".to_owned(), show_value(value)));
    }
    match weight.is_finite() {
        true => Ok(()),
        false => Err(("a finite weight".to_owned(), weight.to_string())),
    }
}

fn bad_name(what: &'static str, name: &str, why: String) -> GraphError {
    GraphError::Name { what, name: names::quoted(name), why }
}

fn bad_type(what: &'static str, name: &str, why: String) -> GraphError {
    GraphError::Type { what, name: names::quoted(name), why }
}

fn dangling(place: &str, what: &'static str, name: &str) -> GraphError {
    GraphError::Dangling { place: place.to_owned(), what, name: names::quoted(name) }
}
