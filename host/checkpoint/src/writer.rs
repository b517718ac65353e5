//! Writes safetensors files into an output, tensor by tensor: the header first, from shapes alone, then each tensor's bytes
//! when their turn comes, so that no more than one tensor made anew is in memory.
//!
//! Byte for byte what the `safetensors` crate writes for the same tensors, so files are the same whoever wrote them.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    error::Error as StdError,
    ops::{ControlFlow, Range},
    path::PathBuf,
};

use serde::ser::{SerializeMap, Serializer};
use unswag_abi::doc::{Dtype, Meta};

use crate::{
    hash::{Progress, silent},
    header::{HeaderError, LENGTH_BYTES, MAX_HEADER_BYTES, TensorFault, parse_header},
    staging::{Staging, Written},
    text::Quoted,
    transfer::{Source, Target, copy_range},
    write_error::WriteError,
};

/// A tensor to be written.
pub struct NewTensor<'a> {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    pub data: TensorData<'a>,
}

/// Where a tensor's bytes come from: row-major, little-endian, as many as dtype and shape say.
pub enum TensorData<'a> {
    Bytes(Cow<'a, [u8]>),
    /// Bytes of a file, copied in the kernel.
    Range {
        path: PathBuf,
        range: Range<u64>,
    },
    /// Made when its turn comes, and freed after.
    Make(Make<'a>),
    /// Made piece by piece when its turn comes: for tensors that are larger than memory should be.
    Stream(Stream<'a>),
}

/// Makes a tensor's bytes.
pub type Make<'a> = Box<dyn FnOnce() -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>> + 'a>;

/// Makes a tensor's bytes and hands them on in order. An error of the sink is to be passed on as it is.
pub type Stream<'a> = Box<dyn FnOnce(&mut Sink<'_>) -> Result<(), Box<dyn StdError + Send + Sync>> + 'a>;

/// Takes the next bytes.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), Box<dyn StdError + Send + Sync>> + 'a;

/// What `transformers` and the `safetensors` crate write as `__metadata__` of a PyTorch model.
pub fn pytorch_metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("format".to_owned(), "pt".to_owned())])
}

/// The `safetensors` crate's order of dtypes, which its files are sorted by, widest first. Kept here and not taken from
/// `Dtype`'s own order, which is free to change.
fn rank(dtype: Dtype) -> usize {
    use Dtype::*;
    const ORDER: [Dtype; 15] = [Bool, U8, I8, F8E5M2, F8E4M3, I16, U16, F16, Bf16, I32, U32, F32, F64, I64, U64];
    ORDER.iter().position(|&other| other == dtype).unwrap_or(0)
}

struct Planned<'a> {
    tensor: NewTensor<'a>,
    bytes: u64,
}

