//! Where a run's metrics go, and how a run waits for a full disk.

use crate::{
    Observer, TrainError,
    metrics::{MetricsFile, StepMetrics},
    tensorboard::EventFile,
};

/// Where each step's figures are written.
pub(crate) struct Logs {
    pub metrics: Option<MetricsFile>,
    pub events: Option<EventFile>,
}

impl Logs {
    /// # Errors
    /// The disk refuses, and the observer does not want to try once more.
    pub fn append(&mut self, metrics: &StepMetrics, observer: &mut dyn Observer) -> Result<(), TrainError> {
        if let Some(file) = &mut self.metrics {
            again(observer, || file.append(metrics))?;
        }
        if let Some(file) = &mut self.events {
            again(observer, || file.append(metrics))?;
        }
        Ok(())
    }
}

/// Repeats the work for as long as the disk is full and the observer says so.
///
/// # Errors
/// Those of the work.
pub(crate) fn again<T>(
    observer: &mut dyn Observer,
    mut work: impl FnMut() -> Result<T, TrainError>,
) -> Result<T, TrainError> {
    loop {
        match work() {
            Err(error) if error.is_disk_full() && observer.tries_again(&error) => {}
            other => return other,
        }
    }
}
