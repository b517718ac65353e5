//! 8-bit codes of a [`DynamicMap`], in blocks of [`BLOCK`] elements with an f32 scale each.
//!
//! Layout: codes one byte per element, in order; absmax one f32 per block, the last block shorter. 1.016 bytes per element.
//! Bytes: `quantize` reads n e and writes 1.016 n; `dequantize` the reverse (e bytes per element).
//! Precision: f32, one multiplication; every instruction set gives the reference's bits.
//!
//! The ladder:
//! 1. reference: counts borders.
//! 2. scale and products in sixteen lanes; codes through the map's table ([`super::dynamic`]), element by element as written.

use super::{BLOCK, CHUNK, DynamicMap, Float, Floats, FloatsMut, Scale};
use crate::{
    Element, Exec, KernelError,
    error::length,
    simd::{Body, Simd},
};

/// Blocks that n elements make: the size of `absmax`.
pub fn blocks(elements: usize) -> usize {
    elements.div_ceil(BLOCK)
}

/// Codes and scales of x. x: \[n\]; codes: \[n\]; absmax: \[[`blocks`]\(n)\].
///
/// # Errors
/// Where the lengths differ, or the CPU lacks `exec.isa`. Then nothing was written.
///
/// ```
/// use unswag_kernels::{Exec, quant::{DynamicMap, blockwise}};
/// let (map, x) = (DynamicMap::signed(), [0.5f32, -4.0, 0.0]);
/// let (mut codes, mut absmax, mut y) = ([0; 3], [0.0], [0.0f32; 3]);
/// blockwise::quantize(Exec::new(1), map, &x, &mut codes, &mut absmax)?;
/// assert_eq!((absmax[0], codes[2]), (4.0, 127));
/// blockwise::dequantize(Exec::new(1), map, &codes, &absmax, &mut y)?;
/// assert!((y[0] - 0.5).abs() < 0.02 && y[2] == 0.0);
/// # Ok::<(), unswag_kernels::KernelError>(())
/// ```
pub fn quantize<T: Float>(
    exec: Exec,
    map: &DynamicMap,
    x: &[T],
    codes: &mut [u8],
    absmax: &mut [f32],
) -> Result<(), KernelError> {
    quantize_less("quant.blockwise.quantize", exec, map, 0.0, T::floats(x), codes, absmax)
}

/// y = value(code) absmax. Sizes as in [`quantize`].
///
/// # Errors
/// As [`quantize`].
pub fn dequantize<T: Float>(
    exec: Exec,
    map: &DynamicMap,
    codes: &[u8],
    absmax: &[f32],
    y: &mut [T],
) -> Result<(), KernelError> {
    dequantize_plus("quant.blockwise.dequantize", exec, map, 0.0, codes, absmax, T::floats_mut(y))
}

/// [`quantize`] of x - offset.
pub(super) fn quantize_less(
    op: &'static str,
    exec: Exec,
    map: &DynamicMap,
    offset: f32,
    x: Floats<'_>,
    codes: &mut [u8],
    absmax: &mut [f32],
) -> Result<(), KernelError> {
    length(op, "codes", x.len(), codes.len())?;
    length(op, "absmax", blocks(x.len()), absmax.len())?;
    let chunks = x.len().div_ceil(CHUNK);
    let work = x.chunks(CHUNK).zip(codes.chunks_mut(CHUNK)).zip(absmax.chunks_mut(CHUNK / BLOCK));
    exec.for_each(chunks, work, |((x, codes), absmax)| {
        f32::launch(exec.isa, Quantize { map, offset, x, codes, absmax });
    })
}

/// [`dequantize`], and offset on top.
pub(super) fn dequantize_plus(
    op: &'static str,
    exec: Exec,
    map: &DynamicMap,
    offset: f32,
    codes: &[u8],
    absmax: &[f32],
    y: FloatsMut<'_>,
) -> Result<(), KernelError> {
    length(op, "codes", y.len(), codes.len())?;
    length(op, "absmax", blocks(y.len()), absmax.len())?;
    let chunks = y.len().div_ceil(CHUNK);
    let work = y.chunks(CHUNK).zip(codes.chunks(CHUNK)).zip(absmax.chunks(CHUNK / BLOCK));
    exec.for_each(chunks, work, |((y, codes), absmax)| {
        half::bf16::launch(exec.isa, Dequantize { map, offset, codes, absmax, y });
    })
}

struct Quantize<'a> {
    map: &'a DynamicMap,
    offset: f32,
    x: Floats<'a>,
    codes: &'a mut [u8],
    absmax: &'a mut [f32],
}

impl Body for Quantize<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (at, (codes, absmax)) in self.codes.chunks_mut(BLOCK).zip(self.absmax).enumerate() {
            let mut block = [0.0; BLOCK];
            self.x.read(s, at * BLOCK, &mut block);
            if self.offset != 0.0 {
                // Only the elements that are there: the zeros behind them must not count for the scale.
                for x in &mut block[..codes.len()] {
                    *x -= self.offset;
                }
            }
            encode(s, self.map, &block, codes, absmax);
        }
    }
}

/// Codes of a block's elements, of which there are as many as codes; what is behind them must be zero.
#[inline(always)]
pub(crate) fn encode<S: Simd>(s: S, map: &DynamicMap, block: &[f32; BLOCK], codes: &mut [u8], absmax: &mut f32) {
    let scale = Scale::of(s, block);
    *absmax = scale.absmax;
    if scale.absmax.is_nan() {
        codes.fill(0);
        return;
    }
    let mut scaled = [0.0; 32];
    for (from, codes) in block.as_chunks::<32>().0.iter().zip(codes.chunks_mut(32)) {
        let from = from.as_chunks::<16>().0;
        let inverse = s.splat(scale.inverse);
        let (low, high) = (s.mul(s.load_f32(&from[0]), inverse), s.mul(s.load_f32(&from[1]), inverse));
        s.store_f32(&mut scaled, low, high, false);
        for (code, x) in codes.iter_mut().zip(&scaled) {
            *code = map.nearest(*x);
        }
    }
}

struct Dequantize<'a> {
    map: &'a DynamicMap,
    offset: f32,
    codes: &'a [u8],
    absmax: &'a [f32],
    y: FloatsMut<'a>,
}

impl Body for Dequantize<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        for (at, (codes, absmax)) in self.codes.chunks(BLOCK).zip(self.absmax).enumerate() {
            let mut block = [0.0; BLOCK];
            decode(s, self.map, codes, *absmax, &mut block);
            if self.offset != 0.0 {
                for y in &mut block {
                    *y += self.offset;
                }
            }
            self.y.write(s, at * BLOCK, &block);
        }
    }
}

/// The values of a block, as many as there are codes; what is behind them stays.
#[inline(always)]
pub(crate) fn decode<S: Simd>(s: S, map: &DynamicMap, codes: &[u8], absmax: f32, block: &mut [f32; BLOCK]) {
    for (codes, block) in codes.chunks(32).zip(block.as_chunks_mut::<32>().0) {
        let mut values = [0.0; 32];
        for (value, code) in values.iter_mut().zip(codes) {
            *value = map.values()[usize::from(*code)];
        }
        let values = values.as_chunks::<16>().0;
        let absmax = s.splat(absmax);
        let (low, high) = (s.mul(s.load_f32(&values[0]), absmax), s.mul(s.load_f32(&values[1]), absmax));
        s.store_f32(block, low, high, false);
    }
}
