//! `Edit::Replace`: a subgraph in the place of a node or a block.

use std::collections::{HashMap, HashSet};

use unswag_abi::doc::{Node, SubNode, Subgraph, Value};

use super::{PatchFault, Surgeon, check};
use crate::{
    kinds::{self, show_value},
    names,
    validate::{NodeFault, check_value},
};

/// What a subgraph's own names mean outside it.
type Bindings<'a> = HashMap<&'a str, String>;

impl Surgeon<'_> {
    pub(super) fn replace(&mut self, at: &str, with: &Subgraph) -> Result<(), PatchFault> {
        let region = self.work.region(at);
        if region.slots.is_empty() {
            return Err(self.work.no_such_place(at, false));
        }
        arity("inputs", &region.inputs, &with.inputs)?;
        arity("outputs", &region.outputs, &with.outputs)?;
        let mut bound = Bindings::new();
        for (local, outside) in with.inputs.iter().zip(&region.inputs) {
            names::check(local).map_err(|why| PatchFault::name("input of the subgraph", local, why))?;
            if bound.insert(local, outside.clone()).is_some() {
                return Err(PatchFault::Duplicate { what: "input of the subgraph", name: names::quoted(local) });
            }
        }
        let made_later: HashSet<&str> = with.nodes.iter().flat_map(|node| &node.outputs).map(String::as_str).collect();
        let old_types: Vec<Value> = region.outputs.iter().filter_map(|name| self.work.value(name)).cloned().collect();
        let users = self.work.users_outside(&region.outputs, &region.slots);

        self.work.remove(&region, self.edit);
        let labels = self.work.labels_at(&region, with.nodes.len());
        let mut touched = Vec::with_capacity(with.nodes.len() + users.len());
        for (sub, label) in with.nodes.iter().zip(labels) {
            let node = self.node(at, sub, &mut bound, &made_later)?;
            touched.push(self.work.insert(label, node));
        }

        let mut renamed = HashMap::new();
        for (index, ((local, old), expected)) in with.outputs.iter().zip(&region.outputs).zip(&old_types).enumerate() {
            let new = bound
                .get(local.as_str())
                .ok_or_else(|| PatchFault::Dangling { what: "value of the subgraph", name: names::quoted(local) })?;
            let got = self.work.value(new).expect("a bound name has a type");
            if got != expected {
                return Err(PatchFault::OutputType {
                    index,
                    value: names::quoted(old),
                    expected: show_value(expected),
                    got: show_value(got),
                });
            }
            renamed.insert(old.clone(), new.clone());
        }
        self.work.rename(&users, &renamed);
        touched.extend(users);
        self.work.settle(&touched)
    }

    /// One node of the subgraph under its outside names, checked; its outputs are bound for the nodes after it.
    fn node<'a>(
        &mut self,
        at: &str,
        sub: &'a SubNode,
        bound: &mut Bindings<'a>,
        made_later: &HashSet<&str>,
    ) -> Result<Node, PatchFault> {
        let path = sub.path(at);
        names::check_path(&path).map_err(|why| PatchFault::name("node", &path, why))?;
        if self.work.has_path(&path) {
            return Err(PatchFault::Duplicate { what: "node", name: path });
        }
        let mut inputs = Vec::with_capacity(sub.inputs.len());
        for local in &sub.inputs {
            let no_input = || PatchFault::NoInput {
                path: path.clone(),
                name: names::quoted(local),
                hint: match made_later.contains(local.as_str()) {
                    true => "; a later node (or itself) makes it: expected nodes in an order in which they can run",
                    false => "",
                },
            };
            inputs.push(bound.get(local.as_str()).ok_or_else(no_input)?.clone());
        }
        let fault = |fault| PatchFault::Node { path: path.clone(), fault: Box::new(fault) };
        for (role, param) in &sub.params {
            if !self.work.has_param(param) {
                let (role, param) = (names::quoted(role), names::quoted(param));
                return Err(fault(NodeFault::NoParam { role, param }));
            }
        }
        let types = self.output_types(sub, &inputs).map_err(fault)?;
        let mut outputs = Vec::with_capacity(types.len());
        for (index, (local, value)) in sub.outputs.iter().zip(types).enumerate() {
            check_value(&value, &self.work.symbols).map_err(|why| PatchFault::name("value", local, why))?;
            names::check(local).map_err(|why| PatchFault::name("value", local, why))?;
            let name = names::output(&path, index);
            if !self.work.add_value(&name, value) {
                return Err(PatchFault::Duplicate { what: "value", name });
            }
            if bound.insert(local, name.clone()).is_some() {
                return Err(PatchFault::Duplicate { what: "value of the subgraph", name: names::quoted(local) });
            }
            outputs.push(name);
        }
        let mut node = Node {
            path: path.clone(),
            kind: sub.kind.clone(),
            inputs,
            outputs,
            params: sub.params.clone(),
            attrs: sub.attrs.clone(),
            stands_for: sub.stands_for.clone(),
            saved_bytes_per_token: None,
            saves: None,
        };
        node.saves = check::node(&self.work, &node, self.ops)?;
        Ok(node)
    }

    /// One type per output: what the node states, or what its kind infers where it states none.
    fn output_types(&self, sub: &SubNode, inputs: &[String]) -> Result<Vec<Value>, NodeFault> {
        let types = match sub.values.is_empty() && !kinds::is_plugin_op(&sub.kind) {
            false => sub.values.clone(),
            true => {
                let inputs: Vec<&Value> = inputs.iter().filter_map(|name| self.work.value(name)).collect();
                let params = sub.params.iter().filter_map(|(role, name)| Some((role.as_str(), self.work.param(name)?)));
                kinds::infer(&sub.kind, &inputs, &params.collect::<Vec<_>>(), &sub.attrs)?
            }
        };
        match types.len() == sub.outputs.len() {
            true => Ok(types),
            false if kinds::is_plugin_op(&sub.kind) => Err(NodeFault::Outputs {
                expected: format!("one type in `values` for each of the {} outputs", sub.outputs.len()),
                got: types.len().to_string(),
            }),
            false => Err(NodeFault::Outputs {
                expected: format!("{} for this {}", types.len(), sub.kind),
                got: sub.outputs.len().to_string(),
            }),
        }
    }
}

fn arity(what: &'static str, region: &[String], given: &[String]) -> Result<(), PatchFault> {
    if region.len() == given.len() {
        return Ok(());
    }
    let mut shown: Vec<String> = region.iter().take(6).map(|name| names::quoted(name)).collect();
    if region.len() > 6 {
        shown.push("…".to_owned());
    }
    Err(PatchFault::Arity { what, expected: region.len(), region: shown.join(", "), got: given.len() })
}
