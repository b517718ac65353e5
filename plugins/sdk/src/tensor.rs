//! Safe views of the tensors that the host lends for one call.
//!
//! A view checks itself before it gives data: known dtype, sane rank and sizes, contiguous, aligned, on the CPU, present.
//! It must never keep a pointer past the call: every borrow ends with the call's lifetime.
//!
//! What the host promises, and no check here can see: the memory is alive for the call and as large as the shape says;
//! it is initialised; tensors that a call reads are not written by anyone meanwhile; tensors that it writes overlap
//! nothing else of the call. On those promises the borrows below are ordinary Rust borrows.

mod buf;
mod list;

use unswag_abi::{
    doc::{Dtype, Meta},
    frame::{DlDevice, TensorView},
};

pub use buf::{TensorBuf, with_inputs, with_outputs};
pub use list::{Inputs, Outputs};

use crate::element::Element;

/// DLPack's `kDLCPU` and `kDLCUDAHost` (pinned): memory that a CPU may read.
const CPU: i32 = 1;
const CUDA_HOST: i32 = 3;

/// More than any real tensor has (PyTorch stops at 64).
const MAX_RANK: i32 = 64;

/// Where a tensor stood in its call: `inputs[1]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub list: &'static str,
    pub index: usize,
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]", self.list, self.index)
    }
}

/// Why a tensor could not be used as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    #[error("{list}: expected {expected} tensors, got {found}; the call does not fit this op's plan")]
    Count { list: &'static str, expected: usize, found: usize },
    #[error("{slot}: no such tensor, the list has {found}; the call does not fit this op's plan")]
    Missing { slot: Slot, found: usize },
    #[error("{slot}: the tensor is absent (null data); check `is_wanted` before asking for its elements")]
    Null { slot: Slot },
    #[error("{slot}: expected a rank of 0 to {MAX_RANK} with a shape, got rank {rank}{}; the host's view is damaged",
        if *.shape_is_null { " and a null shape" } else { "" })]
    Rank { slot: Slot, rank: i32, shape_is_null: bool },
    #[error("{slot}: dimension {dim} has the negative size {size}; the host's view is damaged")]
    NegativeSize { slot: Slot, dim: usize, size: i64 },
    #[error("{slot}: shape {shape:?} of {dtype} does not fit in memory; the host's view is damaged")]
    TooLarge { slot: Slot, shape: Vec<i64>, dtype: Dtype },
    #[error("{slot}: unknown element type (DLPack code {code}, {bits} bits, {lanes} lanes)")]
    UnknownDtype { slot: Slot, code: u8, bits: u8, lanes: u16 },
    #[error("{slot}: expected elements of {expected}, got {found}; match on `dtype()` or refuse it in `plan`")]
    Dtype { slot: Slot, expected: Dtype, found: Dtype },
    #[error("{slot}: expected memory of the CPU, got DLPack device kind {kind}; this kernel was built for the CPU")]
    Device { slot: Slot, kind: i32 },
    #[error(
        "{slot}: expected a contiguous tensor, got shape {shape:?} with strides {strides:?} (in elements); pass a contiguous copy"
    )]
    Strided { slot: Slot, shape: Vec<u64>, strides: Vec<i64> },
    #[error(
        "{slot}: data of {dtype} must lie on a multiple of {align} bytes, got an address {off_by} past one; pass an aligned copy"
    )]
    Misaligned { slot: Slot, dtype: Dtype, align: usize, off_by: usize },
}

/// The product of the sizes, where so many elements fit an allocation.
fn elements_in_memory(shape: &[u64], dtype: Dtype) -> Option<usize> {
    let elements = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size))?;
    isize::try_from(elements.checked_mul(dtype.bytes())?).ok()?;
    usize::try_from(elements).ok()
}

/// What both kinds of view share: a description that was checked, and the raw parts of the data.
#[derive(Clone, Copy)]
struct Checked<'a> {
    slot: Slot,
    dtype: Dtype,
    /// Never negative, product times element size fits `isize`.
    shape: &'a [u64],
    strides: Option<&'a [i64]>,
    elements: usize,
    device: DlDevice,
    data: *mut u8,
    byte_offset: u64,
}

