//! What a step takes, before it is run: the same program, run on sizes.
//!
//! A plan is a step on [`Meta`], with everything that is alive beside it. It counts tensors, to the byte; what an operation
//! takes and gives back within one call, and the program itself, come on top. Nothing here may read a clock or a machine: the
//! speeds that make a time of the work are given.

use serde::Serialize;
use unswag_abi::doc::Dtype;

use crate::{
    Backend, Batch, EngineError, Grads, Held, Meta, MetaStore, Params, Pass, Place, Point, Policy, Program, Step, Work,
    ledger::account,
};

/// The most tokens in a batch that a plan is made for.
pub const MOST_TOKENS: u64 = 1 << 24;

/// The most that an optimizer may be said to take: sums of it with the rest stay within 63 bits.
const MOST_BYTES: u64 = 1 << 60;

/// What a step is planned for.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanOptions {
    /// Sequences in a batch.
    pub batch: u64,
    /// Tokens in a sequence.
    pub seq: u64,
    /// As in [`Step`].
    pub loss_rows: u64,
    /// As in [`Step`].
    pub tile_rows: u64,
    /// What is alive throughout beside parameters and gradients: optimizer state, master weights.
    pub optimizer_bytes: u64,
    /// Whether gradients of earlier batches are there when the step begins.
    pub accumulates: bool,
    /// Policies that may be chosen.
    pub policies: Vec<Policy>,
    pub rates: Rates,
    /// Threads of the CPU's kernels: each wants memory lent. As many as this machine runs at once, by default.
    pub threads: usize,
}

impl Default for PlanOptions {
    fn default() -> Self {
        let Step { loss_rows, tile_rows, .. } = Step::default();
        PlanOptions {
            batch: 1,
            seq: 2048,
            loss_rows,
            tile_rows,
            optimizer_bytes: 0,
            accumulates: false,
            policies: Policy::IN_MEMORY.into(),
            rates: Rates::default(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

impl PlanOptions {
    /// The steps of a run: rows of a batch and their tokens, whether several batches make a step, what the optimizer keeps, and
    /// whether blocks may be written somewhere.
    pub fn of_run(
        program: &Program,
        dtype: Dtype,
        [batch, seq]: [u64; 2],
        accumulates: bool,
        state: OptimizerState,
        offloads: bool,
    ) -> Self {
        PlanOptions {
            batch,
            seq,
            accumulates,
            optimizer_bytes: state.bytes(program),
            policies: if offloads { Policy::ALL.into() } else { Policy::IN_MEMORY.into() },
            rates: Rates::of(dtype),
            ..PlanOptions::default()
        }
    }

    /// The step that this plans.
    pub fn step(&self, policies: &[Policy]) -> Step {
        let (loss_rows, tile_rows) = (self.loss_rows, self.tile_rows);
        Step { policies: policies.into(), loss_rows, tile_rows, ..Step::default() }
    }
}

/// How fast a machine works: what makes one policy dearer than another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    pub matmul_flops_per_s: f64,
    pub attention_flops_per_s: f64,
    pub moved_bytes_per_s: f64,
    pub offload_bytes_per_s: f64,
}

impl Default for Rates {
    /// Two Zen cores with AVX512-BF16, in bf16, and a local disk.
    fn default() -> Self {
        Rates {
            matmul_flops_per_s: 3.8e11,
            attention_flops_per_s: 2.8e11,
            moved_bytes_per_s: 2e10,
            offload_bytes_per_s: 1e9,
        }
    }
}

impl Rates {
    /// The same machine in another element type.
    pub fn of(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Bf16 | Dtype::F16 => Rates::default(),
            _ => Rates { matmul_flops_per_s: 1.9e11, attention_flops_per_s: 1.7e11, ..Rates::default() },
        }
    }

    pub fn seconds(&self, work: &Work) -> f64 {
        work.matmul_flops / self.matmul_flops_per_s
            + work.attention_flops / self.attention_flops_per_s
            + work.moved_bytes / self.moved_bytes_per_s
            + work.offload_bytes / self.offload_bytes_per_s
    }
}

/// What an optimizer keeps for every parameter that is trained, between the steps and through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptimizerState {
    /// AdamW's two, Lion's one.
    pub moments: u64,
    /// Blockwise in 8 bits; in f32 else.
    pub is_8bit: bool,
    /// The most of it that is in memory, where it is paged.
    pub budget_bytes: Option<u64>,
}

impl OptimizerState {
    /// Tensors with fewer elements keep f32 moments. bitsandbytes' `min_8bit_size`.
    const LEAST_8BIT: u64 = 4096;
    /// Elements that share a scale of 4 bytes. Dettmers et al. 2022.
    const BLOCK: u64 = 256;

    /// Bytes in memory: of the moments, as far as they may be, and of the parameters' masters in f32.
    pub fn bytes(&self, program: &Program) -> u64 {
        let masters: u64 = trained(program).map(|elements| 4 * elements).sum();
        masters + self.moment_bytes(program).min(self.budget_bytes.unwrap_or(u64::MAX))
    }

