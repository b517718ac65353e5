//! Finds what makes up a checkpoint: the weight files, and the files beside them that a copy of the model must carry.
//!
//! A folder may come from anyone, so a symbolic link in it counts only where it stays in the folder or leads into the
//! `blobs` of a Hugging Face cache; otherwise copying the model would copy a stranger's choice of the user's files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, IndexFault},
    index::Index,
    text::Quoted,
};

/// A file that belongs to the model and is no weight file: the tokenizer, the licence, ….
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideFile {
    pub name: String,
    /// Where its bytes are, symbolic links resolved.
    pub path: PathBuf,
    pub bytes: u64,
}

/// A file beside the model that a copy leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    pub name: String,
    pub reason: SkipReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkipReason {
    /// Weights in another format, or of another model: a copy would carry them unchanged beside changed ones.
    OtherWeights,
    Folder,
    Hidden,
    /// A link out of the folder, or to nothing.
    StrayLink,
    /// A name that is not UTF-8, or holds control characters.
    Name,
    /// Not a regular file.
    Special,
    /// The system does not let it be looked at.
    Unreadable,
    /// The record of an earlier surgery, which the next one writes anew.
    Record,
}

impl std::fmt::Display for SkipReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SkipReason::OtherWeights => "weights in another format or of another model",
            SkipReason::Folder => "a folder",
            SkipReason::Hidden => "hidden",
            SkipReason::StrayLink => "a link out of the folder or to nothing",
            SkipReason::Name => "an unusable name",
            SkipReason::Special => "not a regular file",
            SkipReason::Unreadable => "unreadable",
            SkipReason::Record => "the record of an earlier surgery",
        })
    }
}

