//! What no tracked file may hold: a path of the machine it was written on, a conflict marker, a compiled leftover.

use std::fs;
use std::process::Command;

use unswag_tests::workspace_root;

/// Pieces are joined here so that this file does not find itself.
const BANNED: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("<<<<", "<<< "),
    concat!(">>>>", ">>> "),
];

/// Tracked files, or `None` outside a git checkout (a source archive).
fn tracked_files() -> Option<Vec<String>> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(workspace_root()).output().ok()?;
    let names = String::from_utf8(output.stdout).expect("tracked names are UTF-8");
    output.status.success().then(|| names.split_terminator('\0').map(str::to_owned).collect())
}

#[test]
fn no_tracked_file_names_a_machine() {
    let Some(files) = tracked_files() else { return };
    let mut found = Vec::new();
    for name in files {
        // A file that was just removed is still listed; what is not text holds no path of ours.
        let Ok(text) = fs::read_to_string(workspace_root().join(&name)) else { continue };
        for (index, line) in text.lines().enumerate() {
            found.extend(
                BANNED.iter().filter(|word| line.contains(**word)).map(|word| format!("{name}:{}: {word}", index + 1)),
            );
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn no_large_or_compiled_file_is_tracked() {
    let Some(files) = tracked_files() else { return };
    for name in files {
        let Ok(meta) = fs::metadata(workspace_root().join(&name)) else { continue };
        assert!(meta.len() < 1 << 20, "{name}: {} bytes; data belongs into the cache folder", meta.len());
        let is_compiled = [".pyc", ".so", ".o", ".rlib"].iter().any(|end| name.ends_with(end));
        assert!(!is_compiled, "{name}: is compiled from something that should be tracked instead");
    }
}
