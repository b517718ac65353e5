//! Merging: W' = W + scale B A, with DoRA each output's weights brought to its magnitude, in f64, rounded once to the weight's
//! element type. Fully trained modules replace the base's.
//!
//! The weights are written one after the other, one changed tensor in memory at a time; what no adapter changes is copied.
//! The result appears whole or not at all, and not at all where it would not differ from the base: a merge that changed
//! nothing is a mistake that shows only much later.

use std::{cell::RefCell, collections::HashMap, error::Error as StdError, path::Path};

use rayon::prelude::*;
use unswag_abi::doc::{Dtype, Graph};
use unswag_checkpoint::{
    Checkpoint, Commit, Disk, Existing, NewData, NewTensor, Progress, Rewrite, Staging, TensorData, TensorInfo,
    WriteError, rewrite_with,
};

use crate::{
    AdaptedLayer, AdapterError, AdapterSpec, MergeReport, ModuleChange, ReplacedParam, Rounding, float, report::Sums,
    rounding::Rounder, tie::HeadTie,
};

/// Where a config says the element type: since transformers 5, and before.
const DTYPE_FIELDS: [&str; 2] = ["dtype", "torch_dtype"];

/// How a merge is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeOptions {
    /// Writes every floating-point tensor in float32, whatever the base's type.
    pub float32: bool,
    pub rounding: Rounding,
}

/// Merges an adapter into the checkpoint that `graph` was built from and writes the result at `out`. `progress` hears each byte of
/// tensor data once.
///
/// # Errors
/// Nothing would change, a value of the adapter or a merged weight is not finite, or the disk refuses. Then nothing stands at
/// `out`.
pub fn merge(
    base: &Checkpoint,
    graph: &Graph,
    adapter: &AdapterSpec,
    out: &Path,
    options: MergeOptions,
    disk: &dyn Disk,
    progress: &Progress<'_>,
) -> Result<MergeReport, AdapterError> {
    // Where every patch keeps the forward, config.json is the base's own and the merged folder is a plain one.
    if base.own_model_type().is_some() {
        return Err(AdapterError::Patched { path: base.root().to_owned() });
    }
    let jobs = Jobs::new(base, graph, adapter, options);
    let mut staging = Staging::begin(out, &[base.root()], Existing::Refuse, disk)?;
    let done = RefCell::new(Vec::new());
    let replace = |tensor: &TensorInfo<'_>| jobs.of_tensor(tensor, &done);
    let config = jobs.config(base)?;
    let change = Rewrite { replace: &replace, added: jobs.added(&done), config };
    rewrite_with(base, &mut staging, change, progress).map_err(own_error)?;
    let report = jobs.report(done.take());
    if report.modules.iter().all(|module| module.change.changed == 0) {
        let why = match report.total.adapter_norm == 0.0 {
            true => "its B matrices are zero, as before the first step of training",
            false => "what it adds is below the precision of the weights' element type; merge with --dtype float32",
        };
        return Err(AdapterError::NoChange { path: adapter.path().to_owned(), why: why.into() });
    }
    staging.commit(Commit::default())?;
    Ok(report)
}

/// What went wrong while a tensor was computed is reported as itself.
fn own_error(error: WriteError) -> AdapterError {
    match error {
        WriteError::Produce { tensor, source } => match source.downcast::<AdapterError>() {
            Ok(error) => *error,
            Err(source) => WriteError::Produce { tensor, source }.into(),
        },
        error => error.into(),
    }
}

/// What is written for each tensor that is not the base's as it stands.
struct Jobs<'a> {
    base: &'a Checkpoint,
    adapter: &'a AdapterSpec,
    options: MergeOptions,
    /// By the name in the output.
    changed: HashMap<String, Job<'a>>,
    tie: HeadTie,
}

#[derive(Clone)]
struct Job<'a> {
    /// The module's place in the model's order, and its path.
    module: (usize, String),
    /// The tensor of the base that it begins as.
    base_tensor: String,
    replaced: Option<&'a ReplacedParam>,
    lora: Option<&'a AdaptedLayer>,
    /// Whether the tensor repeats a tied matrix, which is counted once.
    is_copy: bool,
}

/// A weight's changes as they were counted.
struct Counted {
    module: (usize, String),
    dtype: Dtype,
    sums: Sums,
}

