//! GGUF headers that lie: each is an error that names the byte and the field, never a panic, and cheap.

#[path = "common/gguf_bytes.rs"]
mod gguf_bytes;

use std::path::PathBuf;

use gguf_bytes::{ARRAY, Builder, STRING, array, raw_string, string};
use unswag_checkpoint::gguf::{GgufFile, GgufInfo, Problem, parse};

/// A small file with one of each thing.
fn small() -> Builder {
    Builder::new()
        .text("general.architecture", "llama")
        .u32("llama.block_count", 1)
        .bool("flag", true)
        .texts("tokenizer.ggml.tokens", &["a", "", "ß"])
        .i32s("tokenizer.ggml.token_type", &[1, -3])
        .f32s("scores", &[0.5, -0.0])
        .f32_tensor("one", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .tensor("two", &[1, 32], 8, &[7; 34])
}

/// The error of a file that must not parse, as text; checks that it names what and where.
#[track_caller]
fn refused(file: &[u8], field: &str, says: &[&str]) -> Problem {
    let error = parse(file).expect_err("the file should be refused");
    let text = error.to_string();
    assert!(error.field.contains(field), "expected the field {field:?} in: {text}");
    for part in says {
        assert!(text.contains(part), "expected {part:?} in: {text}");
    }
    *error.problem
}

#[test]
fn a_well_formed_file_gives_back_what_was_put_in() {
    let file = small().build();
    let gguf = parse(&file).expect("well-formed");
    assert_eq!(gguf.version(), 3);
    assert_eq!(gguf.get("general.architecture").and_then(|value| value.as_str()), Some("llama"));
    assert_eq!(gguf.get("llama.block_count").and_then(|value| value.as_u64()), Some(1));
    assert_eq!(gguf.get("flag").and_then(|value| value.as_bool()), Some(true));
    let array = |key| gguf.get(key).and_then(|value| value.as_array()).expect("an array");
    assert_eq!(array("tokenizer.ggml.tokens").strings().expect("strings").collect::<Vec<_>>(), ["a", "", "ß"]);
    assert_eq!(array("tokenizer.ggml.token_type").integers().expect("integers").collect::<Vec<_>>(), [1, -3]);
    assert_eq!(array("scores").floats().expect("floats").collect::<Vec<_>>(), [0.5, -0.0]);
    assert!(array("scores").strings().is_none());

    let one = gguf.tensor("one").expect("listed");
    assert_eq!((one.shape(), one.bytes), (vec![2, 3], 24));
    assert_eq!(file[one.start as usize..][..4], 1.0f32.to_le_bytes());
    let two = gguf.tensor("two").expect("listed");
    assert_eq!((two.shape(), two.bytes, two.dtype.name()), (vec![1, 32], 34, "Q8_0"));
    assert_eq!(file[two.start as usize..][..34], [7; 34]);
    assert!(gguf.tensor("three").is_none());
    assert_eq!(gguf.parameters(), 6 + 32);

    let info = GgufInfo::of(&gguf);
    assert_eq!(info.architecture.as_deref(), Some("llama"));
    assert_eq!(
        info.types.iter().map(|count| (count.dtype, count.tensors)).collect::<Vec<_>>(),
        [("Q8_0", 1), ("F32", 1)]
    );
    assert_eq!(info.metadata[3].value, "[string; 3]");
}

#[test]
fn every_prefix_of_a_file_is_refused_as_truncated() {
    let file = small().build();
    for len in 0..file.len() {
        let error = parse(&file[..len]).err().unwrap_or_else(|| panic!("{len} of {} bytes parsed", file.len()));
        assert!(
            matches!(*error.problem, Problem::Truncated { .. } | Problem::OutOfRange { .. }),
            "{len} bytes: {error}"
        );
        assert!(error.offset.is_some(), "{len} bytes: {error}");
    }
    assert!(parse(&file).is_ok());
}

#[test]
fn every_prefix_on_disk_is_refused_too_and_names_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cut.gguf");
    let file = small().build();
    for len in (0..file.len()).step_by(3) {
        std::fs::write(&path, &file[..len]).expect("writable");
        let text = GgufFile::open(&path).expect_err("truncated").to_string();
        assert!(text.starts_with(path.to_str().expect("UTF-8")) && text.contains("byte "), "{text}");
    }
    std::fs::write(&path, &file).expect("writable");
    let opened = GgufFile::open(&path).expect("whole");
    assert_eq!(opened.header().tensors().len(), 2);
    GgufFile::open(folder.path()).expect_err("a folder is no GGUF file");
    GgufFile::open(&folder.path().join("absent")).expect_err("nothing there");
}

