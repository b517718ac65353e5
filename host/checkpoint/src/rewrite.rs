//! A checkpoint written with other values in some of its tensors.

use std::collections::BTreeMap;

use unswag_abi::doc::Dtype;

use crate::{Checkpoint, How, NewTensor, Progress, Staging, TensorData, TensorInfo, WriteError, silent};

/// What a tensor is replaced by. Its name, shape and file stay.
pub struct NewData<'a> {
    pub dtype: Dtype,
    pub data: TensorData<'a>,
}

/// What differs from the base.
pub struct Rewrite<'r, 'a> {
    /// The new data of a tensor that is not the base's.
    pub replace: &'r dyn Fn(&TensorInfo<'a>) -> Option<NewData<'a>>,
    /// Tensors that the base has not; they go into its last file.
    pub added: Vec<NewTensor<'a>>,
    /// `config.json`, where it is not the base's own.
    pub config: Option<Vec<u8>>,
}

/// Brings every file of `base` over: weights, index, configuration and side files, but not the record of a surgery. Tensors
/// keep name, type, shape and file; where `replace` gives data, a tensor has that. A weight file of which nothing is replaced
/// is copied whole. `progress` hears each byte of tensor data once.
///
/// # Errors
/// As [`Staging::write_safetensors`] and [`Staging::transfer`].
pub fn rewrite<'a>(
    base: &'a Checkpoint,
    staging: &mut Staging<'_>,
    replace: impl Fn(&TensorInfo<'a>) -> Option<TensorData<'a>>,
    progress: &Progress<'_>,
) -> Result<(), WriteError> {
    let replace = |tensor: &TensorInfo<'a>| replace(tensor).map(|data| NewData { dtype: tensor.dtype, data });
    rewrite_with(base, staging, Rewrite { replace: &replace, added: Vec::new(), config: None }, progress)
}

/// As [`rewrite`], with tensors of other types, more tensors, or another `config.json`. The index follows.
///
/// # Errors
/// As [`rewrite`].
pub fn rewrite_with<'a>(
    base: &'a Checkpoint,
    staging: &mut Staging<'_>,
    change: Rewrite<'_, 'a>,
    progress: &Progress<'_>,
) -> Result<(), WriteError> {
    let Rewrite { replace, mut added, config } = change;
    let mut index = Index::of(base);
    // Tensors stand file by file: one pass over them serves all files.
    let mut tensors = base.tensors().peekable();
    for (at, file) in base.files().iter().enumerate() {
        let mut new = Vec::new();
        let mut replaces = false;
        while let Some(tensor) = tensors.next_if(|tensor| tensor.file == at) {
            let as_it_is = || {
                let data = TensorData::Range { path: file.path.clone(), range: tensor.range.clone() };
                NewData { dtype: tensor.dtype, data }
            };
            let found = replace(&tensor);
            replaces |= found.is_some();
            let NewData { dtype, data } = found.unwrap_or_else(as_it_is);
            new.push(NewTensor { name: tensor.name.to_owned(), dtype, shape: tensor.shape.to_vec(), data });
        }
        if at + 1 == base.files().len() {
            replaces |= !added.is_empty();
            new.append(&mut added);
        }
        index.add(&file.name, &new);
        match replaces {
            true => staging.write_safetensors(&file.name, base.metadata(), new, progress)?,
            false => staging.transfer(&file.path, &file.name, How::CopyOrReflink, progress)?,
        };
    }
    index.write(base, staging)?;
    match (config, base.config_path()) {
        (Some(text), _) => drop(staging.write("config.json", &text)?),
        (None, Some(path)) => drop(staging.transfer(path, "config.json", How::CopyOrReflink, &silent)?),
        (None, None) => {}
    }
    for side in base.side_files() {
        staging.transfer(&side.path, &side.name, How::CopyOrReflink, &silent)?;
    }
    Ok(())
}

/// The index of a sharded output, which is the base's own unless a tensor came or changed its type.
struct Index {
    is_wanted: bool,
    known: usize,
    weight_map: BTreeMap<String, String>,
    total_size: u64,
}

impl Index {
    fn of(base: &Checkpoint) -> Self {
        let is_wanted = base.index_path().is_some();
        Index { is_wanted, known: base.tensors().len(), weight_map: BTreeMap::new(), total_size: 0 }
    }

    fn add(&mut self, file: &str, tensors: &[NewTensor<'_>]) {
        if !self.is_wanted {
            return;
        }
        for tensor in tensors {
            let elements = tensor.shape.iter().fold(1u64, |count, &size| count.saturating_mul(size));
            self.total_size = self.total_size.saturating_add(elements.saturating_mul(tensor.dtype.bytes()));
            self.weight_map.insert(tensor.name.clone(), file.to_owned());
        }
    }

    fn write(self, base: &Checkpoint, staging: &mut Staging<'_>) -> Result<(), WriteError> {
        let Some(path) = base.index_path() else { return Ok(()) };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("model.safetensors.index.json");
        let bytes: u64 = base.tensors().map(|tensor| tensor.bytes()).sum();
        if self.weight_map.len() == self.known && self.total_size == bytes {
            staging.transfer(path, name, How::CopyOrReflink, &silent)?;
            return Ok(());
        }
        let index = serde_json::json!({ "metadata": { "total_size": self.total_size }, "weight_map": self.weight_map });
        staging.write(name, format!("{index:#}\n").as_bytes())?;
        Ok(())
    }
}
