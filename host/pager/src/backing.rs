//! Where pages lie that are not in memory.

use std::{collections::HashMap, path::Path};

use crate::{PagerError, ScratchFile};

/// Holds pages by their numbers. Used from one thread, the pager's own. All pages of a pager have one length.
pub trait Backing: Send {
    /// Takes a page's bytes, in the place of those that it had.
    ///
    /// # Errors
    /// No room, or whatever it is made of fails. What it then has under that number is not asked for again.
    fn store(&mut self, page: usize, bytes: &[u8]) -> Result<(), PagerError>;

    /// Gives back what was stored last under this number. Asked only for what was stored.
    ///
    /// # Errors
    /// Whatever it is made of fails.
    fn load(&mut self, page: usize, into: &mut [u8]) -> Result<(), PagerError>;
}

/// Memory beside the budget: for frames on a device, whose host has more.
#[derive(Debug, Default)]
pub struct MemoryBacking {
    pages: HashMap<usize, Box<[u8]>>,
}

impl Backing for MemoryBacking {
    fn store(&mut self, page: usize, bytes: &[u8]) -> Result<(), PagerError> {
        match self.pages.get_mut(&page) {
            Some(stored) => stored.copy_from_slice(bytes),
            None => drop(self.pages.insert(page, bytes.into())),
        }
        Ok(())
    }

    fn load(&mut self, page: usize, into: &mut [u8]) -> Result<(), PagerError> {
        into.copy_from_slice(self.pages.get(&page).expect("the pager asks for what it stored"));
        Ok(())
    }
}

/// A file without a name, whose space is taken at once.
#[derive(Debug)]
pub struct FileBacking {
    file: ScratchFile,
}

impl FileBacking {
    /// # Errors
    /// The folder cannot be written or is kept in memory, or its disk has not `pages * page_bytes` free.
    pub fn new(folder: &Path, pages: usize, page_bytes: usize) -> Result<Self, PagerError> {
        let file = ScratchFile::new(folder)?;
        file.reserve(pages as u64 * page_bytes as u64)?;
        Ok(FileBacking { file })
    }
}

impl Backing for FileBacking {
    fn store(&mut self, page: usize, bytes: &[u8]) -> Result<(), PagerError> {
        self.file.write_at(bytes, page as u64 * bytes.len() as u64)
    }

    fn load(&mut self, page: usize, into: &mut [u8]) -> Result<(), PagerError> {
        self.file.read_at(into, page as u64 * into.len() as u64)
    }
}
