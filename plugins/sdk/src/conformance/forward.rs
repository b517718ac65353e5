//! Kernels forward: one result, whoever asks and however, equal to the primitive that the op stands for.

use unswag_abi::doc::{Device, Dtype, OpCall, Target};

use super::{
    Checks, Claim, Reference, Verdict, Verified,
    calls::{Use, describe},
    numbers::{inputs, precision},
    reference::Plain,
};
use crate::{
    error::Error,
    tensor::TensorBuf,
    test::{Forward, KernelTest, OpTest, ProtocolTest, Settings},
};

/// Another content of memory than the default, so that what a call leaves unwritten differs between two calls.
pub(super) const OTHER_FILL: u8 = 0x3D;

/// Half types are rounded from f32, so two units are ample; f32 itself goes through an exponential of one or two.
pub(super) fn allowed_units(dtype: Dtype) -> f64 {
    if dtype == Dtype::F32 { 4.0 } else { 2.0 }
}

pub(super) fn check(
    protocol: &ProtocolTest,
    used: &Use,
    reference: Option<&Reference<'_>>,
    subject: &str,
    checks: &mut Checks<'_>,
) {
    let Ok(op) = protocol.op(&used.kind) else { return };
    checks.run(subject, "gives the same bits in training, inference and recompute, for any number of threads", || {
        each(&op, used, |kernel, seed| same_bits(kernel, seed, is_random_in_training(used)))
    });
    checks.run(subject, "gives the same bits to four callers at once", || {
        let kernel = op.cpu(&used.call(3, 42))?;
        let (inputs, settings) = (inputs(&kernel.call, 1)?, Settings::default());
        let first = kernel.forward(&settings, &inputs)?;
        let results = std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(|| kernel.forward(&settings, &inputs)));
            threads.map(|thread| thread.join().unwrap_or_else(|_| Err(Error::new("the thread panicked"))))
        });
        for result in results {
            equal(&first, &result?).map_err(|error| error.at("called from four threads"))?;
        }
        Ok(Verdict::Pass)
    });
    checks.run(subject, "gives the same outputs on a CPU without vector units", || {
        let bare = Target { device: Device::Cpu, features: Vec::new() };
        for call in used.sizes(used.dtype()) {
            let (here, there) = (op.cpu(&call)?, op.build(&call, &bare)?);
            let inputs = inputs(&call, 2)?;
            let settings = Settings::default();
            let (here, there) = (here.forward(&settings, &inputs)?, there.forward(&settings, &inputs)?);
            same_tensors("outputs", &here.outputs, &there.outputs).map_err(|error| error.at(describe(&call)))?;
        }
        Ok(Verdict::Pass)
    });
    let claim = match &used.stands_for {
        Some(kind) => format!("equals {kind}"),
        None => "equals what it stands for".to_owned(),
    };
    checks.run(subject, &claim, || match reference {
        Some(reference) => equals_reference(&op, used, reference),
        None => equals_plain(&op, used),
    });
}

/// The plain primitive that a use stands for, where the suite knows it.
pub(super) fn plain_of(used: &Use) -> Result<Plain, String> {
    let Some(kind) = &used.stands_for else { return Err("it stands for no primitive".to_owned()) };
    let plain = Plain::of(kind, &used.attrs).ok_or_else(|| format!("the suite has no reference for {kind}"))?;
    if used.is_elementwise() && used.activations == plain.inputs() {
        Ok(plain)
    } else {
        Err(format!("its inputs are not those of {kind}"))
    }
}

/// Runs a check for every element type that the op takes and every size; says which types it refuses.
pub(super) fn each(
    op: &OpTest,
    used: &Use,
    check: impl Fn(&KernelTest, u64) -> Result<(), Error>,
) -> Result<Verdict, Error> {
    let mut notes = Vec::new();
    let own = used.dtype();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        if let Err(error) = op.plan(&used.call_as(dtype, 2, 5)) {
            if dtype == own {
                return Err(error.at(dtype));
            }
            notes.push(format!("no {dtype}"));
            continue;
        }
        notes.push(dtype.to_string());
        for (seed, call) in used.sizes(dtype).into_iter().enumerate() {
            let Some(kernel) = built(op, &call, used)? else { continue };
            check(&kernel, seed as u64).map_err(|error| error.at(describe(&call)))?;
        }
    }
    Ok(Verdict::Measured(notes.join(", ")))
}

/// The kernel of a call, or none where the op refuses shapes that its patch does not make.
fn built(op: &OpTest, call: &OpCall, used: &Use) -> Result<Option<KernelTest>, Error> {
    match op.plan(call) {
        Ok(_) => Ok(Some(op.cpu(call).map_err(|error| error.at(describe(call)))?)),
        Err(_) if call.inputs.iter().any(|meta| meta.shape.len() != used.call(1, 1).inputs[0].shape.len()) => Ok(None),
        Err(error) => Err(error.at(describe(call))),
    }
}

/// Whether it stands for a kind that draws random numbers in training: then only what it computes without training is compared.
fn is_random_in_training(used: &Use) -> bool {
    used.stands_for.as_deref() == Some("dropout")
}

