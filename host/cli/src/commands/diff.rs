//! `unswag diff`.

use std::error::Error;

use serde::Serialize;
use serde_json::json;
use unswag_checkpoint::{Checkpoint, Progress};
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
    let weights = args.weights.then(|| compared(&a.checkpoint, &b.checkpoint, output)).transpose()?;
    let same_weights = weights.as_ref().map(|weights| *weights == WeightsDiff::default());
    if output.json {
        let mut page = serde_json::to_value(&changes)?;
        page["compared"] = json!(if args.weights { &["graphs", "weights"][..] } else { &["graphs"] });
        page["graphs_equal"] = json!(changes.is_empty());
        page["weights_equal"] = json!(same_weights);
        page["data_changed"] = json!(weights.as_ref().map(|weights| &weights.other_data));
        page["tensors"] = json!(weights);
        term::print(&format!("{page:#}\n"))?;
    } else {
        let mut page = String::new();
        if !changes.is_empty() {
            page.push_str(&format!("{changes}\n"));
        }
        page.extend(weights.iter().flat_map(WeightsDiff::lines));
        let verdict = verdict(changes.is_empty(), same_weights);
        if page.is_empty() {
            page = format!("{verdict}\n");
        } else {
            // What differs is the answer; that it is not all is for people.
            term::note(output, verdict);
        }
        term::print(&page)?;
    }
    Ok(if changes.is_empty() && same_weights != Some(false) { Done::Ok } else { Done::Differs })
}

/// What was compared, and what came of it.
fn verdict(same_graphs: bool, same_weights: Option<bool>) -> &'static str {
    match (same_graphs, same_weights) {
        (true, None) => "graphs are equal; weights were not compared (--weights)",
        (true, Some(true)) => "graphs and weights are equal",
        (true, Some(false)) => "graphs are equal; weights differ",
        (false, None) => "graphs differ; weights were not compared (--weights)",
        (false, Some(true)) => "graphs differ; weights are equal",
        (false, Some(false)) => "graphs and weights differ",
    }
}

/// The tensors of two checkpoints, by name.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct WeightsDiff {
    only_in_a: Vec<String>,
    only_in_b: Vec<String>,
    other_type: Vec<String>,
    /// Of one type, with other bytes.
    other_data: Vec<String>,
}

impl WeightsDiff {
    fn lines(&self) -> impl Iterator<Item = String> {
        let lists = [
            ("-", &self.only_in_a, "only in A"),
            ("+", &self.only_in_b, "only in B"),
            ("~", &self.other_type, "other dtype or shape"),
            ("~", &self.other_data, "other data"),
        ];
        lists.into_iter().flat_map(|(sign, names, what)| {
            names.iter().map(move |name| format!("{sign} {}  {what}\n", term::value(name)))
        })
    }
}

fn compared(a: &Checkpoint, b: &Checkpoint, output: &Output) -> Result<WeightsDiff, unswag_checkpoint::Error> {
    let bar = term::byte_bar(output, a.tensors().map(|tensor| tensor.bytes()).sum());
    bar.set_message("comparing weights");
    let weights = compare(a, b, &term::advance(&bar));
    bar.finish_and_clear();
    weights
}

fn compare(a: &Checkpoint, b: &Checkpoint, progress: &Progress<'_>) -> Result<WeightsDiff, unswag_checkpoint::Error> {
    let mut weights = WeightsDiff::default();
    for tensor in a.tensors() {
        let list = match b.tensor(tensor.name) {
            None => &mut weights.only_in_a,
            Some(other) if other.dtype != tensor.dtype || other.shape != tensor.shape => &mut weights.other_type,
            Some(_) if a.same_data(tensor.name, b, tensor.name, progress)? => continue,
            Some(_) => &mut weights.other_data,
        };
        list.push(tensor.name.to_owned());
    }
    weights
        .only_in_b
        .extend(b.tensors().map(|tensor| tensor.name).filter(|name| a.tensor(name).is_none()).map(str::to_owned));
    Ok(weights)
}
