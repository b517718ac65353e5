//! A checkpoint with its graph: what every command starts from.
//!
//! A folder with a record is opened by it: the base's graph is built from the tensors as the base had them, and the recorded
//! patches are applied to it. No plugin is needed or run.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    io::{self, Read},
    path::{Path, PathBuf},
};

use unswag_abi::doc::{Attrs, Dtype, Graph};
use unswag_checkpoint::{Checkpoint, Error as CheckpointError, regular_file, silent};
use unswag_graph::{
    IndexLimits, PatchError, apply,
    builders::{self, BuildError, Built, Inferred, TensorInfo},
    index_limits,
};

use crate::{
    config,
    operation::Planner,
    record::{self, Planned, Record, RecordError},
};

pub struct Model {
    /// As it was opened: a file or a folder.
    pub path: PathBuf,
    pub checkpoint: Checkpoint,
    /// What the folder's own `unswag.yaml` says, where it has one.
    pub record: Option<Record>,
    /// The graph of what the files hold now.
    pub graph: Graph,
    /// `config.json` as the base had it: without what surgery wrote into it.
    pub base_config: Attrs,
    /// What the builder found beside the graph, in the base.
    pub unclaimed: Vec<String>,
    pub duplicates: Vec<(String, String)>,
    pub notes: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(transparent)]
    Checkpoint(#[from] unswag_checkpoint::Error),
    #[error(
        "{}: no config.json beside the weights; {}pass --config FILE, the model's config.json",
        root.display(), inferred(inferred_from_tensors)
    )]
    NoConfig { root: PathBuf, inferred_from_tensors: Box<Inferred> },
    #[error("{}", root.display())]
    Build {
        root: PathBuf,
        #[source]
        source: Box<BuildError>,
    },
    #[error("{}: cannot read the record", path.display())]
    RecordIo { path: PathBuf, source: io::Error },
    #[error("{}: {found} bytes; a record has at most {}", path.display(), record::MAX_BYTES)]
    RecordSize { path: PathBuf, found: u64 },
    #[error("{}", root.display())]
    Record {
        root: PathBuf,
        #[source]
        source: RecordError,
    },
    #[error("{}: {}: step {step} ({protocol}) does not apply to the graph; the record or the weights were changed", root.display(), record::FILE_NAME)]
    Replay {
        root: PathBuf,
        step: usize,
        protocol: String,
        #[source]
        source: Box<PatchError>,
    },
    #[error(
        "{}: {}: the record's patches leave parameter {name} with {expected}, the weights have {found}; one of them was changed",
        root.display(), record::FILE_NAME
    )]
    Weights { root: PathBuf, name: String, expected: String, found: String },
}

/// The sentence about what could be read from the shapes alone.
fn inferred(inferred: &Inferred) -> String {
    format!("{inferred}; ")
}

impl Model {
    /// Opens a checkpoint and builds its graph; `config` takes the place of the `config.json` beside the weights.
    ///
    /// # Errors
    /// The checkpoint is unsound, its config is missing or of no supported family, they disagree, or its record is unsound.
    pub fn open(path: &Path, config: Option<&Path>) -> Result<Self, ModelError> {
        let mut checkpoint = Checkpoint::open(path)?;
        if let Some(config) = config {
            checkpoint = checkpoint.with_config(config)?;
        }
        let record = read_record(checkpoint.root())?;
        Self::from_checkpoint(path, checkpoint, record)
    }

    fn from_checkpoint(path: &Path, checkpoint: Checkpoint, record: Option<Record>) -> Result<Self, ModelError> {
        let root = checkpoint.root().to_owned();
        let Some(written) = checkpoint.config() else {
            let inferred = builders::infer(tensors(&checkpoint));
            return Err(ModelError::NoConfig { root, inferred_from_tensors: Box::new(inferred) });
        };
        let base_config = config::unmarked(written);
        let made: BTreeSet<&str> = record.as_ref().map(Record::made).unwrap_or_default();
        let replaced = record.iter().flat_map(|record| &record.base.replaced);
        let replaced = replaced.map(|(name, param)| TensorInfo { name, dtype: param.dtype, shape: &param.shape });
        let current = tensors(&checkpoint).filter(|tensor| !made.contains(tensor.name));
        let mut unreadable = None;
        let same_data = |a: &str, b: &str| {
            if checkpoint.tensor(a).is_none() || checkpoint.tensor(b).is_none() {
                // One of them was dropped by a patch: the base had them tied, or the patch could not have.
                return true;
            }
            checkpoint.same_data(a, &checkpoint, b, &silent).unwrap_or_else(|error| {
                unreadable = Some(error);
                true
            })
        };
        let built = builders::build_with(&base_config, current.chain(replaced), same_data)
            .map_err(|source| ModelError::Build { root: root.clone(), source: Box::new(source) })?;
        if let Some(error) = unreadable {
            return Err(error.into());
        }
        let Built { mut graph, duplicates, unclaimed, notes, .. } = built;
        for (step, done) in record.iter().flat_map(|record| record.steps.iter().enumerate()) {
            let known: Vec<&Planned> = done.plans.iter().collect();
            let planner = Planner { known: &known, protocol: None, used: RefCell::default() };
            let applied = apply(&graph, &done.patch, &planner).map_err(|source| ModelError::Replay {
                root: root.clone(),
                step: step + 1,
                protocol: done.protocol.clone(),
                source: Box::new(source),
            })?;
            graph = applied.graph;
        }
        let model =
            Self { path: path.to_owned(), checkpoint, record, graph, base_config, unclaimed, duplicates, notes };
        model.check_made_weights()?;
        Ok(model)
    }

