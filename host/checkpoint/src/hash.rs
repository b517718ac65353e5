//! BLAKE3 of whole files, on all cores and in little memory.
//!
//! BLAKE3 is a tree: the file is cut into subtrees of a power of two, each thread reads and hashes some of them in pieces
//! that stay in its cache, and the subtrees' values are put together at the end. The result is that of `b3sum`.
//! Files are read, not mapped: mapped pages would count as this process's memory, and a file cut short would kill it.

use std::{
    fs::File,
    io,
    num::NonZero,
    ops::ControlFlow,
    panic::resume_unwind,
    path::Path,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use blake3::{
    Hasher,
    hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root},
};

use crate::{error::Error, open};

pub use blake3::Hash;

/// Called now and then with the bytes done since the last call; `Break` stops the work with `Cancelled`.
pub type Progress<'a> = dyn Fn(u64) -> ControlFlow<()> + Sync + 'a;

/// A [`Progress`] for those who do not want to know.
pub fn silent(_bytes: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Read at a time: small enough to be hashed from the second-level cache.
const PIECE_BYTES: usize = 128 << 10;
/// Smallest subtree that a thread takes.
const MIN_SUBTREE_BYTES: u64 = 1 << 20;
/// Bounds the list of subtrees' values, 32 bytes each, for files of any length: 2^16 of them take 2 MiB.
const MAX_SUBTREES: u64 = 1 << 16;

/// BLAKE3 of the file at `path`.
///
/// # Errors
/// It cannot be read, it shrinks while it is read, or `progress` says to stop.
pub fn hash_file(path: impl AsRef<Path>, progress: &Progress<'_>) -> Result<Hash, Error> {
    let path = path.as_ref();
    let (file, metadata) = open::regular_file(path)?;
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    match hash_open_file(&file, metadata.len(), threads, &Gate::open(), progress) {
        Ok(Some(hash)) => Ok(hash),
        Ok(None) => Err(Error::Cancelled),
        Err(source) if source.kind() == io::ErrorKind::UnexpectedEof => Err(Error::Changed {
            path: path.to_owned(),
            was_bytes: metadata.len(),
            now_bytes: file.metadata().map_or(0, |metadata| metadata.len()),
        }),
        Err(source) => Err(Error::io(path, "read it", source)),
    }
}

/// How far the hashing threads may go: behind a copy, so that they find its pages in memory.
pub(crate) struct Gate {
    limit: Mutex<u64>,
    moved: Condvar,
}

impl Gate {
    /// Nothing to wait for.
    pub fn open() -> Self {
        Gate::at(u64::MAX)
    }

    pub fn at(limit: u64) -> Self {
        Gate { limit: Mutex::new(limit), moved: Condvar::new() }
    }

    pub fn move_to(&self, limit: u64) {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner) = limit;
        self.moved.notify_all();
    }

    fn wait_for(&self, offset: u64) {
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        while *limit < offset {
            limit = self.moved.wait(limit).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// BLAKE3 of the first `bytes` bytes of `file`, by `threads` threads, none of which reads past `gate`. `None` where
/// `progress` said to stop.
pub(crate) fn hash_open_file(
    file: &File,
    bytes: u64,
    threads: usize,
    gate: &Gate,
    progress: &Progress<'_>,
) -> io::Result<Option<Hash>> {
    let subtree_bytes = (bytes / MAX_SUBTREES).next_power_of_two().max(MIN_SUBTREE_BYTES);
    let subtrees = bytes.div_ceil(subtree_bytes);
    let work =
        Work { file, bytes, subtree_bytes, next: AtomicU64::new(0), stop: AtomicBool::new(false), gate, progress };
    if subtrees <= 1 {
        // One subtree is the whole tree, whose root is finished differently.
        let hasher = work.hash_subtree(0, &mut Vec::new())?;
        return Ok(hasher.map(|hasher| hasher.finalize()));
    }

    let threads = (threads as u64).clamp(1, subtrees) as usize;
    let parts: Vec<io::Result<Vec<(u64, ChainingValue)>>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| work.run(subtrees))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let mut values = vec![ChainingValue::default(); subtrees as usize];
    for part in parts {
        for (subtree, value) in part? {
            values[subtree as usize] = value;
        }
    }
    if work.stop.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let (left, right) = values.split_at(left_subtrees(values.len()));
    Ok(Some(merge_subtrees_root(&merge(left), &merge(right), Mode::Hash)))
}

struct Work<'a> {
    file: &'a File,
    bytes: u64,
    subtree_bytes: u64,
    next: AtomicU64,
    stop: AtomicBool,
    gate: &'a Gate,
    progress: &'a Progress<'a>,
}

impl Work<'_> {
    fn run(&self, subtrees: u64) -> io::Result<Vec<(u64, ChainingValue)>> {
        let mut values = Vec::new();
        let mut buffer = Vec::new();
        loop {
            let subtree = self.next.fetch_add(1, Ordering::Relaxed);
            if subtree >= subtrees || self.stop.load(Ordering::Relaxed) {
                return Ok(values);
            }
            match self.hash_subtree(subtree, &mut buffer) {
                Ok(Some(hasher)) => values.push((subtree, hasher.finalize_non_root())),
                Ok(None) => return Ok(values),
                Err(error) => {
                    // The other threads need not finish what nobody will use.
                    self.stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    }

    /// `None` where the work is to stop.
    fn hash_subtree(&self, subtree: u64, buffer: &mut Vec<u8>) -> io::Result<Option<Hasher>> {
        let start = subtree * self.subtree_bytes;
        let end = (start + self.subtree_bytes).min(self.bytes);
        let mut hasher = Hasher::new();
        hasher.set_input_offset(start);
        buffer.resize(PIECE_BYTES, 0);
        let mut offset = start;
        while offset < end {
            let piece = &mut buffer[..PIECE_BYTES.min((end - offset) as usize)];
            self.gate.wait_for(offset + piece.len() as u64);
            open::read_exact_at(self.file, piece, offset)?;
            hasher.update(piece);
            offset += piece.len() as u64;
        }
        if (self.progress)(end - start).is_break() || self.stop.load(Ordering::Relaxed) {
            self.stop.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        Ok(Some(hasher))
    }
}

/// A tree's left half is the largest power of two that leaves something to the right.
fn left_subtrees(count: usize) -> usize {
    count.next_power_of_two() / 2
}

/// The value of two or more subtrees, or of the one.
fn merge(values: &[ChainingValue]) -> ChainingValue {
    if let [value] = values {
        return *value;
    }
    let (left, right) = values.split_at(left_subtrees(values.len()));
    merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
}
