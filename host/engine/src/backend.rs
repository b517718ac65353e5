//! What a backend can do: the operations that forward and backward are written in.
//!
//! All tensors are dense, row-major and of two dimensions, `[rows, columns]`; a vector is one row. Half-precision operations
//! accumulate in f32 and round once, unless they say otherwise. A tensor is a shared handle: cloning it copies nothing.
//! Methods that take a tensor by value may reuse its memory where the handle is the only one ([`Backend::is_unique`]), and
//! every backend does so in the same cases, or plans would not be exact.

use unswag_abi::doc::Dtype;

use crate::{EngineError, Held, Place, PluginCall, PluginRun};

/// A target of the loss that counts for nothing, as in PyTorch.
pub const IGNORED: i64 = -100;

/// How a matrix stands in a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    AsIs,
    Transposed,
}

/// y = weight\[ids + offset\] * scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmbeddingSpec {
    pub scale: f64,
    pub offset: u64,
    pub dtype: Dtype,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNorm {
    pub eps: f64,
    /// The factor is 1 + weight.
    pub unit_offset: bool,
    /// Elements normalised together; a row where `None`.
    pub group: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorm {
    pub eps: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RopeSpec {
    pub head_dim: u64,
    /// Pairs are neighbours, not halves.
    pub interleaved: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Silu,
    Gelu,
    GeluTanh,
    Relu,
    Relu2,
    Tanh,
    Sigmoid,
}

/// y = act(gate) * up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Silu,
    Gelu,
    GeluTanh,
    Relu,
}

impl Gate {
    pub fn activation(self) -> Activation {
        match self {
            Gate::Silu => Activation::Silu,
            Gate::Gelu => Activation::Gelu,
            Gate::GeluTanh => Activation::GeluTanh,
            Gate::Relu => Activation::Relu,
        }
    }
}

/// softmax(scale q k^T + mask) v, per head and sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    pub v_head_dim: u64,
    pub scale: f64,
    pub causal: bool,
    /// Keys that a query sees, itself included.
    pub window: Option<u64>,
    pub softcap: Option<f64>,
    /// Sequences in the batch, all of one length.
    pub batch: u64,
    pub seq: u64,
}

impl AttentionSpec {
    /// Queries worked on at once: bounds the scores that exist, whatever the length.
    pub const BLOCK: u64 = 256;

    /// Keys that queries `start..end` of a sequence see, as a range.
    pub fn keys(&self, start: u64, end: u64) -> (u64, u64) {
        let last = if self.causal { end } else { self.seq };
        let first = self.window.map_or(0, |window| (start + 1).saturating_sub(window));
        (first, last)
    }
}

/// The loss of one stretch of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CrossEntropy {
    /// The sum over counted rows, in nats.
    pub sum: f64,
}

/// Which elements are dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    pub p: f64,
    pub seed: u64,
    /// The number of x's first row, where x is a stretch of rows of something longer.
    pub first_row: u64,
}

pub trait Backend {
    /// A shared handle to a tensor.
    type Tensor: Clone;

    fn shape(&self, x: &Self::Tensor) -> [u64; 2];
    fn dtype(&self, x: &Self::Tensor) -> Dtype;
    /// Whether this handle is the only one to its memory.
    fn is_unique(&self, x: &Self::Tensor) -> bool;

    /// f32 values from the host. `values` is called where there is memory to fill.
    fn tensor_from_f32(
        &self,
        shape: [u64; 2],
        dtype: Dtype,
        values: &dyn Fn() -> Vec<f32>,
    ) -> Result<Self::Tensor, EngineError>;
    fn zeros(&self, shape: [u64; 2], dtype: Dtype) -> Result<Self::Tensor, EngineError>;
    fn cast(&self, x: &Self::Tensor, dtype: Dtype) -> Result<Self::Tensor, EngineError>;

    /// x's elements, each in x's dtype: x itself where it is plain. A quantised tensor may be given to this, [`Backend::shape`] and
    /// [`Backend::dtype`] alone.
    fn dequantize(&self, x: &Self::Tensor) -> Result<Self::Tensor, EngineError>;

    /// Rows `start..start + count`, sharing memory.
    fn rows(&self, x: &Self::Tensor, start: u64, count: u64) -> Self::Tensor;
    /// Columns `start..start + count`, copied.
    fn columns(&self, x: &Self::Tensor, start: u64, count: u64) -> Result<Self::Tensor, EngineError>;
    /// The tensors side by side.
    fn concat(&self, parts: &[Self::Tensor]) -> Result<Self::Tensor, EngineError>;
    /// to\[start.., ..\] = from, which has no more rows than fit.
    fn copy_rows(&self, to: &Self::Tensor, start: u64, from: &Self::Tensor) -> Result<(), EngineError>;

