//! `unswag.lock`: which plugins may run here, each by the SHA-256 of its library.
//!
//! Two files are read: the user's own (`$UNSWAG_HOME`, else `$XDG_CONFIG_HOME/unswag`, else `~/.config/unswag`), and the
//! one bundled beside the executable. An id that stands in both is the user's. Input: files that anyone may have edited.
//! This must never look into the working directory, never overwrite a file it could not read, and never leave half a one.

mod trust;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use unswag_abi::doc::{Manifest, ProtocolInfo};

use crate::{
    digest::Sha256,
    file::{FileError, PluginFile},
    manifest::{ManifestError, check_manifest},
    options::nearest,
    plain,
    yaml::{self, YamlError},
};

/// The name of a lock file in its folder.
pub const LOCK_FILE_NAME: &str = "unswag.lock";

/// The version of the format that is written, and the only one that is read.
pub const LOCK_VERSION: u32 = 1;

const MAX_LOCK_BYTES: u64 = 16 << 20;

const HEADER: &str = "\
# The plugins that unswag may run here, by the SHA-256 of their bytes.
# Written by `unswag plugin add` and `unswag plugin remove`.
";

/// One library that the user consented to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockEntry {
    /// The ids of its protocols, as in the manifest.
    pub protocols: Vec<String>,
    /// The library. Where relative, then to the folder of the lock file.
    pub path: PathBuf,
    pub sha256: Sha256,
    /// The ABI of the unswag that added it.
    pub added_by_abi: u32,
    /// What it said of itself in the probe.
    pub manifest: Manifest,
}

impl LockEntry {
    pub fn protocol(&self, id: &str) -> Option<&ProtocolInfo> {
        self.manifest.protocols.iter().find(|protocol| protocol.id == id)
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    plugins: Vec<LockEntry>,
}

/// Why a lock file cannot be used, or a plugin not found or entered in it.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("lock file {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },

    #[error("lock file {}: {problem}; it was left as it is: repair it, or move it away and add the plugins again", path.display())]
    Malformed { path: PathBuf, problem: String },

    #[error("lock file {}: written in version {found} of the format, this unswag reads version {LOCK_VERSION}; use the unswag that wrote it", path.display())]
    UnknownVersion { path: PathBuf, found: String },

    #[error("lock file {}: {fault}, so its entries are not trusted; {remedy}", path.display())]
    Untrusted { path: PathBuf, fault: String, remedy: String },

    #[error("no place for {LOCK_FILE_NAME}: {problem}; set UNSWAG_HOME to the full path of a folder")]
    NoPlace { problem: String },

    #[error(
        "no plugin `{wanted}` is locked{}; locked: {known}; `unswag plugin add PATH` adds one",
        nearest.as_ref().map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
    )]
    Unknown { wanted: String, nearest: Option<String>, known: String },

    #[error("lock file {}: protocol {id} is already locked to {}; replace it on purpose with --replace, or remove it first", path.display(), other.display())]
    Taken { path: PathBuf, id: String, other: PathBuf },

    #[error("protocol {id}: {source}")]
    Library { id: String, source: FileError },

    #[error("the path {} cannot be written down: it is not UTF-8", .0.display())]
    PathNotText(PathBuf),
}

/// One lock file.
#[derive(Debug)]
pub struct LockFile {
    path: PathBuf,
    entries: Vec<LockEntry>,
}

impl LockFile {
    /// Reads the lock file at `path`. A file that does not exist is an empty one.
    ///
    /// # Errors
    /// It cannot be read, is malformed, has an unknown version, or anyone may write to it.
    pub fn read(path: impl Into<PathBuf>) -> Result<Self, LockError> {
        let path = path.into();
        let entries = match read_bytes(&path)? {
            Some(bytes) => parse(&path, &bytes)?,
            None => Vec::new(),
        };
        Ok(Self { path, entries })
    }

