//! Open plugins as the engine asks for them.

use std::{rc::Rc, sync::OnceLock};

use unswag_abi::{
    doc::{Device, OpCall, OpPlan},
    frame::Launch,
};
use unswag_engine::{Buffer, BufferMut, PluginKernel, PluginLaunch, PluginOps};

use crate::{Kernel, LaunchOptions, OpenProtocols, PluginError, device::Machine};

impl PluginOps for OpenProtocols {
    fn plan(&self, path: &str, call: &OpCall) -> Result<OpPlan, String> {
        self.owner(path, &call.kind)?.plan(call).map_err(|error| error.to_string())
    }

    fn kernel(&self, path: &str, call: &OpCall, device: Device) -> Result<Rc<dyn PluginKernel>, String> {
        let owner = self.owner(path, &call.kind)?;
        let machine = machine();
        let target = machine.target(device).ok_or_else(|| format!("this machine has no {device:?}"))?;
        let built = owner.build(call, &target).map_err(reason)?;
        match built.kernel {
            Some(kernel) => Ok(Rc::new(kernel)),
            None => Err(format!("plugin {} gives no kernel for {device:?}", owner.id())),
        }
    }
}

/// Looked at once: with a driver that does not answer it takes seconds.
fn machine() -> &'static Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(Machine::detect)
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
        Kernel::forward(self, &mut options(launch), inputs, outputs, saved).map_err(reason)
    }

    fn backward(
        &self,
        launch: PluginLaunch<'_>,
        doutputs: &[Buffer<'_>],
        saved: &[Buffer<'_>],
        dinputs: &mut [BufferMut<'_>],
    ) -> Result<(), String> {
        Kernel::backward(self, &mut options(launch), doutputs, saved, dinputs).map_err(reason)
    }

    fn rematerialize(
        &self,
        launch: PluginLaunch<'_>,
        saved: &[Buffer<'_>],
        outputs: &mut [BufferMut<'_>],
    ) -> Result<(), String> {
        Kernel::rematerialize(self, &mut options(launch), saved, outputs).map_err(reason)
    }
}

fn options(launch: PluginLaunch<'_>) -> LaunchOptions<'_> {
    let PluginLaunch { seed, scratch, scalars, threads, training, recomputes } = launch;
    let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
    let flags = flag(training, Launch::TRAINING) | flag(recomputes, Launch::RECOMPUTE) | Launch::DETERMINISTIC;
    let threads = u32::try_from(threads).unwrap_or(u32::MAX);
    LaunchOptions { seed, offset: 0, scratch, scalars, threads, flags }
}
