//! `attention`: softmax(scale q k^T) v and its backward, without scores in memory (Dao et al. 2022), on the instructions that
//! multiply sixteen words at once.
//!
//! A *word* is 32 bits of an operand: one f32, or two bf16 that the CPU multiplies and adds in one instruction (`word.rs`).
//! Products are taken in tiles of [`tile::ROWS`] rows by [`tile::CHUNK`] lanes whose sums stay in registers (`tile.rs`).
//!
//! A task is [`QUERIES`] queries of all heads that share a key, against all keys that they see, in blocks of [`KEYS`]:
//!
//! 1. [`forward`]: s = q k^T; running maximum and sum of 2^(s log2(e) scale); y += p v; lse = ln of the sum.
//! 2. [`backward`]: p again from lse; ds = p (dy v^T - sum(dy y)) scale; dq += ds k in the task; dv += p^T dy and dk += ds^T q for a
//!    block of keys, which go to the sums of all tasks in a fixed order (`turns.rs`).
//!
//! Masks: causal, sliding window, documents, with or without a soft cap; tiles that nothing is seen of are skipped. Sinks: a score
//! of their own for each head, in the sum and without a value. A query that sees nothing has zeros and lse = -inf.
//! Layout: q, dq \[batch seq, heads head_dim\], k, dk \[batch seq, kv_heads head_dim\], v, dv \[batch seq, kv_heads v_head_dim\],
//! y, dy \[batch seq, heads v_head_dim\], lse \[batch seq, heads\] f32.
//! Precision: products of elements exactly, sums and everything between in f32; p and ds rounded once to the element type for their
//! products. Within 4e-6 (f32) and 2e-2 (bf16) of f64 on values around 1 (`tests/attention.rs`).
//! The same bits for any thread count. Not the same on every instruction set: AVX512_BF16 takes denormals for zeros.
//! NaN: a NaN or +inf among the scores that a query sees makes its output and lse NaN; -inf has the weight 0. Scores that it does
//! not see never matter; a NaN among values reaches every query that sees any key of the same tile.
//!
//! Memory: [`scratch_len`] words that the caller lends, whatever the sequence's length but for the sums of dk and dv.

mod backward;
mod cells;
mod config;
mod forward;
mod mask;
mod pack;
pub mod reference;
mod task;
mod tile;
mod turns;
mod weights;
mod word;

use std::sync::Mutex;

use cells::Cells;
use half::bf16;
use task::Place;
pub use unswag_kernel_plan::attention::Attention;
use unswag_kernel_plan::attention::{KEYS, LINE, QUERIES, Sizes};
pub use word::Word;

use crate::{Exec, Isa, KernelError, error::length};

pub const OP: &str = "attention";
type Done = Result<(), KernelError>;

/// Whether this serves the configuration, and the CPU has vector instructions for it.
pub fn is_served(exec: Exec, config: &Attention<'_>) -> bool {
    exec.isa != Isa::Portable && config.check().is_ok()
}

/// Words that a call needs lent: \[forward, backward\].
///
/// # Errors
/// Where the configuration is not sound.
pub fn scratch_len<T: Word>(exec: Exec, config: &Attention<'_>) -> Result<[usize; 2], KernelError> {
    config::check(config)?;
    Ok(unswag_kernel_plan::attention::scratch_len(config, T::PER_WORD, exec.threads).unwrap_or_default())
}

/// y and lse are written. `sinks`: a score for each head.
///
/// # Errors
/// Where lengths do not fit, the configuration is not sound, or the CPU lacks `exec.isa`. Then nothing was written.
///
/// ```
/// use unswag_kernels::{Exec, attention::{self, Attention}};
/// let config = Attention { seq: 2, head_dim: 1, v_head_dim: 1, causal: true, ..Attention::default() };
/// let exec = Exec::new(1);
/// let mut scratch = vec![0; attention::scratch_len::<f32>(exec, &config)?[0]];
/// let (mut y, mut lse) = ([0.0f32; 2], [0.0; 2]);
/// // The first token sees itself, the second both, with equal scores.
/// attention::forward(exec, &config, [&[1.0, 0.0], &[1.0, 1.0], &[4.0, 8.0]], None, &mut scratch, &mut y, &mut lse)?;
/// assert_eq!(y, [4.0, 6.0]);
/// # Ok::<(), unswag_kernels::KernelError>(())
/// ```
pub fn forward<T: Word>(
    exec: Exec,
    config: &Attention<'_>,
    qkv: [&[T]; 3],
    sinks: Option<&[f32]>,
    scratch: &mut [u32],
    y: &mut [T],
    lse: &mut [f32],
) -> Done {
    T::attention_forward(exec, config, Forward { qkv, sinks, scratch, y, lse })
}

/// dq, dk and dv are written. `saved`: q, k, v and forward's y; `lse`: forward's.
///
/// # Errors
/// As [`forward`].
pub fn backward<T: Word>(
    exec: Exec,
    config: &Attention<'_>,
    dy: &[T],
    saved: [&[T]; 4],
    lse: &[f32],
    scratch: &mut [u32],
    gradients: [&mut [T]; 3],
) -> Done {
    T::attention_backward(exec, config, Backward { dy, saved, lse, scratch, gradients })
}

