//! Hashes of files are those of BLAKE3 itself, whatever the length and however the file is cut into subtrees.

use std::{fs, ops::ControlFlow};

use proptest::prelude::*;
use unswag_checkpoint::{Error, hash_file, silent};

const MIB: usize = 1 << 20;

/// Bytes that differ at every offset that matters to a tree of 1 KiB chunks.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|offset| (offset ^ (offset >> 8) ^ (offset >> 16).wrapping_mul(31)) as u8).collect()
}

#[test]
fn files_of_every_shape_of_tree_hash_as_blake3_says() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = scratch.path().join("file");
    let around = |count: usize| [count - 1, count, count + 1];
    let counts = [0, 1, 1023, 1024, 1025, 128 << 10].into_iter();
    let counts = counts.chain([1, 2, 3, 5, 8].into_iter().flat_map(|mib| around(mib * MIB)));
    for count in counts {
        let bytes = bytes(count);
        fs::write(&path, &bytes).expect("written");
        assert_eq!(hash_file(&path, &silent).expect("hashed"), blake3::hash(&bytes), "{count} bytes");
    }
}

#[test]
fn hashing_can_be_stopped_and_missing_files_are_named() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = scratch.path().join("file");
    assert!(matches!(hash_file(&path, &silent), Err(Error::Missing { .. })));
    fs::write(&path, bytes(9 * MIB)).expect("written");
    assert!(matches!(hash_file(&path, &|_| ControlFlow::Break(())), Err(Error::Cancelled)));
    assert!(matches!(hash_file(scratch.path(), &silent), Err(Error::NotAFile { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20) })]

    #[test]
    fn any_length_hashes_as_blake3_says(count in 0..6 * MIB) {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let path = scratch.path().join("file");
        let bytes = bytes(count);
        fs::write(&path, &bytes).expect("written");
        prop_assert_eq!(hash_file(&path, &silent).expect("hashed"), blake3::hash(&bytes));
    }
}
