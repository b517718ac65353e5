//! What a step does, told to a backend that counts: where the tape stands, and what it holds on to.
//!
//! A backend that runs ignores it. [`crate::Meta`] makes a plan of it: bytes alive at every node, who holds them at the peak,
//! and the work that each node takes.

use std::ops::AddAssign;

use serde::Serialize;

/// Which way the tape goes over a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    Forward,
    /// Forward again, because nothing of it was kept.
    Recompute,
    Backward,
}

/// A node that the tape is about to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    pub pass: Pass,
    /// Position of the segment: what stands before the blocks, each block, what stands after them, and last the head.
    pub segment: usize,
    /// Position of the node in the program.
    pub node: usize,
    /// Stretches of rows that this run stands for, where a backend only counts.
    pub times: u64,
}

/// Why a tensor is held beyond the node that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    FrozenParameter,
    TrainableParameter,
    /// State of the optimizer, and whatever else lives beside the steps.
    Optimizer,
    Gradient,
    /// By a segment's nodes, for their backward.
    Saved {
        segment: usize,
    },
    /// By a segment that is computed again.
    Input {
        segment: usize,
    },
}

/// What something costs, in units that no machine changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Work {
    /// Two for each multiplication and addition of a matrix product.
    pub matmul_flops: f64,
    /// The same, of the products inside attention.
    pub attention_flops: f64,
    /// Bytes that element-wise operations read and write.
    pub moved_bytes: f64,
    /// Bytes written to, and read from, where tensors are offloaded to.
    pub offload_bytes: f64,
}

impl Work {
    pub(crate) fn times(self, times: u64) -> Work {
        let times = times as f64;
        Work {
            matmul_flops: self.matmul_flops * times,
            attention_flops: self.attention_flops * times,
            moved_bytes: self.moved_bytes * times,
            offload_bytes: self.offload_bytes * times,
        }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.matmul_flops += other.matmul_flops;
        self.attention_flops += other.attention_flops;
        self.moved_bytes += other.moved_bytes;
        self.offload_bytes += other.offload_bytes;
    }
}

/// One node's run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    #[serde(flatten)]
    pub place: Place,
    /// Alive when it began.
    pub live_bytes: u64,
    /// The most that was alive until the next one began.
    pub peak_bytes: u64,
    /// Of all the stretches that it stands for.
    pub work: Work,
}
