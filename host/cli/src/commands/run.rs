//! `unswag run`: surgery here, then this process becomes `unswag train`, with the arguments that the recipe stands for.
//!
//! All that can be refused is refused before surgery writes: the recipe and the plugins here, and training by `unswag-torch`, which
//! is asked to check the same command line.

use std::{error::Error, ffi::OsString, path::Path};

use clap::ValueEnum;
use unswag_checkpoint::{NewFolders, RealDisk, check_outside};
use unswag_console::recipe::Recipe;
use unswag_graph::diff;
use unswag_surgery::{
    Model, OpenError, Operation, Protocol, WriteOptions, is_written, open_spec, operate, verify_bytes, write,
};

use crate::{
    Done,
    args::{Output, Run},
    commands::{
        surgery::{report, written},
        torch,
    },
    term::{self, GOOD, paint},
};

pub fn run(args: &Run, output: &Output) -> Result<Done, Box<dyn Error>> {
    let recipe = Recipe::open(&args.recipe)?.with(args);
    let train_args = recipe.train_args(args.force)?;
    let protocols = protocols(&recipe, output)?;
    if !protocols.is_empty() {
        let model = Model::open(&recipe.model, None)?;
        let operation = operate(&model, &protocols)?;
        let out = recipe.trained_model();
        if !stands(&model, &operation, &out, output)? {
            if args.dry_run {
                say(&operation, &out, output)?;
                return torch::hand_over();
            }
            match torch::check(output)? {
                Done::Ok => operate_on(&model, &operation, &out, args.force, output)?,
                refused => return Ok(refused),
            }
        }
    }
    if args.dry_run {
        return torch::hand_over();
    }
    torch::hand_over_with(output_args(output).into_iter().chain(train_args))
}

/// The protocols of a recipe's steps, with their options.
pub fn protocols(recipe: &Recipe, output: &Output) -> Result<Vec<Box<dyn Protocol>>, Box<dyn Error>> {
    let log = term::plugin_log(output);
    Ok(recipe.steps(|spec| open_spec(spec, &log), OpenError::option)?)
}

/// Whether surgery was done before and nothing changed since: the plugins, the base, or what was written.
fn stands(model: &Model, operation: &Operation<'_>, out: &Path, output: &Output) -> Result<bool, Box<dyn Error>> {
    let Ok(Some(record)) = unswag_surgery::read_record(out) else { return Ok(false) };
    let bar = term::byte_bar(output, verify_bytes(&record, true));
    bar.set_message("checking the model");
    let stands = is_written(model, operation, out, &term::advance(&bar))?;
    bar.finish_and_clear();
    if stands {
        let out = term::value(out.display());
        term::note(output, &format!("{} {out}: surgery was done before, and nothing changed", paint(GOOD, "model")));
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
    // A refusal leaves no folder behind.
    let mut _created = None;
    if let Some(parent) = out.parent() {
        check_outside(parent, &model.bases())?;
        let created = NewFolders::create(parent);
        _created = Some(created.map_err(|error| format!("{}: cannot create this folder: {error}", parent.display()))?);
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
    let text = report(operation, &outcome.steps, &changes, false);
    term::note_page(output, &format!("{text}\n{}", written(out, &outcome)));
    Ok(())
}

/// What surgery would do. The training after it is planned by `unswag-torch`, on the graph that surgery leaves.
fn say(operation: &Operation<'_>, out: &Path, output: &Output) -> Result<(), Box<dyn Error>> {
    let steps = operation.verified_steps()?;
    let text = report(operation, &steps, &diff(&operation.before, &operation.after), false);
    let out = term::value(out.display());
    term::note_page(output, &format!("{text}\nnothing was written (--dry-run); the model would be {out}\n"));
    Ok(())
}

/// As they are typed.
fn output_args(output: &Output) -> Vec<OsString> {
    let color = output.color.to_possible_value().map(|value| format!("--color={}", value.get_name()).into());
    let json = output.json.then(|| "--json".into());
    let quiet = output.quiet.then(|| "--quiet".into());
    color.into_iter().chain(json).chain(quiet).collect()
}
