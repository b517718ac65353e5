//! Makes the parameters that an operation's patches ask for, one at a time, when the output's writer comes to them.

use std::{cell::RefCell, collections::HashMap};

use unswag_abi::doc::{Init, Meta, Param, TransformJob};
use unswag_checkpoint::Checkpoint;
use unswag_graph::TransformCall;

use crate::{
    eval::{EvalError, Evaluator, Source, encode},
    operation::Operation,
};

#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    #[error("parameter {name}")]
    Eval {
        name: String,
        #[source]
        source: EvalError,
    },
    #[error(
        "parameter {name}: its expression gave shape {got:?}, the patch says {expected:?}; this is a defect of unswag"
    )]
    Shape { name: String, expected: Vec<u64>, got: Vec<u64> },
    #[error("parameter {name}: transform job {job} of plugin {protocol} failed: {reason}")]
    Transform { name: String, job: String, protocol: String, reason: String },
    #[error("parameter {name}: tensor {input}: {reason}")]
    Input { name: String, input: String, reason: String },
}

/// Makes parameters; keeps what neighbours share (a decomposition, a transform job's outputs) until it is used up.
pub(crate) struct Maker<'a> {
    checkpoint: &'a Checkpoint,
    operation: &'a Operation<'a>,
    evaluators: Vec<RefCell<Evaluator>>,
    /// Outputs of jobs that were run and not yet all taken, by step and parameter.
    made: RefCell<HashMap<(usize, String), Vec<u8>>>,
}

/// The tensors as step `step` finds them: the checkpoint's, with what earlier steps made in their place.
struct StepSource<'a> {
    maker: &'a Maker<'a>,
    step: usize,
}

impl<'a> Maker<'a> {
    pub fn new(checkpoint: &'a Checkpoint, operation: &'a Operation<'a>) -> Self {
        let evaluators = operation.steps.iter().map(|_| RefCell::default()).collect();
        Self { checkpoint, operation, evaluators, made: RefCell::default() }
    }

    /// The bytes of parameter `name` as step `step` makes it.
    pub fn make(&self, step: usize, name: &str) -> Result<Vec<u8>, MakeError> {
        let (param, init) = &self.operation.made[step][name];
        match init {
            Init::Expr(expr) => {
                let source = StepSource { maker: self, step };
                let failed = |source| MakeError::Eval { name: name.to_owned(), source };
                // Borrowed while earlier steps' evaluators may be: a step never asks itself or a later one.
                let value = self.evaluators[step].borrow_mut().eval(expr, &source).map_err(failed)?;
                if value.shape_u64() != param.shape {
                    let (expected, got) = (param.shape.clone(), value.shape_u64());
                    return Err(MakeError::Shape { name: name.to_owned(), expected, got });
                }
                encode(&value, param.dtype).map_err(|dtype| failed(EvalError::Dtype { name: name.to_owned(), dtype }))
            }
            Init::Transform { job, .. } => {
                if let Some(bytes) = self.made.borrow_mut().remove(&(step, name.to_owned())) {
                    return Ok(bytes);
                }
                self.run(step, name, job)?;
                let bytes = self.made.borrow_mut().remove(&(step, name.to_owned()));
                Ok(bytes.expect("`apply` listed every parameter of a job among its outputs"))
            }
        }
    }

    /// Runs a transform job and keeps all its outputs.
    fn run(&self, step: usize, name: &str, job: &str) -> Result<(), MakeError> {
        let calls = &self.operation.transforms[step];
        let call: &TransformCall =
            calls.iter().find(|call| call.job == job).expect("`apply` listed every job that a parameter names");
        let source = StepSource { maker: self, step };
        let mut metas = Vec::with_capacity(call.inputs.len());
        let mut data = Vec::with_capacity(call.inputs.len());
        for input in &call.inputs {
            let failed = |reason| MakeError::Input { name: name.to_owned(), input: input.clone(), reason };
            let (meta, bytes) = source.tensor(input).map_err(failed)?;
            metas.push(meta);
            data.push(bytes);
        }
        let made = &self.operation.made[step];
        let outputs: Vec<Meta> = call.outputs.iter().map(|output| meta(&made[output.as_str()].0)).collect();
        let mut buffers: Vec<Vec<u8>> =
            outputs.iter().map(|meta| vec![0; meta.bytes().unwrap_or_default() as usize]).collect();
        let protocol = &self.operation.protocols[step];
        let job = TransformJob { job: job.to_owned(), inputs: metas, outputs, attrs: call.attrs.clone() };
        let inputs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        protocol.transform(&job, &inputs, &mut buffers).map_err(|reason| MakeError::Transform {
            name: name.to_owned(),
            job: job.job.clone(),
            protocol: protocol.id().to_owned(),
            reason,
        })?;
        let mut kept = self.made.borrow_mut();
        kept.extend(call.outputs.iter().map(|output| (step, output.clone())).zip(buffers));
        Ok(())
    }
}

impl Source for StepSource<'_> {
    fn tensor(&self, name: &str) -> Result<(Meta, Vec<u8>), String> {
        let operation = self.maker.operation;
        if let Some(earlier) = (0..self.step).rev().find(|&step| operation.made[step].contains_key(name)) {
            let bytes = self.maker.make(earlier, name).map_err(|error| error.to_string())?;
            return Ok((meta(&operation.made[earlier][name].0), bytes));
        }
        let checkpoint = self.maker.checkpoint;
        let mut bytes = Vec::new();
        checkpoint.read(name, &mut bytes).map_err(|error| error.to_string())?;
        let tensor = checkpoint.tensor(name).ok_or("not in the checkpoint")?;
        Ok((Meta { dtype: tensor.dtype, shape: tensor.shape.to_vec() }, bytes))
    }
}

fn meta(param: &Param) -> Meta {
    Meta { dtype: param.dtype, shape: param.shape.clone() }
}
