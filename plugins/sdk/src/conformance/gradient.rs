//! Kernels backward: gradients against finite differences.
//!
//! Where the op stands for a primitive that the suite knows, differences are those of the f64 reference. Where not, they
//! are those of the op's own forward, in f32, with the step and its half compared so that kinks and noise drop out.

use unswag_abi::doc::{Dtype, OpCall};

use super::{
    Checks, Verdict,
    calls::{Use, describe},
    forward::{OTHER_FILL, each, plain_of, same_tensors},
    numbers::{Closeness, Random, closeness, inputs, is_computed, precision, tensors},
    reference::Plain,
};
use crate::{
    error::Error,
    tensor::TensorBuf,
    test::{KernelTest, OpTest, ProtocolTest, Settings},
};

/// A lossy gradient must still point where the true one does; what it measures is printed.
const LEAST_COSINE: f64 = 0.8;

/// Elements of an input that the op's own forward is differentiated at.
const PROBES: usize = 24;

pub(super) fn check(protocol: &ProtocolTest, used: &Use, subject: &str, checks: &mut Checks<'_>) {
    let Ok(op) = protocol.op(&used.kind) else { return };
    let claim = match used.lossy {
        Some(_) => "has gradients along finite differences (lossy)",
        None => "has the gradients of finite differences",
    };
    checks.run(subject, claim, || match plain_of(used) {
        Ok(plain) => against_plain(&op, used, plain),
        Err(_) => against_itself(&op, used),
    });
    checks.run(subject, "gives the same gradients for any number of threads, and skips those not wanted", || {
        each(&op, used, same_bits)
    });
    checks.run(subject, "makes again what it says it can", || rematerialized(&op, used));
}

/// A backward's inputs and what came of it.
struct Run {
    inputs: Vec<TensorBuf>,
    saved: Vec<TensorBuf>,
    grad_outputs: Vec<TensorBuf>,
}

impl Run {
    fn new(kernel: &KernelTest, seed: u64) -> Result<Self, Error> {
        let inputs = inputs(&kernel.call, seed)?;
        let forward = kernel.forward(&Settings::default(), &inputs)?;
        let saved = kernel.saved(&inputs, &forward)?;
        Ok(Self { inputs, saved, grad_outputs: tensors(&kernel.plan.outputs, seed + 1000)? })
    }
}

fn against_plain(op: &OpTest, used: &Use, plain: Plain) -> Result<Verdict, Error> {
    let mut notes = Vec::new();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        let call = used.call_at(dtype, &[6, 42, 123]);
        if op.plan(&call).is_err() {
            continue;
        }
        let kernel = op.cpu(&call)?;
        let run = Run::new(&kernel, 4)?;
        let grads = kernel.backward(&Settings::default(), &run.saved, &run.grad_outputs)?;
        let x = run.inputs.iter().map(TensorBuf::to_f64).collect::<Result<Vec<_>, _>>()?;
        let dy = run.grad_outputs[0].to_f64()?;
        for (index, grad) in grads.iter().enumerate() {
            let grad = grad.as_ref().ok_or_else(|| Error::new("a wanted gradient was not given"))?.to_f64()?;
            let truth = dy.iter().enumerate().map(|(element, dy)| {
                let at = Vec::from_iter(x.iter().map(|input| input[element]));
                dy * plain.derivative(&at, index)
            });
            let close = closeness(&grad, &Vec::from_iter(truth));
            judge(used, dtype, index, close)?;
            notes.push(format!("{dtype} input {index}: {close}"));
        }
    }
    Ok(Verdict::Measured(notes.join("; ")))
}

fn judge(used: &Use, dtype: Dtype, index: usize, close: Closeness) -> Result<(), Error> {
    // Exact: rounding of the result and of a few f32 steps before it. The differences themselves are good to 1e-9.
    let allowed = 4.0 * precision(dtype).0;
    let fails = match used.lossy {
        None => close.relative_error.is_nan() || close.relative_error > allowed,
        Some(_) => close.cosine.is_nan() || close.cosine < LEAST_COSINE,
    };
    if !fails {
        return Ok(());
    }
    match used.lossy {
        None => crate::bail!(
            "{dtype}: gradient of input {index}: {close}; expected an error below {allowed:.1e}, or a patch that says it is lossy"
        ),
        Some(_) => {
            crate::bail!("{dtype}: gradient of input {index}: {close}; expected a cosine of at least {LEAST_COSINE}")
        }
    }
}

/// The sum over all float outputs of output times `dy`, in f64.
fn objective(kernel: &KernelTest, inputs: &[TensorBuf], dy: &[TensorBuf]) -> Result<f64, Error> {
    let forward = kernel.forward(&Settings { training: false, ..Settings::default() }, inputs)?;
    let mut sum = 0.0;
    for (output, dy) in forward.outputs.iter().zip(dy) {
        if is_computed(output.meta().dtype) {
            sum += output.to_f64()?.iter().zip(dy.to_f64()?).map(|(y, dy)| y * dy).sum::<f64>();
        }
    }
    Ok(sum)
}

