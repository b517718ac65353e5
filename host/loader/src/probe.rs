//! A plugin's first start: in a child process that may compute and nothing else, to read its manifest.
//!
//! Opening a library runs its constructors. Before the user has agreed to that, they run here: in a fresh process without
//! environment, files to write, network, further processes or much time ([`Sandbox`]). The child is this program itself,
//! started with [`PROBE_COMMAND`]; it must then call [`probe_child`] before it does anything else.
//!
//! Input: whatever the child sends back, which a hostile constructor may have written. It must never be believed beyond
//! what a manifest is: the plugin's own word about itself. The sandbox shows what a plugin does when it is opened. It does
//! not make a plugin safe to use later, in this process, with all of its rights.

mod child;
mod report;
mod sandbox;

pub(crate) use self::{
    child::take_descriptors,
    sandbox::{Limits, enter as enter_sandbox, system_call_name},
};

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};
use unswag_abi::doc::Manifest;

use self::report::Report;
use crate::{
    file::PluginFile,
    manifest::{ManifestError, parse_manifest},
    memfd::SealError,
    plain,
};

pub use self::{
    child::probe_child,
    report::Stage,
    sandbox::{CPU_LIMIT_S, Sandbox},
};

/// The argument with which this program starts itself as the probe's child. The child calls [`probe_child`].
pub const PROBE_COMMAND: &str = "__probe";

/// How long a plugin may take to open and to say what it is.
pub const PROBE_TIME_LIMIT: Duration = Duration::from_secs(5);

/// A manifest of the largest allowed size, with every byte of it escaped.
const MAX_REPORT_BYTES: usize = 8 << 20;

/// What a plugin prints is kept up to here.
const MAX_OUTPUT_BYTES: usize = 16 << 10;

/// How a probe is run.
#[derive(Clone, Debug)]
pub struct ProbeOptions {
    /// The program to start with [`PROBE_COMMAND`].
    pub program: PathBuf,
    pub time_limit: Duration,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self {
            // This very program, even if its file was replaced or removed since it started.
            program: PathBuf::from("/proc/self/exe"),
            time_limit: PROBE_TIME_LIMIT,
        }
    }
}

/// What a probe found.
#[derive(Clone, Debug)]
pub struct Probe {
    pub manifest: Manifest,
    /// The protections that were active.
    pub sandbox: Sandbox,
    /// What the plugin printed while it opened; a well-behaved one prints nothing.
    pub output: Option<String>,
}

/// A plugin that did not get through its probe.
#[derive(Debug, thiserror::Error)]
#[error(
    "plugin {}: {failure}{}; it ran only in the probe{}",
    path.display(),
    output.as_ref().map(|output| format!(" (it printed: {output})")).unwrap_or_default(),
    sandbox.as_ref().map(|sandbox| format!(" (sandbox: {sandbox})")).unwrap_or_default()
)]
pub struct ProbeError {
    pub path: PathBuf,
    pub failure: ProbeFailure,
    /// The protections that were active; `None` where the child did not come that far.
    pub sandbox: Option<Sandbox>,
    /// What the plugin printed.
    pub output: Option<String>,
}

