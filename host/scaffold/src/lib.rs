//! Writes the crate that a plugin author starts from: the template, with the SDK and the ABI as they were when this
//! program was built, so that the crate builds anywhere with no edit.
//!
//! Input: a name from the command line. Must never write into a folder that holds anything, nor leave half a crate: all
//! is written under a temporary name beside the folder and renamed.

mod files {
    include!(concat!(env!("OUT_DIR"), "/files.rs"));
}

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Longer names make longer symbols and file names than some tools take.
const MAX_NAME_LEN: usize = 64;

/// Names that a crate cannot have, or that would hide one that every crate has.
const RESERVED: [&str; 57] = [
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc_macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "unswag_abi",
    "unswag_sdk",
    "use",
    "virtual",
    "where",
    "yield",
];

/// Why no crate was written. Nothing is left behind in either case.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScaffoldError {
    #[error(
        "plugin new: the name {name:?} {why}; a plugin's name is its crate's: a lower-case letter, then up to {} \
         lower-case letters, digits, - and _",
        MAX_NAME_LEN - 1
    )]
    Name { name: String, why: &'static str },
    #[error("plugin new: {} exists and is not an empty folder; choose another name, or move it away", dir.display())]
    Exists { dir: PathBuf },
    #[error("plugin new: {}: cannot {action}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// Writes the crate `name` as the folder `dir`, which must not exist or be empty. Gives the files, relative to `dir`.
///
/// # Errors
/// A name that is no crate name, a folder that holds something, or a failure to write.
pub fn new_plugin(name: &str, dir: &Path) -> Result<Vec<PathBuf>, ScaffoldError> {
    check_name(name)?;
    check_free(dir)?;
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(io_error("create the folder", parent))?;
    // The rename below needs one file system, hence a sibling; the prefix hides it from a listing.
    let temporary = tempfile::Builder::new().prefix(".unswag-new-").tempdir_in(parent);
    let temporary = temporary.map_err(io_error("create a folder in", parent))?;
    let made = temporary.path().join(name);
    let mut written = Vec::new();
    for (file, text) in contents(name) {
        let path = made.join(&file);
        let folder = path.parent().expect("a file in a folder");
        fs::create_dir_all(folder).map_err(io_error("create the folder", folder))?;
        fs::write(&path, text).map_err(io_error("write", &path))?;
        written.push(file);
    }
    // Replaces an empty folder; fails, changing nothing, where somebody put something there meanwhile.
    fs::rename(&made, dir).map_err(io_error("put the crate at", dir))?;
    Ok(written)
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ScaffoldError {
    let path = path.to_owned();
    move |source| ScaffoldError::Io { action, path, source }
}

fn check_name(name: &str) -> Result<(), ScaffoldError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let why = if name.is_empty() {
        "is empty"
    } else if name.len() > MAX_NAME_LEN {
        "is too long"
    } else if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        "does not start with a lower-case letter"
    } else if !name.chars().all(allowed) {
        "has a character that is not allowed"
    } else if RESERVED.contains(&identifier(name).as_str()) {
        "is reserved"
    } else {
        return Ok(());
    };
    Err(ScaffoldError::Name { name: name.to_owned(), why })
}

fn check_free(dir: &Path) -> Result<(), ScaffoldError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(ScaffoldError::Exists { dir: dir.to_owned() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(dir).is_err() => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(ScaffoldError::Exists { dir: dir.to_owned() })
        }
        Err(error) => Err(io_error("look into", dir)(error)),
    }
}

/// The name as Rust code spells it.
fn identifier(name: &str) -> String {
    name.replace('-', "_")
}

/// Every file of the crate, by its path in it.
fn contents(name: &str) -> Vec<(PathBuf, String)> {
    let mut contents = Vec::new();
    for (file, text) in files::TEMPLATE {
        let text = text.replace("{{name}}", name).replace("{{ident}}", &identifier(name));
        let text = if *file == "Cargo.lock" { in_cargos_order(&text) } else { text };
        contents.push((PathBuf::from(file), text));
    }
    for (folder, files) in [("vendor/unswag-sdk", files::SDK), ("vendor/unswag-abi", files::ABI)] {
        for (file, text) in files {
            // In the repository the two lie beside each other under shorter names.
            let text = if *file == "Cargo.toml" {
                text.replace("\"../abi\"", "\"../unswag-abi\"")
            } else {
                (*text).to_owned()
            };
            contents.push((Path::new(folder).join(file), text));
        }
    }
    contents
}

/// Cargo keeps a lock file's packages in the order of their names, and takes a file in another order for one to update.
fn in_cargos_order(lock: &str) -> String {
    let mut parts = lock.trim_end().split("\n\n[[package]]\n");
    let head = parts.next().unwrap_or_default();
    let mut packages = Vec::from_iter(parts);
    packages.sort_by_key(|package| package.lines().next());
    let mut sorted = head.to_owned();
    for package in packages {
        sorted += "\n\n[[package]]\n";
        sorted += package;
    }
    sorted + "\n"
}
