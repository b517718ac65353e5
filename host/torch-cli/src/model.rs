//! From arguments to a model.

use std::path::Path;

use unswag_abi::doc::Dtype;
use unswag_console::args::{Precision, Quantization};
use unswag_train::{Nf4, TrainError, UnswagModel};

/// Opens a model to be computed in the element type that was asked for, its weights held as was asked for.
pub fn open(path: &Path, precision: Precision, quantization: Quantization) -> Result<UnswagModel, TrainError> {
    let model = UnswagModel::from_pretrained(path)?;
    let model = match precision {
        Precision::Auto if model.dtype() == Dtype::F16 => model.with_dtype(Dtype::F32),
        Precision::Auto => model,
        Precision::Float32 => model.with_dtype(Dtype::F32),
        Precision::Bfloat16 => model.with_dtype(Dtype::Bf16),
    };
    Ok(match quantization.double_quant() {
        Some(double_quant) => model.with_4bit(Nf4 { double_quant }),
        None => model,
    })
}
