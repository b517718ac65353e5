//! A whole step: forward, loss and backward, each block under its policy.
//!
//! What a block keeps lives until the block's backward. The last layers (the head and what follows it) run on stretches of
//! rows, forward and backward at once, so that the logits of the whole batch never exist.

use unswag_abi::doc::Dtype;

use crate::{
    Backend, Batch, EngineError, Grads, Held, IGNORED, NoStore, Params, Pass, Policy, Program, Store,
    run::{At, Run, Saved},
    segments::Segment,
};

/// How a step is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// One per block; blocks beyond the list keep.
    pub policies: Vec<Policy>,
    /// Rows whose logits exist at once.
    pub loss_rows: u64,
    /// Rows that a tiled MLP works on at once.
    pub tile_rows: u64,
    pub seed: u64,
    /// Whether dropout nodes drop: they do in training alone.
    pub dropout: bool,
    /// What the mean loss is divided by: the counted rows of the batch where `None`, of all batches of one optimizer step
    /// where they are accumulated.
    pub loss_count: Option<u64>,
}

impl Default for Step {
    fn default() -> Self {
        Step { policies: Vec::new(), loss_rows: 256, tile_rows: 512, seed: 0, dropout: true, loss_count: None }
    }
}

impl Step {
    fn policy(&self, segment: &Segment) -> Policy {
        segment.block.and_then(|block| self.policies.get(block)).copied().unwrap_or_default()
    }
}

/// What a segment left for its backward.
enum Kept<T> {
    Nothing,
    Saved(Vec<Saved<T>>),
    Inputs(Inputs<T>),
}

/// Values that came into a segment; `None` where the store has them.
type Inputs<T> = Vec<(usize, Option<T>)>;

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
        let run = Run { program: self, backend, params, batch, seed: 0, drops: false, tile_rows: batch.rows() };
        let mut values = self.no_values();
        for (index, segment) in self.segments.iter().enumerate() {
            run.forward(At::new(Pass::Forward, index), &segment.pieces(false), &mut values, None)?;
        }
        let head = At::new(Pass::Forward, self.segments.len());
        run.forward(head, &self.head_pieces(), &mut values, None)?;
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
        let run = Run { program: self, backend, params, batch, seed: 0, drops: false, tile_rows: step.tile_rows };
        let mut values = self.no_values();
        for (index, segment) in self.segments.iter().enumerate() {
            let pieces = segment.pieces(step.policy(segment).tiles());
            run.forward(At::new(Pass::Forward, index), &pieces, &mut values, None)?;
        }
        let hidden = values[self.head_input].take().expect("the head's input was made");
        let mut sum = 0.0;
        for (rows, times) in run.stretches(step.loss_rows) {
            let targets = &batch.targets[rows.start as usize..rows.end as usize];
            let mut values = self.no_values();
            values[self.head_input] = Some(backend.rows(&hidden, rows.start, rows.end - rows.start));
            let at = At { times, ..At::new(Pass::Forward, self.segments.len()) };
            run.forward(at, &self.head_pieces(), &mut values, None)?;
            let logits = values[self.output].take().expect("the head makes the output");
            sum += backend.cross_entropy_value(&logits, targets)?.sum;
        }
        Ok(sum / divisor(batch, step))
    }

    /// The loss as [`Program::loss`] has it, and its gradients, added to `grads`. Nothing may be offloaded.
    ///
    /// # Errors
    /// As [`Program::step_with_store`].
    pub fn step<B: Backend>(
        &self,
        backend: &B,
        params: &Params<B::Tensor>,
        batch: &Batch,
        step: &Step,
        grads: &mut Grads<B::Tensor>,
    ) -> Result<f64, EngineError> {
        self.step_with_store(backend, params, batch, step, grads, &mut NoStore)
    }

    /// As [`Program::step`], with somewhere to put what is offloaded.
    ///
    /// # Errors
    /// As [`Program::forward`], or what the store says. Some gradients may have been added then.
    pub fn step_with_store<B: Backend>(
        &self,
        backend: &B,
        params: &Params<B::Tensor>,
        batch: &Batch,
        step: &Step,
        grads: &mut Grads<B::Tensor>,
        store: &mut dyn Store<B::Tensor>,
    ) -> Result<f64, EngineError> {
        batch.check(true)?;
        let (seed, drops, tile_rows) = (step.seed, step.dropout, step.tile_rows);
        let run = Run { program: self, backend, params, batch, seed, drops, tile_rows };
        let mut values = self.no_values();
        let mut kept: Vec<Kept<B::Tensor>> = Vec::new();
        for (index, segment) in self.segments.iter().enumerate() {
            let policy = step.policy(segment);
            let at = At { selective: policy == Policy::Selective, ..At::new(Pass::Forward, index) };
            let pieces = segment.pieces(policy.tiles());
            if !segment.requires_grad {
                run.forward(at, &pieces, &mut values, None)?;
                kept.push(Kept::Nothing);
            } else if policy.recomputes() {
                let inputs = self.keep_inputs(backend, index, policy, &values, store)?;
                run.forward(at, &pieces, &mut values, None)?;
                kept.push(Kept::Inputs(inputs));
            } else {
                let mut saved = Vec::new();
                run.forward(at, &pieces, &mut values, Some(&mut saved))?;
                kept.push(Kept::Saved(saved));
            }
        }
        let hidden = values[self.head_input].take().expect("the head's input was made");
        drop(values);
        prefetch(&kept, store);
        let (loss, dhidden) = run.head(hidden, step.loss_rows, 1.0 / divisor(batch, step), grads)?;
        let mut dvalues = self.no_values();
        dvalues[self.head_input] = dhidden;
        for (index, segment) in self.segments.iter().enumerate().rev() {
            let policy = step.policy(segment);
            let pieces = segment.pieces(policy.tiles());
            let saved = match kept.pop().expect("every segment left something, if only nothing") {
                Kept::Nothing => continue,
                Kept::Saved(saved) => saved,
                Kept::Inputs(inputs) => {
                    let mut values = self.no_values();
                    run.enter(At::new(Pass::Recompute, index), segment.nodes.start);
                    for (value, tensor) in inputs {
                        values[value] = Some(match tensor {
                            Some(tensor) => tensor,
                            None => store.take(value)?,
                        });
                    }
                    prefetch(&kept, store);
                    run.again(index, &pieces, values)?
                }
            };
            let at = At { selective: policy == Policy::Selective, ..At::new(Pass::Backward, index) };
            run.backward(at, &pieces, saved, &mut dvalues, grads)?;
        }
        Ok(loss)
    }

    /// What a block that is computed again keeps. What other blocks use too (rotary tables) stays here whatever the policy:
    /// it is there once for all of them.
    fn keep_inputs<B: Backend>(
        &self,
        backend: &B,
        index: usize,
        policy: Policy,
        values: &[Option<B::Tensor>],
        store: &mut dyn Store<B::Tensor>,
    ) -> Result<Inputs<B::Tensor>, EngineError> {
        let segment = &self.segments[index];
        let mut inputs = Vec::new();
        for &value in &segment.inputs {
            let tensor = values[value].as_ref().expect("nodes stand in an order in which they can run");
            if policy.offloads() && segment.own_inputs.contains(&value) {
                backend.entering(At::new(Pass::Forward, index).place(segment.nodes.start));
                store.put(value, tensor)?;
                inputs.push((value, None));
            } else {
                backend.holds(tensor, Held::Input { segment: index });
                inputs.push((value, Some(tensor.clone())));
            }
        }
        Ok(inputs)
    }
}

