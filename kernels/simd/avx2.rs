//! [`Simd`] on AVX2 with FMA and F16C: two registers per sixteen lanes.
//!
//! Codes are woven by table, not by `pdep`, which is microcoded on the AVX2 machines of AMD before Zen 3.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Body, Simd, weave_by_table};
use crate::Isa;

/// A value proves that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

pub(crate) fn launch<B: Body>(body: B) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn run<B: Body>(body: B) {
        body.run(Avx2(()));
    }
    assert!(Isa::Avx2.is_available(), "launched without the check of `Exec::for_each`");
    // SAFETY: the CPU has these features, as just checked.
    unsafe { run(body) }
}

type F = [__m256; 2];
type I = [__m256i; 2];

/// Methods that do one intrinsic on both halves.
macro_rules! halves {
    ($(fn $name:ident $(<const $c:ident: $ct:ty>)? ($($arg:ident: $ty:ty),*) -> $ret:ty = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name $(<const $c: $ct>)? (self, $($arg: [$ty; 2]),*) -> [$ret; 2] {
            // Written out twice: a closure would be a function without the instruction set.
            let low = {
                $(let $arg: $ty = $arg[0];)*
                // SAFETY: `self` proves that the CPU has the instructions.
                unsafe { $body }
            };
            let high = {
                $(let $arg: $ty = $arg[1];)*
                // SAFETY: as above.
                unsafe { $body }
            };
            [low, high]
        }
    )*};
}

/// Other methods whose body is one expression of intrinsics.
macro_rules! ops {
    ($(fn $name:ident $(<const $c:ident: $ct:ty>)? ($($arg:ident: $ty:ty),*) -> $ret:ty = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name $(<const $c: $ct>)? (self, $($arg: $ty),*) -> $ret {
            // SAFETY: `self` proves that the CPU has the instructions; any pointer is a reference to an array of the
            // size that is read.
            unsafe { $body }
        }
    )*};
}

/// For each lane the two bytes of a 64-bit word that hold its B bits, and the shift within them.
const fn windows<const B: usize>() -> ([u8; 64], [u32; 16]) {
    let mut bytes = [0x80; 64];
    let mut shifts = [0; 16];
    let mut lane = 0;
    while lane < 16 {
        let bit = lane * B;
        bytes[4 * lane] = (bit / 8) as u8;
        if bit / 8 < 7 {
            bytes[4 * lane + 1] = (bit / 8 + 1) as u8;
        }
        shifts[lane] = (bit % 8) as u32;
        lane += 1;
    }
    (bytes, shifts)
}

impl Avx2 {
    /// Lane i gets bits B i .. of `codes` (16 B bits, B <= 4) in its low bits; what is above them is unspecified.
    #[inline(always)]
    fn spread_codes<const B: usize>(self, codes: u64) -> I {
        let (bytes, shifts) = const { &windows::<B>() };
        // SAFETY: `self` proves that the CPU has the instructions; the loads stay in the arrays.
        unsafe {
            let codes = _mm256_set1_epi64x(codes as i64);
            let low = _mm256_shuffle_epi8(codes, _mm256_loadu_si256(bytes.as_ptr().cast()));
            let high = _mm256_shuffle_epi8(codes, _mm256_loadu_si256(bytes.as_ptr().add(32).cast()));
            [
                _mm256_srlv_epi32(low, _mm256_loadu_si256(shifts.as_ptr().cast())),
                _mm256_srlv_epi32(high, _mm256_loadu_si256(shifts.as_ptr().add(8).cast())),
            ]
        }
    }

    /// The low 16 bits of the lanes, in order; they must be all that is set.
    #[inline(always)]
    fn narrow(self, a: I) -> __m256i {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(a[0], a[1])) }
    }

    #[inline(always)]
    fn round_to_bf16(self, a: __m256) -> __m256i {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            let bits = _mm256_castps_si256(a);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(a, a));
            _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
        }
    }

    #[inline(always)]
    fn pair_half(self, low: __m256, high: __m256) -> __m256i {
        let (low, high) = (self.round_to_bf16(low), self.round_to_bf16(high));
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { _mm256_or_si256(low, _mm256_slli_epi32::<16>(high)) }
    }

    /// # Safety
    /// `to` is writable for 32 bytes, and aligned to 32 when streamed.
    #[inline(always)]
    unsafe fn store_half_line(self, to: *mut __m256i, value: __m256i, stream: bool) {
        // SAFETY: `self` proves that the CPU has the instructions; the rest is the caller's promise.
        unsafe {
            if stream {
                _mm256_stream_si256(to, value);
            } else {
                _mm256_storeu_si256(to, value);
            }
        }
    }
}

impl Simd for Avx2 {
    type F = F;
    type I = I;
    /// All bits of a true lane are set.
    type M = F;
    const TILE: usize = 1;

