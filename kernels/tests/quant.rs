//! Quantisation: the maps' shape, every instruction set against the reference, and what comes back against what went in.

mod common;

use common::{Seeded, awkward, same, same_bits, shifted};
use half::{bf16, f16};
use proptest::prelude::*;
use unswag_kernels::{
    Exec, Isa, KernelError,
    quant::{BLOCK, DynamicMap, Float, blockwise, nf4, reference},
};

/// Empty, one, around the lanes and both block sizes, and enough for several chunks.
const SIZES: [usize; 16] = [0, 1, 2, 15, 17, 63, 64, 65, 127, 255, 256, 257, 511, 6 * 42 * 123, 40_000, 65_537];

fn execs() -> Vec<Exec> {
    let mut execs: Vec<Exec> = Isa::available().into_iter().map(|isa| Exec { isa, threads: 1 }).collect();
    execs.push(Exec::new(0));
    execs.push(Exec::new(3));
    execs
}

fn maps() -> [(&'static str, &'static DynamicMap); 2] {
    [("signed", DynamicMap::signed()), ("unsigned", DynamicMap::unsigned())]
}

/// Normal data; every third block awkward but finite, every fifth as it comes, infinities and NaN included.
fn data<T: Float>(seed: u64, n: usize) -> Vec<T> {
    let (mut values, strange) = (Seeded(seed).normals::<T>(n), awkward::<T>(seed, n));
    for (at, (block, strange)) in values.chunks_mut(BLOCK).zip(strange.chunks(BLOCK)).enumerate() {
        for (value, strange) in block.iter_mut().zip(strange) {
            if at % 5 == 4 || (at % 3 == 2 && strange.to_f32().is_finite()) {
                *value = *strange;
            }
        }
    }
    values
}

#[test]
fn maps_ascend_strictly_and_hold_zero_and_one() {
    for (name, map) in maps() {
        assert!(map.values().windows(2).all(|pair| pair[0] < pair[1]), "{name}");
        assert!(map.values().contains(&0.0) && map.values()[255] == 1.0, "{name}");
    }
    let signed = DynamicMap::signed().values();
    for code in 0..127 {
        assert_eq!(signed[code], -signed[254 - code], "all but 1 has its negative");
    }
}

/// The levels to four places as the paper's appendix E prints them, and the formula's symmetry.
#[test]
fn nf4_levels_are_those_of_the_paper() {
    let printed = [
        -1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0, 0.0796, 0.1609, 0.2461, 0.3379, 0.4407,
        0.5626, 0.7230, 1.0,
    ];
    for (level, printed) in nf4::levels().iter().zip(printed) {
        assert!((f64::from(*level) - printed).abs() < 6e-5, "{level} and {printed}");
    }
}

/// Each value is its own code, and the code changes exactly after the border: checked on both sides of all of them.
#[test]
fn every_border_is_where_the_reference_has_it() {
    for (name, map) in maps() {
        let mut x = vec![1.0];
        for code in 0..255 {
            let (value, border) = (map.values()[code], map.borders()[code]);
            x.extend([value, border.next_down(), border, border.next_up(), f32::from_bits(border.to_bits() ^ 0xffff)]);
        }
        x.retain(|x| x.abs() <= 1.0);
        // One in every block, so that values are not scaled.
        let x: Vec<f32> = x.chunks(BLOCK - 1).flat_map(|part| part.iter().copied().chain([1.0])).collect();
        for exec in execs() {
            let (mut codes, mut absmax) = (vec![0; x.len()], vec![0.0; blockwise::blocks(x.len())]);
            blockwise::quantize(exec, map, &x, &mut codes, &mut absmax).unwrap();
            for (x, code) in x.iter().zip(&codes) {
                let nearest = reference::nearest(&map.borders()[..255], *x);
                assert_eq!(*code, nearest, "{name} {x} {exec:?}");
                let distance = |code: u8| (f64::from(*x) - f64::from(map.values()[usize::from(code)])).abs();
                let best = (0..=255).map(distance).fold(f64::INFINITY, f64::min);
                assert!(distance(*code) <= best + 2f64.powi(-24), "{name} {x}");
            }
        }
    }
}

