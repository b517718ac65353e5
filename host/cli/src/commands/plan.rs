//! `unswag plan`.

use std::{error::Error, path::PathBuf, rc::Rc};

use clap::CommandFactory;
use serde_json::json;
use unswag_abi::doc::{Dtype, Graph};
use unswag_adapter::{LoraTargets, SelectedLayer};
use unswag_console::{
    data,
    recipe::{Recipe, is_recipe},
};
use unswag_data::{ModelLimits, Tokenizer};
use unswag_engine::{
    Bar, EngineError, LoraLayer, Nf4, OptimizerState, Pass, Plan, PlanOptions, PluginOps, Policy, Program, Survey,
    Trainable, longest_seq,
};
use unswag_loader::device::Machine;
use unswag_surgery::{Model, Operation, open_recorded, operate, record::Step};

use crate::{
    Done,
    args::{self, Cli, Output, Pattern, Precision},
    commands::run::protocols,
    term::{self, BOLD, DIM, NAME, Table, WARN, paint},
};

/// Lines of the chart, and cells of its widest bar.
const LINES: usize = 24;
const CELLS: usize = 40;

/// What is planned: a graph, and the steps whose plugins have ops in it.
pub struct Subject {
    name: String,
    root: PathBuf,
    graph: Graph,
    steps: Vec<Step>,
    limits: ModelLimits,
}

/// Largest token id and sequence length of a model.
pub fn model_limits(model: &Model) -> ModelLimits {
    let (tables, stated_positions) = (model.index_limits(), model.stated_positions());
    ModelLimits { token_rows: tables.token_rows, position_rows: tables.position_rows, stated_positions }
}

impl Subject {
    fn of_model(model: &Model) -> Self {
        let steps = model.record.iter().flat_map(|record| &record.steps).cloned().collect();
        let (name, root, graph) = (model.name(), model.checkpoint.root().to_owned(), model.graph.clone());
        Subject { name, root, graph, steps, limits: model_limits(model) }
    }

    /// The model as an operation would leave it.
    pub fn after(model: &Model, operation: &Operation<'_>) -> Self {
        let mut subject = Self::of_model(model);
        subject.graph = operation.after.clone();
        subject.steps.extend(operation.steps.iter().cloned());
        subject
    }
}

pub fn run(args: &args::Plan, output: &Output) -> Result<Done, Box<dyn Error>> {
    if is_recipe(&args.model.path) {
        return run_recipe(args, output);
    }
    let model = Model::open(&args.model.path, args.model.config.as_deref())?;
    show(args, &Subject::of_model(&model), output)
}

/// Plans what a recipe trains. Computes the surgery's graph; writes nothing.
fn run_recipe(args: &args::Plan, output: &Output) -> Result<Done, Box<dyn Error>> {
    let recipe = Recipe::open(&args.model.path)?;
    // Options on the command line override the recipe; clap's defaults do not.
    let typed = Cli::command().get_matches_from(args::command_line());
    let args = recipe.plan_args(typed.subcommand_matches("plan"))?;
    let model = Model::open(&args.model.path, args.model.config.as_deref())?;
    let protocols = protocols(&recipe, output)?;
    if protocols.is_empty() {
        return show(&args, &Subject::of_model(&model), output);
    }
    show(&args, &Subject::after(&model, &operate(&model, &protocols)?), output)
}

