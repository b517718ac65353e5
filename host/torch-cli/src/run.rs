//! `unswag run`, as far as `unswag` cannot go: the training of a recipe is planned or checked here, on the graph that its surgery
//! leaves, before surgery writes. Nothing is trained: `unswag` does the surgery and becomes `unswag-torch train`.

use std::error::Error;

use unswag_console::{
    Done,
    args::{Output, Run},
    recipe::Recipe,
    term,
};
use unswag_surgery::{Model, OpenError, open_spec, operate};
use unswag_train::UnswagModel;

use crate::{model, train};

pub fn run(args: &Run, output: &Output) -> Result<Done, Box<dyn Error>> {
    let recipe = Recipe::open(&args.recipe)?.with(args);
    let train_args = recipe.train(args.force)?;
    let log = term::plugin_log(output);
    let protocols = recipe.steps(|spec| open_spec(spec, &log), OpenError::option)?;
    let model = if protocols.is_empty() {
        model::open(&recipe.model, train_args.compute, output)?
    } else {
        let operation = operate(&Model::open(&recipe.model, None)?, &protocols)?;
        model::computed(UnswagModel::after_operation(&recipe.model, &operation, &log)?, train_args.compute)?
    };
    match args.dry_run {
        true => train::dry_run(&train_args, &model, output),
        false => train::check(&train_args, &model),
    }
}
