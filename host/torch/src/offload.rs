//! Tensors in a file, out of the process's memory, until they are needed again.
//!
//! The file has no name: it is gone with the process, however that ends. It is written and read, not mapped: a full disk is an
//! error here and would be a signal there, and what is not mapped is never resident. The system keeps what was written in
//! memory that it can take back at any time, so that a tensor that comes back soon comes from there.
//!
//! Never on a file system that is memory itself: nothing would be gained.

use std::{
    collections::HashMap,
    fs::File,
    io,
    num::NonZeroU64,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rustix::fs::{Advice, fadvise, fstatfs};
use tch::Device;
use unswag_abi::doc::Dtype;
use unswag_engine::{Backend, Charge, EngineError, Meter, Store};

use crate::{
    Torch, TorchTensor,
    cpu::{read_bytes, write_bytes},
};

/// File systems in memory, by the numbers in Linux's `magic.h`.
const TMPFS_MAGIC: u64 = 0x0102_1994;
const RAMFS_MAGIC: u64 = 0x8584_58f6;

#[derive(Debug, thiserror::Error)]
pub enum OffloadError {
    #[error("offload: cannot make a file in {}; name a folder that can be written", folder.display())]
    Open { folder: PathBuf, source: io::Error },
    #[error(
        "offload: {} is kept in memory, so that nothing would be gained; name a folder on a disk",
        folder.display()
    )]
    InMemory { folder: PathBuf },
    #[error("offload: cannot write {bytes} bytes to the file in {}; is its disk full?", folder.display())]
    Write { folder: PathBuf, bytes: u64, source: io::Error },
    #[error("offload: cannot read {bytes} bytes back from the file in {}", folder.display())]
    Read { folder: PathBuf, bytes: u64, source: io::Error },
}

impl From<OffloadError> for EngineError {
    fn from(error: OffloadError) -> Self {
        EngineError::Store(Box::new(error))
    }
}

struct Slot {
    offset: u64,
    shape: [u64; 2],
    dtype: Dtype,
    charge: Charge,
}

/// A [`Store`] in a file.
pub struct FileStore {
    torch: Torch,
    folder: PathBuf,
    file: File,
    slots: HashMap<usize, Slot>,
    /// Where the next tensor goes.
    end: u64,
    meter: Meter,
}

impl FileStore {
    /// A file without a name in this folder. Tensors come back on the device of `torch`, counted by its meter.
    ///
    /// # Errors
    /// A folder that cannot be written, or one that is kept in memory.
    pub fn new(torch: &Torch, folder: &Path) -> Result<Self, OffloadError> {
        let open = |source| OffloadError::Open { folder: folder.to_owned(), source };
        let file = tempfile::tempfile_in(folder).map_err(open)?;
        let kind = fstatfs(&file).map_err(|error| open(error.into()))?.f_type as u64;
        if [TMPFS_MAGIC, RAMFS_MAGIC].contains(&kind) {
            return Err(OffloadError::InMemory { folder: folder.to_owned() });
        }
        let (torch, folder, meter) = (torch.clone(), folder.to_owned(), Meter::default());
        Ok(FileStore { torch, folder, file, slots: HashMap::new(), end: 0, meter })
    }

    /// Bytes of the tensors that are in the file.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }
}

impl Store<TorchTensor> for FileStore {
    fn put(&mut self, key: usize, tensor: &TorchTensor) -> Result<(), EngineError> {
        drop(self.slots.remove(&key));
        // A step takes back all that it put: the next one writes over it.
        if self.slots.is_empty() {
            self.end = 0;
        }
        let (shape, dtype) = (self.torch.shape(tensor), self.torch.dtype(tensor));
        let host =
            tensor.tensor().f_to_device(Device::Cpu).and_then(|x| x.f_contiguous()).map_err(crate::torch_error)?;
        let bytes = read_bytes(&host)?;
        let failed = |source| OffloadError::Write { folder: self.folder.clone(), bytes: bytes.len() as u64, source };
        self.file.write_all_at(bytes, self.end).map_err(failed)?;
        let charge = self.meter.charge(bytes.len() as u64);
        self.slots.insert(key, Slot { offset: self.end, shape, dtype, charge });
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn prefetch(&mut self, key: usize) {
        if let Some(slot) = self.slots.get(&key) {
            // A hint: where it is not taken, the tensor only comes later.
            let _ = fadvise(&self.file, slot.offset, NonZeroU64::new(slot.charge.bytes()), Advice::WillNeed);
        }
    }

    fn take(&mut self, key: usize) -> Result<TorchTensor, EngineError> {
        let slot = self.slots.remove(&key).ok_or(EngineError::NotStored { key })?;
        let bytes = slot.charge.bytes();
        let failed = |source| OffloadError::Read { folder: self.folder.clone(), bytes, source };
        let tensor = self.torch.zeros(slot.shape, slot.dtype)?;
        if tensor.tensor().device() == Device::Cpu {
            // SAFETY: the tensor was made just now.
            let elements = unsafe { write_bytes(tensor.tensor())? };
            self.file.read_exact_at(elements, slot.offset).map_err(failed)?;
            return Ok(tensor);
        }
        let mut elements = vec![0; bytes as usize];
        self.file.read_exact_at(&mut elements, slot.offset).map_err(failed)?;
        drop(tensor);
        self.torch.tensor_from_bytes(slot.shape, slot.dtype, &elements)
    }
}
