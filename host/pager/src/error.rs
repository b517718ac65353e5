use std::{io, path::PathBuf};

/// Why bytes could not be kept outside of memory, or fetched back.
#[derive(Debug, thiserror::Error)]
pub enum PagerError {
    #[error("cannot make a file in {}; name a folder that can be written", folder.display())]
    Open { folder: PathBuf, source: io::Error },
    #[error("{} is kept in memory, so that nothing would be gained; name a folder on a disk", folder.display())]
    InMemory { folder: PathBuf },
    #[error("cannot reserve {bytes} bytes for a file in {}; free some space, or name a folder on another disk", folder.display())]
    Reserve { folder: PathBuf, bytes: u64, source: io::Error },
    #[error("cannot write {bytes} bytes to the file in {}; is its disk full?", folder.display())]
    Write { folder: PathBuf, bytes: u64, source: io::Error },
    #[error("cannot read {bytes} bytes back from the file in {}", folder.display())]
    Read { folder: PathBuf, bytes: u64, source: io::Error },
    #[error("a pager of {page_bytes}-byte pages: expected a budget of at least one page, got {budget_bytes} bytes")]
    Budget { budget_bytes: u64, page_bytes: u64 },
    #[error("pages of {page_bytes} bytes: expected a multiple of 8, at least 8")]
    PageSize { page_bytes: u64 },
    #[error("cannot start the thread that moves pages")]
    Thread { source: io::Error },
}

impl PagerError {
    /// Whether it is the disk's lack of space.
    pub fn is_disk_full(&self) -> bool {
        let (PagerError::Open { source, .. } | PagerError::Reserve { source, .. } | PagerError::Write { source, .. }) =
            self
        else {
            return false;
        };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}
