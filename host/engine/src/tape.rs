//! Runs a program: forward for logits, or a whole step with gradients.
//!
//! The tape owns liveness. A value is dropped after its last use; what a node saved lives until the node's backward. A block
//! under [`Policy::Recompute`] saves nothing but what comes into it, and is run again when its backward is due.
//! The last layers (the head and what follows it) run on stretches of rows, forward and backward at once, so that the logits
//! of the whole batch never exist.

use std::ops::Range;

use unswag_abi::doc::Dtype;

use crate::{
    Backend, Batch, EngineError, Grads, IGNORED, Params, Program,
    ops::Cx,
    program::{Node, Segment},
};

/// What a block keeps for its backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// All that its nodes ask for.
    #[default]
    Keep,
    /// What comes into it; the rest is computed again.
    Recompute,
}

/// How a step is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// One per block; blocks beyond the list keep.
    pub policies: Vec<Policy>,
    /// Rows whose logits exist at once.
    pub loss_rows: u64,
    pub seed: u64,
    /// Whether dropout nodes drop: they do in training alone.
    pub dropout: bool,
    /// What the mean loss is divided by: the counted rows of the batch where `None`, of all batches of one optimizer step
    /// where they are accumulated.
    pub loss_count: Option<u64>,
}

impl Default for Step {
    fn default() -> Self {
        Step { policies: Vec::new(), loss_rows: 256, seed: 0, dropout: true, loss_count: None }
    }
}

impl Program {
    /// The logits of every token, \[rows, vocabulary\].
    ///
    /// # Errors
    /// A batch whose lists do not fit, or what the backend says.
    pub fn forward<B: Backend>(
        &self,
        backend: &B,
        params: &Params<B::Tensor>,
        batch: &Batch,
    ) -> Result<B::Tensor, EngineError> {
        batch.check(false)?;
        let run = Run { program: self, backend, params, batch, seed: 0, drops: false };
        let mut values = self.no_values();
        run.forward(0..self.nodes.len(), &mut values, None)?;
        Ok(values[self.output].take().expect("the last node makes the output"))
    }

    /// The loss: -log p(target), in nats, the mean over the rows that count, or the sum over `loss_count`.
    ///
    /// # Errors
    /// As [`Program::forward`].
    pub fn loss<B: Backend>(
        &self,
        backend: &B,
        params: &Params<B::Tensor>,
        batch: &Batch,
        step: &Step,
    ) -> Result<f64, EngineError> {
        batch.check(true)?;
        let run = Run { program: self, backend, params, batch, seed: 0, drops: false };
        let mut values = self.no_values();
        run.forward(0..self.head.start, &mut values, None)?;
        let hidden = values[self.head_input].take().expect("the head's input was made");
        let mut sum = 0.0;
        for rows in stretches(batch.rows(), step.loss_rows) {
            let targets = &batch.targets[rows.start as usize..rows.end as usize];
            let mut values = self.no_values();
            values[self.head_input] = Some(backend.rows(&hidden, rows.start, rows.end - rows.start));
            run.forward(self.head.clone(), &mut values, None)?;
            let logits = values[self.output].take().expect("the head makes the output");
            sum += backend.cross_entropy_value(&logits, targets)?.sum;
        }
        Ok(sum / divisor(batch, step))
    }

    /// The loss as [`Program::loss`] has it, and its gradients, added to `grads`.
    ///
    /// # Errors
    /// As [`Program::forward`]. Some gradients may have been added then.
    pub fn step<B: Backend>(
        &self,
        backend: &B,
        params: &Params<B::Tensor>,
        batch: &Batch,
        step: &Step,
        grads: &mut Grads<B::Tensor>,
    ) -> Result<f64, EngineError> {
        batch.check(true)?;
        let run = Run { program: self, backend, params, batch, seed: step.seed, drops: step.dropout };
        let mut values = self.no_values();
        let mut kept: Vec<Kept<B::Tensor>> = Vec::new();
        for segment in &self.segments {
            let policy = segment.block.and_then(|block| step.policies.get(block)).copied().unwrap_or_default();
            if !segment.requires_grad {
                run.forward(segment.nodes.clone(), &mut values, None)?;
                kept.push(Kept::Nothing);
            } else if policy == Policy::Recompute {
                let inputs = segment.inputs.iter().map(|&value| (value, values[value].clone())).collect();
                run.forward(segment.nodes.clone(), &mut values, None)?;
                kept.push(Kept::Inputs(inputs));
            } else {
                let mut saved = Vec::new();
                run.forward(segment.nodes.clone(), &mut values, Some(&mut saved))?;
                kept.push(Kept::Saved(saved));
            }
        }
        let hidden = values[self.head_input].take().expect("the head's input was made");
        drop(values);
        let (loss, dhidden) = run.head(hidden, step, grads)?;
        let mut dvalues = self.no_values();
        dvalues[self.head_input] = dhidden;
        for (segment, kept) in self.segments.iter().zip(kept).rev() {
            match kept {
                Kept::Nothing => {}
                Kept::Saved(saved) => run.backward(segment.nodes.clone(), saved, &mut dvalues, grads)?,
                Kept::Inputs(inputs) => {
                    let saved = run.again(segment, inputs)?;
                    run.backward(segment.nodes.clone(), saved, &mut dvalues, grads)?;
                }
            }
        }
        Ok(loss)
    }

    fn no_values<T>(&self) -> Vec<Option<T>> {
        (0..self.values).map(|_| None).collect()
    }
}

enum Kept<T> {
    Nothing,
    Saved(Vec<Vec<T>>),
    Inputs(Vec<(usize, Option<T>)>),
}

