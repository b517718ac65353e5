//! `unswag train`.

use std::error::Error;

use serde_json::json;
use unswag_console::{
    Done, Failed,
    args::{Data, Device, Lora, Optim as OptimName, Output, Pattern, ReportTo, Scheduler, Train},
    chain,
    data::{self, Order},
    term::{self, GOOD, WARN, paint},
};
use unswag_data::{DataLoader, ModelLimits};
use unswag_loader::device::Machine;
use unswag_train::{
    Allowed, CheckedRun, LoraConfig, Optim, Plan, PlannedModel, PlannedRun, Resume, Resumed, RunReport, SchedulerType,
    Start, TrainError, TrainingArguments, Tuning, UnswagModel, UnswagTrainer, Warmup, saved_template_date,
};

use crate::{
    live::Live,
    model::{limits, note_length, open as open_model},
};

/// What is unknown where a result is not finite.
const LOSSES: [&str; 4] = ["train_loss", "last_loss", "eval_loss", "best_eval_loss"];

pub fn run(args: &Train, output: &Output) -> Result<Done, Box<dyn Error>> {
    let model = open_model(&args.model, args.compute, output)?;
    note_length(args.data.given_row_tokens(), limits(&model), output);
    if let Some(overlap @ 1..) = args.data.overlap {
        let note = "tokens that a row shares with the row before it are used twice an epoch; a validation loss counts each once";
        term::note(output, &format!("--overlap {overlap}: the {overlap} {note}"));
    }
    if args.dry_run {
        return dry_run(args, &model, output);
    }
    let Prepared { arguments, train, validation } = Prepared::new(args, &model)?;
    note_data(args, train.as_ref(), validation.as_deref(), output)?;

    let allowed = Allowed::new(args.saving.allow_changed.iter().cloned())?;
    let model = match &args.adapter {
        Some(adapter) => model.for_training_from(adapter, args.lora.lora_dropout, args.seed)?,
        None => model.for_training(tuning(&args.lora, args.seed))?,
    };
    let mut trainer = UnswagTrainer::new(model, arguments, train, &args.output)?;
    if let Some(validation) = validation {
        trainer = trainer.with_validation(validation);
    }
    if args.force {
        trainer = trainer.replacing_earlier_run();
    }
    let reports_to = |to| args.saving.report_to.iter().any(|asked| [to, ReportTo::All].contains(asked));
    if !reports_to(ReportTo::Jsonl) {
        trainer = trainer.without_metrics();
    }
    if reports_to(ReportTo::Tensorboard) {
        trainer = trainer.with_tensorboard();
    }
    if let Some(from) = resume(args) {
        match trainer.resume_changed(&from, &allowed)? {
            Some(resumed) => note_resumed(&resumed, output),
            None => term::note(output, "no checkpoint to resume from; starting a new run"),
        }
    }
    if term::interrupted() {
        return Ok(Done::Stopped);
    }
    warn_of_memory(&trainer, output);
    let report = match trainer.train(&mut Live::new(output, args.saving.logging_steps)) {
        Err(error) if error.is_not_finite() => return Err(Failed::without(&LOSSES, error).into()),
        other => other?,
    };
    print(&report, output)?;
    Ok(if report.stopped { Done::Stopped } else { Done::Ok })
}

/// What was read as data, and what of it may not be meant.
fn note_data(
    args: &Train,
    train: &dyn DataLoader,
    validation: Option<&dyn DataLoader>,
    output: &Output,
) -> Result<(), Box<dyn Error>> {
    let warn = |text: &str| term::note(output, &format!("{} {text}", paint(WARN, "warning:")));
    for file in data::look(&args.data)?.describe().iter().filter(|file| file.rows_are.is_some()) {
        term::note(output, &data::describe(file, args.data.chat));
        data::column_warnings(file).iter().for_each(|text| warn(text));
    }
    let remarks = validation.map_or(train.remarks(), |validation| train.remarks() + validation.remarks());
    data::row_warnings(remarks).iter().for_each(|text| warn(text));
    Ok(())
}

fn note_resumed(resumed: &Resumed, output: &Output) {
    term::note(output, &format!("resuming from {}", resumed.path.display()));
    for change in &resumed.changes {
        term::note(output, &format!("{} {change}", paint(WARN, "changed:")));
    }
}

/// A run's settings and data, checked.
struct Prepared {
    arguments: TrainingArguments,
    train: Box<dyn DataLoader>,
    validation: Option<Box<dyn DataLoader>>,
}

