//! Counts bytes as they come and go. A backend charges every tensor that owns memory, for as long as it lives.

use std::{cell::Cell, rc::Rc};

#[derive(Debug, Default)]
struct Counts {
    live: Cell<u64>,
    peak: Cell<u64>,
}

/// Bytes alive now and at most. Clones share one count.
#[derive(Clone, Debug, Default)]
pub struct Meter(Rc<Counts>);

impl Meter {
    pub fn live(&self) -> u64 {
        self.0.live.get()
    }

    /// The most that was alive at once since the last [`Meter::reset_peak`].
    pub fn peak(&self) -> u64 {
        self.0.peak.get()
    }

    pub fn reset_peak(&self) {
        self.0.peak.set(self.live());
    }

    /// Counts `bytes` until the charge is dropped.
    pub fn charge(&self, bytes: u64) -> Charge {
        let live = self.live() + bytes;
        self.0.live.set(live);
        self.0.peak.set(self.peak().max(live));
        Charge { meter: self.clone(), bytes }
    }
}

/// Bytes that are alive as long as this is.
#[derive(Debug)]
pub struct Charge {
    meter: Meter,
    bytes: u64,
}

impl Charge {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.meter.0.live.set(self.meter.live() - self.bytes);
    }
}
