//! The conformance suite: what every plugin must hold to, whoever wrote it. `unswag plugin check` and
//! [`PluginTest::check`](crate::test::PluginTest::check) run the same one.
//!
//! It asks only through the frozen frame, and takes nothing on trust: documents are compared as text, memory lies between
//! guard bands, numbers are held against f64 references. It must never stop at the first failure, and never count a check
//! that it could not make as passed: that is `skipped`, with the reason.

mod calls;
mod forward;
mod gradient;
mod hostile;
mod manifest;
mod memory;
mod numbers;
mod options;
mod plans;
mod reference;
mod report;
mod rewrite;

use std::collections::BTreeMap;

use unswag_abi::{
    doc::{Attrs, Graph, Meta, OpCall, OpPlan, Patch, ProtocolInfo},
    frame::PluginRef,
};

pub use report::{Begins, Check, Outcome, Report};

use crate::{
    error::Error,
    tensor::TensorBuf,
    test::{FAMILIES, PluginTest, ProtocolTest, apply_structurally, sample},
};
use report::{Checks, Verdict};

/// Plans a call of one of the patch's own ops.
pub type Plans<'p> = dyn Fn(&OpCall) -> Result<OpPlan, String> + 'p;

/// Validates a patch against a graph and applies it, as the host does.
pub type Apply<'a> = dyn Fn(&Graph, &Patch, &Plans<'_>) -> Result<Graph, String> + 'a;

/// A node that stands for a host primitive: the primitive, and the types of one call of it.
#[derive(Debug)]
pub struct Claim<'c> {
    pub kind: &'c str,
    /// Those of the node that was replaced, where the patch replaces one node by one; else the new node's own.
    pub attrs: &'c Attrs,
    /// Roles of the parameters, which stand after the activations among the inputs.
    pub roles: &'c [String],
    pub inputs: &'c [Meta],
}

/// What a claim was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// The same bits.
    Exact,
    /// Equal up to rounding, with what was measured.
    Rounding(String),
    /// It cannot be verified, and why.
    Unverified(String),
}

/// Runs the op's forward on one list of tensors.
pub type RunOp<'r> = dyn Fn(&[TensorBuf]) -> Result<Vec<TensorBuf>, Error> + 'r;

/// Compares an op with the host's own arithmetic. Its error says how the two differ.
pub type Reference<'a> = dyn Fn(&Claim<'_>, &RunOp<'_>) -> Result<Verified, Error> + 'a;

/// At most so many settings of a protocol's options are tried.
const MAX_VARIANTS: usize = 24;

/// The suite, for one plugin.
pub struct Suite<'a> {
    plugin: PluginRef,
    apply: Option<&'a Apply<'a>>,
    reference: Option<&'a Reference<'a>>,
    begins: Option<&'a Begins<'a>>,
    watch: Option<&'a dyn Fn(&Check)>,
    options: BTreeMap<String, Attrs>,
    /// Empty for all.
    protocols: Vec<String>,
}

impl<'a> Suite<'a> {
    pub fn new(plugin: PluginRef) -> Self {
        Self {
            plugin,
            apply: None,
            reference: None,
            begins: None,
            watch: None,
            options: BTreeMap::new(),
            protocols: Vec::new(),
        }
    }

    /// Validates patches with the host's own rules. Without it they are checked by structure alone.
    #[must_use]
    pub fn apply(mut self, apply: &'a Apply<'a>) -> Self {
        self.apply = Some(apply);
        self
    }

    /// Compares what ops stand for with the host's own arithmetic, for every kind that it has. Without it the suite's own
    /// references of element-wise kinds are used.
    #[must_use]
    pub fn reference(mut self, reference: &'a Reference<'a>) -> Self {
        self.reference = Some(reference);
        self
    }

    /// Is called before each check: one that never returns is then known by its name.
    #[must_use]
    pub fn begins(mut self, begins: &'a Begins<'a>) -> Self {
        self.begins = Some(begins);
        self
    }

    /// Is called with each check when it is done.
    #[must_use]
    pub fn watch(mut self, watch: &'a dyn Fn(&Check)) -> Self {
        self.watch = Some(watch);
        self
    }