    /// The parameters that a record's steps made must be in the files, as the graph has them: the builder checks the rest.
    fn check_made_weights(&self) -> Result<(), ModelError> {
        let Some(record) = &self.record else { return Ok(()) };
        let told = |dtype: Dtype, shape: &[u64]| format!("{dtype} {shape:?}");
        for name in record.made() {
            let Some(param) = self.graph.params.get(name) else { continue };
            let found = match self.checkpoint.tensor(name) {
                Some(tensor) if tensor.dtype == param.dtype && tensor.shape == param.shape.as_slice() => continue,
                Some(tensor) => told(tensor.dtype, tensor.shape),
                None => "no such tensor".to_owned(),
            };
            return Err(ModelError::Weights {
                root: self.checkpoint.root().to_owned(),
                name: name.to_owned(),
                expected: told(param.dtype, &param.shape),
                found,
            });
        }
        Ok(())
    }

    /// What plugins' ops answered in earlier steps, with the step's protocol.
    pub(crate) fn plans(&self) -> Vec<(String, Planned)> {
        let steps = self.record.iter().flat_map(|record| &record.steps);
        steps.flat_map(|step| step.plans.iter().map(|planned| (step.protocol.clone(), planned.clone()))).collect()
    }

    /// Rows of the tables that ids and positions are looked up in.
    pub fn index_limits(&self) -> IndexLimits {
        index_limits(&self.graph)
    }

    /// The longest text that the configuration states. Rotary positions have no table, and compute longer ones.
    pub fn stated_positions(&self) -> Option<u64> {
        let of = |key: &str| self.base_config.get(key).or_else(|| self.base_config.get("text_config")?.get(key));
        of("max_position_embeddings").or_else(|| of("n_positions"))?.as_u64()
    }

    /// A name for people and for outputs: the folder's, or the file's without its ending.
    pub fn name(&self) -> String {
        let root = self.checkpoint.root();
        let named = if self.path.is_file() { self.path.file_stem() } else { root.file_name() };
        named.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    /// What must never be changed: the folder as it was opened, or the files where one file was; and the checkpoint that the record
    /// names as the base, where that is still there.
    pub fn bases(&self) -> Vec<&Path> {
        let recorded = self.record.as_ref().map(|record| Path::new(&record.base.path)).filter(|path| path.exists());
        if self.path.is_dir() {
            return [self.checkpoint.root()].into_iter().chain(recorded).collect();
        }
        let weights = self.checkpoint.files().iter().map(|file| file.path.as_path());
        weights.chain(self.checkpoint.config_path()).chain([self.path.as_path()]).chain(recorded).collect()
    }
}

fn tensors(checkpoint: &Checkpoint) -> impl Iterator<Item = TensorInfo<'_>> {
    checkpoint.tensors().map(|tensor| TensorInfo { name: tensor.name, dtype: tensor.dtype, shape: tensor.shape })
}

/// The record in a folder, if there is one.
pub fn read_record(root: &Path) -> Result<Option<Record>, ModelError> {
    let path = root.join(record::FILE_NAME);
    let (mut file, metadata) = match regular_file(&path) {
        Ok(opened) => opened,
        Err(CheckpointError::Missing { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if metadata.len() > record::MAX_BYTES {
        return Err(ModelError::RecordSize { path, found: metadata.len() });
    }
    let mut bytes = Vec::new();
    // One byte more than allowed, so that a file that grows while it is read is noticed.
    file.by_ref()
        .take(record::MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| ModelError::RecordIo { path, source })?;
    let record = Record::from_bytes(&bytes).map_err(|source| ModelError::Record { root: root.to_owned(), source })?;
    Ok(Some(record))
}
