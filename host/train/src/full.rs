//! A model all of whose weights were trained, written as the checkpoint that it came from.

use std::path::Path;

use unswag_abi::doc::Dtype;
use unswag_checkpoint::{Commit, Disk, Existing, Staging, TensorData, TensorInfo, rewrite, silent};

use crate::{TrainError, TrainingModel};

/// Writes the model as a folder that transformers loads: the base's files, its tensors' names, types and places, and the trained
/// values in them, rounded once. What surgery wrote is not among it: its rewrites keep the function, so that the result is a
/// plain checkpoint. What stood at `folder` is replaced in one step, or stays as it was.
///
/// # Errors
/// Not all of the model was trained, a weight is not finite, surgery changed the function, something stands there and is
/// not to be replaced, or the disk refuses.
pub fn save_model(model: &TrainingModel, folder: &Path, existing: Existing, disk: &dyn Disk) -> Result<(), TrainError> {
    let base = model.checkpoint();
    let model_type = base.config().and_then(|config| config.get("model_type")).and_then(|name| name.as_str());
    if let Some(name) = model_type.filter(|name| name.starts_with("unswag_")) {
        return Err(TrainError::OwnModelType { path: base.root().to_owned(), model_type: name.to_owned() });
    }
    model.check_finite()?;
    let mut staging = Staging::begin(folder, &[base.root()], existing, disk)?;
    let replace = |tensor: &TensorInfo<'_>| {
        let (master, dtype) = (model.masters.iter().find(|master| master.name == tensor.name)?, tensor.dtype);
        Some(TensorData::Make(Box::new(move || Ok(encode(&master.values, dtype)))))
    };
    rewrite(base, &mut staging, replace, &silent)?;
    staging.commit(Commit::default())?;
    Ok(())
}

/// Bytes of the files that [`save_model`] writes.
pub(crate) fn model_bytes(model: &TrainingModel) -> u64 {
    let base = model.checkpoint();
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