fn eight_bits_agree<T: Float>() {
    for (name, map) in maps() {
        for n in SIZES {
            let x = data::<T>(1, n);
            let (mut codes, mut absmax) = (vec![1; n], vec![2.0; blockwise::blocks(n)]);
            reference::quantize(map, 0.0, &x, &mut codes, &mut absmax);
            let mut y = vec![T::ZERO; n];
            reference::dequantize(map, 0.0, &codes, &absmax, &mut y);
            for exec in execs() {
                let name = format!("{name} {} x {n}, {exec:?}", T::NAME);
                let (mut got_codes, mut got_absmax) = (vec![77; n], vec![-1.0; absmax.len()]);
                blockwise::quantize(exec, map, &shifted(&x, 1)[1..], &mut got_codes, &mut got_absmax).unwrap();
                assert!(got_codes == codes, "{name}: codes");
                same(&got_absmax, &absmax).unwrap_or_else(|e| panic!("{name}: absmax: {e}"));
                let mut got_y = x.clone();
                blockwise::dequantize(exec, map, &codes, &absmax, &mut got_y).unwrap();
                same(&got_y, &y).unwrap_or_else(|e| panic!("{name}: y: {e}"));
            }
        }
    }
}

#[test]
fn eight_bits_give_the_reference_bits() {
    eight_bits_agree::<f32>();
    eight_bits_agree::<bf16>();
    eight_bits_agree::<f16>();
}

fn nf4_agrees<T: Float>() {
    for n in SIZES {
        let x = data::<T>(2, n);
        let (mut packed, mut absmax) = (vec![1; nf4::packed_bytes(n)], vec![2.0; nf4::blocks(n)]);
        reference::quantize_nf4(&x, &mut packed, &mut absmax);
        let mut y = vec![T::ZERO; n];
        reference::dequantize_nf4(&packed, &absmax, &mut y);
        for exec in execs() {
            let name = format!("{} x {n}, {exec:?}", T::NAME);
            let (mut got_packed, mut got_absmax) = (vec![77; packed.len()], vec![-1.0; absmax.len()]);
            nf4::quantize(exec, &shifted(&x, 1)[1..], &mut got_packed, &mut got_absmax).unwrap();
            assert!(got_packed == packed, "{name}: codes");
            same(&got_absmax, &absmax).unwrap_or_else(|e| panic!("{name}: absmax: {e}"));
            let mut got_y = x.clone();
            nf4::dequantize(exec, &packed, &absmax, &mut got_y).unwrap();
            same(&got_y, &y).unwrap_or_else(|e| panic!("{name}: y: {e}"));
        }
    }
}

#[test]
fn nf4_gives_the_reference_bits() {
    nf4_agrees::<f32>();
    nf4_agrees::<bf16>();
    nf4_agrees::<f16>();
}

/// A kernel that puts the first element into the low nibble must not pass for NF4's.
#[test]
fn first_element_is_the_high_nibble() {
    let x = [1.0f32, -1.0, 0.0, 1.0, -1.0];
    let (mut packed, mut absmax) = ([0; 3], [0.0]);
    nf4::quantize(Exec::new(1), &x, &mut packed, &mut absmax).unwrap();
    assert_eq!(packed, [0xf0, 0x7f, 0x07]);
    let swapped = packed.map(|byte| byte.rotate_left(4));
    let mut y = [0.0f32; 5];
    nf4::dequantize(Exec::new(1), &swapped, &absmax, &mut y).unwrap();
    assert_ne!(y, x);
}

