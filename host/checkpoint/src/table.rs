//! The list of a checkpoint's tensors, in file order and by name.
//!
//! Compact on purpose: names and sizes live in two shared pools and a row takes 32 bytes, so that a header with a million
//! tensors costs little more memory than its own text. It must never reserve memory because a file claims a number.

use std::{hash::BuildHasher, hash::RandomState, ops::Range};

use hashbrown::{HashTable, hash_table::Entry};
use unswag_abi::doc::Dtype;

/// One tensor: what it is and where its bytes are. Borrowed from the [`TensorTable`] that lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    /// Sizes, outermost first; empty for a scalar.
    pub shape: &'a [u64],
    /// Index of the file that holds it.
    pub file: usize,
    /// Its bytes, counted from the start of that file. Elements lie row-major and little-endian; the start is aligned to
    /// the element only in files whose writer padded the header.
    pub range: Range<u64>,
}

impl TensorInfo<'_> {
    /// Bytes of data.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.bytes() / self.dtype.bytes()
    }
}

/// Tensors in file order (by file, then by offset), found by name in constant time.
#[derive(Clone, Debug, Default)]
pub struct TensorTable {
    names: String,
    sizes: Vec<u64>,
    rows: Vec<Row>,
    by_name: HashTable<u32>,
    state: RandomState,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub start: u64,
    pub end: u64,
    pub file: u32,
    pub dtype: Dtype,
    rank: u8,
    name_len: u16,
    name_start: u32,
    sizes_start: u32,
}

/// Why a row was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Names,
    Sizes,
}

impl TensorTable {
    /// Longest tensor name in bytes. Real names stay under 200.
    pub const MAX_NAME_BYTES: usize = 4096;
    /// Most dimensions of one tensor.
    pub const MAX_RANK: usize = 64;

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All tensors in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = TensorInfo<'_>> + Clone {
        self.rows.iter().map(|row| self.info(row))
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<TensorInfo<'_>> {
        self.position(name).map(|position| self.info(&self.rows[position]))
    }

    /// Where in [`TensorTable::iter`] the tensor called `name` stands.
    pub fn position(&self, name: &str) -> Option<usize> {
        let hash = self.state.hash_one(name);
        let found = self.by_name.find(hash, |&at| self.name(&self.rows[at as usize]) == name)?;
        Some(*found as usize)
    }

    /// The tensor at `position` of [`TensorTable::iter`].
    pub fn at(&self, position: usize) -> Option<TensorInfo<'_>> {
        self.rows.get(position).map(|row| self.info(row))
    }

    pub(crate) fn sizes_len(&self) -> usize {
        self.sizes.len()
    }

    pub(crate) fn sizes_from(&self, start: usize) -> &[u64] {
        &self.sizes[start..]
    }

    pub(crate) fn push_size(&mut self, size: u64) {
        self.sizes.push(size);
    }

    /// Adds a row whose sizes are those pushed since `sizes_start`. [`TensorTable::index`] makes it findable by name.
    pub(crate) fn push(
        &mut self,
        name: &str,
        dtype: Dtype,
        sizes_start: usize,
        range: Range<u64>,
        file: u32,
    ) -> Result<(), Full> {
        let name_start = u32::try_from(self.names.len()).map_err(|_| Full::Names)?;
        let name_len = u16::try_from(name.len()).map_err(|_| Full::Names)?;
        let rank = u8::try_from(self.sizes.len() - sizes_start).map_err(|_| Full::Sizes)?;
        let sizes_start = u32::try_from(sizes_start).map_err(|_| Full::Sizes)?;
        self.names.push_str(name);
        let Range { start, end } = range;
        self.rows.push(Row { start, end, file, dtype, rank, name_len, name_start, sizes_start });
        Ok(())
    }

    /// Sorts the rows by file and offset, and indexes them by name. A name that stands twice is returned as the error.
    pub(crate) fn index(&mut self) -> Result<(), String> {
        self.rows.sort_by_key(|row| (row.file, row.start, row.end));
        let TensorTable { names, rows, by_name, state, .. } = self;
        let name_of = |at: u32| {
            let row = &rows[at as usize];
            &names[row.name_start as usize..][..usize::from(row.name_len)]
        };
        by_name.clear();
        by_name.reserve(rows.len(), |&at| state.hash_one(name_of(at)));
        for at in 0..rows.len() as u32 {
            let name = name_of(at);
            let entry = by_name.entry(
                state.hash_one(name),
                |&other| name_of(other) == name,
                |&other| state.hash_one(name_of(other)),
            );
            match entry {
                Entry::Occupied(_) => return Err(name.to_owned()),
                Entry::Vacant(vacant) => drop(vacant.insert(at)),
            }
        }
        Ok(())
    }

    /// Appends another file's tensors, as those of file number `file`. Call [`TensorTable::index`] after the last one.
    pub(crate) fn absorb(&mut self, other: &TensorTable, file: u32) -> Result<(), Full> {
        for info in other.iter() {
            let sizes_start = self.sizes.len();
            self.sizes.extend_from_slice(info.shape);
            self.push(info.name, info.dtype, sizes_start, info.range, file)?;
        }
        Ok(())
    }

    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub(crate) fn name(&self, row: &Row) -> &str {
        &self.names[row.name_start as usize..][..usize::from(row.name_len)]
    }

    fn info(&self, row: &Row) -> TensorInfo<'_> {
        TensorInfo {
            name: self.name(row),
            dtype: row.dtype,
            shape: &self.sizes[row.sizes_start as usize..][..usize::from(row.rank)],
            file: row.file as usize,
            range: row.start..row.end,
        }
    }
}
