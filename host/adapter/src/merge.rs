//! Merging: W' = W + scale B A, with DoRA each output's weights brought to its magnitude, in f64, rounded once to the weight's
//! own type.
//!
//! Weight files are written one after the other, one adapted tensor in memory at a time; what no adapter changes is copied.
//! The result appears whole or not at all, and not at all where it would not differ from the base: a merge that changed
//! nothing is a mistake that shows only much later.

use std::{cell::RefCell, collections::BTreeMap, error::Error as StdError, path::Path};

use rayon::prelude::*;
use unswag_abi::doc::Dtype;
use unswag_checkpoint::{Checkpoint, Commit, Disk, Existing, Progress, Staging, TensorData, TensorInfo, rewrite};

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
    /// Of what the adapter adds before rounding.
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
    if base.own_model_type().is_some() {
        return Err(AdapterError::Patched { path: base.root().to_owned() });
    }
    let adapted = targets(base, adapter)?;
    let mut staging = Staging::begin(out, &[base.root()], Existing::Refuse, disk)?;
    let deltas = RefCell::new(Vec::new());
    let replace =
        |tensor: &TensorInfo<'_>| adapted.get(tensor.name).map(|module| make(base, adapter, module, tensor, &deltas));
    rewrite(base, &mut staging, replace, progress)?;
    let mut modules = deltas.take();
    modules.sort_by(|a: &ModuleDelta, b| a.module.cmp(&b.module));
    if modules.iter().all(|module| module.changed == 0) {
        let why = match modules.iter().all(|module| module.adapter_norm == 0.0) {
            true => "its B matrices are zero, as before the first step of training",
            false => "what it adds is less than the weights' element type can hold; merge into a float32 base",
        };
        return Err(AdapterError::NoChange { path: adapter.path().to_owned(), why: why.into() });
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
        let transposed = adapter.is_stored_transposed();
        let added = Added { module, a: &a, b: &b, transposed };
        let magnitude = adapter.magnitude(module)?;
        let factors = magnitude.map(|magnitude| added.factors(&bytes, dtype, &magnitude));
        let delta = added.merge_into(&mut bytes, dtype, factors.as_deref());
        if !delta.delta_norm.is_finite() {
            let (path, module) = (adapter.path().to_owned(), module.module.clone());
            return Err(AdapterError::NotFinite { path, module }.into());
        }
        deltas.borrow_mut().push(delta);
        Ok(bytes)
    }))
}

/// scale B A, or its transpose where the base stores weights \[in, out\].
struct Added<'a> {
    module: &'a AdapterModule,
    a: &'a [f64],
    b: &'a [f64],
    transposed: bool,
}

impl Added<'_> {
    fn columns(&self) -> usize {
        (if self.transposed { self.module.output } else { self.module.input }) as usize
    }

    /// One row, as the weight has it.
    fn row(&self, row: usize) -> Vec<f64> {
        let (r, input) = (self.module.r as usize, self.module.input as usize);
        let mut product = vec![0.0; self.columns()];
        for k in 0..r {
            if self.transposed {
                let line = self.b.iter().skip(k).step_by(r);
                product.iter_mut().zip(line).for_each(|(sum, b)| *sum += self.a[k * input + row] * b);
            } else {
                let line = &self.a[k * input..(k + 1) * input];
                product.iter_mut().zip(line).for_each(|(sum, a)| *sum += self.b[row * r + k] * a);
            }
        }
        product.iter_mut().for_each(|sum| *sum *= self.module.scale);
        product
    }

    /// What DoRA multiplies each output's weights by: magnitude / norm of W + scale B A; 0 where the norm is 0.
    fn factors(&self, bytes: &[u8], dtype: Dtype, magnitude: &[f64]) -> Vec<f64> {
        let width = dtype.bytes() as usize;
        let squares = |(row, bytes): (usize, &[u8])| -> Vec<f64> {
            let sums = float::decode(dtype, bytes).into_iter().zip(self.row(row)).map(|(weight, added)| weight + added);
            let squares = sums.map(|sum| sum * sum);
            if self.transposed { squares.collect() } else { vec![squares.sum()] }
        };
        let rows: Vec<Vec<f64>> = bytes.par_chunks((self.columns() * width).max(1)).enumerate().map(squares).collect();
        let total = |output: usize| match self.transposed {
            true => rows.iter().map(|row| row[output]).sum::<f64>(),
            false => rows.get(output).map_or(0.0, |row| row[0]),
        };
        let factor = |(output, magnitude): (usize, &f64)| match total(output).sqrt() {
            0.0 => 0.0,
            norm => magnitude / norm,
        };
        magnitude.iter().enumerate().map(factor).collect()
    }

    /// W = (W + scale B A) factors, in place. Sums of squares are taken row by row, so that they do not depend on threads.
    fn merge_into(&self, bytes: &mut [u8], dtype: Dtype, factors: Option<&[f64]>) -> ModuleDelta {
        let width = dtype.bytes() as usize;
        let merge_row = |(row, bytes): (usize, &mut [u8])| {
            let weights = float::decode(dtype, bytes);
            let places = bytes.chunks_exact_mut(width);
            let mut sums = [0.0; 4];
            for (column, ((weight, added), place)) in weights.iter().zip(self.row(row)).zip(places).enumerate() {
                let output = if self.transposed { column } else { row };
                let added = factors.map_or(added, |factors| (weight + added) * factors[output] - weight);
                let moved = float::encode(dtype, weight + added, place) - weight;
                let parts = [weight * weight, added * added, moved * moved, f64::from(u8::from(moved != 0.0))];
                sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
            }
            sums
        };
        let rows: Vec<[f64; 4]> =
            bytes.par_chunks_mut((self.columns() * width).max(1)).enumerate().map(merge_row).collect();
        let sum = |which: usize| rows.iter().map(|sums| sums[which]).sum::<f64>();
        ModuleDelta {
            module: self.module.module.clone(),
            weight_norm: sum(0).sqrt(),
            adapter_norm: sum(1).sqrt(),
            delta_norm: sum(2).sqrt(),
            changed: sum(3) as u64,
            elements: self.module.input * self.module.output,
        }
    }
}
