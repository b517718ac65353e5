//! A loaded plugin: what it says of itself, and how one of its protocols is opened.
//!
//! Input: what the library answers. Only [`crate::load`] makes a [`Plugin`], so its hash and manifest are checked.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use unswag_abi::{
    abi_stable::{
        erased_types::TD_Opaque,
        std_types::{RNone, ROption, RResult, RStr},
    },
    doc::{Attrs, Manifest, ProtocolInfo},
    frame::{Extension, Host, Host_TO, PluginRef},
};
use unswag_graph::FEATURES;

use crate::{
    digest::Sha256,
    options::{OptionError, checked_options, nearest},
    plain,
    protocol::{PluginError, Protocol},
};

/// A library that runs in this process until the process ends. Cloning it is cheap.
#[derive(Clone)]
pub struct Plugin(Arc<Inner>);

struct Inner {
    raw: PluginRef,
    manifest: Manifest,
    path: PathBuf,
    sha256: Sha256,
    /// Where the bytes that run can be read, as long as this process lives.
    library: PathBuf,
}

/// How a plugin's line for the user is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Error,
    Warning,
    Info,
    Debug,
}

/// Where a plugin's lines go: the level and one line of plain text. Called from any thread.
pub type Log = Arc<dyn Fn(LogLevel, &str) + Send + Sync>;

/// Lines longer than this are cut.
const MAX_LOG_CHARS: usize = 4000;

/// Why a protocol was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenProtocolError {
    #[error(
        "plugin {plugin} has no protocol `{id}`{}; it has: {known}",
        nearest.as_ref().map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
    )]
    Unknown { plugin: String, id: String, nearest: Option<String>, known: String },

    #[error("plugin {plugin}: protocol {id} requires `{feature}`, which this unswag does not have; it has {}", FEATURES.join(", "))]
    Requires { plugin: String, id: String, feature: String },

    #[error(transparent)]
    Options(#[from] OptionError),

    #[error(transparent)]
    Plugin(#[from] PluginError),
}

impl Plugin {
    pub(crate) fn new(raw: PluginRef, manifest: Manifest, path: PathBuf, sha256: Sha256, library: PathBuf) -> Self {
        Self(Arc::new(Inner { raw, manifest, path, sha256, library }))
    }

    /// Where the bytes that run can be read: no path that another process could put other bytes under.
    pub(crate) fn library_path(&self) -> &Path {
        &self.0.library
    }

    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// Of the bytes that run.
    pub fn sha256(&self) -> Sha256 {
        self.0.sha256
    }

    /// Where those bytes were first read from.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The frame itself, for the conformance suite. Its methods trust their arguments.
    pub fn raw(&self) -> PluginRef {
        self.0.raw
    }

    /// What the manifest says of one protocol.
    ///
    /// # Errors
    /// [`OpenProtocolError::Unknown`], with the nearest id.
    pub fn protocol_info(&self, id: &str) -> Result<&ProtocolInfo, OpenProtocolError> {
        let protocols = &self.manifest().protocols;
        protocols.iter().find(|protocol| protocol.id == id).ok_or_else(|| {
            let ids: Vec<_> = protocols.iter().map(|protocol| protocol.id.clone()).collect();
            OpenProtocolError::Unknown {
                plugin: self.manifest().name.clone(),
                id: plain::one_line(id, 80),
                nearest: nearest(id, &ids).map(str::to_owned),
                known: ids.join(", "),
            }
        })
    }

    /// Opens one of the plugin's protocols. `options` are checked against the manifest, and defaults filled in, before the
    /// plugin sees them. What the plugin has to say goes to `log`.
    ///
    /// # Errors
    /// There is no such protocol, an option does not fit, or the plugin refuses.
    pub fn open(&self, id: &str, options: &Attrs, log: Log) -> Result<Protocol, OpenProtocolError> {
        let info = self.protocol_info(id)?;
        if let Some(feature) = info.requires.iter().find(|name| !FEATURES.contains(&name.as_str())) {
            return Err(OpenProtocolError::Requires {
                plugin: self.manifest().name.clone(),
                id: id.to_owned(),
                feature: feature.clone(),
            });
        }
        let options = checked_options(info, options)?;
        let document = serde_json::to_string(&options).map_err(|error| PluginError::Encode {
            protocol: id.to_owned(),
            call: "open".to_owned(),
            error: error.to_string(),
        })?;
        let host = Host_TO::from_value(HostServices { log: log.clone() }, TD_Opaque);
        match self.raw().open()(host, id.into(), document.as_str().into()) {
            RResult::ROk(raw) => Ok(Protocol::new(self.clone(), info.clone(), options, log, raw)),
            RResult::RErr(message) => Err(PluginError::refused(id, "open", &message).into()),
        }
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin").field("path", &self.0.path).field("sha256", &self.0.sha256).finish()
    }
}

/// What a plugin may ask of the host.
struct HostServices {
    log: Log,
}

impl Host for HostServices {
    fn log(&self, level: u8, text: RStr<'_>) {
        let level = match level {
            0 | 1 => LogLevel::Error,
            2 => LogLevel::Warning,
            3 => LogLevel::Info,
            _ => LogLevel::Debug,
        };
        let line = plain::one_line(text.as_str(), MAX_LOG_CHARS);
        // A panic must not travel through the plugin's frames. The line is lost, the panic's own message is not.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (self.log)(level, &line)));
    }

    fn extension(&self, _: RStr<'_>) -> ROption<Extension> {
        RNone
    }
}
