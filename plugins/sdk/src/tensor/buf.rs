//! Tensors that own their memory: what a test passes where the host would pass its own.

use std::{ffi::c_void, marker::PhantomData};

use unswag_abi::{
    doc::{Dtype, Meta},
    frame::{DlDevice, TensorView, Views},
};

use super::{CPU, Inputs, Outputs, Slot, Tensor, TensorMut};
use crate::{element::Element, error::Error};

/// A cache line: allocations of the host are aligned to it.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// A tensor on the heap, aligned to 64 bytes as the host's own are.
#[derive(Clone)]
pub struct TensorBuf {
    dtype: Dtype,
    shape: Vec<i64>,
    strides: Option<Vec<i64>>,
    lines: Vec<Line>,
    /// Where the first element lies, in bytes.
    offset: usize,
    /// How much of `offset` is guard band, which a view's data pointer skips; the rest it gives as `byte_offset`.
    band: usize,
    wanted: bool,
}

/// Bytes of guard band before and after a tensor that a call writes.
const BAND: usize = 4 * size_of::<Line>();
/// What guard bands hold.
const CANARY: u8 = 0xC5;

impl TensorBuf {
    /// A tensor of zeros.
    ///
    /// # Errors
    /// The shape does not fit in memory.
    pub fn zeros(meta: &Meta) -> Result<Self, Error> {
        let bytes = meta.bytes().and_then(|bytes| isize::try_from(bytes).ok());
        let bytes =
            bytes.ok_or_else(|| crate::error!("a tensor of {} {:?} does not fit in memory", meta.dtype, meta.shape))?;
        let mut shape = Vec::with_capacity(meta.shape.len());
        for &size in &meta.shape {
            shape.push(i64::try_from(size)?);
        }
        let lines = lines(bytes as usize, 0)?;
        Ok(Self { dtype: meta.dtype, shape, strides: None, lines, offset: 0, band: 0, wanted: true })
    }

    /// A tensor whose every byte is `fill`, between guard bands: what a call is given to write. Whether the call kept
    /// within it, [`Self::check_bands`] says afterwards.
    ///
    /// # Errors
    /// The shape does not fit in memory.
    pub fn guarded(meta: &Meta, fill: u8) -> Result<Self, Error> {
        let mut buf = Self::zeros(meta)?;
        let len = buf.len_bytes();
        buf.lines = lines(BAND + len + BAND, CANARY)?;
        (buf.offset, buf.band) = (BAND, BAND);
        buf.bytes_mut().fill(fill);
        Ok(buf)
    }

    /// # Errors
    /// A guard band was written: says on which side and how far out.
    pub fn check_bands(&self) -> Result<(), Error> {
        if self.band == 0 {
            return Ok(());
        }
        let len = self.len_bytes();
        let (before, rest) = self.memory().split_at(self.band);
        let after = &rest[len..];
        if let Some(at) = before.iter().position(|&byte| byte != CANARY) {
            crate::bail!("{} bytes before the start of {} {:?} were written", self.band - at, self.dtype, self.shape);
        }
        if let Some(at) = after.iter().rposition(|&byte| byte != CANARY) {
            crate::bail!("{} bytes past the end of {} {:?} were written", at + 1, self.dtype, self.shape);
        }
        Ok(())
    }

    /// A tensor of these elements.
    ///
    /// # Errors
    /// `shape` does not have as many elements as `values`.
    pub fn from_slice<T: Element>(values: &[T], shape: &[u64]) -> Result<Self, Error> {
        let meta = Meta { dtype: T::DTYPE, shape: shape.to_vec() };
        if meta.elements() != Some(values.len() as u64) {
            crate::bail!("{} values do not make a tensor of shape {shape:?}", values.len());
        }
        let mut buf = Self::zeros(&meta)?;
        buf.tensor_mut().as_mut_slice::<T>()?.copy_from_slice(values);
        Ok(buf)
    }

