//! A tensor of libtorch's, counted, and its element types.

use std::{fmt, rc::Rc};

use tch::{Device, Kind, Tensor};
use unswag_abi::doc::Dtype;
use unswag_engine::EngineError;

use crate::{cpu, memory::Memory, nf4::Quantized};

/// A shared handle. Rows of a tensor hold the memory of the whole.
#[derive(Clone)]
pub struct TorchTensor {
    pub(crate) view: Rc<Tensor>,
    pub(crate) memory: Rc<Memory>,
    /// What its bytes stand for, where it is quantised.
    pub(crate) quantized: Option<Rc<Quantized>>,
}

impl TorchTensor {
    /// libtorch's own handle, of two dimensions. What is written through it is seen by every handle. Of a quantised tensor: one
    /// row of bytes.
    pub(crate) fn tensor(&self) -> &Tensor {
        &self.view
    }

    /// All elements, rounded to f32, in order.
    ///
    /// # Errors
    /// It is quantised, or what libtorch says.
    pub fn to_f32(&self) -> Result<Vec<f32>, EngineError> {
        if self.quantized.is_some() {
            return Err(EngineError::Backend("expected elements, got a quantised tensor; dequantize it first".into()));
        }
        let host = self.view.f_to_kind(Kind::Float).and_then(|x| x.f_to_device(Device::Cpu));
        let flat = host.and_then(|x| x.f_contiguous()).map_err(torch_error)?;
        Ok(cpu::read::<f32>(&flat)?.to_vec())
    }
}

impl TorchTensor {
    /// The bytes as they lie in memory: of a quantised tensor its scales, then its codes.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EngineError> {
        let host = self.view.f_to_device(Device::Cpu).and_then(|x| x.f_contiguous()).map_err(torch_error)?;
        Ok(cpu::read_bytes(&host)?.to_vec())
    }

    /// Hands the elements of a dense f32 tensor on the CPU over as they lie; of another, a copy of them in f32. `read` must not
    /// compute with tensors.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn with_f32<R>(&self, read: impl FnOnce(&[f32]) -> R) -> Result<R, EngineError> {
        match cpu::read::<f32>(&self.view) {
            Ok(values) => Ok(read(values)),
            Err(_) => Ok(read(&self.to_f32()?)),
        }
    }
}

impl fmt::Debug for TorchTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TorchTensor").field("kind", &self.view.kind()).field("shape", &self.view.size()).finish()
    }
}

/// The first line of what libtorch says: the rest is its own stack.
pub(crate) fn torch_error(error: tch::TchError) -> EngineError {
    let text = error.to_string();
    EngineError::Backend(format!("libtorch: {}", text.lines().next().unwrap_or("no reason given")))
}

pub(crate) fn kind_of(dtype: Dtype) -> Result<Kind, EngineError> {
    Ok(match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::F16 => Kind::Half,
        Dtype::Bf16 => Kind::BFloat16,
        other => return Err(EngineError::Backend(format!("expected a floating-point element type, got {other}"))),
    })
}

/// What sums over elements of this type are taken in.
pub(crate) fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

pub(crate) fn dtype_of(kind: Kind) -> Dtype {
    match kind {
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::Bf16,
        // What a plugin saves: bytes that only it understands.
        Kind::Uint8 => Dtype::U8,
        other => unreachable!("the backend makes no tensors of {other:?}"),
    }
}
