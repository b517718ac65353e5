//! Runs on a tiny model, and what they leave.

#![allow(dead_code)] // each test file uses its part

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use unswag_data::{
    Batch, DataLoader, EpochSize, Error as DataError, Position, Row, StreamingContextDataLoader, TextOptions, Tokenizer,
};
use unswag_tests::{Family, Tiny};
use unswag_train::{
    LoraConfig, Optim, SchedulerType, TrainingArguments, TrainingModel, UnswagModel, UnswagTrainer, Warmup,
};

pub struct House {
    temp: TempDir,
}

impl House {
    pub fn new() -> Self {
        // Tests run beside each other; threads that wait for each other on a busy machine would take most of the time.
        tch::set_num_threads(1);
        // On a disk: temporary folders may be in memory, where paged state would gain nothing.
        let temp = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        Tiny::new(Family::Llama).write(&temp.path().join("model"));
        let text: String = (0..54).map(|line| format!("{line} green bottles hanging on the wall\n")).collect();
        fs::write(temp.path().join("text.txt"), text).expect("written");
        House { temp }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub fn model(&self) -> TrainingModel {
        let model = UnswagModel::from_pretrained(&self.path("model")).expect("a model");
        model.for_training(self.lora()).expect("adapters")
    }

    /// Large enough that some adapters have 8-bit state and some have not; some end within a block of 256.
    pub fn lora(&self) -> LoraConfig {
        LoraConfig { r: 33, ..LoraConfig::default() }
    }

    pub fn trainer(&self, folder: &str, arguments: TrainingArguments) -> UnswagTrainer {
        self.trainer_of(self.model(), folder, arguments)
    }

    /// Rows that are not trained on: of another text.
    pub fn validation(&self) -> StreamingContextDataLoader {
        fs::write(self.path("other.txt"), "nine yellow bottles standing on the floor\n".repeat(3)).expect("written");
        let tokenizer = Tokenizer::load(&self.path("model")).expect("a tokenizer");
        let options = TextOptions { block_size: 32, ..TextOptions::default() };
        let files = [self.path("other.txt").to_str().expect("UTF-8").to_owned()];
        StreamingContextDataLoader::open(&files, tokenizer.into(), &options).expect("text")
    }

    pub fn trainer_of(&self, model: TrainingModel, folder: &str, arguments: TrainingArguments) -> UnswagTrainer {
        UnswagTrainer::new(model, arguments, Box::new(self.data()), &self.path(folder)).expect("a trainer")
    }

    /// Rows to train on.
    pub fn data(&self) -> StreamingContextDataLoader {
        let tokenizer = Tokenizer::load(&self.path("model")).expect("a tokenizer");
        let options = TextOptions {
            block_size: 32,
            overlap: 4,
            shuffle_seed: Some(3),
            shuffle_window: 5,
            ..TextOptions::default()
        };
        let files = [self.path("text.txt").to_str().expect("UTF-8").to_owned()];
        StreamingContextDataLoader::open(&files, tokenizer.into(), &options).expect("text")
    }
}

/// The least that paged state may have: its state has no room in it, whatever the optimizer.
pub const BUDGET: u64 = 64 << 10;

/// More than an epoch, accumulated, with a warm-up and a decay.
pub fn arguments(optim: Optim) -> TrainingArguments {
    TrainingArguments {
        optim,
        learning_rate: 3e-3,
        lr_scheduler_type: SchedulerType::Cosine,
        warmup: Warmup::Steps(2),
        weight_decay: 0.1,
        num_train_epochs: 1.2,
        per_device_train_batch_size: 3,
        gradient_accumulation_steps: 4,
        save_steps: 2,
        optim_memory_budget: BUDGET,
        ..TrainingArguments::default()
    }
}

/// Every byte of what a run left, but for the times in its metrics.
pub fn left(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).expect("readable");
            let name = path.strip_prefix(folder).expect("inside").display().to_string();
            let bytes = if name == "metrics.jsonl" { without_times(&bytes) } else { bytes };
            files.push((name, bytes));
        }
    }
    files.sort();
    files
}

fn without_times(lines: &[u8]) -> Vec<u8> {
    let line = |line: &[u8]| {
        let mut line: serde_json::Value = serde_json::from_slice(line).expect("JSON");
        line.as_object_mut().expect("an object").remove("tokens_per_s");
        format!("{line}\n").into_bytes()
    };
    lines.split(|byte| *byte == b'\n').filter(|text| !text.is_empty()).flat_map(line).collect()
}

#[track_caller]
pub fn assert_same(a: &Path, b: &Path, what: &str) {
    let (a, b) = (left(a), left(b));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&a), names(&b), "{what}");
    for ((name, a), (_, b)) in a.iter().zip(&b) {
        assert!(a == b, "{what}: {name} differs");
    }
}

/// Rows of which no token is supervised.
pub struct Unsupervised(pub StreamingContextDataLoader);

impl DataLoader for Unsupervised {
    fn next_batch(&mut self, rows: usize) -> Result<Option<Batch>, DataError> {
        self.0.next_batch(rows)
    }

    fn next_row(&mut self) -> Result<Option<Row>, DataError> {
        self.0.next_row()
    }

    fn start_epoch(&mut self, epoch: u64) {
        self.0.start_epoch(epoch);
    }

    fn epoch(&self) -> u64 {
        self.0.epoch()
    }

    fn position(&self) -> Position {
        self.0.position()
    }

    fn seek(&mut self, position: &Position) -> Result<(), DataError> {
        self.0.seek(position)
    }

    fn epoch_size(&self) -> Result<EpochSize, DataError> {
        Ok(EpochSize { supervised_tokens: 0, ..self.0.epoch_size()? })
    }
}
