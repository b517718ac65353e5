//! Attention on the CPU, by its kernel: scores are never in memory.

use half::bf16;
use tch::{Kind, Tensor};
use unswag_engine::EngineError;
use unswag_kernels::attention::{self, Word};

use super::Masked;
use crate::{
    cpu::{Done, Torchlike, kernel_error, read, write, write_bytes},
    memory::{Pool, Pooled},
    tensor::torch_error,
    threads::exec,
};

/// Whether the kernel makes this attention.
pub(super) fn is_served(x: &Tensor, masked: &Masked<'_>) -> bool {
    let is_word = matches!(x.kind(), Kind::Float | Kind::BFloat16);
    is_word && crate::cpu::is_served(x) && attention::is_served(exec(), &masked.spec.kernel(masked.documents))
}

/// y and lse are written.
pub(super) fn forward(
    qkv: [&Tensor; 3],
    sinks: Option<&Tensor>,
    masked: &Masked<'_>,
    pool: &Pool,
    outputs: [&Tensor; 2],
) -> Done {
    match qkv[0].kind() {
        Kind::BFloat16 => forward_in::<bf16>(qkv, sinks, masked, pool, outputs),
        _ => forward_in::<f32>(qkv, sinks, masked, pool, outputs),
    }
}

fn forward_in<T: Torchlike + Word>(
    [q, k, v]: [&Tensor; 3],
    sinks: Option<&Tensor>,
    masked: &Masked<'_>,
    pool: &Pool,
    [y, lse]: [&Tensor; 2],
) -> Done {
    let config = masked.spec.kernel(masked.documents);
    let [words, _] = attention::scratch_len::<T>(exec(), &config).map_err(kernel_error)?;
    let wide =
        |sinks: &Tensor| sinks.f_to_kind(Kind::Float).and_then(|sinks| sinks.f_contiguous()).map_err(torch_error);
    let sinks = sinks.map(wide).transpose()?;
    let sinks = sinks.as_ref().map(read::<f32>).transpose()?;
    let scratch = lent(pool, words)?;
    // SAFETY: y and lse were made for this call.
    let (to, sums) = unsafe { (write(y)?, write(lse)?) };
    // SAFETY: so was the scratch.
    let scratch = unsafe { as_words(&scratch)? };
    attention::forward(exec(), &config, [read::<T>(q)?, read(k)?, read(v)?], sinks, scratch, to, sums)
        .map_err(kernel_error)
}

/// dq, dk and dv are written.
pub(super) fn backward(dy: &Tensor, saved: [&Tensor; 5], masked: &Masked<'_>, pool: &Pool, to: [&Tensor; 3]) -> Done {
    match dy.kind() {
        Kind::BFloat16 => backward_in::<bf16>(dy, saved, masked, pool, to),
        _ => backward_in::<f32>(dy, saved, masked, pool, to),
    }
}

fn backward_in<T: Torchlike + Word>(
    dy: &Tensor,
    [q, k, v, y, lse]: [&Tensor; 5],
    masked: &Masked<'_>,
    pool: &Pool,
    [dq, dk, dv]: [&Tensor; 3],
) -> Done {
    let config = masked.spec.kernel(masked.documents);
    let [_, words] = attention::scratch_len::<T>(exec(), &config).map_err(kernel_error)?;
    let scratch = lent(pool, words)?;
    // SAFETY: all three were made for this call.
    let to = unsafe { [write(dq)?, write(dk)?, write(dv)?] };
    // SAFETY: so was the scratch.
    let scratch = unsafe { as_words(&scratch)? };
    let saved = [read::<T>(q)?, read(k)?, read(v)?, read(y)?];
    attention::backward(exec(), &config, read(dy)?, saved, read(lse)?, scratch, to).map_err(kernel_error)
}

/// Words for the length of a call.
fn lent(pool: &Pool, words: usize) -> Result<Pooled, EngineError> {
    pool.tensor(&[words as i64], Kind::Int).map_err(torch_error)
}

/// # Safety
/// As [`write`].
#[expect(clippy::mut_from_ref, reason = "as in `write`")]
unsafe fn as_words(scratch: &Tensor) -> Result<&mut [u32], EngineError> {
    // SAFETY: the caller's promise; any bits are a word, and a block starts on a line of the cache.
    Ok(unsafe { write_bytes(scratch)?.align_to_mut().1 })
}