/// Rows of the batch, so many at a time.
fn stretches(rows: u64, at_once: u64) -> impl Iterator<Item = Range<u64>> {
    let at_once = at_once.clamp(1, rows.max(1));
    (0..rows.div_ceil(at_once)).map(move |index| index * at_once..((index + 1) * at_once).min(rows))
}

fn divisor(batch: &Batch, step: &Step) -> f64 {
    let counted = || batch.targets.iter().filter(|&&target| target != IGNORED).count() as u64;
    step.loss_count.unwrap_or_else(counted).max(1) as f64
}

/// One run of a program on one batch.
struct Run<'a, B: Backend> {
    program: &'a Program,
    backend: &'a B,
    params: &'a Params<B::Tensor>,
    batch: &'a Batch,
    seed: u64,
    drops: bool,
}

impl<B: Backend> Run<'_, B> {
    fn cx(&self, index: usize, saves: bool) -> Cx<'_, B> {
        Cx {
            backend: self.backend,
            params: self.params.tensors(),
            trainable: &self.program.trainable,
            batch: self.batch,
            // Nodes differ by an odd multiplier, so that no two share a seed.
            seed: self.seed ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            saves,
            drops: self.drops,
        }
    }

    /// Runs nodes in order. With `saved`, pushes what each saved. A value goes after its last use.
    fn forward(
        &self,
        nodes: Range<usize>,
        values: &mut [Option<B::Tensor>],
        mut saved: Option<&mut Vec<Vec<B::Tensor>>>,
    ) -> Result<(), EngineError> {
        for index in nodes {
            let node = &self.program.nodes[index];
            let inputs = self.take_inputs(node, index, values);
            // A node that needs no gradient is not gone through backward.
            let saves = saved.is_some() && node.requires_grad;
            let (outputs, kept) = node.op.forward(&self.cx(index, saves), inputs)?;
            for (&value, output) in node.outputs.iter().zip(outputs) {
                if self.program.last_use[value] > index {
                    values[value] = Some(output);
                }
            }
            if let Some(saved) = &mut saved {
                saved.push(kept);
            }
        }
        Ok(())
    }

    /// Hands a value over where this is its last use, so that the op may reuse its memory.
    fn take_inputs(&self, node: &Node, index: usize, values: &mut [Option<B::Tensor>]) -> Vec<B::Tensor> {
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

    /// What a block would have saved.
    fn again(
        &self,
        segment: &Segment,
        inputs: Vec<(usize, Option<B::Tensor>)>,
    ) -> Result<Vec<Vec<B::Tensor>>, EngineError> {
        let mut values = self.program.no_values();
        for (value, tensor) in inputs {
            values[value] = tensor;
        }
        let mut saved = Vec::new();
        self.forward(segment.nodes.clone(), &mut values, Some(&mut saved))?;
        Ok(saved)
    }

    fn backward(
        &self,
        nodes: Range<usize>,
        mut saved: Vec<Vec<B::Tensor>>,
        dvalues: &mut [Option<B::Tensor>],
        grads: &mut Grads<B::Tensor>,
    ) -> Result<(), EngineError> {
        for index in nodes.rev() {
            let node = &self.program.nodes[index];
            let saved = saved.pop().expect("every node saved, if only nothing");
            let dys: Vec<_> = node.outputs.iter().filter_map(|&value| dvalues[value].take()).collect();
            if !node.requires_grad || dys.is_empty() {
                continue;
            }
            if dys.len() != node.outputs.len() {
                return Err(EngineError::Unsupported {
                    path: node.path.clone(),
                    kind: node.kind.clone(),
                    why: "one of its outputs is used for nothing".into(),
                });
            }
            let needs: Vec<bool> = node.inputs.iter().map(|&value| self.program.value_requires_grad[value]).collect();
            let dxs = node.op.backward(&self.cx(index, true), dys, saved, &needs, grads)?;
            for ((&value, dx), needed) in node.inputs.iter().zip(dxs).zip(needs) {
                let Some(dx) = dx.filter(|_| needed) else { continue };
                dvalues[value] = Some(match dvalues[value].take() {
                    Some(before) => self.backend.add(before, dx)?,
                    None => dx,
                });
            }
        }
        Ok(())
    }

    /// The loss, and the gradient of what comes into the head.
    fn head(
        &self,
        hidden: B::Tensor,
        step: &Step,
        grads: &mut Grads<B::Tensor>,
    ) -> Result<(f64, Option<B::Tensor>), EngineError> {
        let (program, backend, rows) = (self.program, self.backend, self.batch.rows());
        let scale = 1.0 / divisor(self.batch, step);
        let needs = program.value_requires_grad[program.head_input];
        let dtype: Dtype = backend.dtype(&hidden);
        let dhidden = needs.then(|| backend.zeros(backend.shape(&hidden), dtype)).transpose()?;
        let mut sum = 0.0;
        for stretch in stretches(rows, step.loss_rows) {
            let targets = &self.batch.targets[stretch.start as usize..stretch.end as usize];
            let mut values = program.no_values();
            values[program.head_input] = Some(backend.rows(&hidden, stretch.start, stretch.end - stretch.start));
            let mut saved = Vec::new();
            self.forward(program.head.clone(), &mut values, Some(&mut saved))?;
            let logits = values[program.output].take().expect("the head makes the output");
            let (loss, dlogits) = backend.cross_entropy(logits, targets, scale)?;
            sum += loss.sum;
            let mut dvalues = program.no_values();
            dvalues[program.output] = Some(dlogits);
            self.backward(program.head.clone(), saved, &mut dvalues, grads)?;
            if let (Some(dhidden), Some(part)) = (&dhidden, dvalues[program.head_input].take()) {
                backend.copy_rows(dhidden, stretch.start, &part)?;
            }
        }
        Ok((sum * scale, dhidden))
    }
}
