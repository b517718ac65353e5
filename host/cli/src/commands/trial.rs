//! The child process of a trial: what this program does when it is started for one, in the sandbox.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};
use unswag_abi::doc::{Graph, OpCall, OpPlan, Patch};
use unswag_graph::{Ops, apply};
use unswag_loader::{KERNELS_JOB, TrialJob, Voice, serve_kernels, trial_child};
use unswag_reference::{NoReference, Primitive, Tensor, compare};
use unswag_sdk::{
    Error, TensorBuf,
    conformance::{Check, Claim, Plans, RunOp, Suite, Verified},
};

/// The name of the job that runs the conformance suite.
pub const CHECK_JOB: &str = "check";

/// What the suite's child says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// A check begins.
    Begins {
        subject: String,
        claim: String,
    },
    Done(Check),
}

/// Does the job that this process was started for, and ends it.
pub fn serve() -> ! {
    trial_child(|job, voice| match job.name.as_str() {
        KERNELS_JOB => serve_kernels(job, voice),
        CHECK_JOB => check(&job, voice),
        other => Err(format!("no job {other:?}")),
    })
}

fn check(job: &TrialJob, voice: &mut Voice) -> Result<(), String> {
    let voice = RefCell::new(voice);
    // Without a parent there is no reader: the operating system ends this process with it.
    let say = |said: &Said| {
        if let Ok(text) = serde_json::to_string(said) {
            let _ = voice.borrow_mut().say(&text);
        }
    };
    let begins =
        |subject: &str, claim: &str| say(&Said::Begins { subject: subject.to_owned(), claim: claim.to_owned() });
    let watch = |check: &Check| say(&Said::Done(check.clone()));
    Suite::new(job.plugin.raw()).apply(&host_apply).reference(&verified).begins(&begins).watch(&watch).run();
    Ok(())
}

/// Plans through the suite's callback, as a graph's `apply` asks for them.
struct SuiteOps<'a>(&'a Plans<'a>);

impl Ops for SuiteOps<'_> {
    fn plan(&self, call: &OpCall) -> Result<OpPlan, String> {
        (self.0)(call)
    }
}

fn host_apply(graph: &Graph, patch: &Patch, plans: &Plans<'_>) -> Result<Graph, String> {
    apply(graph, patch, &SuiteOps(plans)).map(|applied| applied.graph).map_err(|error| crate::chain(&error))
}

/// Compares an op with the plain reference of the primitive that it stands for.
fn verified(claim: &Claim<'_>, run: &RunOp<'_>) -> Result<Verified, Error> {
    let unverified = |why: NoReference| Ok(Verified::Unverified(why.to_string()));
    let primitive = match Primitive::new(claim.kind, claim.attrs, claim.roles.iter().map(String::as_str)) {
        Ok(primitive) => primitive,
        Err(why) => return unverified(why),
    };
    let inputs = match primitive.sample(claim.inputs, 1) {
        Ok(inputs) => inputs,
        Err(why) => return unverified(why),
    };
    let expected = match primitive.outputs(&inputs) {
        Ok(expected) => expected,
        Err(why) => return unverified(why),
    };
    let buffers: Vec<TensorBuf> =
        inputs.iter().map(|input| TensorBuf::from_bytes(&input.meta, &input.bytes)).collect::<Result<_, _>>()?;
    let found = run(&buffers)?;
    let found: Vec<Tensor> =
        found.iter().map(|output| Tensor { meta: output.meta(), bytes: output.bytes().to_vec() }).collect();
    match compare(&expected, &found) {
        Ok(agreement) if agreement.is_exact() => Ok(Verified::Exact),
        Ok(agreement) => Ok(Verified::Rounding(agreement.to_string())),
        Err(difference) => Err(Error::new(difference.to_string())),
    }
}