/// Bounds on both sides: zeros would fail, and so would an answer that is too good for the bits.
#[test]
fn errors_on_normal_data_are_those_of_the_bits() {
    let n = 100_000;
    let x = Seeded(3).normals::<f32>(n);
    let power: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
    let relative = |y: &[f32]| {
        let error: f64 = x.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2)).sum();
        (error / power).sqrt()
    };
    let exec = Exec::new(2);
    let (mut codes, mut absmax, mut y) = (vec![0; n], vec![0.0; blockwise::blocks(n)], vec![0.0; n]);
    blockwise::quantize(exec, DynamicMap::signed(), &x, &mut codes, &mut absmax).unwrap();
    blockwise::dequantize(exec, DynamicMap::signed(), &codes, &absmax, &mut y).unwrap();
    assert!((0.008..0.02).contains(&relative(&y)), "8 bits: {}", relative(&y));
    // The wrong map must show.
    blockwise::dequantize(exec, DynamicMap::unsigned(), &codes, &absmax, &mut y).unwrap();
    assert!(relative(&y) > 0.5);

    let (mut packed, mut absmax) = (vec![0; nf4::packed_bytes(n)], vec![0.0; nf4::blocks(n)]);
    nf4::quantize(exec, &x, &mut packed, &mut absmax).unwrap();
    nf4::dequantize(exec, &packed, &absmax, &mut y).unwrap();
    let single = relative(&y);
    assert!((0.08..0.1).contains(&single), "NF4: {single}");
    let (mut codes, mut nested) = (vec![0; absmax.len()], vec![0.0; blockwise::blocks(absmax.len())]);
    let offset = nf4::quantize_absmax(exec, &absmax, &mut codes, &mut nested).unwrap();
    let mut again = vec![0.0; absmax.len()];
    nf4::dequantize_absmax(exec, &codes, &nested, offset, &mut again).unwrap();
    assert!(absmax.iter().zip(&again).all(|(a, b)| (a - b).abs() < 0.02 * a) && absmax != again);
    nf4::dequantize(exec, &packed, &again, &mut y).unwrap();
    assert!(relative(&y) < 1.02 * single);
}

#[test]
fn double_quantisation_gives_the_reference_bits() {
    for n in [1, 5, 255, 256, 257, 1000] {
        let absmax: Vec<f32> = Seeded(n as u64).normals::<f32>(n).iter().map(|x| 2.0 + x.abs()).collect();
        let mean = (absmax.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64) as f32;
        let (mut codes, mut nested, mut back) = (vec![0; n], vec![0.0; blockwise::blocks(n)], vec![0.0f32; n]);
        reference::quantize(DynamicMap::signed(), mean, &absmax, &mut codes, &mut nested);
        reference::dequantize(DynamicMap::signed(), mean, &codes, &nested, &mut back);
        for exec in execs() {
            let (mut got_codes, mut got_nested, mut got) = (vec![9; n], vec![9.0; nested.len()], vec![9.0; n]);
            let offset = nf4::quantize_absmax(exec, &absmax, &mut got_codes, &mut got_nested).unwrap();
            assert!(offset == mean && got_codes == codes && got_nested == nested, "{n} {exec:?}");
            nf4::dequantize_absmax(exec, &codes, &nested, offset, &mut got).unwrap();
            same(&got, &back).unwrap();
        }
    }
}

fn doubly_quantised_weights_agree<T: Float>() {
    // Around one task's elements too: 256 scales are one block of the 8-bit codes.
    for n in SIZES.into_iter().chain([16_383, 16_384, 16_385, 5 * 16_384 + 3]) {
        let x = data::<T>(7, n);
        // The offset is a mean, so that one scale that is no number would make all of them none.
        let x: Vec<T> = x.into_iter().map(|x| if x.to_f32().is_finite() { x } else { T::ZERO }).collect();
        let (mut packed, mut absmax) = (vec![0; nf4::packed_bytes(n)], vec![0.0; nf4::blocks(n)]);
        nf4::quantize(Exec::new(1), &x, &mut packed, &mut absmax).unwrap();
        let (mut codes, mut nested) = (vec![0; absmax.len()], vec![0.0; blockwise::blocks(absmax.len())]);
        let offset = nf4::quantize_absmax(Exec::new(1), &absmax, &mut codes, &mut nested).unwrap();
        reference::dequantize(DynamicMap::signed(), offset, &codes, &nested, &mut absmax);
        let mut y = vec![T::ZERO; n];
        reference::dequantize_nf4(&packed, &absmax, &mut y);
        for exec in execs() {
            let mut got = x.clone();
            let absmax = nf4::DoubleAbsmax { codes: &codes, nested: &nested, offset };
            nf4::dequantize_double(exec, &packed, absmax, &mut got).unwrap();
            same(&got, &y).unwrap_or_else(|e| panic!("{} x {n}, {exec:?}: {e}", T::NAME));
        }
    }
}

#[test]
fn doubly_quantised_weights_give_the_reference_bits() {
    doubly_quantised_weights_agree::<f32>();
    doubly_quantised_weights_agree::<bf16>();
    doubly_quantised_weights_agree::<f16>();
}

