//! The tests' Python half, run in the environment that `make venv` lays down.

use unswag_tests::{Base, Family, Run, Tiny, python};

#[test]
fn one_flipped_weight_bit_is_found_by_transformers() {
    let dir = tempfile::tempdir().unwrap();
    Tiny::new(Family::Llama).write(dir.path());
    let base = Base::guard(dir.path());
    python("peers/same_logits.py").arg("--self-test").arg(base.path()).outcome().ok();
}
