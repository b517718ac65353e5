//! What can be wrong with a checkpoint that is read: each error names the file, what was found, what was expected, and
//! what to do next. I/O errors carry the system's reason as their source.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    foreign::Foreign,
    header::HeaderError,
    text::{Quoted, human_bytes},
};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{}: cannot {action}", path.display())]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    #[error("{}: no such file or folder; {}", path.display(), next_step_without(path))]
    Missing { path: PathBuf },
    #[error("{}: expected a file or a folder, found a {found}", path.display())]
    NotAFile { path: PathBuf, found: &'static str },
    #[error("{}: this is {foreign}, expected safetensors; {}", path.display(), foreign.next_step())]
    Foreign { path: PathBuf, foreign: Foreign },
    #[error("{}: {fault}", path.display())]
    Header { path: PathBuf, fault: HeaderError },
    #[error("{}: the file has no tensors; a checkpoint has at least one", path.display())]
    NoTensors { path: PathBuf },
    #[error("{}: no model in this folder: expected model.safetensors or model.safetensors.index.json{hint}", path.display())]
    NoModel { path: PathBuf, hint: String },
    #[error(
        "{}: which model is meant cannot be known: the folder has {} and no model.safetensors.index.json; give the path of one file",
        path.display(), found.join(", ")
    )]
    Ambiguous { path: PathBuf, found: Vec<String> },
    #[error("{}: {fault}", path.display())]
    Index { path: PathBuf, fault: IndexFault },
    #[error("{}: {} leads out of the model's folder, to {}; put the file itself there, or give its own path", root.display(), Quoted::new(name), target.display())]
    Escapes { root: PathBuf, name: String, target: PathBuf },
    #[error("{}: {what}; expected a JSON object as transformers writes it", path.display())]
    Config { path: PathBuf, what: String },
    #[error("{}: no tensor is called {}{}", root.display(), Quoted::new(name), did_you_mean(near))]
    UnknownTensor { root: PathBuf, name: String, near: Option<String> },
    #[error(
        "{}: the file changed while it was open (it had {was_bytes} bytes, now {now_bytes}); let the other program finish and \
         start again", path.display()
    )]
    Changed { path: PathBuf, was_bytes: u64, now_bytes: u64 },
    #[error("stopped")]
    Cancelled,
    #[error("{} and the shards before it: more {what} than one checkpoint can have", path.display())]
    TooMany { path: PathBuf, what: &'static str },
}

/// What is wrong with a `model.safetensors.index.json`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexFault {
    #[error("the index is {}, at most {} are read; it is hostile", human_bytes(*bytes), human_bytes(*limit))]
    TooLarge { bytes: u64, limit: u64 },
    #[error("byte {offset}: {message}; the index is damaged: download it again")]
    Json { offset: u64, message: String },
    #[error("field \"weight_map\" is missing or empty; expected an object from tensor to file name")]
    NoWeightMap,
    #[error("weight_map names the file {file}: {why}; expected the name of a file beside the index")]
    BadFile { file: Quoted, why: &'static str },
    #[error("weight_map names more than {limit} files; no model has so many")]
    TooManyFiles { limit: usize },
    #[error("weight_map names the file {file}, which is not in the folder; download the missing shard")]
    MissingShard { file: Quoted },
    #[error(
        "weight_map puts tensor {tensor} into {expected}, but {found}; the index and the shards are of different downloads"
    )]
    Misplaced { tensor: Quoted, expected: Quoted, found: String },
    #[error("weight_map names tensor {tensor} twice")]
    Twice { tensor: Quoted },
    #[error("tensor {tensor} of {file} is not in weight_map; the index and the shards are of different downloads")]
    Unlisted { tensor: Quoted, file: Quoted },
    #[error("tensor {tensor} stands in {first} and in {second}; which is meant cannot be known")]
    Duplicate { tensor: Quoted, first: Quoted, second: Quoted },
}

/// What to do where there is no file or folder at `path`: it may be the id of a model on the Hugging Face Hub.
pub fn next_step_without(path: &Path) -> String {
    let is_part = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let parts: Option<Vec<&str>> = path.components().map(|part| part.as_os_str().to_str()).collect();
    match parts.as_deref() {
        Some(&[owner, name])
            if is_part(owner) && is_part(name) && owner != "." && owner != ".." && !Path::new(owner).exists() =>
        {
            format!(
                "check the path; a model of the Hugging Face Hub is downloaded first: hf download {owner}/{name} --local-dir {name}"
            )
        }
        _ => "check the path".to_owned(),
    }
}

fn did_you_mean(near: &Option<String>) -> String {
    near.as_ref().map(|name| format!("; did you mean {}?", Quoted::new(name))).unwrap_or_default()
}

impl Error {
    /// An I/O error at `path`; [`Error::Missing`] where nothing is there.
    pub(crate) fn io(path: impl Into<PathBuf>, action: &'static str, source: io::Error) -> Self {
        let path = path.into();
        if source.kind() == io::ErrorKind::NotFound {
            return Error::Missing { path };
        }
        Error::Io { path, action, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_may_be_the_id_of_a_model_is_answered_with_its_download() {
        let next = |path: &str| next_step_without(Path::new(path));
        assert!(
            next("HuggingFaceTB/SmolLM2-135M")
                .ends_with("hf download HuggingFaceTB/SmolLM2-135M --local-dir SmolLM2-135M")
        );
        // A path, a path from here, one name, and a name that no id has. The tests run where there is a folder "src".
        for path in ["/models/smol", "./models/smol", "../models", "smol", "a/b/c", "my models/smol", "src/nothing"] {
            assert_eq!(next(path), "check the path", "{path}");
        }
    }
}
