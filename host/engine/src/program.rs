//! A graph made ready to run: typed ops, numbered values, blocks, and what needs a gradient.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    ops::Range,
    rc::Rc,
};

use serde_json::Value as Json;
use unswag_abi::doc::{Attrs, Dtype, Graph, Node as GraphNode};

use crate::{
    Activation, AttentionSpec, Backend, EmbeddingSpec, EngineError, Gate, Held, LayerNorm, PluginOps, RmsNorm,
    RopeSpec, View,
    ops::{Ids, Op},
    plugin::PluginOp,
    rope::Rotary,
};

/// A parameter as the program knows it: a vector is one row.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamInfo {
    /// The tensor's name in the checkpoint, or the adapter's.
    pub name: String,
    pub shape: [u64; 2],
    pub dtype: Dtype,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub path: String,
    pub kind: String,
    pub op: Op,
    pub inputs: Vec<usize>,
    pub outputs: Vec<usize>,
    pub requires_grad: bool,
}

/// Nodes that are kept or computed again together.
#[derive(Debug)]
pub(crate) struct Segment {
    pub nodes: Range<usize>,
    /// Which block of the model it is; what stands before, between and after the blocks is none.
    pub block: Option<usize>,
    /// Values from outside that its nodes use.
    pub inputs: Vec<usize>,
    /// Those of them that no other segment uses.
    pub own_inputs: Vec<usize>,
    /// Nodes that a policy may run on stretches of rows.
    pub tiles: Vec<Tile>,
    pub requires_grad: bool,
}

/// Neighbouring nodes of one block that work row by row around an activation.
#[derive(Debug)]
pub(crate) struct Tile {
    pub nodes: Range<usize>,
    /// Values from outside that its nodes use.
    pub inputs: Vec<usize>,
    /// Values that later nodes use.
    pub outputs: Vec<usize>,
}

/// What is run at once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Piece<'a> {
    Node(usize),
    Tile(&'a Tile),
}

impl Segment {
    pub fn pieces(&self, tiled: bool) -> Vec<Piece<'_>> {
        let mut pieces = Vec::new();
        let mut next = self.nodes.start;
        for tile in self.tiles.iter().filter(|_| tiled) {
            pieces.extend((next..tile.nodes.start).map(Piece::Node));
            pieces.push(Piece::Tile(tile));
            next = tile.nodes.end;
        }
        pieces.extend((next..self.nodes.end).map(Piece::Node));
        pieces
    }
}

/// What a backward needs of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Nothing,
    /// What it saves, but not what it makes.
    Saved,
    Outputs,
}

/// Which of the graph's own parameters are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trainable {
    /// None: for inference, and before [`Program::add_lora`].
    Nothing,
    Everything,
}

/// A graph made ready to run.
#[derive(Debug)]
pub struct Program {
    pub(crate) nodes: Vec<Node>,
    pub(crate) params: Vec<ParamInfo>,
    pub(crate) trainable: Vec<bool>,
    pub(crate) values: usize,
    pub(crate) value_requires_grad: Vec<bool>,
    /// The position of the last node that uses a value; past the end for the output.
    pub(crate) last_use: Vec<usize>,
    /// The node that can make a value again for who would keep it, and which of its outputs it is.
    pub(crate) made_again: Vec<Option<(usize, usize)>>,
    pub(crate) segments: Vec<Segment>,
    /// The last linear layer and what follows it.
    pub(crate) head: Range<usize>,
    pub(crate) head_input: usize,
    pub(crate) output: usize,
    blocks: usize,
}

impl Program {
    /// A program of host primitives alone.
    ///
    /// # Errors
    /// A kind that the engine does not run, or a graph that [`unswag_graph::validate`] refuses.
    pub fn new(graph: &Graph, trainable: Trainable) -> Result<Self, EngineError> {
        Self::compile(graph, trainable, None)
    }

