//! What `scripts/fetch` laid into the cache folder. Nothing here fetches: a test must not depend on the network.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use crate::artifacts::workspace_root;

/// The cache folder: `UNSWAG_CACHE`, else `.cache` in the repository.
pub fn cache_dir() -> PathBuf {
    match env::var_os("UNSWAG_CACHE") {
        Some(dir) if !dir.is_empty() => workspace_root().join(dir),
        _ => workspace_root().join(".cache"),
    }
}

/// A file of the cache folder.
///
/// # Panics
/// Where it is missing, with the command that fetches `asset`.
pub fn cached(asset: &str, path: &str) -> PathBuf {
    let found = cache_dir().join(path);
    assert!(found.exists(), "{}: not there; run `scripts/fetch {asset}`", found.display());
    found
}

/// SmolLM2-135M-Instruct as GGUF (Q4_1, 98 MB).
pub fn smollm2_gguf() -> PathBuf {
    cached("smollm2", "models/SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// SmolLM2-135M-Instruct in bf16, as `unswag import` makes it from that file.
///
/// # Panics
/// Where it is missing, with the command that makes it.
pub fn smollm2() -> PathBuf {
    let folder = cache_dir().join("models/SmolLM2-135M-Instruct");
    assert!(folder.exists(), "{}: not there; run `make test`, which makes it", folder.display());
    folder
}

/// A command that runs a script of `tests/` in the Python environment: `python("peers/same_logits.py")`.
///
/// # Panics
/// Where the environment is missing.
pub fn python(script: &str) -> Command {
    let interpreter = cache_dir().join("venv/bin/python");
    assert!(interpreter.exists(), "{}: no Python environment; run `make venv`", interpreter.display());
    let script = workspace_root().join("tests").join(script);
    assert!(script.is_file(), "{}: no such script", script.display());
    let mut command = Command::new(interpreter);
    // -I: neither the user's packages nor the current folder's modules; -B: no compiled files in the repository.
    command.arg("-IB").arg(script).env("HF_HUB_OFFLINE", "1").env("OMP_NUM_THREADS", "2");
    command
}
