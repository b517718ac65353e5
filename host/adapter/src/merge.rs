//! Merging: W' = W + scale B A, in f64, rounded once to the weight's own type.
//!
//! Weight files are written one after the other, one adapted tensor in memory at a time; what no adapter changes is copied.
//! The result appears whole or not at all, and not at all where it would not differ from the base: a merge that changed
//! nothing is a mistake that shows only much later.

use std::{cell::RefCell, collections::BTreeMap, error::Error as StdError, path::Path};

use rayon::prelude::*;
use unswag_abi::doc::Dtype;
use unswag_checkpoint::{
    Checkpoint, Commit, Disk, Existing, How, NewTensor, Progress, Staging, TensorData, TensorInfo,
};

use crate::{Adapter, AdapterError, AdapterModule, float};

/// What a merge did.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct MergeReport {
    pub modules: Vec<ModuleDelta>,
}

/// How far one weight was moved. Norms are Frobenius norms.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ModuleDelta {
    pub module: String,
    pub weight_norm: f64,
    /// Of what the adapter adds: scale B A.
    pub adapter_norm: f64,
    /// Of what was added after rounding: W' - W.
    pub delta_norm: f64,
    /// Elements that differ, of `elements`.
    pub changed: u64,
    pub elements: u64,
}

/// Merges an adapter into a checkpoint and writes the result at `out`. `progress` hears each byte of tensor data once.
///
/// # Errors
/// The adapter does not fit the base, nothing would change, a merged weight is not finite, or the disk refuses. Then nothing
/// stands at `out`.
pub fn merge(
    base: &Checkpoint,
    adapter: &Adapter,
    out: &Path,
    disk: &dyn Disk,
    progress: &Progress<'_>,
) -> Result<MergeReport, AdapterError> {
    // Where every patch keeps the forward, config.json is the base's own and the merged folder is a plain one.
    let model_type = base.config().and_then(|config| config.get("model_type")).and_then(|name| name.as_str());
    if model_type.is_some_and(|name| name.starts_with("unswag_")) {
        return Err(AdapterError::Patched { path: base.root().to_owned() });
    }
    let adapted = targets(base, adapter)?;
    let mut staging = Staging::begin(out, &[base.root()], Existing::Refuse, disk)?;
    let deltas = RefCell::new(Vec::new());
    for (index, file) in base.files().iter().enumerate() {
        let of_file = || base.tensors().filter(|tensor| tensor.file == index);
        if !of_file().any(|tensor| adapted.contains_key(tensor.name)) {
            staging.transfer(&file.path, &file.name, How::CopyOrReflink, progress)?;
            continue;
        }
        let mut tensors = Vec::new();
        for tensor in of_file() {
            let (path, range) = base.locate(tensor.name)?;
            let data = match adapted.get(tensor.name) {
                None => TensorData::Range { path: path.to_owned(), range },
                Some(module) => make(base, adapter, module, &tensor, &deltas),
            };
            let (name, shape) = (tensor.name.to_owned(), tensor.shape.to_vec());
            tensors.push(NewTensor { name, dtype: tensor.dtype, shape, data });
        }
        staging.write_safetensors(&file.name, base.metadata(), tensors, progress)?;
    }
    let mut modules = deltas.into_inner();
    modules.sort_by(|a: &ModuleDelta, b| a.module.cmp(&b.module));
    if modules.iter().all(|module| module.changed == 0) {
        let why = match modules.iter().all(|module| module.adapter_norm == 0.0) {
            true => "its B matrices are zero, as before the first step of training",
            false => "what it adds is less than the weights' element type can hold; merge into a float32 base",
        };
        return Err(AdapterError::NoChange { path: adapter.path().to_owned(), why: why.into() });
    }
    let config = base.config_path().map(|path| ("config.json".to_owned(), path.to_owned()));
    let index = base.index_path().and_then(|path| Some((path.file_name()?.to_str()?.to_owned(), path.to_owned())));
    let side = base.side_files().iter().map(|side| (side.name.clone(), side.path.clone()));
    for (name, path) in config.into_iter().chain(index).chain(side) {
        staging.transfer(&path, &name, How::CopyOrReflink, &unswag_checkpoint::silent)?;
    }
    staging.commit(Commit::default())?;
    Ok(MergeReport { modules })
}

