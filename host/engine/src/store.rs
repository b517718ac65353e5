//! Where tensors go that are not needed for a while.

use std::collections::HashMap;

use unswag_abi::doc::Dtype;

use crate::{Backend, Charge, EngineError, Meta, MetaTensor, Meter, Work};

/// Holds tensors outside of the memory that a step works in. The engine knows no file: whoever runs it gives one.
pub trait Store<T> {
    /// Takes the tensor's elements. What was under the key before is replaced: a step that failed may have left it.
    ///
    /// # Errors
    /// No room, or whatever the store is made of fails.
    fn put(&mut self, key: usize, tensor: &T) -> Result<(), EngineError>;

    /// The tensor will be asked for soon.
    fn prefetch(&mut self, _key: usize) {}

    /// Gives the elements back, bit for bit, in a new tensor, and forgets them.
    ///
    /// # Errors
    /// Nothing is under the key, or the store fails.
    fn take(&mut self, key: usize) -> Result<T, EngineError>;
}

/// Refuses everything: for steps that offload nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoStore;

impl<T> Store<T> for NoStore {
    fn put(&mut self, _: usize, _: &T) -> Result<(), EngineError> {
        Err(EngineError::NoStore)
    }

    fn take(&mut self, _: usize) -> Result<T, EngineError> {
        Err(EngineError::NoStore)
    }
}

/// Counts what a store would hold.
#[derive(Debug)]
pub struct MetaStore {
    meta: Meta,
    meter: Meter,
    held: HashMap<usize, ([u64; 2], Dtype, Charge)>,
}

impl MetaStore {
    pub fn new(meta: &Meta) -> Self {
        MetaStore { meta: meta.clone(), meter: Meter::default(), held: HashMap::new() }
    }

    /// Bytes in the store.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    fn moved(&self, bytes: u64) {
        self.meta.ledger().work(Work { offload_bytes: bytes as f64, ..Work::default() });
    }
}

impl Store<MetaTensor> for MetaStore {
    fn put(&mut self, key: usize, tensor: &MetaTensor) -> Result<(), EngineError> {
        let (shape, dtype) = (self.meta.shape(tensor), self.meta.dtype(tensor));
        let bytes = shape[0] * shape[1] * dtype.bytes();
        self.moved(bytes);
        drop(self.held.remove(&key));
        self.held.insert(key, (shape, dtype, self.meter.charge(bytes)));
        Ok(())
    }

    fn take(&mut self, key: usize) -> Result<MetaTensor, EngineError> {
        let (shape, dtype, charge) = self.held.remove(&key).ok_or(EngineError::NotStored { key })?;
        self.moved(charge.bytes());
        Ok(self.meta.tensor(shape, dtype))
    }
}
