//! From consent to running code: the hash is compared, those very bytes are opened, and their layout is checked.
//!
//! Input: bytes that [`PluginFile`] holds, and the user's consent to their hash. Nothing of a plugin may run here before the
//! hash was compared. A library is never closed: its code may be on any thread's stack, its strings in any error.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use unswag_abi::{
    abi_stable::library::{
        AbiHeader, AbiHeaderRef, LibHeader, LibraryError, ROOT_MODULE_LOADER_NAME_WITH_NUL, RootModule,
    },
    doc::Manifest,
    frame::PluginRef,
};

use crate::{
    digest::Sha256,
    exit_guard,
    file::PluginFile,
    lock::LockEntry,
    manifest::{ManifestError, parse_manifest},
    memfd::{SealError, SealedLibrary},
    plain,
    plugin::Plugin,
};

/// What allows a library to run in this process.
#[derive(Clone, Copy, Debug)]
pub enum Consent<'a> {
    /// An entry of a lock file: its hash must be the library's.
    Locked(&'a LockEntry),
    /// The caller vouches for the library: a test or a bench with its own.
    Unlocked,
}

/// Why a library was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(
        "plugin {}: its SHA-256 is {found}, the lock file says {locked}: nothing of it was run; \
         if you rebuilt it, run `unswag plugin add {}`",
        path.display(), path.display()
    )]
    HashMismatch { path: PathBuf, found: Sha256, locked: Sha256 },

    #[error("plugin {}: {reason}", path.display())]
    Seal { path: PathBuf, reason: SealError },

    #[error("plugin {}: {reason}", path.display())]
    Open { path: PathBuf, reason: OpenError },

    #[error(
        "plugin {}: its manifest is not the one that was shown when it was added; \
         `unswag plugin add {}` shows what it says now", path.display(), path.display()
    )]
    ManifestChanged { path: PathBuf },
}

/// Why bytes that look like a plugin did not open as one.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the system's loader refused it: {0}")]
    Dlopen(String),

    #[error("it exports no unswag plugin: {0}")]
    NoRootModule(String),

    #[error(
        "built with abi_stable {found}, this unswag with {}; rebuild the plugin with the unswag-sdk of this unswag",
        abi_version(&AbiHeader::VALUE)
    )]
    OtherAbiStable { found: String },

    #[error(
        "built for version {found} of the plugin frame, this unswag has {expected}; rebuild the plugin with the unswag-sdk of this unswag"
    )]
    OtherFrame { found: String, expected: String },

    #[error(
        "its types are not laid out as this unswag's ({first}); rebuild the plugin with the unswag-sdk of this unswag"
    )]
    Layout { first: String },

    #[error("its root module failed to start: {0}")]
    RootModule(String),

    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// Loads a plugin into this process. The same bytes are loaded once; a second call gives the same plugin.
///
/// # Errors
/// [`LoadError`]. With `Consent::Locked` and another hash, nothing of the library has run.
pub fn load(file: &PluginFile, consent: Consent<'_>) -> Result<Plugin, LoadError> {
    /// Every library this process has opened.
    static LOADED: Mutex<BTreeMap<Sha256, Plugin>> = Mutex::new(BTreeMap::new());

    let path = || file.path().to_owned();
    if let Consent::Locked(entry) = consent
        && entry.sha256 != file.sha256()
    {
        return Err(LoadError::HashMismatch { path: path(), found: file.sha256(), locked: entry.sha256 });
    }
    // Held while the library opens, so that two threads do not open it twice. No code that panics runs under it half-way.
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let plugin = match loaded.get(&file.sha256()) {
        Some(plugin) => plugin.clone(),
        None => {
            let sealed = file.sealed().map_err(|reason| LoadError::Seal { path: path(), reason })?;
            let library = sealed.path();
            exit_guard::arm();
            let (raw, manifest) = open(sealed).map_err(|reason| LoadError::Open { path: path(), reason })?;
            let plugin = Plugin::new(raw, manifest, path(), file.sha256(), library);
            loaded.insert(file.sha256(), plugin.clone());
            plugin
        }
    };
    match consent {
        Consent::Locked(entry) if entry.manifest != *plugin.manifest() => {
            Err(LoadError::ManifestChanged { path: path() })
        }
        _ => Ok(plugin),
    }
}