    /// With the ops of plugins.
    ///
    /// # Errors
    /// As [`Program::new`].
    pub fn with_plugins(graph: &Graph, trainable: Trainable, ops: Rc<dyn PluginOps>) -> Result<Self, EngineError> {
        Self::compile(graph, trainable, Some(ops))
    }

    fn compile(graph: &Graph, trainable: Trainable, ops: Option<Rc<dyn PluginOps>>) -> Result<Self, EngineError> {
        unswag_graph::validate(graph)?;
        let params: Vec<ParamInfo> = graph
            .params
            .iter()
            .map(|(name, param)| {
                let columns = param.shape.last().copied().unwrap_or(1);
                let rows = param.shape.iter().rev().skip(1).product();
                ParamInfo { name: name.clone(), shape: [rows, columns], dtype: param.dtype }
            })
            .collect();
        let mut compile = Compile { graph, ops, values: HashMap::new() };
        let mut nodes = Vec::new();
        for node in &graph.nodes {
            nodes.push(compile.node(node)?);
        }
        let values = compile.values.len();
        let output_name = graph.outputs.first().ok_or_else(|| fault("graph", "outputs", "at least one", "none"))?;
        let output = compile.value(output_name);
        let head_start = nodes.iter().rposition(|node| matches!(node.op, Op::Linear { .. }));
        let head_start = head_start.ok_or_else(|| fault("graph", "nodes", "a linear layer for the head", "none"))?;
        let head_input = nodes[head_start].inputs[0];
        if let Some(node) = nodes[head_start..].iter().find(|node| !node.op.is_by_row()) {
            let why = "after the last linear layer only what works row by row is expected".to_owned();
            return Err(EngineError::Unsupported { path: node.path.clone(), kind: node.kind.clone(), why });
        }
        let mut last_use = vec![0; values];
        for (index, node) in nodes.iter().enumerate() {
            node.inputs.iter().for_each(|&value| last_use[value] = index);
        }
        last_use[output] = nodes.len();
        let mut made_again = vec![None; values];
        for (index, node) in nodes.iter().enumerate() {
            let Op::Plugin(op) = &node.op else { continue };
            for &at in &op.rematerializes {
                made_again[node.outputs[at]] = Some((index, at));
            }
        }
        let head = head_start..nodes.len();
        let segments = segments(&graph.nodes[..head_start], &nodes[..head_start], &last_use);
        let mut program = Program {
            trainable: vec![trainable == Trainable::Everything; params.len()],
            segments,
            value_requires_grad: vec![false; values],
            blocks: 0,
            nodes,
            params,
            values,
            last_use,
            made_again,
            head,
            head_input,
            output,
        };
        program.blocks = program.segments.iter().filter_map(|segment| segment.block).max().map_or(0, |last| last + 1);
        program.find_what_needs_gradients();
        Ok(program)
    }

    /// Parameters in the order of [`Params`]: the graph's, then the adapters'.
    pub fn params(&self) -> &[ParamInfo] {
        &self.params
    }

    /// Whether the parameter at this position is trained.
    pub fn is_trainable(&self, param: usize) -> bool {
        self.trainable[param]
    }

    /// Blocks (decoder layers) that a policy can be chosen for.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Computes in this element type, whatever the checkpoint's. Adapters that are added later are of it too.
    pub fn set_dtype(&mut self, dtype: Dtype) {
        self.params.iter_mut().filter(|param| param.dtype.is_float()).for_each(|param| param.dtype = dtype);
        for node in &mut self.nodes {
            match &mut node.op {
                Op::Embedding { spec, .. } => spec.dtype = dtype,
                Op::Rotary { dtype: table, .. } => *table = dtype,
                _ => {}
            }
        }
    }

    /// Whether the op saves something for its backward. Where it does not, and nobody else needs what it makes, there is no
    /// reason to compute it again.
    fn saves(&self, node: &Node) -> bool {
        node.requires_grad
            && match &node.op {
                Op::Embedding { .. } | Op::Rotary { .. } | Op::Dropout { .. } => false,
                Op::Split { .. } | Op::Add | Op::Sub | Op::Scale(_) => false,
                Op::Linear { weight, adapter, .. } => adapter.is_some() || self.trainable[*weight],
                _ => true,
            }
    }

