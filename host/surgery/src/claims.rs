//! The claims of a patch's nodes to equal host primitives, and their verification.
//!
//! A node that says `stands_for` claims the forward of a host primitive. The claim decides whether other tools may open the output,
//! so it is verified: the plugin's kernel runs on sample inputs in a sandboxed child process, and each output is compared here with a plain
//! reference of the primitive. A claim that fails refuses the surgery; one that cannot be verified is recorded as such, and then the
//! output is marked as one that computes something else.

use std::{collections::HashMap, rc::Rc};

use unswag_abi::doc::{Attrs, Device, Dim, Dtype, Edit, Graph, Meta, Node, OpCall, Patch, ProtocolInfo};
use unswag_graph::kinds::is_plugin_op;
use unswag_loader::{KernelRun, Plugin, RunError, TrialError, TrialOptions, run_kernels};
use unswag_reference::{Agreement, Difference, NoReference, Output, Primitive, Tensor, compare};

use crate::record::{self, Verified, only_node, plain_kind};

/// Batch and sequence of the sample calls, the most telling first.
const SIZES: [(u64, u64); 3] = [(2, 3), (1, 1), (1, 5)];

/// Batch and sequence of a call on several threads, where its inputs take no more than [`SMALL_BYTES`], and else.
const THREADED: [(u64, u64); 2] = [(3, 67), (3, 3)];
const THREADS: u32 = 3;
const SMALL_BYTES: u64 = 512 << 10;

/// The inputs of all samples of one claim, together.
const SAMPLED_BYTES: u64 = 256 << 20;

