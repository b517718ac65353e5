//! `delhi.silu` and `delhi.gelu`: the value as it is, and a code of one to four bits of the derivative for the backward.
//!
//! The derivative's best piecewise-constant table is computed when the op is built, from the weighting (or the histogram)
//! that the node names; the tables of named weightings are kept for the process.

use std::sync::Arc;

use unswag_kernels::{
    Exec,
    delhi::{Activation, CodeTable, Weighting, code_words, gelu, silu, tables},
};
use unswag_sdk::{
    Attrs, AttrsExt, Built, Device, Dtype, Error, Inputs, Kernel, Launch, Meta, Op, OpCall, OpPlan, Outputs, Target,
    bail, error,
};

use crate::call::{activation, by_dtype, check_dtype, elements};

pub const SILU: &str = silu::OP;
pub const GELU: &str = gelu::OP;

/// Counted on the forward's arithmetic: an exponential as 8, and a handful of multiply-adds.
const FLOPS_FORWARD: u64 = 16;
/// One multiplication.
const FLOPS_BACKWARD: u64 = 1;

pub struct Coded;

fn bits(attrs: &Attrs) -> Result<u32, Error> {
    match attrs.require::<u32>("bits")? {
        bits @ 1..=4 => Ok(bits),
        other => bail!("attribute \"bits\": expected 1, 2, 3 or 4, got {other}"),
    }
}

fn weighting(attrs: &Attrs) -> Result<Weighting, Error> {
    if let Some(histogram) = attrs.read("histogram")? {
        return Ok(Weighting::Histogram(histogram));
    }
    match attrs.read::<String>("weighting")?.as_deref() {
        None | Some("uniform") => Ok(Weighting::Uniform),
        Some("normal") => Ok(Weighting::Normal),
        Some(other) => bail!("attribute \"weighting\": expected \"uniform\" or \"normal\", got {other:?}"),
    }
}

impl Op for Coded {
    fn plan(&self, call: &OpCall) -> Result<OpPlan, Error> {
        let [x] = call.inputs.as_slice() else {
            bail!("{}: expected one input, got {}", call.kind, call.inputs.len());
        };
        check_dtype(call, x)?;
        activation(&call.kind, &call.attrs)?;
        weighting(&call.attrs)?;
        let elements = elements(call, x)?;
        let words = code_words(elements, bits(&call.attrs)?)
            .ok_or_else(|| error!("{}: the codes of {elements} elements do not fit memory", call.kind))?;
        Ok(OpPlan {
            outputs: vec![x.clone()],
            saved: vec![Meta { dtype: Dtype::U32, shape: vec![words as u64] }],
            flops_forward: FLOPS_FORWARD.saturating_mul(elements as u64),
            flops_backward: FLOPS_BACKWARD.saturating_mul(elements as u64),
            ..OpPlan::default()
        })
    }

    fn build(&self, call: &OpCall, target: &Target) -> Result<Built, Error> {
        if target.device != Device::Cpu {
            bail!("{}: this build has kernels for the CPU only", call.kind);
        }
        self.plan(call)?;
        let activation = activation(&call.kind, &call.attrs)?;
        let table = tables::table(activation, bits(&call.attrs)?, &weighting(&call.attrs)?)?;
        Ok(Built::kernel(CodedKernel { activation, table, dtype: call.inputs[0].dtype }))
    }
}

struct CodedKernel {
    activation: Activation,
    table: Arc<CodeTable>,
    dtype: Dtype,
}

impl Kernel for CodedKernel {
    fn forward(
        &self,
        launch: &mut Launch<'_>,
        inputs: Inputs<'_>,
        outputs: Outputs<'_>,
        saved: Outputs<'_>,
    ) -> Result<(), Error> {
        let [x] = inputs.array()?;
        let [mut y] = outputs.array()?;
        let exec = Exec::new(launch.threads());
        by_dtype!(self.dtype, T => {
                    let (x, y) = (x.as_slice::<T>()?, y.as_mut_slice::<T>()?);
                    if !launch.training() {
                        match self.activation {
                            Activation::Silu => silu::plain(exec, x, y)?,
                            gelu => gelu::plain(exec, gelu, x, y)?,
                        }
        return Ok(());
                    }
                    let [mut codes] = saved.array()?;
                    let codes = codes.as_mut_slice::<u32>()?;
                    match self.activation {
                        Activation::Silu => silu::forward(exec, &self.table, x, y, codes)?,
                        _ => gelu::forward(exec, &self.table, x, y, codes)?,
                    }
        Ok(())
                })
    }

    fn backward(
        &self,
        launch: &mut Launch<'_>,
        grad_outputs: Inputs<'_>,
        saved: Inputs<'_>,
        grad_inputs: Outputs<'_>,
    ) -> Result<(), Error> {
        let [dy] = grad_outputs.array()?;
        let [codes] = saved.array()?;
        let [mut dx] = grad_inputs.array()?;
        if !dx.is_wanted() {
            return Ok(());
        }
        let exec = Exec::new(launch.threads());
        by_dtype!(self.dtype, T => {
                    let dx = dx.as_mut_slice::<T>()?;
                    if !dy.is_wanted() {
                        dx.fill(T::default());
                        return Ok(());
                    }
                    let (dy, codes) = (dy.as_slice::<T>()?, codes.as_slice::<u32>()?);
                    match self.activation {
                        Activation::Silu => silu::backward(exec, &self.table, dy, codes, dx)?,
                        _ => gelu::backward(exec, &self.table, dy, codes, dx)?,
                    }
        Ok(())
                })
    }
}