pub fn show(args: &args::Plan, subject: &Subject, output: &Output) -> Result<Done, Box<dyn Error>> {
    check_limits(args, subject, output)?;
    let dtype = computed_in(&subject.graph, args.dtype);
    let (program, adapters) = program(subject, args, dtype, output)?;
    let state = optimizer_state(args)?;
    let options = options(args, subject.limits, &program, dtype, state);
    let paged_bytes = state.paged_bytes(&program);
    let survey = Survey::new(&program, &options)?;
    let plan = match args.memory_budget {
        Some(budget) => Plan::within(&program, &options, budget).map_err(|error| budget_error(error, args, &survey))?,
        None => {
            let policy = Policy::unsearched(args.gradient_checkpointing);
            Plan::new(&program, &options, &vec![policy; program.blocks()])?
        }
    };
    let budget = args.memory_budget.map_or_else(|| device_bytes(args.device), Ok)?;
    let fits = longest_seq(&program, &options, budget)?;
    let longest = fits.map(|fits| fits.min(subject.limits.position_rows.unwrap_or(fits)));
    let uniform: Vec<UniformPolicy> =
        options.policies.iter().filter_map(|&policy| UniformPolicy::of(policy, &program, &survey)).collect();
    let trainable = (0..program.params().len()).filter(|&index| program.is_trainable(index));
    let trainable: u64 = trainable.map(|index| program.params()[index].shape.iter().product::<u64>()).sum();
    if output.json {
        let page = json!({
            "model": subject.root,
            "model_type": subject.graph.arch.model_type,
            "dtype": dtype.name(),
            "trainable_parameters": trainable,
            "memory_budget": args.memory_budget,
            "plan": plan,
            "paged_optimizer_bytes": paged_bytes,
            "longest_seq": {"memory_bytes": budget, "seq": longest},
            "fits_in_memory": plan.peak_bytes <= budget,
            "policies": uniform.iter().map(UniformPolicy::json).collect::<Vec<_>>(),
        });
        term::print(&format!("{page:#}\n"))?;
        return Ok(Done::Ok);
    }
    let trained = match args.lora.full_finetuning {
        true => "all of it trained".to_owned(),
        false => format!("LoRA on {adapters} layers"),
    };
    let mut page = format!(
        "{}  {}, {} blocks, in {dtype}; {trained}, {} trainable parameters\n",
        paint(BOLD, &subject.name),
        term::value(&subject.graph.arch.model_type),
        program.blocks(),
        term::count(trainable),
    );
    page.push_str(&format!(
        "peak memory of a step of {} x {} tokens: {} (with optimizer state), in the {} of {}\n\n",
        term::thousands(plan.batch),
        term::thousands(plan.seq),
        paint(BOLD, term::bytes(plan.peak_bytes)),
        pass_name(plan.peak_at.pass),
        term::value(&plan.peak_at.path),
    ));
    page.push_str(&parts(&plan));
    page.push_str(&format!("\n{} {}\n", paint(DIM, "policy:"), chosen(&plan)));
    if plan.offloaded_bytes > 0 {
        page.push_str(&format!("{} {} in a file\n", paint(DIM, "offloaded:"), term::bytes(plan.offloaded_bytes)));
    }
    if paged_bytes > 0 {
        page.push_str(&format!("{} {} in a file\n", paint(DIM, "optimizer:"), term::bytes(paged_bytes)));
    }
    page.push_str(&format!("\n{}\n{}", paint(DIM, "live bytes over the step"), chart(&plan.bars)));
    page.push_str(&format!("\n{}", alternatives(&uniform)));
    let of = if args.memory_budget.is_some() { "the budget" } else { "the device's memory" };
    let longest = match longest {
        Some(seq) if longest != fits => format!("{} tokens, the size of its position embedding", term::thousands(seq)),
        Some(seq) => format!("{} tokens", term::thousands(seq)),
        None => "none (one token does not fit)".to_owned(),
    };
    page.push_str(&format!(
        "\nlongest sequence within {of} of {}, with the policies that take the least memory: {}\n",
        term::bytes(budget),
        paint(BOLD, longest),
    ));
    page.push_str(&too_large(plan.peak_bytes, budget, of));
    let workspace = match plan.workspace_bytes {
        0 => String::new(),
        bytes => format!("operator workspace (at most {}) and ", term::bytes(bytes)),
    };
    page.push_str(&paint(DIM, format!("not counted: {workspace}the process itself")));
    page.push('\n');
    term::print(&page)?;
    Ok(Done::Ok)
}

/// Checks --seq against the position embedding, and notes what training would reject.
fn check_limits(args: &args::Plan, subject: &Subject, output: &Output) -> Result<(), Box<dyn Error>> {
    let limits = subject.limits;
    limits.check_positions(tokens(args, limits), "--seq", |rows| format!("give --seq {rows}"))?;
    let mut notes = Vec::from_iter(data::length_note(args.seq, limits));
    // A plan needs no tokenizer: a missing or invalid one is reported by commands that read text.
    if let Ok(tokenizer) = Tokenizer::load(&subject.root)
        && let Err(error) = limits.check_ids(&tokenizer)
    {
        notes.push(error.to_string());
    }
    for note in notes {
        term::note(output, &format!("{} {note}", paint(WARN, "note:")));
    }
    Ok(())
}

fn computed_in(graph: &Graph, asked: Precision) -> Dtype {
    let mut stored = graph.params.values().map(|param| param.dtype);
    match asked {
        Precision::Float32 => Dtype::F32,
        Precision::Bfloat16 => Dtype::Bf16,
        Precision::Auto => match stored.find(|dtype| dtype.is_float()) {
            None | Some(Dtype::F16) => Dtype::F32,
            Some(dtype) => dtype,
        },
    }
}

