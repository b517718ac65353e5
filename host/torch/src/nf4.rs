//! Weights in NF4: four bits an element and a scale for each 64, made into elements for one product at a time.
//!
//! Codes and scales are bitsandbytes' and lie in one tensor of bytes:
//!
//! ```text
//! scales in f32        absmax, one for each block of 64                               | codes
//! double quantisation  nested (one for each 256 blocks), offset | a byte for each block | codes
//! ```
//!
//! A weight is quantised on the CPU, once; nothing here changes one. A weight with an element that is no finite number is
//! refused: its block, and with double quantisation the whole of it, would come back as NaN.

use std::rc::Rc;

use tch::{Device, Kind, TchError, Tensor};
use unswag_abi::doc::Dtype;
use unswag_engine::{Backend, EngineError, Nf4};
use unswag_kernels::quant::{BLOCK, DynamicMap, blockwise, nf4};

use crate::{
    Torch, TorchTensor, composed,
    cpu::{self, by_element, kernel_error, read},
    tensor::{kind_of, torch_error},
    threads::exec,
};

/// What a quantised weight's elements are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantized {
    shape: [u64; 2],
    dtype: Dtype,
    nf4: Nf4,
}

/// Where the parts lie among the bytes: scales in f32, then in 8 bits, then codes.
struct Layout {
    floats: usize,
    bytes: usize,
    packed: usize,
}

impl Quantized {
    pub fn shape(&self) -> [u64; 2] {
        self.shape
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn elements(&self) -> usize {
        (self.shape[0] * self.shape[1]) as usize
    }

    fn layout(&self) -> Layout {
        let (blocks, packed) = (nf4::blocks(self.elements()), nf4::packed_bytes(self.elements()));
        match self.nf4.double_quant {
            false => Layout { floats: blocks, bytes: 0, packed },
            true => Layout { floats: blockwise::blocks(blocks) + 1, bytes: blocks, packed },
        }
    }

    /// The three parts of a weight's bytes.
    fn parts(&self, bytes: &Tensor) -> Result<[Tensor; 3], TchError> {
        let layout = self.layout();
        let [floats, scales, packed] = [4 * layout.floats, layout.bytes, layout.packed].map(|bytes| bytes as i64);
        let bytes = bytes.f_view([floats + scales + packed])?;
        Ok([
            bytes.f_narrow(0, 0, floats)?.f_view_dtype(Kind::Float)?,
            bytes.f_narrow(0, floats, scales)?,
            bytes.f_narrow(0, floats + scales, packed)?,
        ])
    }

    fn check_finite(&self, absmax: &[f32]) -> Result<(), EngineError> {
        let Some(block) = absmax.iter().position(|scale| !scale.is_finite()) else { return Ok(()) };
        let (first, end) = (block * nf4::BLOCK, ((block + 1) * nf4::BLOCK).min(self.elements()));
        let why = format!("4-bit: expected finite elements, got one that is not among elements {first} to {}", end - 1);
        Err(EngineError::Backend(why))
    }

    /// y, which is dense and on the CPU, is written.
    fn dequantize_into(&self, bytes: &Tensor, y: &Tensor) -> Result<(), EngineError> {
        let [floats, scales, packed] = self.parts(bytes).map_err(torch_error)?;
        let (floats, scales, packed) = (read::<f32>(&floats)?, cpu::read_bytes(&scales)?, cpu::read_bytes(&packed)?);
        by_element!(y.kind(), T => {
            // SAFETY: y was made for this call.
            let y = unsafe { cpu::write::<T>(y)? };
            match (self.nf4.double_quant, floats.split_last()) {
                (true, Some((&offset, nested))) => {
                    let absmax = nf4::DoubleAbsmax { codes: scales, nested, offset };
                    nf4::dequantize_double(exec(), packed, absmax, y)
                }
                _ => nf4::dequantize(exec(), packed, floats, y),
            }
            .map_err(kernel_error)
        })
    }

    /// The same in libtorch's own operations, on any device.
    fn dequantized(&self, bytes: &Tensor) -> Result<Tensor, TchError> {
        let [floats, scales, packed] = self.parts(bytes)?;
        let absmax = match self.nf4.double_quant {
            false => floats,
            true => {
                let nested = floats.numel() as i64 - 1;
                let (nested, offset) = (floats.f_narrow(0, 0, nested)?, floats.f_narrow(0, nested, 1)?);
                composed::scaled_blocks(&scales, &nested, DynamicMap::signed().values(), BLOCK as i64)?
                    .f_add(&offset)?
            }
        };
        let [rows, columns] = self.shape.map(|size| size as i64);
        let codes = Tensor::f_stack(&[packed.f_bitwise_right_shift_tensor_scalar(4)?, packed.f_bitwise_and(15)?], 1)?;
        let codes = codes.f_flatten(0, 1)?.f_narrow(0, 0, rows * columns)?;
        composed::scaled_blocks(&codes, &absmax, nf4::levels(), nf4::BLOCK as i64)?.f_reshape([rows, columns])
    }
}

impl Torch {
    /// The weight in NF4. Products take its elements in `dtype`; the codes are those of the elements as they are given.
    ///
    /// # Errors
    /// An element that is not finite, an element type without kernels, or no memory.
    pub fn quantize(&self, x: &TorchTensor, dtype: Dtype, nf4: Nf4) -> Result<TorchTensor, EngineError> {
        let of = Quantized { shape: self.shape(x), dtype, nf4 };
        kind_of(dtype)?;
        let layout = of.layout();
        let mut bytes = vec![0; 4 * layout.floats + layout.bytes + layout.packed];
        debug_assert_eq!(bytes.len() as u64, nf4.bytes(of.elements() as u64));
        let (floats, rest) = bytes.split_at_mut(4 * layout.floats);
        let (codes, packed) = rest.split_at_mut(layout.bytes);
        let host = x.view.f_to_device(Device::Cpu).and_then(|x| x.f_contiguous()).map_err(torch_error)?;
        let mut absmax = vec![0.0; nf4::blocks(of.elements())];
        by_element!(host.kind(), T => {
            nf4::quantize(exec(), read::<T>(&host)?, packed, &mut absmax).map_err(kernel_error)
        })?;
        of.check_finite(&absmax)?;
        if nf4.double_quant {
            let mut nested = vec![0.0; layout.floats - 1];
            let offset = nf4::quantize_absmax(exec(), &absmax, codes, &mut nested).map_err(kernel_error)?;
            nested.push(offset);
            absmax = nested;
        }
        for (bytes, scale) in floats.as_chunks_mut::<4>().0.iter_mut().zip(&absmax) {
            *bytes = scale.to_le_bytes();
        }
        let mut tensor = self.bytes_from(&bytes)?;
        tensor.quantized = Some(Rc::new(of));
        Ok(tensor)
    }

    /// The elements of a quantised tensor.
    pub(crate) fn elements_of(&self, x: &TorchTensor, of: &Quantized) -> Result<TorchTensor, EngineError> {
        let y = self.fresh(of.shape, kind_of(of.dtype)?)?;
        if self.is_served(&[&y]) {
            of.dequantize_into(&x.view, &y.view)?;
        } else {
            let elements = of.dequantized(&x.view).map_err(torch_error)?;
            y.view.shallow_clone().f_copy_(&elements).map_err(torch_error)?;
        }
        Ok(y)
    }
}
