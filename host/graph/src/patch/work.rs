//! A graph under surgery: the document with indexes, so that an edit costs what it touches and not the whole model.
//!
//! Nodes stand in slots and are ordered by labels with gaps, so that new nodes go where the old ones stood.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use indexmap::IndexMap;
use unswag_abi::doc::{CacheSlot, Graph, Loss, Node, Param, Value};

use super::PatchFault;
use crate::{names, validate::symbols_of};

/// Room between two neighbours, so that many edits fit before labels are dealt anew.
const GAP: u64 = 1 << 32;

pub(super) struct Work<'g> {
    base: &'g Graph,
    nodes: Vec<Option<Node>>,
    labels: Vec<u64>,
    order: BTreeMap<u64, usize>,
    by_path: BTreeMap<String, usize>,
    values: HashMap<String, Value>,
    /// Who makes a value; the graph's inputs are not in it.
    producer: HashMap<String, usize>,
    users: HashMap<String, BTreeSet<usize>>,
    params: IndexMap<String, Param>,
    param_users: HashMap<String, BTreeSet<usize>>,
    /// Parameters whose last user went, and the edit that took it.
    freed: HashMap<String, usize>,
    outputs: Vec<String>,
    losses: IndexMap<String, Loss>,
    cache: IndexMap<(String, String), CacheSlot>,
    /// Sizes that the graph's inputs fix.
    pub symbols: HashSet<String>,
}

/// As [`unswag_abi::doc::Region`], in slots.
#[derive(Default)]
pub(super) struct WorkRegion {
    pub slots: Vec<usize>,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
}

impl<'g> Work<'g> {
    pub fn new(graph: &'g Graph) -> Self {
        let inputs = graph.inputs.iter().filter_map(|name| graph.values.get(name));
        let mut work = Work {
            base: graph,
            nodes: Vec::with_capacity(graph.nodes.len()),
            labels: Vec::with_capacity(graph.nodes.len()),
            order: BTreeMap::new(),
            by_path: BTreeMap::new(),
            values: graph.values.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            producer: HashMap::new(),
            users: HashMap::new(),
            params: graph.params.clone(),
            param_users: HashMap::new(),
            freed: HashMap::new(),
            outputs: graph.outputs.clone(),
            losses: graph.losses.iter().map(|loss| (loss.name.clone(), loss.clone())).collect(),
            cache: graph.cache.iter().map(|slot| ((slot.at.clone(), slot.name.clone()), slot.clone())).collect(),
            symbols: inputs.flat_map(|value| symbols_of(&value.shape)).map(str::to_owned).collect(),
        };
        for (i, node) in graph.nodes.iter().enumerate() {
            work.insert((i as u64 + 1) * GAP, node.clone());
        }
        work
    }

    pub fn slot(&self, path: &str) -> Option<usize> {
        self.by_path.get(path).copied()
    }

    pub fn node(&self, slot: usize) -> &Node {
        self.nodes[slot].as_ref().expect("a slot from an index holds a node")
    }

    /// Changes a node's attributes and notes; its path, inputs, outputs and parameters stay.
    pub fn set_node(&mut self, slot: usize, node: Node) {
        self.nodes[slot] = Some(node);
    }

    pub fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    pub fn param(&self, name: &str) -> Option<&Param> {
        self.params.get(name)
    }

    pub fn has_param(&self, name: &str) -> bool {
        self.params.contains_key(name)
    }

    pub fn set_param(&mut self, name: &str, param: Param) {
        self.params.insert(name.to_owned(), param);
    }

    /// In constant time; `into_graph` restores the order.
    pub fn drop_param(&mut self, name: &str) {
        self.params.swap_remove(name);
    }

    pub fn users_of_param(&self, name: &str) -> impl Iterator<Item = usize> {
        self.param_users.get(name).into_iter().flatten().copied()
    }

    pub fn unused_param(&self) -> Option<&str> {
        let used = |name: &str| self.param_users.get(name).is_some_and(|users| !users.is_empty());
        self.params.keys().map(String::as_str).find(|name| !used(name))
    }

    pub fn freed_by(&self, param: &str) -> Option<usize> {
        self.freed.get(param).copied()
    }

    /// Base parameters that are gone, in the base's order.
    pub fn dropped(&self) -> Vec<String> {
        self.base.params.keys().filter(|name| !self.params.contains_key(*name)).cloned().collect()
    }

    /// False where the slot exists already.
    pub fn add_cache(&mut self, slot: CacheSlot) -> bool {
        self.cache.insert((slot.at.clone(), slot.name.clone()), slot).is_none()
    }

    /// False where a loss of this name exists already.
    pub fn add_loss(&mut self, loss: Loss) -> bool {
        self.losses.insert(loss.name.clone(), loss).is_none()
    }

