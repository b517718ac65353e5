/// Why a program could not be made or run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{path}: the engine does not run {kind} yet; {why}")]
    Unsupported { path: String, kind: String, why: String },
    #[error(transparent)]
    Invalid(#[from] unswag_graph::GraphError),
    #[error("{path}: {what}: expected {expected}, got {got}; the graph is damaged")]
    Graph { path: String, what: String, expected: String, got: String },
    #[error("the batch: {what}: expected {expected}, got {got}")]
    Batch { what: &'static str, expected: String, got: String },
    #[error("LoRA: no linear layer matches {targets}; the model has {known}")]
    NoTarget { targets: String, known: String },
    #[error(
        "4-bit: {name} is to be trained, and a quantised weight has no gradient; train adapters on it, or load it plain"
    )]
    TrainsQuantized { name: String },
    #[error("4-bit: the model has no linear layer but its head, so that there is nothing to quantise; load it plain")]
    NothingToQuantize,
    #[error(
        "a step of {batch} x {seq} tokens does not fit the memory budget of {}: the least that it takes is {} ({least_bytes} bytes); \
         give it that, or fewer tokens",
        size(*budget_bytes), size(*least_bytes)
    )]
    Budget { batch: u64, seq: u64, budget_bytes: u64, least_bytes: u64 },
    #[error(
        "a block is to be offloaded and there is nowhere to offload to; run the step with a store, or choose another policy"
    )]
    NoStore,
    #[error("the store does not have tensor {key}: it was never put there, or was taken already")]
    NotStored { key: usize },
    #[error("{path}: {kind} is a plugin's op, and no plugin is open that has it")]
    NoPlugin { path: String, kind: String },
    #[error("{path}: {kind}: {message}")]
    Plugin { path: String, kind: String, message: String },
    /// The store's own words: a full disk.
    #[error(transparent)]
    Store(Box<dyn std::error::Error + Send + Sync>),
    /// The backend's own words: out of memory, an operation that it lacks.
    #[error("{0}")]
    Backend(String),
}

/// Rounded up, so that what is asked for is enough.
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..0x10_0000 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::EngineError;

    #[test]
    fn a_small_budget_is_said_as_it_was_given() {
        let said = |budget_bytes| {
            EngineError::Budget { batch: 1, seq: 64, budget_bytes, least_bytes: (3 << 20) + 1 }.to_string()
        };
        for (bytes, shown) in [(400, "of 400 bytes:"), (1536, "of 2 KiB:"), (2 << 20, "of 2 MiB:")] {
            assert!(said(bytes).contains(shown), "{}", said(bytes));
            assert!(said(bytes).contains("is 4 MiB (3145729 bytes)"), "{}", said(bytes));
        }
    }
}
