//! What is read is what was written, whatever the order, the budget and the faults of the backing.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use unswag_pager::{Backing, FileBacking, MemoryBacking, Pager, PagerError};

const PAGE_BYTES: usize = 64;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

fn in_memory() -> Box<dyn Backing> {
    Box::new(MemoryBacking::default())
}

/// What is done to a page of the pager, and to a plain vector.
#[derive(Clone, Debug)]
enum Act {
    Read(usize),
    Write(usize, usize, u8),
    /// All pages in order, as an optimizer does.
    Pass(u8),
}

fn acts(pages: usize) -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..pages).prop_map(Act::Read),
        4 => (0..pages, 0..PAGE_BYTES, any::<u8>()).prop_map(|(page, at, value)| Act::Write(page, at, value)),
        1 => any::<u8>().prop_map(Act::Pass),
    ];
    proptest::collection::vec(act, 0..200)
}

/// Does the act as often as the backing fails it; how often that was.
fn until_it_works(pager: &mut Pager, page: usize, change: impl Fn(&mut [u8])) -> u64 {
    for tries in 0..10_000 {
        match pager.write(page) {
            Ok(bytes) => {
                change(bytes);
                return tries;
            }
            Err(error) => assert!(error.to_string().contains("/faulty"), "{error}"),
        }
    }
    panic!("page {page} never comes");
}

/// Holds the pager against the vector through all acts; the faults that it met.
fn follow(pager: &mut Pager, budget_bytes: usize, acts: &[Act]) -> u64 {
    let mut model = vec![[0u8; PAGE_BYTES]; pager.pages()];
    let mut faults = 0;
    for act in acts {
        match *act {
            Act::Read(page) => {
                faults += until_it_works(pager, page, |_| ());
                assert_eq!(pager.read(page).expect("it is here"), model[page], "{act:?}");
            }
            Act::Write(page, at, value) => {
                model[page][at] = value;
                faults += until_it_works(pager, page, |bytes| bytes[at] = value);
            }
            Act::Pass(value) => {
                for (page, model) in model.iter_mut().enumerate() {
                    let at = page % PAGE_BYTES;
                    model[at] ^= value;
                    faults += until_it_works(pager, page, |bytes| bytes[at] ^= value);
                }
            }
        }
        assert!(pager.resident_bytes() <= budget_bytes, "{} bytes of {budget_bytes}", pager.resident_bytes());
    }
    for (page, model) in model.iter().enumerate() {
        faults += until_it_works(pager, page, |_| ());
        assert_eq!(pager.read(page).expect("it is here"), model, "page {page} at the end");
    }
    faults
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn pages_hold_what_a_plain_vector_holds_within_any_budget(
        (pages, acts) in (1usize..40).prop_flat_map(|pages| (Just(pages), acts(pages))),
        frames in 1usize..24,
        odd_bytes in 0..PAGE_BYTES,
    ) {
        let budget_bytes = frames * PAGE_BYTES + odd_bytes;
        let mut pager = Pager::new(pages, PAGE_BYTES, budget_bytes, in_memory()).expect("a pager");
        follow(&mut pager, budget_bytes, &acts);
    }

    #[test]
    fn a_backing_that_fails_costs_no_byte(
        (pages, acts) in (1usize..20).prop_flat_map(|pages| (Just(pages), acts(pages))),
        frames in 1usize..8,
        fails_of_256 in 1u64..160,
    ) {
        let backing = Faulty { fails_of_256, ..Faulty::default() };
        let mut pager = Pager::new(pages, PAGE_BYTES, frames * PAGE_BYTES, Box::new(backing)).expect("a pager");
        follow(&mut pager, frames * PAGE_BYTES, &acts);
    }
}

/// Fails by chance; a store that fails leaves half of the page.
#[derive(Default)]
struct Faulty {
    pages: MemoryBacking,
    fails_of_256: u64,
    calls: u64,
}

impl Faulty {
    fn fails(&mut self) -> bool {
        self.calls += 1;
        (self.calls.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) < self.fails_of_256
    }
}

impl Backing for Faulty {
    fn store(&mut self, page: usize, bytes: &[u8]) -> Result<(), PagerError> {
        if self.fails() {
            let torn = [&bytes[..bytes.len() / 2], &vec![0xee; bytes.len() - bytes.len() / 2]].concat();
            self.pages.store(page, &torn)?;
            return Err(full());
        }
        self.pages.store(page, bytes)
    }