/// How the probe ended.
#[derive(Debug, thiserror::Error)]
pub enum ProbeFailure {
    #[error("{0} was killed by {1}")]
    Killed(Stage, &'static str),

    #[error("{0} called exit({1})")]
    Exited(Stage, i32),

    #[error("{stage} ran past {} s", limit.as_secs_f64())]
    TimedOut { stage: Stage, limit: Duration },

    #[error("{0} used more than {CPU_LIMIT_S} s of processor time")]
    CpuLimit(Stage),

    /// The names of the system calls, each once.
    #[error("{stage} tried to call {} (refused); a plugin needs no files, network or processes to open", calls.join(", "))]
    Refused { stage: Stage, calls: Vec<String> },

    /// A forbidden system call while signals were blocked, so that its name could not be told.
    #[error(
        "{0} was stopped at a forbidden system call (a process, the network, a file to write, or another process's memory)"
    )]
    Forbidden(Stage),

    /// What the loader, or the check of the layout, said.
    #[error("it does not open: {0}")]
    DoesNotOpen(String),

    #[error(transparent)]
    Manifest(#[from] ManifestError),

    #[error("{0} wrote into the probe's own report")]
    Garbage(Stage),

    #[error("{0}")]
    Seal(#[from] SealError),

    #[error("the probe could not be run: {0}")]
    Io(#[from] io::Error),

    /// The child never got to the plugin.
    #[error("the probe's sandbox could not be set up: {0}")]
    Setup(String),
}

/// Opens a plugin in a sandboxed child process and reads its manifest.
///
/// # Errors
/// [`ProbeError`] says what the plugin did instead.
pub fn probe(file: &PluginFile) -> Result<Probe, ProbeError> {
    probe_with(file, &ProbeOptions::default())
}

/// As [`probe`], with another program as the child, or another time limit.
///
/// # Errors
/// As [`probe`].
pub fn probe_with(file: &PluginFile, options: &ProbeOptions) -> Result<Probe, ProbeError> {
    let early = |failure| error(file.path(), failure, None, None);
    let mut child = start(file, options).map_err(early)?;
    let watched = watch(&mut child, options.time_limit);
    // The child leads its own group. It could start no process, but where seccomp was missing it could.
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let status = child.wait();
    let (report, output, in_time) = watched.map_err(|error| early(error.into()))?;
    let status = status.map_err(|error| early(error.into()))?;

    let report = Report::parse(&report);
    let output = show_output(&output);
    match conclude(&report, status, in_time, options.time_limit) {
        Ok((manifest, sandbox)) => Ok(Probe { manifest, sandbox, output }),
        Err(failure) => Err(error(file.path(), failure, report.sandbox, output)),
    }
}

fn error(path: &Path, failure: ProbeFailure, sandbox: Option<Sandbox>, output: Option<String>) -> ProbeError {
    ProbeError { path: path.to_owned(), failure, sandbox, output }
}

/// Starts the child: the library on standard input, the report on standard output, all that is printed on standard error.
fn start(file: &PluginFile, options: &ProbeOptions) -> Result<Child, ProbeFailure> {
    let sealed = file.sealed()?;
    let child = Command::new(&options.program)
        .arg(PROBE_COMMAND)
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::from(sealed.into_fd()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok(child)
}

/// Reads report and output until the child is done or the time is up. Returns both, and whether it was in time.
fn watch(child: &mut Child, time_limit: Duration) -> io::Result<(Vec<u8>, Vec<u8>, bool)> {
    let deadline = Instant::now() + time_limit;
    let mut report = Pipe::new(child.stdout.take().map(OwnedFd::from), MAX_REPORT_BYTES)?;
    let mut output = Pipe::new(child.stderr.take().map(OwnedFd::from), MAX_OUTPUT_BYTES)?;
    // Without a pidfd (before Linux 5.3), the end of both pipes says that the child is done.
    let exit: Option<OwnedFd> =
        Pid::from_raw(child.id().cast_signed()).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    loop {
        let mut ended = false;
        {
            let mut waits: Vec<PollFd<'_>> = [&report, &output]
                .into_iter()
                .filter_map(|pipe| pipe.source.as_ref())
                .map(|source| PollFd::from_borrowed_fd(source.as_fd(), PollFlags::IN))
                .collect();
            if waits.is_empty() {
                break;
            }
            waits.extend(exit.as_ref().map(|exit| PollFd::new(exit, PollFlags::IN)));
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut waits, Some(&timeout)) {
                Ok(0) => return Ok((report.bytes, output.bytes, false)),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if exit.is_some() {
                ended = waits.last().is_some_and(|exit| !exit.revents().is_empty());
            }
        }
        // Read after asking whether it ended: what it wrote before it ended is then complete.
        report.read()?;
        output.read()?;
        if ended || report.overflowed {
            break;
        }
    }
    Ok((report.bytes, output.bytes, true))
}

/// One pipe from the child, read without waiting. Bytes beyond the limit are dropped.
pub(crate) struct Pipe {
    source: Option<File>,
    pub bytes: Vec<u8>,
    limit: usize,
    overflowed: bool,
}

impl Pipe {
    pub fn new(source: Option<OwnedFd>, limit: usize) -> io::Result<Self> {
        let source = source.map(File::from);
        if let Some(source) = &source {
            fcntl_setfl(source, fcntl_getfl(source)? | OFlags::NONBLOCK)?;
        }
        Ok(Self { source, bytes: Vec::new(), limit, overflowed: false })
    }

    /// Where it can be waited for; `None` once it has ended.
    pub fn source(&self) -> Option<&File> {
        self.source.as_ref()
    }

    pub fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 64 << 10];
        // A child that writes without end is not read without end: the caller looks at the clock in between.
        for _ in 0..64 {
            let Some(source) = &mut self.source else {
                return Ok(());
            };
            match source.read(&mut buffer) {
                Ok(0) => self.source = None,
                Ok(bytes_read) => {
                    let room = self.limit - self.bytes.len();
                    self.overflowed |= bytes_read > room;
                    self.bytes.extend_from_slice(&buffer[..bytes_read.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What the report and the way the child ended say together.
fn conclude(
    report: &Report,
    status: ExitStatus,
    in_time: bool,
    time_limit: Duration,
) -> Result<(Manifest, Sandbox), ProbeFailure> {
    let stage = report.stage;
    if !report.refused.is_empty() {
        return Err(ProbeFailure::Refused { stage: report.refused_in, calls: report.refused.clone() });
    }
    if !in_time {
        return Err(ProbeFailure::TimedOut { stage, limit: time_limit });
    }
    if let Some(signal) = status.signal() {
        return Err(match signal {
            libc::SIGXCPU => ProbeFailure::CpuLimit(stage),
            libc::SIGSYS => ProbeFailure::Forbidden(stage),
            other => ProbeFailure::Killed(stage, signal_name(other)),
        });
    }
    if report.garbled {
        return Err(ProbeFailure::Garbage(stage));
    }
    if let Some(problem) = &report.error {
        return Err(match stage {
            Stage::Setup => ProbeFailure::Setup(problem.clone()),
            _ => ProbeFailure::DoesNotOpen(problem.clone()),
        });
    }
    match (&report.manifest, report.sandbox, status.code()) {
        (Some(text), Some(sandbox), Some(0)) => Ok((parse_manifest(text)?, sandbox)),
        (.., code) => Err(match stage {
            Stage::Setup => ProbeFailure::Setup(format!("the child ended with status {}", code.unwrap_or(-1))),
            _ => ProbeFailure::Exited(stage, code.unwrap_or(-1)),
        }),
    }
}

fn show_output(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    (!text.trim().is_empty()).then(|| format!("{:?}", plain::one_line(&text, 300)))
}

pub(crate) fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGILL => "SIGILL",
        libc::SIGFPE => "SIGFPE",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGKILL => "SIGKILL",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXFSZ => "SIGXFSZ (it wrote to a file)",
        libc::SIGPIPE => "SIGPIPE",
        _ => "a signal",
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Setup => "the probe itself",
            Stage::Constructors => "its constructor",
            Stage::RootModule => "its root module",
            Stage::Manifest => "its manifest function",
        })
    }
}