fn against_itself(op: &OpTest, used: &Use) -> Result<Verdict, Error> {
    let call = used.call_as(Dtype::F32, 2, 3);
    if let Err(error) = op.plan(&call) {
        return Ok(Verdict::Skip(format!("it takes no F32, and other types are too coarse for differences: {error}")));
    }
    let kernel = op.cpu(&call)?;
    let run = Run::new(&kernel, 5)?;
    let grads = kernel.backward(&Settings::default(), &run.saved, &run.grad_outputs)?;
    let (mut measured, mut truth, mut dropped) = (Vec::new(), Vec::new(), 0);
    let mut random = Random::new(6);
    for (index, grad) in grads.iter().enumerate() {
        if !is_computed(call.inputs[index].dtype) {
            continue;
        }
        let grad = grad.as_ref().ok_or_else(|| Error::new("a wanted gradient was not given"))?.to_f64()?;
        for _ in 0..PROBES.min(grad.len()) {
            let element = (random.next() % grad.len() as u64) as usize;
            let slope = |step: f64| slope(&kernel, &run, index, element, step);
            let (coarse, fine) = (slope(1.0 / 64.0)?, slope(1.0 / 128.0)?);
            if (coarse - fine).abs() > 0.02 * (coarse.abs() + fine.abs() + 1e-3) {
                dropped += 1;
                continue;
            }
            // Richardson: the error of central differences falls with the step's square.
            truth.push((4.0 * fine - coarse) / 3.0);
            measured.push(grad[element]);
        }
    }
    if truth.len() < dropped || truth.is_empty() {
        return Ok(Verdict::Skip(format!(
            "its forward is too rough: {dropped} of {} differences are unsure",
            dropped + truth.len()
        )));
    }
    let close = closeness(&measured, &truth);
    let fails = match used.lossy {
        None => close.relative_error.is_nan() || close.relative_error > 2e-3,
        Some(_) => close.cosine.is_nan() || close.cosine < LEAST_COSINE,
    };
    if fails {
        crate::bail!("{}: {close} against differences of its own forward", describe(&call));
    }
    Ok(Verdict::Measured(format!("{close} against its own forward at {} elements", truth.len())))
}

fn slope(kernel: &KernelTest, run: &Run, index: usize, element: usize, step: f64) -> Result<f64, Error> {
    let mut inputs = run.inputs.clone();
    let mut at = |offset: f64| -> Result<(f64, f64), Error> {
        let mut values = run.inputs[index].to_f64()?;
        values[element] += offset;
        inputs[index] = TensorBuf::from_f64(Dtype::F32, &values, &kernel.call.inputs[index].shape)?;
        // What f32 made of the offset, which is what the kernel saw.
        Ok((inputs[index].to_f64()?[element], objective(kernel, &inputs, &run.grad_outputs)?))
    };
    let ((above, high), (below, low)) = (at(step)?, at(-step)?);
    Ok((high - low) / (above - below))
}

fn same_bits(kernel: &KernelTest, seed: u64) -> Result<(), Error> {
    let run = Run::new(kernel, seed)?;
    let settings = Settings::default();
    let count = kernel.call.inputs.len();
    let backward =
        |settings: &Settings, wanted: &[bool]| kernel.backward_of(settings, &run.saved, &run.grad_outputs, wanted);
    let all = backward(&settings, &vec![true; count])?;
    let threaded = backward(&Settings { threads: 3, fill: OTHER_FILL, ..settings.clone() }, &vec![true; count])?;
    let flat = |grads: Vec<Option<TensorBuf>>| Vec::from_iter(grads.into_iter().flatten());
    let (all, threaded) = (flat(all), flat(threaded));
    same_tensors("gradients", &all, &threaded).map_err(|error| error.at("with 3 threads and other bytes before"))?;
    for only in 0..count {
        let wanted = Vec::from_iter((0..count).map(|index| index == only));
        let one = flat(backward(&settings, &wanted)?);
        same_tensors("gradients", &all[only..=only], &one)
            .map_err(|error| error.at(format!("only input {only} wanted")))?;
    }
    backward(&settings, &vec![false; count]).map(drop).map_err(|error| error.at("no gradient wanted"))
}

fn rematerialized(op: &OpTest, used: &Use) -> Result<Verdict, Error> {
    let plan = op.plan(&used.call(2, 5))?;
    if plan.rematerializes.is_empty() {
        return Ok(Verdict::Skip("its plan rematerializes nothing".to_owned()));
    }
    let exact = plan.rematerializes_exactly;
    let outcome = each(op, used, |kernel, seed| {
        let inputs = inputs(&kernel.call, seed)?;
        let forward = kernel.forward(&Settings::default(), &inputs)?;
        let again = kernel.rematerialize(&Settings::default(), &kernel.saved(&inputs, &forward)?)?;
        let first = Vec::from_iter(kernel.plan.rematerializes.iter().map(|&index| forward.outputs[index].clone()));
        if exact {
            return same_tensors("rematerialized outputs", &first, &again);
        }
        for (first, again) in first.iter().zip(&again) {
            let close = closeness(&again.to_f64()?, &first.to_f64()?);
            if close.cosine.is_nan() || close.cosine < LEAST_COSINE {
                crate::bail!("{close} of what forward gave; expected a cosine of at least {LEAST_COSINE}");
            }
        }
        Ok(())
    })?;
    if exact {
        return Ok(outcome);
    }
    let call: OpCall = used.call(3, 42);
    let kernel = op.cpu(&call)?;
    let inputs = inputs(&call, 7)?;
    let forward = kernel.forward(&Settings::default(), &inputs)?;
    let again = kernel.rematerialize(&Settings::default(), &kernel.saved(&inputs, &forward)?)?;
    let first = forward.outputs[kernel.plan.rematerializes[0]].to_f64()?;
    Ok(Verdict::Measured(closeness(&again[0].to_f64()?, &first).to_string()))
}