    /// Reads the content of a lock file that stands nowhere: what is checked of it beside who may write to it. For fuzzing.
    ///
    /// # Errors
    /// It is malformed or has an unknown version.
    pub fn parse(bytes: &[u8]) -> Result<Vec<LockEntry>, LockError> {
        parse(Path::new(LOCK_FILE_NAME), bytes)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn entries(&self) -> &[LockEntry] {
        &self.entries
    }

    /// Where the library of an entry lies.
    pub fn library_path(&self, entry: &LockEntry) -> PathBuf {
        self.folder().join(&entry.path)
    }

    /// The entry that has a protocol of this id, or the library at this path.
    pub fn find(&self, id_or_path: &str) -> Option<&LockEntry> {
        self.entries.iter().find(|entry| self.is(entry, id_or_path))
    }

    fn is(&self, entry: &LockEntry, id_or_path: &str) -> bool {
        if entry.protocols.iter().any(|id| id == id_or_path) {
            return true;
        }
        // A word without a slash is an id: it must not mean a file that happens to lie where the user stands.
        id_or_path.contains('/')
            && (Path::new(id_or_path) == self.library_path(entry)
                || fs::canonicalize(id_or_path).is_ok_and(|path| path == self.library_path(entry)))
    }

    /// Enters a library under its protocols' ids, and writes the file. An entry of the same path, or of the same ids
    /// alone, is replaced: that is a rebuild. Returns the entry.
    ///
    /// # Errors
    /// [`LockError::Taken`] where an id is locked to another path and `replace` is false; or the file cannot be read or
    /// written.
    pub fn add(
        path: impl Into<PathBuf>,
        file: &PluginFile,
        manifest: Manifest,
        replace: bool,
    ) -> Result<LockEntry, LockError> {
        let path = path.into();
        check_manifest(&manifest).map_err(|error| malformed(&path, error.to_string()))?;
        if file.path().to_str().is_none() {
            return Err(LockError::PathNotText(file.path().to_owned()));
        }
        Self::edit(path, |lock| {
            let entry = LockEntry {
                protocols: manifest.protocols.iter().map(|protocol| protocol.id.clone()).collect(),
                path: lock.path_to_write(file.path()),
                sha256: file.sha256(),
                added_by_abi: unswag_abi::ABI_VERSION,
                manifest,
            };
            let same_file = |other: &LockEntry| lock.library_path(other) == lock.library_path(&entry);
            for other in lock.entries.iter().filter(|other| !same_file(other)) {
                let taken = other.protocols.iter().find(|id| entry.protocols.contains(id));
                if let Some(id) = taken
                    && !replace
                {
                    return Err(LockError::Taken {
                        path: lock.path.clone(),
                        id: id.clone(),
                        other: lock.library_path(other),
                    });
                }
            }
            let folder = lock.folder().to_owned();
            let new_path = folder.join(&entry.path);
            lock.entries.retain(|other| {
                folder.join(&other.path) != new_path && !other.protocols.iter().any(|id| entry.protocols.contains(id))
            });
            lock.entries.push(entry.clone());
            Ok(entry)
        })
    }

    /// Takes the entry that has this id or path out, and writes the file. Returns it.
    ///
    /// # Errors
    /// There is none, or the file cannot be read or written.
    pub fn remove(path: impl Into<PathBuf>, id_or_path: &str) -> Result<LockEntry, LockError> {
        Self::edit(path.into(), |lock| {
            let at = lock
                .entries
                .iter()
                .position(|entry| lock.is(entry, id_or_path))
                .ok_or_else(|| unknown(id_or_path, lock.entries.iter()))?;
            Ok(lock.entries.remove(at))
        })
    }

    /// Reads, changes and writes the file, with other writers kept out.
    fn edit<T>(path: PathBuf, change: impl FnOnce(&mut Self) -> Result<T, LockError>) -> Result<T, LockError> {
        let io_error = |source| LockError::Io { path: path.clone(), source };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).ok_or_else(|| {
            io_error(io::Error::new(io::ErrorKind::InvalidInput, "expected a path with a folder in it"))
        })?;
        fs::create_dir_all(folder).map_err(io_error)?;
        // What would not be believed is not written.
        trust::check_folder(&path)?;
        // The folder is locked, not the file: the file is replaced by a rename, and a lock on the old one locks nothing.
        let guard = File::open(folder).map_err(io_error)?;
        flock(&guard, FlockOperation::LockExclusive).map_err(|error| io_error(error.into()))?;

        remove_leftovers(folder);
        let mut lock = Self::read(&path)?;
        let result = change(&mut lock)?;
        lock.write(folder).map_err(io_error)?;
        // A rename lasts through a power cut once its folder is on the disk.
        guard.sync_all().map_err(io_error)?;
        Ok(result)
    }