fn same_bits(kernel: &KernelTest, seed: u64, is_random: bool) -> Result<(), Error> {
    let inputs = inputs(&kernel.call, seed)?;
    let base = Settings::default();
    let first = kernel.forward(&base, &inputs)?;
    let refilled = kernel.forward(&Settings { fill: OTHER_FILL, ..base.clone() }, &inputs)?;
    equal(&first, &refilled)
        .map_err(|error| error.at("with other bytes in the memory before; some are not written"))?;
    let threaded = kernel.forward(&Settings { threads: 3, ..base.clone() }, &inputs)?;
    equal(&first, &threaded).map_err(|error| error.at("with 3 threads"))?;
    let again = kernel.forward(&Settings { recompute: true, fill: OTHER_FILL, ..base.clone() }, &inputs)?;
    equal(&first, &again).map_err(|error| error.at("in a recompute"))?;
    if is_random {
        return Ok(());
    }
    let inference = kernel.forward(&Settings { training: false, fill: OTHER_FILL, ..base }, &inputs)?;
    same_tensors("outputs", &first.outputs, &inference.outputs).map_err(|error| error.at("not training"))
}

pub(super) fn equal(a: &Forward, b: &Forward) -> Result<(), Error> {
    same_tensors("outputs", &a.outputs, &b.outputs)?;
    same_tensors("saved", &a.saved, &b.saved)
}

pub(super) fn same_tensors(what: &str, a: &[TensorBuf], b: &[TensorBuf]) -> Result<(), Error> {
    if a.len() != b.len() {
        crate::bail!("{what}: {} tensors, then {}", a.len(), b.len());
    }
    for (index, (a, b)) in a.iter().zip(b).enumerate() {
        if let Some(at) = a.bytes().iter().zip(b.bytes()).position(|(a, b)| a != b) {
            let element = at as u64 / a.meta().dtype.bytes();
            crate::bail!("{what}[{index}]: element {element} of {:?} has other bits", a.meta().shape);
        }
    }
    Ok(())
}

/// In every element type that the op takes and at every size, in training and without.
fn equals_reference(op: &OpTest, used: &Use, reference: &Reference<'_>) -> Result<Verdict, Error> {
    let Some(kind) = &used.stands_for else { return Ok(Verdict::Skip("it stands for no primitive".to_owned())) };
    let mut notes = Vec::new();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        if let Err(error) = op.plan(&used.call_as(dtype, 2, 5)) {
            match dtype == used.dtype() {
                true => return Err(error.at(dtype)),
                false => continue,
            }
        }
        let mut note = "bit for bit".to_owned();
        for call in used.sizes(dtype) {
            let Some(kernel) = built(op, &call, used)? else { continue };
            let trainings: &[bool] = if is_random_in_training(used) { &[false] } else { &[true, false] };
            for &training in trainings {
                let settings = Settings { training, ..Settings::default() };
                let run = |inputs: &[TensorBuf]| kernel.forward(&settings, inputs).map(|forward| forward.outputs);
                let claim = Claim { kind, attrs: &used.plain_attrs, roles: &used.roles, inputs: &call.inputs };
                match reference(&claim, &run).map_err(|error| error.at(describe(&call)))? {
                    Verified::Exact => {}
                    Verified::Rounding(measured) => note = measured,
                    Verified::Unverified(why) => return Ok(Verdict::Skip(format!("unverified: {why}"))),
                }
            }
        }
        notes.push(format!("{dtype} {note}"));
    }
    if is_random_in_training(used) {
        notes.push("compared without training".to_owned());
    }
    Ok(Verdict::Measured(notes.join("; ")))
}

/// Values where formulas break: zeros of both signs, the very small, the saturated.
const SPECIAL: [f64; 16] =
    [0.0, -0.0, 1e-42, -1e-42, 1e-38, -1e-38, 1e-6, -1e-6, 1.0, -1.0, 9.0, -9.0, 30.0, -30.0, 88.0, -88.0];

fn equals_plain(op: &OpTest, used: &Use) -> Result<Verdict, Error> {
    let plain = match plain_of(used) {
        Ok(plain) => plain,
        Err(why) => return Ok(Verdict::Skip(why)),
    };
    let mut worst = 0f64;
    let noted = each(op, used, |_, _| Ok(()))?;
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        let call = used.call_at(dtype, &[6, 42, 123]);
        if op.plan(&call).is_err() {
            continue;
        }
        let mut inputs = inputs(&call, 3)?;
        for (index, input) in inputs.iter_mut().enumerate() {
            let mut values = input.to_f64()?;
            for (position, value) in SPECIAL.iter().enumerate() {
                // At odd places, so that special values of one input meet ordinary ones of another and each other.
                values[position * 37 * (index + 1)] = *value;
            }
            *input = TensorBuf::from_f64(dtype, &values, &call.inputs[index].shape)?;
        }
        let kernel = op.cpu(&call)?;
        let forward = kernel.forward(&Settings::default(), &inputs)?;
        let found = forward.outputs.first().ok_or_else(|| Error::new("it has no output"))?.to_f64()?;
        let inputs = inputs.iter().map(TensorBuf::to_f64).collect::<Result<Vec<_>, _>>()?;
        let (epsilon, least) = precision(dtype);
        for (element, found) in found.iter().enumerate() {
            let x = Vec::from_iter(inputs.iter().map(|input| input[element]));
            let expected = plain.value(&x);
            if expected.abs() > f64::from(half::f16::MAX) && dtype == Dtype::F16 {
                continue;
            }
            let units = (found - expected).abs() / (epsilon * plain.magnitude(&x)).max(least);
            if units > allowed_units(dtype) || units.is_nan() {
                crate::bail!(
                    "{dtype}: f({x:?}) = {found:e}, expected {expected:e}: {units:.1} units in the last place off"
                );
            }
            worst = worst.max(units);
        }
    }
    let Verdict::Measured(dtypes) = noted else { return Ok(Verdict::Pass) };
    Ok(Verdict::Measured(format!("{dtypes}; at most {worst:.1} units in the last place off")))
}
