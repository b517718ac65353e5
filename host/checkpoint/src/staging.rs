//! An output folder in the making: everything is written into a hidden folder beside it, which takes the output's name in
//! one step when all is done. A process that dies at any moment leaves the old state or the new one, and litter that the
//! next run on the same output removes.
//!
//! Nothing here may change a file that exists outside the hidden folder, the base checkpoint least of all.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use crate::{
    disk::Disk,
    hash::{Hash, Progress},
    lock::OutputLock,
    output_path::{Existing, Found, OutputPath, check_file_name},
    transfer::{How, Source, Target, Transferred, copy_and_hash},
    write_error::WriteError,
};

/// What [`Staging::commit`] waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Files made anew and all names are on the device; whole files that were copied may still be on their way, as with
    /// `cp`. After a loss of power such a copy can be short, which its recorded hash tells.
    #[default]
    NewFiles,
    /// Everything is on the device.
    Everything,
}

/// How an output is finished.
#[derive(Clone, Copy, Debug, Default)]
pub struct Commit {
    pub durability: Durability,
    /// Leaves the folder without write permission, so that tools do not add, remove or rename files in it by accident. A
    /// file's own mode is not touched: a hard-linked one shares it with the base.
    pub read_only: bool,
}

/// What [`Staging::commit`] did.
#[derive(Debug)]
pub struct Published {
    pub path: PathBuf,
    /// The old output, if it could not be removed; it is of no use any more.
    pub leftover: Option<PathBuf>,
}

/// One file of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub name: String,
    pub bytes: u64,
    pub hash: Hash,
    /// How an untouched file came; `None` for one made anew.
    pub transferred: Option<Transferred>,
}

/// A hidden folder beside the output, and the lock on that output. Dropped without [`Staging::commit`], it is removed.
pub struct Staging<'d> {
    pub(crate) disk: &'d dyn Disk,
    out: OutputPath,
    bases: Vec<PathBuf>,
    existing: Existing,
    temp: PathBuf,
    /// The mode that the system gives a new folder here.
    mode: u32,
    made: Vec<PathBuf>,
    copied: Vec<PathBuf>,
    folders: HashSet<PathBuf>,
    published: bool,
    // Last, so that it is released after the folder is gone.
    _lock: OutputLock<'d>,
}

impl<'d> Staging<'d> {
    /// Begins an output at `out`, a folder to be made. `bases` are the checkpoints (files or folders) that are read.
    ///
    /// # Errors
    /// Another run is writing `out`; it exists and `existing` does not allow that; it is a link, or is, lies in, or holds one
    /// of the `bases`; or the folder that should hold it cannot be written.
    pub fn begin(out: &Path, bases: &[&Path], existing: Existing, disk: &'d dyn Disk) -> Result<Self, WriteError> {
        let out = OutputPath::resolve(out)?;
        // Before the lock, because already the lock file would change the base's folder; and after it, because another
        // run may have published meanwhile.
        out.check(bases, existing)?;
        let key = key_of(&out);
        let lock = OutputLock::take(out.parent.join(format!("{key}.lock")), &out.shown, disk)?;
        out.check(bases, existing)?;
        remove_stale(&out.parent, &key, disk)?;

        let temp = out.parent.join(format!("{key}{TEMP_MARK}{}", nonce()));
        let failed = |source| WriteError::io(&out.parent, "make a folder in it", source);
        disk.create_dir(&temp).map_err(failed)?;
        let mut staging = Staging {
            disk,
            bases: bases.iter().map(|base| base.to_path_buf()).collect(),
            existing,
            temp,
            mode: 0,
            made: Vec::new(),
            copied: Vec::new(),
            folders: HashSet::new(),
            published: false,
            _lock: lock,
            out,
        };
        // Asking what mode the system gave respects the umask without reading it, which would set it for all threads.
        let metadata = fs::metadata(&staging.temp).map_err(|source| staging.error("look at it", source))?;
        staging.mode = metadata.permissions().mode() & 0o7777;
        disk.set_mode(&staging.temp, 0o700).map_err(|source| staging.error("set its mode", source))?;
        Ok(staging)
    }

    /// The hidden folder: what is written so far can be read there, and should be checked there, before it is published.
    pub fn path(&self) -> &Path {
        &self.temp
    }

    /// Where the output will be.
    pub fn out(&self) -> &Path {
        &self.out.shown
    }

    /// Refuses early what would fail late.
    ///
    /// # Errors
    /// Fewer than `bytes` bytes are free where the output goes.
    pub fn require_space(&self, bytes: u64) -> Result<(), WriteError> {
        let free_bytes =
            self.disk.free_bytes(&self.temp).map_err(|source| self.error("query the free disk space", source))?;
        if free_bytes < bytes {
            let path = self.out.shown.clone();
            return Err(WriteError::NoSpace { path, needed_bytes: bytes, free_bytes });
        }
        Ok(())
    }