/// Asks for what the next backward needs.
fn prefetch<T>(kept: &[Kept<T>], store: &mut dyn Store<T>) {
    let next = kept.iter().rev().find_map(|kept| match kept {
        Kept::Inputs(inputs) if inputs.iter().any(|(_, tensor)| tensor.is_none()) => Some(inputs),
        _ => None,
    });
    for (value, tensor) in next.into_iter().flatten() {
        if tensor.is_none() {
            store.prefetch(*value);
        }
    }
}

fn divisor(batch: &Batch, step: &Step) -> f64 {
    let counted = || batch.targets.iter().filter(|&&target| target != IGNORED).count() as u64;
    step.loss_count.unwrap_or_else(counted).max(1) as f64
}

impl<B: Backend> Run<'_, B> {
    /// The loss, and the gradient of what comes into the head.
    fn head(
        &self,
        hidden: B::Tensor,
        loss_rows: u64,
        scale: f64,
        grads: &mut Grads<B::Tensor>,
    ) -> Result<(f64, Option<B::Tensor>), EngineError> {
        let (program, backend) = (self.program, self.backend);
        let at = At::new(Pass::Forward, program.segments.len());
        self.enter(at, program.head.start);
        let pieces = program.head_pieces();
        let needs = program.value_requires_grad[program.head_input];
        let dtype: Dtype = backend.dtype(&hidden);
        let dhidden = needs.then(|| backend.zeros(backend.shape(&hidden), dtype)).transpose()?;
        let mut sum = 0.0;
        for (stretch, times) in self.stretches(loss_rows) {
            let targets = &self.batch.targets[stretch.start as usize..stretch.end as usize];
            let mut values = program.no_values();
            values[program.head_input] = Some(backend.rows(&hidden, stretch.start, stretch.end - stretch.start));
            let mut saved = Vec::new();
            // What an adapter on the head drops is a function of the row.
            let at = At { times, first_row: stretch.start, ..at };
            self.forward(at, &pieces, &mut values, Some(&mut saved))?;
            let logits = values[program.output].take().expect("the head makes the output");
            let (loss, dlogits) = backend.cross_entropy(logits, targets, scale)?;
            sum += loss.sum;
            let mut dvalues = program.no_values();
            dvalues[program.output] = Some(dlogits);
            self.backward(At { pass: Pass::Backward, ..at }, &pieces, saved, &mut dvalues, grads)?;
            if let (Some(dhidden), Some(part)) = (&dhidden, dvalues[program.head_input].take()) {
                backend.copy_rows(dhidden, stretch.start, &part)?;
            }
        }
        Ok((sum * scale, dhidden))
    }
}
