//! Plugins' ops on the CPU: tensors as the bytes that a kernel is handed.
//!
//! A kernel is given every byte that it may read or write and no other; what it writes is not read before it returns.

use tch::Kind;
use unswag_abi::doc::{Device, Meta};
use unswag_engine::{Buffer, BufferMut, EngineError, PluginCall, PluginLaunch, PluginRun};

use crate::{
    cpu::{Done, read_bytes, write_bytes},
    memory::{Pool, Pooled},
    tensor::{TorchTensor, torch_error},
    threads::exec,
};

fn buffers<'a>(
    metas: impl Iterator<Item = &'a Meta>,
    tensors: &'a [TorchTensor],
) -> Result<Vec<Buffer<'a>>, EngineError> {
    metas.zip(tensors).map(|(meta, tensor)| Ok(Buffer { meta, bytes: read_bytes(tensor.tensor())? })).collect()
}

fn filled<'a>(
    metas: impl Iterator<Item = &'a Meta>,
    tensors: impl Iterator<Item = Option<&'a TorchTensor>>,
) -> Result<Vec<BufferMut<'a>>, EngineError> {
    let buffer = |(meta, tensor): (&'a Meta, Option<&'a TorchTensor>)| {
        // SAFETY: each was made for this call, and is listed once.
        let bytes = tensor.map(|tensor| unsafe { write_bytes(tensor.tensor()) }).transpose()?;
        Ok(BufferMut { meta, bytes })
    };
    metas.zip(tensors).map(buffer).collect()
}

/// Memory that the plan asks for while the call runs.
fn scratch(call: &PluginCall, pool: &Pool) -> Result<Pooled, EngineError> {
    let bytes = i64::try_from(call.plan.scratch_bytes).unwrap_or(i64::MAX);
    pool.tensor(&[bytes], Kind::Uint8).map_err(torch_error)
}

fn launch<'a>(scratch: &'a Pooled, call: &'a PluginCall, run: PluginRun) -> Result<PluginLaunch<'a>, EngineError> {
    // SAFETY: the scratch is this call's alone.
    let scratch = unsafe { write_bytes(&scratch.tensor)? };
    let PluginRun { seed, saves: training, recomputes } = run;
    Ok(PluginLaunch { seed, scratch, scalars: &call.scalars, threads: exec().threads, training, recomputes })
}

/// `outputs` and `saved` are written.
pub(crate) fn forward(
    call: &PluginCall,
    pool: &Pool,
    run: PluginRun,
    [inputs, outputs, saved]: [&[TorchTensor]; 3],
) -> Done {
    let scratch = scratch(call, pool)?;
    let inputs = buffers(call.call.inputs.iter(), inputs)?;
    let mut outputs = filled(call.plan.outputs.iter(), outputs.iter().map(Some))?;
    let mut saved = filled(call.plan.saved.iter(), saved.iter().map(Some))?;
    let launch = launch(&scratch, call, run)?;
    let kernel = call.kernel(Device::Cpu)?;
    kernel.forward(launch, &inputs, &mut outputs, &mut saved).map_err(|error| call.fault(error))
}

/// `dinputs` are written, where there are any.
pub(crate) fn backward(
    call: &PluginCall,
    pool: &Pool,
    run: PluginRun,
    [dys, saved]: [&[TorchTensor]; 2],
    dinputs: &[Option<TorchTensor>],
) -> Done {
    let scratch = scratch(call, pool)?;
    let dys = buffers(call.plan.outputs.iter(), dys)?;
    let saved = buffers(call.saved_metas(), saved)?;
    let mut dinputs = filled(call.call.inputs.iter(), dinputs.iter().map(Option::as_ref))?;
    let launch = launch(&scratch, call, run)?;
    let kernel = call.kernel(Device::Cpu)?;
    kernel.backward(launch, &dys, &saved, &mut dinputs).map_err(|error| call.fault(error))
}

/// `outputs`, those of the plan's list, are written.
pub(crate) fn rematerialize(
    call: &PluginCall,
    pool: &Pool,
    run: PluginRun,
    [saved, outputs]: [&[TorchTensor]; 2],
) -> Done {
    let scratch = scratch(call, pool)?;
    let saved = buffers(call.saved_metas(), saved)?;
    let metas = call.plan.rematerializes.iter().map(|&index| &call.plan.outputs[index]);
    let mut outputs = filled(metas, outputs.iter().map(Some))?;
    let launch = launch(&scratch, call, run)?;
    let kernel = call.kernel(Device::Cpu)?;
    kernel.rematerialize(launch, &saved, &mut outputs).map_err(|error| call.fault(error))
}