    /// Bytes of the moments that lie in a file: all of them, where they exceed the budget.
    pub fn paged_bytes(&self, program: &Program) -> u64 {
        let bytes = self.moment_bytes(program);
        self.budget_bytes.map_or(0, |budget| if bytes > budget { bytes } else { 0 })
    }

    fn moment_bytes(&self, program: &Program) -> u64 {
        let moment = |elements: u64| match self.is_8bit && elements >= Self::LEAST_8BIT {
            true => elements + 4 * elements.div_ceil(Self::BLOCK),
            false => 4 * elements,
        };
        trained(program).map(|elements| self.moments * moment(elements)).sum()
    }
}

/// Elements of each parameter that is trained.
fn trained(program: &Program) -> impl Iterator<Item = u64> {
    let trained = program.params().iter().enumerate().filter(|(index, _)| program.is_trainable(*index));
    trained.map(|(_, info)| info.shape[0] * info.shape[1])
}

/// What a step takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    pub batch: u64,
    pub seq: u64,
    /// The most bytes of tensors that are alive at once.
    pub peak_bytes: u64,
    pub peak_at: PeakAt,
    /// What makes up the peak.
    pub parts: Parts,
    /// One for each block, in order.
    pub blocks: Vec<BlockPlan>,
    /// What operations take within a call and give back, as far as it goes beyond the peak.
    pub workspace_bytes: u64,
    /// The most bytes that lie in the store.
    pub offloaded_bytes: u64,
    pub forward: Work,
    pub recompute: Work,
    pub backward: Work,
    /// By the rates that were given. It ranks policies; it is no promise.
    pub estimated_seconds: f64,
    /// Bytes alive over the step, a bar for each time that the tape goes over a block or over what stands around the blocks.
    pub bars: Vec<Bar>,
    /// Every node's run.
    #[serde(skip)]
    pub timeline: Vec<Point>,
}

/// Where in the step the most is alive.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeakAt {
    pub pass: Pass,
    /// Path of the node.
    pub path: String,
}

/// Who holds the bytes that are alive at the peak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Parts {
    pub frozen_parameters: u64,
    pub trainable_parameters: u64,
    pub optimizer: u64,
    pub gradients: u64,
    /// What blocks keep of what they computed.
    pub saved_in_blocks: u64,
    /// What comes into blocks that are computed again.
    pub block_inputs: u64,
    /// The same, of what stands around the blocks.
    pub saved_outside_blocks: u64,
    /// The logits of a stretch of rows, and what else the head works with.
    pub head: u64,
    /// What nodes work with.
    pub working: u64,
}

impl Parts {
    pub fn sum(&self) -> u64 {
        self.named().iter().map(|(_, bytes)| bytes).sum()
    }

