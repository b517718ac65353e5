//! PEFT's `target_modules` and `modules_to_save` of what is trained: they follow from the graph and the checkpoint's tensors' names.

use std::collections::BTreeSet;

use unswag_abi::doc::Graph;
use unswag_checkpoint::Checkpoint;
use unswag_engine::{Adapter, Program};

use crate::masters::names_in_adapter;

/// What PEFT is to match the trained modules by: last parts of paths where every module of that name has an adapter, else full
/// paths.
pub(crate) fn target_modules(graph: &Graph, checkpoint: &Checkpoint, adapters: &[Adapter]) -> Vec<String> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
    let adapted: BTreeSet<&str> = adapters.iter().map(|adapter| adapter.module.as_str()).collect();
    let linear = graph.nodes.iter().filter(|node| node.kind == "linear").map(|node| node.path.as_str());
    let without = linear.filter(|module| !adapted.contains(module)).map(last);
    // Modules that the graph leaves out, such as those of a multimodal model's images, PEFT sees all the same.
    let others = checkpoint.tensors().filter(|tensor| !graph.params.contains_key(tensor.name));
    let others = others.filter_map(|tensor| tensor.name.strip_suffix(".weight").map(last));
    let without: BTreeSet<String> = without.chain(others).collect();
    let names: BTreeSet<String> = adapted.iter().map(|module| last(module)).collect();
    match names.is_disjoint(&without) {
        true => names.into_iter().collect(),
        false => adapted.into_iter().map(str::to_owned).collect(),
    }
}

/// What was asked for, and what shares a matrix with it.
pub(crate) fn modules_to_save(asked: &[String], graph: &Graph, program: &Program) -> Vec<String> {
    let trained = (0..graph.params.len()).filter(|&param| program.is_trainable(param));
    let shared = trained.map(|param| names_in_adapter(graph, param)).filter(|names| names.len() > 1);
    let module = |name: String| Some(name.strip_prefix("base_model.model.")?.rsplit_once('.')?.0.to_owned());
    let more = shared.flatten().filter_map(module);
    let mut saved = asked.to_vec();
    saved.extend(more.filter(|module| !asked.iter().any(|name| module.ends_with(name.as_str()))));
    saved
}
