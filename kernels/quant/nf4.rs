//! NF4: sixteen levels at the quantiles of the normal distribution, in blocks of 64 elements with one scale each.
//!
//! Layout: element 2 i is the high nibble of byte i, element 2 i + 1 the low one; where n is odd the last low nibble is the
//! code of 0. One f32 scale per block, or with double quantisation ([`quantize_absmax`]) one byte per block and one f32 per 256
//! blocks beside a single offset: 0.516 bytes per element. As bitsandbytes has it.
//! Bytes: `dequantize` reads n/2 + n/16 and writes n e (e bytes per element).
//! Precision: f32, one multiplication, rounded once at the store; every instruction set gives the reference's bits.
//!
//! The ladder:
//! 1. reference: counts borders.
//! 2. sixteen lanes: codes by binary search with selects, woven from bit planes as Delhi's are, then the nibbles of each byte
//!    swapped; levels by one permutation. A block of 64 is 256 bits of codes: nothing is done element by element.

use std::sync::LazyLock;

use super::{CHUNK, DynamicMap, Float, Floats, FloatsMut, Scale, blockwise, dynamic::linspace};
use crate::{
    Element, Exec, KernelError,
    delhi::code::code_bits,
    error::length,
    simd::{Body, Simd},
};

/// Elements per block.
pub const BLOCK: usize = 64;

/// Blocks that n elements make: the size of `absmax`.
pub fn blocks(elements: usize) -> usize {
    elements.div_ceil(BLOCK)
}

/// Bytes that the codes of n elements take.
pub fn packed_bytes(elements: usize) -> usize {
    elements.div_ceil(2)
}

/// The levels of the codes 0 to 15, ascending, from -1 to 1. Made once per process.
///
/// Seven quantiles below zero and eight above, at evenly spaced probabilities from 0.9677083 to 1/2 (1/2 itself being the
/// zero), over the largest. The outermost is the middle between 1 - 1/32 and 1 - 1/30. Dettmers et al. 2023, section 3.
pub fn levels() -> &'static [f32; 16] {
    static LEVELS: LazyLock<[f32; 16]> = LazyLock::new(|| {
        const OUTERMOST: f32 = 0.967_708_3;
        let below = (0..7).map(|i| -normal_quantile(linspace(OUTERMOST, 0.5, 8, i)));
        let above = (0..8).map(|i| normal_quantile(linspace(OUTERMOST, 0.5, 9, 7 - i)));
        let mut levels = [0.0; 16];
        for (level, value) in levels.iter_mut().zip(below.chain([0.0]).chain(above)) {
            *level = value as f32;
        }
        let most = levels[15];
        levels.map(|level| level / most)
    });
    &LEVELS
}

