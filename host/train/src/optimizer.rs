//! The optimizer's state, tensor by tensor, and its step.
//!
//! What is kept in 8 bits and what not is bitsandbytes' rule: tensors of fewer than 4096 elements stay in f32.

use unswag_kernels::{
    Exec,
    optim::{AdamW, Lion, Moment8bit, Step},
    quant::blockwise,
};

use crate::{Optim, TrainError, TrainingArguments};

/// Smaller tensors keep f32 state. bitsandbytes' `min_8bit_size`.
const LEAST_8BIT: usize = 4096;

/// One state tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Moment {
    F32(Vec<f32>),
    Bits8 { codes: Vec<u8>, absmax: Vec<f32> },
}

impl Moment {
    fn zeros(elements: usize, bits8: bool) -> Self {
        match bits8 && elements >= LEAST_8BIT {
            true => Moment::Bits8 { codes: vec![0; elements], absmax: vec![0.0; blockwise::blocks(elements)] },
            false => Moment::F32(vec![0.0; elements]),
        }
    }

    pub fn bytes(&self) -> u64 {
        match self {
            Moment::F32(values) => 4 * values.len() as u64,
            Moment::Bits8 { codes, absmax } => codes.len() as u64 + 4 * absmax.len() as u64,
        }
    }
}

/// The state of one trained tensor: AdamW's two moments, Lion's one.
pub(crate) type State = Vec<Moment>;

/// PyTorch's names of the moments.
pub(crate) const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

/// State before the first step, of tensors of these sizes.
pub(crate) fn first_states(optim: Optim, elements: impl Iterator<Item = usize>) -> Vec<State> {
    let moments = if optim.is_lion() { 1 } else { 2 };
    elements.map(|elements| (0..moments).map(|_| Moment::zeros(elements, optim.is_8bit())).collect()).collect()
}

/// Takes one step of one tensor in place.
pub(crate) fn update(
    arguments: &TrainingArguments,
    exec: Exec,
    step: Step,
    decays: bool,
    params: &mut [f32],
    grads: &[f32],
    state: &mut [Moment],
) -> Result<(), TrainError> {
    let (beta1, beta2) = (arguments.adam_beta1, arguments.beta2());
    let weight_decay = if decays { arguments.weight_decay } else { 0.0 };
    let adam = AdamW { beta1, beta2, eps: arguments.adam_epsilon, weight_decay };
    let lion = Lion { beta1, beta2, weight_decay };
    let _left_alone = match state {
        [Moment::F32(m), Moment::F32(v)] => adam.step(exec, step, params, grads, m, v)?,
        [Moment::Bits8 { codes, absmax }, Moment::Bits8 { codes: v_codes, absmax: v_absmax }] => {
            let m = Moment8bit { codes, absmax };
            adam.step_8bit(exec, step, params, grads, m, Moment8bit { codes: v_codes, absmax: v_absmax })?
        }
        [Moment::F32(m)] => lion.step(exec, step, params, grads, m)?,
        [Moment::Bits8 { codes, absmax }] => lion.step_8bit(exec, step, params, grads, Moment8bit { codes, absmax })?,
        _ => unreachable!("a tensor's moments are made, and read, alike"),
    };
    Ok(())
}