    /// What of the pieces has to be made so that all of them have saved what their backward needs.
    pub(crate) fn wanted_by_backward(&self, pieces: &[Piece<'_>]) -> Vec<Wanted> {
        let mut needed: Vec<usize> = Vec::new();
        let mut wanted = Vec::new();
        for piece in pieces.iter().rev() {
            let (inputs, outputs, saves) = match piece {
                Piece::Node(index) => {
                    let node = &self.nodes[*index];
                    (&node.inputs, &node.outputs, self.saves(node))
                }
                // It saves what comes into it, for which it need not run.
                Piece::Tile(tile) => (&tile.inputs, &tile.outputs, false),
            };
            let are_needed = outputs.iter().any(|value| needed.contains(value));
            if are_needed || saves || matches!(piece, Piece::Tile(_)) {
                needed.extend(inputs);
            }
            wanted.push(match (are_needed, saves) {
                (true, _) => Wanted::Outputs,
                (false, true) => Wanted::Saved,
                (false, false) => Wanted::Nothing,
            });
        }
        wanted.reverse();
        wanted
    }

    pub(crate) fn find_what_needs_gradients(&mut self) {
        self.value_requires_grad.iter_mut().for_each(|requires| *requires = false);
        for node in &mut self.nodes {
            let by_params = node.op.params().iter().any(|&param| self.trainable[param]);
            node.requires_grad = by_params || node.inputs.iter().any(|&value| self.value_requires_grad[value]);
            for &value in &node.outputs {
                // Positions are no function of a parameter.
                self.value_requires_grad[value] = node.requires_grad && !matches!(node.op, Op::Rotary { .. });
            }
        }
        for segment in &mut self.segments {
            segment.requires_grad = self.nodes[segment.nodes.clone()].iter().any(|node| node.requires_grad);
        }
    }
}

/// The tensors of a program's parameters, in its order.
#[derive(Clone, Debug)]
pub struct Params<T>(Vec<T>);

impl<T> Params<T> {
    /// Asks `load` for each parameter.
    ///
    /// # Errors
    /// What `load` says.
    pub fn load<E>(program: &Program, mut load: impl FnMut(usize, &ParamInfo) -> Result<T, E>) -> Result<Self, E> {
        let loaded = program.params.iter().enumerate().map(|(index, info)| load(index, info));
        loaded.collect::<Result<_, E>>().map(Params)
    }

    pub fn tensors(&self) -> &[T] {
        &self.0
    }

    pub fn tensors_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

/// Gradients of the parameters, summed in f32.
#[derive(Debug)]
pub struct Grads<T>(Vec<Option<T>>);

impl<T: Clone> Grads<T> {
    pub fn new(program: &Program) -> Self {
        Grads((0..program.params.len()).map(|_| None).collect())
    }

    /// The gradient of the parameter at this position, where there is one.
    pub fn get(&self, param: usize) -> Option<&T> {
        self.0[param].as_ref()
    }

    /// Forgets all gradients.
    pub fn clear(&mut self) {
        self.0.iter_mut().for_each(|grad| *grad = None);
    }

    /// The gradient to add to, zeros at first.
    pub(crate) fn of<B: Backend<Tensor = T>>(
        &mut self,
        backend: &B,
        param: usize,
        shape: [u64; 2],
    ) -> Result<T, EngineError> {
        match &self.0[param] {
            Some(grad) => Ok(grad.clone()),
            None => {
                let grad = backend.zeros(shape, Dtype::F32)?;
                backend.holds(&grad, Held::Gradient);
                Ok(self.0[param].insert(grad).clone())
            }
        }
    }