    /// With names for people, in the order of a table.
    pub fn named(&self) -> [(&'static str, u64); 9] {
        [
            ("frozen parameters", self.frozen_parameters),
            ("trainable parameters", self.trainable_parameters),
            ("optimizer", self.optimizer),
            ("gradients", self.gradients),
            ("saved in blocks", self.saved_in_blocks),
            ("block inputs", self.block_inputs),
            ("saved outside blocks", self.saved_outside_blocks),
            ("head and logits", self.head),
            ("working set", self.working),
        ]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BlockPlan {
    pub policy: Policy,
    /// Held by it at the peak.
    pub saved_bytes: u64,
    pub input_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bar {
    pub pass: Pass,
    /// `None` for what stands around the blocks.
    pub block: Option<usize>,
    pub peak_bytes: u64,
}

/// A step on sizes, and its books.
pub(crate) struct Measured {
    pub meta: Meta,
    pub points: Vec<Point>,
    pub peak_bytes: u64,
    pub workspace_bytes: u64,
    pub offloaded_bytes: u64,
}

pub(crate) fn measure(program: &Program, options: &PlanOptions, policies: &[Policy]) -> Result<Measured, EngineError> {
    let tokens = options.batch.checked_mul(options.seq).filter(|tokens| (1..=MOST_TOKENS).contains(tokens));
    let Some(tokens) = tokens else {
        let (expected, got) = (format!("1 to {MOST_TOKENS}"), format!("{} x {}", options.batch, options.seq));
        return Err(EngineError::Batch { what: "tokens to plan for", expected, got });
    };
    if options.optimizer_bytes > MOST_BYTES {
        let (expected, got) = (format!("at most {MOST_BYTES}"), options.optimizer_bytes.to_string());
        return Err(EngineError::Batch { what: "bytes of the optimizer", expected, got });
    }
    let meta = Meta::new().with_threads(options.threads);
    let params = Params::load(program, |index, info| {
        let param = meta.param(info);
        let is_trainable = program.is_trainable(index);
        meta.holds(&param, if is_trainable { Held::TrainableParameter } else { Held::FrozenParameter });
        Ok::<_, EngineError>(param)
    })?;
    let beside = meta.bytes(options.optimizer_bytes);
    meta.holds(&beside, Held::Optimizer);
    let mut grads = Grads::new(program);
    if options.accumulates {
        for (index, info) in program.params().iter().enumerate().filter(|(index, _)| program.is_trainable(*index)) {
            grads.of(&meta, index, info.shape)?;
        }
    }
    let count = tokens as usize;
    let batch = Batch {
        batch: options.batch,
        seq: options.seq,
        input_ids: vec![0; count],
        position_ids: vec![0; count],
        targets: vec![0; count],
        document_ids: Vec::new(),
    };
    let step = Step { loss_count: Some(tokens), ..options.step(policies) };
    let mut store = MetaStore::new(&meta);
    meta.ledger().trace(program.segments.len());
    program.step_with_store(&meta, &params, &batch, &step, &mut grads, &mut store)?;
    let (points, peak_bytes) = (meta.ledger().points(), meta.meter().peak());
    let workspace_bytes = meta.ledger().working_peak() - peak_bytes;
    Ok(Measured { points, peak_bytes, workspace_bytes, offloaded_bytes: store.meter().peak(), meta })
}

impl Plan {
    /// Runs one step on sizes, each block under its policy.
    ///
    /// # Errors
    /// No token or more than [`MOST_TOKENS`], or what running the step says.
    pub fn new(program: &Program, options: &PlanOptions, policies: &[Policy]) -> Result<Self, EngineError> {
        let Measured { meta, points, peak_bytes, workspace_bytes, offloaded_bytes } =
            measure(program, options, policies)?;
        let at_peak = |account| meta.ledger().at_peak(account);
        let mut parts = Parts {
            frozen_parameters: at_peak(account::FROZEN),
            trainable_parameters: at_peak(account::TRAINABLE),
            optimizer: at_peak(account::OPTIMIZER),
            gradients: at_peak(account::GRADIENT),
            head: at_peak(account::HEAD),
            working: at_peak(account::WORKING),
            ..Parts::default()
        };
        let mut blocks = Vec::new();
        for (index, segment) in program.segments.iter().enumerate() {
            let (saved_bytes, input_bytes) = (at_peak(account::saved(index)), at_peak(account::input(index)));
            let Some(block) = segment.block else {
                parts.saved_outside_blocks += saved_bytes + input_bytes;
                continue;
            };
            parts.saved_in_blocks += saved_bytes;
            parts.block_inputs += input_bytes;
            let policy = policies.get(block).copied().unwrap_or_default();
            blocks.push(BlockPlan { policy, saved_bytes, input_bytes });
        }
        let work = |pass| {
            let mut sum = Work::default();
            points.iter().filter(|point| point.place.pass == pass).for_each(|point| sum += point.work);
            sum
        };
        let (forward, recompute, backward) = (work(Pass::Forward), work(Pass::Recompute), work(Pass::Backward));
        let estimated_seconds = [forward, recompute, backward].iter().map(|work| options.rates.seconds(work)).sum();
        let highest = points.iter().max_by_key(|point| point.peak_bytes).expect("a program has a head");
        let peak_at = PeakAt { pass: highest.place.pass, path: program.nodes[highest.place.node].path.clone() };
        Ok(Plan {
            batch: options.batch,
            seq: options.seq,
            peak_bytes,
            peak_at,
            parts,
            blocks,
            workspace_bytes,
            offloaded_bytes,
            forward,
            recompute,
            backward,
            estimated_seconds,
            bars: bars(program, &points),
            timeline: points,
        })
    }

    /// What a step's tensors take, as it is measured: the optimizer's state is no tensor of the step's.
    pub fn tensor_bytes(&self) -> u64 {
        self.peak_bytes - self.parts.optimizer
    }

    /// What a process takes on the CPU beside all that is planned, whatever the model: what libtorch's operations take of their own, and
    /// what the C library keeps. Measured from 64 to 8,192 tokens as one sum, and not taken apart (docs/benchmarks.md).
    pub const RUNTIME_BYTES: u64 = 22 << 20;

    /// By how much a process should grow: tensors, the optimizer's state, what operations take within a call, and
    /// [`Plan::RUNTIME_BYTES`].
    pub fn growth_bytes(&self) -> u64 {
        self.peak_bytes + self.workspace_bytes + Self::RUNTIME_BYTES
    }

    pub fn policies(&self) -> Vec<Policy> {
        self.blocks.iter().map(|block| block.policy).collect()
    }
}

/// One bar for each run over a segment: the head's passes are one, and what is computed again belongs to its backward.
fn bars(program: &Program, points: &[Point]) -> Vec<Bar> {
    let head = program.segments.len();
    let key = |place: &Place| (place.segment, place.segment != head && place.pass != Pass::Forward);
    let mut bars: Vec<Bar> = Vec::new();
    let mut last = None;
    for point in points {
        let of = key(&point.place);
        match bars.last_mut() {
            Some(bar) if last == Some(of) => bar.peak_bytes = bar.peak_bytes.max(point.peak_bytes),
            _ => {
                let pass = if of.1 { Pass::Backward } else { Pass::Forward };
                let block = program.segments.get(of.0).and_then(|segment| segment.block);
                bars.push(Bar { pass, block, peak_bytes: point.peak_bytes });
            }
        }
        last = Some(of);
    }
    bars
}