/// What [`find`] found.
pub(crate) struct Layout {
    /// The folder, or the folder of the file that was given.
    pub root: PathBuf,
    /// Name and resolved path of each weight file, in order.
    pub weights: Vec<(String, PathBuf)>,
    pub index: Option<(PathBuf, Index)>,
    pub config: Option<PathBuf>,
    pub side_files: Vec<SideFile>,
    pub skipped: Vec<Skipped>,
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The record that surgery writes beside the weights.
pub const RECORD: &str = "unswag.yaml";

/// Endings of other weight formats and of training state.
const OTHER_WEIGHTS: [&str; 15] = [
    "safetensors",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "pkl",
    "pickle",
    "gguf",
    "ggml",
    "h5",
    "msgpack",
    "onnx",
    "onnx_data",
    "tflite",
    "mlmodel",
];

pub(crate) fn find(path: &Path) -> Result<Layout, Error> {
    let metadata = fs::metadata(path).map_err(|source| Error::io(path, "look at it", source))?;
    if metadata.is_dir() { find_in_folder(path) } else { find_file(path) }
}

/// One file was named: it may be a link to anywhere, and of the files beside it only the well-known ones are its own.
fn find_file(path: &Path) -> Result<Layout, Error> {
    let resolved = fs::canonicalize(path).map_err(|source| Error::io(path, "resolve it", source))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let root = fs::canonicalize(&parent).map_err(|source| Error::io(&parent, "resolve it", source))?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.ends_with(".safetensors.index.json") {
        return finish(root, Weights::Index(name), is_model_file);
    }
    // A link's own folder has the config in a Hugging Face cache; the file's own folder, where a user made the link.
    let beside_target = resolved.parent().map(Path::to_owned);
    let mut layout = finish(root, Weights::Files(vec![(name, resolved)]), is_model_file)?;
    if layout.config.is_none() {
        layout.config = beside_target.and_then(|folder| crate::config::beside(&folder));
    }
    Ok(layout)
}

fn find_in_folder(path: &Path) -> Result<Layout, Error> {
    let root = fs::canonicalize(path).map_err(|source| Error::io(path, "resolve it", source))?;
    let names = names_in(&root)?;
    let has = |name: &str| names.iter().any(|found| found == name);
    // The order in which transformers looks.
    if has(SINGLE) {
        let resolved = resolve_inside(&root, SINGLE)?;
        return finish(root, Weights::Files(vec![(SINGLE.to_owned(), resolved)]), |_| true);
    }
    if has(INDEX) {
        return finish(root, Weights::Index(INDEX.to_owned()), |_| true);
    }
    let with_ending = |ending: &str| -> Vec<String> {
        names.iter().filter(|name| name.ends_with(ending) && !name.starts_with('.')).cloned().collect()
    };
    let indices = with_ending(".safetensors.index.json");
    if let [index] = indices.as_slice() {
        return finish(root, Weights::Index(index.clone()), |_| true);
    }
    let mut files = with_ending(".safetensors");
    files.retain(|name| !name.starts_with("adapter_"));
    match files.as_slice() {
        [] => Err(Error::NoModel { hint: hint(&root, &names), path: root }),
        [file] => {
            let resolved = resolve_inside(&root, file)?;
            finish(root, Weights::Files(vec![(file.clone(), resolved)]), |_| true)
        }
        _ => {
            files.sort();
            files.truncate(8);
            Err(Error::Ambiguous {
                path: root,
                found: files.iter().map(|name| Quoted::new(name).to_string()).collect(),
            })
        }
    }
}

enum Weights {
    Files(Vec<(String, PathBuf)>),
    Index(String),
}

fn finish(root: PathBuf, weights: Weights, carried: impl Fn(&str) -> bool) -> Result<Layout, Error> {
    let (weights, index) = match weights {
        Weights::Files(files) => (files, None),
        Weights::Index(name) => {
            let path = resolve_inside(&root, &name)?;
            let index = Index::read(&path)?;
            let fault = |fault| Error::Index { path: root.join(&name), fault };
            let mut files = Vec::new();
            for file in index.files().map_err(fault)? {
                let resolved = match resolve_inside(&root, &file) {
                    Err(Error::Missing { .. }) => {
                        return Err(fault(IndexFault::MissingShard { file: Quoted::new(&file) }));
                    }
                    resolved => resolved?,
                };
                files.push((file, resolved));
            }
            (files, Some((root.join(&name), index)))
        }
    };
    let config = match fs::symlink_metadata(root.join("config.json")) {
        Ok(_) => Some(resolve_inside(&root, "config.json")?),
        Err(_) => None,
    };
    let mut layout = Layout { root, weights, index, config, side_files: Vec::new(), skipped: Vec::new() };
    layout.sort_the_rest(carried)?;
    Ok(layout)
}

impl Layout {
    /// Sorts every other entry of the folder into what a copy carries and what it leaves.
    fn sort_the_rest(&mut self, carried: impl Fn(&str) -> bool) -> Result<(), Error> {
        let entries = fs::read_dir(&self.root).map_err(|source| Error::io(&self.root, "list it", source))?;
        for entry in entries {
            let entry = entry.map_err(|source| Error::io(&self.root, "list it", source))?;
            let name = match entry.file_name().into_string() {
                Ok(name) if !name.chars().any(crate::text::is_invisible) => name,
                Ok(name) => {
                    self.skipped.push(Skipped { name, reason: SkipReason::Name });
                    continue;
                }
                Err(name) => {
                    let name = name.to_string_lossy().into_owned();
                    self.skipped.push(Skipped { name, reason: SkipReason::Name });
                    continue;
                }
            };
            let is_own = name == "config.json"
                || self.weights.iter().any(|(weight, _)| *weight == name)
                || self.index.as_ref().is_some_and(|(path, _)| path.file_name() == Some(name.as_ref()));
            if is_own {
                continue;
            }
            // Beside a single file stands whatever its folder holds: not this model's, and not worth a word.
            if !carried(&name) {
                continue;
            }
            match self.judge(&name) {
                Ok(side_file) => self.side_files.push(side_file),
                Err(reason) => self.skipped.push(Skipped { name, reason }),
            }
        }
        self.side_files.sort_by(|a, b| a.name.cmp(&b.name));
        self.skipped.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(())
    }

