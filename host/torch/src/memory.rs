//! Memory for tensors on the CPU, given back to the next tensor of its size.
//!
//! The C library gives large blocks back to the system at once, so that each step would fault the same pages in again: a
//! quarter of a step's time. A model's layers ask for the same few sizes over and over, so a block waits here for the next
//! tensor of exactly its size. What waits is freed before blocks in use and waiting together would be more than were ever in
//! use at once: this memory is never more than the program's own peak. As little is freed as makes room: every block of a step
//! is wanted again in the next one, and the oldest soonest.
//!
//! Nothing here may be read before it is written: a block holds what its last tensor left.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    ops::Deref,
    rc::Rc,
};

use tch::{Device, Kind, TchError, Tensor};
use unswag_engine::Charge;

/// A block starts at a multiple of this, as libtorch's own do.
const ALIGNMENT: u64 = 64;

#[derive(Debug, Default)]
struct State {
    /// Blocks that wait, the one that has waited longest first.
    waiting: RefCell<VecDeque<(u64, Tensor)>>,
    waiting_bytes: Cell<u64>,
    used_bytes: Cell<u64>,
    peak_bytes: Cell<u64>,
}

/// Blocks of one device's memory. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool(Rc<State>);

/// A block, until it is dropped.
#[derive(Debug)]
pub(crate) struct Block {
    pool: Pool,
    bytes: u64,
    storage: Option<Tensor>,
}

/// A tensor and the memory that it lies in.
#[derive(Debug)]
pub(crate) struct Pooled {
    pub(crate) tensor: Tensor,
    pub(crate) block: Block,
}

impl Deref for Pooled {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.tensor
    }
}

/// What a tensor's handles share: its memory, and what is charged for it.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Where the pool gave it; else libtorch's own tensor holds it.
    pub(crate) _block: Option<Block>,
    pub(crate) _charge: Charge,
}

impl Pool {
    /// Memory for this many elements, which are what the last tensor there left, or zeros.
    pub(crate) fn tensor(&self, shape: &[i64], kind: Kind) -> Result<Pooled, TchError> {
        let elements: i64 = shape.iter().product();
        let bytes = (elements.max(0) as u64 * kind.elt_size_in_bytes() as u64).next_multiple_of(ALIGNMENT);
        let block = self.block(bytes)?;
        let storage = block.storage.as_ref().expect("a block has its memory until it is dropped");
        let tensor = storage.f_view_dtype(kind)?.f_narrow(0, 0, elements)?.f_view(shape)?;
        Ok(Pooled { tensor, block })
    }

    /// The most bytes that were in use at once.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.0.peak_bytes.get()
    }

    fn block(&self, bytes: u64) -> Result<Block, TchError> {
        let state = &*self.0;
        let used = state.used_bytes.get() + bytes;
        let peak = state.peak_bytes.get().max(used);
        let mut waiting = state.waiting.borrow_mut();
        // The one that came last is the likeliest to be in a cache.
        let found = waiting.iter().rposition(|(size, _)| *size == bytes);
        let storage = match found.and_then(|at| waiting.remove(at)) {
            Some((_, storage)) => {
                state.waiting_bytes.set(state.waiting_bytes.get() - bytes);
                storage
            }
            None => {
                while let Some(missing) =
                    (used + state.waiting_bytes.get()).checked_sub(peak).filter(|bytes| *bytes > 0)
                {
                    let Some((freed, _)) = victim(&waiting, missing).and_then(|at| waiting.remove(at)) else { break };
                    state.waiting_bytes.set(state.waiting_bytes.get() - freed);
                }
                let mut storage = Tensor::f_empty([bytes as i64], (Kind::Uint8, Device::Cpu))?;
                in_large_pages(&storage);
                // Never uninitialised: plugins are handed these bytes, to write but as bytes that may be read.
                drop(storage.f_zero_()?);
                storage
            }
        };
        state.used_bytes.set(used);
        state.peak_bytes.set(peak);
        Ok(Block { pool: self.clone(), bytes, storage: Some(storage) })
    }
}

/// The smallest block of those that are enough, else the largest; the older of equals.
fn victim(waiting: &VecDeque<(u64, Tensor)>, missing: u64) -> Option<usize> {
    let sizes = || waiting.iter().map(|(bytes, _)| *bytes).enumerate();
    let enough = sizes().filter(|(_, bytes)| *bytes >= missing).min_by_key(|(_, bytes)| *bytes);
    enough.or_else(|| sizes().rev().max_by_key(|(_, bytes)| *bytes)).map(|(at, _)| at)
}

/// Asks the system for pages of 2 MiB where memory that nobody has touched yet spans them: to take them one of 4 KiB at a time was a
/// twentieth of a step.
fn in_large_pages(storage: &Tensor) {
    #[cfg(target_os = "linux")]
    {
        const LARGE: usize = 2 << 20;
        let start = storage.data_ptr() as usize;
        let end = start + storage.numel();
        let (start, end) = (start.next_multiple_of(LARGE), end / LARGE * LARGE);
        if start < end {
            // SAFETY: whole pages within the tensor's own memory; the advice changes no byte, and a system that does not take it says so.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let state = &*self.pool.0;
        state.used_bytes.set(state.used_bytes.get() - self.bytes);
        if let Some(storage) = self.storage.take() {
            state.waiting_bytes.set(state.waiting_bytes.get() + self.bytes);
            state.waiting.borrow_mut().push_back((self.bytes, storage));
        }
    }
}