impl Staging<'_> {
    /// Writes one safetensors file. `progress` hears each byte of tensor data once.
    ///
    /// # Errors
    /// A name is unusable or stands twice, a shape and its data disagree, data cannot be made or read, or the disk refuses.
    pub fn write_safetensors(
        &mut self,
        name: &str,
        metadata: &BTreeMap<String, String>,
        tensors: Vec<NewTensor<'_>>,
        progress: &Progress<'_>,
    ) -> Result<Written, WriteError> {
        let planned = self.plan(name, tensors)?;
        self.write_planned(name, metadata, planned, progress)
    }

    /// Writes tensors, in the order given, into files of at most `max_shard_bytes` bytes of data each (a larger tensor has a
    /// file of its own): `model.safetensors` where one is enough, else `model-00001-of-0000N.safetensors` and their
    /// `model.safetensors.index.json`, as `transformers` does. `stem` is `model`.
    ///
    /// # Errors
    /// As [`Staging::write_safetensors`].
    pub fn write_sharded(
        &mut self,
        stem: &str,
        metadata: &BTreeMap<String, String>,
        tensors: Vec<NewTensor<'_>>,
        max_shard_bytes: u64,
        progress: &Progress<'_>,
    ) -> Result<Vec<Written>, WriteError> {
        let single = format!("{stem}.safetensors");
        let mut shards: Vec<Vec<Planned<'_>>> = vec![Vec::new()];
        let (mut shard_bytes, mut total_bytes) = (0u64, 0u64);
        for planned in self.plan(&single, tensors)? {
            let shard = shards.last_mut().expect("there is always a last shard");
            if !shard.is_empty() && shard_bytes.saturating_add(planned.bytes) > max_shard_bytes {
                shard_bytes = 0;
                shards.push(Vec::new());
            }
            shard_bytes = shard_bytes.saturating_add(planned.bytes);
            total_bytes = total_bytes.saturating_add(planned.bytes);
            shards.last_mut().expect("there is always a last shard").push(planned);
        }
        if shards.len() == 1 {
            let planned = shards.remove(0);
            return Ok(vec![self.write_planned(&single, metadata, planned, progress)?]);
        }

        let count = shards.len();
        let mut weight_map = BTreeMap::new();
        let mut written = Vec::with_capacity(count + 1);
        for (number, shard) in shards.into_iter().enumerate() {
            let name = format!("{stem}-{:05}-of-{count:05}.safetensors", number + 1);
            weight_map.extend(shard.iter().map(|planned| (planned.tensor.name.clone(), name.clone())));
            written.push(self.write_planned(&name, metadata, shard, progress)?);
        }
        let index = serde_json::json!({ "metadata": { "total_size": total_bytes }, "weight_map": weight_map });
        let text = format!("{index:#}\n");
        written.push(self.write(&format!("{single}.index.json"), text.as_bytes())?);
        Ok(written)
    }

    /// Counts bytes and refuses what cannot be written before anything is.
    fn plan<'a>(&self, file: &str, tensors: Vec<NewTensor<'a>>) -> Result<Vec<Planned<'a>>, WriteError> {
        let mut names = std::collections::HashSet::new();
        for tensor in &tensors {
            if !names.insert(tensor.name.as_str()) {
                return Err(self.tensor_error(file, &tensor.name, TensorFault::Duplicate));
            }
        }
        let plan_one = |tensor: NewTensor<'a>| {
            let meta = Meta { dtype: tensor.dtype, shape: tensor.shape };
            let bytes = meta.bytes();
            let tensor = NewTensor { shape: meta.shape, ..tensor };
            let Some(bytes) = bytes else {
                let fault = TensorFault::Overflow { dtype: tensor.dtype, shape: tensor.shape.clone() };
                return Err(self.tensor_error(file, &tensor.name, fault));
            };
            let found_bytes = match &tensor.data {
                TensorData::Bytes(data) => data.len() as u64,
                TensorData::Range { range, .. } => range.end.saturating_sub(range.start),
                TensorData::Make(_) | TensorData::Stream(_) => bytes,
            };
            check_size(&tensor.name, bytes, found_bytes)?;
            Ok(Planned { tensor, bytes })
        };
        tensors.into_iter().map(plan_one).collect()
    }

    fn tensor_error(&self, file: &str, tensor: &str, fault: TensorFault) -> WriteError {
        WriteError::Tensor { path: self.out().join(file), tensor: tensor.into(), fault }
    }

    fn write_planned(
        &mut self,
        name: &str,
        metadata: &BTreeMap<String, String>,
        mut tensors: Vec<Planned<'_>>,
        progress: &Progress<'_>,
    ) -> Result<Written, WriteError> {
        tensors.sort_by(|a, b| {
            rank(b.tensor.dtype).cmp(&rank(a.tensor.dtype)).then_with(|| a.tensor.name.cmp(&b.tensor.name))
        });
        let header = self.header(name, metadata, &tensors)?;
        let file_bytes = tensors.iter().map(|planned| planned.bytes).fold(header.len() as u64, u64::saturating_add);
        self.check_header(name, &header, file_bytes)?;
        self.require_space(file_bytes)?;

        let (path, file) = self.create(name)?;
        let target = Target { path: &path, file: &file, disk: self.disk };
        let write = |bytes: &[u8], offset| {
            self.disk.write_all_at(&file, bytes, offset).map_err(|source| WriteError::io(&path, "write it", source))
        };
        write(&header, 0)?;
        let mut offset = header.len() as u64;
        for Planned { tensor, bytes } in tensors {
            match tensor.data {
                TensorData::Bytes(data) => write(&data, offset)?,
                TensorData::Make(make) => {
                    let made =
                        make().map_err(|source| WriteError::Produce { tensor: Quoted::new(&tensor.name), source })?;
                    check_size(&tensor.name, bytes, made.len() as u64)?;
                    write(&made, offset)?;
                }
                TensorData::Stream(stream) => {
                    let mut written = 0;
                    let streamed = stream(&mut |piece: &[u8]| {
                        // What is too much is counted, and never written over the next tensor.
                        let fits = written + piece.len() as u64 <= bytes;
                        if fits {
                            write(piece, offset + written)?;
                        }
                        written += piece.len() as u64;
                        Ok(())
                    });
                    streamed.map_err(|source| streaming(&tensor.name, source))?;
                    check_size(&tensor.name, bytes, written)?;
                }
                TensorData::Range { path, range } => {
                    let source = Source::open(&path)?;
                    copy_range(&source, range.start, &target, offset, bytes, &|_, step| progress(step))?;
                    source.check_unchanged()?;
                    offset += bytes;
                    continue;
                }
            }
            offset += bytes;
            if progress(bytes) == ControlFlow::Break(()) {
                return Err(WriteError::Cancelled);
            }
        }
        let written = Source::open(&path)?;
        let hash = written.hash(&silent)?;
        drop(written);
        self.note_made(path);
        Ok(Written { name: name.to_owned(), bytes: file_bytes, hash, transferred: None })
    }

    /// Length field, JSON, and spaces up to a multiple of eight, so that the data start aligned.
    fn header(
        &self,
        name: &str,
        metadata: &BTreeMap<String, String>,
        tensors: &[Planned<'_>],
    ) -> Result<Vec<u8>, WriteError> {
        #[derive(serde::Serialize)]
        struct Entry<'a> {
            dtype: &'static str,
            shape: &'a [u64],
            data_offsets: [u64; 2],
        }
        let mut text = vec![0; LENGTH_BYTES as usize];
        let write_json = |text: &mut Vec<u8>| -> serde_json::Result<()> {
            let mut json = serde_json::Serializer::new(text);
            let mut map = json.serialize_map(None)?;
            if !metadata.is_empty() {
                map.serialize_entry("__metadata__", metadata)?;
            }
            let mut begin = 0u64;
            for Planned { tensor, bytes } in tensors {
                let data_offsets = [begin, begin.saturating_add(*bytes)];
                map.serialize_entry(
                    &tensor.name,
                    &Entry { dtype: tensor.dtype.name(), shape: &tensor.shape, data_offsets },
                )?;
                begin = data_offsets[1];
            }
            map.end()
        };
        write_json(&mut text).expect("strings and numbers become JSON in memory");
        text.resize(text.len().next_multiple_of(8), b' ');
        let header_bytes = text.len() as u64 - LENGTH_BYTES;
        if header_bytes > MAX_HEADER_BYTES {
            return Err(WriteError::HeaderTooLong { path: self.out().join(name), header_bytes });
        }
        text[..LENGTH_BYTES as usize].copy_from_slice(&header_bytes.to_le_bytes());
        Ok(text)
    }

    /// What is written must be readable: by the same rules, before the first byte goes out.
    fn check_header(&self, name: &str, header: &[u8], file_bytes: u64) -> Result<(), WriteError> {
        match parse_header(header, file_bytes) {
            Ok(_) => Ok(()),
            Err(HeaderError::Entry { tensor, fault, .. } | HeaderError::Tensor { tensor, fault }) => {
                Err(WriteError::Tensor { path: self.out().join(name), tensor, fault })
            }
            Err(fault) => Err(WriteError::Header { path: self.out().join(name), fault }),
        }
    }
}

/// An error that came through a stream: the disk's own, or the maker's.
fn streaming(tensor: &str, source: Box<dyn StdError + Send + Sync>) -> WriteError {
    match source.downcast::<WriteError>() {
        Ok(error) => *error,
        Err(source) => WriteError::Produce { tensor: Quoted::new(tensor), source },
    }
}

fn check_size(tensor: &str, expected_bytes: u64, found_bytes: u64) -> Result<(), WriteError> {
    if expected_bytes != found_bytes {
        return Err(WriteError::WrongSize { tensor: tensor.into(), expected_bytes, found_bytes });
    }
    Ok(())
}