impl Prepared {
    fn new(args: &Train, model: &UnswagModel) -> Result<Self, Box<dyn Error>> {
        // Already an empty folder would change the base.
        model.check_output(&args.output)?;
        let arguments = arguments(args, limits(model))?;
        arguments.check()?;
        let order = Order {
            shuffle_seed: (!args.validation.no_shuffle).then_some(args.seed),
            shuffle_window: Some(args.validation.shuffle_window),
            ..Order::default()
        };
        let (train_order, validation_order) = match args.validation.validation_split {
            None => (order, None),
            Some(share) => {
                let [validation, train] = order.split(share, args.seed);
                (train, Some(validation))
            }
        };
        let limits = limits(model);
        let date = template_date(args);
        let open = |data: &Data, order| data::open_at(data, model.root(), limits, order, Some(&date));
        let train = open(&args.data, train_order)?;
        let validation = match validation_order {
            Some(order) => Some(open(&args.data, order)?),
            None if args.validation.eval_data.is_empty() => None,
            None => {
                let data = Data { data: args.validation.eval_data.clone(), ..args.data.clone() };
                Some(open(&data, Order { mask_overlap: true, ..Order::default() })?)
            }
        };
        Ok(Prepared { arguments, train, validation })
    }
}

/// Checks what training would refuse before its first step, and trains nothing.
pub fn check(args: &Train, model: &UnswagModel) -> Result<Done, Box<dyn Error>> {
    checked(args, &Prepared::new(args, model)?, &planned(args, model)?)?;
    Ok(Done::Ok)
}

/// What would be trained: new adapters, those of a folder, or all weights.
fn planned<'a>(args: &Train, model: &'a UnswagModel) -> Result<PlannedModel<'a>, TrainError> {
    let (tuning, lora_dropout, seed) = (tuning(&args.lora, args.seed), args.lora.lora_dropout, args.seed);
    model.planned(&match &args.adapter {
        Some(folder) => Start::Adapter { folder, lora_dropout, seed },
        None => Start::New(&tuning),
    })
}

fn checked(args: &Train, prepared: &Prepared, model: &PlannedModel<'_>) -> Result<CheckedRun, TrainError> {
    let (resume, allowed) = (resume(args), Allowed::new(args.saving.allow_changed.iter().cloned())?);
    let run = PlannedRun {
        model,
        arguments: &prepared.arguments,
        data: prepared.train.as_ref(),
        validation: prepared.validation.as_deref(),
        folder: &args.output,
        resume: resume.as_ref(),
        allowed: &allowed,
        replaces: args.force,
    };
    run.check()
}

/// Where the run begins, where it is not at its first step.
fn resume(args: &Train) -> Option<Resume> {
    let from = args.saving.resume_from_checkpoint.as_ref()?;
    // `true` is what transformers' scripts and recipes write.
    let is_auto = ["auto", "true", "True"].iter().any(|word| from.as_os_str() == *word);
    Some(if is_auto { Resume::Auto } else { Resume::From(from.clone()) })
}

/// A plan that is larger than what is left of this machine's memory is no error: rows may be shorter than they were planned.
fn warn_of_memory(trainer: &UnswagTrainer, output: &Output) {
    let trainer = trainer.trainer();
    let taken = trainer.model().resident_growth_bytes().unwrap_or(0);
    let more = trainer.planned_growth_bytes().map(|planned| planned.saturating_sub(taken));
    if let (Some(more), Some(left)) = (more, Machine::memory().usable_bytes())
        && trainer.model().torch().is_on_host()
        && more > left
    {
        let text = format!(
            "a step needs {} more memory and {} is available; the process may be killed; {LESS}",
            term::bytes(more),
            term::bytes(left)
        );
        term::note(output, &format!("{} {text}", paint(WARN, "warning:")));
    }
}

/// What makes a step smaller.
const LESS: &str = "use --memory-budget, a smaller --block-size, --load-in-4bit or an 8-bit --optim";

/// The date that a chat template may ask for: one for all data of a run, and that of its start where it is resumed.
fn template_date(args: &Train) -> String {
    let saved = resume(args).and_then(|from| saved_template_date(&from, &args.output));
    saved.unwrap_or_else(unswag_data::local_time)
}

fn tuning(args: &Lora, seed: u64) -> Tuning {
    if args.full_finetuning {
        return Tuning::Full;
    }
    Tuning::Lora(LoraConfig {
        r: args.lora_r,
        lora_alpha: args.lora_alpha,
        lora_dropout: args.lora_dropout,
        use_rslora: args.use_rslora,
        use_dora: args.use_dora,
        target_modules: args.lora_target_modules.clone(),
        rank_pattern: Pattern::joined(&args.rank_pattern),
        alpha_pattern: Pattern::joined(&args.alpha_pattern),
        modules_to_save: args.modules_to_save.clone(),
        seed,
    })
}