    fn load(&mut self, page: usize, into: &mut [u8]) -> Result<(), PagerError> {
        if self.fails() {
            into.fill(0xee);
            let source = io::ErrorKind::Other.into();
            return Err(PagerError::Read { folder: "/faulty".into(), bytes: into.len() as u64, source });
        }
        self.pages.load(page, into)
    }
}

fn full() -> PagerError {
    let (folder, source) = (PathBuf::from("/faulty"), io::ErrorKind::StorageFull.into());
    PagerError::Write { folder, bytes: PAGE_BYTES as u64, source }
}

/// Full as long as its switch says so.
struct Full {
    pages: MemoryBacking,
    is_full: Arc<AtomicBool>,
}

impl Backing for Full {
    fn store(&mut self, page: usize, bytes: &[u8]) -> Result<(), PagerError> {
        if self.is_full.load(Ordering::SeqCst) { Err(full()) } else { self.pages.store(page, bytes) }
    }

    fn load(&mut self, page: usize, into: &mut [u8]) -> Result<(), PagerError> {
        self.pages.load(page, into)
    }
}

#[test]
fn a_full_disk_is_an_error_and_once_there_is_room_all_is_as_it_was() {
    let is_full = Arc::new(AtomicBool::new(false));
    let backing = Full { pages: MemoryBacking::default(), is_full: is_full.clone() };
    let mut pager = Pager::new(8, PAGE_BYTES, 2 * PAGE_BYTES, Box::new(backing)).expect("a pager");
    for page in 0..8 {
        pager.write(page).expect("room").fill(page as u8 + 1);
    }
    is_full.store(true, Ordering::SeqCst);
    let failed = (0..8).map(|page| pager.write(page).map(|bytes| bytes.fill(page as u8 + 101)));
    let failed: Vec<_> = failed.map(Result::err).collect();
    assert!(failed.iter().flatten().count() >= 5, "{failed:?}");
    assert!(failed.iter().flatten().all(PagerError::is_disk_full), "{failed:?}");
    is_full.store(false, Ordering::SeqCst);
    for (page, failed) in failed.iter().enumerate() {
        let value = if failed.is_some() { page as u8 + 1 } else { page as u8 + 101 };
        assert_eq!(pager.read(page).expect("room"), [value; PAGE_BYTES], "page {page}");
    }
}

#[test]
fn pages_that_were_never_written_are_zero_and_never_moved() {
    let mut pager = Pager::new(50, PAGE_BYTES, 3 * PAGE_BYTES, in_memory()).expect("a pager");
    for page in (0..50).rev().chain(0..50) {
        assert_eq!(pager.read(page).expect("in memory"), [0; PAGE_BYTES]);
    }
    assert_eq!(pager.transfers(), Default::default());
}

/// Least recently used would load every page of every round.
#[test]
fn going_round_only_what_exceeds_the_budget_is_moved() {
    const PAGES: usize = 100;
    const FRAMES: usize = 60;
    const ROUNDS: u64 = 10;
    let mut pager = Pager::new(PAGES, PAGE_BYTES, FRAMES * PAGE_BYTES, in_memory()).expect("a pager");
    let mut go_round = |rounds: u64| {
        for page in (0..rounds).flat_map(|_| 0..PAGES) {
            pager.write(page).expect("in memory")[0] += 1;
        }
        pager.transfers()
    };
    let before = go_round(2);
    let after = go_round(ROUNDS);
    let (stored, loaded) = (after.pages_stored - before.pages_stored, after.pages_loaded - before.pages_loaded);
    // Those that are fetched ahead and the one in use need frames too.
    let most = ROUNDS * (PAGES - FRAMES + 2 * 5) as u64;
    assert!(stored <= most && loaded <= most, "{stored} stored and {loaded} loaded in {ROUNDS} rounds, at most {most}");
    assert!(loaded >= ROUNDS * (PAGES - FRAMES) as u64, "{loaded} loaded: fewer than there is no room for");
}

/// Notes what is loaded.
struct Noted {
    pages: MemoryBacking,
    loaded: Arc<Mutex<Vec<usize>>>,
}

impl Backing for Noted {
    fn store(&mut self, page: usize, bytes: &[u8]) -> Result<(), PagerError> {
        self.pages.store(page, bytes)
    }