#[test]
fn a_header_longer_than_the_first_read_is_read_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("long.gguf");
    let words: Vec<String> = (0..400_000).map(|index| format!("token {index}")).collect();
    let file = small().texts("long", &words).build();
    assert!(file.len() > 5 << 20);
    std::fs::write(&path, &file).expect("writable");
    let opened = GgufFile::open(&path).expect("well-formed");
    let last = opened.header().get("long").and_then(|value| value.as_array()).and_then(|array| array.strings()?.last());
    assert_eq!(last, Some("token 399999"));
}

#[test]
fn other_files_are_told_apart() {
    refused(b"", "magic", &["byte 0", "truncated"]);
    refused(b"Once upon a time", "magic", &["not a GGUF file"]);
    refused(&[0xFF; 64], "magic", &["not a GGUF file"]);
    let mut version = small();
    version.version = 1;
    refused(&version.build(), "version", &["byte 4", "version 1", "expected 2 or 3"]);
    version.version = 3u32.swap_bytes();
    refused(&version.build(), "version", &["big-endian"]);
    version.version = 0x1234_5678;
    assert!(matches!(refused(&version.build(), "version", &[]), Problem::Version { .. }));
    version.version = 2;
    assert!(parse(&version.build()).is_ok());
}

#[test]
fn lying_counts_are_refused_before_anything_is_allocated() {
    for count in [1u64 << 63, u64::MAX, 1 << 21] {
        let mut file = small();
        file.tensor_count = Some(count);
        refused(&file.build(), "tensor count", &["byte 8"]);
        let mut file = small();
        file.key_count = Some(count);
        refused(&file.build(), "key count", &["byte 16"]);
    }
    // Counts within the limits, and not true: the entries run into the data or off the end.
    let mut file = small();
    file.tensor_count = Some(1 << 20);
    parse(&file.build()).expect_err("a million tensors in a small file");
    let mut file = small();
    file.key_count = Some(1 << 16);
    parse(&file.build()).expect_err("65,536 keys in a small file");
    let mut file = small();
    file.tensor_count = Some(1);
    assert!(parse(&file.build()).is_ok(), "fewer tensors than there are entries: the rest is padding or data");
}

#[test]
fn lying_lengths_are_refused() {
    for len in [u64::MAX, 1 << 63, 1 << 40, 5000] {
        let bytes = len.to_le_bytes();
        refused(&small().raw_key(b"text", STRING, &bytes).build(), "key text", &["truncated"]);
        let numbers = [4u32.to_le_bytes().to_vec(), bytes.to_vec()].concat();
        refused(&small().raw_key(b"numbers", ARRAY, &numbers).build(), "key numbers", &["truncated"]);
        let strings = [STRING.to_le_bytes().to_vec(), bytes.to_vec()].concat();
        parse(&small().raw_key(b"strings", ARRAY, &strings).build()).expect_err("as many strings cannot be there");
        let inner = [array(STRING, &[])[..4].to_vec(), 1u64.to_le_bytes().to_vec(), bytes.to_vec()].concat();
        refused(&small().raw_key(b"inner", ARRAY, &inner).build(), "key inner: element 0", &["truncated"]);
    }
    let long = "n".repeat(70_000);
    refused(&small().text(&long, "x").build(), "name length", &["65535"]);
}

#[test]
fn wrong_value_types_are_refused() {
    for code in [13, 255, u32::MAX] {
        refused(&small().raw_key(b"odd", code, &[0; 8]).build(), "key odd", &["does not exist"]);
        let elements = [code.to_le_bytes().to_vec(), vec![0; 8]].concat();
        refused(&small().raw_key(b"odd", ARRAY, &elements).build(), "key odd", &["does not exist"]);
    }
    let nested = array(ARRAY, &[array(4, &[vec![1, 0, 0, 0]])]);
    assert!(matches!(
        refused(&small().raw_key(b"nested", ARRAY, &nested).build(), "key nested", &["array of arrays"]),
        Problem::NestedArray
    ));
    // A thousand levels deep costs no stack.
    let deep = [ARRAY.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()].concat().repeat(1000);
    refused(&small().raw_key(b"deep", ARRAY, &deep).build(), "key deep", &["array of arrays"]);
    refused(&small().raw_key(b"bool", 7, &[2]).build(), "key bool", &["stored as 2"]);
    let bools = array(7, &[vec![1], vec![0], vec![9]]);
    refused(&small().raw_key(b"bools", ARRAY, &bools).build(), "key bools", &["stored as 9"]);
}

