//! Memory does not grow with the data: every allocation is counted while files of several sizes are read.

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use common::{smollm2, text};
use tempfile::TempDir;
use unswag_data::{DataLoader, StreamingContextDataLoader, TextOptions};

struct Counting;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator as it came; the counters change nothing about it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE_BYTES.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK_BYTES.fetch_max(live, Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that reading a file through needs at its peak, over what was held before.
fn peak_over(pattern: &str, options: &TextOptions) -> (usize, u64) {
    let tokenizer = smollm2();
    let before = LIVE_BYTES.load(Relaxed);
    PEAK_BYTES.store(before, Relaxed);
    let mut loader = StreamingContextDataLoader::open(&[pattern.to_owned()], tokenizer, options).unwrap();
    let mut tokens = 0;
    while let Some(row) = loader.next_row().unwrap() {
        tokens += row.len() as u64;
    }
    (PEAK_BYTES.load(Relaxed) - before, tokens)
}

#[test]
fn memory_is_bounded_whatever_the_size_of_the_file() {
    let dir = TempDir::new().unwrap();
    let plays: Vec<String> = ["hamlet", "macbeth", "tempest", "othello"]
        .map(|name| {
            fs::read_to_string(unswag_tests::cached("shakespeare", &format!("data/shakespeare/{name}_gut.txt")))
                .unwrap()
        })
        .to_vec();
    let whole = plays.concat();
    let rows = |text: &str| -> String {
        text.split("\n\n").map(|part| format!("{}\n", serde_json::json!({ "text": part }))).collect()
    };
    let options = TextOptions { shuffle_seed: Some(1), shuffle_window: 64, overlap: 32, ..TextOptions::default() };
    for (kind, small, large) in
        [("txt", whole.clone(), whole.repeat(6)), ("jsonl", rows(&whole), rows(&whole.repeat(6)))]
    {
        let peaks = [small, large].map(|content| {
            let path = dir.path().join(format!("{}.{kind}", content.len()));
            fs::write(&path, &content).unwrap();
            let bytes = content.len();
            drop(content);
            let (peak, tokens) = peak_over(&text(&path), &options);
            println!("{kind}: {bytes} bytes of data, {tokens} tokens, at most {peak} bytes held");
            (bytes, peak)
        });
        let [(small_bytes, small_peak), (large_bytes, large_peak)] = peaks;
        assert!(large_bytes > 5 * small_bytes);
        // Six times the data, and less than a tenth more memory: caches of words are full by then.
        assert!(large_peak < small_peak + small_peak / 10 + (256 << 10), "{small_peak} then {large_peak}");
        assert!(large_peak < 24 << 20, "{large_peak}");
    }
}