    /// Checks only these protocols.
    #[must_use]
    pub fn protocols<'s>(mut self, ids: impl IntoIterator<Item = &'s str>) -> Self {
        self.protocols.extend(ids.into_iter().map(str::to_owned));
        self
    }

    /// Options for a protocol that cannot be opened without.
    #[must_use]
    pub fn options(mut self, protocol: &str, options: Attrs) -> Self {
        self.options.insert(protocol.to_owned(), options);
        self
    }

    /// Runs every check. Takes seconds.
    pub fn run(&self) -> Report {
        let plugin = PluginTest::new(self.plugin);
        let mut checks = Checks::new(self.begins, self.watch);
        let Some(manifest) = manifest::check(&plugin, &mut checks) else {
            return checks.report("", "");
        };
        let chosen = |info: &&ProtocolInfo| self.protocols.is_empty() || self.protocols.contains(&info.id);
        for info in manifest.protocols.iter().filter(chosen) {
            self.protocol(&plugin, info, &mut checks);
        }
        checks.report(&manifest.name, &manifest.version)
    }

    fn protocol(&self, plugin: &PluginTest, info: &ProtocolInfo, checks: &mut Checks<'_>) {
        let given = self.options.get(&info.id).cloned().unwrap_or_default();
        let Some(base) = options::check(plugin, info, &given, checks) else { return };
        hostile::check(plugin, info, &base, checks);
        let mut rewritten = 0;
        for (label, options) in options::variants(info, &base) {
            let subject = if label.is_empty() { info.id.clone() } else { format!("{}:{label}", info.id) };
            let case = Case { plugin, info, options, subject };
            let Some(protocol) = checks.value(&case.subject, "opens", || case.open()) else { continue };
            let uses = rewrite::check(self, &case, &protocol, checks, &mut rewritten);
            plans::ops(&case, &protocol, &uses, checks);
            for used in &uses {
                let subject = format!("{}: {used}", case.subject);
                plans::check(&case, &protocol, used, &subject, checks);
                forward::check(&protocol, used, self.reference, &subject, checks);
                memory::check(&protocol, used, &subject, checks);
                gradient::check(&protocol, used, &subject, checks);
            }
        }
        checks.run(&info.id, "rewrites a sample graph", || match rewritten {
            0 if rewrite::claims_a_sample(info) => {
                Err(Error::new("it claims kinds that the sample graphs have, yet refused all of them"))
            }
            0 => Ok(Verdict::Skip(format!("no sample of any family ({}) has what it claims", FAMILIES.join(", ")))),
            count => Ok(Verdict::Measured(format!("{count} of {} families, over its options", FAMILIES.len()))),
        });
    }

    fn applied(&self, protocol: &ProtocolTest, graph: &Graph, patch: &Patch) -> Result<Graph, Error> {
        let Some(apply) = self.apply else { return apply_structurally(graph, patch) };
        let plans = |call: &OpCall| -> Result<OpPlan, String> {
            protocol.op(&call.kind).and_then(|op| op.plan(call)).map_err(Error::into_message)
        };
        apply(graph, patch, &plans).map_err(|error| crate::error!("the host refuses its patch: {error}"))
    }
}

/// A protocol with one setting of its options.
struct Case<'a> {
    plugin: &'a PluginTest,
    info: &'a ProtocolInfo,
    options: Attrs,
    subject: String,
}

impl Case<'_> {
    fn open(&self) -> Result<ProtocolTest, Error> {
        self.plugin.open(&self.info.id, serde_json::Value::Object(self.options.clone().into_iter().collect()))
    }
}

/// Every sample graph, with its family.
fn samples() -> impl Iterator<Item = (&'static str, Graph)> {
    FAMILIES.iter().map(|family| (*family, sample(family)))
}

/// # Errors
/// The message is that of a panic, which the guard turned into an error: an author's mistake, whatever the input.
fn not_a_panic<T>(outcome: &Result<T, Error>) -> Result<(), Error> {
    match outcome {
        Err(error) if error.message().contains("the plugin panicked at") => {
            Err(crate::error!("expected an error that helps the user, got a panic: {error}"))
        }
        Err(error) if error.message().trim().is_empty() => Err(Error::new("the error has no message")),
        _ => Ok(()),
    }
}
