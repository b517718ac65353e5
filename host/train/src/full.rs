//! A model all of whose weights were trained, written as the checkpoint that it came from.

use std::{collections::BTreeSet, path::Path};

use unswag_abi::doc::Dtype;
use unswag_checkpoint::{Checkpoint, Commit, Disk, Existing, Staging, TensorData, TensorInfo, rewrite, silent};

use crate::{TrainError, TrainingModel, folder::first_other};

/// Writes the model as a folder that transformers loads: the base's files, its tensors' names, dtypes and shard files, and the
/// trained values in them, rounded once. What surgery wrote is not among it: its rewrites keep the function, so that the result
/// is a plain checkpoint. Replaces `folder` atomically.
///
/// # Errors
/// Only adapters were trained, a weight is not finite, something else stands there, or the disk refuses.
pub fn save_model(model: &TrainingModel, folder: &Path, disk: &dyn Disk) -> Result<(), TrainError> {
    if model.lora().is_some() {
        return Err(TrainError::OnlyAdapters);
    }
    let base = model.checkpoint();
    model.check_finite()?;
    let mut staging = Staging::begin(folder, &[base.root()], existing(base, folder)?, disk)?;
    let replace = |tensor: &TensorInfo<'_>| {
        let (master, dtype) = (model.masters.iter().find(|master| master.name == tensor.name)?, tensor.dtype);
        Some(TensorData::Make(Box::new(move || Ok(encode(&master.values, dtype)))))
    };
    rewrite(base, &mut staging, replace, &silent)?;
    staging.commit(Commit::default())?;
    Ok(())
}

/// # Errors
/// Surgery changed what the model computes, so no other program could load the weights.
pub(crate) fn check_base(base: &Checkpoint) -> Result<(), TrainError> {
    match base.own_model_type() {
        Some(name) => Err(TrainError::OwnModelType { path: base.root().to_owned(), model_type: name.to_owned() }),
        None => Ok(()),
    }
}

/// Whether the folder may be replaced: it holds only files that [`save_model`] writes.
pub(crate) fn existing(base: &Checkpoint, folder: &Path) -> Result<Existing, TrainError> {
    // What cannot be listed is refused by the staging, with its reason.
    if std::fs::read_dir(folder).is_err() {
        return Ok(Existing::Refuse);
    }
    let others = [base.config_path(), base.index_path()].into_iter().flatten().filter_map(|path| path.file_name());
    let others = others.map(|name| name.to_string_lossy().into_owned());
    let names = base.files().iter().map(|file| file.name.clone());
    let names: BTreeSet<_> =
        names.chain(others).chain(base.side_files().iter().map(|side| side.name.clone())).collect();
    match first_other(folder, |name| names.contains(name)) {
        Some(found) => Err(TrainError::NotAModel { path: folder.to_owned(), found }),
        None => Ok(Existing::Replace),
    }
}

/// Estimated bytes of the weight files that [`save_model`] writes (256 header bytes per tensor); config and tokenizer are not
/// counted.
pub(crate) fn model_bytes(base: &Checkpoint) -> u64 {
    base.tensors().map(|tensor| tensor.shape.iter().product::<u64>() * tensor.dtype.bytes() + 256).sum()
}

/// Little-endian elements, rounded once, to nearest.
fn encode(values: &[f32], dtype: Dtype) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * dtype.bytes() as usize];
    for (value, place) in values.iter().zip(bytes.chunks_exact_mut(dtype.bytes() as usize)) {
        unswag_adapter::encode(dtype, f64::from(*value), place);
    }
    bytes
}
