//! The graph without the claims that were recorded as unverified: what may be relied on where a plugin's op runs.

use std::{borrow::Cow, collections::HashSet};

use unswag_abi::doc::Graph;

use crate::{
    Model,
    record::{Step, Verified},
};

impl Model {
    /// The model's graph, in which no node stands for a primitive unless its op was found to compute that primitive.
    pub fn verified_graph(&self) -> Cow<'_, Graph> {
        self.verified(&self.graph)
    }

    /// The same of a graph that differs from the model's in its parameters only.
    pub fn verified<'g>(&self, graph: &'g Graph) -> Cow<'g, Graph> {
        let steps = self.record.iter().flat_map(|record| &record.steps);
        let unverified: HashSet<String> = steps.flat_map(unverified_nodes).collect();
        if unverified.is_empty() {
            return Cow::Borrowed(graph);
        }
        let mut graph = graph.clone();
        for node in graph.nodes.iter_mut().filter(|node| unverified.contains(&node.path)) {
            node.stands_for = None;
        }
        Cow::Owned(graph)
    }
}

/// Paths of the nodes of a step whose claim was not verified, be it that the record is older than verification.
fn unverified_nodes(step: &Step) -> Vec<String> {
    let lacks_claims = step.lacks_claims();
    let unverified = || step.claims.iter().filter(|claim| claim.verified == Verified::Unverified);
    let is_unverified = |op: &str, primitive: &str| {
        lacks_claims || unverified().any(|claim| claim.op == op && claim.stands_for == primitive)
    };
    let nodes = step
        .new_nodes()
        .filter(|(_, node)| node.stands_for.as_deref().is_some_and(|primitive| is_unverified(&node.kind, primitive)));
    nodes.map(|(at, node)| node.path(at)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_nodes_whose_claim_was_not_verified_are_listed() {
        let node = |name: &str, kind: &str, stands_for: Option<&str>| json!({"name": name, "kind": kind, "inputs": ["x"], "outputs": [name], "stands_for": stands_for});
        let replace = |at: &str, kind: &str, stands_for| json!({"replace": {"at": at, "with": {"inputs": ["x"], "outputs": ["y"], "nodes": [node("", kind, stands_for)]}}});
        let claim = |op: &str, verified: &str| json!({"op": op, "stands_for": "silu", "nodes": 1, "verified": verified, "detail": ""});
        let mut step: Step = serde_json::from_value(json!({
            "protocol": "mixer", "version": "1", "plugin": {"name": "mixer", "version": "1", "sha256": ""},
            "keeps_forward": false,
            "claims": [claim("mixer.rows", "unverified"), claim("mixer.silu", "bit_for_bit")],
            "patch": {"version": 1, "edits": [
                replace("layers.0.act", "mixer.rows", Some("silu")),
                replace("layers.1.act", "mixer.silu", Some("silu")),
                replace("layers.2.act", "mixer.rows", None),
            ]},
        }))
        .expect("a step");
        assert_eq!(unverified_nodes(&step), ["layers.0.act"]);
        step.claims.clear();
        assert_eq!(unverified_nodes(&step), ["layers.0.act", "layers.1.act"]);
    }
}
