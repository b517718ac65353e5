//! A checkpoint opened for reading: its tensors, its configuration and the files beside it.
//!
//! Only headers are read when it is opened, so a 100 GB checkpoint opens in milliseconds; data are read when they are asked for. Nothing is
//! mapped: where another program cuts a mapped file short, the system kills the process that reads it. Nothing here ever writes.

use std::{
    collections::BTreeMap,
    fs::{File, Metadata},
    io,
    ops::Range,
    path::{Path, PathBuf},
};

use unswag_abi::doc::Attrs;

use crate::{
    config,
    error::{Error, IndexFault},
    foreign,
    hash::Progress,
    header::{Header, HeaderError, LENGTH_BYTES, MAX_TENSORS, header_length, parse_header},
    layout::{self, SideFile, Skipped},
    open::{self, Identity},
    table::{TensorInfo, TensorTable},
};

/// One safetensors file of a checkpoint.
#[derive(Clone, Debug)]
pub struct WeightFile {
    /// Its name in the folder.
    pub name: String,
    /// Where its bytes are, symbolic links resolved.
    pub path: PathBuf,
    pub bytes: u64,
    /// Bytes before the first tensor.
    pub header_bytes: u64,
    identity: Identity,
}

/// What surgery puts before a `model_type`, so that no other tool opens a model that it would compute wrongly.
pub const OWN_MODEL_TYPE: &str = "unswag_";

/// Read at once of each tensor that is compared.
const CHUNK_BYTES: u64 = 4 << 20;

/// An opened checkpoint. Cheap to open, safe to share between threads.
#[derive(Debug)]
pub struct Checkpoint {
    root: PathBuf,
    files: Vec<WeightFile>,
    tensors: TensorTable,
    metadata: BTreeMap<String, String>,
    index: Option<PathBuf>,
    config: Option<(PathBuf, Attrs)>,
    side_files: Vec<SideFile>,
    skipped: Vec<Skipped>,
}

