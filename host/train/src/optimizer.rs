//! The optimizer's step on one tensor, and where the state of all tensors lies: in memory, or in pages of which as many are in
//! memory as a budget allows.
//!
//! What is kept in 8 bits and what not is bitsandbytes' rule: tensors of fewer than 4096 elements stay in f32.

mod layout;
mod paged;
mod states;

use unswag_kernels::{
    Exec,
    optim::{AdamW, Lion, Moment8bit, Step},
};

use crate::{TrainError, TrainingArguments};

pub(crate) use layout::Part;
pub(crate) use paged::Paged;
pub(crate) use states::{States, Trained};

/// PyTorch's names of the moments.
pub(crate) const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

/// One moment of a tensor, or of a stretch of it.
pub(crate) enum Moment<'a> {
    F32(&'a mut [f32]),
    Bits8 { codes: &'a mut [u8], absmax: &'a mut [f32] },
}

/// One optimizer step, on whatever tensor. A stretch of a tensor that begins at a multiple of 256 elements is stepped to the
/// bits that it has when the whole tensor is.
pub(crate) struct Update<'a> {
    pub arguments: &'a TrainingArguments,
    pub exec: Exec,
    pub step: Step,
}

impl Update<'_> {
    /// In place. `moments`: AdamW's two, Lion's one.
    fn run(
        &self,
        decays: bool,
        params: &mut [f32],
        grads: &[f32],
        moments: &mut [Moment<'_>],
    ) -> Result<(), TrainError> {
        let Update { arguments, exec, step } = *self;
        let (beta1, beta2) = (arguments.adam_beta1, arguments.beta2());
        let weight_decay = if decays { arguments.weight_decay } else { 0.0 };
        let adam = AdamW { beta1, beta2, eps: arguments.adam_epsilon, weight_decay };
        let lion = Lion { beta1, beta2, weight_decay };
        let _left_alone = match moments {
            [Moment::F32(m), Moment::F32(v)] => adam.step(exec, step, params, grads, m, v)?,
            [Moment::Bits8 { codes, absmax }, Moment::Bits8 { codes: v_codes, absmax: v_absmax }] => {
                let (m, v) = (Moment8bit { codes, absmax }, Moment8bit { codes: v_codes, absmax: v_absmax });
                adam.step_8bit(exec, step, params, grads, m, v)?
            }
            [Moment::F32(m)] => lion.step(exec, step, params, grads, m)?,
            [Moment::Bits8 { codes, absmax }] => {
                lion.step_8bit(exec, step, params, grads, Moment8bit { codes, absmax })?
            }
            _ => unreachable!("a tensor's moments are made, and read, alike"),
        };
        Ok(())
    }
}
