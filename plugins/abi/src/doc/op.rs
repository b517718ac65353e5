//! What an op is asked, and what it answers, before anything runs.

use serde::{Deserialize, Serialize};

use super::{Attrs, Dtype};

/// Element type and sizes of one tensor of one call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Meta {
    pub dtype: Dtype,
    pub shape: Vec<u64>,
}

impl Meta {
    /// Number of elements, or `None` where it does not fit 64 bits.
    pub fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size))
    }

    /// Number of bytes, or `None` where it does not fit 64 bits.
    pub fn bytes(&self) -> Option<u64> {
        self.elements()?.checked_mul(self.dtype.bytes())
    }
}

/// One use of an op: its kind, its inputs (parameters come last, in the order of the node's roles) and its attributes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpCall {
    pub kind: String,
    pub inputs: Vec<Meta>,
    #[serde(default)]
    pub attrs: Attrs,
}

/// What the call makes and keeps. Exact: the host allocates this and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpPlan {
    pub outputs: Vec<Meta>,
    /// Tensors that the forward fills for the backward.
    #[serde(default)]
    pub saved: Vec<Meta>,
    /// Inputs kept as they are, by index; the backward finds them after `saved`.
    #[serde(default)]
    pub saves_inputs: Vec<usize>,
    /// Outputs kept as they are, by index; the backward finds them after those.
    #[serde(default)]
    pub saves_outputs: Vec<usize>,
    /// Outputs that `Kernel::rematerialize` makes again from what is saved, so consumers need not save them.
    #[serde(default)]
    pub rematerializes: Vec<usize>,
    /// Whether what `rematerialize` makes equals the forward's output bit for bit.
    #[serde(default)]
    pub rematerializes_exactly: bool,
    #[serde(default)]
    pub scratch_bytes: u64,
    /// Attributes whose value changes during training, in the order of `Launch::scalars`.
    #[serde(default)]
    pub scalars: Vec<String>,
    #[serde(default)]
    pub flops_forward: u64,
    #[serde(default)]
    pub flops_backward: u64,
}

/// What a kernel is built for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    pub device: Device,
    /// `avx2`, `avx512f`, … on a CPU; `sm_90a` on CUDA; `v5e` on a TPU.
    #[serde(default)]
    pub features: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    Cpu,
    Cuda,
    Tpu,
}

/// One call of `Protocol::transform`: the inputs' and outputs' types; the data come beside it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TransformJob {
    pub job: String,
    pub inputs: Vec<Meta>,
    pub outputs: Vec<Meta>,
    #[serde(default)]
    pub attrs: Attrs,
}
