//! From `--plugin` arguments to protocols that can operate: looked up in the lock files, verified, loaded, opened.

use std::path::PathBuf;

use unswag_abi::doc::{Attrs, Graph, OpCall, OpPlan, Patch, TransformJob};
use unswag_loader::{
    Consent, FileError, LoadError, LockError, Locks, Log, LogLevel, OpenProtocolError, OpenProtocols, OptionError,
    Plugin, PluginError, PluginFile, PluginSpec, SpecError, load, typed_options,
};

use crate::{
    operation::Protocol,
    record::{PluginId, Step},
};

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Spec(Box<SpecError>),
    #[error(transparent)]
    Lock(Box<LockError>),
    #[error(transparent)]
    File(Box<FileError>),
    #[error(transparent)]
    Load(Box<LoadError>),
    #[error(transparent)]
    Protocol(Box<OpenProtocolError>),
    #[error(transparent)]
    Options(Box<OptionError>),
    #[error(
        "plugin {}: no lock file names it, so none of it was run; `unswag plugin add {}` probes it in a sandbox and locks its bytes, \
         `unswag plugin check` runs it in a sandbox without consent",
        path.display(), path.display()
    )]
    NotLocked { path: PathBuf },
    #[error("plugin {}: it has the protocols {}; say which: --plugin {}#{}", path.display(), ids.join(", "), path.display(), ids[0])]
    WhichProtocol { path: PathBuf, ids: Vec<String> },
}

impl OpenError {
    /// The option that the error is about, if it is about one.
    pub fn option(&self) -> Option<&str> {
        match self {
            OpenError::Options(error) => Some(error.key()),
            _ => None,
        }
    }
}

/// The loader's errors carry whole paths and hashes; boxed, so that a success does not pay for them.
macro_rules! boxed {
    ($($variant:ident: $error:ty),+) => {$(
        impl From<$error> for OpenError {
            fn from(error: $error) -> Self {
                OpenError::$variant(Box::new(error))
            }
        }
    )+};
}
boxed!(Spec: SpecError, Lock: LockError, File: FileError, Load: LoadError, Protocol: OpenProtocolError, Options: OptionError);

/// Opens every `NAME[:key=value,…]` in order. A name with a `/` is the path of a library, with `#PROTOCOL` behind it where
/// the library has several.
///
/// # Errors
/// The first that cannot be read, found, verified, loaded or opened. No code of an unlocked plugin runs.
pub fn open_plugins(specs: &[String], log: &Log) -> Result<Vec<Box<dyn Protocol>>, OpenError> {
    let specs: Vec<PluginSpec> = specs.iter().map(|spec| PluginSpec::parse(spec)).collect::<Result<_, _>>()?;
    open_specs(&specs, log)
}

/// Opens every plugin in order, as [`open_plugins`].
///
/// # Errors
/// As [`open_plugins`].
pub fn open_specs(specs: &[PluginSpec], log: &Log) -> Result<Vec<Box<dyn Protocol>>, OpenError> {
    let locks = Locks::read()?;
    let open = |spec: &PluginSpec| open(spec, &locks, log);
    specs.iter().map(open).collect()
}

/// As [`open_specs`], of one.
///
/// # Errors
/// As [`open_plugins`].
pub fn open_spec(spec: &PluginSpec, log: &Log) -> Result<Box<dyn Protocol>, OpenError> {
    open(spec, &Locks::read()?, log)
}

fn open(spec: &PluginSpec, locks: &Locks, log: &Log) -> Result<Box<dyn Protocol>, OpenError> {
    let (plugin, id) = if spec.as_path().is_some() {
        let (path, id) = spec.name.rsplit_once('#').map_or((spec.name.as_str(), None), |(path, id)| (path, Some(id)));
        let plugin = match locks.find(path) {
            Ok(found) => load(&found.read()?, Consent::Locked(found.entry))?,
            Err(_) => {
                // What is no plugin at all is told as that: consent would not help it.
                let path = PluginFile::read(path)?.path().to_owned();
                return Err(OpenError::NotLocked { path });
            }
        };
        let ids: Vec<String> = plugin.manifest().protocols.iter().map(|protocol| protocol.id.clone()).collect();
        match (id, ids.as_slice()) {
            (Some(id), _) => (plugin, id.to_owned()),
            (None, [only]) => (plugin, only.clone()),
            (None, _) => return Err(OpenError::WhichProtocol { path: path.into(), ids }),
        }
    } else {
        let found = locks.find(&spec.name)?;
        (load(&found.read()?, Consent::Locked(found.entry))?, spec.name.clone())
    };
    let options = typed_options(plugin.protocol_info(&id)?, &spec.options)?;
    Ok(Box::new(open_protocol(&plugin, &id, &options, log)?))
}