    /// A tensor of little-endian elements in row-major order.
    ///
    /// # Errors
    /// There are more bytes or fewer than the type has.
    pub fn from_bytes(meta: &Meta, bytes: &[u8]) -> Result<Self, Error> {
        let mut buf = Self::zeros(meta)?;
        if buf.bytes().len() != bytes.len() {
            crate::bail!("{} {:?} does not have {} bytes", meta.dtype, meta.shape, bytes.len());
        }
        buf.bytes_mut().copy_from_slice(bytes);
        Ok(buf)
    }

    /// A float tensor of these values, rounded to `dtype` (F32, F64, BF16 or F16).
    ///
    /// # Errors
    /// As [`Self::from_slice`]; or `dtype` is none of those.
    pub fn from_f64(dtype: Dtype, values: &[f64], shape: &[u64]) -> Result<Self, Error> {
        match dtype {
            Dtype::F64 => Self::from_slice(values, shape),
            Dtype::F32 => Self::from_slice(&Vec::from_iter(values.iter().map(|&v| v as f32)), shape),
            Dtype::Bf16 => Self::from_slice(&Vec::from_iter(values.iter().map(|&v| half::bf16::from_f64(v))), shape),
            Dtype::F16 => Self::from_slice(&Vec::from_iter(values.iter().map(|&v| half::f16::from_f64(v))), shape),
            other => Err(crate::error!("{other} is not a float type that kernels here compute on")),
        }
    }

    /// The elements of a float tensor as f64, which holds each exactly.
    ///
    /// # Errors
    /// The tensor is not of floats, or not contiguous.
    pub fn to_f64(&self) -> Result<Vec<f64>, Error> {
        let tensor = self.tensor();
        Ok(match self.dtype {
            Dtype::F64 => tensor.as_slice::<f64>()?.to_vec(),
            Dtype::F32 => tensor.as_slice::<f32>()?.iter().map(|&v| v.into()).collect(),
            Dtype::Bf16 => tensor.as_slice::<half::bf16>()?.iter().map(|v| v.to_f64()).collect(),
            Dtype::F16 => tensor.as_slice::<half::f16>()?.iter().map(|v| v.to_f64()).collect(),
            other => return Err(crate::error!("{other} is not a float type that kernels here compute on")),
        })
    }

    pub fn meta(&self) -> Meta {
        Meta { dtype: self.dtype, shape: self.shape.iter().map(|&size| size as u64).collect() }
    }

    /// The same tensor as one that the caller does not want: views of it have null data.
    #[must_use]
    pub fn unwanted(mut self) -> Self {
        self.wanted = false;
        self
    }

    /// The same elements, transposed in place by strides: a view that is not contiguous (unless a size is 1 or 0).
    ///
    /// # Errors
    /// The tensor has fewer than two dimensions.
    pub fn transposed(mut self) -> Result<Self, Error> {
        let rank = self.shape.len();
        if rank < 2 {
            crate::bail!("a tensor of rank {rank} cannot be transposed");
        }
        let mut strides = vec![1i64; rank];
        for dim in (0..rank - 1).rev() {
            strides[dim] = strides[dim + 1] * self.shape[dim + 1].max(1);
        }
        strides.swap(rank - 1, rank - 2);
        self.shape.swap(rank - 1, rank - 2);
        self.strides = Some(strides);
        Ok(self)
    }

    /// The same elements, moved `by` bytes off their alignment.
    #[must_use]
    pub fn misaligned(mut self, by: usize) -> Self {
        let bytes = self.bytes().to_vec();
        self.offset += by;
        self.lines.resize((self.offset + bytes.len()).div_ceil(size_of::<Line>()), Line([0; 64]));
        self.bytes_mut().copy_from_slice(&bytes);
        self
    }

    /// Every byte of the allocation.
    fn memory(&self) -> &[u8] {
        // SAFETY: lines are plain bytes, without padding, all initialised.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * size_of::<Line>()) }
    }

    fn memory_mut(&mut self) -> &mut [u8] {
        let len = self.lines.len() * size_of::<Line>();
        // SAFETY: as in `memory`; any byte is a valid `u8`.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), len) }
    }

