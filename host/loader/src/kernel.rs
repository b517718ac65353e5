//! A plugin's kernel on host memory, with sizes checked before its code sees a pointer.
//!
//! Input: buffers of the caller. This must never hand out a view that is larger than its buffer. Callers that own device
//! memory, or cannot spare the microsecond, use [`Kernel::raw`] and answer for their views themselves.

use std::{ffi::c_void, ptr};

use unswag_abi::{
    abi_stable::std_types::{RResult, RSlice, RString},
    frame::{KernelBox, Launch},
};
use unswag_engine::{Buffer, BufferMut};

use crate::{buffers::ViewList, protocol::PluginError};

/// One op on one device, for host memory.
pub struct Kernel {
    protocol: String,
    kind: String,
    raw: KernelBox,
}

/// What belongs to one call of a kernel and not to a tensor. See [`Launch`].
#[derive(Debug)]
pub struct LaunchOptions<'a> {
    pub seed: u64,
    pub offset: u64,
    /// `OpPlan::scratch_bytes` of them.
    pub scratch: &'a mut [u8],
    /// In the order of `OpPlan::scalars`.
    pub scalars: &'a [f64],
    pub threads: u32,
    /// [`Launch::TRAINING`] and the others.
    pub flags: u32,
}

impl Kernel {
    pub(crate) fn new(protocol: &str, kind: &str, raw: KernelBox) -> Self {
        Self { protocol: protocol.to_owned(), kind: kind.to_owned(), raw }
    }

    /// The frame itself, for callers that own device memory, and for the conformance suite.
    pub fn raw(&self) -> &KernelBox {
        &self.raw
    }

    /// Computes `outputs`, and what the backward needs.
    ///
    /// # Errors
    /// A buffer does not have the size of its type, or the plugin refuses.
    pub fn forward(
        &self,
        launch: &mut LaunchOptions<'_>,
        inputs: &[Buffer<'_>],
        outputs: &mut [BufferMut<'_>],
        saved: &mut [BufferMut<'_>],
    ) -> Result<(), PluginError> {
        let input_views = self.views("forward", ViewList::read("inputs", inputs))?;
        let output_views = self.views("forward", ViewList::write("outputs", outputs))?;
        let saved_views = self.views("forward", ViewList::write("saved", saved))?;
        let answer = self.raw.forward(
            &launch.as_launch(),
            input_views.as_views(),
            output_views.as_views(),
            saved_views.as_views(),
        );
        self.done("forward", answer)?;
        output_views.finish(outputs);
        saved_views.finish(saved);
        Ok(())
    }

    /// Computes `grad_inputs`; one whose bytes are `None` is not wanted.
    ///
    /// # Errors
    /// As [`Kernel::forward`].
    pub fn backward(
        &self,
        launch: &mut LaunchOptions<'_>,
        grad_outputs: &[Buffer<'_>],
        saved: &[Buffer<'_>],
        grad_inputs: &mut [BufferMut<'_>],
    ) -> Result<(), PluginError> {
        let output_views = self.views("backward", ViewList::read("grad_outputs", grad_outputs))?;
        let saved_views = self.views("backward", ViewList::read("saved", saved))?;
        let input_views = self.views("backward", ViewList::write("grad_inputs", grad_inputs))?;
        let answer = self.raw.backward(
            &launch.as_launch(),
            output_views.as_views(),
            saved_views.as_views(),
            input_views.as_views(),
        );
        self.done("backward", answer)?;
        input_views.finish(grad_inputs);
        Ok(())
    }

    /// Makes outputs again from what is saved.
    ///
    /// # Errors
    /// As [`Kernel::forward`].
    pub fn rematerialize(
        &self,
        launch: &mut LaunchOptions<'_>,
        saved: &[Buffer<'_>],
        outputs: &mut [BufferMut<'_>],
    ) -> Result<(), PluginError> {
        let saved_views = self.views("rematerialize", ViewList::read("saved", saved))?;
        let output_views = self.views("rematerialize", ViewList::write("outputs", outputs))?;
        let answer = self.raw.rematerialize(&launch.as_launch(), saved_views.as_views(), output_views.as_views());
        self.done("rematerialize", answer)?;
        output_views.finish(outputs);
        Ok(())
    }

    fn views<'a>(&self, method: &str, views: Result<ViewList<'a>, String>) -> Result<ViewList<'a>, PluginError> {
        views.map_err(|problem| PluginError::Buffers {
            protocol: self.protocol.clone(),
            call: self.call(method),
            problem,
        })
    }

    fn done(&self, method: &str, answer: RResult<(), RString>) -> Result<(), PluginError> {
        answer.into_result().map_err(|message| PluginError::refused(&self.protocol, &self.call(method), &message))
    }

    fn call(&self, method: &str) -> String {
        format!("{method} of {}", self.kind)
    }
}

impl LaunchOptions<'_> {
    fn as_launch(&mut self) -> Launch<'_> {
        Launch {
            stream: ptr::null_mut(),
            seed: self.seed,
            offset: self.offset,
            scratch: self.scratch.as_mut_ptr().cast::<c_void>(),
            scratch_bytes: self.scratch.len() as u64,
            scalars: RSlice::from_slice(self.scalars),
            threads: self.threads.max(1),
            flags: self.flags,
            gpu: None,
            host: ptr::null(),
            reserved: [0; 4],
        }
    }
}
