//! Which protocols suit a model and a machine, and why: the answer to `--auto`.
//!
//! A pure function of the graph, the devices and what the locked plugins say of themselves: no plugin is opened.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use unswag_abi::doc::{Device, Graph, ProtocolInfo};

/// What became of one locked protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub protocol: String,
    pub chosen: bool,
    /// Nodes that it claims, by kind.
    pub nodes: BTreeMap<String, usize>,
    /// One sentence for the user.
    pub because: String,
}

/// Judges every protocol; the chosen ones come first, in the order in which they should operate.
///
/// A protocol is eligible if it claims a node, has kernels for a device that is here, and needs no option without a
/// default. Where two claim the same kind, the one made for a device that is here wins, then the one locked first.
pub fn choose(graph: &Graph, devices: &BTreeSet<Device>, protocols: &[ProtocolInfo]) -> Vec<Verdict> {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for node in &graph.nodes {
        *kinds.entry(node.kind.as_str()).or_default() += 1;
    }
    let at_home = |info: &ProtocolInfo| info.home.is_some_and(|home| devices.contains(&home));
    let mut order: Vec<&ProtocolInfo> = protocols.iter().collect();
    order.sort_by_key(|info| !at_home(info));

    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    let mut verdicts = Vec::new();
    for info in order {
        let nodes: BTreeMap<String, usize> =
            info.claims.iter().filter_map(|kind| Some((kind.clone(), *kinds.get(kind.as_str())?))).collect();
        let refusal = refusal(info, &nodes, devices, &taken);
        let chosen = refusal.is_none();
        if chosen {
            for kind in nodes.keys() {
                if let Some(claim) = info.claims.iter().find(|claim| *claim == kind) {
                    taken.insert(claim, &info.id);
                }
            }
        }
        let because = refusal.unwrap_or_else(|| {
            let place = match info.home {
                Some(home) if devices.contains(&home) => format!("made for {}, which is here", device_name(home)),
                Some(home) => format!("made for {}, which is not here; its CPU kernels run", device_name(home)),
                None => "its kernels run here".to_owned(),
            };
            format!("claims {}; {place}", list(&nodes))
        });
        verdicts.push(Verdict { protocol: info.id.clone(), chosen, nodes, because });
    }
    verdicts.sort_by_key(|verdict| !verdict.chosen);
    verdicts
}

fn refusal(
    info: &ProtocolInfo,
    nodes: &BTreeMap<String, usize>,
    devices: &BTreeSet<Device>,
    taken: &BTreeMap<&str, &str>,
) -> Option<String> {
    if nodes.is_empty() {
        return Some(format!("the model has no node of kind {}", info.claims.join(", ")));
    }
    if let Some((kind, other)) = nodes.keys().find_map(|kind| taken.get_key_value(kind.as_str())) {
        return Some(format!("{other} takes the nodes of kind {kind}"));
    }
    // A protocol without ops of its own needs no device: its composites are the host's primitives.
    if !info.devices.is_empty() && !info.devices.iter().any(|device| devices.contains(device)) {
        let wanted: Vec<_> = info.devices.iter().map(|&device| device_name(device)).collect();
        return Some(format!("its kernels need {}, which is not here", wanted.join(" or ")));
    }
    let mandatory = info.options.iter().find(|(_, option)| option.default.is_none());
    mandatory.map(|(name, _)| format!("option {name} has no default; ask for it by --plugin {}:{name}=…", info.id))
}

fn list(nodes: &BTreeMap<String, usize>) -> String {
    let parts: Vec<String> = nodes.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    parts.join(", ")
}

fn device_name(device: Device) -> &'static str {
    match device {
        Device::Cpu => "the CPU",
        Device::Cuda => "an NVIDIA GPU",
        Device::Tpu => "a TPU",
    }
}

#[cfg(test)]
mod tests {
    use unswag_abi::doc::{Node, OptionSpec, OptionType};

    use super::*;

    fn protocol(id: &str, claims: &[&str], devices: &[Device], home: Option<Device>) -> ProtocolInfo {
        ProtocolInfo {
            id: id.into(),
            version: "1.0.0".into(),
            summary: String::new(),
            requires: vec![],
            claims: claims.iter().map(|kind| kind.to_string()).collect(),
            ops: vec![],
            devices: devices.to_vec(),
            home,
            options: Default::default(),
        }
    }

    fn graph(kinds: &[&str]) -> Graph {
        let nodes = kinds.iter().enumerate().map(|(at, kind)| Node {
            path: format!("layers.{at}"),
            kind: kind.to_string(),
            ..Node::default()
        });
        Graph { nodes: nodes.collect(), ..Graph::default() }
    }

    fn chosen(verdicts: &[Verdict]) -> Vec<&str> {
        verdicts.iter().filter(|verdict| verdict.chosen).map(|verdict| verdict.protocol.as_str()).collect()
    }

    use Device::{Cpu, Cuda, Tpu};

    #[test]
    fn activation_decides_what_is_eligible() {
        let protocols = [
            protocol("alpha", &["relu"], &[Cpu, Tpu], Some(Tpu)),
            protocol("delhi", &["swiglu"], &[Cpu, Cuda], Some(Cuda)),
        ];
        let here = BTreeSet::from([Cpu]);
        assert_eq!(chosen(&choose(&graph(&["swiglu"]), &here, &protocols)), ["delhi"]);
        assert_eq!(chosen(&choose(&graph(&["relu"]), &here, &protocols)), ["alpha"]);
        assert_eq!(chosen(&choose(&graph(&["relu", "swiglu"]), &here, &protocols)), ["alpha", "delhi"]);
        assert!(chosen(&choose(&graph(&["linear"]), &here, &protocols)).is_empty());
    }

    #[test]
    fn the_device_at_hand_decides_between_two_claims() {
        let protocols = [
            protocol("first", &["relu"], &[Cpu, Tpu], Some(Tpu)),
            protocol("second", &["relu"], &[Cpu, Cuda], Some(Cuda)),
        ];
        let verdicts = choose(&graph(&["relu"]), &BTreeSet::from([Cpu, Cuda]), &protocols);
        assert_eq!(chosen(&verdicts), ["second"]);
        assert!(verdicts[1].because.contains("second takes the nodes of kind relu"), "{verdicts:?}");
        assert_eq!(chosen(&choose(&graph(&["relu"]), &BTreeSet::from([Cpu]), &protocols)), ["first"]);
    }

    #[test]
    fn a_protocol_without_a_device_here_or_with_a_mandatory_option_is_not_chosen() {
        let mut asks = protocol("asks", &["relu"], &[Cpu], None);
        asks.options.insert(
            "rank".into(),
            OptionSpec {
                kind: OptionType::Integer,
                description: String::new(),
                default: None,
                choices: vec![],
                minimum: None,
                maximum: None,
            },
        );
        let protocols = [protocol("gpu", &["relu"], &[Cuda], Some(Cuda)), asks];
        let verdicts = choose(&graph(&["relu"]), &BTreeSet::from([Cpu]), &protocols);
        assert!(chosen(&verdicts).is_empty());
        assert!(verdicts.iter().any(|v| v.because.contains("an NVIDIA GPU, which is not here")), "{verdicts:?}");
        assert!(verdicts.iter().any(|v| v.because.contains("asks:rank=")), "{verdicts:?}");
    }
}
