//! A program's nodes in pieces: the blocks that a policy is chosen for, and within them the runs that may be tiled.
//!
//! Both are found by looking at the nodes alone: at the numbers in their paths, and at which ops work row by row.

use std::{collections::HashSet, ops::Range};

use unswag_abi::doc::Node as GraphNode;

use crate::{ops::Op, program::Node};

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

/// Neighbouring nodes whose paths share everything up to their first number (`model.layers.3`) are one block.
pub(crate) fn segments(graph: &[GraphNode], nodes: &[Node], last_use: &[usize]) -> Vec<Segment> {
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
