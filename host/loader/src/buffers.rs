//! Host memory as the tensor views that cross to a plugin.
//!
//! Input: bytes of the host and the shapes that belong to them. A view must never reach past its bytes, be aligned to less
//! than its element, or outlive the call it is made for.

use std::{ffi::c_void, marker::PhantomData, ptr};

use unswag_abi::{
    abi_stable::std_types::RSlice,
    doc::Meta,
    frame::{DlDevice, TensorView, Views},
};
use unswag_engine::{Buffer, BufferMut};

/// DLPack's `kDLCPU`.
const CPU: DlDevice = DlDevice { kind: 1, index: 0 };

/// The views of a list of tensors, and what they point at.
pub(crate) struct ViewList<'a> {
    views: Vec<TensorView<'a>>,
    /// All shapes, one after the other. The views point into it, so it is never touched again.
    _shapes: Vec<i64>,
    /// Copies of tensors that are not aligned to their elements, by index.
    copies: Vec<(usize, Vec<u64>)>,
}

impl<'a> ViewList<'a> {
    pub fn read(what: &str, tensors: &[Buffer<'a>]) -> Result<Self, String> {
        let parts: Vec<_> = tensors
            .iter()
            // The frame has one view type for both directions; a plugin must not write to an input.
            .map(|tensor| (tensor.meta, tensor.bytes.as_ptr().cast_mut(), Some(tensor.bytes.len())))
            .collect();
        let mut list = Self::new(what, &parts)?;
        for (index, copy) in &mut list.copies {
            as_bytes_mut(copy)[..tensors[*index].bytes.len()].copy_from_slice(tensors[*index].bytes);
        }
        Ok(list)
    }

    pub fn write(what: &str, tensors: &mut [BufferMut<'a>]) -> Result<Self, String> {
        let parts: Vec<_> = tensors
            .iter_mut()
            .map(|tensor| match &mut tensor.bytes {
                Some(bytes) => (tensor.meta, bytes.as_mut_ptr(), Some(bytes.len())),
                None => (tensor.meta, ptr::null_mut(), None),
            })
            .collect();
        Self::new(what, &parts)
    }

    /// Brings what the plugin wrote into copies to where it belongs.
    pub fn finish(mut self, tensors: &mut [BufferMut<'a>]) {
        for (index, copy) in &mut self.copies {
            if let Some(bytes) = &mut tensors[*index].bytes {
                let length = bytes.len();
                bytes.copy_from_slice(&as_bytes_mut(copy)[..length]);
            }
        }
    }

    pub fn as_views(&self) -> Views<'_> {
        RSlice::from_slice(&self.views)
    }

    /// `parts`: type, address, and length in bytes, where the tensor is wanted.
    fn new(what: &str, parts: &[(&Meta, *mut u8, Option<usize>)]) -> Result<Self, String> {
        let mut shapes = Vec::with_capacity(parts.iter().map(|(meta, ..)| meta.shape.len()).sum());
        for (index, (meta, _, length)) in parts.iter().enumerate() {
            let expected = meta.bytes();
            if let Some(length) = length
                && expected != Some(*length as u64)
            {
                let expected = expected.map_or("more than 2^64".to_owned(), |bytes| bytes.to_string());
                return Err(format!(
                    "{what}[{index}]: {} {:?} has {expected} bytes, the buffer has {length}",
                    meta.dtype, meta.shape
                ));
            }
            for &size in &meta.shape {
                shapes.push(
                    i64::try_from(size).map_err(|_| format!("{what}[{index}]: a size of {size} is beyond DLPack"))?,
                );
            }
        }

        let mut views = Vec::with_capacity(parts.len());
        let mut copies = Vec::new();
        let mut at = 0;
        for (index, &(meta, address, length)) in parts.iter().enumerate() {
            let rank = meta.shape.len();
            let ndim =
                i32::try_from(rank).map_err(|_| format!("{what}[{index}]: a rank of {rank} is beyond DLPack"))?;
            let mut data = address.cast::<c_void>();
            if let Some(length) = length
                && !(address as usize).is_multiple_of(meta.dtype.bytes() as usize)
            {
                let mut copy = vec![0u64; length.div_ceil(8)];
                data = copy.as_mut_ptr().cast();
                copies.push((index, copy));
            }
            views.push(TensorView {
                data,
                device: CPU,
                ndim,
                dtype: meta.dtype.into(),
                shape: shapes[at..at + rank].as_ptr(),
                strides: ptr::null(),
                byte_offset: 0,
                life: PhantomData,
            });
            at += rank;
        }
        Ok(Self { views, _shapes: shapes, copies })
    }
}

fn as_bytes_mut(words: &mut [u64]) -> &mut [u8] {
    // SAFETY: every byte of a u64 is initialised, u8 needs no alignment, and the length is the same memory's.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}