    fn write(&self, folder: &Path) -> io::Result<()> {
        let document = Document { version: LOCK_VERSION, plugins: self.entries.clone() };
        let yaml = serde_yaml::to_string(&document).map_err(io::Error::other)?;
        let mut file = tempfile::Builder::new()
            .prefix(TEMP_PREFIX)
            .permissions(fs::Permissions::from_mode(0o644))
            .tempfile_in(folder)?;
        file.write_all(HEADER.as_bytes())?;
        file.write_all(yaml.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// A library under the lock file's own folder is written relative to it, so that the two can be moved together.
    fn path_to_write(&self, library: &Path) -> PathBuf {
        fs::canonicalize(self.folder())
            .ok()
            .and_then(|folder| library.strip_prefix(folder).ok().map(Path::to_owned))
            .unwrap_or_else(|| library.to_owned())
    }
}

/// How the name of a new lock file begins until it takes the old one's place.
const TEMP_PREFIX: &str = ".unswag.lock.";

/// Removes what writers left that were killed. The folder's lock is held, so no living writer owns any of it.
fn remove_leftovers(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_leftover = entry.file_name().to_str().is_some_and(|name| {
            let random = name.strip_prefix(TEMP_PREFIX);
            random.is_some_and(|random| random.len() == 6 && random.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        });
        if is_leftover && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            // One that stays does no harm, and the next writer tries it too.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>, LockError> {
    let io_error = |source| LockError::Io { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    // O_NONBLOCK: a FIFO in its place must not stop everything.
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(error)),
    };
    let metadata = file.metadata().map_err(io_error)?;
    if !metadata.is_file() {
        return Err(malformed(path, "it is not a file"));
    }
    trust::check(path, &metadata)?;
    let mut bytes = Vec::new();
    file.take(MAX_LOCK_BYTES + 1).read_to_end(&mut bytes).map_err(io_error)?;
    if bytes.len() as u64 > MAX_LOCK_BYTES {
        return Err(malformed(path, format!("it is larger than {MAX_LOCK_BYTES} bytes")));
    }
    Ok(Some(bytes))
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<LockEntry>, LockError> {
    /// Read first: the rest may have another shape in another version.
    #[derive(Deserialize)]
    struct VersionOnly {
        version: serde_yaml::Value,
    }

    if bytes.len() as u64 > MAX_LOCK_BYTES {
        return Err(malformed(path, format!("it is larger than {MAX_LOCK_BYTES} bytes")));
    }
    let text = str::from_utf8(bytes).map_err(|error| malformed(path, format!("it is not text: {error}")))?;
    let yaml_error = |error: YamlError| malformed(path, plain::one_line(&error.to_string(), 300));
    let VersionOnly { version } = yaml::parse(text).map_err(yaml_error)?;
    if version.as_u64() != Some(LOCK_VERSION.into()) {
        let found = serde_yaml::to_string(&version).unwrap_or_default();
        return Err(LockError::UnknownVersion { path: path.to_owned(), found: plain::one_line(&found, 40) });
    }
    let document: Document = yaml::parse(text).map_err(yaml_error)?;
    let mut ids = BTreeMap::new();
    for (index, entry) in document.plugins.iter().enumerate() {
        check_entry(entry).map_err(|problem| malformed(path, format!("plugins[{index}]: {problem}")))?;
        for id in &entry.protocols {
            if let Some(other) = ids.insert(id, index) {
                return Err(malformed(path, format!("plugins[{index}]: protocol {id} stands in plugins[{other}] too")));
            }
        }
    }
    Ok(document.plugins)
}

fn check_entry(entry: &LockEntry) -> Result<(), String> {
    let path = entry.path.as_os_str();
    if path.is_empty() || path.as_encoded_bytes().contains(&0) {
        return Err("path: expected the path of a library".to_owned());
    }
    check_manifest(&entry.manifest).or_else(|error| match error {
        // An entry of another ABI is kept: loading it says what to do.
        ManifestError::OtherAbi { .. } => Ok(()),
        other => Err(other.to_string()),
    })?;
    let ids = entry.manifest.protocols.iter().map(|protocol| &protocol.id);
    if !ids.eq(&entry.protocols) {
        return Err("protocols: not the ids of its manifest".to_owned());
    }
    Ok(())
}

fn malformed(path: &Path, problem: impl Into<String>) -> LockError {
    LockError::Malformed { path: path.to_owned(), problem: problem.into() }
}

fn unknown<'a>(wanted: &str, entries: impl Iterator<Item = &'a LockEntry>) -> LockError {
    let known: Vec<String> = entries.flat_map(|entry| entry.protocols.iter().cloned()).collect();
    LockError::Unknown {
        wanted: plain::one_line(wanted, 80),
        nearest: nearest(wanted, &known).map(str::to_owned),
        known: match known.is_empty() {
            true => "none".to_owned(),
            false => known.join(", "),
        },
    }
}

/// Which of the two lock files an entry comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    User,
    Bundled,
}

/// An entry that was looked up.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    pub entry: &'a LockEntry,
    /// The library, as a full path.
    pub library: PathBuf,
    pub origin: Origin,
    /// The user's entry stands in front of a bundled one of the same id; the user should be told.
    pub hides_bundled: bool,
}

