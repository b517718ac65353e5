//! A graph made ready to run: typed ops, numbered values, blocks, and what needs a gradient.

use std::{collections::HashMap, ops::Range, rc::Rc};

use unswag_abi::doc::{Dtype, Graph};

use crate::{
    Backend, EngineError, Held, PluginOps, Storage,
    cache::goes_row_by_row,
    compile::{Compile, fault},
    ops::Op,
    segments::{Piece, Segment, segments},
};

/// A parameter as the program knows it: a vector is one row.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamInfo {
    /// The tensor's name in the checkpoint, or the adapter's.
    pub name: String,
    pub shape: [u64; 2],
    /// Of the elements, as products take them.
    pub dtype: Dtype,
    pub storage: Storage,
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

/// How a value can be made again from what its node keeps anyway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MadeAgain {
    pub node: usize,
    /// Which of the node's outputs it is.
    pub output: usize,
    /// Whatever the block's policy: a plugin's op is there for this.
    pub always: bool,
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
    /// Who can make a value again for whoever would keep it.
    pub(crate) made_again: Vec<Option<MadeAgain>>,
    pub(crate) segments: Vec<Segment>,
    /// The last linear layer and what follows it.
    pub(crate) head: Range<usize>,
    pub(crate) head_input: usize,
    pub(crate) output: usize,
    /// Whether rows meet in causal attention only.
    pub(crate) row_by_row: bool,
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
                ParamInfo { name: name.clone(), shape: [rows, columns], dtype: param.dtype, storage: Storage::Plain }
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
        let head_start = nodes.iter().rposition(|node| matches!(node.op, Op::Linear(_)));
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
            let (outputs, always) = match &node.op {
                Op::Plugin(op) => (op.rematerializes.as_slice(), true),
                op if op.is_cheap() => (&[0][..], false),
                _ => continue,
            };
            for &output in outputs {
                made_again[node.outputs[output]] = Some(MadeAgain { node: index, output, always });
            }
        }
        let head = head_start..nodes.len();
        let segments = segments(&graph.nodes[..head_start], &nodes[..head_start], &last_use);
        let row_by_row = goes_row_by_row(graph, &nodes);
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
            row_by_row,
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
                Op::Linear(layer) => layer.needs_x(&self.trainable),
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
