//! Calls of a kernel as the host makes them: memory by the plan, guard bands around all of it, contents arbitrary.

use unswag_abi::{
    abi_stable::std_types::RSlice,
    doc::{Device, Meta, OpCall, OpPlan, Target},
    frame::{self, KernelBox, TensorView, Views},
};

use super::result;
use crate::{error::Error, tensor::TensorBuf};

/// What memory that a call writes holds beforehand, unless [`Settings::fill`] says otherwise. As f32: about -8e-29.
pub(super) const FILL: u8 = 0x90;

/// This machine's CPU as a build target, with the features that kernels here choose among.
pub fn cpu_target() -> Target {
    let mut features = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let found = [
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("f16c", is_x86_feature_detected!("f16c")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512bw", is_x86_feature_detected!("avx512bw")),
            ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ];
        features.extend(found.iter().filter(|(_, has)| *has).map(|(name, _)| (*name).to_owned()));
    }
    Target { device: Device::Cpu, features }
}

/// What belongs to a call and not to a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub training: bool,
    pub recompute: bool,
    pub threads: u32,
    pub seed: u64,
    pub offset: u64,
    /// Values of the plan's scheduled attributes; where empty, what the call's attributes say.
    pub scalars: Vec<f64>,
    /// What every byte of memory that the call writes holds beforehand.
    pub fill: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self { training: true, recompute: false, threads: 1, seed: 42, offset: 0, scalars: Vec::new(), fill: FILL }
    }
}

impl Settings {
    fn flags(&self) -> u32 {
        let mut flags = frame::Launch::DETERMINISTIC;
        if self.training {
            flags |= frame::Launch::TRAINING;
        }
        if self.recompute {
            flags |= frame::Launch::RECOMPUTE;
        }
        flags
    }
}

/// What a forward gave.
#[derive(Clone)]
pub struct Forward {
    pub outputs: Vec<TensorBuf>,
    /// What it made for the backward; empty where it was not training.
    pub saved: Vec<TensorBuf>,
}

/// What a backward gave: one gradient per input, `None` where it was not wanted.
pub type Backward = Vec<Option<TensorBuf>>;

/// A kernel under test, built for one call.
pub struct KernelTest {
    raw: KernelBox,
    pub call: OpCall,
    pub plan: OpPlan,
}

impl KernelTest {
    pub(super) fn new(raw: KernelBox, call: OpCall, plan: OpPlan) -> Self {
        Self { raw, call, plan }
    }

    /// # Errors
    /// The plugin's own; or it wrote outside its memory, or to an input.
    pub fn forward(&self, settings: &Settings, inputs: &[TensorBuf]) -> Result<Forward, Error> {
        let mut outputs = written(&self.plan.outputs, settings.fill)?;
        let saved = if settings.training { self.plan.saved.as_slice() } else { &[] };
        let mut saved = written(saved, settings.fill)?;
        {
            let (outputs, saved) = (views_mut(&mut outputs), views_mut(&mut saved));
            self.within(settings, "forward", inputs, |launch, inputs| {
                result(self.raw.forward(launch, inputs, Views::from_slice(&outputs), Views::from_slice(&saved)))
            })?;
        }
        check("forward: outputs", &outputs)?;
        check("forward: saved", &saved)?;
        Ok(Forward { outputs, saved })
    }

    /// What the host hands to the backward as `saved`: what forward made, then the saved inputs, then the saved outputs.
    ///
    /// # Errors
    /// The plan saves an input or output that the call does not have.
    pub fn saved(&self, inputs: &[TensorBuf], forward: &Forward) -> Result<Vec<TensorBuf>, Error> {
        let mut saved = forward.saved.clone();
        for (list, name, indices) in [
            (inputs, "inputs", &self.plan.saves_inputs),
            (forward.outputs.as_slice(), "outputs", &self.plan.saves_outputs),
        ] {
            for &index in indices {
                let buf = list
                    .get(index)
                    .ok_or_else(|| crate::error!("plan saves {name}[{index}], there are {}", list.len()))?;
                saved.push(buf.clone());
            }
        }
        Ok(saved)
    }

    /// Gradients of all inputs.
    ///
    /// # Errors
    /// The plugin's own; or it wrote outside its memory, or to what it reads.
    pub fn backward(
        &self,
        settings: &Settings,
        saved: &[TensorBuf],
        grad_outputs: &[TensorBuf],
    ) -> Result<Backward, Error> {
        self.backward_of(settings, saved, grad_outputs, &vec![true; self.call.inputs.len()])
    }