    pub(crate) fn add<B: Backend<Tensor = T>>(
        &mut self,
        backend: &B,
        param: usize,
        grad: T,
    ) -> Result<(), EngineError> {
        let sum = match self.0[param].take() {
            Some(before) => backend.add(before, grad)?,
            None => grad,
        };
        backend.holds(&sum, Held::Gradient);
        self.0[param] = Some(sum);
        Ok(())
    }
}

fn fault(path: &str, what: &str, expected: &str, got: &str) -> EngineError {
    let [path, what, expected, got] = [path, what, expected, got].map(str::to_owned);
    EngineError::Graph { path, what, expected, got }
}

/// Neighbouring nodes whose paths share everything up to their first number (`model.layers.3`) are one block.
fn segments(graph: &[GraphNode], nodes: &[Node], last_use: &[usize]) -> Vec<Segment> {
    let block_of = |path: &str| -> Option<String> {
        let mut parts = Vec::new();
        for part in path.split('.') {
            parts.push(part);
            if part.bytes().all(|byte| byte.is_ascii_digit()) {
                return Some(parts.join("."));
            }
        }
        None
    };
    let mut found: Vec<(Option<String>, Range<usize>)> = Vec::new();
    for (index, node) in graph.iter().enumerate() {
        let block = block_of(&node.path);
        match found.last_mut() {
            Some((last, range)) if *last == block => range.end = index + 1,
            _ => found.push((block, index..index + 1)),
        }
    }
    let mut blocks = 0;
    let mut segments: Vec<Segment> = Vec::new();
    for (name, range) in found {
        let block = name.map(|_| blocks);
        blocks += usize::from(block.is_some());
        let tiles = if block.is_some() { tiles(nodes, &range, last_use) } else { Vec::new() };
        let inputs = inputs_of(nodes, &range);
        segments.push(Segment { nodes: range, block, inputs, own_inputs: Vec::new(), tiles, requires_grad: false });
    }
    let uses = |value: &usize| segments.iter().filter(|segment| segment.inputs.contains(value)).count();
    let own: Vec<Vec<usize>> = segments
        .iter()
        .map(|segment| {
            let is_own = |value: &usize| last_use[*value] < segment.nodes.end && uses(value) == 1;
            segment.inputs.iter().copied().filter(is_own).collect()
        })
        .collect();
    for (segment, own) in segments.iter_mut().zip(own) {
        segment.own_inputs = own;
    }
    segments
}

/// Values that these nodes use and do not make.
fn inputs_of(nodes: &[Node], range: &Range<usize>) -> Vec<usize> {
    let nodes = &nodes[range.clone()];
    let made: HashSet<usize> = nodes.iter().flat_map(|node| node.outputs.iter().copied()).collect();
    let mut inputs: Vec<usize> = nodes.iter().flat_map(|node| node.inputs.iter().copied()).collect();
    inputs.retain(|value| !made.contains(value));
    inputs.sort_unstable();
    inputs.dedup();
    inputs
}

/// The longest runs of nodes that work row by row, of those that an activation stands in: around it the rows are widest.
fn tiles(nodes: &[Node], block: &Range<usize>, last_use: &[usize]) -> Vec<Tile> {
    // Dropout's mask is a function of the place in the whole tensor, which a stretch does not know.
    let is_by_row = |op: &Op| op.is_by_row() || matches!(op, Op::Dropout { p } if *p <= 0.0);
    let mut tiles = Vec::new();
    let mut start = block.start;
    for end in block.start..=block.end {
        if end < block.end && is_by_row(&nodes[end].op) {
            continue;
        }
        let run = start..end;
        start = end + 1;
        if !nodes[run.clone()].iter().any(|node| matches!(node.op, Op::Activation(_) | Op::Gated(_))) {
            continue;
        }
        let made = nodes[run.clone()].iter().flat_map(|node| node.outputs.iter().copied());
        let outputs = made.filter(|&value| last_use[value] >= run.end).collect();
        tiles.push(Tile { inputs: inputs_of(nodes, &run), outputs, nodes: run });
    }
    tiles
}

struct Compile<'a> {
    graph: &'a Graph,
    ops: Option<Rc<dyn PluginOps>>,
    values: HashMap<String, usize>,
}

impl Compile<'_> {
    fn value(&mut self, name: &str) -> usize {
        let next = self.values.len();
        *self.values.entry(name.to_owned()).or_insert(next)
    }