impl Checkpoint {
    /// Opens a `.safetensors` file, a folder with `model.safetensors` or a sharded model, its `.index.json`, or a
    /// snapshot in a Hugging Face cache.
    ///
    /// # Errors
    /// There is no such thing at `path`, or any header, index or configuration in it is unsound; see [`Error`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let layout = layout::find(path.as_ref())?;
        let mut files = Vec::with_capacity(layout.weights.len());
        let mut tensors = TensorTable::default();
        let mut metadata = BTreeMap::new();
        for (name, path) in layout.weights {
            let (file, header) = read_header(name, path)?;
            let too_many = |what| Error::TooMany { path: file.path.clone(), what };
            if tensors.len() + header.tensors.len() > MAX_TENSORS {
                return Err(too_many("tensors"));
            }
            if files.is_empty() {
                (tensors, metadata) = (header.tensors, header.metadata);
            } else {
                tensors.absorb(&header.tensors, files.len() as u32).map_err(|full| too_many(full.into()))?;
            }
            files.push(file);
        }
        if files.len() > 1 {
            tensors.index().map_err(|name| duplicate(&name, &tensors, &files))?;
        }
        if tensors.is_empty() {
            return Err(Error::NoTensors { path: path.as_ref().to_owned() });
        }
        let index = match layout.index {
            None => None,
            Some((path, index)) => {
                let names: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
                if let Err(fault) = index.check(&tensors, &names) {
                    return Err(Error::Index { path, fault });
                }
                Some(path)
            }
        };
        let config = match layout.config {
            None => None,
            Some(path) => Some((path.clone(), config::read(&path)?)),
        };
        let layout::Layout { root, side_files, skipped, .. } = layout;
        Ok(Checkpoint { root, files, tensors, metadata, index, config, side_files, skipped })
    }

    /// Takes the configuration from `path`, in place of the one beside the weights.
    ///
    /// # Errors
    /// The file cannot be read or is not a JSON object.
    pub fn with_config(mut self, path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        self.config = Some((path.to_owned(), config::read(path)?));
        Ok(self)
    }

    /// The folder that holds the checkpoint, symbolic links resolved.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The weight files, sorted by name.
    pub fn files(&self) -> &[WeightFile] {
        &self.files
    }

    /// `model.safetensors.index.json`, where the model is sharded.
    pub fn index_path(&self) -> Option<&Path> {
        self.index.as_deref()
    }

    /// Every tensor, by file and by offset within it.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorInfo<'_>> + Clone {
        self.tensors.iter()
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<TensorInfo<'_>> {
        self.tensors.get(name)
    }

    /// `__metadata__` of the first file: free text by key, usually `format: pt`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The contents of `config.json`, where there is one.
    pub fn config(&self) -> Option<&Attrs> {
        self.config.as_ref().map(|(_, config)| config)
    }

    /// The `model_type`, where it is one that surgery gave ([`OWN_MODEL_TYPE`]).
    pub fn own_model_type(&self) -> Option<&str> {
        let name = self.config()?.get("model_type")?.as_str()?;
        name.starts_with(OWN_MODEL_TYPE).then_some(name)
    }

    /// Where [`Checkpoint::config`] was read.
    pub fn config_path(&self) -> Option<&Path> {
        self.config.as_ref().map(|(path, _)| path.as_path())
    }

    /// Files that a copy of the model must carry: tokenizer, generation settings, licence, …. Weights, the index,
    /// `config.json` and the record of an earlier surgery are not among them.
    pub fn side_files(&self) -> &[SideFile] {
        &self.side_files
    }

    /// What lies beside the model and a copy leaves out, each with the reason.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The bytes of a tensor, read into memory; a file cut short meanwhile is an error.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn data(&self, name: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.read(name, &mut bytes)?;
        Ok(bytes)
    }

    /// Whether two tensors hold the same bytes, in one checkpoint or in two. Reads both in chunks, up to the first that differs;
    /// `progress` hears the bytes of each chunk.
    ///
    /// # Errors
    /// No tensor has that name; a file cannot be read, or changed since it was opened; `progress` said to stop.
    pub fn same_data(
        &self,
        name: &str,
        other: &Checkpoint,
        other_name: &str,
        progress: &Progress<'_>,
    ) -> Result<bool, Error> {
        let (a, b) = (self.known(name)?, other.known(other_name)?);
        if a.range.end - a.range.start != b.range.end - b.range.start {
            return Ok(false);
        }
        let (a_file, b_file) = (self.reopen(a.file)?, other.reopen(b.file)?);
        let bytes = a.range.end - a.range.start;
        let [mut a_chunk, mut b_chunk] = [(); 2].map(|()| vec![0; bytes.min(CHUNK_BYTES) as usize]);
        let (mut at, mut is_same) = (0, true);
        while at < bytes && is_same {
            let len = (bytes - at).min(CHUNK_BYTES) as usize;
            self.fill(&a_file, a.file, a.range.start + at, &mut a_chunk[..len])?;
            other.fill(&b_file, b.file, b.range.start + at, &mut b_chunk[..len])?;
            is_same = a_chunk[..len] == b_chunk[..len];
            at += len as u64;
            if progress(len as u64).is_break() {
                return Err(Error::Cancelled);
            }
        }
        // What another program wrote meanwhile may be compared with itself.
        self.check_unchanged(&a_file, a.file)?;
        other.check_unchanged(&b_file, b.file)?;
        Ok(is_same)
    }

    /// Reads a tensor's bytes into `buffer`, which is cleared first; a file cut short meanwhile is an error.
    ///
    /// # Errors
    /// No tensor has that name; the file cannot be read, or changed since it was opened.
    pub fn read(&self, name: &str, buffer: &mut Vec<u8>) -> Result<(), Error> {
        let TensorInfo { file, range, .. } = self.known(name)?;
        let bytes = (range.end - range.start) as usize;
        buffer.clear();
        // A hostile or huge tensor is an error, and no abort of the allocator.
        let no_memory = |_| Error::io(&self.files[file].path, "read it", io::ErrorKind::OutOfMemory.into());
        buffer.try_reserve_exact(bytes).map_err(no_memory)?;
        buffer.resize(bytes, 0);
        self.read_range(file, range.start, buffer)
    }

    /// Fills `buffer` from byte `offset` of weight file number `file`.
    ///
    /// # Errors
    /// The file cannot be read there, or changed since it was opened.
    pub fn read_range(&self, file: usize, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.fill(&self.reopen(file)?, file, offset, buffer)
    }

    fn fill(&self, handle: &File, file: usize, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let weights = &self.files[file];
        open::read_exact_at(handle, buffer, offset).map_err(|source| {
            if source.kind() == io::ErrorKind::UnexpectedEof {
                let now_bytes = handle.metadata().map_or(0, |metadata| metadata.len());
                return Error::Changed { path: weights.path.clone(), was_bytes: weights.bytes, now_bytes };
            }
            Error::io(&weights.path, "read it", source)
        })
    }

    /// Where a tensor's bytes are: the file's real path and the range in it.
    ///
    /// # Errors
    /// No tensor has that name.
    pub fn locate(&self, name: &str) -> Result<(&Path, Range<u64>), Error> {
        let info = self.known(name)?;
        Ok((&self.files[info.file].path, info.range))
    }

    fn known(&self, name: &str) -> Result<TensorInfo<'_>, Error> {
        self.tensors.get(name).ok_or_else(|| Error::UnknownTensor {
            root: self.root.clone(),
            name: name.to_owned(),
            near: self.near(name),
        })
    }

    /// A tensor whose name ends or starts like the one asked for: people leave out `model.` or `.weight`.
    fn near(&self, name: &str) -> Option<String> {
        let same_but_for_an_end =
            |other: &&str| other.ends_with(name) || other.starts_with(name) || name.ends_with(*other);
        if name.is_empty() {
            return None;
        }
        self.tensors.iter().map(|info| info.name).find(same_but_for_an_end).map(str::to_owned)
    }

    /// Files are opened anew for each use: a checkpoint of hundreds of shards must not run into the limit on open files.
    fn reopen(&self, file: usize) -> Result<File, Error> {
        let (handle, metadata) = open::regular_file(&self.files[file].path)?;
        self.check_identity(file, &metadata)?;
        Ok(handle)
    }

    fn check_unchanged(&self, handle: &File, file: usize) -> Result<(), Error> {
        let path = &self.files[file].path;
        let metadata = handle.metadata().map_err(|source| Error::io(path, "get its size", source))?;
        self.check_identity(file, &metadata)
    }

    fn check_identity(&self, file: usize, metadata: &Metadata) -> Result<(), Error> {
        let weights = &self.files[file];
        if Identity::of(metadata) == weights.identity {
            return Ok(());
        }
        Err(Error::Changed { path: weights.path.clone(), was_bytes: weights.bytes, now_bytes: metadata.len() })
    }
}