impl<'a> Checked<'a> {
    /// # Safety
    /// `view.shape` and `view.strides` are null or point to `ndim` readable numbers that live for `'a` unchanged.
    unsafe fn new(slot: Slot, view: &'a TensorView<'a>) -> Result<Self, TensorError> {
        let rank = view.ndim;
        if !(0..=MAX_RANK).contains(&rank) || (rank > 0 && view.shape.is_null()) {
            return Err(TensorError::Rank { slot, rank, shape_is_null: view.shape.is_null() });
        }
        let code = view.dtype;
        let dtype = code.dtype().ok_or(TensorError::UnknownDtype {
            slot,
            code: code.code,
            bits: code.bits,
            lanes: code.lanes,
        })?;
        let rank = rank as usize;
        // SAFETY: the caller's promise; the rank was just bounded and the pointer is not null where it is read.
        let sizes: &'a [i64] = if rank == 0 { &[] } else { unsafe { std::slice::from_raw_parts(view.shape, rank) } };
        if let Some(dim) = sizes.iter().position(|&size| size < 0) {
            return Err(TensorError::NegativeSize { slot, dim, size: sizes[dim] });
        }
        // SAFETY: `i64` and `u64` have one layout, and no size is negative.
        let shape: &'a [u64] = unsafe { std::slice::from_raw_parts(sizes.as_ptr().cast(), rank) };
        // An empty tensor may name absurd sizes beside its zero; it has no elements all the same.
        let elements = if shape.contains(&0) { Some(0) } else { elements_in_memory(shape, dtype) };
        let elements = elements.ok_or_else(|| TensorError::TooLarge { slot, shape: sizes.to_vec(), dtype })?;
        let strides = if view.strides.is_null() || rank == 0 {
            None
        } else {
            // SAFETY: the caller's promise, as for the shape.
            Some(unsafe { std::slice::from_raw_parts(view.strides, rank) })
        };
        Ok(Self {
            slot,
            dtype,
            shape,
            strides,
            elements,
            device: view.device,
            data: view.data.cast(),
            byte_offset: view.byte_offset,
        })
    }

    fn is_contiguous(&self) -> bool {
        let Some(strides) = self.strides else { return true };
        if self.elements == 0 {
            return true;
        }
        let mut expected = 1i64;
        for (&size, &stride) in self.shape.iter().zip(strides).rev() {
            // The stride of a dimension of one element is never used, and hosts put anything there.
            if size != 1 && stride != expected {
                return false;
            }
            expected *= size as i64;
        }
        true
    }

    /// The address of the first element, for a CPU tensor that may be read as `elements` contiguous numbers.
    fn data_for(&self, align: usize) -> Result<*mut u8, TensorError> {
        let slot = self.slot;
        if self.elements == 0 {
            return Ok(std::ptr::without_provenance_mut(align));
        }
        if self.data.is_null() {
            return Err(TensorError::Null { slot });
        }
        if !matches!(self.device.kind, CPU | CUDA_HOST) {
            return Err(TensorError::Device { slot, kind: self.device.kind });
        }
        if !self.is_contiguous() {
            let strides = self.strides.unwrap_or_default().to_vec();
            return Err(TensorError::Strided { slot, shape: self.shape.to_vec(), strides });
        }
        let too_large = || TensorError::TooLarge {
            slot,
            shape: self.shape.iter().map(|&size| size as i64).collect(),
            dtype: self.dtype,
        };
        let offset = usize::try_from(self.byte_offset).map_err(|_| too_large())?;
        self.data.addr().checked_add(offset).ok_or_else(too_large)?;
        let data = self.data.wrapping_add(offset);
        let off_by = data.addr() % align;
        if off_by != 0 {
            return Err(TensorError::Misaligned { slot, dtype: self.dtype, align, off_by });
        }
        Ok(data)
    }

    fn typed<T: Element>(&self) -> Result<*mut T, TensorError> {
        if !T::reads(self.dtype) {
            return Err(TensorError::Dtype { slot: self.slot, expected: T::DTYPE, found: self.dtype });
        }
        Ok(self.data_for(align_of::<T>())?.cast())
    }

    fn bytes(&self) -> usize {
        self.elements * self.dtype.bytes() as usize
    }
}

macro_rules! description {
    ($view:ident) => {
        impl<'a> $view<'a> {
            pub fn dtype(&self) -> Dtype {
                self.0.dtype
            }

            /// Sizes, outermost first. Empty for a scalar.
            pub fn shape(&self) -> &'a [u64] {
                self.0.shape
            }

            /// Number of elements: 1 for a scalar, 0 where any size is 0.
            pub fn len(&self) -> usize {
                self.0.elements
            }

            pub fn is_empty(&self) -> bool {
                self.0.elements == 0
            }

            /// The innermost size: what a row has. 1 for a scalar.
            pub fn row_len(&self) -> usize {
                self.0.shape.last().map_or(1, |&size| size as usize)
            }

            pub fn meta(&self) -> Meta {
                Meta { dtype: self.0.dtype, shape: self.0.shape.to_vec() }
            }

            /// False where the host passed no data: a gradient nobody uses.
            pub fn is_wanted(&self) -> bool {
                !self.0.data.is_null()
            }

            /// Whether the elements lie one after another, row by row.
            pub fn is_contiguous(&self) -> bool {
                self.0.is_contiguous()
            }

            /// Where it stood in the call, for error messages.
            pub fn slot(&self) -> Slot {
                self.0.slot
            }

            /// The data's address on whatever device it is, with the offset applied, for the arguments of a device kernel.
            /// Null where the tensor is absent.
            pub fn device_ptr(&self) -> *mut std::ffi::c_void {
                if self.0.data.is_null() {
                    return std::ptr::null_mut();
                }
                self.0.data.wrapping_add(self.0.byte_offset as usize).cast()
            }
        }

        impl std::fmt::Debug for $view<'_> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{} {}{:?}", self.0.slot, self.0.dtype, self.0.shape)
            }
        }
    };
}

