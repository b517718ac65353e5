//! A checkpoint written again with other values in some of its tensors.

use crate::{Checkpoint, How, NewTensor, Progress, Staging, TensorData, TensorInfo, WriteError, silent};

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
    for (index, file) in base.files().iter().enumerate() {
        let mut replaces = false;
        let mut tensors = Vec::new();
        for tensor in base.tensors().filter(|tensor| tensor.file == index) {
            let data = replace(&tensor);
            replaces |= data.is_some();
            let as_it_is = || TensorData::Range { path: file.path.clone(), range: tensor.range.clone() };
            let (name, shape, data) = (tensor.name.to_owned(), tensor.shape.to_vec(), data.unwrap_or_else(as_it_is));
            tensors.push(NewTensor { name, dtype: tensor.dtype, shape, data });
        }
        match replaces {
            true => staging.write_safetensors(&file.name, base.metadata(), tensors, progress)?,
            false => staging.transfer(&file.path, &file.name, How::CopyOrReflink, progress)?,
        };
    }
    let config = base.config_path().map(|path| ("config.json".to_owned(), path.to_owned()));
    let index = base.index_path().and_then(|path| Some((path.file_name()?.to_str()?.to_owned(), path.to_owned())));
    let side = base.side_files().iter().map(|side| (side.name.clone(), side.path.clone()));
    for (name, path) in config.into_iter().chain(index).chain(side) {
        staging.transfer(&path, &name, How::CopyOrReflink, &silent)?;
    }
    Ok(())
}
