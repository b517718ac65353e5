//! The claims of a patch's nodes to equal host primitives, and their verification.
//!
//! A node that says `stands_for` claims the forward of a host primitive. The claim decides whether other tools may open the output,
//! so it is verified: the plugin's kernel runs on sample inputs in a sandboxed child process, and each output is compared here with a plain
//! reference of the primitive. A claim that fails refuses the surgery; one that cannot be verified is recorded as such, and then the
//! output is marked as one that computes something else.

use std::collections::HashMap;

use unswag_abi::doc::{Attrs, Dim, Dtype, Edit, Graph, Meta, Node, OpCall, Patch};
use unswag_graph::kinds::is_plugin_op;
use unswag_loader::{Ending, KernelRun, Plugin, RunError, TrialError, TrialOptions, run_kernels};
use unswag_reference::{Agreement, Difference, NoReference, Primitive, Tensor, compare};

use crate::record::{self, Verified, only_node, plain_kind};

/// Batch and sequence of the sample calls.
const SIZES: [(u64, u64); 3] = [(1, 1), (2, 5), (1, 7)];

/// What was claimed, and of which call.
#[derive(Debug)]
pub struct Claimed {
    pub path: String,
    pub op: String,
    pub protocol: String,
    pub kind: String,
    pub inputs: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(
        "surgery: {}: {} of plugin {} stands for {}, but computes something else for inputs {}: {difference}; \
         nothing was published; this is a defect of the plugin",
        claimed.path, claimed.op, claimed.protocol, claimed.kind, claimed.inputs
    )]
    Wrong { claimed: Box<Claimed>, difference: Box<Difference> },
    #[error(
        "surgery: {}: {} of plugin {} stands for {}, and its forward failed for inputs {}: {reason}; \
         nothing was published; this is a defect of the plugin",
        claimed.path, claimed.op, claimed.protocol, claimed.kind, claimed.inputs
    )]
    Failed { claimed: Box<Claimed>, reason: String },
    #[error("surgery: plugin {protocol}: what its ops stand for cannot be verified")]
    Trial {
        protocol: String,
        #[source]
        source: TrialError,
    },
}

/// Nodes of one patch that make the same claim.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Claim {
    /// The first of the nodes.
    path: String,
    nodes: usize,
    op: String,
    attrs: Attrs,
    stands_for: String,
    plain_attrs: Attrs,
    /// Of the parameters, which come last among the inputs.
    roles: Vec<String>,
    inputs: Vec<(Dtype, Vec<Dim>)>,
}

/// Every claim of the patch from `before` to `after`, each once.
pub(crate) fn claims(before: &Graph, after: &Graph, patch: &Patch) -> Vec<Claim> {
    let new: HashMap<&str, &Node> = after.nodes.iter().map(|node| (node.path.as_str(), node)).collect();
    let mut claims: Vec<Claim> = Vec::new();
    for edit in &patch.edits {
        let Edit::Replace { at, with } = edit else { continue };
        // Looked up by place: the new node's path may be another one.
        let old = only_node(before, at).filter(|_| with.nodes.len() == 1);
        for sub in &with.nodes {
            let path = sub.path(at);
            let Some(node) = new.get(path.as_str()) else { continue };
            let Some(stands_for) = &node.stands_for else { continue };
            // What was replaced says which variant of the primitive it was; the new node may have dropped an attribute.
            let replaced = old.filter(|old| plain_kind(old) == stands_for);
            let values = node.inputs.iter().filter_map(|name| after.values.get(name));
            let params = node.params.values().filter_map(|name| after.params.get(name));
            let inputs = values.map(|value| (value.dtype, value.shape.clone()));
            let fixed = |shape: &[u64]| shape.iter().map(|&size| Dim::Fixed(size)).collect();
            let claim = Claim {
                path,
                nodes: 1,
                op: node.kind.clone(),
                attrs: node.attrs.clone(),
                stands_for: stands_for.clone(),
                plain_attrs: replaced.unwrap_or(node).attrs.clone(),
                roles: node.params.keys().cloned().collect(),
                inputs: inputs.chain(params.map(|param| (param.dtype, fixed(&param.shape)))).collect(),
            };
            match claims.iter_mut().find(|other| other.is_alike(&claim)) {
                Some(other) => other.nodes += 1,
                None => claims.push(claim),
            }
        }
    }
    claims
}

impl Claim {
    fn is_alike(&self, other: &Claim) -> bool {
        let of = |claim: &Claim| Claim { path: String::new(), nodes: 0, ..claim.clone() };
        of(self) == of(other)
    }

    fn record(&self, verified: Verified, detail: String) -> record::Claim {
        record::Claim { op: self.op.clone(), stands_for: self.stands_for.clone(), nodes: self.nodes, verified, detail }
    }

    /// The sample calls: in the model's own element type, and in f32 where rounding hides least.
    fn samples(&self, primitive: &Primitive) -> Result<Vec<Sample>, NoReference> {
        let own = self.inputs.iter().map(|(dtype, _)| *dtype).find(|dtype| dtype.is_float()).unwrap_or(Dtype::F32);
        let mut samples = Vec::new();
        for dtype in [own, Dtype::F32] {
            if dtype == own && samples.iter().any(|sample: &Sample| sample.is_own) {
                continue;
            }
            for (seed, (batch, seq)) in SIZES.into_iter().enumerate() {
                let metas: Vec<Meta> = self.inputs.iter().map(|input| bound(input, dtype, batch, seq)).collect();
                let inputs = primitive.sample(&metas, seed as u64)?;
                let is_own = dtype == own;
                // Once as in training; what is saved must not change what is computed.
                let trainings: &[bool] = if seed == 1 { &[true, false] } else { &[false] };
                samples.extend(trainings.iter().map(|&is_training| Sample {
                    inputs: inputs.clone(),
                    is_training,
                    is_own,
                }));
            }
        }
        Ok(samples)
    }
}

