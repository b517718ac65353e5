//! `metrics.jsonl`: one JSON object for each step, each written whole by one call.
//!
//! A line is appended when its step is done. After a kill the file may be ahead of the checkpoint that is resumed from, or end
//! in half a line: what is behind the checkpoint is cut off, so that no step stands twice.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize};
use unswag_checkpoint::regular_file;

use crate::TrainError;

/// The file's name in the output folder.
pub const METRICS: &str = "metrics.jsonl";

/// The longest line that is looked at: ours are a few hundred bytes.
const MAX_LINE_BYTES: u64 = 1 << 16;

/// What is written of one step. The names are defined in docs/metrics.md.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepMetrics {
    /// From 1.
    pub step: u64,
    /// Mean over the step's supervised tokens, in nats, before the step; `null` where it is not finite.
    #[serde(deserialize_with = "or_nan")]
    pub loss: f64,
    pub lr: f64,
    /// Before clipping.
    #[serde(deserialize_with = "or_nan")]
    pub grad_norm: f64,
    /// Tokens read, without padding, divided by the time from the last step's end to this one's.
    pub tokens_per_s: f64,
    /// The most bytes that tensors took during the step, and the optimizer beside them.
    pub peak_bytes: u64,
    pub tokens: u64,
    /// How often the data was read when the step was done, the part of the running epoch included: as transformers counts it. Where
    /// the rows of an epoch were not counted (`max_steps`), epochs that are through alone.
    pub epoch: f64,
    /// Whether loss or gradient was not finite, so that no weight was updated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// Which of them was not: the loss, or the gradient of a tensor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_finite: Option<String>,
    /// Of the validation part, where it was measured after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
}

/// JSON has no NaN: it was written as `null`.
fn or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// The loss over the steps of this call that were not skipped.
#[derive(Default)]
pub(crate) struct Learned {
    sum: f64,
    steps: u64,
    /// What was not finite in the last step that learned nothing.
    pub last_fault: Option<String>,
}

impl Learned {
    pub fn add(&mut self, metrics: &StepMetrics) {
        match &metrics.not_finite {
            Some(fault) => self.last_fault = Some(fault.clone()),
            None => {
                self.sum += metrics.loss;
                self.steps += 1;
            }
        }
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }

    pub fn mean(&self) -> Option<f64> {
        (self.steps > 0).then(|| self.sum / self.steps as f64)
    }
}

/// # Errors
/// Something stands in the file's place that is no regular file.
pub(crate) fn check_file(folder: &Path) -> Result<(), TrainError> {
    let path = folder.join(METRICS);
    if path.symlink_metadata().is_ok() {
        regular_file(&path)?;
    }
    Ok(())
}

pub(crate) struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file, made if need be, and cuts off what is behind `last_step`.
    ///
    /// # Errors
    /// It cannot be opened, read or cut.
    pub fn open(folder: &Path, last_step: u64) -> Result<Self, TrainError> {
        check_file(folder)?;
        let path = folder.join(METRICS);
        let failed = |source| TrainError::Io { path: path.clone(), action: "open it", source };
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(failed)?;
        let keep = kept_bytes(&file, last_step).map_err(failed)?;
        file.set_len(keep).map_err(failed)?;
        Ok(MetricsFile { path, file })
    }

    /// # Errors
    /// The disk refuses; then no part of the line stays.
    pub fn append(&mut self, metrics: &StepMetrics) -> Result<(), TrainError> {
        let mut line = serde_json::to_vec(metrics).expect("numbers are JSON");
        line.push(b'\n');
        let failed = |source| TrainError::Io { path: self.path.clone(), action: "write to it", source };
        let before = self.file.metadata().map_err(failed)?.len();
        self.file.write_all(&line).map_err(|source| {
            // Best effort: a partial line is cut off when the run resumes.
            let _ = self.file.set_len(before);
            failed(source)
        })
    }
}

/// Bytes of the whole lines up to this step.
fn kept_bytes(file: &File, last_step: u64) -> io::Result<u64> {
    #[derive(Deserialize)]
    struct Line {
        step: u64,
    }
    let mut reader = BufReader::new(file);
    let (mut kept, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let read = io::Read::take(&mut reader, MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
        let is_kept =
            line.ends_with(b"\n") && serde_json::from_slice::<Line>(&line).is_ok_and(|line| line.step <= last_step);
        if !is_kept {
            return Ok(kept);
        }
        kept += read as u64;
    }
}