    pub fn no_such_place(&self, at: &str, node_only: bool) -> PatchFault {
        let is_block = node_only && !self.slots_under(at).is_empty();
        let nearest = || {
            let parent = at.rsplit_once('.').map_or("", |(parent, _)| parent);
            self.slots_under(parent).first().map(|&slot| format!("; near it is {}", self.node(slot).path))
        };
        let hint = match is_block {
            true => "; it is a block of several nodes, expected one node".to_owned(),
            false => nearest().unwrap_or_default(),
        };
        let what = if node_only { "node" } else { "node or block" };
        PatchFault::NoSuchPlace { what, at: names::quoted(at), hint }
    }

    /// The node at `at` and all under it, in order, with what crosses the border. Empty where there is none.
    pub fn region(&self, at: &str) -> WorkRegion {
        let mut slots = self.slots_under(at);
        slots.sort_unstable_by_key(|&slot| self.labels[slot]);
        let inside: HashSet<usize> = slots.iter().copied().collect();
        let mut region = WorkRegion::default();
        let mut seen = HashSet::new();
        // Few regions contain a model output or a loss, but a region must know if it does.
        let kept: HashSet<&str> = match slots.is_empty() {
            true => HashSet::new(),
            false => {
                self.outputs.iter().chain(self.losses.values().map(|loss| &loss.value)).map(String::as_str).collect()
            }
        };
        for &slot in &slots {
            let node = self.node(slot);
            for name in &node.inputs {
                let from_inside = self.producer.get(name).is_some_and(|slot| inside.contains(slot));
                if !from_inside && seen.insert(name) {
                    region.inputs.push(name.clone());
                }
            }
            for name in &node.outputs {
                let mut users = self.users.get(name).into_iter().flatten();
                if kept.contains(name.as_str()) || users.any(|user| !inside.contains(user)) {
                    region.outputs.push(name.clone());
                }
            }
        }
        region.slots = slots;
        region
    }

    fn slots_under(&self, at: &str) -> Vec<usize> {
        if at.is_empty() {
            return Vec::new();
        }
        let under = format!("{at}.");
        let children = self.by_path.range(under.clone()..).take_while(|(path, _)| path.starts_with(&under));
        self.by_path.get(at).copied().into_iter().chain(children.map(|(_, &slot)| slot)).collect()
    }