    /// Gradients of the inputs that are `wanted`.
    ///
    /// # Errors
    /// As [`Self::backward`].
    pub fn backward_of(
        &self,
        settings: &Settings,
        saved: &[TensorBuf],
        grad_outputs: &[TensorBuf],
        wanted: &[bool],
    ) -> Result<Backward, Error> {
        let mut grads = written(&self.call.inputs, settings.fill)?;
        grads = grads
            .into_iter()
            .enumerate()
            .map(|(index, grad)| if wanted.get(index) == Some(&true) { grad } else { grad.unwanted() })
            .collect();
        {
            let grad_inputs = views_mut(&mut grads);
            let saved = views(saved);
            self.within(settings, "backward", grad_outputs, |launch, grad_outputs| {
                let saved = Views::from_slice(&saved);
                result(self.raw.backward(launch, grad_outputs, saved, Views::from_slice(&grad_inputs)))
            })?;
        }
        check("backward: grad_inputs", &grads)?;
        let wanted = |index: usize| wanted.get(index) == Some(&true);
        Ok(grads.into_iter().enumerate().map(|(index, grad)| wanted(index).then_some(grad)).collect())
    }

    /// The outputs that the plan's `rematerializes` names, made again.
    ///
    /// # Errors
    /// As [`Self::backward`].
    pub fn rematerialize(&self, settings: &Settings, saved: &[TensorBuf]) -> Result<Vec<TensorBuf>, Error> {
        let mut metas = Vec::new();
        for &index in &self.plan.rematerializes {
            let meta = self.plan.outputs.get(index);
            metas.push(
                meta.cloned()
                    .ok_or_else(|| crate::error!("plan rematerializes outputs[{index}], which is not there"))?,
            );
        }
        let mut outputs = written(&metas, settings.fill)?;
        {
            let outputs = views_mut(&mut outputs);
            self.within(settings, "rematerialize", saved, |launch, saved| {
                result(self.raw.rematerialize(launch, saved, Views::from_slice(&outputs)))
            })?;
        }
        check("rematerialize: outputs", &outputs)?;
        Ok(outputs)
    }

    /// The scheduled attributes as the call states them; one that is no number counts as 0.
    fn scalars(&self) -> Vec<f64> {
        let value = |name| self.call.attrs.get(name).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
        self.plan.scalars.iter().map(value).collect()
    }

    /// Makes the call's launch, and checks afterwards that scratch was kept within and that inputs are what they were.
    fn within(
        &self,
        settings: &Settings,
        what: &str,
        inputs: &[TensorBuf],
        call: impl FnOnce(&frame::Launch<'_>, Views<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let meta = Meta { dtype: unswag_abi::doc::Dtype::U8, shape: vec![self.plan.scratch_bytes] };
        let mut scratch = TensorBuf::guarded(&meta, settings.fill)?;
        let scalars = if settings.scalars.is_empty() { self.scalars() } else { settings.scalars.clone() };
        let before = Vec::from_iter(inputs.iter().map(|input| input.bytes().to_vec()));
        {
            let scratch = scratch.bytes_mut();
            let launch = frame::Launch {
                stream: std::ptr::null_mut(),
                seed: settings.seed,
                offset: settings.offset,
                scratch: scratch.as_mut_ptr().cast(),
                scratch_bytes: scratch.len() as u64,
                scalars: RSlice::from_slice(&scalars),
                threads: settings.threads,
                flags: settings.flags(),
                gpu: None,
                host: std::ptr::null(),
                reserved: [0; 4],
            };
            call(&launch, Views::from_slice(&views(inputs)))?;
        }
        scratch.check_bands().map_err(|error| error.at(format!("{what}: scratch")))?;
        match inputs.iter().zip(&before).position(|(input, before)| input.bytes() != before) {
            Some(index) => Err(crate::error!("{what}: input tensor {index} was written; it may only be read")),
            None => Ok(()),
        }
    }
}

fn written(metas: &[Meta], fill: u8) -> Result<Vec<TensorBuf>, Error> {
    metas.iter().map(|meta| TensorBuf::guarded(meta, fill)).collect()
}

fn views(bufs: &[TensorBuf]) -> Vec<TensorView<'_>> {
    bufs.iter().map(TensorBuf::view).collect()
}

fn views_mut(bufs: &mut [TensorBuf]) -> Vec<TensorView<'_>> {
    bufs.iter_mut().map(TensorBuf::view_mut).collect()
}

fn check(what: &str, bufs: &[TensorBuf]) -> Result<(), Error> {
    for (index, buf) in bufs.iter().enumerate() {
        buf.check_bands().map_err(|error| error.at(format!("{what}[{index}]")))?;
    }
    Ok(())
}
