//! How this crate learns what a plugin's op makes of a call, without knowing plugins.

use unswag_abi::doc::{OpCall, OpPlan};

/// What can plan plugin ops: a loaded plugin, a record of earlier answers, a test.
pub trait Ops {
    /// The plan of one call, or why there is none, in a sentence for the user.
    ///
    /// # Errors
    /// An op that the provider does not have, or a call that the op refuses.
    fn plan(&self, call: &OpCall) -> Result<OpPlan, String>;
}

/// Knows no op: for graphs and patches in host primitives alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoOps;

impl Ops for NoOps {
    fn plan(&self, call: &OpCall) -> Result<OpPlan, String> {
        Err(format!("no plugin that has the op {} is loaded", call.kind))
    }
}