    halves! {
        fn add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        fn sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        fn mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        fn div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        fn sqrt(a: __m256) -> __m256 = _mm256_sqrt_ps(a);
        fn fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        fn fnma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fnmadd_ps(a, b, c);
        fn min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
        fn max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        fn neg(a: __m256) -> __m256 = _mm256_xor_ps(a, _mm256_set1_ps(-0.0));
        fn abs(a: __m256) -> __m256 = _mm256_andnot_ps(_mm256_set1_ps(-0.0), a);
        fn dot_bf16(sum: __m256, a: __m256i, b: __m256i) -> __m256 = {
            let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            let high_a = _mm256_castsi256_ps(_mm256_and_si256(a, upper));
            let high_b = _mm256_castsi256_ps(_mm256_and_si256(b, upper));
            let low_a = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(a));
            let low_b = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b));
            _mm256_fmadd_ps(low_a, low_b, _mm256_fmadd_ps(high_a, high_b, sum))
        };
        fn round(a: __m256) -> __m256 = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        fn scale(p: __m256, n: __m256) -> __m256 = {
            // Two factors: the first product stays normal, so only the second rounds.
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let bias = _mm256_set1_epi32(127);
            let first = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
            let second = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias));
            _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second))
        };
        fn ge(a: __m256, b: __m256) -> __m256 = _mm256_cmp_ps::<_CMP_GE_OQ>(a, b);
        fn select(m: __m256, a: __m256, b: __m256) -> __m256 = _mm256_blendv_ps(b, a, m);
        fn add_i(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
        fn mul_i(a: __m256i, b: __m256i) -> __m256i = _mm256_mullo_epi32(a, b);
        fn xor_i(a: __m256i, b: __m256i) -> __m256i = _mm256_xor_si256(a, b);
        fn to_f32(a: __m256i) -> __m256 = _mm256_cvtepi32_ps(a);
        fn truncate(a: __m256) -> __m256i = _mm256_cvttps_epi32(a);
        fn as_f(a: __m256i) -> __m256 = _mm256_castsi256_ps(a);
        fn as_i(a: __m256) -> __m256i = _mm256_castps_si256(a);
        fn round_f16(a: __m256) -> __m256 = _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a));
    }

    ops! {
        fn splat(value: f32) -> F = [_mm256_set1_ps(value); 2];
        fn bits(m: F) -> u32 = (_mm256_movemask_ps(m[0]) | _mm256_movemask_ps(m[1]) << 8) as u32;
        fn reduce_min(a: F) -> f32 = {
            let m = _mm256_min_ps(a[0], a[1]);
            let m = _mm_min_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps::<1>(m));
            let m = _mm_min_ps(m, _mm_movehl_ps(m, m));
            _mm_cvtss_f32(_mm_min_ss(m, _mm_movehdup_ps(m)))
        };
        fn reduce_max(a: F) -> f32 = {
            let m = _mm256_max_ps(a[0], a[1]);
            let m = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps::<1>(m));
            let m = _mm_max_ps(m, _mm_movehl_ps(m, m));
            _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)))
        };
        fn splat_i(value: u32) -> I = [_mm256_set1_epi32(value as i32); 2];
        fn load_i(from: &[u32; 16]) -> I = [
            _mm256_loadu_si256(from.as_ptr().cast()),
            _mm256_loadu_si256(from.as_ptr().add(8).cast()),
        ];
        fn load_pairs(from: &[bf16; 32]) -> I = [
            _mm256_loadu_si256(from.as_ptr().cast()),
            _mm256_loadu_si256(from.as_ptr().add(16).cast()),
        ];
        fn store_i(to: &mut [u32; 16], a: I) -> () = {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), a[0]);
            _mm256_storeu_si256(to.as_mut_ptr().add(8).cast(), a[1]);
        };
        fn iota() -> I = [
            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
            _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15),
        ];
        fn load_f32(from: &[f32; 16]) -> F = [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))];
        fn load_bf16(from: &[bf16; 16]) -> F = {
            let halves = _mm256_loadu_si256(from.as_ptr().cast());
            let low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(halves));
            let high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<1>(halves));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
        };
        fn load_f16(from: &[f16; 16]) -> F = [
            _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().add(8).cast())),
        ];
        fn fence() -> () = _mm_sfence();
    }

    #[inline(always)]
    fn lookup<const B: usize>(self, table: &[f32; 16], codes: u64) -> F {
        let index = self.spread_codes::<B>(codes);
        // SAFETY: `self` proves that the CPU has the instructions; the loads stay in the array.
        unsafe {
            // The permutation ignores the index's bits above the low three; bit 3 picks the half of the table.
            let low = _mm256_loadu_ps(table.as_ptr());
            let level = [_mm256_permutevar8x32_ps(low, index[0]), _mm256_permutevar8x32_ps(low, index[1])];
            if B < 4 {
                return level;
            }
            let high = _mm256_loadu_ps(table.as_ptr().add(8));
            let bit_3 = [_mm256_slli_epi32::<28>(index[0]), _mm256_slli_epi32::<28>(index[1])];
            let upper = [_mm256_permutevar8x32_ps(high, index[0]), _mm256_permutevar8x32_ps(high, index[1])];
            [
                _mm256_blendv_ps(level[0], upper[0], _mm256_castsi256_ps(bit_3[0])),
                _mm256_blendv_ps(level[1], upper[1], _mm256_castsi256_ps(bit_3[1])),
            ]
        }
    }

    #[inline(always)]
    fn round_bf16(self, a: F) -> F {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(Avx2::round_to_bf16(self, a[0]))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(Avx2::round_to_bf16(self, a[1]))),
            ]
        }
    }

    #[inline(always)]
    fn pair_bf16(self, low: F, high: F) -> I {
        [self.pair_half(low[0], high[0]), self.pair_half(low[1], high[1])]
    }

    #[inline(always)]
    fn row_bf16(self, low: F, high: F) -> I {
        let low = self.narrow([self.round_to_bf16(low[0]), self.round_to_bf16(low[1])]);
        let high = self.narrow([self.round_to_bf16(high[0]), self.round_to_bf16(high[1])]);
        [low, high]
    }

    #[inline(always)]
    fn shr_i<const BY: u32>(self, a: I) -> I {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            let by = _mm_cvtsi32_si128(BY as i32);
            [_mm256_srl_epi32(a[0], by), _mm256_srl_epi32(a[1], by)]
        }
    }

    #[inline(always)]
    fn pack<const B: usize>(self, a: I) -> [u32; 4] {
        let mut words = [0u32; 4];
        // SAFETY: `self` proves that the CPU has the instructions; the store writes a whole array.
        unsafe {
            let shorts = self.narrow(a);
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(shorts), _mm256_extracti128_si256::<1>(shorts));
            if B == 8 {
                _mm_storeu_si128(words.as_mut_ptr().cast(), bytes);
            } else if B == 4 {
                let pairs = _mm_maddubs_epi16(bytes, _mm_set1_epi16(0x1001));
                let packed = _mm_cvtsi128_si64(_mm_packus_epi16(pairs, pairs)) as u64;
                words[0] = packed as u32;
                words[1] = (packed >> 32) as u32;
            } else {
                let pairs = _mm_maddubs_epi16(bytes, _mm_set1_epi16(0x0401));
                let fours = _mm_madd_epi16(pairs, _mm_set1_epi32(0x0010_0001));
                let shorts = _mm_packus_epi32(fours, fours);
                words[0] = _mm_cvtsi128_si32(_mm_packus_epi16(shorts, shorts)) as u32;
            }
        }
        words
    }

    #[inline(always)]
    fn unpack<const B: usize>(self, words: [u32; 4]) -> I {
        // SAFETY: `self` proves that the CPU has the instructions; the load reads a whole array.
        unsafe {
            if B == 8 {
                let bytes = _mm_loadu_si128(words.as_ptr().cast());
                return [_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes))];
            }
            let codes = u64::from(words[0]) | u64::from(words[1]) << 32;
            let spread = if B == 4 { self.spread_codes::<4>(codes) } else { self.spread_codes::<2>(codes) };
            let mask = _mm256_set1_epi32((1 << B) - 1);
            [_mm256_and_si256(spread[0], mask), _mm256_and_si256(spread[1], mask)]
        }
    }

    #[inline(always)]
    fn weave<const B: usize>(self, planes: [u64; B]) -> [u64; B] {
        weave_by_table(planes)
    }

    #[inline(always)]
    fn store_f32(self, to: &mut [f32; 32], low: F, high: F, stream: bool) {
        for (i, value) in [low[0], low[1], high[0], high[1]].into_iter().enumerate() {
            // SAFETY: four times eight lanes fill `to`; a streamed `to` is aligned (the contract of `store_f32`).
            unsafe { self.store_half_line(to.as_mut_ptr().add(8 * i).cast(), _mm256_castps_si256(value), stream) }
        }
    }

    #[inline(always)]
    fn store_bf16(self, to: &mut [bf16; 32], low: F, high: F, stream: bool) {
        for (i, value) in [low, high].into_iter().enumerate() {
            let rounded = self.narrow([self.round_to_bf16(value[0]), self.round_to_bf16(value[1])]);
            // SAFETY: twice sixteen elements fill `to`; a streamed `to` is aligned (the contract of `store_bf16`).
            unsafe { self.store_half_line(to.as_mut_ptr().add(16 * i).cast(), rounded, stream) }
        }
    }

    #[inline(always)]
    fn store_f16(self, to: &mut [f16; 32], low: F, high: F, stream: bool) {
        for (i, value) in [low, high].into_iter().enumerate() {
            // SAFETY: `self` proves that the CPU has the instructions; the rest as for `store_bf16`.
            unsafe {
                let a = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value[0]);
                let b = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value[1]);
                self.store_half_line(to.as_mut_ptr().add(16 * i).cast(), _mm256_set_m128i(b, a), stream);
            }
        }
    }
}
