//! The next token's logits, with the keys and values of the tokens before it kept: a text is gone on with at the cost of its new
//! tokens, not of all.
//!
//! What a token is in a causal model depends on the tokens before it alone, and reaches later ones through attention's keys
//! and values. Where that is not so for certain, every token is computed anew: a plugin's op may look at other rows, unless it
//! stands for a primitive that does not. What the logits are must never depend on what was kept.

use unswag_abi::doc::Graph;

use crate::{
    AttentionSpec, Backend, Batch, EngineError, Params, Pass, Program,
    ops::{Cx, Op},
    program::Node,
    run::{At, Run},
};

/// Rows are made room for in multiples of this, and twice as many each time.
const GROWS_BY: u64 = 64;

/// Keys and values of one sequence, for each attention.
#[derive(Debug)]
pub struct Cache<T> {
    tokens: u64,
    /// By node.
    kept: Vec<Option<[Kept<T>; 2]>>,
}

/// Rows in memory that has room for more.
#[derive(Debug)]
struct Kept<T> {
    memory: T,
    rows: u64,
}

impl<T: Clone> Cache<T> {
    pub fn new(program: &Program) -> Self {
        Cache { tokens: 0, kept: (0..program.nodes.len()).map(|_| None).collect() }
    }

    /// Tokens whose keys and values are kept.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    pub fn clear(&mut self) {
        self.tokens = 0;
        self.kept.iter_mut().for_each(|kept| *kept = None);
    }
}

impl<T: Clone> Kept<T> {
    /// The rows that were there and the new ones behind them, in memory that is shared.
    fn append<B: Backend<Tensor = T>>(&mut self, backend: &B, new: &T) -> Result<T, EngineError> {
        let [count, columns] = backend.shape(new);
        let rows = self.rows + count;
        let room = backend.shape(&self.memory)[0];
        if rows > room {
            let room = rows.max(2 * room).next_multiple_of(GROWS_BY);
            let larger = backend.zeros([room, columns], backend.dtype(new))?;
            if self.rows > 0 {
                backend.copy_rows(&larger, 0, &backend.rows(&self.memory, 0, self.rows))?;
            }
            self.memory = larger;
        }
        backend.copy_rows(&self.memory, self.rows, new)?;
        self.rows = rows;
        Ok(backend.rows(&self.memory, 0, rows))
    }
}

/// Whether a token's row depends on other rows through attention's keys and values only, and on earlier ones.
pub(crate) fn goes_row_by_row(graph: &Graph, nodes: &[Node]) -> bool {
    // The primitives that mix rows, or read what is of the whole batch.
    let mixes = |kind: &str| ["attention", "embedding", "rotary_embedding", "dropout"].contains(&kind);
    graph.nodes.iter().zip(nodes).all(|(node, compiled)| match &compiled.op {
        Op::Plugin(_) => node.stands_for.as_deref().is_some_and(|primitive| !mixes(primitive)),
        Op::Attention { spec, .. } => spec.causal,
        _ => true,
    })
}

impl Program {
    /// The logits after the last of these tokens, one row. `input_ids` is the whole text: what the cache has of it must be of the
    /// same tokens.
    ///
    /// # Errors
    /// No token, fewer than the cache has, or what the backend says. Then the cache is empty.
    pub fn next_logits<B: Backend>(
        &self,
        backend: &B,
        params: &Params<B::Tensor>,
        input_ids: &[u32],
        cache: &mut Cache<B::Tensor>,
    ) -> Result<B::Tensor, EngineError> {
        let count = input_ids.len() as u64;
        if count <= cache.tokens {
            let expected = format!("more than the {} that were seen", cache.tokens);
            return Err(EngineError::Batch { what: "input_ids", expected, got: count.to_string() });
        }
        // Where rotations depend on the text's length, all keys are turned anew.
        if !self.row_by_row || !self.turns_alike(cache.tokens, count) {
            cache.clear();
        }
        let made = self.go_on(backend, params, input_ids, cache);
        match made {
            Ok(_) if self.row_by_row => cache.tokens = count,
            _ => cache.clear(),
        }
        made
    }

    fn turns_alike(&self, before: u64, now: u64) -> bool {
        let rotaries = self.nodes.iter().filter_map(|node| match &node.op {
            Op::Rotary { rotary, .. } => Some(rotary),
            _ => None,
        });
        before == 0 || rotaries.into_iter().all(|rotary| rotary.is_same_at(before, now))
    }

    fn go_on<B: Backend>(
        &self,
        backend: &B,
        params: &Params<B::Tensor>,
        input_ids: &[u32],
        cache: &mut Cache<B::Tensor>,
    ) -> Result<B::Tensor, EngineError> {
        let past = cache.tokens;
        let new = &input_ids[past as usize..];
        let position_ids = (past as u32..input_ids.len() as u32).collect();
        let batch =
            Batch { batch: 1, seq: new.len() as u64, input_ids: new.to_vec(), position_ids, ..Batch::default() };
        batch.check(false)?;
        let run = Run { program: self, backend, params, batch: &batch, seed: 0, drops: false, tile_rows: batch.rows() };
        let mut values = self.no_values();
        for (index, node) in self.nodes.iter().enumerate() {
            if index == self.head.start {
                // Only the last token's are asked for.
                let all = values[self.head_input].take().expect("the head's input was made");
                values[self.head_input] = Some(backend.rows(&all, batch.rows() - 1, 1));
            }
            let inputs = run.take_inputs(node, index, &mut values);
            let cx = run.cx(At::new(Pass::Forward, 0), index, false);
            let outputs = match &node.op {
                Op::Attention { sinks, spec } if self.row_by_row => {
                    vec![attend(&cx, inputs, *sinks, spec, past, &mut cache.kept[index])?]
                }
                op => op.forward(&cx, inputs)?.0,
            };
            for (&value, output) in node.outputs.iter().zip(outputs) {
                if self.last_use[value] > index {
                    values[value] = Some(output);
                }
            }
        }
        Ok(values[self.output].take().expect("the last node makes the output"))
    }
}

/// Attention of the new tokens' queries to all keys, which are kept with the values for the tokens to come.
fn attend<B: Backend>(
    cx: &Cx<'_, B>,
    inputs: Vec<B::Tensor>,
    sinks: Option<usize>,
    spec: &AttentionSpec,
    past: u64,
    kept: &mut Option<[Kept<B::Tensor>; 2]>,
) -> Result<B::Tensor, EngineError> {
    let b = cx.backend;
    let [q, k, v] = &inputs[..] else { unreachable!("attention has three inputs") };
    let sinks = sinks.map(|sinks| &cx.params[sinks]);
    let spec = AttentionSpec { batch: 1, seq: past + b.shape(q)[0], ..*spec };
    let Some([keys, values]) = kept else {
        // The first tokens' own memory serves until there are more.
        let keep = |x: &B::Tensor| Kept { memory: x.clone(), rows: b.shape(x)[0] };
        *kept = Some([keep(k), keep(v)]);
        return Ok(b.attention(q, k, v, sinks, None, &spec)?.0);
    };
    let (k, v) = (keys.append(b, k)?, values.append(b, v)?);
    b.attention_after(q, &k, &v, sinks, &spec)
}
