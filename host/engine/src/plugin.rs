//! Plugins' ops on the tape: what the engine asks of whoever has the plugins, and what it asks of a backend.
//!
//! An op's plan says what its forward makes and keeps, so [`crate::Meta`] counts it without running it. What a plugin saves for
//! its backward is bytes that only it understands. Where a plan says that an output can be made again from what is saved, whoever
//! would keep that output asks for it again instead ([`crate::Backend::plugin_rematerialize`]).

use std::{
    cell::{OnceCell, RefCell},
    rc::Rc,
};

use unswag_abi::doc::{Attrs, Device, Dtype, Meta, OpCall, OpPlan, Value};
use unswag_graph::Sizes;

use crate::EngineError;

/// Whoever has the plugins open. An op is asked for with the node's path: nodes of one kind may have been brought in with other
/// options.
pub trait PluginOps {
    /// The plan of the node's call.
    ///
    /// # Errors
    /// In a sentence for the user: there is no such op, or it refuses the call.
    fn plan(&self, path: &str, call: &OpCall) -> Result<OpPlan, String>;

    /// The kernel of the node's call on a device.
    ///
    /// # Errors
    /// In a sentence for the user: there is no such op, or none for this device.
    fn kernel(&self, path: &str, call: &OpCall, device: Device) -> Result<Rc<dyn PluginKernel>, String>;
}

impl std::fmt::Debug for dyn PluginOps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PluginOps")
    }
}

/// A contiguous row-major tensor in host memory, to be read: exactly as many bytes as its type has, of any alignment.
#[derive(Clone, Copy, Debug)]
pub struct Buffer<'a> {
    pub meta: &'a Meta,
    pub bytes: &'a [u8],
}

/// As [`Buffer`], to be filled; `None` where it is not wanted.
#[derive(Debug)]
pub struct BufferMut<'a> {
    pub meta: &'a Meta,
    pub bytes: Option<&'a mut [u8]>,
}

/// One run of an op in a step.
#[derive(Clone, Copy, Debug)]
pub struct PluginRun {
    /// The same for a node's forward, its backward and its recompute in one step.
    pub seed: u64,
    /// Whether a backward will come.
    pub saves: bool,
    /// Whether the same forward has run before in this step.
    pub recomputes: bool,
}

/// What belongs to one run of a kernel and not to a tensor.
#[derive(Debug)]
pub struct PluginLaunch<'a> {
    /// The same for a node's forward, its backward and its recompute in one step.
    pub seed: u64,
    /// As many bytes as the plan says.
    pub scratch: &'a mut [u8],
    /// In the order of the plan's.
    pub scalars: &'a [f64],
    pub threads: usize,
    /// Whether a backward will come.
    pub training: bool,
    /// Whether the same forward has run before in this step.
    pub recomputes: bool,
}

