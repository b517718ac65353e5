//! TensorBoard's event files: each step's figures under the names and in the folder that transformers gives them.
//!
//! A file is a row of records in TFRecord's framing, each an `Event` of TensorFlow's `event.proto`. A step is one write, so a
//! run that is killed leaves complete records. Files are never changed afterwards: a resumed run adds a file to the
//! same folder, which begins by saying from which step on everything before it is void.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process,
    time::{SystemTime, UNIX_EPOCH},
};

use prost::Message;

use crate::{TrainError, metrics::StepMetrics};

/// The folder in the output folder that has one folder for each run.
const RUNS: &str = "runs";
const PREFIX: &str = "events.out.tfevents.";
/// What the first record of every file says.
const FILE_VERSION: &str = "brain.Event:2";

/// `tensorflow/core/util/event.proto`, as much of it as a scalar needs.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    /// [`START`]: what other files have of this event's step and later ones is void.
    #[prost(int32, tag = "1")]
    status: i32,
}

const START: i32 = 1;

/// `tensorflow/core/framework/summary.proto`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    /// Optional in the sense of a `oneof`'s member: zero is written too.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Begins a file in the output folder: in the newest run's folder where `goes_on`, else in a new one.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn create(output: &Path, goes_on: bool, last_step: u64) -> Result<Self, TrainError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| TrainError::Io { path, action: "write event files here", source }
        };
        let runs = output.join(RUNS);
        let newest = newest_file(&runs).map_err(failed(&runs))?;
        let now = seconds();
        let (folder, named_s) = match newest.filter(|_| goes_on) {
            // Readers take the files of a folder in the order of their names: a clock that was set back must not change it.
            Some((folder, newest_s)) => (folder, (now as u64).max(newest_s + 1)),
            None => (runs.join(run_name()), now as u64),
        };
        fs::create_dir_all(&folder).map_err(failed(&folder))?;
        let path = folder.join(format!("{PREFIX}{named_s:010}.{}.{}.0", host_name(), process::id()));
        let file = OpenOptions::new().append(true).create_new(true).open(&path).map_err(failed(&path))?;
        let mut events = EventFile { path, file };
        let version = Event { wall_time: now, step: 0, what: Some(What::FileVersion(FILE_VERSION.into())) };
        let start = Event {
            wall_time: now,
            step: (last_step + 1) as i64,
            what: Some(What::SessionLog(SessionLog { status: START })),
        };
        let head = if goes_on { vec![version, start] } else { vec![version] };
        events.write(&head)?;
        Ok(events)
    }

    /// # Errors
    /// The disk refuses; then no part of the step stays.
    pub fn append(&mut self, metrics: &StepMetrics) -> Result<(), TrainError> {
        let value = |(tag, value): (&str, f64)| Value { tag: tag.into(), simple_value: Some(value as f32) };
        let value = scalars(metrics).into_iter().map(value).collect();
        let summary = What::Summary(Summary { value });
        self.write(&[Event { wall_time: seconds(), step: metrics.step as i64, what: Some(summary) }])
    }

    fn write(&mut self, events: &[Event]) -> Result<(), TrainError> {
        let bytes: Vec<u8> = events.iter().flat_map(|event| record(&event.encode_to_vec())).collect();
        let failed = |source| TrainError::Io { path: self.path.clone(), action: "write to it", source };
        let before = self.file.metadata().map_err(failed)?.len();
        self.file.write_all(&bytes).map_err(|source| {
            // Best effort: a reader stops at a record in part, and would never come to what is written after it.
            let _ = self.file.set_len(before);
            failed(source)
        })
    }
}

/// A step's figures under transformers' names, and those that it has none for under the names in `metrics.jsonl`.
fn scalars(metrics: &StepMetrics) -> Vec<(&'static str, f64)> {
    let mut scalars = vec![
        ("train/loss", metrics.loss),
        ("train/grad_norm", metrics.grad_norm),
        ("train/learning_rate", metrics.lr),
        ("train/epoch", metrics.epoch),
        ("train/tokens_per_s", metrics.tokens_per_s),
        ("train/peak_bytes", metrics.peak_bytes as f64),
    ];
    scalars.extend(metrics.eval_loss.map(|loss| ("eval/loss", loss)));
    scalars
}

/// TFRecord's framing: the length, its checksum, the data, its checksum; all little-endian.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let [length_crc, data_crc] = [&length[..], data].map(|bytes| masked_crc32c(bytes).to_le_bytes());
    [&length[..], &length_crc, data, &data_crc].concat()
}

/// Rotated and shifted, so that the checksum of data that holds checksums is sound (`tensorflow/core/lib/hash/crc32c.h`).
fn masked_crc32c(bytes: &[u8]) -> u32 {
    const MASK_DELTA: u32 = 0xa282_ead8;
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(MASK_DELTA)
}

/// The folder of the event file with the latest time in its name, and that time in seconds.
fn newest_file(runs: &Path) -> io::Result<Option<(PathBuf, u64)>> {
    let list = |folder: &Path| match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let mut newest = None;
    for folder in list(runs)? {
        for file in list(&folder)? {
            let Some(named_s) = named_seconds(&file) else { continue };
            if newest.as_ref().is_none_or(|(_, other)| named_s > *other) {
                newest = Some((folder.clone(), named_s));
            }
        }
    }
    Ok(newest)
}

fn named_seconds(file: &Path) -> Option<u64> {
    let rest = file.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    rest.split('.').next()?.parse().ok().filter(|&seconds| seconds < u64::MAX)
}

/// `Nov21_13-38-57_HOST`, in local time.
fn run_name() -> String {
    format!("{}_{}", jiff::Zoned::now().strftime("%b%d_%H-%M-%S"), host_name())
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.replace(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)), "-")
}

/// Since 1970; 0 where the clock is before it.
fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