    /// Who, outside `inside`, uses each of `values`; to be asked before the region is taken out.
    pub fn users_outside(&self, values: &[String], inside: &[usize]) -> Vec<usize> {
        let inside: HashSet<usize> = inside.iter().copied().collect();
        let users = values.iter().filter_map(|name| self.users.get(name)).flatten().copied();
        users.filter(|slot| !inside.contains(slot)).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Takes a region out; what used its values dangles until [`Work::rename`].
    pub fn remove(&mut self, region: &WorkRegion, edit: usize) {
        for &slot in &region.slots {
            let node = self.nodes[slot].take().expect("a region's slot holds a node");
            self.order.remove(&self.labels[slot]);
            self.by_path.remove(&node.path);
            for name in &node.inputs {
                if let Some(users) = self.users.get_mut(name) {
                    users.remove(&slot);
                }
            }
            for name in &node.outputs {
                self.values.remove(name);
                self.producer.remove(name);
                self.users.remove(name);
            }
            for name in node.params.values() {
                if let Some(users) = self.param_users.get_mut(name) {
                    users.remove(&slot);
                    if users.is_empty() {
                        self.freed.insert(name.clone(), edit);
                    }
                }
            }
        }
    }

    /// Labels for `count` new nodes where `region`, just taken out, began.
    pub fn labels_at(&mut self, region: &WorkRegion, count: usize) -> Vec<u64> {
        let mut first = region.slots.first().map_or(0, |&slot| self.labels[slot]);
        let mut next = self.next_label(first);
        if (next - first) / (count as u64 + 1) == 0 {
            // Deal all labels anew, with the first free slot of the region where it was.
            let before = self.order.range(..first).count() as u64;
            let slots: Vec<usize> = self.order.values().copied().collect();
            self.order.clear();
            for (i, &slot) in slots.iter().enumerate() {
                let shifted = i as u64 + 1 + u64::from(i as u64 >= before);
                self.labels[slot] = shifted * GAP;
                self.order.insert(shifted * GAP, slot);
            }
            first = (before + 1) * GAP;
            next = self.next_label(first);
        }
        let step = (next - first) / (count as u64 + 1);
        (0..count as u64).map(|i| first + i * step).collect()
    }

    fn next_label(&self, label: u64) -> u64 {
        self.order.range(label..).next().map_or(label.saturating_add(GAP), |(&next, _)| next)
    }

    pub fn has_path(&self, path: &str) -> bool {
        self.by_path.contains_key(path)
    }

    pub fn add_value(&mut self, name: &str, value: Value) -> bool {
        self.values.insert(name.to_owned(), value).is_none()
    }

    /// Puts a node in; its outputs' types are already known.
    pub fn insert(&mut self, label: u64, node: Node) -> usize {
        let slot = self.nodes.len();
        self.by_path.insert(node.path.clone(), slot);
        for name in &node.inputs {
            self.users.entry(name.clone()).or_default().insert(slot);
        }
        for name in &node.outputs {
            self.producer.insert(name.clone(), slot);
        }
        for name in node.params.values() {
            self.param_users.entry(name.clone()).or_default().insert(slot);
        }
        self.order.insert(label, slot);
        self.labels.push(label);
        self.nodes.push(Some(node));
        slot
    }

    /// Makes `users`, the model's outputs and the losses read the new names of old values, all at once.
    pub fn rename(&mut self, users: &[usize], names: &HashMap<String, String>) {
        for &slot in users {
            let node = self.nodes[slot].as_mut().expect("a user outside the region is still there");
            for input in &mut node.inputs {
                if let Some(new) = names.get(input) {
                    input.clone_from(new);
                }
            }
            for input in &node.inputs {
                self.users.entry(input.clone()).or_default().insert(slot);
            }
        }
        let kept = self.outputs.iter_mut().chain(self.losses.values_mut().map(|loss| &mut loss.value));
        for value in kept {
            if let Some(new) = names.get(value) {
                value.clone_from(new);
            }
        }
    }

    /// Restores an order in which the nodes can run, if these slots broke it; nodes keep their places where they can.
    pub fn settle(&mut self, slots: &[usize]) -> Result<(), PatchFault> {
        let late = |slot: usize| {
            let mut inputs = self.node(slot).inputs.iter().filter_map(|name| self.producer.get(name));
            inputs.any(|&producer| self.labels[producer] >= self.labels[slot])
        };
        if !slots.iter().any(|&slot| late(slot)) {
            return Ok(());
        }
        let mut waits: Vec<usize> = vec![0; self.nodes.len()];
        let mut ready = BTreeSet::new();
        for &slot in self.order.values() {
            let producers: BTreeSet<usize> =
                self.node(slot).inputs.iter().filter_map(|name| self.producer.get(name)).copied().collect();
            waits[slot] = producers.len();
            if producers.is_empty() {
                ready.insert((self.labels[slot], slot));
            }
        }
        let mut sorted = Vec::with_capacity(self.order.len());
        while let Some((_, slot)) = ready.pop_first() {
            sorted.push(slot);
            let node = self.nodes[slot].as_ref().expect("an ordered slot holds a node");
            let consumers: BTreeSet<usize> =
                node.outputs.iter().filter_map(|name| self.users.get(name)).flatten().copied().collect();
            for user in consumers {
                waits[user] -= 1;
                if waits[user] == 0 {
                    ready.insert((self.labels[user], user));
                }
            }
        }
        if sorted.len() < self.order.len() {
            let stuck = self.order.values().find(|&&slot| waits[slot] > 0).expect("some node was not sorted");
            return Err(PatchFault::Cycle { path: self.node(*stuck).path.clone() });
        }
        self.order.clear();
        for (i, &slot) in sorted.iter().enumerate() {
            self.labels[slot] = (i as u64 + 1) * GAP;
            self.order.insert(self.labels[slot], slot);
        }
        Ok(())
    }

    /// The document: nodes in order, values as the nodes make them, parameters in the base's order and then new
    /// ones in the order of use.
    pub fn into_graph(mut self) -> Graph {
        let slots = std::mem::take(&mut self.order).into_values();
        let nodes: Vec<Node> = slots.filter_map(|slot| self.nodes[slot].take()).collect();
        let names = self.base.inputs.iter().chain(nodes.iter().flat_map(|node| &node.outputs));
        let values = names.filter_map(|name| Some((name.clone(), self.values.remove(name)?))).collect();
        let mut params = IndexMap::with_capacity(self.params.len());
        for name in self.base.params.keys() {
            if let Some(param) = self.params.get(name) {
                params.insert(name.clone(), param.clone());
            }
        }
        let mut first_use = HashMap::new();
        for (i, name) in nodes.iter().flat_map(|node| node.params.values()).enumerate() {
            first_use.entry(name).or_insert(i);
        }
        let mut new: Vec<(String, Param)> =
            self.params.into_iter().filter(|(name, _)| !self.base.params.contains_key(name)).collect();
        new.sort_by_key(|(name, _)| first_use.get(name).copied());
        params.extend(new);
        Graph {
            version: self.base.version,
            arch: self.base.arch.clone(),
            inputs: self.base.inputs.clone(),
            outputs: self.outputs,
            nodes,
            values,
            params,
            cache: self.cache.into_values().collect(),
            losses: self.losses.into_values().collect(),
        }
    }
}