impl<'a> Jobs<'a> {
    fn new(base: &'a Checkpoint, graph: &Graph, adapter: &'a AdapterSpec, options: MergeOptions) -> Self {
        let tied_lora = adapter.layers().iter().any(|adapted| adapted.layer.is_head && adapted.layer.is_tied);
        let tie = if tied_lora { adapter.tie().clone().cut_always() } else { adapter.tie().clone() };
        let place: HashMap<&str, usize> =
            graph.nodes.iter().enumerate().map(|(place, node)| (node.path.as_str(), place)).collect();
        let place_of = |path: &str| place.get(path).copied().unwrap_or(usize::MAX);
        let mut changed: HashMap<String, Job<'a>> = HashMap::new();
        for replaced in adapter.replaced() {
            let base_tensor = tie.copied(&replaced.param).unwrap_or(&replaced.param).to_owned();
            let module = (place_of(&replaced.module), replaced.module.clone());
            changed.insert(
                replaced.param.clone(),
                Job { module, base_tensor, replaced: Some(replaced), lora: None, is_copy: false },
            );
        }
        for adapted in adapter.layers() {
            let layer = &adapted.layer;
            let param = match &tie {
                HeadTie::Cut { head, param, .. } if *head == layer.path => param.clone(),
                _ => layer.weight.clone(),
            };
            let job = changed.entry(param).or_insert_with(|| Job {
                module: (place_of(&layer.path), layer.path.clone()),
                base_tensor: layer.weight.clone(),
                replaced: None,
                lora: None,
                is_copy: false,
            });
            job.lora = Some(adapted);
        }
        if let HeadTie::Cut { head, embedding, param } = &tie {
            // The head's own matrix is written even where only the embedding changes.
            changed.entry(param.clone()).or_insert_with(|| Job {
                module: (place_of(head), head.clone()),
                base_tensor: embedding.clone(),
                replaced: None,
                lora: None,
                is_copy: false,
            });
        }
        if let HeadTie::Shared { head, embedding } = &tie
            && let Some(job) = changed.get(embedding).cloned()
        {
            // A file may hold the tied matrix a second time, under the head's name.
            let root = if embedding.starts_with("language_model.model.") { "language_model." } else { "" };
            let copy = format!("{root}{head}.weight");
            if base.tensor(&copy).is_some() {
                changed.insert(copy, Job { is_copy: true, ..job });
            }
        }
        Jobs { base, adapter, options, changed, tie }
    }

    fn output_dtype(&self, dtype: Dtype) -> Dtype {
        if self.options.float32 && matches!(dtype, Dtype::F16 | Dtype::Bf16) { Dtype::F32 } else { dtype }
    }

