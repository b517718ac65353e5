//! What `new_plugin` refuses, and that it then leaves nothing behind.

use std::fs;

use unswag_scaffold::{ScaffoldError, new_plugin};

#[test]
fn names_that_are_no_crate_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let long = "a".repeat(65);
    for name in
        ["", "My-plugin", "1st", "-a", "a b", "a/b", "../a", "é", "a.b", "fn", "core", "unswag-sdk", "self", &long]
    {
        let error = new_plugin(name, &dir.path().join("crate")).unwrap_err();
        assert!(matches!(error, ScaffoldError::Name { .. }), "{name:?}: {error}");
        assert!(error.to_string().contains("lower-case letters, digits, - and _"), "{error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_folder_that_holds_something_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let taken = dir.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("notes.txt"), "mine").unwrap();
    fs::write(dir.path().join("file"), "mine").unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
    for name in ["taken", "file", "dangling"] {
        let error = new_plugin(name, &dir.path().join(name)).unwrap_err();
        assert!(matches!(error, ScaffoldError::Exists { .. }), "{name}: {error}");
    }
    assert_eq!(fs::read_to_string(taken.join("notes.txt")).unwrap(), "mine");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn an_empty_folder_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let files = new_plugin("fresh", dir.path()).unwrap();
    assert!(files.iter().all(|file| dir.path().join(file).is_file()));
}

#[test]
fn no_placeholder_is_left_and_no_path_points_outside() {
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("plain");
    for file in new_plugin("plain", &made).unwrap() {
        let text = fs::read_to_string(made.join(&file)).unwrap();
        assert!(!text.contains("{{name") && !text.contains("{{ident"), "{} has a placeholder", file.display());
        if file.ends_with("Cargo.toml") {
            for rest in text.split("path = \"").skip(1) {
                let path = rest.split('"').next().unwrap();
                let target = made.join(file.parent().unwrap()).join(path);
                assert!(target.canonicalize().unwrap().starts_with(made.canonicalize().unwrap()), "{path}");
            }
        }
    }
}