impl Found<'_> {
    /// Reads the library. Its hash is compared when it is loaded.
    ///
    /// # Errors
    /// The library is gone, or is no plugin any more.
    pub fn read(&self) -> Result<PluginFile, LockError> {
        PluginFile::read(&self.library)
            .map_err(|source| LockError::Library { id: self.entry.protocols.join(", "), source })
    }

    /// Whether the library still is the one that was locked. Reads it.
    pub fn state(&self) -> LibraryState {
        match PluginFile::read(&self.library) {
            Ok(file) if file.sha256() == self.entry.sha256 => LibraryState::Locked,
            Ok(_) => LibraryState::Changed,
            Err(FileError::NotAPlugin { .. }) => LibraryState::Changed,
            Err(_) => LibraryState::Missing,
        }
    }
}

/// What lies at an entry's path now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LibraryState {
    /// The bytes that were locked.
    Locked,
    /// Other bytes: a rebuild, mostly. They are not run.
    Changed,
    /// No plugin can be read there.
    Missing,
}

/// The user's lock file and the bundled one.
#[derive(Debug)]
pub struct Locks {
    pub user: LockFile,
    /// `None` where the executable's folder is not known.
    pub bundled: Option<LockFile>,
}

impl Locks {
    /// Reads both.
    ///
    /// # Errors
    /// One of them is there and cannot be used.
    pub fn read() -> Result<Self, LockError> {
        Ok(Self {
            user: LockFile::read(user_lock_path()?)?,
            bundled: bundled_lock_path().map(LockFile::read).transpose()?,
        })
    }

