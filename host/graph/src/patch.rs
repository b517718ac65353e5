//! Applies a patch to a graph: all of it, or none.
//!
//! The patch comes from a plugin and is believed in nothing: what it names must exist, what it states must be what the
//! kinds infer and the op's plan says, what it makes must have the shape it claims. Work happens on an indexed copy
//! ([`work`]); the caller's graph is never touched. This module must not evaluate an expression or run a transform: it
//! says what is to be made, the surgery makes it.

mod check;
mod fault;
mod making;
mod replace;
mod work;

use unswag_abi::doc::{Attrs, CacheSlot, Dtype, Edit, Graph, Init, Loss, Patch};

use crate::{
    names,
    ops::Ops,
    saved,
    validate::{check_loss, check_value, validate},
};
pub use fault::{PatchError, PatchFault, Place};
use making::Making;
use work::Work;

/// What [`Patch::requires`] may name: the features of this host.
pub const FEATURES: &[&str] = &["patch/1", "expr/1", "expr.svd/1", "transform/1", "cache/1", "loss/1"];

/// What a patch comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The patched graph; passes [`validate`].
    pub graph: Graph,
    /// Parameters to be made, in the order of their edits; all are in the graph.
    pub new_params: Vec<NewParam>,
    /// Parameters of the graph before that the graph has no longer.
    pub dropped: Vec<String>,
    /// The plugin's transform jobs, each once, in order of first mention.
    pub transforms: Vec<TransformCall>,
}

/// A parameter that the patch makes, or makes anew.
#[derive(Clone, Debug, PartialEq)]
pub struct NewParam {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    pub init: Init,
}

/// One call of the plugin's `transform`.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformCall {
    pub job: String,
    /// Tensors of the checkpoint as it was before the patch.
    pub inputs: Vec<String>,
    /// New parameters: output `i` of the job is `outputs[i]`.
    pub outputs: Vec<String>,
    pub attrs: Attrs,
}

/// Applies every edit in order and checks the result. `graph` must be one that passes [`validate`]; it stays as it is.
///
/// `ops` is asked for the plan of every plugin op that the patch adds or changes, at [`crate::Sizes::REFERENCE`] and
/// [`crate::Sizes::ODD`].
///
/// # Errors
/// The first defect, with the edit that has it.
pub fn apply(graph: &Graph, patch: &Patch, ops: &dyn Ops) -> Result<Applied, PatchError> {
    let document = |fault| PatchError { place: Place::Document, fault: Box::new(fault) };
    if patch.version != Patch::VERSION {
        return Err(document(PatchFault::Version { got: patch.version }));
    }
    if let Some(feature) = patch.requires.iter().find(|feature| !FEATURES.contains(&feature.as_str())) {
        return Err(document(PatchFault::Requires { feature: names::quoted(feature) }));
    }
    validate(graph).map_err(|error| document(PatchFault::Base(Box::new(error))))?;
    let mut surgeon = Surgeon { work: Work::new(graph), making: Making::new(graph), ops, edit: 0 };
    for (index, edit) in patch.edits.iter().enumerate() {
        surgeon.edit = index;
        surgeon.edit(edit).map_err(|fault| PatchError { place: Place::edit(index, edit), fault: Box::new(fault) })?;
    }
    surgeon.finish(patch)
}

struct Surgeon<'a> {
    work: Work<'a>,
    making: Making<'a>,
    ops: &'a dyn Ops,
    /// The edit being applied, counted from 0.
    edit: usize,
}

