//! How a run keeps its activations: chosen by a plan before the first step, and followed by every step.

use unswag_abi::doc::Dtype;
use unswag_engine::{OptimizerState, Plan, PlanOptions, Policy, Program};
use unswag_torch::FileStore;

use crate::{TrainError, TrainingArguments, TrainingModel};

/// What the steps of a run follow.
pub(crate) struct Memory {
    pub policies: Vec<Policy>,
    /// Where blocks that are offloaded go.
    pub store: Option<FileStore>,
    /// Bytes of tensors that a step was planned to take at most; `None` where the length of rows was not known.
    pub planned_bytes: Option<u64>,
    /// The same with the optimizer's state, and what operations take within a call.
    pub planned_growth_bytes: Option<u64>,
}

impl Memory {
    /// # Errors
    /// A budget that nothing fits, or that no length of rows was given for; a folder that cannot be offloaded to.
    pub fn of(model: &TrainingModel, arguments: &TrainingArguments) -> Result<Self, TrainError> {
        let Some(row_tokens) = arguments.max_row_tokens else {
            if arguments.memory_budget.is_some() {
                return Err(TrainError::Argument {
                    what: "max_row_tokens",
                    expected: "the most tokens of a row, which a memory budget is kept for".into(),
                    got: "none".into(),
                });
            }
            let policies = vec![Policy::unsearched(arguments.gradient_checkpointing); model.program().blocks()];
            return Ok(Memory { policies, store: None, planned_bytes: None, planned_growth_bytes: None });
        };
        let plan = plan(model.program(), model.dtype(), arguments, row_tokens)?;
        let folder = arguments.offload_folder.as_deref().filter(|_| plan.offloaded_bytes > 0);
        let store = folder.map(|folder| FileStore::new(model.torch(), folder)).transpose()?;
        let (planned_bytes, planned_growth_bytes) = (Some(plan.tensor_bytes()), Some(plan.growth_bytes()));
        Ok(Memory { policies: plan.policies(), store, planned_bytes, planned_growth_bytes })
    }
}

/// What of this process is in memory, and the most that was. `None` where the system does not say.
pub(crate) fn resident() -> Option<[u64; 2]> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = |name: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some([line("VmRSS")?, line("VmHWM")?])
}

/// A step on the longest batch, run on sizes: the fastest way within the budget, where there is one.
pub(crate) fn plan(
    program: &Program,
    dtype: Dtype,
    arguments: &TrainingArguments,
    row_tokens: u64,
) -> Result<Plan, TrainError> {
    let optim = arguments.optim;
    let state = OptimizerState {
        moments: if optim.is_lion() { 1 } else { 2 },
        is_8bit: optim.is_8bit(),
        budget_bytes: optim.is_paged().then_some(arguments.optim_memory_budget),
    };
    let sizes = [arguments.per_device_train_batch_size, row_tokens];
    let (accumulates, offloads) = (arguments.gradient_accumulation_steps > 1, arguments.offload_folder.is_some());
    let options = PlanOptions::of_run(program, dtype, sizes, accumulates, state, offloads);
    let options = PlanOptions { threads: unswag_torch::threads(), ..options };
    Ok(match arguments.memory_budget {
        Some(budget) => Plan::within(program, &options, budget)?,
        None => {
            let policy = Policy::unsearched(arguments.gradient_checkpointing);
            Plan::new(program, &options, &vec![policy; program.blocks()])?
        }
    })
}
