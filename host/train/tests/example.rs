//! The example of the API does what it says.

#[path = "../examples/finetune.rs"]
mod finetune;

use std::fs;

use tempfile::TempDir;
use unswag_tests::{Family, Tiny};

#[test]
fn the_example_lowers_the_loss() {
    let temp = TempDir::new().expect("a folder");
    let [model, text, output] = ["model", "text.txt", "run"].map(|name| temp.path().join(name));
    Tiny::new(Family::Llama).write(&model);
    let lines: String = (0..60).map(|line| format!("{line} men went to mow, went to mow a meadow.\n")).collect();
    fs::write(&text, lines).expect("written");
    let [before, after] = finetune::finetune(&model, text.to_str().expect("UTF-8"), &output).expect("trained");
    assert!(after < 0.9 * before, "{before}, then {after}");
}
