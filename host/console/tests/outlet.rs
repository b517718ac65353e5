//! Text leaves through one module: what writes beside it could write what a file holds, raw.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Ways to write to a terminal.
const WAYS: [&str; 8] =
    ["println!(", "print!(", "stdout()", "stderr()", "/dev/tty", "anstream::", "anstyle::", "dbg!("];

#[test]
fn commands_write_through_the_terminal_module_alone() {
    let host = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut read = 0;
    for source in ["console/src", "cli/src", "torch-cli/src"].iter().flat_map(|folder| sources(&host.join(folder))) {
        let path = source.to_string_lossy().into_owned();
        if path.contains("console/src/term") {
            continue;
        }
        read += 1;
        for (number, line) in fs::read_to_string(&source).expect("readable").lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let found = WAYS.iter().find(|way| code.contains(**way));
            assert_eq!(found, None, "{path}:{}: use unswag_console::term: {line}", number + 1);
        }
    }
    assert!(read > 30, "only {read} files were read");
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).expect("a folder of the repository").map(|entry| entry.expect("an entry").path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let files = files.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "rs"));
    files.chain(folders.iter().flat_map(|folder| sources(folder))).collect()
}
