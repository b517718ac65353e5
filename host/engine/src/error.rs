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
        "a step of {batch} x {seq} tokens does not fit {}: the least that it takes is {} ({least_bytes} bytes); \
         give it that, or fewer tokens",
        mib(*budget_bytes), mib(*least_bytes)
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
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
