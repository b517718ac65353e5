//! The specification: each op as plain loops, one element at a time.
//!
//! Slow on purpose. It must never share more with the vector bodies than the maps and levels themselves. Slices must have the
//! lengths that the ops' own functions ask for; here a wrong length panics.

use super::{BLOCK, DynamicMap, LEAST_SCALE, nf4};
use crate::Element;

/// The number of borders below `x`; of a sorted list of values that is the nearest one's index, the lower of two.
pub fn nearest(borders: &[f32], x: f32) -> u8 {
    borders.iter().filter(|border| **border < x).count() as u8
}

/// The largest magnitude, and what to multiply by; `None` where an element is not finite.
pub fn scale(block: &[f32]) -> Option<(f32, f32)> {
    if block.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let absmax = block.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    Some((absmax, 1.0 / absmax.max(LEAST_SCALE)))
}

/// Codes and scales of the blocks of `x - offset`.
pub fn quantize<T: Element>(map: &DynamicMap, offset: f32, x: &[T], codes: &mut [u8], absmax: &mut [f32]) {
    for ((x, codes), absmax) in x.chunks(BLOCK).zip(codes.chunks_mut(BLOCK)).zip(absmax) {
        let x: Vec<f32> = x.iter().map(|x| x.to_f32() - offset).collect();
        let Some((scale, inverse)) = scale(&x) else {
            *absmax = f32::NAN;
            codes.fill(0);
            continue;
        };
        *absmax = scale;
        for (x, code) in x.iter().zip(codes) {
            *code = nearest(&map.borders()[..255], x * inverse);
        }
    }
}

/// value(code) absmax, and `offset` on top where it is not zero.
pub fn dequantize<T: Element>(map: &DynamicMap, offset: f32, codes: &[u8], absmax: &[f32], y: &mut [T]) {
    for ((codes, y), absmax) in codes.chunks(BLOCK).zip(y.chunks_mut(BLOCK)).zip(absmax) {
        for (code, y) in codes.iter().zip(y) {
            let value = map.values()[usize::from(*code)] * absmax;
            *y = T::from_f32(if offset == 0.0 { value } else { value + offset });
        }
    }
}

/// NF4 codes, two a byte, and the scales of the blocks.
pub fn quantize_nf4<T: Element>(x: &[T], packed: &mut [u8], absmax: &mut [f32]) {
    let levels = nf4::levels();
    let borders: Vec<f32> = levels.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
    for ((x, packed), absmax) in x.chunks(nf4::BLOCK).zip(packed.chunks_mut(nf4::BLOCK / 2)).zip(absmax) {
        let x: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
        let Some((scale, inverse)) = scale(&x) else {
            *absmax = f32::NAN;
            packed.fill(0);
            continue;
        };
        *absmax = scale;
        for (pair, byte) in x.chunks(2).zip(packed) {
            let code = |x: f32| nearest(&borders, x * inverse);
            *byte = code(pair[0]) << 4 | code(*pair.get(1).unwrap_or(&0.0));
        }
    }
}

/// level(code) absmax.
pub fn dequantize_nf4<T: Element>(packed: &[u8], absmax: &[f32], y: &mut [T]) {
    for (i, y) in y.iter_mut().enumerate() {
        let byte = packed[i / 2];
        let code = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
        *y = T::from_f32(nf4::levels()[usize::from(code)] * absmax[i / nf4::BLOCK]);
    }
}