#[test]
fn text_must_be_utf8_and_names_printable_and_unique() {
    refused(&small().raw_key(b"bad", STRING, &raw_string(b"ok\xFF")).build(), "key bad", &["not UTF-8", "at 2 of 3"]);
    let tokens = array(STRING, &[string("fine"), raw_string(b"\xC3")]);
    refused(&small().raw_key(b"tokens", ARRAY, &tokens).build(), "key tokens: element 1", &["not UTF-8"]);
    refused(&small().raw_key(b"k\xFFy", 4, &[0; 4]).build(), "key 6: name", &["not UTF-8"]);
    let invisible = "invisible characters";
    for (name, why) in [
        ("", "it is empty"),
        ("a\0b", invisible),
        ("new\nline", invisible),
        ("\u{1b}[31m", invisible),
        ("left\u{202e}right", invisible),
        ("../up", "a path out of its folder"),
        ("/root", "an absolute path"),
    ] {
        refused(&small().u32(name, 1).build(), "key 6: name", &[why]);
        refused(&small().raw_tensor(name.as_bytes(), &[1], 0, 0).build(), "tensor 2: name", &[why]);
    }
    refused(&small().u32("flag", 1).build(), "key 6", &["\"flag\" stands twice, first as number 2"]);
    refused(&small().f32_tensor("one", &[1], &[0.0]).build(), "tensor 2", &["\"one\" stands twice, first as number 0"]);
}

#[test]
fn alignment_must_be_a_small_power_of_two() {
    for alignment in [0, 3, 33, u32::MAX, 1 << 31, (1 << 20) + 1, 1 << 21] {
        let file = small().u32("general.alignment", alignment).build();
        assert!(matches!(refused(&file, "general.alignment", &["power of two"]), Problem::Alignment { .. }));
    }
    refused(&small().text("general.alignment", "32").build(), "general.alignment", &["is string, expected an integer"]);
    let file = Builder::new().alignment(64).f32_tensor("a", &[1], &[1.0]).f32_tensor("b", &[1], &[2.0]).build();
    let gguf = parse(&file).expect("64 is fine");
    assert_eq!(gguf.tensors()[1].start - gguf.tensors()[0].start, 64);
    assert_eq!(gguf.data_start() % 64, 0);
}

#[test]
fn shapes_that_overflow_or_cut_blocks_are_refused() {
    let with = |dims: &[u64], code: u32| Builder::new().raw_tensor(b"t", dims, code, 0).data(4096).build();
    for dims in [&[u64::MAX][..], &[1 << 32, 1 << 32], &[1 << 63, 1], &[u64::MAX, u64::MAX, u64::MAX, u64::MAX]] {
        refused(&with(dims, 0), "tensor t: shape", &["does not fit"]);
    }
    // Fits as a count of elements, and not as a count of bytes.
    refused(&with(&[1 << 62], 28), "tensor t: shape", &["does not fit"]);
    refused(&with(&[33, 4], 2), "tensor t: shape", &["33 elements", "Q4_0", "32"]);
    refused(&with(&[128], 12), "tensor t: shape", &["Q4_K", "256"]);
    for rank in [5, 1000, u32::MAX] {
        let mut entry = string("t");
        entry.extend(rank.to_le_bytes());
        let mut file = Builder::new();
        file.tensor_count = Some(1);
        let mut bytes = file.build();
        bytes.extend(entry);
        bytes.extend([1; 64]);
        // The builder pads its empty data section; the entry must follow the counts.
        bytes.drain(24..32);
        refused(&bytes, "tensor t: rank", &["at most 4"]);
    }
    assert!(parse(&with(&[4, 4, 4, 4], 0)).is_ok());
    assert!(parse(&with(&[0, 4], 0)).is_ok(), "an empty tensor has no bytes to lie about");
}

#[test]
fn unknown_element_types_are_named() {
    let with = |code| Builder::new().raw_tensor(b"t", &[256], code, 0).data(4096).build();
    refused(&with(4), "tensor t: element type", &["Q4_2", "no longer"]);
    refused(&with(31), "tensor t: element type", &["Q4_0_4_4"]);
    for code in [99, u32::MAX] {
        refused(&with(code), "tensor t: element type", &["unknown", "Q4_K"]);
    }
}

