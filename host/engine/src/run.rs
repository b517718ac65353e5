//! Runs nodes in order, forward and backward, on all rows or on stretches of them.
//!
//! A value is dropped after its last use; what a node saved lives until the node's backward.

use std::ops::Range;

use crate::{
    Backend, Batch, EngineError, Grads, Held, Params, Pass, Place, Program,
    ops::Cx,
    program::{Node, Wanted},
    segments::{Piece, Tile},
};

/// Where in a step nodes run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub pass: Pass,
    pub segment: usize,
    pub times: u64,
    /// Whether within a tile, whose nodes do not see what the block's other nodes saved.
    pub in_tile: bool,
    /// Whether what an op can make again cheaply is left to it.
    pub selective: bool,
    /// Of the rows that are worked on, among the batch's.
    pub first_row: u64,
}

impl At {
    pub fn new(pass: Pass, segment: usize) -> Self {
        At { pass, segment, times: 1, in_tile: false, selective: false, first_row: 0 }
    }

    pub fn place(self, node: usize) -> Place {
        Place { pass: self.pass, segment: self.segment, node, times: self.times }
    }
}

/// One run of a program on one batch.
pub(crate) struct Run<'a, B: Backend> {
    pub program: &'a Program,
    pub backend: &'a B,
    pub params: &'a Params<B::Tensor>,
    pub batch: &'a Batch,
    pub seed: u64,
    pub drops: bool,
    pub tile_rows: u64,
}

type Values<T> = Vec<Option<T>>;

/// What a node saved; `None` where a plugin's op makes it again.
pub(crate) type Saved<T> = Vec<Option<T>>;

impl Program {
    pub(crate) fn no_values<T>(&self) -> Values<T> {
        (0..self.values).map(|_| None).collect()
    }

    pub(crate) fn head_pieces(&self) -> Vec<Piece<'_>> {
        self.head.clone().map(Piece::Node).collect()
    }
}

