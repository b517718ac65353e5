//! Headers that lie: the error says which tensor or byte, what was found and what was expected.

#[path = "common/safetensors_bytes.rs"]
mod safetensors_bytes;

use safetensors_bytes::{entry, file};
use unswag_checkpoint::{HeaderError, TensorFault, parse_header};

/// The error of a file that must not be taken; its text must hold each of `says`.
#[track_caller]
fn refused(bytes: &[u8], says: &[&str]) -> HeaderError {
    let error = parse_header(bytes, bytes.len() as u64).expect_err("the file should be refused");
    let text = error.to_string();
    for part in says {
        assert!(text.contains(part), "expected {part:?} in: {text}");
    }
    error
}

#[track_caller]
fn fault(bytes: &[u8], says: &[&str]) -> TensorFault {
    match refused(bytes, says) {
        HeaderError::Entry { fault, .. } | HeaderError::Tensor { fault, .. } => fault,
        other => panic!("expected a fault of one tensor, got: {other}"),
    }
}

#[test]
fn a_length_beyond_the_file_names_both_lengths() {
    let mut bytes = file("{}", b"");
    bytes[0] = 200;
    refused(&bytes, &["200 bytes", "ends after 10", "download it again"]);
}

#[test]
fn a_header_over_100_mb_is_refused_before_it_is_looked_for() {
    let start = (100_000_001u64).to_le_bytes();
    let error = parse_header(&start, u64::MAX).expect_err("too long");
    assert_eq!(error, HeaderError::TooLong { header_bytes: 100_000_001 });
}

