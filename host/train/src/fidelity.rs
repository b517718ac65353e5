//! What a lossy protocol does to the gradients: the user's own model and data, once as they are and once rewritten.
//!
//! Both runs have the same weights, adapters and tokens, and keep what their ops ask for. What is compared are the gradients that
//! training would see: those of each adapter. A fresh adapter's B is zero, and with it A's gradient; here B is random and
//! small, so that both matrices have one. The forward is not the question: it is compared by the loss alone.

use std::rc::Rc;

use indexmap::IndexMap;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use serde::Serialize;
use unswag_abi::doc::Graph;
use unswag_data::Batch;
use unswag_engine::{Grads, PluginOps, Program, Step, Trainable};

use crate::{LoraConfig, Observer, TrainError, TrainingModel, UnswagModel, batch::for_engine, model::program};

/// The most that an element of B is: a hundredth of what an adapter learns in some hundred steps at common rates.
const B_BOUND: f32 = 1e-3;

/// How far a gradient is from the exact one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GradientError {
    /// g h / (|g| |h|): 1 where both point the same way, and where both are zero; `None` where only one of them is zero.
    pub cosine: Option<f64>,
    /// |g - h| / |h|, h being the exact one; 0 where both are zero, `None` where only h is.
    pub relative_error: Option<f64>,
}

/// The gradient of one module's adapter, A and B together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModuleFidelity {
    pub module: String,
    #[serde(flatten)]
    pub error: GradientError,
}

/// The gradients of one block's adapters together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerFidelity {
    pub layer: String,
    #[serde(flatten)]
    pub error: GradientError,
}

/// What a rewrite costs in truth, and what it saves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FidelityReport {
    pub loss_exact: f64,
    pub loss: f64,
    /// Over all adapters.
    pub all: GradientError,
    /// Over the adapters of each block: modules whose paths share everything up to their first number.
    pub layers: Vec<LayerFidelity>,
    /// In the model's order.
    pub modules: Vec<ModuleFidelity>,
    /// The most bytes that tensors took, everything kept.
    pub peak_bytes_exact: u64,
    pub peak_bytes: u64,
    pub tokens: u64,
}

/// The gradients of a model's adapters on some rows, for others to be compared with.
pub struct Exact<'a> {
    model: &'a TrainingModel,
    batches: Vec<unswag_engine::Batch>,
    run: Run,
}

struct Run {
    loss: f64,
    /// A's and B's, one after the other, for each adapter.
    gradients: Vec<Vec<f32>>,
    peak_bytes: u64,
}

impl UnswagModel {
    /// A model as [`UnswagModel::for_training`] makes it, with B random.
    ///
    /// # Errors
    /// As there.
    pub fn for_fidelity(self, config: LoraConfig) -> Result<TrainingModel, TrainError> {
        let seed = config.seed;
        let mut model = self.for_training(config)?;
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x6272_616e_646f_6d21);
        let b: Vec<usize> = model.adapters().iter().map(|adapter| adapter.b).collect();
        for master in model.masters.iter_mut().filter(|master| b.contains(&master.param)) {
            let uniform = |bits: u32| (f64::from(bits) / f64::from(u32::MAX) * 2.0 - 1.0) as f32;
            master.values.iter_mut().for_each(|value| *value = B_BOUND * uniform(random.next_u32()));
        }
        model.refresh()?;
        Ok(model)
    }
}

impl<'a> Exact<'a> {
    /// Runs the model as it is; `None` where the observer stops it.
    ///
    /// # Errors
    /// A batch that does not fit, or no memory.
    pub fn new(
        model: &'a TrainingModel,
        rows: &[Batch],
        observer: &mut dyn Observer,
    ) -> Result<Option<Self>, TrainError> {
        let batches: Vec<_> = rows.iter().map(for_engine).collect();
        if batches.iter().flat_map(|batch| &batch.targets).all(|&target| target < 0) {
            return Err(TrainError::NothingSupervised);
        }
        let run = run(model, model.program(), &batches, "the model as it is", observer)?;
        Ok(run.map(|run| Exact { model, batches, run }))
    }

