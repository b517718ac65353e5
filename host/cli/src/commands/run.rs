//! `unswag run`: surgery here, then this process becomes `unswag train`, with the arguments that the recipe stands for.

use std::{error::Error, ffi::OsString, fs, path::Path};

use clap::ValueEnum;
use unswag_checkpoint::{RealDisk, check_outside};
use unswag_console::recipe::Recipe;
use unswag_graph::diff;
use unswag_loader::PluginSpec;
use unswag_surgery::{Model, Operation, Protocol, WriteOptions, is_written, open_specs, operate, verify_bytes, write};

use crate::{
    Done,
    args::{Output, Run},
    commands::{
        plan,
        surgery::{report, written},
        torch,
    },
    term::{self, GOOD, paint},
};

pub fn run(args: &Run, output: &Output) -> Result<Done, Box<dyn Error>> {
    let recipe = Recipe::open(&args.recipe)?.with(args);
    // Everything that can be refused without work is refused before it.
    let train_args = recipe.train_args(args.dry_run)?;
    let protocols = protocols(&recipe, output)?;
    if !protocols.is_empty() {
        let model = Model::open(&recipe.model, None)?;
        let operation = operate(&model, &protocols)?;
        let out = recipe.trained_model();
        if !stands(&model, &operation, &out, output)? {
            if args.dry_run {
                return dry_run(&recipe, &model, &operation, &out, output);
            }
            torch::check()?;
            operate_on(&model, &operation, &out, args.force, output)?;
        }
    }
    torch::hand_over_with(output_args(output).into_iter().chain(train_args))
}

/// The protocols of a recipe's steps, with their options.
pub fn protocols(recipe: &Recipe, output: &Output) -> Result<Vec<Box<dyn Protocol>>, Box<dyn Error>> {
    let spec = |step: &unswag_console::recipe::SurgeryStep| PluginSpec {
        name: step.plugin.clone(),
        options: step.options.clone(),
    };
    let specs: Vec<PluginSpec> = recipe.surgery.iter().map(spec).collect();
    match specs.is_empty() {
        // Without surgery no lock file is asked for.
        true => Ok(Vec::new()),
        false => Ok(open_specs(&specs, false, &term::plugin_log(output))?),
    }
}

/// Whether surgery was done before and nothing changed since: the plugins, the base, or what was written.
fn stands(model: &Model, operation: &Operation<'_>, out: &Path, output: &Output) -> Result<bool, Box<dyn Error>> {
    let Ok(Some(record)) = unswag_surgery::read_record(out) else { return Ok(false) };
    let bar = term::byte_bar(output, verify_bytes(&record, true));
    bar.set_message("checking the model");
    let stands = is_written(model, operation, out, &term::advance(&bar))?;
    bar.finish_and_clear();
    if stands {
        let text = format!("{} {}: surgery was done before, and nothing changed", paint(GOOD, "model"), out.display());
        term::note(output, &text);
    }
    Ok(stands)
}

fn operate_on(
    model: &Model,
    operation: &Operation<'_>,
    out: &Path,
    force: bool,
    output: &Output,
) -> Result<(), Box<dyn Error>> {
    if let Some(parent) = out.parent() {
        let earlier = model.record.as_ref().map(|record| Path::new(&record.base.path));
        let bases: Vec<&Path> = std::iter::once(model.path.as_path()).chain(earlier).collect();
        check_outside(parent, &bases)?;
        fs::create_dir_all(parent)
            .map_err(|error| format!("{}: cannot make this folder: {error}", parent.display()))?;
    }
    let bar = term::byte_bar(output, operation.weight_bytes(model));
    bar.set_message("writing weights");
    let progress = term::advance(&bar);
    let outcome = write(
        model,
        operation,
        out,
        WriteOptions { link: false, replace: force, disk: &RealDisk, progress: &progress },
    )?;
    bar.finish_and_clear();
    let changes = diff(&operation.before, &operation.after);
    // Stdout is training's.
    term::note(output, &format!("{}\n{}", report(operation, &changes, false), written(&outcome)));
    Ok(())
}

/// The model to train is not there yet, so training is planned here instead of handed over.
fn dry_run(
    recipe: &Recipe,
    model: &Model,
    operation: &Operation<'_>,
    out: &Path,
    output: &Output,
) -> Result<Done, Box<dyn Error>> {
    let changes = diff(&operation.before, &operation.after);
    let text = report(operation, &changes, false);
    term::note(output, &format!("{text}\nnothing was written (--dry-run); the model would be {}\n", out.display()));
    plan::show(&recipe.plan_args(None)?, &plan::Subject::after(model, operation), output)
}

/// As they are typed.
fn output_args(output: &Output) -> Vec<OsString> {
    let color = output.color.to_possible_value().map(|value| format!("--color={}", value.get_name()).into());
    let json = output.json.then(|| "--json".into());
    let quiet = output.quiet.then(|| "--quiet".into());
    color.into_iter().chain(json).chain(quiet).collect()
}
