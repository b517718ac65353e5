//! Dequantisation against golden values of the Python package `gguf` (tests/golden/gguf/make_dequant.py).

use std::path::PathBuf;

use unswag_checkpoint::gguf::{GgmlType, dequantize};

fn golden(name: &str, part: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf").join(format!("{name}.{part}"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Integers and f64, which the Python package does not decode, have a test of their own.
fn has_golden_values(dtype: GgmlType) -> bool {
    use GgmlType::*;
    dtype.is_supported() && !matches!(dtype, I8 | I16 | I32 | I64 | F64)
}

#[test]
fn every_block_type_dequantises_to_the_same_bits_as_python_gguf() {
    let mut seen = 0;
    for dtype in GgmlType::all().filter(|&dtype| has_golden_values(dtype)) {
        let blocks = golden(dtype.name(), "blocks");
        let bytes = golden(dtype.name(), "f32");
        let expected: Vec<f32> = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let mut out = vec![0.0f32; expected.len()];
        assert!(dequantize(dtype, &blocks, &mut out), "{dtype}: lengths do not fit");
        let mut nans = 0;
        for (i, (&got, &want)) in out.iter().zip(&expected).enumerate() {
            if want.is_nan() {
                nans += 1;
                assert!(got.is_nan(), "{dtype} element {i}: expected NaN, got {got}");
            } else {
                assert_eq!(got.to_bits(), want.to_bits(), "{dtype} element {i}: expected {want}, got {got}");
            }
        }
        assert!(nans > 0, "{dtype}: the golden blocks should hold a NaN scale");
        assert!(expected.iter().any(|value| value.is_infinite()), "{dtype}: … and an infinite one");
        seen += 1;
    }
    assert_eq!(seen, 17, "a supported type has no golden file, or one was added without it");
}

#[test]
fn golden_folder_holds_no_file_that_no_test_reads() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf");
    for entry in std::fs::read_dir(folder).expect("the golden folder is there") {
        let name = entry.expect("readable").file_name().into_string().expect("UTF-8");
        let known = name.split_once('.').is_some_and(|(stem, part)| {
            matches!(part, "blocks" | "f32") && GgmlType::all().any(|ty| ty.name() == stem && has_golden_values(ty))
        });
        assert!(known || name == "make_dequant.py", "{name} is read by no test");
    }
}

#[test]
fn integers_and_f64_become_the_nearest_f32() {
    fn check<const N: usize>(dtype: GgmlType, stored: &[[u8; N]], expected: &[f32]) {
        let mut out = vec![0.0; expected.len()];
        assert!(dequantize(dtype, &stored.concat(), &mut out));
        assert_eq!(out, expected, "{dtype}");
    }
    check(GgmlType::I8, &[i8::MIN, -1, 0, i8::MAX].map(i8::to_le_bytes), &[-128.0, -1.0, 0.0, 127.0]);
    check(GgmlType::I16, &[i16::MIN, 7].map(i16::to_le_bytes), &[-32768.0, 7.0]);
    check(GgmlType::I32, &[i32::MIN, 16_777_217].map(i32::to_le_bytes), &[-2147483648.0, 16_777_216.0]);
    check(GgmlType::I64, &[i64::MAX, -3].map(i64::to_le_bytes), &[9223372036854775808.0, -3.0]);
    check(GgmlType::F64, &[0.1f64, -1e300, 1e-300].map(f64::to_le_bytes), &[0.1, f32::NEG_INFINITY, 0.0]);
}

#[test]
fn lengths_that_do_not_fit_are_refused_and_nothing_is_written() {
    for dtype in GgmlType::all() {
        let block = dtype.block_elements() as usize;
        let bytes = vec![0xFFu8; 3 * dtype.block_bytes() as usize];
        for (elements, len) in [(3 * block, bytes.len() - 1), (2 * block, bytes.len()), (3 * block + 1, bytes.len())] {
            let mut out = vec![7.0f32; elements];
            assert!(!dequantize(dtype, &bytes[..len], &mut out), "{dtype}");
            assert!(out.iter().all(|&value| value == 7.0), "{dtype}");
        }
        assert_eq!(dequantize(dtype, &[], &mut []), dtype.is_supported(), "{dtype}: no blocks");
    }
}
