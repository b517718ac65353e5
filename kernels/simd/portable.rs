//! [`Simd`] in plain Rust: arrays of sixteen, left to the compiler's own vectoriser.
//!
//! What is more than a few instructions per lane is kept out of line: inlined into every op, element type and width it made
//! this the larger half of the crate's code and compile time, and a call per sixteen elements does not show in its speed.

use std::array::from_fn;

use half::{bf16, f16};

use super::{Simd, math::Function, weave_by_table};
use crate::Element;

#[derive(Clone, Copy)]
pub(crate) struct Portable;

type F = [f32; 16];
type I = [u32; 16];

#[inline(always)]
fn zip(a: F, b: F, f: impl Fn(f32, f32) -> f32) -> F {
    from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn zip_i(a: I, b: I, f: impl Fn(u32, u32) -> u32) -> I {
    from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn store<T: Element>(to: &mut [T; 32], low: F, high: F) {
    for (to, value) in to.iter_mut().zip(low.into_iter().chain(high)) {
        *to = T::from_f32(value);
    }
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    // Wraps for a NaN's n, where the product is NaN anyway.
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

impl Simd for Portable {
    type F = F;
    type I = I;
    type M = [bool; 16];
    const TILE: usize = 1;

    #[inline(always)]
    fn load_i(self, from: &[u32; 16]) -> I {
        *from
    }
    #[inline(always)]
    fn load_pairs(self, from: &[bf16; 32]) -> I {
        from_fn(|i| u32::from(from[2 * i].to_bits()) | u32::from(from[2 * i + 1].to_bits()) << 16)
    }
    #[inline(always)]
    fn store_i(self, to: &mut [u32; 16], a: I) {
        *to = a;
    }
    #[inline(always)]
    fn as_f(self, a: I) -> F {
        a.map(f32::from_bits)
    }
    #[inline(always)]
    fn as_i(self, a: F) -> I {
        a.map(f32::to_bits)
    }
    #[inline(never)]
    fn pair_bf16(self, low: F, high: F) -> I {
        let bits = |value| u32::from(bf16::from_f32(value).to_bits());
        from_fn(|i| bits(low[i]) | bits(high[i]) << 16)
    }
    #[inline(never)]
    fn dot_bf16(self, sum: F, a: I, b: I) -> F {
        let (high, low) = (|word| f32::from_bits(word & 0xffff_0000), |word| f32::from_bits(word << 16));
        from_fn(|i| low(a[i]).mul_add(low(b[i]), high(a[i]).mul_add(high(b[i]), sum[i])))
    }
    #[inline(always)]
    fn splat(self, value: f32) -> F {
        [value; 16]
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(never)]
    fn div(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(never)]
    fn sqrt(self, a: F) -> F {
        a.map(f32::sqrt)
    }
    #[inline(never)]
    fn fma(self, a: F, b: F, c: F) -> F {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(never)]
    fn fnma(self, a: F, b: F, c: F) -> F {
        from_fn(|i| (-a[i]).mul_add(b[i], c[i]))
    }
    #[inline(never)]
    fn min(self, a: F, b: F) -> F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(never)]
    fn max(self, a: F, b: F) -> F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn neg(self, a: F) -> F {
        a.map(|a| -a)
    }
    #[inline(always)]
    fn abs(self, a: F) -> F {
        a.map(f32::abs)
    }
    #[inline(never)]
    fn round(self, a: F) -> F {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn scale(self, p: F, n: F) -> F {
        zip(p, n, |p, n| {
            let n = n as i32;
            let half = n >> 1;
            p * power_of_two(half) * power_of_two(n - half)
        })
    }
    #[inline(never)]
    fn ge(self, a: F, b: F) -> [bool; 16] {
        from_fn(|i| a[i] >= b[i])
    }
    #[inline(never)]
    fn select(self, m: [bool; 16], a: F, b: F) -> F {
        from_fn(|i| if m[i] { a[i] } else { b[i] })
    }
    #[inline(never)]
    fn bits(self, m: [bool; 16]) -> u32 {
        (0..16).fold(0, |bits, i| bits | u32::from(m[i]) << i)
    }
    #[inline(never)]
    fn reduce_min(self, a: F) -> f32 {
        a.into_iter().fold(f32::INFINITY, |a, b| if a < b { a } else { b })
    }
    #[inline(never)]
    fn reduce_max(self, a: F) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn splat_i(self, value: u32) -> I {
        [value; 16]
    }
    #[inline(always)]
    fn iota(self) -> I {
        from_fn(|i| i as u32)
    }
    #[inline(always)]
    fn add_i(self, a: I, b: I) -> I {
        zip_i(a, b, u32::wrapping_add)
    }
    #[inline(never)]
    fn mul_i(self, a: I, b: I) -> I {
        zip_i(a, b, u32::wrapping_mul)
    }
    #[inline(always)]
    fn xor_i(self, a: I, b: I) -> I {
        zip_i(a, b, |a, b| a ^ b)
    }
    #[inline(always)]
    fn shr_i<const BY: u32>(self, a: I) -> I {
        a.map(|a| a >> BY)
    }
    #[inline(never)]
    fn to_f32(self, a: I) -> F {
        a.map(|a| a as f32)
    }
    #[inline(never)]
    fn truncate(self, a: F) -> I {
        a.map(|a| a as u32)
    }

    #[inline(never)]
    fn pack<const B: usize>(self, a: I) -> [u32; 4] {
        let mut words = [0; 4];
        for (i, code) in a.into_iter().enumerate() {
            words[i * B / 32] |= code << (i * B % 32);
        }
        words
    }
    #[inline(never)]
    fn unpack<const B: usize>(self, words: [u32; 4]) -> I {
        from_fn(|i| words[i * B / 32] >> (i * B % 32) & ((1 << B) - 1))
    }
    #[inline(never)]
    fn weave<const B: usize>(self, planes: [u64; B]) -> [u64; B] {
        weave_by_table(planes)
    }
    #[inline(never)]
    fn lookup<const B: usize>(self, table: &[f32; 16], codes: u64) -> F {
        from_fn(|i| table[(codes >> (B * i)) as usize & ((1 << B) - 1)])
    }

    #[inline(always)]
    fn load_f32(self, from: &[f32; 16]) -> F {
        *from
    }
    #[inline(never)]
    fn load_bf16(self, from: &[bf16; 16]) -> F {
        from.map(Element::to_f32)
    }
    #[inline(never)]
    fn load_f16(self, from: &[f16; 16]) -> F {
        from.map(f16::to_f32)
    }
    #[inline(never)]
    fn store_f32(self, to: &mut [f32; 32], low: F, high: F, _stream: bool) {
        store(to, low, high);
    }
    #[inline(never)]
    fn store_bf16(self, to: &mut [bf16; 32], low: F, high: F, _stream: bool) {
        store(to, low, high);
    }
    #[inline(never)]
    fn store_f16(self, to: &mut [f16; 32], low: F, high: F, _stream: bool) {
        store(to, low, high);
    }
    #[inline(never)]
    fn round_bf16(self, a: F) -> F {
        a.map(|a| Element::to_f32(<bf16 as Element>::from_f32(a)))
    }
    #[inline(never)]
    fn round_f16(self, a: F) -> F {
        a.map(|a| f16::to_f32(f16::from_f32(a)))
    }
    #[inline(never)]
    fn value<A: Function>(self, x: F) -> F {
        A::value(self, x)
    }
    #[inline(never)]
    fn with_derivative<A: Function>(self, x: F) -> (F, F) {
        A::with_derivative(self, x)
    }
    #[inline(always)]
    fn fence(self) {}
}
