//! What the tests of this crate share: the tokenizer and the texts that `make test` lays down.
#![allow(dead_code)] // each test file uses a part

use std::{path::Path, sync::Arc};

use unswag_data::{DataLoader, Row, Tokenizer};
use unswag_tests::{cached, smollm2 as smollm2_folder};

pub fn smollm2() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::load(&smollm2_folder()).unwrap())
}

/// The path of one of Shakespeare's works.
pub fn work(name: &str) -> String {
    text(&cached("shakespeare", &format!("data/shakespeare/{name}_gut.txt")))
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
