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
    /// The backend's own words: out of memory, an operation that it lacks.
    #[error("{0}")]
    Backend(String),
}
