//! From arguments to a model.

use std::path::Path;

use unswag_abi::doc::Dtype;
use unswag_console::args::Precision;
use unswag_train::{TrainError, UnswagModel};

/// Opens a model to be computed in the element type that was asked for.
pub fn open(path: &Path, precision: Precision) -> Result<UnswagModel, TrainError> {
    let model = UnswagModel::from_pretrained(path)?;
    Ok(match precision {
        Precision::Auto if model.dtype() == Dtype::F16 => model.with_dtype(Dtype::F32),
        Precision::Auto => model,
        Precision::Float32 => model.with_dtype(Dtype::F32),
        Precision::Bfloat16 => model.with_dtype(Dtype::Bf16),
    })
}