    /// Writes a new file. `name` may have folders in it (`1_Pooling/config.json`); they are made.
    ///
    /// # Errors
    /// The name is unusable or taken, or the disk refuses.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<Written, WriteError> {
        let (path, file) = self.create(name)?;
        self.disk.write_all_at(&file, bytes, 0).map_err(|source| WriteError::io(&path, "write it", source))?;
        self.made.push(path);
        Ok(Written { name: name.to_owned(), bytes: bytes.len() as u64, hash: blake3::hash(bytes), transferred: None })
    }

    /// Brings a whole file over as it is, hashed on the way. Symbolic links are followed, so the output has regular files.
    /// `progress` hears each byte once.
    ///
    /// # Errors
    /// The source cannot be read or changes meanwhile; the name is unusable or taken; the disk refuses, or lacks the space;
    /// a link was asked for and cannot be made (another disk).
    pub fn transfer(
        &mut self,
        source: &Path,
        name: &str,
        how: How,
        progress: &Progress<'_>,
    ) -> Result<Written, WriteError> {
        let source = Source::open(source)?;
        let (hash, transferred) = match how {
            How::Link => (self.link(&source, name, progress)?, Transferred::Linked),
            How::CopyOrReflink => self.copy(&source, name, progress)?,
        };
        Ok(Written { name: name.to_owned(), bytes: source.bytes(), hash, transferred: Some(transferred) })
    }

    fn link(&mut self, source: &Source<'_>, name: &str, progress: &Progress<'_>) -> Result<Hash, WriteError> {
        let path = self.path_for(name)?;
        let cannot = |error: io::Error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => WriteError::io(&path, "link it", error),
            _ => WriteError::CannotLink { path: source.path.to_owned(), out: self.out.shown.clone(), source: error },
        };
        let real = fs::canonicalize(source.path).map_err(cannot)?;
        self.disk.hard_link(&real, &path).map_err(cannot)?;
        let hash = source.hash(progress)?;
        // The name could have been given to another file after it was opened.
        let linked = fs::symlink_metadata(&path).map_err(|error| WriteError::io(&path, "look at it", error))?;
        if !same_file(&linked, &source.metadata) {
            return Err(WriteError::SourceChanged { path: source.path.to_owned() });
        }
        source.check_unchanged()?;
        Ok(hash)
    }

    fn copy(
        &mut self,
        source: &Source<'_>,
        name: &str,
        progress: &Progress<'_>,
    ) -> Result<(Hash, Transferred), WriteError> {
        let (path, file) = self.create(name)?;
        self.copied.push(path.clone());
        if self.disk.clone_file(&source.file, &file).is_ok() {
            let hash = source.hash(progress)?;
            source.check_unchanged()?;
            return Ok((hash, Transferred::Reflinked));
        }
        self.require_space(source.bytes())?;
        let target = Target { path: &path, file: &file, disk: self.disk };
        Ok((copy_and_hash(source, &target, progress)?, Transferred::Copied))
    }

    /// Makes a new file in the hidden folder.
    pub(crate) fn create(&mut self, name: &str) -> Result<(PathBuf, File), WriteError> {
        let path = self.path_for(name)?;
        let file = self.disk.create_file(&path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => WriteError::BadName { name: name.into(), why: "it is written already" },
            _ => WriteError::io(&path, "make it", source),
        })?;
        Ok((path, file))
    }

    /// Notes a file made by [`Staging::create`] as complete.
    pub(crate) fn note_made(&mut self, path: PathBuf) {
        self.made.push(path);
    }

    fn path_for(&mut self, name: &str) -> Result<PathBuf, WriteError> {
        check_file_name(name)?;
        let mut folder = self.temp.clone();
        let (folders, _) = name.rsplit_once('/').unwrap_or(("", name));
        for part in folders.split('/').filter(|part| !part.is_empty()) {
            folder.push(part);
            if self.folders.insert(folder.clone()) {
                self.disk
                    .create_dir(&folder)
                    .map_err(|source| WriteError::io(&folder, "create this folder", source))?;
            }
        }
        Ok(self.temp.join(name))
    }

    /// Publishes what was written, all of it in one step.
    ///
    /// # Errors
    /// The disk refuses, or something else came to stand at the output meanwhile. Nothing is changed then.
    pub fn commit(mut self, how: Commit) -> Result<Published, WriteError> {
        self.sync_files(how.durability)?;
        let mode = if how.read_only { self.mode & !0o222 } else { self.mode };
        self.disk.set_mode(&self.temp, mode).map_err(|source| self.error("set its mode", source))?;
        self.disk.sync_dir(&self.temp).map_err(|source| self.error("save the folder", source))?;

        let real = self.out.real();
        let bases: Vec<&Path> = self.bases.iter().map(PathBuf::as_path).collect();
        let found = self.out.check(&bases, self.existing)?;
        match found {
            // Renaming a folder onto one that is not empty fails, so what came meanwhile is safe.
            Found::Nothing | Found::EmptyFolder => {
                self.disk.rename(&self.temp, &real).map_err(|source| match source.kind() {
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                        WriteError::Exists { path: self.out.shown.clone() }
                    }
                    _ => self.error("give the output its name", source),
                })?;
            }
            Found::Folder => self.disk.exchange(&self.temp, &real).map_err(|source| match source.kind() {
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => {
                    WriteError::CannotExchange { path: self.out.shown.clone(), source }
                }
                _ => self.error("swap it with the old output", source),
            })?,
        }
        // From here on the new output stands, so nothing that fails may be reported as a failure to write it.
        self.published = true;
        let _ = self.disk.sync_dir(&self.out.parent);
        let is_left = found == Found::Folder && remove_folder(&self.temp, self.disk).is_err();
        Ok(Published { path: real, leftover: is_left.then(|| self.temp.clone()) })
    }

    fn sync_files(&self, durability: Durability) -> Result<(), WriteError> {
        let copied = match durability {
            Durability::NewFiles => &[],
            Durability::Everything => self.copied.as_slice(),
        };
        for path in self.made.iter().chain(copied) {
            let sync = || self.disk.sync(&File::open(path)?);
            sync().map_err(|source| WriteError::io(path, "save it to the device", source))?;
        }
        for folder in &self.folders {
            self.disk.sync_dir(folder).map_err(|source| WriteError::io(folder, "save it to the device", source))?;
        }
        Ok(())
    }

    fn error(&self, action: &'static str, source: io::Error) -> WriteError {
        WriteError::io(&self.out.shown, action, source)
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed now is removed by the next run on this output.
            let _ = remove_folder(&self.temp, self.disk);
        }
    }
}