/// Products of a query's and a key's element that a plain attention is given to compute for one sample.
const MAX_PRODUCTS: u64 = 1 << 29;

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

    /// The sample calls: in the model's own element type, and in f32 where rounding hides least. Those that would take too much are left
    /// out.
    ///
    /// # Errors
    /// The first of them is no call of the primitive, or takes too much.
    fn samples(&self, primitive: &Primitive) -> Result<Vec<Sample>, NoReference> {
        let own = self.inputs.iter().map(|(dtype, _)| *dtype).find(|dtype| dtype.is_float()).unwrap_or(Dtype::F32);
        let metas = |dtype, (batch, seq): (u64, u64)| -> Vec<Meta> {
            self.inputs.iter().map(|input| bound(input, dtype, batch, seq)).collect()
        };
        let bytes = |metas: &[Meta]| metas.iter().filter_map(Meta::bytes).fold(0, u64::saturating_add);
        let [many, few] = THREADED;
        let threaded = if bytes(&metas(own, many)) <= SMALL_BYTES { many } else { few };

        let mut calls: Vec<(Dtype, (u64, u64), u32)> = SIZES.map(|size| (own, size, 1)).into();
        calls.push((own, threaded, THREADS));
        calls.extend(self.length_past_window().map(|seq| (own, (1, seq), 1)));
        if own != Dtype::F32 {
            calls.extend(SIZES.map(|size| (Dtype::F32, size, 1)));
        }
        let (mut samples, mut sampled) = (Vec::new(), 0);
        for (seed, (dtype, size, threads)) in calls.into_iter().enumerate() {
            let metas = metas(dtype, size);
            sampled += bytes(&metas);
            if !samples.is_empty() && sampled > SAMPLED_BYTES {
                sampled -= bytes(&metas);
                continue;
            }
            let inputs = match primitive.sample(&metas, seed as u64) {
                Ok(inputs) => Rc::new(inputs),
                Err(NoReference::Size { .. }) if !samples.is_empty() => continue,
                Err(why) => return Err(why),
            };
            // Once as in training; what is saved must not change what is computed.
            let trainings: &[bool] = match size == SIZES[0] && !primitive.is_random_in_training() {
                true => &[true, false],
                false => &[false],
            };
            samples.extend(trainings.iter().map(|&is_training| Sample {
                inputs: Rc::clone(&inputs),
                seq: size.1,
                is_training,
                is_own: dtype == own,
                threads,
            }));
        }
        Ok(samples)
    }

    fn size_of(&self, attr: &str) -> Option<u64> {
        self.plain_attrs.get(attr).and_then(serde_json::Value::as_u64)
    }

    /// Attention's sliding window, where it has one.
    fn window(&self) -> Option<u64> {
        self.size_of("sliding_window").filter(|_| self.stands_for == "attention")
    }

    /// A sequence longer than the window, unless the plain attention would compute for too long.
    fn length_past_window(&self) -> Option<u64> {
        let seq = self.window()?.saturating_add(3);
        let row = self.size_of("num_heads").unwrap_or(1).saturating_mul(self.size_of("head_dim").unwrap_or(1));
        Some(seq).filter(|seq| seq.saturating_mul(*seq).saturating_mul(row) <= MAX_PRODUCTS)
    }

    /// A window that no sample passes, for whatever reason: an op that ignores it would agree with all of them.
    fn unreached_window(&self, samples: &[Sample]) -> Option<u64> {
        self.window().filter(|window| samples.iter().all(|sample| sample.seq <= *window))
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
    inputs: Rc<Vec<Tensor>>,
    seq: u64,
    is_training: bool,
    threads: u32,
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

/// Verifies the claims of one step with the library that states them; without one, none is verified. Each claim has a child process
/// for itself, so that an end there is an answer to that claim.
pub(crate) fn verify(
    claims: &[Claim],
    library: Option<&Plugin>,
    protocol: &str,
    options: &Attrs,
) -> Result<Vec<record::Claim>, ClaimError> {
    let verify = |claim: &Claim| match library {
        _ if !is_plugin_op(&claim.op) => Ok(claim.record(Verified::Unverified, "it is no op of the plugin".to_owned())),
        None => Ok(claim.record(Verified::Unverified, "the op's library is not available".to_owned())),
        Some(library) => claim.verify(library, protocol, options),
    };
    claims.iter().map(verify).collect()
}

impl Claim {
    fn verify(&self, library: &Plugin, protocol: &str, options: &Attrs) -> Result<record::Claim, ClaimError> {
        let unverified = |why: String| Ok(self.record(Verified::Unverified, why));
        let has_cpu = |info: &ProtocolInfo| info.devices.is_empty() || info.devices.contains(&Device::Cpu);
        if !library.protocol_info(protocol).is_ok_and(has_cpu) {
            return unverified(RunError::NoKernel.to_string());
        }
        let roles = self.roles.iter().map(String::as_str);
        let primitive = Primitive::new(&self.stands_for, &self.plain_attrs, roles);
        let (primitive, samples) = match primitive.and_then(|primitive| Ok((self.samples(&primitive)?, primitive))) {
            Ok((samples, primitive)) => (primitive, samples),
            Err(why) => return unverified(why.to_string()),
        };
        let runs: Vec<KernelRun<'_>> = samples
            .iter()
            .map(|sample| KernelRun {
                call: OpCall {
                    kind: self.op.clone(),
                    inputs: sample.metas().cloned().collect(),
                    attrs: self.attrs.clone(),
                },
                inputs: sample.inputs.iter().map(|input| input.bytes.as_slice()).collect(),
                threads: sample.threads,
                is_training: sample.is_training,
            })
            .collect();
        let answers = run_kernels(library, protocol, options, &runs, &TrialOptions::default());
        let answers = answers.map_err(|source| ClaimError::Trial { protocol: protocol.to_owned(), source })?;

        let (mut agreement, mut why_not) = (Agreement::default(), None);
        let mut expected: Option<(&Sample, Expected)> = None;
        for (sample, answer) in samples.iter().zip(answers.outputs) {
            // The same inputs in training and without have one answer.
            let of_same = expected.take().filter(|(other, _)| Rc::ptr_eq(&other.inputs, &sample.inputs));
            let right = of_same.map_or_else(|| primitive.outputs(&sample.inputs), |(_, right)| right);
            match judge(self, sample, &right, answer, protocol)? {
                Judged::Agrees(found) => agreement = agreement.and(found),
                Judged::Refused => {}
                Judged::Unverified(why) => why_not = Some(why),
            }
            expected = Some((sample, right));
        }
        if let Some(window) = self.unreached_window(&samples) {
            let why = format!("its sliding window of {window} tokens is not reached by what can be sampled");
            why_not.get_or_insert(why);
        }
        let tried = match answers.refused.as_slice() {
            [] => String::new(),
            calls => format!("; it tried to call {} (refused)", calls.join(", ")),
        };
        let untrained = if primitive.is_random_in_training() { ", compared without training" } else { "" };
        let detail = format!("{agreement}, on the CPU{untrained}{tried}");
        Ok(match why_not {
            Some(why) => self.record(Verified::Unverified, why + &tried),
            None if agreement.is_exact() => self.record(Verified::BitForBit, detail),
            None => self.record(Verified::UpToRounding, detail),
        })
    }
}

type Expected = Result<Vec<Output>, NoReference>;

enum Judged {
    Agrees(Agreement),
    /// An element type that the op does not take and the model does not have.
    Refused,
    Unverified(String),
}

fn judge(
    claim: &Claim,
    sample: &Sample,
    expected: &Expected,
    answer: Result<Vec<Vec<u8>>, RunError>,
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
    let outputs = match answer {
        Ok(outputs) => outputs,
        Err(RunError::Refused(_) | RunError::NoKernel) if !sample.is_own => return Ok(Judged::Refused),
        // Other devices have kernels of their own; nothing is known of them.
        Err(error @ RunError::NoKernel) => return Ok(Judged::Unverified(error.to_string())),
        Err(error) => return Err(failed(error.to_string())),
    };
    let expected = match expected {
        Ok(expected) => expected,
        Err(why) => return Ok(Judged::Unverified(why.to_string())),
    };
    if outputs.len() != expected.len() {
        return Err(failed(format!("expected {} outputs, got {}", expected.len(), outputs.len())));
    }
    // The plan's types were compared with the patch's when it was applied; a wrong size shows as a wrong type here.
    let found = expected.iter().zip(outputs).map(|(expected, bytes)| Tensor { meta: expected.meta.clone(), bytes });
    match compare(expected, &found.collect::<Vec<_>>()) {
        Ok(agreement) => Ok(Judged::Agrees(agreement)),
        Err(difference) => Err(ClaimError::Wrong { claimed: claimed(), difference: Box::new(difference) }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claim(stands_for: &str, attrs: serde_json::Value, shapes: &[&[Dim]], roles: &[&str]) -> Claim {
        Claim {
            path: "model.x".to_owned(),
            nodes: 1,
            op: "x.op".to_owned(),
            attrs: Attrs::new(),
            stands_for: stands_for.to_owned(),
            plain_attrs: attrs.as_object().expect("an object").clone().into_iter().collect(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            inputs: shapes.iter().map(|shape| (Dtype::Bf16, shape.to_vec())).collect(),
        }
    }

    fn samples(claim: &Claim) -> Vec<Sample> {
        let primitive = Primitive::new(&claim.stands_for, &claim.plain_attrs, claim.roles.iter().map(String::as_str));
        claim.samples(&primitive.expect("a primitive")).expect("samples")
    }

    fn tokens(width: u64) -> [Dim; 3] {
        [Dim::symbol("batch"), Dim::symbol("seq"), Dim::Fixed(width)]
    }

    #[test]
    fn what_is_random_in_training_is_not_compared_there() {
        for (kind, trained) in [("dropout", false), ("silu", true)] {
            let samples = samples(&claim(kind, json!({"p": 0.1}), &[&tokens(8)], &[]));
            assert_eq!(samples.iter().any(|sample| sample.is_training), trained, "{kind}");
        }
    }

    #[test]
    fn many_rows_are_run_on_three_threads_where_the_inputs_are_small() {
        let rows = |width| -> Vec<u64> {
            let samples = samples(&claim("silu", json!({}), &[&tokens(width)], &[]));
            let threaded = samples.iter().filter(|sample| sample.threads == 3);
            threaded.map(|sample| sample.inputs[0].meta.shape[..2].iter().product()).collect()
        };
        assert_eq!((rows(64), rows(1 << 15)), (vec![201], vec![9]));
    }

    #[test]
    fn a_sliding_window_is_passed_or_the_claim_is_not_verified() {
        let attention = |window: u64| {
            let attrs = json!({"num_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "scale": 0.5, "causal": true,
                "sliding_window": window});
            claim("attention", attrs, &[&tokens(8), &tokens(4), &tokens(4)], &[])
        };
        for window in [3, 100, 512] {
            let claim = attention(window);
            let mut samples = samples(&claim);
            let longest = samples.iter().map(|sample| sample.inputs[0].meta.shape[1]).max();
            assert!(longest > Some(window), "{window}: {longest:?}");
            assert_eq!(claim.unreached_window(&samples), None);
            // Left out, whatever the reason, it is missed.
            samples.retain(|sample| sample.seq <= window);
            assert_eq!(claim.unreached_window(&samples), Some(window));
        }
        let long = attention(1 << 20);
        assert_eq!(long.unreached_window(&samples(&long)), Some(1 << 20));
        assert_eq!(claim("silu", json!({"sliding_window": 4}), &[], &[]).window(), None);
    }

    #[test]
    fn what_all_samples_take_is_bounded_and_f32_is_left_out_alone_where_it_is_too_large() {
        let linear = |rows: u64| {
            let weight = [Dim::Fixed(rows), Dim::Fixed(1024)];
            claim("linear", json!({}), &[&tokens(1024), &weight], &["weight"])
        };
        // In f32 one weight is beyond what one call may take, in bf16 it is not.
        let samples = samples(&linear(100 << 10));
        let of = |is_own| samples.iter().filter(|sample| sample.is_own == is_own).count();
        assert!(of(true) > 0 && of(false) == 0, "{} and {}", of(true), of(false));
        let bytes: u64 =
            samples.iter().filter(|sample| !sample.is_training).flat_map(Sample::metas).filter_map(Meta::bytes).sum();
        assert!(bytes <= SAMPLED_BYTES, "{bytes}");
        let too_large = linear(200 << 10);
        let primitive = Primitive::new("linear", &Attrs::new(), ["weight"]).unwrap();
        assert!(matches!(too_large.samples(&primitive), Err(NoReference::Size { .. })));
    }
}