#[test]
fn offsets_must_be_aligned_inside_and_one_after_the_other() {
    let two = |first: u64, second: u64, data: usize| {
        Builder::new().raw_tensor(b"a", &[8], 0, first).raw_tensor(b"b", &[8], 0, second).data(data).build()
    };
    assert!(parse(&two(0, 32, 64)).is_ok());
    assert!(parse(&two(32, 0, 64)).is_ok(), "the list need not be in the order of the data");
    refused(&two(0, 33, 128), "tensor b: offset", &["not a multiple", "32"]);
    refused(&two(0, 32, 63), "tensor b: offset", &["beyond the 63 bytes"]);
    for huge in [1 << 40, u64::MAX - 31, (1 << 63) - 32] {
        refused(&two(0, huge, 64), "tensor b: offset", &["beyond"]);
    }
    refused(&two(0, 0, 64), "offset", &["overlap"]);
    refused(&two(0, 64, 128), "tensor b: offset", &["after a"]);
    refused(&two(32, 64, 128), "tensor a: offset", &["after the header"]);
    let file = Builder::new().raw_tensor(b"a", &[9], 0, 0).raw_tensor(b"b", &[8], 0, 32).data(128).build();
    refused(&file, "tensor b: offset", &["overlap", "those of a"]);
}

#[test]
fn a_million_tensors_are_read_in_one_pass() {
    let mut builder = Builder::new();
    for index in 0..1u64 << 20 {
        builder = builder.raw_tensor(format!("t{index}").as_bytes(), &[0], 0, 0);
    }
    let file = builder.build();
    let gguf = parse(&file).expect("well-formed");
    assert_eq!(gguf.tensors().len(), 1 << 20);
    assert_eq!(gguf.tensor("t777").map(|tensor| tensor.name), Some("t777"));
}

#[test]
fn any_single_byte_may_be_changed_without_a_panic() {
    let file = small().build();
    for at in 0..file.len() {
        for value in [0x00, 0x01, 0x7F, 0x80, 0xFF] {
            let mut changed = file.clone();
            changed[at] = value;
            if let Ok(gguf) = parse(&changed) {
                // What parses can be walked to its end, and lies in the file.
                for tensor in gguf.tensors() {
                    assert!(tensor.start + tensor.bytes <= file.len() as u64);
                    assert_eq!(tensor.dtype.bytes_of(tensor.elements()), Some(tensor.bytes));
                }
                let _ = GgufInfo::of(&gguf);
            }
        }
    }
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        let _ = parse(&bytes);
        let mut with_magic = b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0".to_vec();
        with_magic.extend(&bytes);
        let _ = parse(&with_magic);
    }

    #[test]
    fn a_damaged_file_never_panics(edits in proptest::collection::vec((0usize..512, proptest::num::u8::ANY), 1..12)) {
        let mut file = small().build();
        for (at, value) in edits {
            let len = file.len();
            file[at % len] = value;
        }
        let _ = parse(&file).map(|gguf| GgufInfo::of(&gguf));
    }
}

/// Seeds for fuzzing: kept as files so that a fuzzer finds them, written here so that nobody must trust a binary.
#[test]
fn corpus_holds_a_seed_of_each_kind() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/gguf");
    let mut version_2 = small();
    version_2.version = 2;
    let mut many_keys = small();
    many_keys.key_count = Some(1 << 63);
    let seeds = [
        ("well_formed", small().build()),
        ("version_2", version_2.build()),
        ("aligned_64", Builder::new().alignment(64).f32_tensor("a", &[1], &[1.0]).build()),
        ("no_tensors", Builder::new().text("general.architecture", "llama").build()),
        ("key_count_2_63", many_keys.build()),
        ("nested_array", small().raw_key(b"n", ARRAY, &array(ARRAY, &[array(4, &[])])).build()),
        ("overlap", Builder::new().raw_tensor(b"a", &[9], 0, 0).raw_tensor(b"b", &[8], 0, 32).data(128).build()),
        ("shape_overflow", Builder::new().raw_tensor(b"t", &[1 << 32, 1 << 32], 0, 0).data(64).build()),
    ];
    if std::env::var_os("UNSWAG_WRITE_CORPUS").is_some() {
        for (name, bytes) in &seeds {
            std::fs::write(folder.join(name), bytes).expect("writable");
        }
    }
    let listed = std::fs::read_dir(&folder).expect("the corpus is there").count();
    assert_eq!(listed, seeds.len(), "a seed without its maker, or a maker without its seed");
    for (name, bytes) in &seeds {
        assert_eq!(&std::fs::read(folder.join(name)).expect("readable"), bytes, "{name}: set UNSWAG_WRITE_CORPUS=1");
    }
}
