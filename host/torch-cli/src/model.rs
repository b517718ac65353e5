//! From arguments to a model.

use std::path::Path;

use unswag_abi::doc::{self, Dtype};
use unswag_console::{
    args::{Compute, Device, Output, Precision},
    data, term,
};
use unswag_data::ModelLimits;
use unswag_train::{Nf4, TrainError, UnswagModel};

/// Opens a model to be computed where and in the element type that was asked for, its weights held as was asked for. What its plugins say is
/// shown as surgery shows it.
pub fn open(path: &Path, compute: Compute, output: &Output) -> Result<UnswagModel, TrainError> {
    computed(UnswagModel::from_pretrained_with_log(path, &term::plugin_log(output))?, compute)
}

/// A model to be computed where and in the element type that was asked for.
pub fn computed(model: UnswagModel, compute: Compute) -> Result<UnswagModel, TrainError> {
    let device = match compute.device {
        Device::Cpu => doc::Device::Cpu,
        Device::Cuda => doc::Device::Cuda,
    };
    let model = model.with_device(device)?;
    let model = match compute.dtype {
        Precision::Auto if model.dtype() == Dtype::F16 => model.with_dtype(Dtype::F32),
        Precision::Auto => model,
        Precision::Float32 => model.with_dtype(Dtype::F32),
        Precision::Bfloat16 => model.with_dtype(Dtype::Bf16),
    };
    Ok(match compute.quantization.double_quant() {
        Some(double_quant) => model.with_4bit(Nf4 { double_quant }),
        None => model,
    })
}

/// What ids and lengths of texts the model can look up.
pub fn limits(model: &UnswagModel) -> ModelLimits {
    let (tables, stated_positions) = (model.model().index_limits(), model.model().stated_positions());
    ModelLimits { token_rows: tables.token_rows, position_rows: tables.position_rows, stated_positions }
}

/// Says on stderr where rows are longer than the model was trained for, or shorter than the default.
pub fn note_length(given: Option<u64>, limits: ModelLimits, output: &Output) {
    if let Some(note) = data::length_note(given, limits) {
        term::note(output, &format!("{} {note}", term::paint(term::WARN, "note:")));
    }
}