    fn node(&mut self, node: &GraphNode) -> Result<Node, EngineError> {
        let op = self.op(node)?;
        let reads_ids = matches!(op, Op::Embedding { .. } | Op::Rotary { .. });
        let inputs = if reads_ids { Vec::new() } else { node.inputs.iter().map(|name| self.value(name)).collect() };
        let outputs = node.outputs.iter().map(|name| self.value(name)).collect();
        let (path, kind) = (node.path.clone(), node.kind.clone());
        Ok(Node { path, kind, op, inputs, outputs, requires_grad: false })
    }

    fn param(&self, node: &GraphNode, role: &str) -> Result<Option<usize>, EngineError> {
        let Some(name) = node.params.get(role) else { return Ok(None) };
        let found = self.graph.params.get_index_of(name);
        found.map(Some).ok_or_else(|| fault(&node.path, role, "a parameter of the graph", name))
    }

    fn needs_param(&self, node: &GraphNode, role: &str) -> Result<usize, EngineError> {
        self.param(node, role)?.ok_or_else(|| fault(&node.path, role, "a parameter", "none"))
    }

    fn plugin(&self, node: &GraphNode) -> Result<PluginOp, EngineError> {
        let (path, kind) = (node.path.clone(), node.kind.clone());
        let Some(ops) = self.ops.clone() else { return Err(EngineError::NoPlugin { path, kind }) };
        // A graph that is valid has every value and parameter that its nodes name.
        let types = |names: &[String]| names.iter().map(|name| self.graph.values[name].clone()).collect();
        let param = |name: &String| {
            let found = self.graph.params.get_full(name);
            let (index, _, param) =
                found.ok_or_else(|| fault(&node.path, "params", "a parameter of the graph", name))?;
            Ok::<_, EngineError>((index, param.shape.clone()))
        };
        Ok(PluginOp {
            path,
            kind,
            attrs: node.attrs.clone(),
            inputs: types(&node.inputs),
            outputs: types(&node.outputs),
            params: node.params.values().map(param).collect::<Result<_, _>>()?,
            rematerializes: node.saves.as_ref().map_or_else(Vec::new, |saves| saves.rematerializes.clone()),
            ops,
            last: RefCell::default(),
        })
    }