/// The type of an input in one call.
fn bound((own, shape): &(Dtype, Vec<Dim>), dtype: Dtype, batch: u64, seq: u64) -> Meta {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Symbol(name) if name == "batch" => batch,
        Dim::Symbol(_) => seq,
    };
    Meta { dtype: if own.is_float() { dtype } else { *own }, shape: shape.iter().map(size).collect() }
}

struct Sample {
    inputs: Vec<Tensor>,
    is_training: bool,
    /// Of the model's own element type: the op must take it.
    is_own: bool,
}

impl Sample {
    fn metas(&self) -> impl Iterator<Item = &Meta> {
        self.inputs.iter().map(|input| &input.meta)
    }

    /// `BF16 [2, 5, 64], …`, for messages.
    fn described(&self) -> String {
        let inputs: Vec<String> = self.metas().map(|meta| format!("{} {:?}", meta.dtype, meta.shape)).collect();
        inputs.join(", ")
    }
}

/// Verifies the claims of one step with the library that states them; without one, none is verified.
pub(crate) fn verify(
    claims: &[Claim],
    library: Option<&Plugin>,
    protocol: &str,
    options: &Attrs,
) -> Result<Vec<record::Claim>, ClaimError> {
    let mut verdicts = Vec::with_capacity(claims.len());
    let (mut runs, mut judged) = (Vec::new(), Vec::new());
    for claim in claims {
        let unverified = |why: String| claim.record(Verified::Unverified, why);
        if !is_plugin_op(&claim.op) {
            verdicts.push(unverified("it is no op of the plugin".to_owned()));
            continue;
        }
        let Some(_) = library else {
            verdicts.push(unverified("the op's library is not available".to_owned()));
            continue;
        };
        let roles = claim.roles.iter().map(String::as_str);
        let primitive = Primitive::new(&claim.stands_for, &claim.plain_attrs, roles);
        match primitive.and_then(|primitive| Ok((claim.samples(&primitive)?, primitive))) {
            Err(why) => verdicts.push(unverified(why.to_string())),
            Ok((samples, primitive)) => {
                runs.extend(samples.iter().map(|sample| KernelRun {
                    call: OpCall {
                        kind: claim.op.clone(),
                        inputs: sample.metas().cloned().collect(),
                        attrs: claim.attrs.clone(),
                    },
                    inputs: sample.inputs.iter().map(|input| input.bytes.clone()).collect(),
                    is_training: sample.is_training,
                }));
                judged.push((claim, primitive, samples));
            }
        }
    }
    let Some(library) = library.filter(|_| !judged.is_empty()) else { return Ok(verdicts) };
    let answers = run_kernels(library, protocol, options, &runs, &TrialOptions::default());
    let answers = answers.map_err(|source| ClaimError::Trial { protocol: protocol.to_owned(), source })?;
    let mut answers = answers.into_iter();
    for (claim, primitive, samples) in judged {
        let mut agreement = Agreement::default();
        let mut unverified = None;
        for sample in &samples {
            match judge(claim, &primitive, sample, answers.next(), protocol)? {
                Judged::Agrees(found) => agreement = agreement.and(found),
                Judged::Refused => {}
                Judged::Unverified(why) => unverified = Some(why),
            }
        }
        verdicts.push(match unverified {
            Some(why) => claim.record(Verified::Unverified, why),
            None if agreement.is_exact() => claim.record(Verified::BitForBit, agreement.to_string()),
            None => claim.record(Verified::UpToRounding, agreement.to_string()),
        });
    }
    Ok(verdicts)
}

enum Judged {
    Agrees(Agreement),
    /// An element type that the op does not take and the model does not have.
    Refused,
    Unverified(String),
}

fn judge(
    claim: &Claim,
    primitive: &Primitive,
    sample: &Sample,
    answer: Option<Result<Vec<Vec<u8>>, RunError>>,
    protocol: &str,
) -> Result<Judged, ClaimError> {
    let claimed = || {
        Box::new(Claimed {
            path: claim.path.clone(),
            op: claim.op.clone(),
            protocol: protocol.to_owned(),
            kind: claim.stands_for.clone(),
            inputs: sample.described(),
        })
    };
    let failed = |reason: String| ClaimError::Failed { claimed: claimed(), reason };
    let outputs = match answer.unwrap_or(Err(RunError::Ended(Ending::Garbage))) {
        Ok(outputs) => outputs,
        Err(RunError::Refused(_)) if !sample.is_own => return Ok(Judged::Refused),
        Err(error) => return Err(failed(error.to_string())),
    };
    let expected = match primitive.outputs(&sample.inputs) {
        Ok(expected) => expected,
        Err(why) => return Ok(Judged::Unverified(why.to_string())),
    };
    if outputs.len() != expected.len() {
        return Err(failed(format!("expected {} outputs, got {}", expected.len(), outputs.len())));
    }
    // The plan's types were compared with the patch's when it was applied; a wrong size shows as a wrong type here.
    let found = expected.iter().zip(outputs).map(|(expected, bytes)| Tensor { meta: expected.meta.clone(), bytes });
    match compare(&expected, &found.collect::<Vec<_>>()) {
        Ok(agreement) => Ok(Judged::Agrees(agreement)),
        Err(difference) => Err(ClaimError::Wrong { claimed: claimed(), difference: Box::new(difference) }),
    }
}
