//! Tensors in a file, out of the process's memory, until they are needed again.
//!
//! The file is a [`ScratchFile`]: it has no name, and is never on a file system that is memory itself.

use std::{collections::HashMap, path::Path};

use tch::Device;
use unswag_abi::doc::Dtype;
use unswag_engine::{Backend, Charge, EngineError, Meter, Store};
use unswag_pager::{PagerError, ScratchFile};

use crate::{
    Torch, TorchTensor,
    cpu::{read_bytes, write_bytes},
};

struct Slot {
    offset: u64,
    shape: [u64; 2],
    dtype: Dtype,
    charge: Charge,
}

/// A [`Store`] in a file.
pub struct FileStore {
    torch: Torch,
    file: ScratchFile,
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
    pub fn new(torch: &Torch, folder: &Path) -> Result<Self, PagerError> {
        let file = ScratchFile::new(folder)?;
        Ok(FileStore { torch: torch.clone(), file, slots: HashMap::new(), end: 0, meter: Meter::default() })
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
        self.file.write_at(bytes, self.end).map_err(store_error)?;
        let charge = self.meter.charge(bytes.len() as u64);
        self.slots.insert(key, Slot { offset: self.end, shape, dtype, charge });
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn prefetch(&mut self, key: usize) {
        if let Some(slot) = self.slots.get(&key) {
            self.file.will_read(slot.charge.bytes(), slot.offset);
        }
    }

    fn take(&mut self, key: usize) -> Result<TorchTensor, EngineError> {
        let slot = self.slots.remove(&key).ok_or(EngineError::NotStored { key })?;
        let tensor = self.torch.zeros(slot.shape, slot.dtype)?;
        if tensor.tensor().device() == Device::Cpu {
            // SAFETY: the tensor was made just now.
            let elements = unsafe { write_bytes(tensor.tensor())? };
            self.file.read_at(elements, slot.offset).map_err(store_error)?;
            return Ok(tensor);
        }
        let mut elements = vec![0; slot.charge.bytes() as usize];
        self.file.read_at(&mut elements, slot.offset).map_err(store_error)?;
        drop(tensor);
        self.torch.tensor_from_bytes(slot.shape, slot.dtype, &elements)
    }
}

fn store_error(error: PagerError) -> EngineError {
    EngineError::Store(Box::new(error))
}