/// The model as it would be trained, and how many layers have an adapter.
fn program(
    subject: &Subject,
    args: &args::Plan,
    dtype: Dtype,
    output: &Output,
) -> Result<(Program, usize), Box<dyn Error>> {
    let lora = &args.lora;
    let log = term::plugin_log(output);
    // A plain model asks for no lock file.
    let open = (!subject.steps.is_empty()).then(|| open_recorded(&subject.steps, &log)).transpose()?;
    let ops: Rc<dyn PluginOps> = Rc::new(open.unwrap_or_default());
    let trainable = if lora.full_finetuning { Trainable::Everything } else { Trainable::Nothing };
    let mut program = Program::with_plugins(&subject.graph, trainable, ops)?;
    program.set_dtype(dtype);
    if let Some(double_quant) = args.quantization.double_quant() {
        program.quantize_linears(Nf4 { double_quant })?;
    }
    if lora.full_finetuning {
        return Ok((program, 0));
    }
    let (rank_pattern, alpha_pattern) = (Pattern::joined(&lora.rank_pattern), Pattern::joined(&lora.alpha_pattern));
    let targets = LoraTargets {
        target_modules: &lora.lora_target_modules,
        r: lora.lora_r,
        lora_alpha: lora.lora_alpha,
        use_rslora: lora.use_rslora,
        rank_pattern: &rank_pattern,
        alpha_pattern: &alpha_pattern,
        modules_to_save: &lora.modules_to_save,
    };
    let layer = |selected: SelectedLayer| LoraLayer {
        module: selected.layer.path,
        r: selected.r,
        scale: selected.scale,
        dropout: lora.lora_dropout,
        dora: lora.use_dora,
    };
    let layers: Vec<LoraLayer> = targets.select(&subject.graph)?.into_iter().map(layer).collect();
    let adapters = program.add_adapters(&layers)?;
    let saved = targets.saved_params(&subject.graph)?;
    let saved: Vec<usize> = saved.iter().filter_map(|name| subject.graph.params.get_index_of(name)).collect();
    program.train_params(&saved)?;
    Ok((program, adapters.len()))
}

fn optimizer_state(args: &args::Plan) -> Result<OptimizerState, String> {
    args.optim.check_offload_folder(args.offload_folder.as_deref(), args.memory_budget)?;
    let budget_bytes = args.optim.memory_budget(args.optim_memory_budget)?;
    let moments = if args.optim.is_lion() { 1 } else { 2 };
    Ok(OptimizerState { moments, is_8bit: args.optim.is_8bit(), budget_bytes })
}

/// Tokens of a row: --seq, or what training would take.
fn tokens(args: &args::Plan, limits: ModelLimits) -> u64 {
    args.seq.unwrap_or_else(|| limits.fitting(data::DEFAULT_BLOCK_SIZE))
}

fn options(
    args: &args::Plan,
    limits: ModelLimits,
    program: &Program,
    dtype: Dtype,
    state: OptimizerState,
) -> PlanOptions {
    let (accumulates, offloads) = (args.gradient_accumulation_steps > 1, args.offload_folder.is_some());
    PlanOptions::of_run(program, dtype, [args.batch, tokens(args, limits)], accumulates, state, offloads)
}

/// What this process may use, of the machine's memory or of its first GPU's.
fn device_bytes(device: args::Device) -> Result<u64, Box<dyn Error>> {
    match device {
        args::Device::Cpu => {
            let memory = Machine::memory();
            Ok(memory.limit_bytes.unwrap_or(memory.total_bytes))
        }
        args::Device::Cuda => {
            let gpu = Machine::detect().nvidia.gpus.into_iter().next();
            let none = "--device cuda: no GPU found; pass its memory, for example --memory-budget 24GiB";
            Ok(gpu.ok_or(none)?.memory_bytes)
        }
    }
}

/// A budget that no policy fits, with the options that would help.
fn budget_error(error: EngineError, args: &args::Plan, survey: &Survey<'_>) -> Box<dyn Error> {
    let EngineError::Budget { batch, seq, budget_bytes, .. } = error else { return error.into() };
    let least = survey.least_bytes();
    let offload = match args.offload_folder {
        Some(_) => "",
        None => "add --offload-folder, ",
    };
    format!(
        "a step of {} x {} tokens does not fit the memory budget of {}: it takes at least {} ({} bytes); raise the budget, {offload}or \
         lower --seq or --batch",
        term::thousands(batch),
        term::thousands(seq),
        term::bytes(budget_bytes),
        term::bytes(least),
        term::thousands(least),
    )
    .into()
}

/// What is said of a step that is larger than the memory that it is planned for.
fn too_large(peak_bytes: u64, memory_bytes: u64, of: &str) -> String {
    if peak_bytes <= memory_bytes {
        return String::new();
    }
    format!(
        "{} a step takes {} and does not fit {of} of {}; --memory-budget, a smaller --seq, --load-in-4bit or an 8-bit --optim take \
         less\n",
        paint(WARN, "warning:"),
        term::bytes(peak_bytes),
        term::bytes(memory_bytes),
    )
}