/// Opens the protocols whose ops these steps brought in, each node's with the options that its step had: who runs the model needs
/// their kernels. The steps are those of the model, in order.
/// That a plugin has changed since is written to `log`; whether its ops still fit is seen when they are planned.
///
/// # Errors
/// As [`open_plugins`], for a plugin that a lock file names.
pub fn open_recorded(steps: &[Step], log: &Log) -> Result<OpenProtocols, OpenError> {
    let locks = Locks::read()?;
    let mut open = OpenProtocols::default();
    for step in steps.iter().filter(|step| !step.plans.is_empty()) {
        open.made(step.patch_nodes(), (&step.protocol, &step.options), || open_step(step, &locks, log))?;
    }
    Ok(open)
}

fn open_step(step: &Step, locks: &Locks, log: &Log) -> Result<unswag_loader::Protocol, OpenError> {
    let found = locks.find(&step.protocol)?;
    let plugin = load(&found.read()?, Consent::Locked(found.entry))?;
    let sha256 = plugin.sha256().to_string();
    if sha256 != step.plugin.sha256 {
        let (protocol, recorded) = (&step.protocol, &step.plugin.sha256);
        let line = format!(
            "plugin {protocol} is not the build that the surgery was done with: its SHA-256 is {sha256}, the record says \
             {recorded}; what its ops stand for was {}",
            if step.is_unverified() { "not verified with that build either" } else { "verified with that build" }
        );
        log(LogLevel::Warning, &line);
    }
    Ok(plugin.open(&step.protocol, &step.options, log.clone())?)
}

/// Opens one protocol of a loaded plugin.
///
/// # Errors
/// The plugin has no such protocol, or refuses its options.
pub fn open_protocol(
    plugin: &Plugin,
    id: &str,
    options: &Attrs,
    log: &Log,
) -> Result<impl Protocol + 'static, OpenError> {
    Ok(Loaded(plugin.open(id, options, log.clone())?))
}

struct Loaded(unswag_loader::Protocol);

/// The plugin's own sentence where it refused; who said it is told by the error around it.
fn reason(error: PluginError) -> String {
    match error {
        PluginError::Refused { message, .. } => message,
        other => other.to_string(),
    }
}

impl Protocol for Loaded {
    fn id(&self) -> &str {
        self.0.id()
    }

    fn version(&self) -> &str {
        &self.0.info().version
    }

    fn plugin(&self) -> PluginId {
        let manifest = self.0.plugin().manifest();
        PluginId {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            sha256: self.0.plugin().sha256().to_string(),
        }
    }

    fn options(&self) -> &Attrs {
        self.0.options()
    }

    fn library(&self) -> Option<&Plugin> {
        Some(self.0.plugin())
    }

    fn is_default(&self, option: &str, value: &serde_json::Value) -> bool {
        self.0.info().options.get(option).is_some_and(|spec| spec.default.as_ref() == Some(value))
    }

    fn rewrite(&self, graph: &Graph) -> Result<Patch, String> {
        self.0.rewrite(graph).map_err(reason)
    }

    fn plan(&self, call: &OpCall) -> Result<OpPlan, String> {
        self.0.plan(call).map_err(reason)
    }

    fn transform(&self, job: &TransformJob, inputs: &[&[u8]], outputs: &mut [Vec<u8>]) -> Result<(), String> {
        let mut outputs: Vec<&mut [u8]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
        self.0.transform(job, inputs, &mut outputs).map_err(reason)
    }
}
