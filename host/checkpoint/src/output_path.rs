//! Decides whether an output may be written where the user said, before anything is touched: never over, into or around
//! the checkpoint that is read.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs::{self, Metadata},
    io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Component, Path, PathBuf},
};

use crate::write_error::WriteError;

/// What to do where the output is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse; an empty folder is taken as it is.
    Refuse,
    /// Swap a folder for the new one in one step and remove the old one. Only for a folder that the caller has seen to be
    /// an earlier output of its own.
    Replace,
}

/// Where an output goes: a name in a folder that exists.
#[derive(Clone, Debug)]
pub(crate) struct OutputPath {
    /// As the user gave it, for messages.
    pub shown: PathBuf,
    /// The folder that holds it, symbolic links resolved.
    pub parent: PathBuf,
    pub name: OsString,
}

/// What stands at the output now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    EmptyFolder,
    Folder,
}

type FileId = (u64, u64);

fn id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

impl OutputPath {
    pub fn resolve(out: &Path) -> Result<Self, WriteError> {
        let bad = || WriteError::BadOutput { path: out.to_owned() };
        let name = out.file_name().ok_or_else(bad)?.to_owned();
        // The name is used only at the very end, when all is written: too late to learn that it cannot be.
        if name.len() > 255 || name.as_bytes().contains(&0) {
            return Err(bad());
        }
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let parent = fs::canonicalize(parent).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => WriteError::NoParent { path: parent.to_owned() },
            _ => WriteError::io(parent, "resolve it", source),
        })?;
        if !parent.is_dir() {
            return Err(WriteError::NoParent { path: parent });
        }
        Ok(OutputPath { shown: out.to_owned(), parent, name })
    }

    pub fn real(&self) -> PathBuf {
        self.parent.join(&self.name)
    }

    /// Checks the output against each checkpoint (a file or a folder) in `bases`.
    pub fn check(&self, bases: &[&Path], existing: Existing) -> Result<Found, WriteError> {
        let path = || self.shown.clone();
        let there = match fs::symlink_metadata(self.real()) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(WriteError::io(&self.shown, "look at it", error)),
        };
        for base in bases {
            self.check_base(base, there.as_ref())?;
        }
        let Some(there) = there else { return Ok(Found::Nothing) };
        if there.is_symlink() {
            return Err(WriteError::IsLink { path: path(), target: fs::read_link(self.real()).ok() });
        }
        if !there.is_dir() {
            return Err(WriteError::Exists { path: path() });
        }
        let mut entries =
            fs::read_dir(self.real()).map_err(|source| WriteError::io(&self.shown, "list what is in it", source))?;
        match (entries.next(), existing) {
            (None, _) => Ok(Found::EmptyFolder),
            (Some(_), Existing::Replace) => Ok(Found::Folder),
            (Some(_), Existing::Refuse) => Err(WriteError::Exists { path: path() }),
        }
    }

    fn check_base(&self, base: &Path, there: Option<&Metadata>) -> Result<(), WriteError> {
        let look = |source| WriteError::io(base, "look at the base", source);
        let real_base = fs::canonicalize(base).map_err(look)?;
        let base_metadata = fs::metadata(&real_base).map_err(look)?;
        let path = || self.shown.clone();
        if base_metadata.is_dir() && has_ancestor(&self.parent, id(&base_metadata)) {
            return Err(WriteError::InsideBase { path: path(), base: base.to_owned() });
        }
        let Some(there) = there else { return Ok(()) };

        // A folder's own files count too: an output that is another name of a shard would be written over the shard.
        let mut base_ids = HashSet::from([id(&base_metadata)]);
        if base_metadata.is_dir() {
            for entry in fs::read_dir(&real_base).map_err(look)?.flatten() {
                base_ids.extend(fs::metadata(entry.path()).ok().as_ref().map(id));
            }
        }
        let is_base = |how| Err(WriteError::IsBase { path: path(), how });
        if there.is_symlink() {
            let target = fs::metadata(self.real());
            if target.is_ok_and(|target| base_ids.contains(&id(&target))) {
                return is_base("a symbolic link to it");
            }
        } else if id(there) == id(&base_metadata) {
            return is_base(if there.nlink() > 1 && there.is_file() {
                "the same file, or a hard link to it"
            } else {
                "the same path"
            });
        } else if base_ids.contains(&id(there)) {
            return is_base("one of its files, or a hard link to one");
        }
        if there.is_dir() && has_ancestor(&real_base, id(there)) {
            return Err(WriteError::HoldsBase { path: path(), base: base.to_owned() });
        }
        Ok(())
    }
}

/// Whether folders may be created up to `out`, none of which need exist yet: checked before the first of them is created.
///
/// # Errors
/// `out` is, or would lie in, one of `bases` that is a folder.
pub fn check_outside(out: &Path, bases: &[&Path]) -> Result<(), WriteError> {
    let real = |path: &Path| fs::canonicalize(if path.as_os_str().is_empty() { Path::new(".") } else { path }).ok();
    let nearest = out.ancestors().find_map(|ancestor| Some((real(ancestor)?, out.strip_prefix(ancestor).ok()?)));
    // Without a working directory there is nothing to compare; making the folder fails then, too.
    let Some((mut at, rest)) = nearest else { return Ok(()) };
    for component in rest.components() {
        match component {
            Component::Normal(name) => at.push(name),
            Component::ParentDir => drop(at.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    for base in bases {
        // A base that is gone cannot be changed.
        let Ok(metadata) = fs::metadata(base) else { continue };
        if metadata.is_dir() && has_ancestor(&at, id(&metadata)) {
            return Err(WriteError::InsideBase { path: out.to_owned(), base: base.to_path_buf() });
        }
    }
    Ok(())
}

/// Whether `path` or a folder above it is the folder `wanted`; by identity, so another mount or spelling does not hide it.
fn has_ancestor(path: &Path, wanted: FileId) -> bool {
    path.ancestors().any(|ancestor| fs::metadata(ancestor).is_ok_and(|metadata| id(&metadata) == wanted))
}

/// A file's name inside the output: a plain name, or names of folders and a file joined by `/`.
pub(crate) fn check_file_name(name: &str) -> Result<(), WriteError> {
    let bad = |why| Err(WriteError::BadName { name: name.into(), why });
    for part in name.split('/') {
        if part.is_empty() || part == "." || part == ".." {
            return bad("it is a path out of the output, or has an empty part");
        }
        if part.len() > 255 {
            return bad("it is longer than 255 bytes");
        }
        if part.chars().any(crate::text::is_invisible) {
            return bad("it holds control or invisible characters");
        }
    }
    Ok(())
}