/// x with Phi(x) = p, for 1/2 <= p < 0.99: Newton's steps on the series Phi(x) - 1/2 = phi(x) (x + x^3/3 + x^5/(3 5) + ..).
fn normal_quantile(p: f32) -> f64 {
    let mut x = 0.0f64;
    for _ in 0..20 {
        let density = (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
        let (mut term, mut sum, mut odd) = (x, 0.0, 1.0);
        while term > 1e-20 {
            sum += term;
            odd += 2.0;
            term *= x * x / odd;
        }
        x += (f64::from(p) - 0.5) / density - sum;
    }
    x
}

/// Codes and scales of x. x: \[n\]; packed: \[[`packed_bytes`]\(n)\]; absmax: \[[`blocks`]\(n)\].
///
/// # Errors
/// Where the lengths differ, or the CPU lacks `exec.isa`. Then nothing was written.
///
/// ```
/// use unswag_kernels::{Exec, quant::nf4};
/// let (x, mut packed, mut absmax, mut y) = ([-2.0f32, 0.0, 2.0], [0; 2], [0.0], [1.0f32; 3]);
/// nf4::quantize(Exec::new(1), &x, &mut packed, &mut absmax)?;
/// assert_eq!((packed, absmax), ([0x07, 0xf7], [2.0]));
/// nf4::dequantize(Exec::new(1), &packed, &absmax, &mut y)?;
/// assert_eq!(y, x);
/// # Ok::<(), unswag_kernels::KernelError>(())
/// ```
pub fn quantize<T: Float>(exec: Exec, x: &[T], packed: &mut [u8], absmax: &mut [f32]) -> Result<(), KernelError> {
    const OP: &str = "quant.nf4.quantize";
    length(OP, "packed", packed_bytes(x.len()), packed.len())?;
    length(OP, "absmax", blocks(x.len()), absmax.len())?;
    let mut borders = [f32::INFINITY; 16];
    for (border, pair) in borders.iter_mut().zip(levels().windows(2)) {
        // A tie is the lower level's, and the search asks for "at or above": so the next number up.
        *border = ((pair[0] + pair[1]) / 2.0).next_up();
    }
    let (borders, chunks) = (&borders, x.len().div_ceil(CHUNK));
    let work = T::floats(x).chunks(CHUNK).zip(packed.chunks_mut(CHUNK / 2)).zip(absmax.chunks_mut(CHUNK / BLOCK));
    exec.for_each(chunks, work, |((x, packed), absmax)| {
        f32::launch(exec.isa, Quantize { borders, x, packed, absmax });
    })
}

/// y = level(code) absmax. Sizes as in [`quantize`]; a part that starts at a multiple of 64 elements can be had alone.
///
/// # Errors
/// As [`quantize`].
pub fn dequantize<T: Float>(exec: Exec, packed: &[u8], absmax: &[f32], y: &mut [T]) -> Result<(), KernelError> {
    const OP: &str = "quant.nf4.dequantize";
    length(OP, "packed", packed_bytes(y.len()), packed.len())?;
    length(OP, "absmax", blocks(y.len()), absmax.len())?;
    let (levels, chunks) = (levels(), y.len().div_ceil(CHUNK));
    let work = T::floats_mut(y).chunks(CHUNK).zip(packed.chunks(CHUNK / 2)).zip(absmax.chunks(CHUNK / BLOCK));
    exec.for_each(chunks, work, |((y, packed), absmax)| {
        half::bf16::launch(exec.isa, Dequantize { levels, packed, absmax, y });
    })
}

/// Scales as [`quantize_absmax`] leaves them. codes: \[[`blocks`]\(n)\]; nested: \[[`blockwise::blocks`] of that\].
#[derive(Clone, Copy, Debug)]
pub struct DoubleAbsmax<'a> {
    pub codes: &'a [u8],
    pub nested: &'a [f32],
    pub offset: f32,
}

/// What [`dequantize_absmax`] and then [`dequantize`] give, without all scales in f32 ever being there: a task's own 256 are one
/// block of the 8-bit codes.
///
/// # Errors
/// As [`quantize`].
pub fn dequantize_double<T: Float>(
    exec: Exec,
    packed: &[u8],
    absmax: DoubleAbsmax<'_>,
    y: &mut [T],
) -> Result<(), KernelError> {
    const OP: &str = "quant.nf4.dequantize_double";
    const { assert!(CHUNK / BLOCK == super::BLOCK) };
    length(OP, "packed", packed_bytes(y.len()), packed.len())?;
    length(OP, "codes", blocks(y.len()), absmax.codes.len())?;
    length(OP, "nested", blockwise::blocks(absmax.codes.len()), absmax.nested.len())?;
    let (levels, chunks) = (levels(), y.len().div_ceil(CHUNK));
    let scales = absmax.codes.chunks(super::BLOCK).zip(absmax.nested);
    let work = T::floats_mut(y).chunks(CHUNK).zip(packed.chunks(CHUNK / 2)).zip(scales);
    exec.for_each(chunks, work, |((y, packed), (codes, nested))| {
        let absmax = DoubleAbsmax { codes, nested: std::slice::from_ref(nested), offset: absmax.offset };
        half::bf16::launch(exec.isa, DequantizeDouble { levels, packed, absmax, y });
    })
}

/// Double quantisation: the scales less their mean as 8-bit codes of the signed map, in blocks of [`super::BLOCK`]. absmax: \[b\];
/// codes: \[b\]; nested: \[[`blockwise::blocks`]\(b)\]. Returns the mean, which [`dequantize_absmax`] needs.
///
/// # Errors
/// As [`quantize`].
pub fn quantize_absmax(exec: Exec, absmax: &[f32], codes: &mut [u8], nested: &mut [f32]) -> Result<f32, KernelError> {
    let sum: f64 = absmax.iter().map(|scale| f64::from(*scale)).sum();
    let offset = (sum / absmax.len().max(1) as f64) as f32;
    let (map, x) = (DynamicMap::signed(), Floats::F32(absmax));
    blockwise::quantize_less("quant.nf4.quantize_absmax", exec, map, offset, x, codes, nested)?;
    Ok(offset)
}

