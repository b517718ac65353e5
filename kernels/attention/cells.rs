//! A tensor that tasks write to at once, each its own cells.

use std::{marker::PhantomData, ptr::NonNull};

/// Cells of equal length, one after the other.
pub(super) struct Cells<'a, T> {
    first: NonNull<T>,
    cell: usize,
    count: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: elements are reached by `cell` alone, whose callers share none at the same time.
unsafe impl<T: Send> Sync for Cells<'_, T> {}
// SAFETY: as a `&mut [T]`.
unsafe impl<T: Send> Send for Cells<'_, T> {}

impl<'a, T> Cells<'a, T> {
    /// Cells of `cell` elements; what does not fill one at the end is out of reach.
    pub(super) fn new(elements: &'a mut [T], cell: usize) -> Self {
        let count = elements.len().checked_div(cell).unwrap_or(0);
        Cells { first: NonNull::from(elements).cast(), cell, count, owner: PhantomData }
    }

    /// # Safety
    /// No other reference to this cell lives at the same time, on any thread.
    ///
    /// # Panics
    /// If there is no such cell.
    pub(super) unsafe fn cell(&self, index: usize) -> &'a mut [T] {
        assert!(index < self.count, "cell {index} of {}", self.count);
        // SAFETY: the cell lies in the borrowed slice; that it is nobody else's is promised.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr().add(index * self.cell), self.cell) }
    }
}