/// A tensor that a call reads.
#[derive(Clone, Copy)]
pub struct Tensor<'a>(Checked<'a>);

// SAFETY: a shared borrow of plain numbers, as `&'a [T]` is; nothing can be written through it.
unsafe impl Send for Tensor<'_> {}
// SAFETY: as above.
unsafe impl Sync for Tensor<'_> {}

description!(Tensor);

impl<'a> Tensor<'a> {
    /// Checks the description (not yet the data) of a view.
    ///
    /// # Errors
    /// A rank, size or element type that cannot be.
    ///
    /// # Safety
    /// The promises at the head of this module hold for `'a`.
    pub unsafe fn new(slot: Slot, view: &'a TensorView<'a>) -> Result<Self, TensorError> {
        // SAFETY: passed on to the caller.
        unsafe { Checked::new(slot, view) }.map(Self)
    }

    /// The elements, row by row. A bool tensor reads as `u8`.
    ///
    /// # Errors
    /// Another element type, absent data, memory of another device, strides, or a misaligned address.
    pub fn as_slice<T: Element>(&self) -> Result<&'a [T], TensorError> {
        let data = self.0.typed::<T>()?;
        // SAFETY: `typed` checked type, alignment, contiguity and presence; the host promised the rest for `'a`.
        Ok(unsafe { std::slice::from_raw_parts(data, self.0.elements) })
    }

    /// The elements' bytes, whatever the type.
    ///
    /// # Errors
    /// Absent data, memory of another device, or strides.
    pub fn as_bytes(&self) -> Result<&'a [u8], TensorError> {
        let data = self.0.data_for(1)?;
        // SAFETY: `data_for` checked contiguity and presence; `bytes` fits `isize`; the host promised the rest for `'a`.
        Ok(unsafe { std::slice::from_raw_parts(data, self.0.bytes()) })
    }
}

/// A tensor that a call writes. Nothing else of the call overlaps it.
pub struct TensorMut<'a>(Checked<'a>);

// SAFETY: an exclusive borrow of plain numbers, as `&'a mut [T]` is.
unsafe impl Send for TensorMut<'_> {}
// SAFETY: as above; through `&TensorMut` nothing can be written.
unsafe impl Sync for TensorMut<'_> {}

description!(TensorMut);

impl<'a> TensorMut<'a> {
    /// Checks the description (not yet the data) of a view.
    ///
    /// # Errors
    /// A rank, size or element type that cannot be.
    ///
    /// # Safety
    /// The promises at the head of this module hold for `'a`, and no other view of this memory is used during `'a`.
    pub unsafe fn new(slot: Slot, view: &'a TensorView<'a>) -> Result<Self, TensorError> {
        // SAFETY: passed on to the caller.
        unsafe { Checked::new(slot, view) }.map(Self)
    }

    /// The elements, row by row, to be written. They hold what the host left there: nothing may be read into that.
    ///
    /// # Errors
    /// As [`Tensor::as_slice`].
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T], TensorError> {
        let data = self.0.typed::<T>()?;
        // SAFETY: `typed` checked type, alignment, contiguity and presence; `&mut self` is the only way to the memory.
        Ok(unsafe { std::slice::from_raw_parts_mut(data, self.0.elements) })
    }

    /// As [`Self::as_mut_slice`], for the whole call: to be split among threads.
    ///
    /// # Errors
    /// As [`Tensor::as_slice`].
    pub fn into_mut_slice<T: Element>(self) -> Result<&'a mut [T], TensorError> {
        let data = self.0.typed::<T>()?;
        // SAFETY: as above, and `self` is consumed, so the borrow may last for `'a`.
        Ok(unsafe { std::slice::from_raw_parts_mut(data, self.0.elements) })
    }

    /// The elements' bytes, whatever the type.
    ///
    /// # Errors
    /// As [`Tensor::as_bytes`].
    pub fn as_bytes_mut(&mut self) -> Result<&mut [u8], TensorError> {
        let data = self.0.data_for(1)?;
        // SAFETY: as in `as_mut_slice`; every bit pattern of every element type is valid.
        Ok(unsafe { std::slice::from_raw_parts_mut(data, self.0.bytes()) })
    }
}