    fn judge(&self, name: &str) -> Result<SideFile, SkipReason> {
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
        if name.starts_with('.') {
            return Err(SkipReason::Hidden);
        }
        if name == RECORD {
            return Err(SkipReason::Record);
        }
        // `pytorch_model.bin.index.json` and its like describe weights that the copy does not carry.
        if OTHER_WEIGHTS.contains(&ending.as_str()) || name.ends_with(".index.json") {
            return Err(SkipReason::OtherWeights);
        }
        let path = resolve_inside(&self.root, name).map_err(|error| match error {
            Error::Escapes { .. } | Error::Missing { .. } => SkipReason::StrayLink,
            _ => SkipReason::Unreadable,
        })?;
        let metadata = fs::metadata(&path).map_err(|_| SkipReason::Unreadable)?;
        if metadata.is_dir() {
            Err(SkipReason::Folder)
        } else if metadata.is_file() {
            Ok(SideFile { name: name.to_owned(), path, bytes: metadata.len() })
        } else {
            Err(SkipReason::Special)
        }
    }
}

/// Files that belong to a model even where only its weight file was named.
fn is_model_file(name: &str) -> bool {
    const NAMES: [&str; 12] = [
        "added_tokens.json",
        "generation_config.json",
        "merges.txt",
        "preprocessor_config.json",
        "processor_config.json",
        "sentencepiece.bpe.model",
        "special_tokens_map.json",
        "spiece.model",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.txt",
    ];
    const STARTS: [&str; 7] = ["tokenizer", "vocab", "chat_template", "LICENSE", "NOTICE", "USE_POLICY", "README"];
    NAMES.contains(&name) || STARTS.iter().any(|start| name.starts_with(start))
}

/// The real path of `name` in `root`.
///
/// # Errors
/// It leads out of the folder other than into a Hugging Face cache's blobs.
fn resolve_inside(root: &Path, name: &str) -> Result<PathBuf, Error> {
    let path = root.join(name);
    let target = fs::canonicalize(&path).map_err(|source| Error::io(&path, "resolve it", source))?;
    if target.starts_with(root) || is_cache_blob(root, &target) {
        return Ok(target);
    }
    Err(Error::Escapes { root: root.to_owned(), name: name.to_owned(), target })
}

/// `hub/models--org--name/snapshots/REVISION/FILE -> hub/models--org--name/blobs/HASH`; a local folder that
/// `huggingface_hub` filled with links points into the same `blobs`.
fn is_cache_blob(root: &Path, target: &Path) -> bool {
    let Some(blobs) = target.parent().filter(|parent| parent.ends_with("blobs")) else { return false };
    let Some(repository) = blobs.parent() else { return false };
    let named_as_cache = repository.file_name().is_some_and(|name| name.to_string_lossy().starts_with("models--"));
    named_as_cache || root.parent() == Some(&repository.join("snapshots"))
}

fn names_in(folder: &Path) -> Result<Vec<String>, Error> {
    let list = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    };
    list().map_err(|source| Error::io(folder, "list it", source))
}

/// What to say to someone whose folder has something else.
fn hint(root: &Path, names: &[String]) -> String {
    let first = |ending: &str| names.iter().find(|name| name.ends_with(ending));
    if let Some(name) = first(".gguf") {
        return format!(
            ". It has {}: turn it into a folder first with `unswag import FILE.gguf -o DIR`",
            Quoted::new(name)
        );
    }
    if let Some(name) = first(".bin").or_else(|| first(".pt")).or_else(|| first(".pth")) {
        return format!(
            ". It has {}, which may be a pickle and is not read: save the model again with \
             `save_pretrained(..., safe_serialization=True)`",
            Quoted::new(name)
        );
    }
    if let Some(name) = first(".safetensors") {
        return format!(". It has {}, an adapter: give the folder of the model it belongs to", Quoted::new(name));
    }
    // The folder of a Hugging Face cache above its snapshots.
    if let Some(revision) = names_in(&root.join("snapshots")).unwrap_or_default().first() {
        return format!(". It is a Hugging Face cache: give {}", root.join("snapshots").join(revision).display());
    }
    String::from("; check the path")
}
