//! What an author implements: a protocol, its ops, their kernels.
//!
//! The host calls through the frozen frame; `raw.rs` turns each call into one of these, with typed documents and
//! checked tensors, and keeps panics inside. Nothing here is called before the user consented to the plugin.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use unswag_abi::{
    abi_stable::std_types::{RSome, RStr},
    doc::{Graph, OpCall, OpPlan, Patch, Target, TransformJob},
    frame::{Extension, HostBox, Module},
};

use crate::{
    error::Error,
    info::Info,
    launch::Launch,
    tensor::{Inputs, Outputs},
};

/// A way to rewrite a model. Opened once per surgery or training run, dropped at its end.
///
/// Called from any thread, and from several at once.
pub trait Protocol: Send + Sync + 'static {
    /// What `--plugin ID:key=value` fills; [`NoOptions`] where there are none. Missing keys have been given the defaults
    /// that [`Info`] declares before it is read.
    type Options: DeserializeOwned
    where
        Self: Sized;

    /// What the protocol says of itself. Called without consent to more, so it must have no side effects.
    fn info() -> Info
    where
        Self: Sized;

    /// Opens it with its options.
    ///
    /// # Errors
    /// Options that fit the declared types but not each other, a file of theirs that cannot be read.
    fn open(options: Self::Options, host: Host) -> Result<Self, Error>
    where
        Self: Sized;

    /// What to change in `graph`. Pure: the same graph gives the same patch; no weights are read and nothing is written.
    ///
    /// # Errors
    /// Nothing to do ([`crate::graph::GraphExt::nothing_to_do`]), or a graph that does not have the form it needs.
    fn rewrite(&self, graph: &Graph) -> Result<Patch, Error>;

    /// Makes weights that no `Init::Expr` can: one job, named by an `Init::Transform` of the patch. `inputs` are tensors of
    /// the checkpoint in their own dtypes; `outputs` are allocated by the host and every element is to be written.
    ///
    /// # Errors
    /// No such job, or inputs that do not fit it.
    fn transform(&self, job: &TransformJob, inputs: Inputs<'_>, outputs: Outputs<'_>) -> Result<(), Error> {
        let _ = (inputs, outputs);
        Err(crate::error!("this protocol has no transform jobs, {:?} was asked for", job.job))
    }

    /// The op of this kind, which [`Info::ops`] lists. The host asks once per kind and keeps it.
    fn op(&self, kind: &str) -> Option<Box<dyn Op>> {
        let _ = kind;
        None
    }

    /// A later interface by name (`unswag.generate/1`).
    fn extension(&self, id: &str) -> Option<Extension> {
        let _ = id;
        None
    }
}

/// A protocol without options. An unknown option has been refused before this is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct NoOptions {}

/// A kind of node that only this plugin can run.
pub trait Op: Send + Sync {
    /// What a call with these inputs makes and keeps. Pure and quick: the host plans every node of every candidate. The
    /// host allocates exactly what it says, so memory is known to the byte before anything runs.
    ///
    /// # Errors
    /// A number, shape or dtype of inputs, or an attribute, that the op does not take.
    fn plan(&self, call: &OpCall) -> Result<OpPlan, Error>;

    /// The code for one call on one device. Whatever depends on shapes and attributes only belongs here, not in the kernel.
    ///
    /// # Errors
    /// Why there is none for this target.
    fn build(&self, call: &OpCall, target: &Target) -> Result<Built, Error>;
}

/// An op built for one call signature and one device. Has no state between calls; may be called from several threads.
///
/// The host owns every tensor, and the memory is valid for the call only. Outputs, `saved` and gradients arrive with
/// arbitrary contents and every element must be written; none overlaps another tensor of the call.
pub trait Kernel: Send + Sync {
    /// Computes `outputs` from `inputs`; where [`Launch::training`], fills `saved` as the plan listed it. Outputs must be
    /// the same bits whether training or not.
    ///
    /// # Errors
    /// Tensors that do not fit the call it was built for.
    fn forward(
        &self,
        launch: &mut Launch<'_>,
        inputs: Inputs<'_>,
        outputs: Outputs<'_>,
        saved: Outputs<'_>,
    ) -> Result<(), Error>;

    /// Computes `grad_inputs`, one per input, from `grad_outputs`, one per output, and `saved`: what forward saved, then
    /// the plan's `saves_inputs`, then its `saves_outputs`, in their order. A gradient whose `is_wanted` is false is to be
    /// skipped; a gradient of an output that is absent counts as zero.
    ///
    /// # Errors
    /// Tensors that do not fit the call it was built for.
    fn backward(
        &self,
        launch: &mut Launch<'_>,
        grad_outputs: Inputs<'_>,
        saved: Inputs<'_>,
        grad_inputs: Outputs<'_>,
    ) -> Result<(), Error>;

    /// Makes the outputs in the plan's `rematerializes`, in its order, again from what backward gets as `saved`.
    ///
    /// # Errors
    /// As [`Self::backward`].
    fn rematerialize(&self, launch: &mut Launch<'_>, saved: Inputs<'_>, outputs: Outputs<'_>) -> Result<(), Error> {
        let _ = (launch, saved, outputs);
        Err(Error::new("this op rematerializes nothing; its plan must not say that it does"))
    }
}

/// What an op gives for a target.
#[derive(Default)]
pub struct Built {
    /// Device code for the host to compile or inline.
    pub modules: Vec<Module>,
    /// What runs or launches it. StableHLO needs none.
    pub kernel: Option<Box<dyn Kernel>>,
}

impl Built {
    /// A kernel that needs no device code.
    pub fn kernel(kernel: impl Kernel + 'static) -> Self {
        Self { modules: Vec::new(), kernel: Some(Box::new(kernel)) }
    }
}

/// What the host offers while a protocol is open. Cheap to clone.
#[derive(Clone)]
pub struct Host(Arc<HostBox>);

impl Host {
    pub(crate) fn new(host: HostBox) -> Self {
        Self(Arc::new(host))
    }

    /// One line for the user where they asked for it (`--verbose`).
    pub fn debug(&self, text: &str) {
        self.0.log(4, text.into());
    }

    /// One line for the user.
    pub fn info(&self, text: &str) {
        self.0.log(3, text.into());
    }

    /// One line of warning for the user.
    pub fn warn(&self, text: &str) {
        self.0.log(2, text.into());
    }

    /// A later interface of the host by name.
    pub fn extension(&self, id: &str) -> Option<Extension> {
        match self.0.extension(RStr::from_str(id)) {
            RSome(extension) => Some(extension),
            _ => None,
        }
    }
}
