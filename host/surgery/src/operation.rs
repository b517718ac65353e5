//! From a model and protocols to what will change: every patch asked for, validated and applied, nothing written yet.
//!
//! What comes out can be shown (`--dry-run`, `--diff`), written, or dropped. It must never touch a file.

use std::cell::RefCell;

use indexmap::IndexMap;
use unswag_abi::doc::{Attrs, Edit, Graph, Init, Meta, OpCall, OpPlan, Param, Patch, TransformJob};
use unswag_graph::{Ops, PatchError, TransformCall, apply, kinds::is_plugin_op};
use unswag_loader::Plugin;

use crate::{
    Model,
    claims::{self, Claim, ClaimError},
    record::{Planned, PluginId, Step, keeps_forward_if_claims_hold, only_node},
};

/// A protocol with its options, ready to operate: a loaded plugin's, or a test's.
pub trait Protocol {
    fn id(&self) -> &str;
    fn version(&self) -> &str;
    fn plugin(&self) -> PluginId;
    fn options(&self) -> &Attrs;
    /// Whether an option has the value that it has where nobody asks for another.
    fn is_default(&self, option: &str, value: &serde_json::Value) -> bool;
    fn rewrite(&self, graph: &Graph) -> Result<Patch, String>;
    fn plan(&self, call: &OpCall) -> Result<OpPlan, String>;
    /// The library whose code the ops are; `None` where there is none at hand, and then nothing that they claim is verified.
    fn library(&self) -> Option<&Plugin> {
        None
    }
    /// The step as a record has it, where this repeats an earlier step: what was verified then holds.
    fn recorded(&self) -> Option<&Step> {
        None
    }
    /// Fills `outputs` (row-major, little-endian, sized as the job says) from `inputs`.
    fn transform(&self, job: &TransformJob, inputs: &[&[u8]], outputs: &mut [Vec<u8>]) -> Result<(), String>;
}

#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// The plugin's own words: what it expects, what the graph has, what to try.
    #[error("surgery: plugin {protocol}: {reason}")]
    Rewrite { protocol: String, reason: String },
    #[error(
        "surgery: plugin {protocol} returned a patch that changes nothing and no reason; this is a defect of the plugin"
    )]
    Nothing { protocol: String },
    #[error("surgery: plugin {protocol} returned a patch that cannot be applied; this is a defect of the plugin")]
    Patch {
        protocol: String,
        #[source]
        source: Box<PatchError>,
    },
    #[error("surgery: no plugin given; expected at least one")]
    NoProtocol,
}

/// Parameters that one step makes, in the order of its patch.
pub type Made = IndexMap<String, (Param, Init)>;

/// What the protocols want, applied to the graph and not yet to the files.
pub struct Operation<'a> {
    pub before: Graph,
    pub after: Graph,
    /// One per protocol, in order. What their ops claim is not verified yet: see [`Operation::verified_steps`].
    pub steps: Vec<Step>,
    pub(crate) claims: Claims,
    pub(crate) made: Vec<Made>,
    pub(crate) transforms: Vec<Vec<TransformCall>>,
    pub(crate) protocols: &'a [Box<dyn Protocol>],
}

/// What the steps' ops claim.
#[derive(Clone)]
pub(crate) struct Claims {
    /// Whether the steps before these, which the model's record has, are known to keep the forward.
    is_base_forward: bool,
    /// One for each step.
    steps: Vec<StepClaims>,
}

/// What one step's ops claim, and what that would mean.
#[derive(Clone)]
struct StepClaims {
    claims: Vec<Claim>,
    keeps_forward_if_they_hold: bool,
    /// Whether it replaces ops of an earlier step: what those compute is known only where that step's claims hold.
    replaces_ops: bool,
    library: Option<Plugin>,
    recorded: Option<Step>,
}

/// Asks every protocol in turn; each sees the graph that the ones before it left.
///
/// # Errors
/// A protocol that refuses, or whose patch is invalid. Nothing has changed then.
pub fn operate<'a>(model: &Model, protocols: &'a [Box<dyn Protocol>]) -> Result<Operation<'a>, OperateError> {
    if protocols.is_empty() {
        return Err(OperateError::NoProtocol);
    }
    // What the steps so far left; the model's own graph before the first.
    let mut left: Option<Graph> = None;
    let mut recorded = model.plans();
    let mut operation = Operation {
        before: model.graph.clone(),
        after: Graph::default(),
        steps: Vec::new(),
        made: Vec::new(),
        transforms: Vec::new(),
        claims: Claims {
            is_base_forward: model.record.iter().flat_map(|record| &record.steps).all(Step::is_known_to_keep_forward),
            steps: Vec::new(),
        },
        protocols,
    };
    for protocol in protocols {
        let protocol = protocol.as_ref();
        let id = || protocol.id().to_owned();
        let graph = left.as_ref().unwrap_or(&model.graph);
        let patch = protocol.rewrite(graph).map_err(|reason| {
            // Plugins made with the SDK say who and where they are; so does the error.
            let said = format!("plugin {}: rewrite: ", protocol.id());
            let reason = reason.strip_prefix(&said).unwrap_or(&reason).to_owned();
            OperateError::Rewrite { protocol: id(), reason }
        })?;
        if patch.edits.is_empty() {
            return Err(OperateError::Nothing { protocol: id() });
        }
        let of_others: Vec<&Planned> =
            recorded.iter().filter(|(other, _)| other != protocol.id()).map(|(_, planned)| planned).collect();
        let planner = Planner { known: &of_others, protocol: Some(protocol), used: RefCell::default() };
        let applied = apply(graph, &patch, &planner)
            .map_err(|source| OperateError::Patch { protocol: id(), source: Box::new(source) })?;
        let plans = planner.used.into_inner();
        operation.claims.steps.push(StepClaims {
            claims: claims::claims(graph, &applied.graph, &patch),
            keeps_forward_if_they_hold: keeps_forward_if_claims_hold(graph, &patch),
            replaces_ops: replaces_ops(graph, &patch),
            library: protocol.library().cloned(),
            recorded: protocol.recorded().cloned(),
        });
        operation.made.push(
            applied
                .new_params
                .into_iter()
                .map(|new| (new.name, (Param { dtype: new.dtype, shape: new.shape }, new.init)))
                .collect(),
        );
        operation.transforms.push(applied.transforms);
        left = Some(applied.graph);
        recorded.extend(plans.iter().map(|planned| (id(), planned.clone())));
        operation.steps.push(Step {
            protocol: id(),
            version: protocol.version().to_owned(),
            plugin: protocol.plugin(),
            options: protocol.options().clone(),
            keeps_forward: false,
            claims: Vec::new(),
            plans,
            patch,
        });
    }
    operation.after = left.expect("a protocol was given");
    Ok(operation)
}