#[test]
fn json_errors_name_the_byte_of_the_file() {
    // The `x` stands at byte 13 of the text, so at byte 21 of the file.
    let error = refused(&file(r#"{"a":{"dtype"x"#, b""), &["byte 21"]);
    assert!(matches!(error, HeaderError::Json { offset: 21, .. }), "{error:?}");
    // The same after line breaks.
    let error = refused(&file("{\n\n\"a\":{\"dtype\"x", b""), &["byte 23"]);
    assert!(matches!(error, HeaderError::Json { offset: 23, .. }), "{error:?}");
}

#[test]
fn text_that_is_not_utf_8_names_the_byte() {
    let bytes = [&5u64.to_le_bytes()[..], b"{\"\xff\"}"].concat();
    assert_eq!(refused(&bytes, &[]), HeaderError::NotUtf8 { offset: 10 });
}

#[test]
fn a_name_that_stands_twice_is_refused_by_name() {
    let header = format!("{{{},{}}}", entry("w", &[2], 0, 8), entry("w", &[2], 8, 16));
    assert_eq!(fault(&file(&header, &[0; 16]), &["\"w\"", "twice"]), TensorFault::Duplicate);
}

#[test]
fn sizes_that_overflow_are_refused_even_times_zero() {
    for shape in [&[1 << 33, 1 << 33][..], &[1 << 62, 1 << 62, 16], &[1 << 63, 4, 0], &[u64::MAX]] {
        let header = format!("{{{}}}", entry("w", shape, 0, 0));
        let found = fault(&file(&header, b""), &["\"w\"", "2^64"]);
        assert!(matches!(found, TensorFault::Overflow { .. }), "{shape:?}: {found:?}");
    }
}

#[test]
fn a_shape_that_needs_other_bytes_names_both_counts() {
    let header = format!("{{{}}}", entry("w", &[2, 3], 0, 8));
    fault(&file(&header, &[0; 8]), &["F32 [2, 3] takes 24 bytes", "[0, 8] hold 8"]);
}

#[test]
fn offsets_past_the_data_say_how_much_data_there_is() {
    let header = format!("{{{}}}", entry("w", &[4], 0, 16));
    fault(&file(&header, &[0; 10]), &["[0, 16]", "the 10 bytes of data", "cut off"]);
}

#[test]
fn tensors_over_each_other_name_both() {
    let header = format!("{{{},{}}}", entry("a", &[2], 0, 8), entry("b", &[2], 4, 12));
    fault(&file(&header, &[0; 12]), &["\"b\"", "\"a\""]);
}

#[test]
fn bytes_that_belong_to_no_tensor_are_named_as_bytes_of_the_file() {
    let header = format!("{{{},{}}}", entry("a", &[2], 0, 8), entry("b", &[2], 12, 20));
    let data_start = 8 + header.len() as u64;
    let error = refused(&file(&header, &[0; 20]), &[]);
    assert_eq!(error, HeaderError::Gap { start: data_start + 8, end: data_start + 12 });
}

#[test]
fn dtypes_of_the_format_that_are_not_read_are_told_from_unknown_ones() {
    let header = |dtype: &str| format!(r#"{{"w":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,1]}}}}"#);
    for dtype in ["F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"] {
        fault(&file(&header(dtype), &[0]), &[dtype, "not supported", "BF16"]);
    }
    fault(&file(&header("Q4_K"), &[0]), &["\"Q4_K\" is unknown", "BF16"]);
}

#[test]
fn hostile_names_are_refused_and_shown_escaped() {
    for (name, shown) in [
        ("", "\"\""),
        ("../up", "\"../up\""),
        ("a/../../b", "\"a/../../b\""),
        ("a\\\\..\\\\b", "a\\\\..\\\\b"),
        ("/etc/passwd", "\"/etc/passwd\""),
        ("a\\u0000b", "\"a\\0b\""),
        ("\\u001b[31mred", "\\u{1b}[31mred"),
        ("a\\u202eb", "a\\u{202e}b"),
        ("line\\nbreak", "line\\nbreak"),
    ] {
        let header = format!("{{{}}}", entry(name, &[2], 0, 8));
        let found = fault(&file(&header, &[0; 8]), &[shown, "cannot be used"]);
        assert!(matches!(found, TensorFault::Name { .. }), "{name:?}: {found:?}");
    }
}

#[test]
fn a_long_name_is_cut_in_the_message() {
    let header = format!("{{{}}}", entry(&"w".repeat(100_000), &[2], 0, 8));
    let error = refused(&file(&header, &[0; 8]), &["longer than 4096", "…"]);
    assert!(error.to_string().len() < 400);
}

#[test]
fn names_with_slashes_and_dots_that_stay_inside_are_fine() {
    for name in ["model/layer:0", "a..b", "...", "a/.../b", "block.0.(1)", "größe", "a b"] {
        let header = format!("{{{}}}", entry(name, &[2], 0, 8));
        let bytes = file(&header, &[0; 8]);
        let header = parse_header(&bytes, bytes.len() as u64).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(header.tensors.get(name).is_some());
    }
}

#[test]
fn sixty_four_dimensions_are_read_and_one_more_refused() {
    let header = |rank| format!("{{{}}}", entry("w", &vec![1; rank], 0, 4));
    let bytes = file(&header(64), &[0; 4]);
    assert_eq!(parse_header(&bytes, bytes.len() as u64).map(|header| header.tensors.len()), Ok(1));
    assert_eq!(fault(&file(&header(65), &[0; 4]), &["more than 64 dimensions"]), TensorFault::Rank);
}

#[test]
fn more_metadata_than_anyone_writes_is_refused() {
    let entries: Vec<String> = (0..70_000).map(|number| format!("\"{number}\":\"\"")).collect();
    refused(
        &file(&format!(r#"{{"__metadata__":{{{}}}}}"#, entries.join(",")), b""),
        &["__metadata__", "65536 entries"],
    );
    let long = "x".repeat(17 << 20);
    refused(&file(&format!(r#"{{"__metadata__":{{"a":"{long}"}}}}"#), b""), &["__metadata__"]);
}

#[test]
fn only_as_many_bytes_as_the_caller_has_are_read() {
    let bytes = file(&format!("{{{}}}", entry("w", &[2], 0, 8)), &[0; 8]);
    // The whole file is said to be there, but only the first bytes are given.
    for end in 0..bytes.len() - 8 {
        assert!(parse_header(&bytes[..end], bytes.len() as u64).is_err(), "{end}");
    }
    assert!(parse_header(&bytes[..bytes.len() - 8], bytes.len() as u64).is_ok());
}