    /// The same with the model's graph rewritten, and whoever has the plugins.
    ///
    /// # Errors
    /// A rewrite that makes other weights, or what a plugin says.
    pub fn compare(
        &self,
        graph: &Graph,
        ops: Rc<dyn PluginOps>,
        observer: &mut dyn Observer,
    ) -> Result<Option<FidelityReport>, TrainError> {
        let mut program = program(graph, ops, Trainable::Nothing, self.model.dtype(), self.model.nf4())?;
        program.add_adapters(&self.model.lora().ok_or(TrainError::NoAdapters)?.layers(graph)?)?;
        let (ours, theirs) = (self.model.program().params(), program.params());
        if let Some((had, has)) = ours.iter().zip(theirs).find(|(had, has)| had != has) {
            return Err(TrainError::Argument {
                what: "the rewritten model",
                expected: format!("the weights that the model has, {} {:?}", had.name, had.shape),
                got: format!("{} {:?}; gradients of different weights cannot be compared", has.name, has.shape),
            });
        }
        let Some(found) = run(self.model, &program, &self.batches, "the rewritten model", observer)? else {
            return Ok(None);
        };
        let modules = self.model.adapters().iter().zip(self.run.gradients.iter().zip(&found.gradients));
        let modules = modules.map(|(adapter, (exact, found))| ModuleFidelity {
            module: adapter.module.clone(),
            error: Sums::of(exact, found).error(),
        });
        let mut all = Sums::default();
        let mut layers: IndexMap<String, Sums> = IndexMap::new();
        for (adapter, (exact, found)) in
            self.model.adapters().iter().zip(self.run.gradients.iter().zip(&found.gradients))
        {
            let sums = Sums::of(exact, found);
            all = all.plus(sums);
            let layer = layers.entry(layer_of(&adapter.module)).or_default();
            *layer = layer.plus(sums);
        }
        let tokens = self.batches.iter().map(unswag_engine::Batch::rows).sum();
        Ok(Some(FidelityReport {
            loss_exact: self.run.loss,
            loss: found.loss,
            all: all.error(),
            layers: layers.into_iter().map(|(layer, sums)| LayerFidelity { layer, error: sums.error() }).collect(),
            modules: modules.collect(),
            peak_bytes_exact: self.run.peak_bytes,
            peak_bytes: found.peak_bytes,
            tokens,
        }))
    }
}

/// Gradients of the mean loss over all batches; `which` model it is, for messages.
fn run(
    model: &TrainingModel,
    program: &Program,
    batches: &[unswag_engine::Batch],
    which: &str,
    observer: &mut dyn Observer,
) -> Result<Option<Run>, TrainError> {
    let not_finite =
        |what: String| TrainError::ResultNotFinite { what: format!("{what} of {which}"), why: model.why_not_finite() };
    let counted = batches.iter().flat_map(|batch| &batch.targets).filter(|&&target| target >= 0).count() as u64;
    let mut grads = Grads::new(program);
    let mut loss = 0.0;
    model.torch.meter().reset_peak();
    for (index, batch) in batches.iter().enumerate() {
        if observer.wants_stop() {
            return Ok(None);
        }
        let step = Step {
            seed: model.lora().map_or(0, |config| config.seed) ^ index as u64,
            loss_count: Some(counted),
            ..Step::default()
        };
        loss += program.step(&model.torch, &model.params, batch, &step, &mut grads)?;
        if !loss.is_finite() {
            return Err(not_finite(format!("the loss of row {}", index + 1)));
        }
        observer.measured(index as u64 + 1, 0.0, 0);
    }
    let peak_bytes = model.torch.meter().peak();
    let mut gradients = Vec::new();
    for adapter in model.adapters() {
        let mut both = Vec::new();
        for param in [adapter.a, adapter.b] {
            match grads.get(param) {
                Some(grad) => both.extend(grad.to_f32()?),
                // What a rewrite cuts off learns nothing.
                None => both.resize(both.len() + program.params()[param].shape.iter().product::<u64>() as usize, 0.0),
            }
        }
        if !both.iter().all(|value| value.is_finite()) {
            return Err(not_finite(format!("the gradient of {}'s adapter", adapter.module)));
        }
        gradients.push(both);
    }
    Ok(Some(Run { loss, gradients, peak_bytes }))
}

/// The path up to its first number: `model.layers.3`.
fn layer_of(module: &str) -> String {
    let mut parts = Vec::new();
    for part in module.split('.') {
        parts.push(part);
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            break;
        }
    }
    parts.join(".")
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    product: f64,
    exact: f64,
    found: f64,
    difference: f64,
}

impl Sums {
    fn of(exact: &[f32], found: &[f32]) -> Self {
        assert_eq!(exact.len(), found.len(), "both are of the same weights");
        let mut sums = Sums::default();
        for (&exact, &found) in exact.iter().zip(found) {
            let (exact, found) = (f64::from(exact), f64::from(found));
            sums.product += exact * found;
            sums.exact += exact * exact;
            sums.found += found * found;
            sums.difference += (exact - found) * (exact - found);
        }
        sums
    }

    fn plus(self, other: Sums) -> Self {
        Sums {
            product: self.product + other.product,
            exact: self.exact + other.exact,
            found: self.found + other.found,
            difference: self.difference + other.difference,
        }
    }

    /// The gradients are finite. Two that are both zero are alike; a zero has no direction, and nothing is relative to it.
    fn error(self) -> GradientError {
        if self.exact == 0.0 && self.found == 0.0 {
            return GradientError { cosine: Some(1.0), relative_error: Some(0.0) };
        }
        let ratio = |over: f64, under: f64| (under > 0.0).then(|| over / under);
        GradientError {
            cosine: ratio(self.product, self.exact.sqrt() * self.found.sqrt()),
            relative_error: ratio(self.difference, self.exact).map(f64::sqrt),
        }
    }
}