fn pass_name(pass: Pass) -> &'static str {
    match pass {
        Pass::Forward => "forward",
        Pass::Recompute => "recomputed forward",
        Pass::Backward => "backward",
    }
}

/// What makes up the peak; what is not there is left out.
fn parts(plan: &Plan) -> String {
    let mut table = Table::new(&["at the peak", ">bytes", ">share"]);
    for (name, bytes) in plan.parts.named().into_iter().filter(|(_, bytes)| *bytes > 0) {
        let share = 100.0 * bytes as f64 / plan.peak_bytes as f64;
        table.row([name.to_owned(), term::bytes(bytes), format!("{share:.1} %")]);
    }
    table.render()
}

/// `blocks 0..11 keep, 12..29 recompute_tile`.
fn chosen(plan: &Plan) -> String {
    let policies = plan.policies();
    let mut runs: Vec<(usize, usize, Policy)> = Vec::new();
    for (block, policy) in policies.into_iter().enumerate() {
        match runs.last_mut() {
            Some((_, end, last)) if *last == policy => *end = block,
            _ => runs.push((block, block, policy)),
        }
    }
    let ranges = runs.iter().map(|(start, end, policy)| {
        let range = if start == end { start.to_string() } else { format!("{start}..{end}") };
        format!("{range} {}", paint(NAME, policy.name()))
    });
    format!("blocks {}", ranges.collect::<Vec<_>>().join(", "))
}

/// A line for each run over a block, or for several where there are many.
fn chart(bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.peak_bytes).max().unwrap_or(1).max(1);
    let labels: Vec<String> = bars.iter().enumerate().map(|(index, bar)| label(index, bar)).collect();
    let at_once = bars.len().div_ceil(LINES).max(1);
    let mut table = Table::new(&["", "", ">"]);
    for (bars, labels) in bars.chunks(at_once).zip(labels.chunks(at_once)) {
        let bytes = bars.iter().map(|bar| bar.peak_bytes).max().unwrap_or(0);
        let (first, last) = (&labels[0], &labels[labels.len() - 1]);
        let label = if first == last { first.clone() } else { format!("{first} .. {last}") };
        table.row([label, bar(bytes as f64 / most as f64), term::bytes(bytes)]);
    }
    // Without the header row.
    table.render().split_once('\n').map_or_else(String::new, |(_, rows)| rows.to_owned())
}

fn label(index: usize, bar: &Bar) -> String {
    match bar.block {
        Some(block) => format!("{} {block}", pass_name(bar.pass)),
        None if index == 0 => "embedding".to_owned(),
        None => "head".to_owned(),
    }
}

/// A bar in eighths of a cell.
fn bar(share: f64) -> String {
    let eighths = (share * CELLS as f64 * 8.0).round() as usize;
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    "█".repeat(eighths / 8) + rest
}

/// The same policy for all blocks.
struct UniformPolicy {
    policy: Policy,
    peak_bytes: u64,
    /// Bytes that all blocks save in memory.
    saved_bytes: u64,
    seconds: f64,
}

impl UniformPolicy {
    fn of(policy: Policy, program: &Program, survey: &Survey<'_>) -> Option<Self> {
        let blocks = vec![policy; program.blocks()];
        let saved_bytes = (0..program.blocks()).filter_map(|block| survey.kept_bytes(block, policy)).sum();
        Some(UniformPolicy {
            policy,
            peak_bytes: survey.peak_bytes(&blocks)?,
            saved_bytes,
            seconds: survey.seconds(&blocks)?,
        })
    }

    fn json(&self) -> serde_json::Value {
        json!({"policy": self.policy, "peak_bytes": self.peak_bytes, "kept_bytes": self.saved_bytes,
            "estimated_seconds": self.seconds})
    }
}

fn alternatives(uniform: &[UniformPolicy]) -> String {
    let fastest = uniform.iter().map(|row| row.seconds).fold(f64::INFINITY, f64::min);
    let mut table = Table::new(&["every block", ">peak", ">saved by blocks", ">estimated time"]);
    for row in uniform {
        table.row([
            paint(NAME, row.policy.name()),
            term::bytes(row.peak_bytes),
            term::bytes(row.saved_bytes),
            format!("x {:.2}", row.seconds / fastest),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::too_large;

    #[test]
    fn a_step_that_does_not_fit_says_so_and_one_that_fits_says_nothing() {
        assert_eq!(too_large(5 << 30, 5 << 30, "the device's memory"), "");
        let said = too_large(34 << 30, 24 << 30, "the device's memory");
        assert!(said.contains("takes 34.0 GiB and does not fit the device's memory of 24.0 GiB"), "{said}");
    }
}
