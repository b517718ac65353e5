//! What the tests of this crate share: the tokenizer and the texts that `make test` lays down.
#![allow(dead_code)] // each test file uses a part

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use unswag_data::{DataLoader, Row, Tokenizer};

pub fn repository() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    path.canonicalize().expect("the crate lies two folders below the repository")
}

#[track_caller]
pub fn cached(relative: &str) -> PathBuf {
    let cache = std::env::var_os("UNSWAG_CACHE").map_or_else(|| repository().join(".cache"), PathBuf::from);
    let path = cache.join(relative);
    assert!(path.exists(), "{} is missing; run `make test`, which lays it down", path.display());
    path
}

pub fn smollm2_folder() -> PathBuf {
    cached("models/SmolLM2-135M-Instruct")
}

pub fn smollm2() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::load(&smollm2_folder()).unwrap())
}

/// The path of one of Shakespeare's works.
pub fn work(name: &str) -> String {
    text(&cached(&format!("data/shakespeare/{name}_gut.txt")))
}

pub fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// Every row of the running epoch.
pub fn all_rows(loader: &mut impl DataLoader) -> Vec<Row> {
    let mut rows = Vec::new();
    while let Some(row) = loader.next_row().unwrap() {
        rows.push(row);
    }
    rows
}

/// The whole chain of an error's causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        said.push_str(&format!(": {error}"));
        cause = error.source();
    }
    said
}
