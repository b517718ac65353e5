//! By how much a process grew. Alone in its file: nothing else may allocate beside it.

use std::{fs, hint::black_box, io::Write};

use memmap2::MmapOptions;
use tempfile::TempDir;
use unswag_tests::{Family, Tiny};
use unswag_train::{LoraConfig, UnswagModel};

const BYTES: usize = 64 << 20;
/// What the C library and the test's own harness may take in between.
const BESIDE: u64 = 8 << 20;

#[test]
fn what_was_written_counts_when_it_is_gone_and_pages_of_a_library_do_not() {
    let temp = TempDir::new().expect("a folder");
    let model = temp.path().join("model");
    Tiny::new(Family::Llama).write(&model);
    let loaded = UnswagModel::from_pretrained(&model).expect("a model");
    let loaded = loaded.for_training(LoraConfig::default()).expect("adapters");
    let grew = || loaded.resident_growth_bytes().expect("the system says it");
    let at_first = grew();

    // As the loader maps a library: private, and never written.
    let library = temp.path().join("library.so");
    let file = fs::File::create_new(&library).expect("created");
    (0..BYTES >> 20).for_each(|_| (&file).write_all(&[1; 1 << 20]).expect("written"));
    let file = fs::File::open(&library).expect("opened");
    // SAFETY: nothing else knows the file.
    let mapped = unsafe { MmapOptions::new().map_copy_read_only(&file) }.expect("mapped");
    assert_eq!(mapped.iter().map(|byte| usize::from(*byte)).sum::<usize>(), BYTES, "every page is touched");
    let with_library = grew();
    assert!(with_library <= at_first + BESIDE, "{at_first}, then {with_library} with {BYTES} of a library");

    drop(black_box(vec![1_u8; BYTES]));
    let most = grew();
    assert!(most >= at_first + BYTES as u64 - BESIDE, "{at_first}, then {most} with {BYTES} written");
}