    fn op(&self, node: &GraphNode) -> Result<Op, EngineError> {
        let attrs = Attributes { path: &node.path, attrs: &node.attrs };
        let weight = || self.needs_param(node, "weight");
        let is_tanh = attrs.text("approximate") == Some("tanh");
        Ok(match node.kind.as_str() {
            "embedding" => {
                let weight = weight()?;
                let stored = self.graph.params[weight].dtype;
                let dtype = attrs.text("dtype").and_then(Dtype::from_name).unwrap_or(stored);
                let scale = attrs.number("scale").unwrap_or(1.0);
                let spec = EmbeddingSpec { scale, offset: attrs.whole("offset").unwrap_or(0), dtype };
                let ids = match node.inputs.first().map(String::as_str) {
                    Some("input_ids") => Ids::Input,
                    Some("position_ids") => Ids::Position,
                    other => {
                        return Err(fault(&node.path, "ids", "input_ids or position_ids", other.unwrap_or("none")));
                    }
                };
                Op::Embedding { weight, spec, ids }
            }
            "linear" => {
                let is_stored_transposed = attrs.flag("transposed");
                let weight_view = if is_stored_transposed { View::AsIs } else { View::Transposed };
                Op::Linear { weight: weight()?, bias: self.param(node, "bias")?, weight_view, adapter: None }
            }
            "rms_norm" => {
                let spec = RmsNorm {
                    eps: attrs.needs("eps")?,
                    unit_offset: attrs.flag("unit_offset"),
                    group: attrs.whole("group"),
                };
                Op::RmsNorm { weight: weight()?, spec }
            }
            "layer_norm" => {
                let spec = LayerNorm { eps: attrs.needs("eps")? };
                Op::LayerNorm { weight: weight()?, bias: self.param(node, "bias")?, spec }
            }
            "rotary_embedding" => {
                let dtype = attrs.text("dtype").and_then(Dtype::from_name).unwrap_or(Dtype::F32);
                Op::Rotary { rotary: Rotary::new(&node.path, &node.attrs)?, dtype }
            }
            "rope" => {
                Op::Rope(RopeSpec { head_dim: attrs.needs_whole("head_dim")?, interleaved: attrs.flag("interleaved") })
            }
            "split" => {
                let sizes = node.attrs.get("sizes").and_then(Json::as_array).into_iter().flatten();
                Op::Split { sizes: sizes.filter_map(Json::as_u64).collect() }
            }
            "concat" => Op::Concat,
            "slice" => Op::Slice { start: attrs.needs_whole("start")?, end: attrs.needs_whole("end")? },
            "attention" => {
                let head_dim = attrs.needs_whole("head_dim")?;
                let spec = AttentionSpec {
                    heads: attrs.needs_whole("num_heads")?,
                    kv_heads: attrs.needs_whole("num_key_value_heads")?,
                    head_dim,
                    v_head_dim: attrs.whole("v_head_dim").unwrap_or(head_dim),
                    scale: attrs.needs("scale")?,
                    causal: attrs.flag("causal"),
                    window: attrs.whole("sliding_window"),
                    softcap: attrs.number("logit_softcap"),
                    batch: 0,
                    seq: 0,
                };
                Op::Attention { sinks: self.param(node, "sinks")?, spec }
            }
            "silu" => Op::Activation(Activation::Silu),
            "gelu" => Op::Activation(if is_tanh { Activation::GeluTanh } else { Activation::Gelu }),
            "relu" => Op::Activation(Activation::Relu),
            "relu2" => Op::Activation(Activation::Relu2),
            "tanh" => Op::Activation(Activation::Tanh),
            "sigmoid" => Op::Activation(Activation::Sigmoid),
            "swiglu" => Op::Gated(Gate::Silu),
            "geglu" => Op::Gated(if is_tanh { Gate::GeluTanh } else { Gate::Gelu }),
            "reglu" => Op::Gated(Gate::Relu),
            "add" => Op::Add,
            "sub" => Op::Sub,
            "mul" => Op::Mul,
            "scale" => Op::Scale(attrs.needs("by")?),
            "softcap" => Op::Softcap(attrs.needs("cap")?),
            "softmax" => Op::Softmax,
            "dropout" => Op::Dropout { p: attrs.needs("p")? },
            other if unswag_graph::kinds::is_plugin_op(other) => Op::Plugin(Box::new(self.plugin(node)?)),
            other => {
                let (path, kind) = (node.path.clone(), other.to_owned());
                return Err(EngineError::Unsupported { path, kind, why: "it has no gradient written".to_owned() });
            }
        })
    }
}

/// A node's attributes, whose types the graph's validation has checked.
struct Attributes<'a> {
    path: &'a str,
    attrs: &'a Attrs,
}

impl Attributes<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.attrs.get(name).and_then(Json::as_str)
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.attrs.get(name).and_then(Json::as_f64)
    }

    fn whole(&self, name: &str) -> Option<u64> {
        self.attrs.get(name).and_then(Json::as_u64)
    }

    fn flag(&self, name: &str) -> bool {
        self.attrs.get(name).and_then(Json::as_bool).unwrap_or(false)
    }

    fn needs(&self, name: &str) -> Result<f64, EngineError> {
        self.number(name).ok_or_else(|| fault(self.path, name, "a number", "none"))
    }

    fn needs_whole(&self, name: &str) -> Result<u64, EngineError> {
        self.whole(name).ok_or_else(|| fault(self.path, name, "a whole number", "none"))
    }
}
