//! What operations take and give back within one call, beside the tensors that they are given and make: a plan lists it apart.
//!
//! These are the CPU's: its attention works on a block of queries at a time. What libtorch takes within a product of its own is not
//! known.

use unswag_abi::doc::Dtype;

use crate::AttentionSpec;

/// The work on one block of queries.
struct Block {
    /// Queries of all heads and sequences.
    rows: u64,
    /// Keys that any of them sees.
    keys: u64,
}

fn blocks(spec: &AttentionSpec) -> impl Iterator<Item = Block> {
    (0..spec.seq.div_ceil(AttentionSpec::BLOCK)).map(|index| {
        let start = index * AttentionSpec::BLOCK;
        let end = (start + AttentionSpec::BLOCK).min(spec.seq);
        let (first, last) = spec.keys(start, end);
        Block { rows: spec.batch * spec.heads * (end - start), keys: last - first }
    })
}

/// Elements of all keys and values.
fn keys_and_values(spec: &AttentionSpec) -> u64 {
    spec.batch * spec.kv_heads * spec.seq * (spec.head_dim + spec.v_head_dim)
}

/// Keys and values in one piece for each head; a block's queries, scores, products and the state of its softmax.
pub(crate) fn attention(spec: &AttentionSpec, dtype: Dtype) -> u64 {
    let one = |block: Block| {
        let elements = block.rows * (spec.head_dim + spec.v_head_dim + block.keys);
        dtype.bytes() * elements + Dtype::F32.bytes() * block.rows
    };
    dtype.bytes() * keys_and_values(spec) + blocks(spec).map(one).max().unwrap_or(0)
}

/// The same, with the scores' gradients, and the sums of the keys' and values' in f32.
pub(crate) fn attention_backward(spec: &AttentionSpec, dtype: Dtype) -> u64 {
    let one = |block: Block| {
        let product = spec.batch * spec.kv_heads * block.keys * spec.head_dim.max(spec.v_head_dim);
        let elements = block.rows * (spec.head_dim + spec.v_head_dim + 2 * block.keys);
        dtype.bytes() * (elements + product.max(block.rows * spec.head_dim)) + Dtype::F32.bytes() * 2 * block.rows
    };
    let sums = Dtype::F32.bytes() * (keys_and_values(spec) + spec.batch * spec.seq * spec.heads);
    dtype.bytes() * keys_and_values(spec) + sums + blocks(spec).map(one).max().unwrap_or(0)
}
