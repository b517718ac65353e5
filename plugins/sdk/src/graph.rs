//! Looking through a graph: what a protocol's `rewrite` asks of it, with errors that help the user.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use unswag_abi::doc::{Attrs, Graph, Node, Param, Region, Value};

use crate::error::Error;

/// Activation kinds, and the protocol made for each. What [`GraphExt::nothing_to_do`] sends the user to.
const MADE_FOR: [(&str, &str); 5] =
    [("swiglu", "delhi"), ("geglu", "delhi"), ("silu", "delhi"), ("gelu", "delhi"), ("relu", "alpha")];

/// How many kinds an error lists before it stops.
const LISTED_KINDS: usize = 6;

/// Questions to a graph.
pub trait GraphExt {
    /// Nodes of this kind, in the order in which they run.
    fn of_kind<'g>(&'g self, kind: &'g str) -> impl Iterator<Item = &'g Node>;

    /// How many nodes there are of each kind.
    fn kind_counts(&self) -> BTreeMap<&str, usize>;

    /// The node at a path.
    ///
    /// # Errors
    /// There is none.
    fn node_at(&self, path: &str) -> Result<&Node, Error>;

    /// The nodes at and under a path, with what they use and make; see [`Graph::region`].
    ///
    /// # Errors
    /// There are none.
    fn region_at(&self, path: &str) -> Result<Region, Error>;

    /// The type of a value.
    ///
    /// # Errors
    /// There is none of this name: the graph is damaged.
    fn value(&self, name: &str) -> Result<&Value, Error>;

    /// The parameter in this role of a node, with its name.
    ///
    /// # Errors
    /// The node has no such role, or the graph no such parameter.
    fn param_of<'g>(&'g self, node: &'g Node, role: &str) -> Result<(&'g str, &'g Param), Error>;

    /// Whether a node besides `except` uses a parameter.
    fn param_is_shared(&self, name: &str, except: &str) -> bool;

    /// The error for a protocol that finds nothing to do: `what` it looked for, in words, and the kinds that would have
    /// been that. Says what the graph has instead, and which protocol is made for it where those are activations:
    /// `no ReLU here: 30 nodes of kind swiglu; try delhi`.
    fn nothing_to_do(&self, what: &str, kinds: &[&str]) -> Error;
}

impl GraphExt for Graph {
    fn of_kind<'g>(&'g self, kind: &'g str) -> impl Iterator<Item = &'g Node> {
        self.nodes.iter().filter(move |node| node.kind == kind)
    }

    fn kind_counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for node in &self.nodes {
            *counts.entry(node.kind.as_str()).or_default() += 1;
        }
        counts
    }

    fn node_at(&self, path: &str) -> Result<&Node, Error> {
        self.node(path).ok_or_else(|| crate::error!("{path}: the graph has no such node"))
    }

    fn region_at(&self, path: &str) -> Result<Region, Error> {
        self.region(path).ok_or_else(|| crate::error!("{path}: the graph has no node at or under this path"))
    }

    fn value(&self, name: &str) -> Result<&Value, Error> {
        self.values
            .get(name)
            .ok_or_else(|| crate::error!("{name}: a node uses this value but the graph does not describe it"))
    }

    fn param_of<'g>(&'g self, node: &'g Node, role: &str) -> Result<(&'g str, &'g Param), Error> {
        let Some(name) = node.params.get(role) else {
            let roles = Vec::from_iter(node.params.keys().map(String::as_str));
            let roles = if roles.is_empty() { "none".to_owned() } else { roles.join(", ") };
            crate::bail!("{}: expected a {} with a parameter {role}, got {roles}", node.path, node.kind);
        };
        let param = self
            .params
            .get(name)
            .ok_or_else(|| crate::error!("{}: its {role} {name} is not among the graph's parameters", node.path))?;
        Ok((name, param))
    }

    fn param_is_shared(&self, name: &str, except: &str) -> bool {
        self.nodes.iter().any(|node| node.path != except && node.params.values().any(|used| used == name))
    }

    fn nothing_to_do(&self, what: &str, kinds: &[&str]) -> Error {
        let counts = self.kind_counts();
        if counts.is_empty() {
            return crate::error!("no {what} here: the graph is empty");
        }
        // Another protocol helps only somebody who looked for what it is made for: an activation.
        let for_activations = kinds.iter().any(|wanted| MADE_FOR.iter().any(|(kind, _)| kind == wanted));
        let is_other = |kind: &str| for_activations && counts.contains_key(kind) && !kinds.contains(&kind);
        let others = Vec::from_iter(MADE_FOR.iter().filter(|(kind, _)| is_other(kind)));
        let rewritten = Vec::from_iter(counts.keys().copied().filter(|kind| kind.contains('.')));
        let listed = |kinds: &[&str]| {
            let kinds = Vec::from_iter(kinds.iter().map(|kind| (*kind, counts[kind])));
            let texts = kinds.iter().map(|(kind, count)| match count {
                1 => format!("1 node of kind {kind}"),
                count => format!("{count} nodes of kind {kind}"),
            });
            Vec::from_iter(texts).join(", ")
        };
        if !others.is_empty() {
            let kinds = Vec::from_iter(others.iter().map(|(kind, _)| *kind));
            let mut protocols = Vec::from_iter(others.iter().map(|(_, protocol)| *protocol));
            protocols.dedup();
            return crate::error!("no {what} here: {}; try {}", listed(&kinds), protocols.join(" or "));
        }
        if !rewritten.is_empty() {
            return crate::error!(
                "no {what} here: {} from an earlier surgery; start from the base",
                listed(&rewritten)
            );
        }
        let mut most = Vec::from_iter(counts.keys().copied());
        most.sort_by_key(|kind| std::cmp::Reverse(counts[kind]));
        let more = most.len().saturating_sub(LISTED_KINDS);
        most.truncate(LISTED_KINDS);
        let more = if more == 0 { String::new() } else { format!(" and {more} more kinds") };
        crate::error!("no {what} here: {}{more}; choose a protocol that claims one of them", listed(&most))
    }
}

/// Typed reading of attributes.
pub trait AttrsExt {
    /// An attribute, or `None` where it is absent or null.
    ///
    /// # Errors
    /// It has another type.
    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error>;

    /// An attribute that must be there.
    ///
    /// # Errors
    /// It is absent, or has another type.
    fn require<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        self.read(name)?.ok_or_else(|| crate::error!("attribute {name:?} is missing"))
    }
}

impl AttrsExt for Attrs {
    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        match self.get(name) {
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(value) => {
                let read = T::deserialize(value);
                Ok(Some(read.map_err(|error| crate::error!("attribute {name:?}: got {value}: {error}"))?))
            }
        }
    }
}
