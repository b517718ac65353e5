//! Recognises files that people give where safetensors is expected, by their first bytes, to say what to do instead.
//! Asked only after a header was refused: a sound safetensors file is never called anything else.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Foreign {
    /// Where git kept only a note about the file.
    GitLfsPointer,
    Gguf,
    /// PyTorch's format since 1.6 (`torch.save`), or any other ZIP.
    Zip,
    /// PyTorch's older format, or any other pickle.
    Pickle,
    Hdf5,
    /// An error page saved under the model's name.
    Html,
    Text,
    Empty,
}

/// What a file that starts with `start` is, if it is something known.
pub fn identify(start: &[u8]) -> Option<Foreign> {
    const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";
    if start.is_empty() {
        Some(Foreign::Empty)
    } else if start.starts_with(LFS) {
        Some(Foreign::GitLfsPointer)
    } else if start.starts_with(b"GGUF") {
        Some(Foreign::Gguf)
    } else if start.starts_with(b"PK\x03\x04") {
        Some(Foreign::Zip)
    } else if start.starts_with(b"\x89HDF\r\n\x1a\n") {
        Some(Foreign::Hdf5)
    } else if matches!(start, [0x80, 2..=5, ..]) {
        // A pickle's PROTO opcode and its version. Protocols 0 and 1 are text and read as such below.
        Some(Foreign::Pickle)
    } else if is_html(start) {
        Some(Foreign::Html)
    } else if is_text(start) {
        Some(Foreign::Text)
    } else {
        None
    }
}

fn is_html(start: &[u8]) -> bool {
    let trimmed = start.trim_ascii_start();
    [&b"<!doctype html"[..], b"<html"]
        .iter()
        .any(|opening| trimmed.get(..opening.len()).is_some_and(|text| text.eq_ignore_ascii_case(opening)))
}

fn is_text(start: &[u8]) -> bool {
    start.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~' | 0x80..))
}

impl Foreign {
    /// What the user can do about it.
    pub fn next_step(self) -> &'static str {
        match self {
            Foreign::GitLfsPointer => "the weights were not fetched: run `git lfs pull` in that repository",
            Foreign::Gguf => "turn it into a folder first: `unswag import FILE.gguf -o DIR`",
            Foreign::Zip | Foreign::Pickle => {
                "a pickle can run code when it is opened, so it is not read: save the model again with \
                 `save_pretrained(..., safe_serialization=True)`"
            }
            Foreign::Hdf5 => "save the model again as safetensors from the program that wrote it",
            Foreign::Html => {
                "the download gave an error page: download the file again, logged in if the model is gated"
            }
            Foreign::Text | Foreign::Empty => "check the path, or download the file again",
        }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Foreign::GitLfsPointer => "a git-LFS pointer",
            Foreign::Gguf => "a GGUF file",
            Foreign::Zip => "a ZIP archive (PyTorch's .bin or .pt)",
            Foreign::Pickle => "a pickle (PyTorch's old .bin or .pt)",
            Foreign::Hdf5 => "an HDF5 file",
            Foreign::Html => "a web page",
            Foreign::Text => "a text file",
            Foreign::Empty => "an empty file",
        })
    }
}
