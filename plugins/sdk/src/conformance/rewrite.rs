//! `rewrite` on the sample graphs: what it may answer, and what its answer must hold to.

use unswag_abi::doc::{Edit, Graph, Patch, ProtocolInfo};

use super::{
    Case, Checks, Suite, Verdict,
    calls::{self, Use},
    not_a_panic, samples,
};
use crate::{error::Error, graph::GraphExt, test::ProtocolTest};

/// Whether a sample graph has a kind that it says it rewrites.
pub(super) fn claims_a_sample(info: &ProtocolInfo) -> bool {
    samples().any(|(_, graph)| has_claimed(info, &graph))
}

fn has_claimed(info: &ProtocolInfo, graph: &Graph) -> bool {
    info.claims.iter().any(|kind| graph.of_kind(kind).next().is_some())
}

/// Checks every family; gives each distinct use of its own ops in the patched graphs, and counts those rewritten.
pub(super) fn check(
    suite: &Suite<'_>,
    case: &Case<'_>,
    protocol: &ProtocolTest,
    checks: &mut Checks<'_>,
    rewritten: &mut usize,
) -> Vec<Use> {
    let mut uses = Vec::new();
    for (family, graph) in samples() {
        let subject = format!("{} on {family}", case.subject);
        let outcome = protocol.rewrite(&graph);
        let patch = match &outcome {
            Err(_) => {
                checks.run(&subject, "says why it does nothing", || refusal(case.info, &graph, &outcome));
                continue;
            }
            Ok(patch) => patch,
        };
        *rewritten += 1;
        checks.run(&subject, "gives the same patch each time", || {
            let text = serde_json::to_string(&graph)?;
            let first = protocol.rewrite_text(&text)?;
            let again = [protocol.rewrite_text(&text)?, case.open()?.rewrite_text(&text)?];
            if again.iter().any(|text| *text != first) {
                crate::bail!(
                    "the same graph gave two patches; a hash map's order, a clock or a random number is in it"
                );
            }
            Ok(Verdict::Pass)
        });
        checks.run(&subject, "changes only what it claims", || within_claims(case.info, &graph, patch));
        let applied =
            checks.value(&subject, "gives a patch that the host takes", || suite.applied(protocol, &graph, patch));
        let Some(applied) = applied else { continue };
        checks.run(&subject, "does nothing the second time", || idempotent(suite, protocol, &applied));
        for found in calls::uses(&graph, &applied, patch) {
            match found {
                Ok(found) if !uses.contains(&found) => uses.push(found),
                Ok(_) => {}
                Err(why) => checks.run(&subject, "its ops can be tried", || Ok(Verdict::Skip(why))),
            }
        }
    }
    uses
}

fn refusal(info: &ProtocolInfo, graph: &Graph, outcome: &Result<Patch, Error>) -> Result<Verdict, Error> {
    not_a_panic(outcome)?;
    let Err(error) = outcome else { return Ok(Verdict::Pass) };
    if has_claimed(info, graph) {
        // It may have a reason: a mode that a family cannot take. The reason is the user's to read.
        return Ok(Verdict::Measured(format!("refused: {error}")));
    }
    let counts = graph.kind_counts();
    if counts.keys().any(|kind| error.message().contains(kind)) {
        return Ok(Verdict::Measured(error.message().to_owned()));
    }
    Err(crate::error!("expected an error that says what the graph has instead (`nothing_to_do`), got: {error}"))
}

fn within_claims(info: &ProtocolInfo, graph: &Graph, patch: &Patch) -> Result<Verdict, Error> {
    if patch.edits.is_empty() {
        crate::bail!("an empty patch; a protocol that finds nothing to do must say so");
    }
    for edit in &patch.edits {
        let Edit::Replace { at, with } = edit else { continue };
        if let Some(region) = graph.region(at) {
            let mut kinds = region.nodes.iter().map(|&index| graph.nodes[index].kind.as_str());
            if !info.claims.is_empty() && !kinds.any(|kind| info.claims.iter().any(|claim| claim == kind)) {
                crate::bail!(
                    "it replaces {at}, where there is no node of a kind that it claims ({})",
                    info.claims.join(", ")
                );
            }
        }
        let own = with.nodes.iter().filter(|node| node.kind.contains('.'));
        if let Some(node) = own.into_iter().find(|node| !info.ops.contains(&node.kind)) {
            crate::bail!("it uses the op {}, which its manifest does not list", node.kind);
        }
    }
    if let Some(missing) = patch.requires.iter().find(|feature| !info.requires.contains(feature)) {
        crate::bail!(
            "its patch requires {missing:?}, which its manifest does not; it could be refused before it is opened"
        );
    }
    Ok(Verdict::Pass)
}

fn idempotent(suite: &Suite<'_>, protocol: &ProtocolTest, applied: &Graph) -> Result<Verdict, Error> {
    let outcome = protocol.rewrite(applied);
    not_a_panic(&outcome)?;
    match outcome {
        Err(_) => Ok(Verdict::Pass),
        Ok(patch) => {
            let twice = suite.applied(protocol, applied, &patch)?;
            if twice == *applied {
                Ok(Verdict::Pass)
            } else {
                Err(Error::new("rewriting its own result changes it again"))
            }
        }
    }
}