    fn of_tensor<'s>(&'s self, tensor: &TensorInfo<'_>, done: &'s RefCell<Vec<Counted>>) -> Option<NewData<'s>> {
        let dtype = self.output_dtype(tensor.dtype);
        if let Some(job) = self.changed.get(tensor.name) {
            return Some(NewData { dtype, data: self.data(tensor.name.to_owned(), job, done) });
        }
        (dtype != tensor.dtype).then(|| {
            let (name, from) = (tensor.name.to_owned(), tensor.dtype);
            NewData { dtype, data: TensorData::Make(Box::new(move || self.widened(&name, from))) }
        })
    }

    /// Tensors that the base has not.
    fn added<'s>(&'s self, done: &'s RefCell<Vec<Counted>>) -> Vec<NewTensor<'s>> {
        let new = self.changed.iter().filter(|(name, _)| self.base.tensor(name).is_none());
        let tensor = |(name, job): (&'s String, &'s Job<'a>)| {
            let base = self.base.tensor(&job.base_tensor)?;
            let (dtype, shape) = (self.output_dtype(base.dtype), base.shape.to_vec());
            Some(NewTensor { name: name.clone(), dtype, shape, data: self.data(name.clone(), job, done) })
        };
        new.filter_map(tensor).collect()
    }

    fn widened(&self, name: &str, from: Dtype) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>> {
        let mut bytes = Vec::new();
        self.base.read(name, &mut bytes)?;
        let values = float::decode(from, &bytes);
        Ok(values.into_iter().flat_map(|value| (value as f32).to_le_bytes()).collect())
    }

    fn data<'s>(&'s self, name: String, job: &'s Job<'a>, done: &'s RefCell<Vec<Counted>>) -> TensorData<'s> {
        TensorData::Make(Box::new(move || -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>> {
            let (bytes, counted) = self.make(&name, job)?;
            if !job.is_copy {
                done.borrow_mut().push(counted);
            }
            Ok(bytes)
        }))
    }

    fn make(&self, name: &str, job: &Job<'_>) -> Result<(Vec<u8>, Counted), AdapterError> {
        let mut bytes = Vec::new();
        self.base.read(&job.base_tensor, &mut bytes)?;
        let tensor = self.base.tensor(&job.base_tensor).expect("just read");
        let columns = tensor.shape.last().copied().unwrap_or(1) as usize;
        let from = Weights { dtype: tensor.dtype, bytes, columns };
        let replaced = match job.replaced {
            None => None,
            Some(replaced) => {
                Some(Weights { dtype: replaced.dtype, bytes: self.adapter.replacement(replaced)?, columns })
            }
        };
        let lora = match job.lora {
            None => None,
            Some(adapted) => {
                let [a, b] = self.adapter.matrices(adapted)?;
                Some(Added { adapted, a, b })
            }
        };
        let start = |row: usize| replaced.as_ref().unwrap_or(&from).row(row);
        let magnitude = job.lora.map(|adapted| self.adapter.magnitude(adapted)).transpose()?.flatten();
        let factors = match (&lora, magnitude) {
            (Some(added), Some(magnitude)) => Some(added.factors(from.rows(), &start, &magnitude)),
            _ => None,
        };
        let dtype = self.output_dtype(tensor.dtype);
        let rounder = self.options.rounding.of_tensor(name);
        let merged =
            Merged { from: &from, start: &start, lora: lora.as_ref(), factors: factors.as_deref(), dtype, rounder };
        let (bytes, sums) = merged.write().map_err(|(index, value)| {
            let (path, module) = (self.adapter.path().to_owned(), job.module.1.clone());
            AdapterError::Overflow { path, module, index, value, dtype }
        })?;
        Ok((bytes, Counted { module: job.module.clone(), dtype, sums }))
    }

    /// `config.json` where it cannot be the base's own.
    fn config(&self, base: &Checkpoint) -> Result<Option<Vec<u8>>, AdapterError> {
        let cuts = matches!(self.tie, HeadTie::Cut { .. });
        let widens = base.tensors().any(|tensor| self.output_dtype(tensor.dtype) != tensor.dtype);
        let Some(config) = base.config().filter(|_| cuts || widens) else { return Ok(None) };
        let mut config = config.clone();
        if cuts {
            config.insert("tie_word_embeddings".to_owned(), false.into());
        }
        if widens {
            // transformers loads in the type that this says, and would round what was merged.
            if !DTYPE_FIELDS.iter().any(|name| config.contains_key(*name)) {
                config.insert("torch_dtype".to_owned(), "float32".into());
            }
            for name in DTYPE_FIELDS {
                if let Some(stated) = config.get_mut(name) {
                    *stated = "float32".into();
                }
                if let Some(stated) = config.get_mut("text_config").and_then(|nested| nested.get_mut(name)) {
                    *stated = "float32".into();
                }
            }
        }
        let text = serde_json::to_string_pretty(&config).expect("a config that was read is JSON");
        Ok(Some((text + "\n").into_bytes()))
    }

    fn report(&self, mut counted: Vec<Counted>) -> MergeReport {
        counted.sort_by(|a, b| a.module.cmp(&b.module));
        let total = counted.iter().fold(Sums::default(), |total, one| total.plus(one.sums)).change();
        let mut dtypes: Vec<String> = counted.iter().map(|one| one.dtype.name().to_owned()).collect();
        dtypes.sort_unstable();
        dtypes.dedup();
        let mut notes = self.adapter.notes().to_vec();
        notes.extend(MergeReport::loss_note(&total, &dtypes));
        let unties_head = matches!(self.tie, HeadTie::Cut { .. });
        if unties_head {
            notes.push(
                "the head shared the embedding's matrix; it has its own now, and config.json says tie_word_embeddings: false".into(),
            );
        }
        let module = |one: Counted| ModuleChange { module: one.module.1, change: one.sums.change() };
        MergeReport { modules: counted.into_iter().map(module).collect(), total, dtypes, unties_head, notes }
    }
}

/// A weight of the base.
struct Weights {
    dtype: Dtype,
    bytes: Vec<u8>,
    columns: usize,
}

impl Weights {
    fn rows(&self) -> usize {
        self.bytes.len() / (self.columns * self.dtype.bytes() as usize).max(1)
    }

    fn row(&self, row: usize) -> Vec<f64> {
        let width = self.columns * self.dtype.bytes() as usize;
        float::decode(self.dtype, &self.bytes[row * width..(row + 1) * width])
    }
}