    fn load(&mut self, page: usize, into: &mut [u8]) -> Result<(), PagerError> {
        self.loaded.lock().expect("nobody panics with it").push(page);
        self.pages.load(page, into)
    }
}

#[test]
fn the_next_pages_come_while_one_is_used() {
    let loaded = Arc::new(Mutex::new(Vec::new()));
    let backing = Noted { pages: MemoryBacking::default(), loaded: loaded.clone() };
    let mut pager = Pager::new(32, PAGE_BYTES, 8 * PAGE_BYTES, Box::new(backing)).expect("a pager");
    for page in 0..32 {
        pager.write(page).expect("in memory")[0] = 1;
    }
    let page = pager.read(20).expect("in memory");
    assert_eq!(page[0], 1);
    loaded.lock().expect("nobody panics with it").clear();
    pager.read(21).expect("in memory");
    // Nobody asks for it: it comes all the same.
    let start = Instant::now();
    while !loaded.lock().expect("nobody panics with it").contains(&23) {
        assert!(start.elapsed() < Duration::from_secs(60), "loaded: {loaded:?}");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(!loaded.lock().expect("nobody panics with it").contains(&25), "too far ahead: {loaded:?}");
}

#[test]
fn a_file_gives_back_what_it_was_given_and_has_no_name() {
    let folder = folder();
    let backing = FileBacking::new(folder.path(), 64, 4096).expect("a file");
    let mut pager = Pager::new(64, 4096, 5 * 4096, Box::new(backing)).expect("a pager");
    let value = |page: usize, at: usize| (page * 31 + at * 7) as u8;
    for page in 0..64 {
        for (at, byte) in pager.write(page).expect("room").iter_mut().enumerate() {
            *byte = value(page, at);
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
    for page in (0..64).rev() {
        let bytes = pager.read(page).expect("room");
        assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == value(page, at)), "page {page}");
        assert!(bytes.as_ptr().cast::<u64>().is_aligned());
    }
    assert!(pager.transfers().pages_stored >= 59, "{:?}", pager.transfers());
}

#[test]
fn a_folder_that_cannot_be_used_is_refused_by_name() {
    let refused = |folder: &Path, bytes| FileBacking::new(folder, 1, bytes).expect_err("refused");
    let error = refused(Path::new("/no/such/folder"), 8);
    assert!(error.to_string().contains("/no/such/folder; name a folder that can be written"), "{error}");
    // Most systems keep this one in memory.
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        assert!(matches!(refused(memory, 8), PagerError::InMemory { .. }));
    }
    // More than any disk has.
    let folder = folder();
    let error = refused(folder.path(), 1 << 60);
    assert!(matches!(error, PagerError::Reserve { .. }), "{error}");
    assert!(error.to_string().contains(folder.path().to_str().expect("UTF-8")), "{error}");
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let refused =
        |pages, page_bytes, budget| Pager::new(pages, page_bytes, budget, in_memory()).err().expect("refused");
    assert!(matches!(refused(2, 64, 63), PagerError::Budget { budget_bytes: 63, page_bytes: 64 }));
    assert!(matches!(refused(2, 0, 64), PagerError::PageSize { page_bytes: 0 }));
    assert!(matches!(refused(2, 12, 64), PagerError::PageSize { page_bytes: 12 }));
    Pager::new(0, 64, 0, in_memory()).expect("nothing to hold");
}

#[test]
fn dropped_in_the_middle_a_pager_leaves_its_thread() {
    static STORED: AtomicU64 = AtomicU64::new(0);
    struct Slow;
    impl Backing for Slow {
        fn store(&mut self, _: usize, _: &[u8]) -> Result<(), PagerError> {
            thread::sleep(Duration::from_millis(5));
            STORED.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }

        fn load(&mut self, _: usize, _: &mut [u8]) -> Result<(), PagerError> {
            Ok(())
        }
    }
    let mut pager = Pager::new(16, PAGE_BYTES, 8 * PAGE_BYTES, Box::new(Slow)).expect("a pager");
    for page in 0..9 {
        pager.write(page).expect("it works")[0] = 1;
    }
    drop(pager);
    let stored = STORED.load(Ordering::SeqCst);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(STORED.load(Ordering::SeqCst), stored, "its thread goes on");
}