/// Whether a patch puts something in the place of a plugin's op.
fn replaces_ops(before: &Graph, patch: &Patch) -> bool {
    patch.edits.iter().any(|edit| match edit {
        Edit::Replace { at, .. } => only_node(before, at).is_some_and(|old| is_plugin_op(&old.kind)),
        _ => false,
    })
}

/// Answers an op's plan from a record, else from the plugin, and remembers all that it answered: a step's record is complete by
/// itself. Of a protocol's own ops none is answered from its earlier steps, which may have had other options.
pub(crate) struct Planner<'a> {
    pub known: &'a [&'a Planned],
    pub protocol: Option<&'a dyn Protocol>,
    pub used: RefCell<Vec<Planned>>,
}

impl Ops for Planner<'_> {
    fn plan(&self, call: &OpCall) -> Result<OpPlan, String> {
        if let Some(planned) = self.used.borrow().iter().find(|planned| planned.call == *call) {
            return Ok(planned.plan.clone());
        }
        let known = self.known.iter().find(|planned| planned.call == *call);
        let plan = match (known, self.protocol) {
            (Some(planned), _) => planned.plan.clone(),
            (None, Some(protocol)) => protocol.plan(call)?,
            (None, None) => {
                let inputs: Vec<&Meta> = call.inputs.iter().collect();
                return Err(format!(
                    "the record holds no plan of {} for inputs {inputs:?}; it was edited or damaged",
                    call.kind
                ));
            }
        };
        self.used.borrow_mut().push(Planned { call: call.clone(), plan: plan.clone() });
        Ok(plan)
    }
}

/// Verifies what the ops of `steps` claim, and says of each step whether it keeps the forward.
pub(crate) fn verify(steps: &[Step], claims: &Claims) -> Result<Vec<Step>, ClaimError> {
    let mut is_base_forward = claims.is_base_forward;
    let mut verified = Vec::with_capacity(steps.len());
    for (step, of) in steps.iter().zip(&claims.steps) {
        let mut step = step.clone();
        if let Some(recorded) = &of.recorded {
            (step.claims, step.keeps_forward) = (recorded.claims.clone(), recorded.is_known_to_keep_forward());
        } else {
            step.claims = claims::verify(&of.claims, of.library.as_ref(), &step.protocol, &step.options)?;
            let is_known = of.keeps_forward_if_they_hold && (is_base_forward || !of.replaces_ops);
            step.keeps_forward = is_known && !step.is_unverified();
        }
        is_base_forward &= step.is_known_to_keep_forward();
        verified.push(step);
    }
    Ok(verified)
}

impl Operation<'_> {
    /// The steps with what their ops stand for verified: each plugin's kernels run on sample inputs in a sandboxed child process and
    /// are compared with plain references. Takes some ten milliseconds.
    ///
    /// # Errors
    /// A forward that is not the one of its primitive, that fails, crashes or does not return.
    pub fn verified_steps(&self) -> Result<Vec<Step>, ClaimError> {
        verify(&self.steps, &self.claims)
    }

    /// Parameters of the final graph that these steps made: name, and the step that made it last.
    pub(crate) fn made_last(&self) -> IndexMap<&str, usize> {
        let mut last = IndexMap::new();
        for (step, made) in self.made.iter().enumerate() {
            for name in made.keys() {
                last.insert(name.as_str(), step);
            }
        }
        last.retain(|name, _| self.after.params.contains_key(*name));
        last
    }

    /// Parameters of the model that the final graph has no longer, or has anew, as they were.
    pub fn replaced(&self) -> IndexMap<String, Param> {
        let made = self.made_last();
        self.before
            .params
            .iter()
            .filter(|(name, _)| made.contains_key(name.as_str()) || !self.after.params.contains_key(*name))
            .map(|(name, param)| (name.clone(), param.clone()))
            .collect()
    }

    /// The options of step `step` that somebody asked for: those that are not at their default.
    pub fn chosen_options(&self, step: usize) -> impl Iterator<Item = (&String, &serde_json::Value)> {
        let protocol = &self.protocols[step];
        self.steps[step].options.iter().filter(|(option, value)| !protocol.is_default(option, value))
    }
}