/// absmax = value(code) nested + offset. Sizes as in [`quantize_absmax`].
///
/// # Errors
/// As [`quantize`].
pub fn dequantize_absmax(
    exec: Exec,
    codes: &[u8],
    nested: &[f32],
    offset: f32,
    absmax: &mut [f32],
) -> Result<(), KernelError> {
    let (map, y) = (DynamicMap::signed(), FloatsMut::F32(absmax));
    blockwise::dequantize_plus("quant.nf4.dequantize_absmax", exec, map, offset, codes, nested, y)
}

struct Quantize<'a> {
    borders: &'a [f32; 16],
    x: Floats<'a>,
    packed: &'a mut [u8],
    absmax: &'a mut [f32],
}

impl Body for Quantize<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut borders = [s.splat(0.0); 16];
        for (lanes, border) in borders.iter_mut().zip(self.borders) {
            *lanes = s.splat(*border);
        }
        for (at, (packed, absmax)) in self.packed.chunks_mut(BLOCK / 2).zip(self.absmax).enumerate() {
            let mut block = [0.0; BLOCK];
            self.x.read(s, at * BLOCK, &mut block);
            let scale = Scale::of(s, &block);
            *absmax = scale.absmax;
            if scale.absmax.is_nan() {
                packed.fill(0);
                continue;
            }
            let inverse = s.splat(scale.inverse);
            let mut planes = [0u64; 4];
            for (sixteen, lanes) in block.as_chunks::<16>().0.iter().enumerate() {
                let bits = code_bits::<S, 4>(s, &borders, s.mul(s.load_f32(lanes), inverse));
                for (plane, bits) in planes.iter_mut().zip(bits) {
                    *plane |= u64::from(bits) << (16 * sixteen);
                }
            }
            let mut bytes = [0u8; BLOCK / 2];
            for (bytes, codes) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(s.weave(planes)) {
                *bytes = swap_nibbles(codes).to_le_bytes();
            }
            packed.copy_from_slice(&bytes[..packed.len()]);
        }
    }
}

#[inline(always)]
fn swap_nibbles(bytes: u64) -> u64 {
    const LOW: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    (bytes & LOW) << 4 | bytes >> 4 & LOW
}

struct Dequantize<'a> {
    levels: &'a [f32; 16],
    packed: &'a [u8],
    absmax: &'a [f32],
    y: FloatsMut<'a>,
}

impl Body for Dequantize<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        for (at, (packed, absmax)) in self.packed.chunks(BLOCK / 2).zip(self.absmax).enumerate() {
            let mut bytes = [0u8; BLOCK / 2];
            bytes[..packed.len()].copy_from_slice(packed);
            let absmax = s.splat(*absmax);
            let mut block = [0.0; BLOCK];
            let pairs = bytes.as_chunks::<16>().0.iter().zip(block.as_chunks_mut::<32>().0);
            for (bytes, values) in pairs {
                let [low, high] = *bytes.as_chunks::<8>().0 else { unreachable!("sixteen bytes are two times eight") };
                let low = s.lookup::<4>(self.levels, swap_nibbles(u64::from_le_bytes(low)));
                let high = s.lookup::<4>(self.levels, swap_nibbles(u64::from_le_bytes(high)));
                s.store_f32(values, s.mul(low, absmax), s.mul(high, absmax), false);
            }
            self.y.write(s, at * BLOCK, &block);
        }
    }
}

/// One chunk, whose scales are one block.
struct DequantizeDouble<'a> {
    levels: &'a [f32; 16],
    packed: &'a [u8],
    absmax: DoubleAbsmax<'a>,
    y: FloatsMut<'a>,
}

impl Body for DequantizeDouble<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut absmax = [0.0; super::BLOCK];
        let DoubleAbsmax { codes, nested, offset } = self.absmax;
        blockwise::decode(s, DynamicMap::signed(), codes, nested[0], &mut absmax);
        if offset != 0.0 {
            for scale in &mut absmax {
                *scale += offset;
            }
        }
        let absmax = &absmax[..codes.len()];
        Dequantize { levels: self.levels, packed: self.packed, absmax, y: self.y }.run(s);
    }
}
