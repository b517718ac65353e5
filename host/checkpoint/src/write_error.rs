//! What can go wrong while something is written. Whatever it is, the base checkpoint and the old output are as they were.

use std::{error::Error as StdError, io, path::PathBuf};

use crate::{
    error::Error,
    header::{HeaderError, TensorFault},
    text::{Quoted, human_bytes},
};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    #[error("{}: cannot {action}; nothing was changed", path.display())]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    #[error("{}: the disk is full or the quota reached; nothing was changed, free some space and run it again", path.display())]
    DiskFull { path: PathBuf, source: io::Error },
    #[error(
        "{}: {} are needed and {} are free; free some space, or choose an output on another disk",
        path.display(), human_bytes(*needed_bytes), human_bytes(*free_bytes)
    )]
    NoSpace { path: PathBuf, needed_bytes: u64, free_bytes: u64 },
    #[error("{}: not a name for an output; give the path of a folder to make", path.display())]
    BadOutput { path: PathBuf },
    #[error("{}: the folder that should hold the output does not exist; make it first", path.display())]
    NoParent { path: PathBuf },
    #[error("{}: another run is writing this output; wait for it, or choose another output", path.display())]
    Busy { path: PathBuf },
    #[error("{}: already there; choose another output, or remove it first", path.display())]
    Exists { path: PathBuf },
    #[error("{}: the output is the base checkpoint itself ({how}), which is never changed; choose another output", path.display())]
    IsBase { path: PathBuf, how: &'static str },
    #[error("{}: the output lies inside the base checkpoint {}, which is never changed; choose another output", path.display(), base.display())]
    InsideBase { path: PathBuf, base: PathBuf },
    #[error("{}: the output would take the place of a folder that holds the base checkpoint {}; choose another output", path.display(), base.display())]
    HoldsBase { path: PathBuf, base: PathBuf },
    #[error("{}: the output is a symbolic link{}; give the path of a folder to make", path.display(), leads_to(target))]
    IsLink { path: PathBuf, target: Option<PathBuf> },
    #[error("{}: this file system cannot swap two folders in one step; remove the old output first, or choose another", path.display())]
    CannotExchange { path: PathBuf, source: io::Error },
    #[error("{name} cannot be the name of a file in the output: {why}")]
    BadName { name: Quoted, why: &'static str },
    #[error("{}: cannot be hard-linked into {}; leave out --link to copy it", path.display(), out.display())]
    CannotLink { path: PathBuf, out: PathBuf, source: io::Error },
    #[error("{}: the file changed while it was copied; let the other program finish and run it again", path.display())]
    SourceChanged { path: PathBuf },
    #[error("{}: tensor {tensor}: {fault}", path.display())]
    Tensor { path: PathBuf, tensor: Quoted, fault: TensorFault },
    #[error("{}: these tensors make no sound file: {fault}", path.display())]
    Header { path: PathBuf, fault: HeaderError },
    #[error("{}: the header of these tensors would be {}; split them over several files", path.display(), human_bytes(*header_bytes))]
    HeaderTooLong { path: PathBuf, header_bytes: u64 },
    #[error("tensor {tensor}: its shape takes {expected_bytes} bytes, its data are {found_bytes}")]
    WrongSize { tensor: Quoted, expected_bytes: u64, found_bytes: u64 },
    #[error("tensor {tensor}: its data could not be made")]
    Produce { tensor: Quoted, source: Box<dyn StdError + Send + Sync> },
    #[error("stopped; nothing was changed")]
    Cancelled,
    #[error(transparent)]
    Read(#[from] Error),
}

fn leads_to(target: &Option<PathBuf>) -> String {
    target.as_ref().map(|target| format!(" to {}", target.display())).unwrap_or_default()
}

impl WriteError {
    pub(crate) fn io(path: impl Into<PathBuf>, action: &'static str, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => WriteError::DiskFull { path, source },
            _ => WriteError::Io { path, action, source },
        }
    }
}