/// One op, built for a device and for calls of one type.
pub trait PluginKernel {
    /// Fills `outputs` and, where a backward will come, `saved`.
    ///
    /// # Errors
    /// The plugin's own sentence.
    fn forward(
        &self,
        launch: PluginLaunch<'_>,
        inputs: &[Buffer<'_>],
        outputs: &mut [BufferMut<'_>],
        saved: &mut [BufferMut<'_>],
    ) -> Result<(), String>;

    /// Fills `dinputs`. `saved`: the plan's, then the inputs and the outputs that are saved as they are.
    ///
    /// # Errors
    /// As [`PluginKernel::forward`].
    fn backward(
        &self,
        launch: PluginLaunch<'_>,
        doutputs: &[Buffer<'_>],
        saved: &[Buffer<'_>],
        dinputs: &mut [BufferMut<'_>],
    ) -> Result<(), String>;

    /// Fills the outputs that the plan says can be made again.
    ///
    /// # Errors
    /// As [`PluginKernel::forward`].
    fn rematerialize(
        &self,
        launch: PluginLaunch<'_>,
        saved: &[Buffer<'_>],
        outputs: &mut [BufferMut<'_>],
    ) -> Result<(), String>;
}

/// One node's op in a batch of one size.
#[derive(Debug)]
pub struct PluginCall {
    /// The node's.
    pub path: String,
    pub call: OpCall,
    pub plan: OpPlan,
    /// The plan's scalars, from the node's attributes.
    pub scalars: Vec<f64>,
    /// Tokens of the batch.
    rows: u64,
    /// How many of the call's inputs are the node's; parameters follow.
    node_inputs: usize,
    ops: Rc<dyn PluginOps>,
    kernel: Kernel,
}

#[derive(Default)]
struct Kernel(OnceCell<Rc<dyn PluginKernel>>);

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.get().is_some() { "built" } else { "not built" })
    }
}

impl PluginCall {
    /// The kernel, built when it is first asked for: who only counts never asks.
    ///
    /// # Errors
    /// The plugin has none for this device.
    pub fn kernel(&self, device: Device) -> Result<&dyn PluginKernel, EngineError> {
        if let Some(kernel) = self.kernel.0.get() {
            return Ok(&**kernel);
        }
        let kernel = self.ops.kernel(&self.path, &self.call, device).map_err(|error| self.fault(error))?;
        Ok(&**self.kernel.0.get_or_init(|| kernel))
    }

    /// An error that says where.
    pub fn fault(&self, message: String) -> EngineError {
        EngineError::Plugin { path: self.path.clone(), kind: self.call.kind.clone(), message }
    }

    /// Shapes as the engine has them and element types of the inputs: rows of tokens, then the parameters.
    pub fn inputs(&self) -> impl Iterator<Item = ([u64; 2], Dtype)> {
        self.call.inputs.iter().enumerate().map(|(index, meta)| match index < self.node_inputs {
            true => (rows_of(meta, self.rows), meta.dtype),
            false => (rows_of(meta, meta.shape.iter().rev().skip(1).product()), meta.dtype),
        })
    }

    /// As [`PluginCall::inputs`], of the outputs.
    pub fn outputs(&self) -> impl Iterator<Item = ([u64; 2], Dtype)> {
        self.plan.outputs.iter().map(|meta| (rows_of(meta, self.rows), meta.dtype))
    }

    /// The bytes of each tensor that the forward fills for the backward alone.
    pub fn saved_bytes(&self) -> impl Iterator<Item = u64> {
        self.plan.saved.iter().map(bytes_of)
    }

    /// The types of what the backward gets as saved, in order.
    pub fn saved_metas(&self) -> impl Iterator<Item = &Meta> {
        let inputs = self.plan.saves_inputs.iter().map(|&index| &self.call.inputs[index]);
        let outputs = self.plan.saves_outputs.iter().map(|&index| &self.plan.outputs[index]);
        self.plan.saved.iter().chain(inputs).chain(outputs)
    }
}

/// Plans are checked by whoever has the plugins: none is beyond 64 bits.
fn bytes_of(meta: &Meta) -> u64 {
    meta.bytes().unwrap_or(u64::MAX)
}

fn rows_of(meta: &Meta, rows: u64) -> [u64; 2] {
    [rows, meta.elements().unwrap_or(u64::MAX).checked_div(rows).unwrap_or(0)]
}

/// Calls that a node keeps, so that batches of a few lengths that take turns are planned once each.
const KEPT_CALLS: usize = 8;

/// A call that was planned: for a batch of this size, and inputs of these element types.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    sizes: Sizes,
    dtypes: Vec<Dtype>,
    call: Rc<PluginCall>,
}

/// A node's op, whatever the batch.
#[derive(Clone, Debug)]
pub(crate) struct PluginOp {
    pub path: String,
    pub kind: String,
    pub attrs: Attrs,
    /// Types of the node's inputs and outputs, sizes of the batch being symbols.
    pub inputs: Vec<Value>,
    pub outputs: Vec<Value>,
    /// Positions and shapes of its parameters.
    pub params: Vec<(usize, Vec<u64>)>,
    /// Outputs that consumers do not keep: what the graph's record of the op says.
    pub rematerializes: Vec<usize>,
    pub ops: Rc<dyn PluginOps>,
    /// The one used last comes last.
    pub planned: RefCell<Vec<Planned>>,
}

impl PluginOp {
    /// The call that the forward made.
    ///
    /// # Errors
    /// None was made in a batch of this size.
    pub fn planned(&self, sizes: Sizes) -> Result<Rc<PluginCall>, EngineError> {
        let planned = self.planned.borrow();
        let found = planned.iter().rfind(|planned| planned.sizes == sizes).map(|planned| planned.call.clone());
        found.ok_or_else(|| EngineError::Plugin {
            path: self.path.clone(),
            kind: self.kind.clone(),
            message: "its backward came before its forward".into(),
        })
    }

    /// The call in a batch of this size, planned anew where there was none lately.
    ///
    /// # Errors
    /// What the plugin says, or a plan that is not what the graph has.
    pub fn call(&self, sizes: Sizes, dtypes: Vec<Dtype>) -> Result<Rc<PluginCall>, EngineError> {
        let mut planned = self.planned.borrow_mut();
        if let Some(at) = planned.iter().rposition(|planned| planned.sizes == sizes && planned.dtypes == dtypes) {
            let found = planned.remove(at);
            let call = found.call.clone();
            planned.push(found);
            return Ok(call);
        }
        let values = self.inputs.iter().map(|value| sizes.meta(value).shape);
        let shapes = values.chain(self.params.iter().map(|(_, shape)| shape.clone()));
        let inputs = shapes.zip(&dtypes).map(|(shape, &dtype)| Meta { dtype, shape }).collect();
        let call = OpCall { kind: self.kind.clone(), inputs, attrs: self.attrs.clone() };
        let fault = |message: String| EngineError::Plugin { path: self.path.clone(), kind: self.kind.clone(), message };
        let plan = self.ops.plan(&self.path, &call).map_err(fault)?;
        let expected: Vec<_> = self.outputs.iter().map(|value| sizes.meta(value).shape).collect();
        let found: Vec<_> = plan.outputs.iter().map(|meta| meta.shape.clone()).collect();
        if found != expected {
            return Err(fault(format!(
                "its plan makes {found:?}, the graph has {expected:?}; was the plugin changed?"
            )));
        }
        if plan.rematerializes != self.rematerializes {
            let (found, wanted) = (&plan.rematerializes, &self.rematerializes);
            return Err(fault(format!(
                "its plan makes outputs {found:?} again, the graph has {wanted:?}; was the plugin changed?"
            )));
        }
        let scalar = |name: &String| {
            let found = self.attrs.get(name).and_then(serde_json::Value::as_f64);
            found.ok_or_else(|| fault(format!("its plan asks for attribute {name} as a number, and there is none")))
        };
        let scalars = plan.scalars.iter().map(scalar).collect::<Result<_, _>>()?;
        let made = Rc::new(PluginCall {
            path: self.path.clone(),
            call,
            plan,
            scalars,
            rows: sizes.tokens(),
            node_inputs: self.inputs.len(),
            ops: self.ops.clone(),
            kernel: Kernel::default(),
        });
        if planned.len() == KEPT_CALLS {
            planned.remove(0);
        }
        planned.push(Planned { sizes, dtypes, call: made.clone() });
        Ok(made)
    }
}
