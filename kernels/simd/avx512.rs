//! [`Simd`] on AVX-512: one register per sixteen lanes, masks in mask registers, codes woven by `pdep`.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Body, Simd};
use crate::Isa;

/// AVX-512 F, BW, DQ, VL and BMI2; with `BF16`, also AVX512_BF16. A value proves that the CPU has them.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>(());

pub(crate) fn launch<B: Body>(body: B) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi2")]
    fn run<B: Body>(body: B) {
        body.run(Avx512::<false>(()));
    }
    assert!(Isa::Avx512.is_available(), "launched without the check of `Exec::for_each`");
    // SAFETY: the CPU has these features, as just checked.
    unsafe { run(body) }
}

pub(crate) fn launch_bf16<B: Body>(body: B) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c,bmi2")]
    fn run<B: Body>(body: B) {
        body.run(Avx512::<true>(()));
    }
    assert!(Isa::Avx512Bf16.is_available(), "launched without the check of `Exec::for_each`");
    // SAFETY: the CPU has these features, as just checked.
    unsafe { run(body) }
}

/// Methods whose body is one expression of intrinsics.
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

/// The bits of stream word `word` that belong to bit plane `plane`.
const fn plane_mask(bits: usize, word: usize, plane: usize) -> u64 {
    let mut mask = 0;
    let mut t = 0;
    while t < 64 {
        if (64 * word + t) % bits == plane {
            mask |= 1 << t;
        }
        t += 1;
    }
    mask
}

/// For [`unpack_bytes`]: for each lane the two bytes that hold its B bits, and the shift within them.
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

