//! The plugin's side of the frozen frame: each raw call becomes one of the author's, inside the panic guard.
//!
//! Input is whatever the host sends: documents are parsed and tensors checked before the author's code sees them. Must
//! never let a panic out, and never do work of its own on the kernels' path (a call here costs tens of nanoseconds).

use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};
use unswag_abi::{
    abi_stable::{
        erased_types::TD_Opaque,
        std_types::{RNone, ROption, RSome, RStr, RString},
    },
    doc::{Graph, OpCall, Patch, Target, TransformJob},
    frame::{self, Code, DocStr, Extension, KernelBox, OpBox, ProtocolBox, Ret, Views},
};

use crate::{
    error::Error,
    guard::{Contained, contain, guard},
    launch::Launch,
    protocol::{Kernel, Op, Protocol},
    tensor::{Inputs, Outputs},
};

pub(crate) fn parse<T: DeserializeOwned>(what: &str, text: DocStr<'_>) -> Result<T, Error> {
    serde_json::from_str(text.as_str())
        .map_err(|error| crate::error!("{what}: not the document expected here: {error}"))
}

fn print<T: Serialize>(what: &str, value: &T) -> Result<RString, Error> {
    let text =
        serde_json::to_string(value).map_err(|error| crate::error!("{what}: cannot be written as JSON: {error}"))?;
    Ok(text.into())
}

/// Makes the boundary's object of an opened protocol. `id` goes in front of its errors.
pub(crate) fn protocol_box(id: &str, protocol: Box<dyn Protocol>) -> ProtocolBox {
    let raw = RawProtocol { id: id.into(), protocol: Contained::new(protocol) };
    frame::Protocol_TO::from_value(raw, TD_Opaque)
}

struct RawProtocol {
    id: Arc<str>,
    protocol: Contained<dyn Protocol>,
}

impl frame::Protocol for RawProtocol {
    fn rewrite(&self, graph: DocStr<'_>) -> Ret<RString> {
        guard(
            || format!("plugin {}: rewrite", self.id),
            || {
                let graph: Graph = parse("graph", graph)?;
                if graph.version != Graph::VERSION {
                    crate::bail!(
                        "graph document of version {}, this plugin was built for version {}; update the older of the two",
                        graph.version,
                        Graph::VERSION
                    );
                }
                let mut patch = self.protocol.get().rewrite(&graph)?;
                if patch.version == 0 {
                    patch.version = Patch::VERSION;
                }
                print("patch", &patch)
            },
        )
    }

    fn transform(&self, job: DocStr<'_>, inputs: Views<'_>, outputs: Views<'_>) -> Ret<()> {
        guard(
            || format!("plugin {}: transform", self.id),
            || {
                let job: TransformJob = parse("job", job)?;
                // SAFETY: the frame's contract: the host lends live tensors for the call, outputs exclusively.
                let (inputs, outputs) =
                    unsafe { (Inputs::from_views("inputs", inputs), Outputs::from_views("outputs", outputs)) };
                let name = job.job.clone();
                self.protocol.get().transform(&job, inputs, outputs).map_err(|error| error.at(name))
            },
        )
    }

    fn op(&self, kind: RStr<'_>) -> ROption<OpBox> {
        // The frame has no place for an error here: a panic reads as "no such op", which the host reports.
        let op = contain(|| Ok(self.protocol.get().op(kind.as_str()))).ok().flatten();
        match op {
            Some(op) => {
                let raw = RawOp { place: format!("plugin {}: op {kind}", self.id).into(), op: Contained::new(op) };
                RSome(frame::Op_TO::from_value(raw, TD_Opaque))
            }
            None => RNone,
        }
    }

    fn extension(&self, id: RStr<'_>) -> ROption<Extension> {
        contain(|| Ok(self.protocol.get().extension(id.as_str()))).ok().flatten().into()
    }
}

struct RawOp {
    place: Arc<str>,
    op: Contained<dyn Op>,
}

impl frame::Op for RawOp {
    fn plan(&self, call: DocStr<'_>) -> Ret<RString> {
        guard(
            || format!("{}: plan", self.place),
            || {
                let call: OpCall = parse("call", call)?;
                print("plan", &self.op.get().plan(&call)?)
            },
        )
    }

    fn build(&self, call: DocStr<'_>, target: DocStr<'_>) -> Ret<Code> {
        guard(
            || format!("{}: build", self.place),
            || {
                let call: OpCall = parse("call", call)?;
                let target: Target = parse("target", target)?;
                let built = self.op.get().build(&call, &target)?;
                let kernel = built.kernel.map(|kernel| self.kernel_box(kernel));
                Ok(Code { modules: built.modules.into(), kernel: kernel.into() })
            },
        )
    }
}

impl RawOp {
    fn kernel_box(&self, kernel: Box<dyn Kernel>) -> KernelBox {
        let raw = RawKernel { place: self.place.clone(), kernel: Contained::new(kernel) };
        frame::Kernel_TO::from_value(raw, TD_Opaque)
    }
}

struct RawKernel {
    place: Arc<str>,
    kernel: Contained<dyn Kernel>,
}

impl frame::Kernel for RawKernel {
    fn forward(&self, launch: &frame::Launch<'_>, inputs: Views<'_>, outputs: Views<'_>, saved: Views<'_>) -> Ret<()> {
        guard(
            || format!("{}: forward", self.place),
            || {
                // SAFETY: the frame's contract: the host lends scratch and live tensors for the call, and what the call
                // writes overlaps nothing else of it.
                let (mut launch, inputs, outputs, saved) = unsafe {
                    (
                        Launch::new(launch),
                        Inputs::from_views("inputs", inputs),
                        Outputs::from_views("outputs", outputs),
                        Outputs::from_views("saved", saved),
                    )
                };
                self.kernel.get().forward(&mut launch, inputs, outputs, saved)
            },
        )
    }

    fn backward(
        &self,
        launch: &frame::Launch<'_>,
        grad_outputs: Views<'_>,
        saved: Views<'_>,
        grad_inputs: Views<'_>,
    ) -> Ret<()> {
        guard(
            || format!("{}: backward", self.place),
            || {
                // SAFETY: as in `forward`.
                let (mut launch, grad_outputs, saved, grad_inputs) = unsafe {
                    (
                        Launch::new(launch),
                        Inputs::from_views("grad_outputs", grad_outputs),
                        Inputs::from_views("saved", saved),
                        Outputs::from_views("grad_inputs", grad_inputs),
                    )
                };
                self.kernel.get().backward(&mut launch, grad_outputs, saved, grad_inputs)
            },
        )
    }

    fn rematerialize(&self, launch: &frame::Launch<'_>, saved: Views<'_>, outputs: Views<'_>) -> Ret<()> {
        guard(
            || format!("{}: rematerialize", self.place),
            || {
                // SAFETY: as in `forward`.
                let (mut launch, saved, outputs) = unsafe {
                    (Launch::new(launch), Inputs::from_views("saved", saved), Outputs::from_views("outputs", outputs))
                };
                self.kernel.get().rematerialize(&mut launch, saved, outputs)
            },
        )
    }
}