    /// y = a b, each as its view says. y has a's dtype.
    fn matmul(&self, a: &Self::Tensor, av: View, b: &Self::Tensor, bv: View) -> Result<Self::Tensor, EngineError>;
    /// y += alpha a b, in place.
    fn matmul_add(
        &self,
        y: &Self::Tensor,
        alpha: f64,
        a: (&Self::Tensor, View),
        b: (&Self::Tensor, View),
    ) -> Result<(), EngineError>;
    /// x + bias, in x's memory. bias: one row.
    fn add_bias(&self, x: Self::Tensor, bias: &Self::Tensor) -> Result<Self::Tensor, EngineError>;
    /// x factors, each column by its own (f32, one row); in x's memory where its handle is the only one.
    fn mul_columns(&self, x: Self::Tensor, factors: &Self::Tensor) -> Result<Self::Tensor, EngineError>;
    /// The lengths (f32, one row) of the outputs' weights in weight + scale product: of its rows, or, where the view is as it
    /// is, of its columns.
    fn weight_norms(
        &self,
        weight: (&Self::Tensor, View),
        scale: f64,
        product: &Self::Tensor,
    ) -> Result<Self::Tensor, EngineError>;
    /// a / b element by element, in f32, and 0 where b is 0.
    fn ratio(&self, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor, EngineError>;
    /// The sum over rows, one row, in f32.
    fn sum_rows(&self, x: &Self::Tensor) -> Result<Self::Tensor, EngineError>;

    /// a + b of one shape; in the memory of a handle that is the only one, a's first.
    fn add(&self, a: Self::Tensor, b: Self::Tensor) -> Result<Self::Tensor, EngineError>;
    /// a - b, in a's memory where its handle is the only one.
    fn sub(&self, a: Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor, EngineError>;
    /// a b element by element, in a's memory where its handle is the only one.
    fn mul(&self, a: Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor, EngineError>;
    /// x by, in x's memory where its handle is the only one.
    fn scale(&self, x: Self::Tensor, by: f64) -> Result<Self::Tensor, EngineError>;

    fn embedding(&self, weight: &Self::Tensor, ids: &[u32], spec: &EmbeddingSpec) -> Result<Self::Tensor, EngineError>;
    /// dweight\[ids\[i\] + offset\] += dy\[i\] * scale, dweight in f32.
    fn embedding_backward(
        &self,
        dweight: &Self::Tensor,
        dy: &Self::Tensor,
        ids: &[u32],
        spec: &EmbeddingSpec,
    ) -> Result<(), EngineError>;

    /// y and rstd (f32, \[rows, groups\]).
    fn rms_norm(
        &self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        spec: &RmsNorm,
    ) -> Result<(Self::Tensor, Self::Tensor), EngineError>;
    /// dx, and dweight (f32, one row) where it is wanted.
    fn rms_norm_backward(
        &self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        rstd: &Self::Tensor,
        spec: &RmsNorm,
        wants_dweight: bool,
    ) -> Result<(Self::Tensor, Option<Self::Tensor>), EngineError>;
    /// y, mean and rstd (f32, \[rows, 1\]).
    fn layer_norm(
        &self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        bias: Option<&Self::Tensor>,
        spec: &LayerNorm,
    ) -> Result<[Self::Tensor; 3], EngineError>;
    /// dx, and dweight and dbias (f32, one row each) where they are wanted.
    #[expect(clippy::type_complexity, reason = "one gradient, and two that come together")]
    fn layer_norm_backward(
        &self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        stats: [&Self::Tensor; 2],
        wants_dweight: bool,
    ) -> Result<(Self::Tensor, Option<(Self::Tensor, Self::Tensor)>), EngineError>;

    /// The heads of x turned by cos and sin (\[rows, dim\]), or turned back; in x's memory where its handle is the only one.
    fn rope(
        &self,
        x: Self::Tensor,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
        spec: &RopeSpec,
        back: bool,
    ) -> Result<Self::Tensor, EngineError>;

    /// y, and the log-sum-exp of the scores (f32, \[rows, heads\]). sinks: one row of `heads`; documents: one number per row,
    /// as in [`crate::Batch::document_ids`].
    fn attention(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        sinks: Option<&Self::Tensor>,
        documents: Option<&[u32]>,
        spec: &AttentionSpec,
    ) -> Result<(Self::Tensor, Self::Tensor), EngineError>;
    /// y of queries that are the last of a sequence whose first ones were computed before. q: fewer rows than k and v, which have
    /// `spec.seq`; one sequence, one document.
    fn attention_after(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        sinks: Option<&Self::Tensor>,
        spec: &AttentionSpec,
    ) -> Result<Self::Tensor, EngineError>;
    /// dq, dk, dv. `saved`: q, k, v, y and the log-sum-exp.
    fn attention_backward(
        &self,
        dy: &Self::Tensor,
        saved: [&Self::Tensor; 5],
        documents: Option<&[u32]>,
        spec: &AttentionSpec,
    ) -> Result<[Self::Tensor; 3], EngineError>;

    /// dsinks (f32, one row of `heads`). `saved`: y and the log-sum-exp.
    fn attention_sinks_backward(
        &self,
        dy: &Self::Tensor,
        saved: [&Self::Tensor; 2],
        sinks: &Self::Tensor,
        spec: &AttentionSpec,
    ) -> Result<Self::Tensor, EngineError>;

    fn activation(&self, x: &Self::Tensor, of: Activation) -> Result<Self::Tensor, EngineError>;
    /// dx = dy act'(x).
    fn activation_backward(
        &self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        of: Activation,
    ) -> Result<Self::Tensor, EngineError>;
    fn gated(&self, gate: &Self::Tensor, up: &Self::Tensor, of: Gate) -> Result<Self::Tensor, EngineError>;
    /// dgate and dup.
    fn gated_backward(
        &self,
        dy: &Self::Tensor,
        gate: &Self::Tensor,
        up: &Self::Tensor,
        of: Gate,
    ) -> Result<(Self::Tensor, Self::Tensor), EngineError>;
    /// cap tanh(x / cap).
    fn softcap(&self, x: &Self::Tensor, cap: f64) -> Result<Self::Tensor, EngineError>;
    /// dx = dy (1 - (y / cap)^2).
    fn softcap_backward(&self, dy: Self::Tensor, y: &Self::Tensor, cap: f64) -> Result<Self::Tensor, EngineError>;
    fn softmax(&self, x: &Self::Tensor) -> Result<Self::Tensor, EngineError>;
    /// dx = y (dy - sum(y dy)).
    fn softmax_backward(&self, dy: &Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor, EngineError>;
    /// x mask / (1 - p), the mask being a function of the seed, the row and the column alone.
    fn dropout(&self, x: &Self::Tensor, of: &Dropout) -> Result<Self::Tensor, EngineError>;

    /// A plugin's op: its outputs, and what its plan saves of its own. `inputs`: the node's, then its parameters.
    #[expect(clippy::type_complexity, reason = "two lists of tensors")]
    fn plugin_forward(
        &self,
        call: &PluginCall,
        inputs: &[Self::Tensor],
        run: PluginRun,
    ) -> Result<(Vec<Self::Tensor>, Vec<Self::Tensor>), EngineError>;
    /// The gradients of those inputs that are wanted. `saved`: the plan's, then the inputs and outputs that are saved as they
    /// are.
    fn plugin_backward(
        &self,
        call: &PluginCall,
        dys: &[Self::Tensor],
        saved: &[Self::Tensor],
        wants: &[bool],
        run: PluginRun,
    ) -> Result<Vec<Option<Self::Tensor>>, EngineError>;
    /// The outputs that the plan says can be made again, in its order.
    fn plugin_rematerialize(
        &self,
        call: &PluginCall,
        saved: &[Self::Tensor],
        run: PluginRun,
    ) -> Result<Vec<Self::Tensor>, EngineError>;

    /// -log softmax(logits)\[target\], summed over the rows whose target is not [`IGNORED`], and the logits' gradient of
    /// that sum times `scale`, in their memory where the handle is the only one.
    fn cross_entropy(
        &self,
        logits: Self::Tensor,
        targets: &[i64],
        scale: f64,
    ) -> Result<(CrossEntropy, Self::Tensor), EngineError>;
    /// The same sum, without a gradient.
    fn cross_entropy_value(&self, logits: &Self::Tensor, targets: &[i64]) -> Result<CrossEntropy, EngineError>;

    /// The tape is about to run a node.
    fn entering(&self, _place: Place) {}
    /// The tape holds the tensor beyond the node that made it.
    fn holds(&self, _x: &Self::Tensor, _held: Held) {}
    /// Whether tensors have no elements, so that a stretch of rows that is like the one before need not be run.
    fn only_counts(&self) -> bool {
        false
    }
}