fn open(sealed: SealedLibrary) -> Result<(PluginRef, Manifest), OpenError> {
    let library = dlopen(&sealed.path())?;
    // ld.so knows a library by the path it was opened under. Were this descriptor closed, the next plugin's memory file
    // would get its number, and ld.so would give this library in its place.
    sealed.keep_open();
    introduce(library)
}

/// Opens the library at `path` for good and asks it for its manifest.
pub(crate) fn open_path(path: &std::path::Path) -> Result<(PluginRef, Manifest), OpenError> {
    introduce(dlopen(path)?)
}

/// Asks an open library what it is.
fn introduce(library: &'static Library) -> Result<(PluginRef, Manifest), OpenError> {
    let raw = root_module(library_header(library)?)?;
    let manifest = parse_manifest(raw.manifest()().as_str())?;
    Ok((raw, manifest))
}

/// Opens a library for good. Its constructors run in here.
pub(crate) fn dlopen(path: &std::path::Path) -> Result<&'static Library, OpenError> {
    // SAFETY: opening a library runs its constructors, with this process's rights; that is what the user consented to, or
    // this is the probe's child, which has next to no rights left.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|error| OpenError::Dlopen(dl_message(&error)))?;
    Ok(Box::leak(Box::new(library)))
}

/// The library's header, once its magic string and version were compared.
pub(crate) fn library_header(library: &'static Library) -> Result<&'static LibHeader, OpenError> {
    // SAFETY: the symbol is an object at least as large as an `AbiHeader` (`elf::check_root_module` made sure), which is
    // plain data that `upgrade` compares before it believes the rest; the library is never closed.
    let header = unsafe { library.get::<AbiHeaderRef>(ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes()) }
        .map(|symbol| *symbol)
        .map_err(|error| OpenError::NoRootModule(dl_message(&error)))?;
    if header.magic_string != AbiHeader::VALUE.magic_string {
        return Err(OpenError::NoRootModule("what it exports under that name is something else".to_owned()));
    }
    header.upgrade().map_err(summary)
}

/// The root module, once its version and the layout of every type it reaches were compared with this build's.
pub(crate) fn root_module(header: &'static LibHeader) -> Result<PluginRef, OpenError> {
    // Not `RootModule::load_from*`: those keep one module per type, so the second plugin would be the first.
    header.init_root_module::<PluginRef>().map_err(summary)
}

/// One line of what abi_stable says at length.
fn summary(error: LibraryError) -> OpenError {
    match error {
        LibraryError::InvalidAbiHeader(header) => OpenError::OtherAbiStable { found: abi_version(&header) },
        LibraryError::IncompatibleVersionNumber { expected_version, actual_version, .. } => {
            OpenError::OtherFrame { found: actual_version.to_string(), expected: expected_version.to_string() }
        }
        LibraryError::ParseVersionError(_) => OpenError::OtherFrame {
            found: "(unreadable)".to_owned(),
            expected: PluginRef::VERSION_STRINGS.version.to_string(),
        },
        LibraryError::AbiInstability(report) => OpenError::Layout { first: first_difference(&report.to_string()) },
        LibraryError::RootModule { err, .. } => OpenError::RootModule(plain::one_line(&err.to_string(), 300)),
        LibraryError::InvalidCAbi { .. } => {
            OpenError::Layout { first: "its compiler passes arguments otherwise".to_owned() }
        }
        other => OpenError::NoRootModule(plain::one_line(&other.to_string(), 300)),
    }
}

/// The first difference that a layout report names. The report runs to a thousand lines.
fn first_difference(report: &str) -> String {
    let lines = || report.lines().map(str::trim).filter(|line| !line.is_empty());
    lines()
        .position(|line| line.to_lowercase().starts_with("error:"))
        .map(|at| lines().skip(at).take(5).collect::<Vec<_>>().join(" "))
        .or_else(|| lines().next().map(str::to_owned))
        .map(|difference| plain::one_line(&difference, 240))
        .unwrap_or_else(|| "no details".to_owned())
}

fn abi_version(header: &AbiHeader) -> String {
    format!("{}.{}", header.abi_major, header.abi_minor)
}

/// What ld.so said: libloading's own message leaves it out.
fn dl_message(error: &libloading::Error) -> String {
    let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    plain::one_line(&cause, 300)
}
