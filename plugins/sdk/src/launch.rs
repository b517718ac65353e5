//! What a kernel call carries beside its tensors.

use std::{ffi::c_void, marker::PhantomData};

use unswag_abi::{abi_stable::std_types::RSlice, frame};

use crate::{element::Element, error::Error};

/// One call's stream, random state, scratch memory, scheduled values and thread count. Borrowed for the call.
pub struct Launch<'a> {
    raw: &'a frame::Launch<'a>,
    scratch: PhantomData<&'a mut [u8]>,
}

impl<'a> Launch<'a> {
    /// # Safety
    /// `raw.scratch` is null with `scratch_bytes` 0, or points to that many initialised bytes that nothing else uses for
    /// `'a` (device memory where the kernel was built for a device).
    pub unsafe fn new(raw: &'a frame::Launch<'a>) -> Self {
        Self { raw, scratch: PhantomData }
    }

    /// Whether a backward may follow. Where not, `saved` is empty and nothing need be kept.
    pub fn training(&self) -> bool {
        self.raw.flags & frame::Launch::TRAINING != 0
    }

    /// Whether the same call must give the same bits for any thread count and order.
    pub fn deterministic(&self) -> bool {
        self.raw.flags & frame::Launch::DETERMINISTIC != 0
    }

    /// Whether this repeats an earlier forward, with the same [`Self::seed`] and [`Self::offset`]: it must give its bits.
    pub fn recompute(&self) -> bool {
        self.raw.flags & frame::Launch::RECOMPUTE != 0
    }

    /// How many threads the call may use, itself included; at least 1.
    pub fn threads(&self) -> usize {
        self.raw.threads.max(1) as usize
    }

    /// Seed of the step's random numbers. Use it with [`Self::offset`] and an element's index, in a counter-based
    /// generator: then any order of elements, and a recompute, give the same numbers.
    pub fn seed(&self) -> u64 {
        self.raw.seed
    }

    /// Where this call's random numbers start in the seed's sequence.
    pub fn offset(&self) -> u64 {
        self.raw.offset
    }

    /// This step's values of the attributes in the plan's `scalars`, in that order.
    pub fn scalars(&self) -> &'a [f64] {
        self.raw.scalars.as_slice()
    }

    /// The plan's `scratch_bytes`, aligned to 64 bytes. Holds anything; nothing left in it survives the call.
    pub fn scratch(&mut self) -> &mut [u8] {
        if self.raw.scratch.is_null() {
            return &mut [];
        }
        // SAFETY: promised to `new`; `&mut self` is the only way to it.
        unsafe { std::slice::from_raw_parts_mut(self.raw.scratch.cast(), self.raw.scratch_bytes as usize) }
    }

    /// [`Self::scratch`] as elements; a tail too short for one is left out.
    ///
    /// # Errors
    /// The host's scratch is not aligned for `T`.
    pub fn scratch_as<T: Element>(&mut self) -> Result<&mut [T], Error> {
        // SAFETY: every bit pattern of an `Element` is valid.
        let (head, elements, _) = unsafe { self.scratch().align_to_mut::<T>() };
        if head.is_empty() { Ok(elements) } else { Err(crate::error!("scratch is not aligned for {}", T::DTYPE)) }
    }

    /// The device stream of the call, in the driver's own type; null on the CPU.
    pub fn stream(&self) -> *mut c_void {
        self.raw.stream
    }

    /// Enqueues entry `entry` of the op's compiled module on the call's stream.
    ///
    /// # Errors
    /// The call has no device, or the driver refused: its code is in the message.
    ///
    /// # Safety
    /// `args` point to what the device kernel takes, in its order, and the kernel writes only what the call may.
    pub unsafe fn gpu(
        &self,
        entry: u32,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        args: &[*const c_void],
    ) -> Result<(), Error> {
        let Some(gpu) = self.raw.gpu else {
            crate::bail!("entry {entry} cannot be launched: this call runs on the CPU");
        };
        match gpu(self.raw.host, entry, grid, block, shared_bytes, RSlice::from_slice(args)) {
            0 => Ok(()),
            code => Err(crate::error!(
                "launch of entry {entry} (grid {grid:?}, block {block:?}) failed: driver code {code}"
            )),
        }
    }
}
