//! In which order tasks add to the sums of a block of keys: the same order, whatever the threads.
//!
//! Tasks are taken in the order of `Place::all`, the last queries first, and each goes through its keys from the first on. So the
//! task that another waits for was always taken before it, and the first of those at work waits for nobody.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{
    Attention, KEYS, QUERIES,
    task::{Place, Seen},
};

pub(super) struct Turns {
    /// For each sequence, head and block of keys: the block of queries that adds next, plus one; 0 where all have.
    next: Vec<AtomicUsize>,
    /// For each sequence and block of keys: the first and the last block of queries that sees any of it.
    seen_by: Vec<[usize; 2]>,
    heads: usize,
    blocks: usize,
    /// A task panicked: nobody shall wait for it.
    is_broken: AtomicBool,
}

impl Turns {
    pub(super) fn new(config: &Attention<'_>) -> Self {
        let blocks = config.seq.div_ceil(KEYS);
        let mut seen_by = vec![[usize::MAX, 0]; config.batch * blocks];
        for sequence in 0..config.batch {
            for block in 0..config.seq.div_ceil(QUERIES) {
                let [start, end] = Seen::of(config, &Place { sequence, kv_head: 0, block }).keys();
                for keys in &mut seen_by[sequence * blocks + start / KEYS..sequence * blocks + end.div_ceil(KEYS)] {
                    *keys = [keys[0].min(block), keys[1].max(block)];
                }
            }
        }
        let head = |sequence: usize| seen_by[sequence * blocks..(sequence + 1) * blocks].iter();
        let next = (0..config.batch).flat_map(|sequence| (0..config.kv_heads).flat_map(move |_| head(sequence)));
        let next = next.map(|[_, last]| AtomicUsize::new(last + 1)).collect();
        Turns { next, seen_by, heads: config.kv_heads, blocks, is_broken: AtomicBool::new(false) }
    }

    /// The place of a block of keys among the sums.
    pub(super) fn index(&self, place: &Place, keys: usize) -> usize {
        (place.sequence * self.heads + place.kv_head) * self.blocks + keys
    }

    /// Whether the task is the first, and whether it is the last, that adds to a block of keys.
    pub(super) fn ends(&self, place: &Place, keys: usize) -> [bool; 2] {
        let [first, last] = self.seen_by[place.sequence * self.blocks + keys];
        [place.block == last, place.block == first]
    }

    /// Returns when it is the task's turn.
    ///
    /// # Panics
    /// If another task panicked.
    pub(super) fn wait(&self, place: &Place, keys: usize) {
        let next = &self.next[self.index(place, keys)];
        let mut tries = 0_u32;
        while next.load(Ordering::Acquire) != place.block + 1 {
            assert!(!self.is_broken.load(Ordering::Relaxed), "a task of the same call panicked");
            tries += 1;
            if tries < 100 {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }

    /// Gives the turn on.
    pub(super) fn done(&self, place: &Place, keys: usize) {
        self.next[self.index(place, keys)].store(place.block, Ordering::Release);
    }

    /// Tells the others, unless it is forgotten.
    pub(super) fn guard(&self) -> Guard<'_> {
        Guard(&self.is_broken)
    }
}

pub(super) struct Guard<'a>(&'a AtomicBool);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