fn arguments(args: &Train, limits: ModelLimits) -> Result<TrainingArguments, String> {
    let (length, optimizer, saving) = (&args.length, &args.optimizer, &args.saving);
    let default = TrainingArguments::default();
    optimizer.optim.check_offload_folder(args.offload_folder.as_deref(), args.memory_budget)?;
    let optim_memory_budget = optimizer.optim.memory_budget(args.optim_memory_budget)?;
    Ok(TrainingArguments {
        optim: match optimizer.optim {
            OptimName::AdamwTorch => Optim::AdamwTorch,
            OptimName::Adamw8bit => Optim::Adamw8bit,
            OptimName::Lion32bit => Optim::Lion32bit,
            OptimName::Lion8bit => Optim::Lion8bit,
            OptimName::PagedAdamw32bit => Optim::PagedAdamw32bit,
            OptimName::PagedAdamw8bit => Optim::PagedAdamw8bit,
            OptimName::PagedLion32bit => Optim::PagedLion32bit,
            OptimName::PagedLion8bit => Optim::PagedLion8bit,
        },
        learning_rate: optimizer.learning_rate,
        lr_scheduler_type: match optimizer.lr_scheduler_type {
            Scheduler::Constant => SchedulerType::Constant,
            Scheduler::ConstantWithWarmup => SchedulerType::ConstantWithWarmup,
            Scheduler::Linear => SchedulerType::Linear,
            Scheduler::Cosine => SchedulerType::Cosine,
            Scheduler::InverseSqrt => SchedulerType::InverseSqrt,
        },
        warmup: match (optimizer.warmup_steps, optimizer.warmup_ratio) {
            (Some(steps), _) => Warmup::Steps(steps),
            (None, Some(ratio)) => Warmup::Ratio(ratio),
            (None, None) => Warmup::Steps(0),
        },
        weight_decay: optimizer.weight_decay,
        adam_beta1: optimizer.adam_beta1.unwrap_or(0.9),
        adam_beta2: optimizer.adam_beta2,
        adam_epsilon: optimizer.adam_epsilon,
        max_grad_norm: optimizer.max_grad_norm,
        gradient_checkpointing: args.gradient_checkpointing,
        max_row_tokens: Some(data::row_tokens(&args.data, limits)),
        memory_budget: args.memory_budget,
        offload_folder: args.offload_folder.clone(),
        optim_memory_budget: optim_memory_budget.unwrap_or(default.optim_memory_budget),
        seed: args.seed,
        max_steps: length.max_steps,
        num_train_epochs: length.num_epochs,
        per_device_train_batch_size: length.per_device_train_batch_size,
        gradient_accumulation_steps: length.gradient_accumulation_steps,
        save_steps: saving.save_steps,
        save_total_limit: saving.save_total_limit,
        eval_steps: args.validation.eval_steps.unwrap_or(0),
        load_best_model_at_end: args.validation.load_best_model_at_end,
        early_stopping_patience: args.validation.early_stopping_patience,
        early_stopping_threshold: args.validation.early_stopping_threshold.unwrap_or(0.0),
        ..default
    })
}

pub fn dry_run(args: &Train, model: &UnswagModel, output: &Output) -> Result<Done, Box<dyn Error>> {
    let prepared = Prepared::new(args, model)?;
    note_data(args, prepared.train.as_ref(), prepared.validation.as_deref(), output)?;
    let planned = planned(args, model)?;
    let CheckedRun { first_step, total_steps, resumed, warnings, plan } = checked(args, &prepared, &planned)?;
    for warning in &warnings {
        term::note(output, &format!("{} {}", paint(WARN, "warning:"), chain(warning)));
    }
    if let Some(resumed) = &resumed {
        note_resumed(resumed, output);
    }
    let row_tokens = data::row_tokens(&args.data, limits(model));
    let plan = plan.map_or_else(|| planned.plan(&prepared.arguments, row_tokens), Ok)?;
    let trainable = planned.trainable_parameters();
    let size = prepared.train.epoch_size()?;
    let dtype = model.dtype();
    let available = match args.compute.device {
        Device::Cpu => Machine::memory().usable_bytes(),
        Device::Cuda => None,
    };
    let fits = available.map(|available| plan.growth_bytes() <= available);
    if output.json {
        let page = json!({
            "trainable_parameters": trainable,
            "planned_peak_bytes": plan.peak_bytes,
            "planned_optimizer_bytes": plan.parts.optimizer,
            "planned_workspace_bytes": plan.workspace_bytes,
            "planned_runtime_bytes": Plan::RUNTIME_BYTES,
            "planned_growth_bytes": plan.growth_bytes(),
            "available_bytes": available,
            "fits_in_memory": fits,
            "dtype": dtype.name(),
            "epoch": size,
            "first_step": first_step,
            "steps": total_steps,
        });
        term::print(&format!("{page:#}\n"))?;
        return Ok(Done::Ok);
    }
    let from = if first_step > 0 { format!(" from step {first_step}") } else { String::new() };
    let beyond = match available.filter(|_| fits == Some(false)) {
        Some(available) => format!(
            "{} this machine has {} of memory left for this process, so that a step does not fit; {LESS}\n",
            paint(WARN, "warning:"),
            term::bytes(available)
        ),
        None => String::new(),
    };
    term::print(&format!(
        "would train {} parameters in {dtype}, {}{from}\n\
         an epoch: {} rows, {} tokens, {} of them supervised; the longest row has {}\n\
         a step of {} x {} tokens: about {}, including the optimizer's state, operations' workspace and libtorch's own\n{beyond}",
        term::count(trainable),
        term::counted(total_steps, "step"),
        term::thousands(size.rows),
        term::thousands(size.tokens),
        term::thousands(size.supervised_tokens),
        term::thousands(size.longest_row_tokens),
        plan.batch,
        plan.seq,
        term::bytes(plan.growth_bytes()),
    ))?;
    Ok(Done::Ok)
}

