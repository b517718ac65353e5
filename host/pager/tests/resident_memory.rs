//! That pages outside of the budget are outside of resident memory. Alone in its program: what others do would be counted too.

use std::path::Path;

use unswag_pager::{FileBacking, Pager};

const PAGE_BYTES: usize = 1 << 20;
const PAGES: usize = 256;
const FRAMES: usize = 16;

/// The most that was resident since the process began.
fn most_resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("every process has it");
    1024 * line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number")
}

#[test]
fn sixteen_times_its_budget_takes_its_budget_of_resident_memory() {
    let backing = FileBacking::new(Path::new(env!("CARGO_TARGET_TMPDIR")), PAGES, PAGE_BYTES).expect("a file");
    let mut pager = Pager::new(PAGES, PAGE_BYTES, FRAMES * PAGE_BYTES, Box::new(backing)).expect("a pager");
    let before = most_resident_bytes();
    for round in 1..=3 {
        for page in 0..PAGES {
            for byte in pager.write(page).expect("room").chunks_mut(64) {
                byte[0] = byte[0].wrapping_add(page as u8);
            }
        }
        let grew = most_resident_bytes() - before;
        // What a thread and the page table take beside the frames.
        let most = FRAMES * PAGE_BYTES + (1 << 20);
        assert!(grew <= most, "round {round}: grew by {grew} bytes, {most} are expected at most");
    }
    for page in 0..PAGES {
        let value = (page as u8).wrapping_mul(3);
        assert!(pager.read(page).expect("room").chunks(64).all(|bytes| bytes[0] == value), "page {page}");
    }
}
