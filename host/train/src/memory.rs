//! What a run saves of its activations: chosen by a plan before the first step, and followed by every step.

use unswag_abi::doc::Dtype;
use unswag_checkpoint::human_bytes;
use unswag_engine::{OptimizerState, ParamInfo, Plan, PlanOptions, Policy, Program, Storage};
use unswag_loader::device::Machine;
use unswag_torch::{FileStore, Torch};

use crate::{TrainError, TrainingArguments, TrainingModel};

/// What the steps of a run follow.
pub(crate) struct Memory {
    pub policies: Vec<Policy>,
    /// Where blocks that are offloaded go.
    pub store: Option<FileStore>,
    /// Bytes of tensors and of the optimizer that a step was planned to take at most; `None` where the length of rows was not known.
    pub planned_bytes: Option<u64>,
    /// The same with what operations take within a call, and libtorch's own.
    pub planned_growth_bytes: Option<u64>,
}

impl Memory {
    /// # Errors
    /// No policy fits the budget, or no length of rows was given for it; a folder that cannot be offloaded to.
    pub fn of(model: &TrainingModel, arguments: &TrainingArguments) -> Result<Self, TrainError> {
        let Some(row_tokens) = arguments.max_row_tokens else {
            if arguments.memory_budget.is_some() {
                return Err(TrainError::Argument {
                    what: "max_row_tokens",
                    expected: "the maximum tokens of a row, which a memory budget is planned for".into(),
                    got: "none".into(),
                });
            }
            let policies = vec![Policy::unsearched(arguments.gradient_checkpointing); model.program().blocks()];
            return Ok(Memory { policies, store: None, planned_bytes: None, planned_growth_bytes: None });
        };
        let plan = plan(model.program(), model.dtype(), arguments, row_tokens)?;
        let folder = arguments.offload_folder.as_deref().filter(|_| plan.offloaded_bytes > 0);
        let store = folder.map(|folder| FileStore::new(model.torch(), folder)).transpose()?;
        let (planned_bytes, planned_growth_bytes) = (Some(plan.peak_bytes), Some(plan.growth_bytes()));
        Ok(Memory { policies: plan.policies(), store, planned_bytes, planned_growth_bytes })
    }
}

/// Refuses what would end in the system's out-of-memory killer, or in an abort of the allocator.
///
/// # Errors
/// More bytes are needed than this process can still take.
pub(crate) fn require(what: &'static str, needed_bytes: u64, next: &'static str) -> Result<(), TrainError> {
    match Machine::memory().usable_bytes() {
        Some(available) if available < needed_bytes => {
            let (needed, available) = (human_bytes(needed_bytes), human_bytes(available));
            Err(TrainError::Memory { what, needed, available, next })
        }
        _ => Ok(()),
    }
}

/// Whether a program's weights fit, before one is read: each as it is held, and the trained ones in f32 too. On another device only
/// the one that is being read is in this machine's memory.
///
/// # Errors
/// They do not.
pub(crate) fn require_weights(program: &Program, torch: &Torch) -> Result<(), TrainError> {
    let elements = |info: &ParamInfo| info.shape[0].saturating_mul(info.shape[1]);
    let plain = |info: &ParamInfo| elements(info).saturating_mul(info.dtype.bytes());
    let held = |(index, info): (usize, &ParamInfo)| {
        let bytes = match info.storage {
            Storage::Plain => plain(info),
            Storage::Nf4(nf4) => nf4.bytes(elements(info)),
        };
        let master = if program.is_trainable(index) { elements(info).saturating_mul(4) } else { 0 };
        bytes.saturating_add(master)
    };
    let params = || program.params().iter();
    let being_read = params().map(plain).max().unwrap_or(0);
    let all = params().enumerate().map(held).fold(0, u64::saturating_add);
    let next = "hold them in 4 bits with --load-in-4bit, close other programs, or use a machine with more memory";
    require("the weights", if torch.is_on_host() { all } else { being_read }, next)
}

/// What of this process is in memory.
pub(crate) struct Resident {
    now: u64,
    /// The most that ever was.
    most: u64,
    /// Pages of programs and libraries as their files have them. How many come with one that is touched is up to how the system
    /// happens to cache the file (of libtorch's, 61 MiB or 125 MiB in the same run), and it takes them back when it needs memory.
    code: u64,
}

impl Resident {
    /// `None` where the system does not say.
    pub fn now() -> Option<Self> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let of = |name: &str| status.lines().find_map(|line| kib(line.strip_prefix(name)?));
        let code = code(&std::fs::read_to_string("/proc/self/smaps").ok()?)?;
        Some(Resident { now: of("VmRSS:")?, most: of("VmHWM:")?, code })
    }

    /// By how much this process has grown at most since then, code aside. The system does not say how much of the peak was code: as
    /// much as now, it is taken to be. Steps are alike and reach the peak each time, with the code of the first in memory.
    pub fn growth_bytes(&self) -> Option<u64> {
        let now = Resident::now()?;
        now.most.checked_sub(now.code)?.checked_sub(self.now.checked_sub(self.code)?)
    }
}

/// Bytes of private mappings of files that are as the file has them, by the kernel's list of mappings (`proc_pid_smaps`(5)).
fn code(smaps: &str) -> Option<u64> {
    let (mut bytes, mut is_code) = (0_u64, false);
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next()?;
        if !first.ends_with(':') {
            // A mapping: addresses, permissions, offset, device, inode, and the path of what is mapped.
            let (permissions, inode) = (words.next()?, words.nth(2)?);
            is_code = permissions.ends_with('p') && inode != "0";
        } else if is_code && first == "Rss:" {
            bytes = bytes.checked_add(kib(line.strip_prefix(first)?)?)?;
        } else if is_code && first == "Anonymous:" {
            bytes = bytes.checked_sub(kib(line.strip_prefix(first)?)?)?;
        }
    }
    Some(bytes)
}

/// "  12 kB" in bytes.
fn kib(text: &str) -> Option<u64> {
    text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the optimizer holds beside the masters.
pub(crate) fn optimizer_state(arguments: &TrainingArguments) -> OptimizerState {
    let optim = arguments.optim;
    OptimizerState {
        moments: if optim.is_lion() { 1 } else { 2 },
        is_8bit: optim.is_8bit(),
        budget_bytes: optim.is_paged().then_some(arguments.optim_memory_budget),
    }
}

/// A step on the longest batch, run on sizes: the fastest way within the budget, where there is one.
pub(crate) fn plan(
    program: &Program,
    dtype: Dtype,
    arguments: &TrainingArguments,
    row_tokens: u64,
) -> Result<Plan, TrainError> {
    let state = optimizer_state(arguments);
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
