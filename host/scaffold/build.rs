//! Embeds the template and the SDK's and ABI's sources, so that `unswag plugin new` works where this repository is not.
//!
//! Input: the three folders under `plugins/`. Only what a build of them needs is taken.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// Folder under `plugins/`, name of the list, and what to take of it.
const FOLDERS: [(&str, &str, &[&str]); 3] = [
    ("template", "TEMPLATE", &["Cargo.toml", "Cargo.lock", "README.md", ".gitignore", "src", "tests"]),
    ("sdk", "SDK", &["Cargo.toml", "src", "samples", "benches"]),
    ("abi", "ABI", &["Cargo.toml", "src"]),
];

fn main() -> io::Result<()> {
    let plugins = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../plugins");
    let plugins = plugins.canonicalize()?;
    let mut code = String::new();
    for (folder, list, parts) in FOLDERS {
        let root = plugins.join(folder);
        let mut files = Vec::new();
        for part in parts {
            let path = root.join(part);
            println!("cargo::rerun-if-changed={}", path.display());
            if path.exists() {
                collect(&path, &mut files)?;
            }
        }
        files.sort();
        code += &format!("pub static {list}: &[(&str, &str)] = &[\n");
        for file in files {
            let name = file.strip_prefix(&root).expect("found under it").to_str().expect("our own names are UTF-8");
            code += &format!(
                "    ({name:?}, include_str!({:?})),\n",
                file.to_str().expect("a path that rustc can be given")
            );
        }
        code += "];\n";
    }
    fs::write(PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("files.rs"), code)
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    println!("cargo::rerun-if-changed={}", path.display());
    for entry in fs::read_dir(path)? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}
