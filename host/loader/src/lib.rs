//! From a file to a running plugin: read, checked, hashed, agreed to, probed in a sandbox, and opened.
//!
//! ```text
//! PluginFile::read ──► probe ──► LockFile::add          once, when the user adds a plugin
//! Locks::find ──► Found::read ──► load ──► Plugin::open ──► Protocol     every time it is used
//!                                  └─────► trial ──► its kernels, in a child process       at surgery, and for `plugin check`
//! ```
//!
//! A native library has this process's rights from the moment it opens, so the decision comes before that. This crate must
//! never run a plugin's code before the user's consent to the exact bytes, save in the sandboxed children of [`probe`] and [`trial()`]; never look for a
//! plugin in the working directory; and never go back to a path after it has read it.

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("plugins are loaded on Linux, x86_64 or aarch64");

mod buffers;
mod digest;
mod elf;
mod engine;
mod exit_guard;
mod file;
mod kernel;
mod load;
mod lock;
mod manifest;
mod memfd;
mod options;
mod plain;
mod plugin;
mod probe;
mod protocol;
mod regular;
mod spec;
mod trial;

pub mod device;
pub mod yaml;

pub use digest::{NotASha256, Sha256};
pub use elf::NotAPlugin;
pub use exit_guard::{end_of_program, guard_exit};
pub use file::{FileError, MAX_PLUGIN_BYTES, PluginFile};
pub use kernel::{Kernel, LaunchOptions};
pub use load::{Consent, LoadError, OpenError, load};
pub use lock::{
    Found, LOCK_FILE_NAME, LOCK_VERSION, LibraryState, LockEntry, LockError, LockFile, Locks, Origin,
    bundled_lock_path, user_lock_path,
};
pub use manifest::{MAX_MANIFEST_BYTES, ManifestError, is_protocol_id, parse_manifest};
pub use memfd::SealError;
pub use options::{OptionError, checked_options, typed_options};
pub use plugin::{Log, LogLevel, OpenProtocolError, Plugin};
pub use probe::{
    PROBE_COMMAND, Probe, ProbeError, ProbeFailure, ProbeOptions, Sandbox, Stage, probe, probe_child, probe_with,
};
pub use protocol::{Built, MAX_DOCUMENT_BYTES, OpenProtocols, PluginError, Protocol, SLOW_CALL};
pub use regular::regular_file;
pub use spec::{PluginSpec, SpecError};
pub use trial::{
    Ending, KERNELS_JOB, KernelAnswers, KernelRun, Library, RunError, SILENCE_LIMIT, TOTAL_LIMIT, TRIAL_COMMAND, Trial,
    TrialError, TrialJob, TrialOptions, Voice, run_kernels, serve_kernels, trial, trial_child,
};
pub use unswag_engine::{Buffer, BufferMut};