impl<const BF16: bool> Avx512<BF16> {
    /// Lane i gets bits B i .. of `codes` (16 B bits, B <= 4) in its low bits; what is above them is unspecified.
    #[inline(always)]
    fn spread_codes<const B: usize>(self, codes: u64) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instructions; the loads read whole arrays.
        unsafe {
            if B <= 2 {
                let shifts = const {
                    let mut shifts = [0u32; 16];
                    let mut lane = 0;
                    while lane < 16 {
                        shifts[lane] = (lane * B) as u32;
                        lane += 1;
                    }
                    shifts
                };
                let all = _mm512_set1_epi32(codes as i32);
                return _mm512_srlv_epi32(all, _mm512_loadu_si512(shifts.as_ptr().cast()));
            }
            let (bytes, shifts) = const { &windows::<B>() };
            let all = _mm512_set1_epi64(codes as i64);
            let window = _mm512_shuffle_epi8(all, _mm512_loadu_si512(bytes.as_ptr().cast()));
            _mm512_srlv_epi32(window, _mm512_loadu_si512(shifts.as_ptr().cast()))
        }
    }

    /// Sixteen bf16 in the low halves of the lanes, by integer rounding.
    #[inline(always)]
    fn round_to_bf16(self, a: __m512) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            let bits = _mm512_castps_si512(a);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
            let rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x0040_0000));
            _mm512_srli_epi32::<16>(rounded)
        }
    }
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    type F = __m512;
    type I = __m512i;
    type M = __mmask16;
    const TILE: usize = 4;

    ops! {
        fn splat(value: f32) -> __m512 = _mm512_set1_ps(value);
        fn add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        fn sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        fn mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fn div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fn sqrt(a: __m512) -> __m512 = _mm512_sqrt_ps(a);
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fnmadd_ps(a, b, c);
        fn min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        fn max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        fn neg(a: __m512) -> __m512 = _mm512_xor_ps(a, _mm512_set1_ps(-0.0));
        fn abs(a: __m512) -> __m512 = _mm512_abs_ps(a);
        fn round(a: __m512) -> __m512 = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        fn scale(p: __m512, n: __m512) -> __m512 = _mm512_scalef_ps(p, n);
        fn ge(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b);
        fn select(m: __mmask16, a: __m512, b: __m512) -> __m512 = _mm512_mask_blend_ps(m, b, a);
        fn reduce_min(a: __m512) -> f32 = _mm512_reduce_min_ps(a);
        fn reduce_max(a: __m512) -> f32 = _mm512_reduce_max_ps(a);
        fn splat_i(value: u32) -> __m512i = _mm512_set1_epi32(value as i32);
        fn load_i(from: &[u32; 16]) -> __m512i = _mm512_loadu_si512(from.as_ptr().cast());
        fn load_pairs(from: &[bf16; 32]) -> __m512i = _mm512_loadu_si512(from.as_ptr().cast());
        fn store_i(to: &mut [u32; 16], a: __m512i) -> () = _mm512_storeu_si512(to.as_mut_ptr().cast(), a);
        fn as_f(a: __m512i) -> __m512 = _mm512_castsi512_ps(a);
        fn as_i(a: __m512) -> __m512i = _mm512_castps_si512(a);
        fn iota() -> __m512i = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        fn add_i(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        fn mul_i(a: __m512i, b: __m512i) -> __m512i = _mm512_mullo_epi32(a, b);
        fn xor_i(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512(a, b);
        fn shr_i<const BY: u32>(a: __m512i) -> __m512i = _mm512_srli_epi32::<BY>(a);
        fn to_f32(a: __m512i) -> __m512 = _mm512_cvtepi32_ps(a);
        fn truncate(a: __m512) -> __m512i = _mm512_cvttps_epi32(a);
        fn load_f32(from: &[f32; 16]) -> __m512 = _mm512_loadu_ps(from.as_ptr());
        fn load_bf16(from: &[bf16; 16]) -> __m512 = {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
        };
        fn load_f16(from: &[f16; 16]) -> __m512 = _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast()));
        fn round_f16(a: __m512) -> __m512 = _mm512_cvtph_ps(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a));
        fn fence() -> () = _mm_sfence();
    }

    #[inline(always)]
    fn lookup<const B: usize>(self, table: &[f32; 16], codes: u64) -> __m512 {
        // The index's bits above the low four are ignored, and a table of fewer levels repeats.
        let index = self.spread_codes::<B>(codes);
        // SAFETY: `self` proves that the CPU has the instructions; the load reads a whole array.
        unsafe { _mm512_permutexvar_ps(index, _mm512_loadu_ps(table.as_ptr())) }
    }

    #[inline(always)]
    fn round_bf16(self, a: __m512) -> __m512 {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(self.round_to_bf16(a))) }
    }

    #[inline(always)]
    fn pair_bf16(self, low: __m512, high: __m512) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            if BF16 {
                let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                let order = const { &interleaved() };
                return _mm512_permutexvar_epi16(_mm512_loadu_si512(order.as_ptr().cast()), halves);
            }
            let (low, high) = (self.round_to_bf16(low), self.round_to_bf16(high));
            _mm512_or_si512(low, _mm512_slli_epi32::<16>(high))
        }
    }

    /// Pairs of words, then of pairs, then of quarters of a register, then of halves.
    #[inline(always)]
    fn transpose(self, rows: [__m512i; 16]) -> [__m512i; 16] {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            let mut a = rows;
            let mut b = rows;
            for i in 0..8 {
                b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
                b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
            }
            // Of four rows: words 0, 1, 2 and 3 of each quarter.
            for i in 0..4 {
                a[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
                a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
                a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
                a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
            }
            for i in 0..4 {
                b[i] = _mm512_shuffle_i32x4::<0b10_00_10_00>(a[i], a[4 + i]);
                b[4 + i] = _mm512_shuffle_i32x4::<0b11_01_11_01>(a[i], a[4 + i]);
                b[8 + i] = _mm512_shuffle_i32x4::<0b10_00_10_00>(a[8 + i], a[12 + i]);
                b[12 + i] = _mm512_shuffle_i32x4::<0b11_01_11_01>(a[8 + i], a[12 + i]);
            }
            for i in 0..8 {
                a[i] = _mm512_shuffle_i32x4::<0b10_00_10_00>(b[i], b[8 + i]);
                a[8 + i] = _mm512_shuffle_i32x4::<0b11_01_11_01>(b[i], b[8 + i]);
            }
            a
        }
    }

    #[inline(always)]
    fn row_bf16(self, low: __m512, high: __m512) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            if BF16 {
                return std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            }
            let (low, high) = (self.round_to_bf16(low), self.round_to_bf16(high));
            let high = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(high));
            let low = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(low));
            _mm512_shuffle_i64x2::<0b01_00_01_00>(low, high)
        }
    }

    #[inline(always)]
    fn dot_bf16(self, sum: __m512, a: __m512i, b: __m512i) -> __m512 {
        // SAFETY: `self` proves that the CPU has the instructions; the types have the same bits.
        unsafe {
            if BF16 {
                let [a, b] = [std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b)];
                return _mm512_dpbf16_ps(sum, a, b);
            }
            // No closures: each would be a function without the instruction set, and a call.
            let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            let high_a = _mm512_castsi512_ps(_mm512_and_si512(a, upper));
            let high_b = _mm512_castsi512_ps(_mm512_and_si512(b, upper));
            let low_a = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(a));
            let low_b = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(b));
            _mm512_fmadd_ps(low_a, low_b, _mm512_fmadd_ps(high_a, high_b, sum))
        }
    }

    #[inline(always)]
    fn bits(self, m: __mmask16) -> u32 {
        u32::from(m)
    }

    #[inline(always)]
    fn pack<const B: usize>(self, a: __m512i) -> [u32; 4] {
        // SAFETY: `self` proves that the CPU has the instructions; the stores write whole arrays.
        unsafe {
            let mut words = [0u32; 4];
            let bytes = _mm512_cvtepi32_epi8(a);
            if B == 8 {
                _mm_storeu_si128(words.as_mut_ptr().cast(), bytes);
                return words;
            }
            if B == 4 {
                let pairs = _mm_maddubs_epi16(bytes, _mm_set1_epi16(0x1001));
                let packed = _mm_cvtsi128_si64(_mm_cvtepi16_epi8(pairs)) as u64;
                return [packed as u32, (packed >> 32) as u32, 0, 0];
            }
            let pairs = _mm_maddubs_epi16(bytes, _mm_set1_epi16(0x0401));
            let fours = _mm_madd_epi16(pairs, _mm_set1_epi32(0x0010_0001));
            words[0] = _mm_cvtsi128_si32(_mm_cvtepi32_epi8(fours)) as u32;
            words
        }
    }

    #[inline(always)]
    fn unpack<const B: usize>(self, words: [u32; 4]) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instructions; the load reads a whole array.
        unsafe {
            if B == 8 {
                return _mm512_cvtepu8_epi32(_mm_loadu_si128(words.as_ptr().cast()));
            }
            let codes = u64::from(words[0]) | u64::from(words[1]) << 32;
            let spread = if B == 4 { self.spread_codes::<4>(codes) } else { self.spread_codes::<2>(codes) };
            _mm512_and_si512(spread, _mm512_set1_epi32((1 << B) - 1))
        }
    }

    #[inline(always)]
    fn weave<const B: usize>(self, planes: [u64; B]) -> [u64; B] {
        let mut woven = [0; B];
        for (word, woven) in woven.iter_mut().enumerate() {
            for (plane, bits) in planes.iter().enumerate() {
                let first = (64 * word).saturating_sub(plane).div_ceil(B);
                // SAFETY: `self` proves that the CPU has BMI2.
                *woven |= unsafe { _pdep_u64(bits >> first, plane_mask_of::<B>(word, plane)) };
            }
        }
        woven
    }

    #[inline(always)]
    fn store_f32(self, to: &mut [f32; 32], low: __m512, high: __m512, stream: bool) {
        let to = to.as_mut_ptr();
        // SAFETY: `to` holds 32 lanes; a streamed `to` is aligned to 64 bytes (the contract of `store_f32`).
        unsafe {
            if stream {
                _mm512_stream_ps(to, low);
                _mm512_stream_ps(to.add(16), high);
            } else {
                _mm512_storeu_ps(to, low);
                _mm512_storeu_ps(to.add(16), high);
            }
        }
    }

    #[inline(always)]
    fn store_bf16(self, to: &mut [bf16; 32], low: __m512, high: __m512, stream: bool) {
        // SAFETY: `self` proves that the CPU has the instructions; `to` is 64 bytes, aligned when streamed.
        unsafe {
            // The instruction flushes denormals to zero; they are rare, so they take the integer path together.
            let denormal = _mm512_fpclass_ps_mask::<0x20>(low) | _mm512_fpclass_ps_mask::<0x20>(high);
            let packed: __m512i = if BF16 && denormal == 0 {
                std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
            } else {
                let (low, high) = (self.round_to_bf16(low), self.round_to_bf16(high));
                let high = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(high));
                let low = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(low));
                _mm512_shuffle_i64x2::<0b01_00_01_00>(low, high)
            };
            store_line(to.as_mut_ptr().cast(), packed, stream);
        }
    }

    #[inline(always)]
    fn store_f16(self, to: &mut [f16; 32], low: __m512, high: __m512, stream: bool) {
        // SAFETY: as for `store_bf16`.
        unsafe {
            let low = _mm512_castsi256_si512(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(low));
            let high = _mm512_castsi256_si512(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(high));
            store_line(to.as_mut_ptr().cast(), _mm512_shuffle_i64x2::<0b01_00_01_00>(low, high), stream);
        }
    }
}

/// Half i of the low sixteen and of the high sixteen, side by side.
const fn interleaved() -> [u16; 32] {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 32 {
        order[i] = (i / 2 + 16 * (i % 2)) as u16;
        i += 1;
    }
    order
}

/// [`plane_mask`] as a constant: the loops around it unroll.
#[inline(always)]
fn plane_mask_of<const B: usize>(word: usize, plane: usize) -> u64 {
    let masks = const {
        let mut masks = [[0; 4]; 4];
        let mut word = 0;
        while word < 4 {
            let mut plane = 0;
            while plane < 4 {
                masks[word][plane] = plane_mask(B, word, plane);
                plane += 1;
            }
            word += 1;
        }
        masks
    };
    masks[word][plane]
}

/// # Safety
/// The CPU has AVX-512 F; `to` is writable for 64 bytes, and aligned to 64 when streamed.
#[inline(always)]
unsafe fn store_line(to: *mut __m512i, line: __m512i, stream: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        if stream {
            _mm512_stream_si512(to, line);
        } else {
            _mm512_storeu_si512(to, line);
        }
    }
}