    fn len_bytes(&self) -> usize {
        self.meta().bytes().expect("checked when it was made") as usize
    }

    /// The elements' bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.memory()[self.offset..][..self.len_bytes()]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let (offset, len) = (self.offset, self.len_bytes());
        &mut self.memory_mut()[offset..][..len]
    }

    /// The view that crosses the boundary, to be read.
    pub fn view(&self) -> TensorView<'_> {
        self.raw(self.lines.as_ptr().cast_mut().cast())
    }

    /// The view that crosses the boundary, to be written.
    pub fn view_mut(&mut self) -> TensorView<'_> {
        let data = self.lines.as_mut_ptr().cast();
        self.raw(data)
    }

    fn raw(&self, data: *mut c_void) -> TensorView<'_> {
        TensorView {
            data: if self.wanted { data.wrapping_byte_add(self.band) } else { std::ptr::null_mut() },
            device: DlDevice { kind: CPU, index: 0 },
            ndim: self.shape.len() as i32,
            dtype: self.dtype.into(),
            shape: self.shape.as_ptr(),
            strides: self.strides.as_ref().map_or(std::ptr::null(), |strides| strides.as_ptr()),
            byte_offset: (self.offset - self.band) as u64,
            life: PhantomData,
        }
    }

    fn checked(&self, data: *mut c_void) -> super::Checked<'_> {
        super::Checked {
            slot: Slot { list: "buffer", index: 0 },
            dtype: self.dtype,
            // `zeros` made each size from a `u64` that fits `i64`.
            // SAFETY: `i64` and `u64` have one layout, and no size is negative.
            shape: unsafe { std::slice::from_raw_parts(self.shape.as_ptr().cast(), self.shape.len()) },
            strides: self.strides.as_deref(),
            elements: self.meta().elements().expect("checked when it was made") as usize,
            device: DlDevice { kind: CPU, index: 0 },
            data: data.cast(),
            byte_offset: self.offset as u64,
        }
    }

    /// Read it as a kernel would.
    pub fn tensor(&self) -> Tensor<'_> {
        Tensor(self.checked(self.lines.as_ptr().cast_mut().cast()))
    }

    /// Write it as a kernel would.
    pub fn tensor_mut(&mut self) -> TensorMut<'_> {
        let data = self.lines.as_mut_ptr().cast();
        TensorMut(self.checked(data))
    }

    /// The elements.
    ///
    /// # Errors
    /// As [`Tensor::as_slice`].
    pub fn as_slice<T: Element>(&self) -> Result<&[T], Error> {
        Ok(self.tensor().as_slice::<T>()?)
    }
}

fn lines(bytes: usize, fill: u8) -> Result<Vec<Line>, Error> {
    let mut lines = Vec::new();
    let count = bytes.div_ceil(size_of::<Line>());
    lines.try_reserve_exact(count)?;
    lines.resize(count, Line([fill; 64]));
    Ok(lines)
}

/// Lends owned tensors as a call's [`Inputs`] to code under test: `with_inputs(&[x], |inputs| kernel.forward(…))`.
pub fn with_inputs<R>(list: &'static str, bufs: &[TensorBuf], call: impl FnOnce(Inputs<'_>) -> R) -> R {
    let views = Vec::from_iter(bufs.iter().map(TensorBuf::view));
    // SAFETY: the buffers are borrowed for the call and describe their own memory.
    call(unsafe { Inputs::from_views(list, Views::from_slice(&views)) })
}

/// Lends owned tensors as a call's [`Outputs`] to code under test.
pub fn with_outputs<R>(list: &'static str, bufs: &mut [TensorBuf], call: impl FnOnce(Outputs<'_>) -> R) -> R {
    let views = Vec::from_iter(bufs.iter_mut().map(TensorBuf::view_mut));
    // SAFETY: the buffers are borrowed exclusively for the call, each is its own allocation.
    call(unsafe { Outputs::from_views(list, Views::from_slice(&views)) })
}
