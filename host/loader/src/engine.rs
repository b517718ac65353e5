//! Open plugins as the engine asks for them.

use std::rc::Rc;

use unswag_abi::{
    doc::{Device, OpCall, Target},
    frame::Launch,
};
use unswag_engine::{Buffer, BufferMut, PluginKernel, PluginLaunch, PluginOps};

use crate::{Kernel, LaunchOptions, OpenProtocols, PluginError, Tensor, TensorMut};

impl PluginOps for OpenProtocols {
    fn kernel(&self, call: &OpCall, device: Device) -> Result<Rc<dyn PluginKernel>, String> {
        let owner = self.owner(&call.kind).ok_or_else(|| format!("no open plugin has the op {}", call.kind))?;
        let target = Target { device, features: Vec::new() };
        let built = owner.build(call, &target).map_err(reason)?;
        match built.kernel {
            Some(kernel) => Ok(Rc::new(kernel)),
            None => Err(format!("plugin {} gives no kernel for {device:?}", owner.id())),
        }
    }
}

/// The plugin's own sentence where it refused: where it was asked is told by the error around it.
fn reason(error: PluginError) -> String {
    match error {
        PluginError::Refused { protocol, message, .. } => format!("plugin {protocol}: {message}"),
        other => other.to_string(),
    }
}

impl PluginKernel for Kernel {
    fn forward(
        &self,
        launch: PluginLaunch<'_>,
        inputs: &[Buffer<'_>],
        outputs: &mut [BufferMut<'_>],
        saved: &mut [BufferMut<'_>],
    ) -> Result<(), String> {
        let (mut outputs, mut saved) = (to_fill(outputs), to_fill(saved));
        Kernel::forward(self, &mut options(launch), &to_read(inputs), &mut outputs, &mut saved).map_err(reason)
    }

    fn backward(
        &self,
        launch: PluginLaunch<'_>,
        doutputs: &[Buffer<'_>],
        saved: &[Buffer<'_>],
        dinputs: &mut [BufferMut<'_>],
    ) -> Result<(), String> {
        let mut dinputs = to_fill(dinputs);
        Kernel::backward(self, &mut options(launch), &to_read(doutputs), &to_read(saved), &mut dinputs).map_err(reason)
    }

    fn rematerialize(
        &self,
        launch: PluginLaunch<'_>,
        saved: &[Buffer<'_>],
        outputs: &mut [BufferMut<'_>],
    ) -> Result<(), String> {
        let mut outputs = to_fill(outputs);
        Kernel::rematerialize(self, &mut options(launch), &to_read(saved), &mut outputs).map_err(reason)
    }
}

fn options(launch: PluginLaunch<'_>) -> LaunchOptions<'_> {
    let PluginLaunch { seed, scratch, scalars, threads, training } = launch;
    let training = if training { Launch::TRAINING } else { 0 };
    let threads = u32::try_from(threads).unwrap_or(u32::MAX);
    LaunchOptions { seed, offset: 0, scratch, scalars, threads, flags: training | Launch::DETERMINISTIC }
}

fn to_read<'a>(buffers: &[Buffer<'a>]) -> Vec<Tensor<'a>> {
    buffers.iter().map(|&Buffer { meta, bytes }| Tensor { meta, bytes }).collect()
}

fn to_fill<'a>(buffers: &'a mut [BufferMut<'_>]) -> Vec<TensorMut<'a>> {
    buffers.iter_mut().map(|buffer| TensorMut { meta: buffer.meta, bytes: buffer.bytes.as_deref_mut() }).collect()
}
