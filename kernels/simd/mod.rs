//! Sixteen f32 lanes, on any CPU: what a kernel body is written in.
//!
//! A body is generic over [`Simd`] and is compiled once per instruction set; [`launch`] picks the copy. A value of an
//! instruction set's type is the proof that the CPU has it, so the methods are safe to call. Each does one IEEE operation per
//! lane with one possible answer (NaN payloads aside), which is why all instruction sets give the same bits.
//!
//! Nothing here knows of an op. No method may use an approximate instruction (`rcp`, `rsqrt`, `exp2`).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod math;
mod portable;

use half::{bf16, f16};

use crate::Isa;

/// Sixteen lanes of f32 (`F`), of u32 (`I`) and of booleans (`M`).
pub trait Simd: Copy {
    type F: Copy;
    type I: Copy;
    type M: Copy;

    /// Vectors side by side in the tile of a product: 6 rows of them, their factors and one more stay in registers.
    const TILE: usize;

    fn splat(self, value: f32) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    fn sqrt(self, a: Self::F) -> Self::F;
    /// a b + c, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// c - a b, rounded once.
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a < b ? a : b`: a NaN in `b` comes through, one in `a` does not.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a > b ? a : b`.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    fn neg(self, a: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// p 2^n for integral |n| <= 150, 0.5 < p < 2, rounded once.
    fn scale(self, p: Self::F, n: Self::F) -> Self::F;
    /// a >= b, false where either is NaN.
    fn ge(self, a: Self::F, b: Self::F) -> Self::M;
    /// m ? a : b.
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// Lane i as bit i.
    fn bits(self, m: Self::M) -> u32;
    /// The least lane; lanes must not be NaN. Of -0 and 0 either may come.
    fn reduce_min(self, a: Self::F) -> f32;
    /// The greatest lane, likewise.
    fn reduce_max(self, a: Self::F) -> f32;

    fn splat_i(self, value: u32) -> Self::I;
    /// 0, 1, .. 15.
    fn iota(self) -> Self::I;
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// The low 32 bits of the product.
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn xor_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn shr_i<const BY: u32>(self, a: Self::I) -> Self::I;
    /// Lanes below 2^24, exactly.
    fn to_f32(self, a: Self::I) -> Self::F;
    /// Toward zero; lanes must be in [0, 2^24).
    fn truncate(self, a: Self::F) -> Self::I;

    /// The lanes' low B bits (B = 2, 4, 8; the rest must be zero), lane 0 lowest, in the first B/2 words.
    fn pack<const B: usize>(self, a: Self::I) -> [u32; 4];
    /// The inverse of `pack`.
    fn unpack<const B: usize>(self, words: [u32; 4]) -> Self::I;

    /// Weaves 64 codes from their bit planes: bit p of code i is bit i of `planes[p]`, and becomes bit B i + p of the
    /// stream.
    fn weave<const B: usize>(self, planes: [u64; B]) -> [u64; B];
    /// `table[code]` for the sixteen B-bit codes (B = 1..4) in the low 16 B bits of `codes`. A table of fewer than sixteen
    /// levels is repeated to sixteen.
    fn lookup<const B: usize>(self, table: &[f32; 16], codes: u64) -> Self::F;

    fn load_i(self, from: &[u32; 16]) -> Self::I;
    /// Lane i has element 2 i in its low half and the next in its high one.
    fn load_pairs(self, from: &[bf16; 32]) -> Self::I;
    fn store_i(self, to: &mut [u32; 16], a: Self::I);
    /// The same bits.
    fn as_f(self, a: Self::I) -> Self::F;
    fn as_i(self, a: Self::F) -> Self::I;
    /// Lane i has low i as bf16 in its low half and high i in its high one. Denormals may come as zeros.
    fn pair_bf16(self, low: Self::F, high: Self::F) -> Self::I;
    /// The 32 values as bf16, one after the other: low first. Denormals may come as zeros.
    #[inline(always)]
    fn row_bf16(self, low: Self::F, high: Self::F) -> Self::I {
        let mut halves = [bf16::ZERO; 32];
        self.store_bf16(&mut halves, low, high, false);
        let word = |pair: &[bf16; 2]| u32::from(pair[0].to_bits()) | u32::from(pair[1].to_bits()) << 16;
        let pairs = halves.as_chunks::<2>().0;
        self.load_i(&std::array::from_fn(|i| word(&pairs[i])))
    }
    /// Sum of products of the two bf16 in each lane: sum + high a high b + low a low b, in this order. Denormals may count as zeros.
    fn dot_bf16(self, sum: Self::F, a: Self::I, b: Self::I) -> Self::F;

    /// Lane i of value j becomes lane j of value i.
    #[inline(always)]
    fn transpose(self, rows: [Self::I; 16]) -> [Self::I; 16] {
        let mut words = [[0; 16]; 16];
        for (words, row) in words.iter_mut().zip(rows) {
            self.store_i(words, row);
        }
        let mut turned = [self.splat_i(0); 16];
        for (i, turned) in turned.iter_mut().enumerate() {
            let mut column = [0; 16];
            for (to, row) in column.iter_mut().zip(&words) {
                *to = row[i];
            }
            *turned = self.load_i(&column);
        }
        turned
    }

    fn load_f32(self, from: &[f32; 16]) -> Self::F;
    fn load_bf16(self, from: &[bf16; 16]) -> Self::F;
    fn load_f16(self, from: &[f16; 16]) -> Self::F;
    /// Stores 32 lanes. With `stream`, `to` must be aligned to 64 bytes, and the stores go around the caches.
    fn store_f32(self, to: &mut [f32; 32], low: Self::F, high: Self::F, stream: bool);
    fn store_bf16(self, to: &mut [bf16; 32], low: Self::F, high: Self::F, stream: bool);
    fn store_f16(self, to: &mut [f16; 32], low: Self::F, high: Self::F, stream: bool);
    /// The nearest bf16, as f32: what a store and a load would give.
    fn round_bf16(self, a: Self::F) -> Self::F;
    /// The nearest f16, as f32.
    fn round_f16(self, a: Self::F) -> Self::F;
    /// The sum of the lanes: lane i and lane i + 8 first, then i and i + 4, and so on.
    #[inline(always)]
    fn reduce_add(self, a: Self::F) -> f32 {
        let mut lanes = [0.0f32; 32];
        self.store_f32(&mut lanes, a, a, false);
        let mut eight = [0.0f32; 8];
        for i in 0..8 {
            eight[i] = lanes[i] + lanes[i + 8];
        }
        let four = [eight[0] + eight[4], eight[1] + eight[5], eight[2] + eight[6], eight[3] + eight[7]];
        (four[0] + four[2]) + (four[1] + four[3])
    }
    /// act(x).
    #[inline(always)]
    fn value<A: math::Function>(self, x: Self::F) -> Self::F {
        A::value(self, x)
    }
    /// act(x) and act'(x).
    #[inline(always)]
    fn with_derivative<A: math::Function>(self, x: Self::F) -> (Self::F, Self::F) {
        A::with_derivative(self, x)
    }

    /// Makes streamed stores visible to other threads: once at the end of a body that streamed.
    fn fence(self);
}

/// A kernel body: `run` must be `#[inline(always)]`, so that it is compiled with the instruction set of its caller.
pub trait Body {
    fn run<S: Simd>(self, s: S);
}

/// Runs `body` on `isa`.
///
/// # Panics
/// If the CPU lacks `isa`: callers have checked it (`Exec::for_each`).
pub(crate) fn launch<B: Body>(isa: Isa, body: B) {
    match isa {
        Isa::Portable => body.run(portable::Portable),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::launch(body),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::launch(body),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => avx512::launch_bf16(body),
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("an x86 instruction set on another CPU, past the check of its caller"),
    }
}

/// As [`launch`], for bodies that never store bf16: one copy serves both kinds of AVX-512.
pub(crate) fn launch_without_bf16<B: Body>(isa: Isa, body: B) {
    match isa {
        Isa::Portable => body.run(portable::Portable),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::launch(body),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => avx512::launch(body),
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("an x86 instruction set on another CPU, past the check of its caller"),
    }
}

/// For each byte of a bit plane, its bits spread to every B-th position: how CPUs without a fast `pdep` weave codes.
pub(crate) const fn spread_table<const B: usize>() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut bit = 0;
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                table[byte] |= 1 << (B * bit);
            }
            bit += 1;
        }
        byte += 1;
    }
    table
}

/// [`Simd::weave`] by table: eight codes at a time become B bytes.
#[inline(always)]
pub(crate) fn weave_by_table<const B: usize>(planes: [u64; B]) -> [u64; B] {
    let table = const { &spread_table::<B>() };
    let mut bytes = [[0u8; 8]; B];
    let flat = bytes.as_flattened_mut();
    for eight in 0..8 {
        let mut woven = 0;
        for (p, plane) in planes.iter().enumerate() {
            woven |= table[(plane >> (8 * eight)) as usize & 0xff] << p;
        }
        flat[B * eight..B * (eight + 1)].copy_from_slice(&woven.to_le_bytes()[..B]);
    }
    bytes.map(u64::from_le_bytes)
}

/// Whether `slice` starts on a cache line, as streamed stores need.
#[inline(always)]
pub(crate) fn is_aligned_for_stream<T>(slice: &[T]) -> bool {
    slice.as_ptr().addr().is_multiple_of(64)
}