#[test]
fn nothing_that_is_not_a_number_becomes_one() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = Seeded(4).normals::<f32>(2 * BLOCK + 10);
        x[BLOCK + 3] = bad;
        let (mut codes, mut absmax, mut y) = (vec![0; x.len()], vec![0.0; 3], vec![0.0f32; x.len()]);
        blockwise::quantize(Exec::new(1), DynamicMap::signed(), &x, &mut codes, &mut absmax).unwrap();
        blockwise::dequantize(Exec::new(1), DynamicMap::signed(), &codes, &absmax, &mut y).unwrap();
        assert!(y[BLOCK..2 * BLOCK].iter().all(|y| y.is_nan()), "{bad}: the whole block");
        assert!(y[..BLOCK].iter().chain(&y[2 * BLOCK..]).all(|y| y.is_finite()), "{bad}: and no other");
    }
}

#[test]
fn zeros_and_denormals_come_back_as_they_were_or_smaller() {
    for x in [[0.0f32; 3], [-0.0; 3], [1e-45, -1e-45, 0.0], [1e-40, -3e-41, 1e-44]] {
        for (name, map) in maps() {
            let (mut codes, mut absmax, mut y) = ([9; 3], [9.0], [9.0f32; 3]);
            blockwise::quantize(Exec::new(1), map, &x, &mut codes, &mut absmax).unwrap();
            blockwise::dequantize(Exec::new(1), map, &codes, &absmax, &mut y).unwrap();
            assert!(y.iter().all(|y| y.abs() <= absmax[0]) && absmax[0] < 2e-40, "{name} {x:?}: {y:?}");
        }
    }
}

#[test]
fn wrong_lengths_are_refused_before_anything_is_written() {
    let x = [1.0f32; 300];
    let (mut codes, mut absmax) = ([5; 300], [5.0; 3]);
    let error = blockwise::quantize(Exec::new(1), DynamicMap::signed(), &x, &mut codes, &mut absmax).unwrap_err();
    assert_eq!(error, KernelError::Length { op: "quant.blockwise.quantize", argument: "absmax", expected: 2, got: 3 });
    assert!(codes == [5; 300] && absmax == [5.0; 3]);
    let mut packed = [5; 149];
    assert!(nf4::quantize(Exec::new(1), &x, &mut packed, &mut [0.0; 5]).is_err());
    assert!(nf4::dequantize(Exec::new(1), &[0; 150], &[0.0; 4], &mut [0.0f32; 300]).is_err());
    assert!(nf4::quantize_absmax(Exec::new(1), &x, &mut codes, &mut absmax).is_err());
    let double = |codes, nested| nf4::DoubleAbsmax { codes, nested, offset: 0.0 };
    for absmax in [double(&[0; 4][..], &[0.0][..]), double(&[0; 5], &[]), double(&[0; 5], &[0.0; 2])] {
        assert!(nf4::dequantize_double(Exec::new(1), &[0; 150], absmax, &mut [0.0f32; 300]).is_err());
    }
}

proptest! {
    #[test]
    fn any_bits_give_the_reference_codes(bits in prop::collection::vec(any::<u32>(), 0..600), finite in any::<bool>()) {
        let x: Vec<f32> = bits
            .iter()
            .map(|bits| f32::from_bits(*bits))
            .map(|x| if finite && !x.is_finite() { 1.0 } else { x })
            .collect();
        for (_, map) in maps() {
            let (mut codes, mut absmax) = (vec![0; x.len()], vec![0.0; blockwise::blocks(x.len())]);
            reference::quantize(map, 0.0, &x, &mut codes, &mut absmax);
            for exec in execs() {
                let (mut got, mut got_absmax) = (vec![0; x.len()], vec![0.0; absmax.len()]);
                blockwise::quantize(exec, map, &x, &mut got, &mut got_absmax).unwrap();
                prop_assert_eq!(&got, &codes);
                prop_assert!(got_absmax.iter().zip(&absmax).all(|(a, b)| same_bits(*a, *b)));
            }
        }
        let (mut packed, mut absmax) = (vec![0; nf4::packed_bytes(x.len())], vec![0.0; nf4::blocks(x.len())]);
        reference::quantize_nf4(&x, &mut packed, &mut absmax);
        for exec in execs() {
            let (mut got, mut got_absmax) = (vec![0; packed.len()], vec![0.0; absmax.len()]);
            nf4::quantize(exec, &x, &mut got, &mut got_absmax).unwrap();
            prop_assert_eq!(&got, &packed);
        }
    }
}
