//! What operations take and give back within one call, beside the tensors that they are given and make: a plan lists it apart.
//!
//! These are the CPU's, whose kernels say what they want lent. What libtorch takes within an operation of its own is not known.

use unswag_abi::doc::Dtype;
use unswag_kernel_plan::{
    attention::{self, Attention},
    has_vectors,
};

use crate::AttentionSpec;

impl AttentionSpec {
    /// The same, as the CPU's kernel takes it. `documents`: one for each row.
    pub fn kernel<'a>(&self, documents: Option<&'a [u32]>) -> Attention<'a> {
        let size = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        Attention {
            batch: size(self.batch),
            seq: size(self.seq),
            heads: size(self.heads),
            kv_heads: size(self.kv_heads),
            head_dim: size(self.head_dim),
            v_head_dim: size(self.v_head_dim),
            scale: self.scale as f32,
            causal: self.causal,
            sliding_window: self.window.map(size),
            logit_softcap: self.softcap.map(|cap| cap as f32),
            documents,
        }
    }
}

/// Bytes of the forward and of the backward.
pub(crate) fn attention(spec: &AttentionSpec, dtype: Dtype, threads: usize) -> [u64; 2] {
    let per_word = match dtype {
        Dtype::F32 => 1,
        Dtype::Bf16 => 2,
        _ => return [0; 2],
    };
    match attention::scratch_len(&spec.kernel(None), per_word, threads) {
        Ok(words) if has_vectors() => words.map(|words| 4 * words as u64),
        _ => [0; 2],
    }
}
