//! Blocks to f32. Plain loops in the order of the format; every product and sum is rounded to f32 on its own, as the
//! reference does it (the Python package `gguf`), so the results are the same bits. NaN scales give NaN, whose sign and
//! payload are not part of that promise.
//!
//! Layouts: `ggml-common.h`. `d` is a block's scale, `m` its minimum; K-quants cut 256 elements into sub-blocks with
//! scales of 4 or 6 bits of their own.

use half::{bf16, f16};

use super::types::GgmlType;

/// Dequantises `blocks` into `out`, one f32 per element. `false` where the type is not supported or the lengths do not
/// fit each other; `out` is then untouched.
pub fn dequantize(dtype: GgmlType, blocks: &[u8], out: &mut [f32]) -> bool {
    if dtype.bytes_of(out.len() as u64) != Some(blocks.len() as u64) {
        return false;
    }
    match dtype {
        GgmlType::F32 => each(blocks, out, f32::from_le_bytes),
        GgmlType::F16 => each(blocks, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
        GgmlType::BF16 => each(blocks, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        GgmlType::F64 => each(blocks, out, |bytes| f64::from_le_bytes(bytes) as f32),
        GgmlType::I8 => each(blocks, out, |bytes| i8::from_le_bytes(bytes).into()),
        GgmlType::I16 => each(blocks, out, |bytes| i16::from_le_bytes(bytes).into()),
        GgmlType::I32 => each(blocks, out, |bytes| i32::from_le_bytes(bytes) as f32),
        GgmlType::I64 => each(blocks, out, |bytes| i64::from_le_bytes(bytes) as f32),
        GgmlType::Q4_0 => blockwise(blocks, out, q4_0),
        GgmlType::Q4_1 => blockwise(blocks, out, q4_1),
        GgmlType::Q5_0 => blockwise(blocks, out, q5_0),
        GgmlType::Q5_1 => blockwise(blocks, out, q5_1),
        GgmlType::Q8_0 => blockwise(blocks, out, q8_0),
        GgmlType::Q8_1 => blockwise(blocks, out, q8_1),
        GgmlType::Q2_K => blockwise(blocks, out, q2_k),
        GgmlType::Q3_K => blockwise(blocks, out, q3_k),
        GgmlType::Q4_K => blockwise(blocks, out, q4_k),
        GgmlType::Q5_K => blockwise(blocks, out, q5_k),
        GgmlType::Q6_K => blockwise(blocks, out, q6_k),
        GgmlType::Q8_K => blockwise(blocks, out, q8_k),
        GgmlType::IQ4_NL => blockwise(blocks, out, iq4_nl),
        GgmlType::IQ4_XS => blockwise(blocks, out, iq4_xs),
        _ => return false,
    }
    true
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], read: impl Fn([u8; N]) -> f32) {
    for (y, chunk) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *y = read(*chunk);
    }
}