impl Surgeon<'_> {
    fn edit(&mut self, edit: &Edit) -> Result<(), PatchFault> {
        match edit {
            Edit::Replace { at, with } => self.replace(at, with),
            Edit::Attr { at, name, value } => self.attr(at, name, value),
            Edit::Param { name, dtype, shape, init } => {
                let param = self.making.param(self.edit, name, *dtype, shape, init)?;
                self.work.set_param(name, param);
                Ok(())
            }
            Edit::Drop { param } => self.drop_param(param),
            Edit::Cache { at, slots } => self.cache(at, slots),
            Edit::Loss { name, value, weight } => self.loss(name, value, *weight),
        }
    }

    /// Sets an attribute; `null` takes it away. The node's outputs keep their types.
    fn attr(&mut self, at: &str, name: &str, value: &serde_json::Value) -> Result<(), PatchFault> {
        let slot = self.work.slot(at).ok_or_else(|| self.work.no_such_place(at, true))?;
        names::check(name).map_err(|why| PatchFault::name("attribute", name, why))?;
        let mut node = self.work.node(slot).clone();
        match value {
            serde_json::Value::Null => node.attrs.remove(name),
            _ => node.attrs.insert(name.to_owned(), value.clone()),
        };
        node.saves = check::node(&self.work, &node, self.ops)?;
        self.work.set_node(slot, node);
        Ok(())
    }

    fn drop_param(&mut self, name: &str) -> Result<(), PatchFault> {
        if !self.work.has_param(name) {
            return Err(PatchFault::Dangling { what: "parameter", name: names::quoted(name) });
        }
        if let Some(slot) = self.work.users_of_param(name).next() {
            let user = self.work.node(slot).path.clone();
            return Err(PatchFault::InUse { param: names::quoted(name), user });
        }
        self.work.drop_param(name);
        self.making.forget(name);
        Ok(())
    }

    fn cache(&mut self, at: &str, slots: &[CacheSlot]) -> Result<(), PatchFault> {
        if self.work.region(at).slots.is_empty() {
            return Err(self.work.no_such_place(at, false));
        }
        for slot in slots {
            let is_inside = slot.at.strip_prefix(at).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            if !is_inside || self.work.region(&slot.at).slots.is_empty() {
                return Err(PatchFault::Entry {
                    what: "cache slot's `at`",
                    expected: format!("{at}, or a node under it"),
                    got: names::quoted(&slot.at),
                });
            }
            names::check_path(&slot.name).map_err(|why| PatchFault::name("cache slot", &slot.name, why))?;
            let value = unswag_abi::doc::Value { dtype: slot.dtype, shape: slot.shape.clone() };
            check_value(&value, &self.work.symbols).map_err(|why| PatchFault::name("cache slot", &slot.name, why))?;
            if !self.work.add_cache(slot.clone()) {
                let name = format!("{}/{}", slot.at, slot.name);
                return Err(PatchFault::Duplicate { what: "cache slot", name });
            }
        }
        Ok(())
    }

    fn loss(&mut self, name: &str, value: &str, weight: f64) -> Result<(), PatchFault> {
        names::check_path(name).map_err(|why| PatchFault::name("loss", name, why))?;
        let missing = || PatchFault::Dangling { what: "value", name: names::quoted(value) };
        let found = self.work.value(value).ok_or_else(missing)?;
        check_loss(found, weight).map_err(|(expected, got)| PatchFault::Entry { what: "loss", expected, got })?;
        let loss = Loss { name: name.to_owned(), value: value.to_owned(), weight };
        match self.work.add_loss(loss) {
            true => Ok(()),
            false => Err(PatchFault::Duplicate { what: "loss", name: name.to_owned() }),
        }
    }

    /// Checks what only the whole patch can answer for, and puts the document together.
    fn finish(mut self, patch: &Patch) -> Result<Applied, PatchError> {
        let blame = |edit: Option<usize>, fault| PatchError {
            place: edit.map_or(Place::Document, |edit| Place::edit(edit, &patch.edits[edit])),
            fault: Box::new(fault),
        };
        // A parameter that was made anew may have another shape than its users were checked with.
        let remade: Vec<(String, usize)> = self.making.remade().map(|(name, edit)| (name.to_owned(), edit)).collect();
        for (name, edit) in &remade {
            let users: Vec<usize> = self.work.users_of_param(name).collect();
            for slot in users {
                let mut node = self.work.node(slot).clone();
                node.saves = check::node(&self.work, &node, self.ops).map_err(|fault| blame(Some(*edit), fault))?;
                self.work.set_node(slot, node);
            }
        }
        if let Some(name) = self.work.unused_param() {
            let fault = PatchFault::Unused { param: names::quoted(name) };
            return Err(blame(self.making.edit_of(name).or(self.work.freed_by(name)), fault));
        }
        let transforms = self.making.transforms().map_err(|blamed| blame(Some(blamed.0), blamed.1))?;
        let dropped = self.work.dropped();
        let mut graph = self.work.into_graph();
        saved::fill(&mut graph);
        validate(&graph).map_err(|error| blame(None, PatchFault::Result(Box::new(error))))?;
        Ok(Applied { graph, new_params: self.making.into_params(), dropped, transforms })
    }
}