pub struct Forward<'a, T> {
    qkv: [&'a [T]; 3],
    sinks: Option<&'a [f32]>,
    scratch: &'a mut [u32],
    y: &'a mut [T],
    lse: &'a mut [f32],
}

pub struct Backward<'a, T> {
    dy: &'a [T],
    saved: [&'a [T]; 4],
    lse: &'a [f32],
    scratch: &'a mut [u32],
    gradients: [&'a mut [T]; 3],
}

/// See `element::Kernels`: the same for this op.
pub trait Kernels: Sized {
    fn attention_forward(exec: Exec, config: &Attention<'_>, args: Forward<'_, Self>) -> Done;
    fn attention_backward(exec: Exec, config: &Attention<'_>, args: Backward<'_, Self>) -> Done;
}

macro_rules! kernels {
    ($($T:ty),*) => {$(
        impl Kernels for $T {
            fn attention_forward(exec: Exec, config: &Attention<'_>, args: Forward<'_, Self>) -> Done {
                forward_tasks(exec, config, args)
            }
            fn attention_backward(exec: Exec, config: &Attention<'_>, args: Backward<'_, Self>) -> Done {
                backward_tasks(exec, config, args)
            }
        }
    )*};
}
kernels!(f32, bf16);

fn forward_tasks<T: Word>(exec: Exec, config: &Attention<'_>, args: Forward<'_, T>) -> Done {
    let Forward { qkv, sinks, scratch, y, lse } = args;
    let [needed, _] = scratch_len::<T>(exec, config)?;
    exec.check()?;
    config::check_inputs(config, qkv)?;
    if let Some(sinks) = sinks {
        length(OP, "sinks", config.heads, sinks.len())?;
    }
    length(OP, "scratch", needed, scratch.len())?;
    length(OP, "y", config::rows(config) * config.heads * config.v_head_dim, y.len())?;
    length(OP, "lse", config::rows(config) * config.heads, lse.len())?;
    let sizes = Sizes::of(config, T::PER_WORD);
    let workers = Mutex::new(aligned(scratch).chunks_exact_mut(sizes.forward).collect::<Vec<_>>());
    let (y, lse) = (Cells::new(y, config.v_head_dim), Cells::new(lse, 1));
    exec.for_each(config.tasks(), Place::all(config), |place| {
        with_scratch(&workers, |scratch| {
            let (y, lse) = (&y, &lse);
            T::launch(exec.isa, forward::Task { config, sizes: &sizes, place, qkv, sinks, scratch, y, lse });
        });
    })
}

fn backward_tasks<T: Word>(exec: Exec, config: &Attention<'_>, args: Backward<'_, T>) -> Done {
    let Backward { dy, saved: [q, k, v, y], lse, scratch, gradients: [dq, dk, dv] } = args;
    let [_, needed] = scratch_len::<T>(exec, config)?;
    exec.check()?;
    config::check_inputs(config, [q, k, v])?;
    let outputs = config::rows(config) * config.heads * config.v_head_dim;
    for (argument, expected, got) in [
        ("dy", outputs, dy.len()),
        ("y", outputs, y.len()),
        ("lse", config::rows(config) * config.heads, lse.len()),
        ("scratch", needed, scratch.len()),
        ("dq", q.len(), dq.len()),
        ("dk", k.len(), dk.len()),
        ("dv", v.len(), dv.len()),
    ] {
        length(OP, argument, expected, got)?;
    }
    let sizes = Sizes::of(config, T::PER_WORD);
    let (sums, workers) = aligned(scratch).split_at_mut(sizes.sums);
    let workers = Mutex::new(workers.chunks_exact_mut(sizes.backward).collect::<Vec<_>>());
    let turns = turns::Turns::new(config);
    let sums = Cells::new(sums, sizes.sums_of_block());
    let [dq, dk, dv] =
        [(dq, config.head_dim), (dk, config.head_dim), (dv, config.v_head_dim)].map(|(x, d)| Cells::new(x, d));
    exec.for_each(config.tasks(), Place::all(config), |place| {
        with_scratch(&workers, |scratch| {
            let (sums, turns, saved, gradients) = (&sums, &turns, [q, k, v, y], [&dq, &dk, &dv]);
            let task = backward::Task { config, sizes: &sizes, place, dy, saved, lse, scratch, sums, turns, gradients };
            T::launch(exec.isa, task);
        });
    })
}

/// From the first whole line of the cache on.
fn aligned(scratch: &mut [u32]) -> &mut [u32] {
    let skipped = scratch.as_ptr().align_offset(4 * LINE);
    scratch.get_mut(skipped..).unwrap_or_default()
}

/// Lends one worker's scratch: there is one for each that can be at work.
fn with_scratch(workers: &Mutex<Vec<&mut [u32]>>, run: impl FnOnce(&mut [u32])) {
    let lock = || workers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(scratch) = lock().pop() else { unreachable!("more tasks at once than threads") };
    run(scratch);
    lock().push(scratch);
}
