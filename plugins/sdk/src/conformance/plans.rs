//! Ops and their plans: pure, complete, and firm against calls that make no sense.

use serde_json::{Value, json};
use unswag_abi::doc::{Attrs, Device, Meta, OpCall, OpPlan, Target};

use super::{
    Case, Checks, Verdict,
    calls::{Use, describe},
    not_a_panic,
};
use crate::{
    error::Error,
    test::{OpTest, ProtocolTest},
};

/// What holds for every op, used by a sample's patch or not.
pub(super) fn ops(case: &Case<'_>, protocol: &ProtocolTest, uses: &[Use], checks: &mut Checks<'_>) {
    checks.run(&case.subject, "has the ops that its manifest lists, and no others", || {
        for kind in &case.info.ops {
            protocol.op(kind)?;
        }
        for kind in ["", "relu", "no.such_op", &format!("{}.no_such_op", case.info.id)] {
            if protocol.op(kind).is_ok() {
                crate::bail!("it has an op {kind:?}");
            }
        }
        Ok(Verdict::Pass)
    });
    for kind in &case.info.ops {
        let Ok(op) = protocol.op(kind) else { continue };
        let attrs = uses.iter().find(|used| used.kind == *kind).map(|used| used.attrs.clone()).unwrap_or_default();
        checks.run(&format!("{}: {kind}", case.subject), "plans no nonsense", || nonsense(&op, kind, &attrs));
    }
}

fn nonsense(op: &OpTest, kind: &str, attrs: &Attrs) -> Result<Verdict, Error> {
    for text in ["", "null", "[]", "{}", "{\"kind\":7}", "{\"kind\":\"x\",\"inputs\":[{}]}"] {
        let outcome = op.plan_text(text);
        not_a_panic(&outcome)?;
    }
    let huge = [vec![u64::MAX], vec![u64::MAX; 3], vec![1 << 62, 4], vec![0, u64::MAX], vec![1; 70], vec![]];
    for count in 0..5 {
        for shape in &huge {
            for dtype in [unswag_abi::doc::Dtype::F32, unswag_abi::doc::Dtype::I64] {
                let inputs = vec![Meta { dtype, shape: shape.clone() }; count];
                for attrs in [attrs.clone(), Attrs::new(), retyped(attrs)] {
                    let call = OpCall { kind: kind.to_owned(), inputs: inputs.clone(), attrs };
                    let outcome = op.plan(&call);
                    not_a_panic(&outcome).map_err(|error| error.at(describe(&call)))?;
                    if let Ok(plan) = outcome {
                        fits(&call, &plan).map_err(|error| error.at(describe(&call)))?;
                    }
                }
            }
        }
    }
    Ok(Verdict::Pass)
}

fn retyped(attrs: &Attrs) -> Attrs {
    let wrong = |value: &Value| if value.is_string() { json!(-1) } else { json!("text") };
    attrs.iter().map(|(name, value)| (name.clone(), wrong(value))).collect()
}

/// # Errors
/// The plan cannot be carried out: sizes beyond memory's numbers, indices of tensors that are not there.
fn fits(call: &OpCall, plan: &OpPlan) -> Result<(), Error> {
    let total =
        plan.outputs.iter().chain(&plan.saved).try_fold(plan.scratch_bytes, |sum, meta| sum.checked_add(meta.bytes()?));
    if total.is_none() {
        crate::bail!("the plan's bytes do not fit 64 bits; such a call is to be refused");
    }
    for (what, indices, count) in [
        ("saves_inputs", &plan.saves_inputs, call.inputs.len()),
        ("saves_outputs", &plan.saves_outputs, plan.outputs.len()),
        ("rematerializes", &plan.rematerializes, plan.outputs.len()),
    ] {
        if let Some(index) = indices.iter().find(|&&index| index >= count) {
            crate::bail!("{what} names tensor {index} of {count}");
        }
    }
    Ok(())
}

/// What holds for one use.
pub(super) fn check(case: &Case<'_>, protocol: &ProtocolTest, used: &Use, subject: &str, checks: &mut Checks<'_>) {
    let Some(op) = checks.value(subject, "is there", || protocol.op(&used.kind)) else { return };
    checks.run(subject, "plans what its patch states", || {
        for (batch, seq) in [(1, 1), (2, 5), (0, 3)] {
            let call = used.call(batch, seq);
            let plan = op.plan(&call)?;
            let stated = used.stated_outputs(batch, seq);
            if plan.outputs != stated {
                crate::bail!("for {}: the patch states {stated:?}, the plan {:?}", describe(&call), plan.outputs);
            }
            fits(&call, &plan)?;
        }
        Ok(Verdict::Pass)
    });
    checks.run(subject, "plans the same each time, from any thread", || {
        for call in used.sizes(used.dtype()) {
            let text = serde_json::to_string(&call)?;
            let first = op.plan_text(&text);
            let again = std::thread::scope(|scope| {
                let threads = [(); 4].map(|()| scope.spawn(|| op.plan_text(&text)));
                threads.map(|thread| thread.join().unwrap_or_else(|_| Err(Error::new("the thread panicked"))))
            });
            if again.iter().any(|plan| *plan != first) {
                crate::bail!("two plans for {}", describe(&call));
            }
        }
        Ok(Verdict::Pass)
    });
    checks.run(subject, "saves a number of bytes per token", || {
        let bytes = |batch| {
            let call = used.call(batch, 64);
            op.plan(&call).map(|plan| saved_bytes(&call, &plan))
        };
        let (one, two) = (bytes(1)?, bytes(2)?);
        let per_token = (two - one) as f64 / 64.0;
        Ok(Verdict::Measured(format!("{per_token} bytes per token")))
    });
    checks.run(subject, "builds for the devices that its manifest lists", || {
        let call = used.call(2, 5);
        for (device, features) in [(Device::Cpu, &[][..]), (Device::Cuda, &["sm_90a"][..]), (Device::Tpu, &["v5e"][..])]
        {
            let features = features.iter().map(|feature| (*feature).to_owned()).collect();
            let outcome = op.code(&call, &Target { device, features });
            let listed = case.info.devices.contains(&device);
            match outcome {
                Ok(code) if listed && code.kernel.is_none() && code.modules.is_empty() => {
                    crate::bail!("{device:?}: neither a kernel nor a module")
                }
                Err(error) if listed => return Err(error.at(format!("{device:?}"))),
                Ok(_) if !listed => crate::bail!("{device:?}: the manifest does not list it, yet it builds"),
                outcome => not_a_panic(&outcome)?,
            }
        }
        Ok(Verdict::Pass)
    });
}

/// Bytes that the call keeps for its backward.
fn saved_bytes(call: &OpCall, plan: &OpPlan) -> i128 {
    let of = |meta: Option<&Meta>| meta.and_then(Meta::bytes).map_or(0, i128::from);
    let made: i128 = plan.saved.iter().map(|meta| of(Some(meta))).sum();
    let inputs: i128 = plan.saves_inputs.iter().map(|&index| of(call.inputs.get(index))).sum();
    let outputs: i128 = plan.saves_outputs.iter().map(|&index| of(plan.outputs.get(index))).sum();
    made + inputs + outputs
}