const TEMP_MARK: &str = ".tmp-";
const NONCE_DIGITS: usize = 16;

/// The start of the hidden names beside an output. A hash, because the output's own name may be as long as names can be.
fn key_of(out: &OutputPath) -> String {
    let hash = blake3::hash(out.name.as_bytes()).to_hex();
    format!(".unswag-{}", &hash[..16])
}

/// Different for each use in each process; need not be secret, since the folder must not exist when it is made.
fn nonce() -> String {
    static USES: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_nanos());
    let text = format!("{} {now} {}", process::id(), USES.fetch_add(1, Ordering::Relaxed));
    blake3::hash(text.as_bytes()).to_hex()[..NONCE_DIGITS].to_owned()
}

/// Removes what dead runs on this output left. The lock is held, so no living run owns any of it.
fn remove_stale(parent: &Path, key: &str, disk: &dyn Disk) -> Result<(), WriteError> {
    let entries = fs::read_dir(parent).map_err(|source| WriteError::io(parent, "list it", source))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(nonce) = name.to_str().and_then(|name| name.strip_prefix(key)?.strip_prefix(TEMP_MARK)) else {
            continue;
        };
        let is_ours = nonce.len() == NONCE_DIGITS && nonce.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let removed = remove_folder(&entry.path(), disk);
            removed.map_err(|source| WriteError::io(entry.path(), "remove what an earlier run left", source))?;
        }
    }
    Ok(())
}

fn remove_folder(path: &Path, disk: &dyn Disk) -> io::Result<()> {
    // A read-only output would not let its files go.
    let _ = disk.set_mode(path, 0o700);
    disk.remove_tree(path)
}

fn same_file(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Writes a single file so that its name shows the old bytes or the new ones, never a part: into a hidden file beside it,
/// saved to the device, then renamed. A symbolic link at `path` is kept, and the file that it leads to replaced.
///
/// # Errors
/// The folder does not exist or cannot be written, or the disk refuses; the old file is then as it was.
pub fn atomic_write_file(path: &Path, bytes: &[u8], disk: &dyn Disk) -> Result<(), WriteError> {
    let real = match fs::canonicalize(path) {
        Ok(real) => real,
        Err(_) => OutputPath::resolve(path)?.real(),
    };
    let out = OutputPath::resolve(&real)?;
    let temp = out.parent.join(format!("{}{TEMP_MARK}{}", key_of(&out), nonce()));
    let write = || -> io::Result<()> {
        let file = disk.create_file(&temp)?;
        disk.write_all_at(&file, bytes, 0)?;
        if let Ok(old) = fs::metadata(&real) {
            disk.set_mode(&temp, old.permissions().mode() & 0o7777)?;
        }
        disk.sync(&file)?;
        disk.rename(&temp, &real)
    };
    match write() {
        Ok(()) => {
            // The new bytes stand already; only when they survive a loss of power is still open.
            let _ = disk.sync_dir(&out.parent);
            Ok(())
        }
        Err(source) => {
            let _ = disk.remove_file(&temp);
            Err(WriteError::io(path, "write it", source))
        }
    }
}