fn print(report: &RunReport, output: &Output) -> Result<(), Box<dyn Error>> {
    if output.json {
        term::print(&format!("{}\n", serde_json::to_string_pretty(report)?))?;
        return Ok(());
    }
    if output.quiet {
        return Ok(());
    }
    let mut page = String::new();
    if let Some(finished) = report.adapter.as_ref().or(report.model.as_ref()) {
        page.push_str(&format!("{} {}\n", paint(GOOD, "trained"), term::value(finished.display())));
    } else if let Some(checkpoint) = &report.checkpoint {
        let checkpoint = term::value(checkpoint.display());
        page.push_str(&format!("stopped; --resume-from-checkpoint auto resumes from {checkpoint}\n"));
    } else {
        page.push_str("stopped before the first step; nothing was saved\n");
    }
    page.push_str(&figures(report));
    if let (Some(grew), Some(planned)) = (report.resident_growth_bytes, report.planned_growth_bytes) {
        let [grew, planned] = [grew, planned].map(term::bytes);
        page.push_str(&format!(
            "resident memory grew by {grew}, code excluded; {planned} were planned, with operations' workspace and libtorch's own\n"
        ));
    }
    term::print(&page)?;
    if report.skipped_steps > 0 {
        let steps = term::counted(report.skipped_steps, "step");
        let text = format!("{steps} skipped: the loss or a gradient was not finite, and no weight was updated");
        term::note(output, &format!("{} {text}", paint(WARN, "warning:")));
    }
    Ok(())
}

/// How many steps the mean loss is over, where it is not over all of the run.
fn mean_of(report: &RunReport) -> String {
    let steps = term::counted(report.train_loss_steps, "step");
    match &report.resumed {
        _ if report.train_loss_steps == report.steps => String::new(),
        Some(_) => format!(" over {steps} since the checkpoint"),
        None => format!(" over {steps}"),
    }
}

/// The losses, each by its name, and what a step took.
fn figures(report: &RunReport) -> String {
    if report.tokens == 0 && report.resumed.is_some() && !report.stopped {
        return format!("{} done before; none was left\n", term::counted(report.steps, "step"));
    }
    let named = |name: &str, loss: Option<f64>| loss.map(|loss| format!("{name} {loss:.4}"));
    let best = report.best_eval_loss.zip(report.best_step);
    let best = best.map(|(loss, step)| format!("lowest {loss:.4} after step {step}"));
    let losses = [
        named("train loss", report.train_loss).map(|loss| loss + &mean_of(report)),
        named("last step's", report.last_loss),
        named("validation loss", report.eval_loss),
        best,
    ];
    let losses: Vec<String> = losses.into_iter().flatten().collect();
    let losses = if losses.is_empty() { "no loss".to_owned() } else { losses.join(", ") };
    let rate = report.tokens as f64 / report.train_seconds.max(1e-9);
    let early = if report.stopped_early { ", then stopped early: the validation loss no longer improved" } else { "" };
    let planned = report.planned_peak_bytes.map_or(String::new(), |bytes| format!(" ({} planned)", term::bytes(bytes)));
    format!(
        "{}{early}; {losses}; {rate:.0} tok/s; a step took at most {}{planned}, of it {} for the optimizer\n",
        term::counted(report.steps, "step"),
        term::bytes(report.peak_bytes),
        term::bytes(report.optimizer_bytes),
    )
}
