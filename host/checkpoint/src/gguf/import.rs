//! The import: a GGUF file in, a Hugging Face folder out.
//!
//! Everything that can be wrong with the file is found before the first byte is written. The file is never changed; the
//! folder appears when all of it is done. At most one tensor is in memory, in the output's element type.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value as Json, json};
use unswag_abi::doc::Dtype;

use super::arch::{self, ROPE_FREQS, Sizes, Weight};
use super::config::{self, TokenIds};
use super::convert::{read_small, stream};
use super::error::{GgufError, Problem};
use super::file::GgufFile;
use super::info::{GgufInfo, TypeCount};
use super::metadata::Metadata;
use super::reader::Gguf;
use super::tokenizer;
use super::types::GgmlType;
use crate::{
    Commit, Disk, Existing, NewTensor, Progress, Published, Staging, TensorData, WriteError, pytorch_metadata,
};

/// Element type of the weights that are written. Stored values are rounded to it once, to nearest, ties to even.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImportDtype {
    #[default]
    Bf16,
    F16,
    F32,
}

impl ImportDtype {
    fn dtype(self) -> Dtype {
        match self {
            ImportDtype::Bf16 => Dtype::Bf16,
            ImportDtype::F16 => Dtype::F16,
            ImportDtype::F32 => Dtype::F32,
        }
    }

    /// As config.json says it.
    pub fn transformers_name(self) -> &'static str {
        match self {
            ImportDtype::Bf16 => "bfloat16",
            ImportDtype::F16 => "float16",
            ImportDtype::F32 => "float32",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct ImportOptions {
    pub dtype: ImportDtype,
    /// Rebuild the tokenizer. Off for a file whose tokenizer cannot be rebuilt: the model's own files are then to be put
    /// beside the weights.
    pub tokenizer: bool,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self { dtype: ImportDtype::default(), tokenizer: true }
    }
}

/// What an import did.
#[derive(Clone, Debug, Serialize)]
pub struct ImportReport {
    pub path: PathBuf,
    /// transformers' `model_type`.
    pub model_type: &'static str,
    /// Of the written weights, as safetensors spells it.
    pub dtype: &'static str,
    pub tensors: u64,
    pub parameters: u64,
    /// Of all written files.
    pub bytes_written: u64,
    /// What the file stored its tensors as.
    pub types: Vec<TypeCount>,
    pub has_tokenizer: bool,
    pub has_chat_template: bool,
    /// What is lost or not certain, one sentence each, for the user.
    pub notes: Vec<String>,
}

/// Why an import failed. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Writes `out` from the GGUF file at `path`: `model.safetensors`, `config.json`, `generation_config.json`, and with a
/// tokenizer `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`. `progress` hears the bytes of
/// weights as they are written.
///
/// # Errors
/// The file is malformed or of a kind that cannot be imported ([`ImportError::Gguf`]); or `out` exists and is not empty,
/// or cannot be written ([`ImportError::Write`]).
pub fn import(
    path: &Path,
    out: &Path,
    options: ImportOptions,
    disk: &dyn Disk,
    progress: &Progress<'_>,
) -> Result<ImportReport, ImportError> {
    import_file(&GgufFile::open(path)?, out, options, disk, progress)
}

/// As [`import`], of a file that is open already.
///
/// # Errors
/// As [`import`].
pub fn import_file(
    file: &GgufFile,
    out: &Path,
    options: ImportOptions,
    disk: &dyn Disk,
    progress: &Progress<'_>,
) -> Result<ImportReport, ImportError> {
    let gguf = file.header();
    let plan = Plan::new(file, &gguf, options).map_err(|error| error.in_file(file.path()))?;

    let mut staging = Staging::begin(out, &[file.path()], Existing::Refuse, disk)?;
    let overflowed = Cell::new(0u64);
    let tensors = plan.weights.iter().map(|weight| new_tensor(file, weight, options.dtype, &overflowed)).collect();
    let mut written = vec![staging.write_safetensors("model.safetensors", &pytorch_metadata(), tensors, progress)?];
    file.check_unchanged()?;
    for (name, bytes) in &plan.files {
        written.push(staging.write(name, bytes)?);
    }
    let Published { path, .. } = staging.commit(Commit::default())?;

    let mut notes = plan.notes;
    if overflowed.get() > 0 {
        notes.push(format!(
            "{} values are too large for {} and became infinite; import with another dtype",
            overflowed.get(),
            options.dtype.dtype()
        ));
    }
    Ok(ImportReport {
        path,
        model_type: plan.model_type,
        dtype: options.dtype.dtype().name(),
        tensors: plan.weights.len() as u64,
        parameters: plan.weights.iter().map(|weight| weight.source.elements()).sum(),
        bytes_written: written.iter().map(|file| file.bytes).sum(),
        types: file.info().types.clone(),
        has_tokenizer: plan.has_tokenizer,
        has_chat_template: plan.has_chat_template,
        notes,
    })
}

fn new_tensor<'a>(
    file: &'a GgufFile,
    weight: &'a Weight<'_>,
    dtype: ImportDtype,
    overflowed: &'a Cell<u64>,
) -> NewTensor<'a> {
    let make = move || {
        // The writer has counted the same bytes, with care, before it asks for them.
        let bytes = weight.source.elements().saturating_mul(dtype.dtype().bytes());
        let mut made = Vec::new();
        made.try_reserve_exact(usize::try_from(bytes)?)?;
        let rounding = stream::<GgufError>(file, weight, dtype, &mut |piece| {
            made.extend_from_slice(piece);
            Ok(())
        })?;
        overflowed.set(overflowed.get() + rounding.overflowed);
        Ok(made)
    };
    let data = TensorData::Make(Box::new(make));
    NewTensor { name: weight.name.clone(), dtype: dtype.dtype(), shape: weight.shape.clone(), data }
}

