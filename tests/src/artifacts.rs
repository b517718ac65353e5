//! The program and the plugins that belong to the running test: built with its profile, in its target folder, up to date.
//!
//! `cargo test` does not promise that another package's binary is there, and an old one would test yesterday's code. So
//! each is checked against the list of sources that cargo wrote beside it, and built by cargo where it is missing or stale.
//! The check costs a few hundred `stat` calls; asking cargo itself takes half a second in every test process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;
use std::{env, fs};

/// The repository's root folder.
pub fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests' package lies in a folder of the workspace")
}

/// The built `unswag`.
pub fn unswag() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| up_to_date("unswag", "unswag"))
}

/// The built `unswag-torch`, which `unswag` becomes to train; it lies beside it.
pub fn unswag_torch() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| up_to_date("unswag-torch-cli", "unswag-torch"))
}

/// The built library of the plugin package `unswag-NAME`.
pub fn plugin(name: &str) -> PathBuf {
    up_to_date(&format!("unswag-{name}"), &format!("libunswag_{}.so", name.replace('-', "_")))
}

/// `target/<profile>`, from where this test runs: `target/<profile>/deps/e2e-<hash>`.
fn profile_dir() -> PathBuf {
    let test = env::current_exe().expect("a running test has a path");
    let deps = test.parent().expect("an executable lies in a folder");
    match deps.file_name() {
        Some(name) if name == "deps" => deps.parent().expect("deps lies in a profile's folder").to_owned(),
        _ => deps.to_owned(),
    }
}

fn up_to_date(package: &str, file: &str) -> PathBuf {
    let dir = profile_dir();
    let artifact = dir.join(file);
    if !is_fresh(&artifact) {
        build(package, &dir);
    }
    assert!(artifact.is_file(), "{}: cargo built package {package}, and the file is not there", artifact.display());
    artifact
}

fn build(package: &str, dir: &Path) {
    let folder = dir.file_name().and_then(|name| name.to_str()).expect("a profile's folder has a name");
    // The `dev` profile is the one whose folder has another name.
    let profile = if folder == "debug" { "dev" } else { folder };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", package, "--profile", profile])
        .arg("--target-dir")
        .arg(dir.parent().expect("a profile's folder lies in the target folder"))
        .current_dir(workspace_root())
        .status()
        .expect("cargo can be started");
    assert!(status.success(), "cargo build --package {package} --profile {profile}: {status}");
}

/// Whether every source in cargo's list, and every manifest, is older than the artifact.
fn is_fresh(artifact: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let Some(built) = modified(artifact) else { return false };
    let Ok(list) = fs::read_to_string(artifact.with_extension("d")) else { return false };
    let Some((_, sources)) = list.split_once(": ") else { return false };
    // Make's syntax: separated by spaces, and a space in a path is escaped.
    let sources: Vec<PathBuf> =
        sources.replace("\\ ", "\0").split_whitespace().map(|path| path.replace('\0', " ").into()).collect();
    let is_older = |path: &Path| modified(path).is_some_and(|time: SystemTime| time <= built);
    sources.iter().all(|path| is_older(path))
        && is_older(&workspace_root().join("Cargo.lock"))
        && is_older(&workspace_root().join("Cargo.toml"))
}
