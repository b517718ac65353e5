//! The trained tensors: the f32 values that the optimizer steps, and what they are before the first step.

use std::collections::BTreeMap;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use unswag_abi::doc::Graph;
use unswag_adapter::AdapterSpec;
use unswag_engine::{Adapter, Program};

use crate::{TrainError, tuning};

/// A trained tensor as the optimizer sees it: in f32, whatever the steps compute in.
#[derive(Clone, Debug)]
pub(crate) struct Master {
    /// What files call it.
    pub name: String,
    /// Under these names an adapter's file has it too.
    pub other_names: Vec<String>,
    /// Its position among the program's parameters.
    pub param: usize,
    /// As files have it.
    pub shape: Vec<u64>,
    /// Whether weight decay applies to it.
    pub decays: bool,
    pub values: Vec<f32>,
}

/// The values that an adapter's files have for the program's parameters.
pub(crate) fn saved_values(spec: &AdapterSpec, adapters: &[Adapter]) -> Result<BTreeMap<usize, Vec<f32>>, TrainError> {
    let mut values = BTreeMap::new();
    // Both are in the graph's order.
    for (adapted, adapter) in spec.layers().iter().zip(adapters) {
        let [a, b] = spec.matrices(adapted)?;
        let magnitude = adapter.magnitude.zip(spec.magnitude(adapted)?);
        for (param, read) in [(adapter.a, a), (adapter.b, b)].into_iter().chain(magnitude) {
            values.insert(param, read.into_iter().map(|value| value as f32).collect());
        }
    }
    Ok(values)
}

/// In the order of the files: each adapter's tensors after the other's, then the fully trained modules.
pub(crate) fn adapter_masters(
    graph: &Graph,
    program: &Program,
    adapters: &[Adapter],
    mut values: BTreeMap<usize, Vec<f32>>,
) -> Vec<Master> {
    let tensors = adapters.iter().flat_map(|adapter| {
        let tensor = |(name, param): (String, usize)| (name, param, Some(param) == adapter.magnitude);
        adapter.peft_tensors().into_iter().map(tensor)
    });
    let master = |(name, param, is_vector): (String, usize, bool)| {
        let [rows, columns] = program.params()[param].shape;
        let shape = if is_vector { vec![columns] } else { vec![rows, columns] };
        Some(Master { name, other_names: Vec::new(), param, shape, decays: true, values: values.remove(&param)? })
    };
    let mut masters: Vec<Master> = tensors.filter_map(master).collect();
    let whole = values.into_iter().filter(|(param, _)| *param < graph.params.len());
    masters.extend(whole.filter_map(|(param, values)| saved_master(graph, param, values)));
    masters
}

/// A fully trained parameter. A tied matrix is trained once and saved for each of its modules, because PEFT trains and loads
/// them apart.
fn saved_master(graph: &Graph, param: usize, values: Vec<f32>) -> Option<Master> {
    let (name, info) = graph.params.get_index(param)?;
    let mut names = names_in_adapter(graph, param).into_iter();
    let first = names.next()?;
    let (shape, decays) = (info.shape.clone(), tuning::decays(graph, name));
    Some(Master { name: first, other_names: names.collect(), param, shape, decays, values })
}

/// What an adapter's file calls a parameter of the graph: a name for each of its modules.
pub(crate) fn names_in_adapter(graph: &Graph, param: usize) -> Vec<String> {
    let Some((name, _)) = graph.params.get_index(param) else { return Vec::new() };
    let of_node = |node: &unswag_abi::doc::Node| {
        let (role, _) = node.params.iter().find(|(_, param)| *param == name)?;
        Some(format!("base_model.model.{}.{role}", node.path))
    };
    graph.nodes.iter().filter_map(of_node).collect()
}

pub(crate) fn graph_masters(graph: &Graph, values: BTreeMap<usize, Vec<f32>>) -> Vec<Master> {
    let master = |(param, values)| {
        let (name, info) = graph.params.get_index(param)?;
        let shape = info.shape.clone();
        let (name, decays) = (name.clone(), tuning::decays(graph, name));
        Some(Master { name, other_names: Vec::new(), param, shape, decays, values })
    };
    values.into_iter().filter_map(master).collect()
}

/// PEFT's: A uniform within 1 / sqrt(in) (`kaiming_uniform_` with a = sqrt(5)), B zero. By the place of the parameter.
pub(crate) fn first_weights(program: &Program, adapters: &[Adapter], seed: u64) -> BTreeMap<usize, Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut made = BTreeMap::new();
    for adapter in adapters {
        let [rows, columns] = program.params()[adapter.a].shape;
        let bound = 1.0 / (columns as f64).sqrt();
        // 24 bits are what an f32 between 0 and 1 holds.
        let uniform = |bits: u32| f64::from(bits >> 8) / f64::from(1u32 << 24);
        let a = (0..rows * columns).map(|_| (bound * (2.0 * uniform(random.next_u32()) - 1.0)) as f32).collect();
        let [rows, columns] = program.params()[adapter.b].shape;
        made.insert(adapter.a, a);
        made.insert(adapter.b, vec![0.0; (rows * columns) as usize]);
    }
    made
}
