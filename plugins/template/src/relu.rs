//! y = max(x, 0), with one byte per element kept for the backward: 1 where the gradient passes.
//!
//! x, y: any shape, F32, BF16 or F16. mask: x's shape, U8. Must equal the host's `relu` bit for bit: NaN stays NaN and
//! passes its gradient, -0 becomes 0.

use unswag_sdk::{
    Built, Device, Dtype, Error, Float, Inputs, Kernel, Launch, Meta, Op, OpCall, OpPlan, Outputs,
    Target, bail, half,
};

pub const KIND: &str = "{{name}}.relu";

pub struct Relu;

impl Op for Relu {
    fn plan(&self, call: &OpCall) -> Result<OpPlan, Error> {
        let [x] = call.inputs.as_slice() else {
            bail!("{KIND} takes one input, got {}", call.inputs.len());
        };
        if !matches!(x.dtype, Dtype::F32 | Dtype::Bf16 | Dtype::F16) {
            bail!("{KIND} computes in F32, BF16 or F16, got {}", x.dtype);
        }
        let Some(elements) = x
            .elements()
            .filter(|_| x.bytes().is_some_and(|bytes| bytes <= u64::MAX / 4))
        else {
            bail!("{KIND}: {:?} does not fit in memory", x.shape);
        };
        Ok(OpPlan {
            outputs: vec![x.clone()],
            saved: vec![Meta {
                dtype: Dtype::U8,
                shape: x.shape.clone(),
            }],
            flops_forward: elements,
            flops_backward: elements,
            ..OpPlan::default()
        })
    }

    fn build(&self, call: &OpCall, target: &Target) -> Result<Built, Error> {
        if target.device != Device::Cpu {
            bail!("{KIND} has a kernel for the CPU only");
        }
        // `plan` has been asked before: there is one input of one of these types.
        match call.inputs.first().map(|x| x.dtype) {
            Some(Dtype::F32) => Ok(Built::kernel(CpuRelu(forward::<f32>, backward::<f32>))),
            Some(Dtype::Bf16) => Ok(Built::kernel(CpuRelu(
                forward::<half::bf16>,
                backward::<half::bf16>,
            ))),
            Some(Dtype::F16) => Ok(Built::kernel(CpuRelu(
                forward::<half::f16>,
                backward::<half::f16>,
            ))),
            other => bail!("{KIND}: no kernel for {other:?}"),
        }
    }
}

type Forward = fn(Inputs<'_>, Outputs<'_>, Outputs<'_>) -> Result<(), Error>;
type Backward = fn(Inputs<'_>, Inputs<'_>, Outputs<'_>) -> Result<(), Error>;

struct CpuRelu(Forward, Backward);

impl Kernel for CpuRelu {
    fn forward(
        &self,
        _launch: &mut Launch<'_>,
        inputs: Inputs<'_>,
        outputs: Outputs<'_>,
        saved: Outputs<'_>,
    ) -> Result<(), Error> {
        self.0(inputs, outputs, saved)
    }

    fn backward(
        &self,
        _launch: &mut Launch<'_>,
        grad_outputs: Inputs<'_>,
        saved: Inputs<'_>,
        grad_inputs: Outputs<'_>,
    ) -> Result<(), Error> {
        self.1(grad_outputs, saved, grad_inputs)
    }
}

fn passes<T: Float>(x: T) -> bool {
    let x = x.to_f32();
    x > 0.0 || x.is_nan()
}

fn forward<T: Float>(
    inputs: Inputs<'_>,
    outputs: Outputs<'_>,
    mut saved: Outputs<'_>,
) -> Result<(), Error> {
    let [x] = inputs.array()?;
    let [mut y] = outputs.array()?;
    let x = x.as_slice::<T>()?;
    for (y, &x) in y.as_mut_slice::<T>()?.iter_mut().zip(x) {
        *y = if passes(x) { x } else { T::default() };
    }
    // Nothing is saved where no backward follows.
    if !saved.is_empty() {
        let mut mask = saved.get(0)?;
        for (mask, &x) in mask.as_mut_slice::<u8>()?.iter_mut().zip(x) {
            *mask = u8::from(passes(x));
        }
    }
    Ok(())
}

fn backward<T: Float>(
    grad_outputs: Inputs<'_>,
    saved: Inputs<'_>,
    grad_inputs: Outputs<'_>,
) -> Result<(), Error> {
    let [dy] = grad_outputs.array()?;
    let [mask] = saved.array()?;
    let [mut dx] = grad_inputs.array()?;
    if !dx.is_wanted() {
        return Ok(());
    }
    let (dy, mask) = (dy.as_slice::<T>()?, mask.as_slice::<u8>()?);
    for ((dx, &dy), &mask) in dx.as_mut_slice::<T>()?.iter_mut().zip(dy).zip(mask) {
        *dx = if mask == 1 { dy } else { T::default() };
    }
    Ok(())
}