/// Calls `read` for each block of `B` bytes and its `E` elements.
fn blockwise<const B: usize, const E: usize>(bytes: &[u8], out: &mut [f32], read: impl Fn(&[u8; B], &mut [f32; E])) {
    for (block, y) in bytes.as_chunks::<B>().0.iter().zip(out.as_chunks_mut::<E>().0) {
        read(block, y);
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// d: f16; 16 bytes, the low nibbles being elements 0..16 and the high ones 16..32. y = d*(q-8).
fn q4_0(block: &[u8; 18], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (i, &byte) in block[2..].iter().enumerate() {
        y[i] = d * f32::from((byte & 0xF) as i8 - 8);
        y[i + 16] = d * f32::from((byte >> 4) as i8 - 8);
    }
}

/// d, m: f16; nibbles as Q4_0. y = d*q + m.
fn q4_1(block: &[u8; 20], y: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (i, &byte) in block[4..].iter().enumerate() {
        y[i] = d * f32::from(byte & 0xF) + m;
        y[i + 16] = d * f32::from(byte >> 4) + m;
    }
}

/// The fifth bits of 32 elements (a little-endian word at `high_at`) over the nibbles at `low_at`.
fn five_bits(block: &[u8], high_at: usize, low_at: usize) -> [u8; 32] {
    std::array::from_fn(|i| {
        let nibble = if i < 16 { block[low_at + i] & 0xF } else { block[low_at + i - 16] >> 4 };
        nibble | (block[high_at + i / 8] >> (i % 8) & 1) << 4
    })
}

/// d: f16; 32 fifth bits; nibbles. y = d*(q-16).
fn q5_0(block: &[u8; 22], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (y, q) in y.iter_mut().zip(five_bits(block, 2, 6)) {
        *y = d * f32::from(q as i8 - 16);
    }
}

/// d, m: f16; 32 fifth bits; nibbles. y = d*q + m.
fn q5_1(block: &[u8; 24], y: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (y, q) in y.iter_mut().zip(five_bits(block, 4, 8)) {
        *y = d * f32::from(q) + m;
    }
}

/// d: f16; 32 i8. y = q*d.
fn q8_0(block: &[u8; 34], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (y, &q) in y.iter_mut().zip(&block[2..]) {
        *y = f32::from(q as i8) * d;
    }
}

/// d: f16; s: f16, d times the sum of q, which dequantising does not need; 32 i8. y = q*d.
fn q8_1(block: &[u8; 36], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (y, &q) in y.iter_mut().zip(&block[4..]) {
        *y = f32::from(q as i8) * d;
    }
}

/// Sixteen sub-blocks of 16: a byte with scale (low) and minimum (high); 2-bit quants; d, dmin: f16.
/// y = (d*scale)*q - (dmin*min).
fn q2_k(block: &[u8; 84], y: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for (sub, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[sub] & 0xF);
        let min = dmin * f32::from(block[sub] >> 4);
        for (i, y) in y.iter_mut().enumerate() {
            *y = scale * f32::from(two_bits(&block[16..80], sub * 16 + i)) - min;
        }
    }
}

/// Element `i` of 256 two-bit quants: each 128 elements lie in 32 bytes, 32 elements per bit pair.
fn two_bits(quants: &[u8], i: usize) -> u8 {
    quants[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

/// 256 inverted third bits; 2-bit quants; sixteen 6-bit scales; d: f16. y = (d*(scale-32))*(q-4).
fn q3_k(block: &[u8; 110], y: &mut [f32; 256]) {
    let (third_bits, quants, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    for (sub, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        // Low four bits in nibbles of the first eight bytes, high two in bit pairs of the last four.
        let low = scales[sub % 8] >> (sub / 8 * 4) & 0xF;
        let high = scales[8 + sub % 4] >> (sub / 4 * 2) & 3;
        let scale = d * f32::from((low | high << 4) as i8 - 32);
        for (i, y) in y.iter_mut().enumerate() {
            let i = sub * 16 + i;
            let third = third_bits[i % 32] >> (i / 32) & 1;
            *y = scale * f32::from(two_bits(quants, i) as i8 - if third == 0 { 4 } else { 0 });
        }
    }
}

/// Sub-block `sub`'s 6-bit scale and minimum among the 12 packed bytes that Q4_K and Q5_K share: the first four of each
/// in the low six bits of bytes 0..8, the others' low halves in bytes 8..12 and their top bits above the first ones'.
fn scale_and_min(packed: &[u8], sub: usize) -> (f32, f32) {
    let (scale, min) = if sub < 4 {
        (packed[sub] & 63, packed[sub + 4] & 63)
    } else {
        let low = packed[sub + 4];
        (low & 0xF | packed[sub - 4] >> 6 << 4, low >> 4 | packed[sub] >> 6 << 4)
    };
    (scale.into(), min.into())
}

/// d, dmin: f16; eight sub-blocks of 32 with 6-bit scale and minimum; nibbles. y = (d*scale)*q - (dmin*min).
fn q4_k(block: &[u8; 144], y: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (sub, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], sub);
        let (scale, min) = (d * scale, dmin * min);
        for (y, &byte) in y.iter_mut().zip(&block[16 + sub / 2 * 32..]) {
            *y = scale * f32::from(byte >> (sub % 2 * 4) & 0xF) - min;
        }
    }
}

/// As Q4_K, with 256 fifth bits: bit `sub` of byte `i` belongs to element `i` of sub-block `sub`.
fn q5_k(block: &[u8; 176], y: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (fifth_bits, nibbles) = (&block[16..48], &block[48..]);
    for (sub, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], sub);
        let (scale, min) = (d * scale, dmin * min);
        for (i, y) in y.iter_mut().enumerate() {
            let q = nibbles[sub / 2 * 32 + i] >> (sub % 2 * 4) & 0xF | (fifth_bits[i] >> sub & 1) << 4;
            *y = scale * f32::from(q) - min;
        }
    }
}

/// Nibbles, bit pairs above them, sixteen i8 scales, d: f16. y = (d*scale)*(q-32).
fn q6_k(block: &[u8; 210], y: &mut [f32; 256]) {
    let (nibbles, pairs, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (sub, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[sub] as i8);
        for (i, y) in y.iter_mut().enumerate() {
            let i = sub * 16 + i;
            // Each 128 elements lie in 64 bytes of nibbles, the low ones first.
            let low = nibbles[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 0xF;
            *y = scale * f32::from((low | two_bits(pairs, i) << 4) as i8 - 32);
        }
    }
}

/// d: f32; 256 i8; sums that dequantising does not need. y = d*q.
fn q8_k(block: &[u8; 292], y: &mut [f32; 256]) {
    let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    for (y, &q) in y.iter_mut().zip(&block[4..260]) {
        *y = d * f32::from(q as i8);
    }
}

/// The sixteen levels of the non-linear 4-bit types (ggml's `kvalues_iq4nl`).
const IQ4_LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

fn iq4_level(nibble: u8) -> f32 {
    IQ4_LEVELS[usize::from(nibble & 0xF)].into()
}

/// As Q4_0 with a level for each nibble. y = d*level.
fn iq4_nl(block: &[u8; 18], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (i, &byte) in block[2..].iter().enumerate() {
        y[i] = d * iq4_level(byte);
        y[i + 16] = d * iq4_level(byte >> 4);
    }
}

/// d: f16; the high bit pairs of eight 6-bit scales in a word, their low nibbles in four bytes; eight sub-blocks as
/// IQ4_NL. y = (d*(scale-32))*level.
fn iq4_xs(block: &[u8; 136], y: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (sub, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = block[4 + sub / 2] >> (sub % 2 * 4) & 0xF;
        let scale = d * f32::from((low | ((high >> (2 * sub)) as u8 & 3) << 4) as i8 - 32);
        for (i, &byte) in block[8 + sub * 16..][..16].iter().enumerate() {
            y[i] = scale * iq4_level(byte);
            y[i + 16] = scale * iq4_level(byte >> 4);
        }
    }
}