    /// The plugin that has a protocol of this id, or lies at this path.
    ///
    /// # Errors
    /// [`LockError::Unknown`], with the nearest id.
    pub fn find(&self, id_or_path: &str) -> Result<Found<'_>, LockError> {
        let bundled = self.bundled.as_ref().and_then(|lock| Some((lock, lock.find(id_or_path)?)));
        if let Some(entry) = self.user.find(id_or_path) {
            return Ok(Found {
                entry,
                library: self.user.library_path(entry),
                origin: Origin::User,
                hides_bundled: bundled.is_some_and(|(_, other)| other.sha256 != entry.sha256),
            });
        }
        bundled
            .map(|(lock, entry)| Found {
                entry,
                library: lock.library_path(entry),
                origin: Origin::Bundled,
                hides_bundled: false,
            })
            .ok_or_else(|| unknown(id_or_path, self.all().into_iter().map(|found| found.entry)))
    }

    /// Every library, the user's first. A bundled one is left out where the user's file has all of its ids.
    pub fn all(&self) -> Vec<Found<'_>> {
        let bundled = self.bundled.iter().flat_map(|lock| lock.entries.iter().map(move |entry| (lock, entry)));
        let is_users = |id: &String| self.user.find(id).is_some();
        let user = self.user.entries.iter().map(|entry| Found {
            entry,
            library: self.user.library_path(entry),
            origin: Origin::User,
            hides_bundled: bundled.clone().any(|(_, other)| {
                other.sha256 != entry.sha256 && other.protocols.iter().any(|id| entry.protocols.contains(id))
            }),
        });
        user.chain(bundled.clone().filter(|(_, entry)| !entry.protocols.iter().all(is_users)).map(|(lock, entry)| {
            Found { entry, library: lock.library_path(entry), origin: Origin::Bundled, hides_bundled: false }
        }))
        .collect()
    }
}

/// Where the user's lock file is: `$UNSWAG_HOME`, else `$XDG_CONFIG_HOME/unswag`, else `~/.config/unswag`.
///
/// # Errors
/// `UNSWAG_HOME` is a relative path, or there is no home.
pub fn user_lock_path() -> Result<PathBuf, LockError> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    lock_path_from(folder("UNSWAG_HOME"), folder("XDG_CONFIG_HOME"), folder("HOME"))
}

fn lock_path_from(
    unswag_home: Option<PathBuf>,
    xdg_config_home: Option<PathBuf>,
    home: Option<PathBuf>,
) -> Result<PathBuf, LockError> {
    let no_place = |problem: &str| LockError::NoPlace { problem: problem.to_owned() };
    // A relative path would mean the working directory, where nothing is ever looked for.
    if let Some(folder) = unswag_home {
        return match folder.is_absolute() {
            true => Ok(folder.join(LOCK_FILE_NAME)),
            false => Err(no_place("UNSWAG_HOME is a relative path")),
        };
    }
    // The XDG base directory specification: a relative value is to be ignored.
    xdg_config_home
        .filter(|folder| folder.is_absolute())
        .or_else(|| home.filter(|home| home.is_absolute()).map(|home| home.join(".config")))
        .map(|folder| folder.join("unswag").join(LOCK_FILE_NAME))
        .ok_or_else(|| no_place("neither UNSWAG_HOME nor HOME is set"))
}

/// Where the bundled lock file would be: beside the executable, links resolved.
pub fn bundled_lock_path() -> Option<PathBuf> {
    let executable = fs::canonicalize(std::env::current_exe().ok()?).ok()?;
    Some(executable.parent()?.join(LOCK_FILE_NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_never_relative() {
        let path = |text: &str| Some(PathBuf::from(text));
        let lock = |a, b, c| lock_path_from(a, b, c).map_err(|error| error.to_string());
        assert_eq!(lock(path("/u"), path("/x"), path("/h")), Ok("/u/unswag.lock".into()));
        assert_eq!(lock(None, path("/x"), path("/h")), Ok("/x/unswag/unswag.lock".into()));
        assert_eq!(lock(None, path("x"), path("/h")), Ok("/h/.config/unswag/unswag.lock".into()));
        assert!(lock(path("u"), None, path("/h")).unwrap_err().contains("relative"));
        assert!(lock(None, None, path("h")).unwrap_err().contains("UNSWAG_HOME"));
        assert!(lock(None, None, None).is_err());
    }
}
