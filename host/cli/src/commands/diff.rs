//! `unswag diff`.

use std::error::Error;

use unswag_graph::diff;
use unswag_surgery::Model;

use crate::{
    Done,
    args::{Diff, Output},
    term,
};

pub fn run(args: &Diff, output: &Output) -> Result<Done, Box<dyn Error>> {
    let (a, b) = (Model::open(&args.a, None)?, Model::open(&args.b, None)?);
    let changes = diff(&a.graph, &b.graph);
    let page = if output.json { serde_json::to_string_pretty(&changes)? } else { changes.to_string() };
    term::print(&format!("{page}\n"))?;
    Ok(if changes.is_empty() { Done::Ok } else { Done::Differs })
}