/// scale B A, or its transpose where the base stores weights \[in, out\].
struct Added<'a> {
    adapted: &'a AdaptedLayer,
    a: Vec<f64>,
    b: Vec<f64>,
}

impl Added<'_> {
    /// One row, as the weight has it.
    fn row(&self, row: usize) -> Vec<f64> {
        let layer = &self.adapted.layer;
        let (r, input, output) = (self.adapted.r as usize, layer.input as usize, layer.output as usize);
        let mut product = vec![0.0; if layer.is_stored_transposed { output } else { input }];
        for k in 0..r {
            if layer.is_stored_transposed {
                let line = self.b.iter().skip(k).step_by(r);
                product.iter_mut().zip(line).for_each(|(sum, b)| *sum += self.a[k * input + row] * b);
            } else {
                let line = &self.a[k * input..(k + 1) * input];
                product.iter_mut().zip(line).for_each(|(sum, a)| *sum += self.b[row * r + k] * a);
            }
        }
        product.iter_mut().for_each(|sum| *sum *= self.adapted.scale);
        product
    }

    /// What DoRA multiplies each output's weights by: magnitude / norm of W + scale B A; 0 where the norm is 0.
    fn factors(&self, rows: usize, start: &(impl Fn(usize) -> Vec<f64> + Sync), magnitude: &[f64]) -> Vec<f64> {
        let transposed = self.adapted.layer.is_stored_transposed;
        let squares = |row: usize| -> Vec<f64> {
            let sums = start(row).into_iter().zip(self.row(row)).map(|(weight, added)| weight + added);
            let squares = sums.map(|sum| sum * sum);
            if transposed { squares.collect() } else { vec![squares.sum()] }
        };
        let rows: Vec<Vec<f64>> = (0..rows).into_par_iter().map(squares).collect();
        let total = |output: usize| match transposed {
            true => rows.iter().map(|row| row[output]).sum::<f64>(),
            false => rows.get(output).map_or(0.0, |row| row[0]),
        };
        let factor = |(output, magnitude): (usize, &f64)| match total(output).sqrt() {
            0.0 => 0.0,
            norm => magnitude / norm,
        };
        magnitude.iter().enumerate().map(factor).collect()
    }
}

/// One weight as it is to be written.
struct Merged<'a, S> {
    from: &'a Weights,
    /// A row of what the change begins from: the base's weight, or what replaces it.
    start: &'a S,
    lora: Option<&'a Added<'a>>,
    /// DoRA's, by output.
    factors: Option<&'a [f64]>,
    dtype: Dtype,
    rounder: Rounder,
}

impl<S: Fn(usize) -> Vec<f64> + Sync> Merged<'_, S> {
    /// The bytes, and the sums over their elements; or the first element that is not finite. Sums are taken row by row, so that they
    /// do not depend on threads.
    fn write(&self) -> Result<(Vec<u8>, Sums), (usize, f64)> {
        let width = self.from.columns * self.dtype.bytes() as usize;
        let mut bytes = vec![0; self.from.rows() * width];
        let rows: Vec<Result<Sums, (usize, f64)>> =
            bytes.par_chunks_mut(width.max(1)).enumerate().map(|(row, places)| self.write_row(row, places)).collect();
        let sums = rows.into_iter().try_fold(Sums::default(), |total, row| row.map(|row| total.plus(row)))?;
        Ok((bytes, sums))
    }

    fn write_row(&self, row: usize, places: &mut [u8]) -> Result<Sums, (usize, f64)> {
        let (weights, start) = (self.from.row(row), (self.start)(row));
        let added = self.lora.map_or_else(|| vec![0.0; weights.len()], |added| added.row(row));
        let is_transposed = self.lora.is_some_and(|added| added.adapted.layer.is_stored_transposed);
        let places = places.chunks_exact_mut(self.dtype.bytes() as usize);
        let mut sums = Sums::default();
        for (column, (place, ((weight, start), added))) in places.zip(weights.iter().zip(start).zip(added)).enumerate()
        {
            let output = if is_transposed { column } else { row };
            let target = self.factors.map_or(start + added, |factors| (start + added) * factors[output]);
            let index = row * self.from.columns + column;
            let written = self.rounder.write(self.dtype, target, index, place);
            if !written.is_finite() {
                return Err((index, target));
            }
            sums.add_element(*weight, target - weight, written - weight);
        }
        Ok(sums)
    }
}
