//! y = silu(gate) * up, which keeps gate and up as they are. Lies in its plan where that was asked for.

use unswag_sdk::{
    Built, Dtype, Error, Float, Inputs, Kernel, Launch, Meta, Op, OpCall, OpPlan, Outputs, Target, bail, half,
};

use super::{Options, mischief};

pub(super) const KIND: &str = "hostile.swiglu";

pub(super) struct Swiglu {
    pub options: Options,
}

impl Op for Swiglu {
    fn plan(&self, call: &OpCall) -> Result<OpPlan, Error> {
        self.options.act("plan");
        let [gate, up] = call.inputs.as_slice() else {
            bail!("{KIND} takes gate and up, got {} inputs", call.inputs.len());
        };
        if gate != up || !matches!(gate.dtype, Dtype::F32 | Dtype::Bf16 | Dtype::F16) {
            bail!("{KIND} takes two inputs of one shape and of F32, BF16 or F16, got {gate:?} and {up:?}");
        }
        if gate.bytes().is_none_or(|bytes| bytes > 1 << 48) {
            bail!("{KIND}: {:?} does not fit in memory", gate.shape);
        }
        let mut plan = OpPlan { outputs: vec![gate.clone()], saves_inputs: vec![0, 1], ..OpPlan::default() };
        let huge = Meta { dtype: Dtype::F32, shape: vec![u64::MAX, 3] };
        match self.options.bad.as_str() {
            "plan_of_another_shape" => plan.outputs[0].shape.push(2),
            "plan_of_another_dtype" => plan.outputs[0].dtype = Dtype::F64,
            "plan_without_outputs" => plan.outputs.clear(),
            "plan_beyond_64_bits" => plan.saved = vec![huge],
            "plan_saves_what_is_not_there" => plan.saves_inputs = vec![7],
            "plan_remakes_what_is_not_there" => plan.rematerializes = vec![1],
            "plan_schedules_what_is_not_there" => plan.scalars = vec!["temperature".to_owned()],
            _ => {}
        }
        Ok(plan)
    }

    fn build(&self, call: &OpCall, target: &Target) -> Result<Built, Error> {
        self.options.act("build");
        if target.device != unswag_sdk::Device::Cpu {
            bail!("{KIND} has a kernel for the CPU only");
        }
        let dtype = call.inputs.first().map(|gate| gate.dtype).unwrap_or(Dtype::F32);
        Ok(Built::kernel(CpuSwiglu { options: self.options.clone(), dtype }))
    }
}

struct CpuSwiglu {
    options: Options,
    dtype: Dtype,
}

impl Kernel for CpuSwiglu {
    fn forward(
        &self,
        _: &mut Launch<'_>,
        inputs: Inputs<'_>,
        outputs: Outputs<'_>,
        _: Outputs<'_>,
    ) -> Result<(), Error> {
        self.options.act("forward");
        let how = self.options.mischief.strip_prefix("forward:").unwrap_or_default();
        match self.dtype {
            Dtype::Bf16 => forward::<half::bf16>(how, inputs, outputs),
            Dtype::F16 => forward::<half::f16>(how, inputs, outputs),
            _ => forward::<f32>(how, inputs, outputs),
        }
    }

    fn backward(
        &self,
        _: &mut Launch<'_>,
        grad_outputs: Inputs<'_>,
        saved: Inputs<'_>,
        grad_inputs: Outputs<'_>,
    ) -> Result<(), Error> {
        self.options.act("backward");
        match self.dtype {
            Dtype::Bf16 => backward::<half::bf16>(grad_outputs, saved, grad_inputs),
            Dtype::F16 => backward::<half::f16>(grad_outputs, saved, grad_inputs),
            _ => backward::<f32>(grad_outputs, saved, grad_inputs),
        }
    }
}

/// In f64, since this is a test's op and speed is not asked of it.
fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn forward<T: Float>(how: &str, inputs: Inputs<'_>, outputs: Outputs<'_>) -> Result<(), Error> {
    let ([gate, up], [mut y]) = (inputs.array()?, outputs.array()?);
    let (gate, up) = (gate.as_slice::<T>()?, up.as_slice::<T>()?);
    let gate_count = gate.len();
    for (at, ((y, gate), up)) in y.as_mut_slice::<T>()?.iter_mut().zip(gate).zip(up).enumerate() {
        let (gate, up) = (f64::from(gate.to_f32()), f64::from(up.to_f32()));
        let value = gate * sigmoid(gate) * up;
        *y = T::from_f32(mischief::wrong(how, value, at + 1 == gate_count) as f32);
    }
    Ok(())
}

fn backward<T: Float>(grad_outputs: Inputs<'_>, saved: Inputs<'_>, grad_inputs: Outputs<'_>) -> Result<(), Error> {
    let ([dy], [gate, up], [mut d_gate, mut d_up]) = (grad_outputs.array()?, saved.array()?, grad_inputs.array()?);
    let (dy, gate, up) = (dy.as_slice::<T>()?, gate.as_slice::<T>()?, up.as_slice::<T>()?);
    let wide = |x: T| f64::from(x.to_f32());
    if d_gate.is_wanted() {
        for (((d, dy), gate), up) in d_gate.as_mut_slice::<T>()?.iter_mut().zip(dy).zip(gate).zip(up) {
            let gate = wide(*gate);
            let slope = sigmoid(gate) * (1.0 + gate * (1.0 - sigmoid(gate)));
            *d = T::from_f32((wide(*dy) * wide(*up) * slope) as f32);
        }
    }
    if d_up.is_wanted() {
        for ((d, dy), gate) in d_up.as_mut_slice::<T>()?.iter_mut().zip(dy).zip(gate) {
            *d = T::from_f32((wide(*dy) * wide(*gate) * sigmoid(wide(*gate))) as f32);
        }
    }
    Ok(())
}