impl<B: Backend> Run<'_, B> {
    pub fn enter(&self, at: At, node: usize) {
        self.backend.entering(at.place(node));
    }

    /// The rows of the batch, so many at a time, and how many like it each stands for: a backend that only counts sees the
    /// first, one of those that have others on both sides, and the last.
    pub fn stretches(&self, at_once: u64) -> Vec<(Range<u64>, u64)> {
        let rows = self.batch.rows();
        let at_once = at_once.clamp(1, rows.max(1));
        let count = rows.div_ceil(at_once);
        let stretch = |index: u64| index * at_once..((index + 1) * at_once).min(rows);
        match self.backend.only_counts() && count > 3 {
            true => vec![(stretch(0), 1), (stretch(1), count - 2), (stretch(count - 1), 1)],
            false => (0..count).map(|index| (stretch(index), 1)).collect(),
        }
    }

    pub fn cx(&self, at: At, index: usize, saves: bool) -> Cx<'_, B> {
        Cx {
            backend: self.backend,
            params: self.params.tensors(),
            trainable: &self.program.trainable,
            batch: self.batch,
            // Nodes differ by an odd multiplier, so that no two share a seed.
            seed: self.seed ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            saves,
            drops: self.drops,
            outputs: true,
            first_row: at.first_row,
            recomputes: at.pass != Pass::Forward,
        }
    }

    /// Runs pieces in order. With `saved`, pushes what each saved.
    pub fn forward(
        &self,
        at: At,
        pieces: &[Piece<'_>],
        values: &mut Values<B::Tensor>,
        mut saved: Option<&mut Vec<Saved<B::Tensor>>>,
    ) -> Result<(), EngineError> {
        for piece in pieces {
            let kept = match piece {
                Piece::Node(index) => self.node(at, *index, values, [saved.is_some(), true])?,
                Piece::Tile(tile) => {
                    self.enter(at, tile.nodes.start);
                    let inputs = self.tile_inputs(tile, values);
                    self.tile(at, tile, &inputs, values)?;
                    inputs.into_iter().map(Some).collect()
                }
            };
            if let Some(saved) = &mut saved {
                for tensor in kept.iter().flatten() {
                    // What is computed again is held for a moment only.
                    if at.pass == Pass::Forward && at.segment < self.program.segments.len() {
                        self.backend.holds(tensor, Held::Saved { segment: at.segment });
                    }
                }
                saved.push(kept);
            }
        }
        Ok(())
    }

    /// Runs one node and gives back what it saved; whether it is to save, and whether its outputs are used.
    fn node(
        &self,
        at: At,
        index: usize,
        values: &mut Values<B::Tensor>,
        [saves, outputs]: [bool; 2],
    ) -> Result<Saved<B::Tensor>, EngineError> {
        self.enter(at, index);
        let node = &self.program.nodes[index];
        let inputs = self.take_inputs(node, index, values);
        // A node that needs no gradient is not gone through backward.
        let cx = Cx { outputs, ..self.cx(at, index, saves && node.requires_grad) };
        let (outputs, kept) = node.op.forward(&cx, inputs)?;
        for (&value, output) in node.outputs.iter().zip(outputs) {
            if self.program.last_use[value] > index {
                values[value] = Some(output);
            }
        }
        let mut kept: Saved<B::Tensor> = kept.into_iter().map(Some).collect();
        if !kept.is_empty() {
            for (slot, input) in node.op.saved_inputs(node.inputs.len(), &self.program.trainable) {
                if self.maker(at, node.inputs[input]).is_some() {
                    kept[slot] = None;
                }
            }
        }
        Ok(kept)
    }

    /// The node of the same block that makes this value again when a backward asks for it, and which of its outputs it is.
    fn maker(&self, at: At, value: usize) -> Option<(usize, usize)> {
        let block = self.program.segments.get(at.segment).map_or(&self.program.head, |segment| &segment.nodes);
        // A node that needs no gradient saved nothing that it could be made from.
        let can_make = |node: usize| block.contains(&node) && self.program.nodes[node].requires_grad;
        let made_again = self.program.made_again[value].filter(|made| made.always || at.selective);
        made_again.map(|made| (made.node, made.output)).filter(|(node, _)| !at.in_tile && can_make(*node))
    }

    /// Hands a value over where this is its last use, so that the op may reuse its memory.
    pub fn take_inputs(&self, node: &Node, index: usize, values: &mut Values<B::Tensor>) -> Vec<B::Tensor> {
        let count = node.inputs.len();
        (0..count)
            .map(|at| {
                let value = node.inputs[at];
                let is_last = self.program.last_use[value] == index && !node.inputs[at + 1..].contains(&value);
                let found = if is_last { values[value].take() } else { values[value].clone() };
                found.expect("nodes stand in an order in which they can run")
            })
            .collect()
    }

    fn tile_inputs(&self, tile: &Tile, values: &mut Values<B::Tensor>) -> Vec<B::Tensor> {
        let mut input = |&value: &usize| {
            let is_last = self.program.last_use[value] < tile.nodes.end;
            let found = if is_last { values[value].take() } else { values[value].clone() };
            found.expect("nodes stand in an order in which they can run")
        };
        tile.inputs.iter().map(&mut input).collect()
    }

    /// Rows of a tile's inputs, as its nodes see them.
    fn rows_of(&self, tile: &Tile, inputs: &[B::Tensor], rows: &Range<u64>) -> Values<B::Tensor> {
        let mut values = self.program.no_values();
        for (&value, input) in tile.inputs.iter().zip(inputs) {
            values[value] = Some(self.backend.rows(input, rows.start, rows.end - rows.start));
        }
        values
    }

    /// Writes a stretch's rows to their place in the whole, which is made with the first of them.
    fn put_rows(&self, whole: &mut Option<B::Tensor>, start: u64, part: &B::Tensor) -> Result<(), EngineError> {
        let backend = self.backend;
        let to = match whole {
            Some(to) => to,
            None => {
                let shape = [self.batch.rows(), backend.shape(part)[1]];
                whole.insert(backend.zeros(shape, backend.dtype(part))?)
            }
        };
        backend.copy_rows(to, start, part)
    }

    /// Runs a tile's nodes, a stretch of rows after the other.
    fn tile(
        &self,
        at: At,
        tile: &Tile,
        inputs: &[B::Tensor],
        values: &mut Values<B::Tensor>,
    ) -> Result<(), EngineError> {
        let pieces: Vec<_> = tile.nodes.clone().map(Piece::Node).collect();
        for (rows, times) in self.stretches(self.tile_rows) {
            let mut part = self.rows_of(tile, inputs, &rows);
            let at = At { times, in_tile: true, first_row: rows.start, ..at };
            self.forward(at, &pieces, &mut part, None)?;
            for &value in &tile.outputs {
                let made = part[value].take().expect("the tile's nodes make its outputs");
                self.put_rows(&mut values[value], rows.start, &made)?;
            }
        }
        Ok(())
    }

    /// What a block would have saved, from what came into it. What only leads out of the block is not made.
    pub fn again(
        &self,
        segment: usize,
        pieces: &[Piece<'_>],
        mut values: Values<B::Tensor>,
    ) -> Result<Vec<Saved<B::Tensor>>, EngineError> {
        self.wanted(At::new(Pass::Recompute, segment), pieces, &mut values)
    }

    /// Runs those of the pieces whose outputs a backward needs, and gives what all of them save.
    fn wanted(
        &self,
        at: At,
        pieces: &[Piece<'_>],
        values: &mut Values<B::Tensor>,
    ) -> Result<Vec<Saved<B::Tensor>>, EngineError> {
        let mut saved = Vec::new();
        for (piece, wanted) in pieces.iter().zip(self.program.wanted_by_backward(pieces)) {
            if wanted == Wanted::Outputs {
                self.forward(at, std::slice::from_ref(piece), values, Some(&mut saved))?;
                continue;
            }
            saved.push(match piece {
                Piece::Node(index) if wanted == Wanted::Saved => self.node(at, *index, values, [true, false])?,
                Piece::Node(index) => {
                    self.end_lives(*index, values);
                    Vec::new()
                }
                // Its nodes run in the backward, from what comes into it.
                Piece::Tile(tile) => self.tile_inputs(tile, values).into_iter().map(Some).collect(),
            });
        }
        Ok(saved)
    }

    /// A node that does not run still was the last to use its inputs.
    fn end_lives(&self, index: usize, values: &mut Values<B::Tensor>) {
        for &value in &self.program.nodes[index].inputs {
            if self.program.last_use[value] == index {
                values[value] = None;
            }
        }
    }

    pub fn backward(
        &self,
        at: At,
        pieces: &[Piece<'_>],
        mut saved: Vec<Saved<B::Tensor>>,
        dvalues: &mut Values<B::Tensor>,
        grads: &mut Grads<B::Tensor>,
    ) -> Result<(), EngineError> {
        for piece in pieces.iter().rev() {
            let kept = saved.pop().expect("every piece saved, if only nothing");
            match piece {
                Piece::Node(index) => {
                    if self.has_dys(*index, dvalues) {
                        self.enter(at, *index);
                        let kept = self.whole(at, *index, kept, pieces, &saved)?;
                        self.node_backward(at, *index, kept, dvalues, grads)?;
                    }
                }
                Piece::Tile(tile) => {
                    self.tile_backward(at, tile, kept.into_iter().flatten().collect(), dvalues, grads)?
                }
            }
        }
        Ok(())
    }

    /// Whether the node's backward has anything to do.
    fn has_dys(&self, index: usize, dvalues: &Values<B::Tensor>) -> bool {
        let node = &self.program.nodes[index];
        node.requires_grad && node.outputs.iter().any(|&value| dvalues[value].is_some())
    }

    /// What a node saved, with what it left to its maker to make again. `saved`: of the pieces before it.
    fn whole(
        &self,
        at: At,
        index: usize,
        kept: Saved<B::Tensor>,
        pieces: &[Piece<'_>],
        saved: &[Saved<B::Tensor>],
    ) -> Result<Vec<B::Tensor>, EngineError> {
        let node = &self.program.nodes[index];
        let inputs = node.op.saved_inputs(node.inputs.len(), &self.program.trainable);
        let make = |slot: usize| {
            let (_, input) = inputs.iter().find(|(at, _)| *at == slot).expect("only an input is left out");
            let (maker, output) = self.maker(at, node.inputs[*input]).expect("it was left out because it has a maker");
            let place = pieces.iter().position(|piece| matches!(piece, Piece::Node(node) if *node == maker));
            let place = place.expect("a maker is a node of the same block");
            let kept = self.whole(at, maker, saved[place].clone(), pieces, saved)?;
            self.program.nodes[maker].op.rematerialize(&self.cx(at, maker, true), &kept, output)
        };
        kept.into_iter().enumerate().map(|(slot, tensor)| tensor.map_or_else(|| make(slot), Ok)).collect()
    }

    fn node_backward(
        &self,
        at: At,
        index: usize,
        saved: Vec<B::Tensor>,
        dvalues: &mut Values<B::Tensor>,
        grads: &mut Grads<B::Tensor>,
    ) -> Result<(), EngineError> {
        let node = &self.program.nodes[index];
        let Some(dys) = self.take_dys(&node.outputs, node, dvalues)?.filter(|_| node.requires_grad) else {
            return Ok(());
        };
        let needs: Vec<bool> = node.inputs.iter().map(|&value| self.program.value_requires_grad[value]).collect();
        let dxs = node.op.backward(&self.cx(at, index, true), dys, saved, &needs, grads)?;
        for ((&value, dx), needed) in node.inputs.iter().zip(dxs).zip(needs) {
            if let Some(dx) = dx.filter(|_| needed) {
                self.add_to(&mut dvalues[value], dx)?;
            }
        }
        Ok(())
    }

    /// The gradients of these values; `None` where nobody made any.
    fn take_dys(
        &self,
        outputs: &[usize],
        node: &Node,
        dvalues: &mut Values<B::Tensor>,
    ) -> Result<Option<Vec<B::Tensor>>, EngineError> {
        let dys: Vec<_> = outputs.iter().filter_map(|&value| dvalues[value].take()).collect();
        if dys.is_empty() || !node.requires_grad {
            return Ok(None);
        }
        if dys.len() != outputs.len() {
            let (path, kind) = (node.path.clone(), node.kind.clone());
            return Err(EngineError::Unsupported { path, kind, why: "one of its outputs is used for nothing".into() });
        }
        Ok(Some(dys))
    }

    fn add_to(&self, dvalue: &mut Option<B::Tensor>, dx: B::Tensor) -> Result<(), EngineError> {
        *dvalue = Some(match dvalue.take() {
            Some(before) => self.backend.add(before, dx)?,
            None => dx,
        });
        Ok(())
    }

    /// For each stretch of rows: the tile's nodes again, then backward.
    fn tile_backward(
        &self,
        at: At,
        tile: &Tile,
        inputs: Vec<B::Tensor>,
        dvalues: &mut Values<B::Tensor>,
        grads: &mut Grads<B::Tensor>,
    ) -> Result<(), EngineError> {
        let program = self.program;
        self.enter(at, tile.nodes.end - 1);
        let mut dys = Vec::new();
        for &value in &tile.outputs {
            if let Some(dy) = dvalues[value].take() {
                dys.push((value, dy));
            }
        }
        if dys.is_empty() || !program.nodes[tile.nodes.clone()].iter().any(|node| node.requires_grad) {
            return Ok(());
        }
        let pieces: Vec<_> = tile.nodes.clone().map(Piece::Node).collect();
        let needed: Vec<usize> =
            tile.inputs.iter().copied().filter(|&value| program.value_requires_grad[value]).collect();
        let mut dxs: Vec<Option<B::Tensor>> = needed.iter().map(|_| None).collect();
        for (rows, times) in self.stretches(self.tile_rows) {
            let mut part = self.rows_of(tile, &inputs, &rows);
            let at = At { times, in_tile: true, first_row: rows.start, ..at };
            let saved = self.wanted(At { pass: Pass::Recompute, ..at }, &pieces, &mut part)?;
            drop(part);
            let mut dpart = program.no_values();
            for (value, dy) in &dys {
                dpart[*value] = Some(self.backend.rows(dy, rows.start, rows.end - rows.start));
            }
            self.backward(at, &pieces, saved, &mut dpart, grads)?;
            for (&value, dx) in needed.iter().zip(&mut dxs) {
                if let Some(part) = dpart[value].take() {
                    self.put_rows(dx, rows.start, &part)?;
                }
            }
        }
        drop((inputs, dys));
        for (value, dx) in needed.into_iter().zip(dxs) {
            if let Some(dx) = dx {
                self.add_to(&mut dvalues[value], dx)?;
            }
        }
        Ok(())
    }
}