/// Reads and checks the header of one file; nothing beyond the header is touched.
fn read_header(name: String, path: PathBuf) -> Result<(WeightFile, Header), Error> {
    let (file, metadata) = open::regular_file(&path)?;
    let identity = Identity::of(&metadata);
    let bytes = identity.bytes;
    let read_failed = |source| Error::io(&path, "read it", source);

    let mut start = [0; 512];
    let count = open::read_start(&file, &mut start).map_err(read_failed)?;
    let start = &start[..count];
    let refuse = |fault: HeaderError| match foreign::identify(start) {
        Some(foreign) => Error::Foreign { path: path.clone(), foreign },
        None => Error::Header { path: path.clone(), fault },
    };
    let header_bytes = header_length(start, bytes).map_err(refuse)?;
    // Only what starts as JSON is worth reading: a file that lies about its length costs nothing.
    if let Some(&found) = start.get(LENGTH_BYTES as usize).filter(|&&byte| byte != b'{') {
        return Err(refuse(HeaderError::NotAnObject { found }));
    }
    let mut text = vec![0; (LENGTH_BYTES + header_bytes) as usize];
    open::read_exact_at(&file, &mut text, 0).map_err(read_failed)?;
    let header = parse_header(&text, bytes).map_err(|fault| Error::Header { path: path.clone(), fault })?;
    let file = WeightFile { name, bytes, header_bytes: header.bytes, identity, path };
    Ok((file, header))
}

/// The error for a tensor that stands in two shards.
fn duplicate(name: &str, tensors: &TensorTable, files: &[WeightFile]) -> Error {
    let holders: Vec<&WeightFile> =
        tensors.iter().filter(|info| info.name == name).map(|info| &files[info.file]).take(2).collect();
    let [first, second] = holders[..] else { unreachable!("a name that stands twice has two holders") };
    let fault = IndexFault::Duplicate {
        tensor: name.into(),
        first: first.name.as_str().into(),
        second: second.name.as_str().into(),
    };
    Error::Index { path: second.path.clone(), fault }
}