/// All of the output but the weights' bytes, checked.
struct Plan<'a> {
    model_type: &'static str,
    weights: Vec<Weight<'a>>,
    files: Vec<(&'static str, Vec<u8>)>,
    has_tokenizer: bool,
    has_chat_template: bool,
    notes: Vec<String>,
}

impl<'a> Plan<'a> {
    fn new(file: &GgufFile, gguf: &Gguf<'a>, options: ImportOptions) -> Result<Self, GgufError> {
        let meta = Metadata::of(gguf)?;
        let sizes = Sizes::of(&meta)?;
        let weights = arch::weights(gguf, &sizes)?;
        let rope_freqs = match gguf.tensor(ROPE_FREQS) {
            // One factor per pair of a head's dimensions; anything else is refused when they are compared.
            Some(tensor) if tensor.dtype == GgmlType::F32 && tensor.elements() == sizes.head_dim / 2 => {
                Some(read_small(file, tensor)?)
            }
            Some(tensor) => {
                let problem = Problem::Shape { expected: vec![sizes.head_dim / 2], found: tensor.shape() };
                return Err(GgufError::new(tensor.listed_at, format!("tensor {ROPE_FREQS}"), problem));
            }
            None => None,
        };
        let scaling = config::rope_scaling(&meta, &sizes, rope_freqs.as_deref())?;
        let tokens = if options.tokenizer { tokenizer::rebuild(&meta, &sizes)? } else { None };

        let ids = tokens.as_ref().map_or_else(TokenIds::default, |tokens| tokens.ids.clone());
        let config = config::config_json(&meta, &sizes, scaling, &ids, options.dtype.transformers_name())?;
        let mut files =
            vec![("config.json", pretty(&config)), ("generation_config.json", pretty(&config::generation_json(&ids)))];
        let mut plan = Self {
            model_type: sizes.family.model_type(),
            weights,
            files: Vec::new(),
            has_tokenizer: tokens.is_some(),
            has_chat_template: false,
            notes: notes(gguf, options.dtype),
        };
        match tokens {
            Some(tokens) => {
                plan.notes.extend(tokens.notes);
                plan.has_chat_template = tokens.tokenizer_config.get("chat_template").is_some();
                files.push(("tokenizer.json", tokens.tokenizer_json));
                files.push(("tokenizer_config.json", pretty(&tokens.tokenizer_config)));
                files.push(("special_tokens_map.json", pretty(&tokens.special_tokens_map)));
            }
            None => {
                plan.notes.push("no tokenizer was written; put the model's own files beside the weights".to_owned())
            }
        }
        plan.files = files;
        Ok(plan)
    }
}

fn notes(gguf: &Gguf<'_>, dtype: ImportDtype) -> Vec<String> {
    let exact = |ty: GgmlType| match dtype {
        ImportDtype::F32 => !matches!(ty, GgmlType::F64 | GgmlType::I32 | GgmlType::I64),
        ImportDtype::F16 => ty == GgmlType::F16,
        ImportDtype::Bf16 => ty == GgmlType::BF16,
    };
    let rounded = GgufInfo::of(gguf)
        .types
        .iter()
        .filter(|count| !GgmlType::all().any(|ty| ty.name() == count.dtype && exact(ty)))
        .map(|count| count.dtype)
        .collect::<Vec<_>>();
    if rounded.is_empty() {
        return Vec::new();
    }
    vec![format!("values stored as {} were rounded to {}", rounded.join(", "), dtype.dtype())]
}

fn pretty(json: &Json) -> Vec<u8> {
    let json = if json.is_null() { &json!({}) } else { json };
    format!("{json:#}\n").into_bytes()
}
