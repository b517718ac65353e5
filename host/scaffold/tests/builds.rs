//! A crate fresh from the scaffold builds and passes its own tests, outside this repository, with no edit.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use unswag_scaffold::new_plugin;

/// One for all names and runs: the dependencies are then compiled once.
fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/scaffold-target")
}

/// Held by one test at a time: each cleans up packages that the other is using. The tests may be processes of their own.
fn alone() -> File {
    std::fs::create_dir_all(target_dir()).expect("the target folder can be made");
    let lock = File::create(target_dir().join("tests.lock")).expect("a file can be made in it");
    lock.lock().expect("a file can be locked");
    lock
}

fn cargo(dir: &Path, args: &[&str]) {
    let output = Command::new(env!("CARGO"))
        .args(args)
        .current_dir(dir)
        .env("CARGO_TARGET_DIR", target_dir())
        // What the outer cargo sets for this test is not what an author's shell has.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .expect("cargo runs, since it runs this test");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "cargo {args:?}:\n{}\n{}", text(&output.stdout), text(&output.stderr));
}

/// Every run has another temporary folder, hence other artefacts of the crate and its vendored ones: they would pile up.
fn forget(dir: &Path, name: &str) {
    cargo(dir, &["clean", "--locked", "--package", name, "--package", "unswag-sdk", "--package", "unswag-abi"]);
}

#[test]
fn a_fresh_crate_builds_and_passes_its_tests_with_the_locked_versions() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    for (name, library) in [("my-first2-plugin", "libmy_first2_plugin.so"), ("zed_9", "libzed_9.so")] {
        let made = dir.path().join(name);
        new_plugin(name, &made).unwrap();
        cargo(&made, &["build", "--locked"]);
        cargo(&made, &["test", "--locked"]);
        assert!(target_dir().join("debug").join(library).is_file(), "the library that unswag loads is there");
        forget(&made, name);
    }
}

#[test]
fn a_fresh_crate_is_formatted_and_has_no_warnings() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("tidy");
    new_plugin("tidy", &made).unwrap();
    cargo(&made, &["fmt", "--check"]);
    cargo(&made, &["clippy", "--locked", "--all-targets", "--", "-D", "warnings"]);
    forget(&made, "tidy");
}
