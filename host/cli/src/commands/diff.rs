//! `unswag diff`.

use std::error::Error;

use unswag_checkpoint::{Checkpoint, TensorInfo};
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
    let data_changed = if args.weights { Some(changed_data(&a.checkpoint, &b.checkpoint)?) } else { None };
    let page = if output.json {
        let mut page = serde_json::to_value(&changes)?;
        page["data_changed"] = serde_json::to_value(&data_changed)?;
        format!("{page:#}")
    } else {
        let mut lines = vec![changes.to_string()];
        lines.extend(data_changed.iter().flatten().map(|name| format!("~ {name}  other data")));
        if changes.is_empty() && lines.len() > 1 {
            lines.remove(0);
        }
        lines.join("\n")
    };
    term::print(&format!("{page}\n"))?;
    let is_same = changes.is_empty() && data_changed.is_none_or(|names| names.is_empty());
    Ok(if is_same { Done::Ok } else { Done::Differs })
}

/// Tensors of one name and type in both, with other bytes.
fn changed_data(a: &Checkpoint, b: &Checkpoint) -> Result<Vec<String>, unswag_checkpoint::Error> {
    let mut changed = Vec::new();
    for tensor in a.tensors() {
        let same_type = |other: &TensorInfo<'_>| other.dtype == tensor.dtype && other.shape == tensor.shape;
        if b.tensor(tensor.name).is_some_and(|other| same_type(&other))
            && a.data(tensor.name)? != b.data(tensor.name)?
        {
            changed.push(tensor.name.to_owned());
        }
    }
    Ok(changed)
}