/// The weight of each adapted module.
fn targets<'a>(base: &Checkpoint, adapter: &'a Adapter) -> Result<BTreeMap<String, &'a AdapterModule>, AdapterError> {
    let mut targets = BTreeMap::new();
    for module in adapter.modules() {
        let name = format!("{}.weight", module.module);
        let shape = match adapter.is_stored_transposed() {
            false => [module.output, module.input],
            true => [module.input, module.output],
        };
        let found = base.tensor(&name);
        let fits = found.as_ref().is_some_and(|tensor| *tensor.shape == shape && float::is_known(tensor.dtype));
        if !fits {
            let got =
                found.map_or("no such tensor".to_owned(), |tensor| format!("{} {:?}", tensor.dtype, tensor.shape));
            return Err(AdapterError::Base {
                path: adapter.path().to_owned(),
                module: module.module.clone(),
                expected: format!("{name} {shape:?} of F32, F64, F16 or BF16"),
                got,
            });
        }
        targets.insert(name, module);
    }
    Ok(targets)
}

fn make<'a>(
    base: &'a Checkpoint,
    adapter: &'a Adapter,
    module: &'a AdapterModule,
    tensor: &TensorInfo<'_>,
    deltas: &'a RefCell<Vec<ModuleDelta>>,
) -> TensorData<'a> {
    let (name, dtype) = (tensor.name.to_owned(), tensor.dtype);
    TensorData::Make(Box::new(move || -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>> {
        let mut bytes = Vec::new();
        base.read(&name, &mut bytes)?;
        let [a, b] = adapter.matrices(module)?;
        let delta = merge_into(&mut bytes, dtype, module, &a, &b, adapter.is_stored_transposed());
        if !delta.delta_norm.is_finite() {
            let (path, module) = (adapter.path().to_owned(), module.module.clone());
            return Err(AdapterError::NotFinite { path, module }.into());
        }
        deltas.borrow_mut().push(delta);
        Ok(bytes)
    }))
}

/// W += scale B A, or its transpose, in place. Sums of squares are taken row by row, so that they do not depend on threads.
fn merge_into(
    bytes: &mut [u8],
    dtype: Dtype,
    module: &AdapterModule,
    a: &[f64],
    b: &[f64],
    transposed: bool,
) -> ModuleDelta {
    let (r, input, output) = (module.r as usize, module.input as usize, module.output as usize);
    let columns = if transposed { output } else { input };
    let width = dtype.bytes() as usize;
    let rows: Vec<[f64; 4]> = bytes
        .par_chunks_mut((columns * width).max(1))
        .enumerate()
        .map(|(row, bytes)| {
            let mut product = vec![0.0; columns];
            for k in 0..r {
                match transposed {
                    false => {
                        let line = &a[k * input..(k + 1) * input];
                        product.iter_mut().zip(line).for_each(|(sum, a)| *sum += b[row * r + k] * a);
                    }
                    true => {
                        let line = b.iter().skip(k).step_by(r);
                        product.iter_mut().zip(line).for_each(|(sum, b)| *sum += a[k * input + row] * b);
                    }
                }
            }
            let weights = float::decode(dtype, bytes);
            let mut sums = [0.0; 4];
            for ((weight, product), place) in weights.iter().zip(product).zip(bytes.chunks_exact_mut(width)) {
                let added = product * module.scale;
                let moved = float::encode(dtype, weight + added, place) - weight;
                let parts = [weight * weight, added * added, moved * moved, f64::from(u8::from(moved != 0.0))];
                sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
            }
            sums
        })
        .collect();
    let sum = |which: usize| rows.iter().map(|sums| sums[which]).sum::<f64>();
    ModuleDelta {
        module: module.module.clone(),
        weight_norm: sum(0).sqrt(),
        adapter_norm: sum(1).sqrt(),
        delta_norm: sum(2).sqrt(),
        changed: sum(3) as u64,
        elements: (input * output) as u64,
    }
}
