//! A plugin's code in a child process: kernels and the conformance suite, where a crash, a loop or an exit is a finding.
//!
//! The child is this program itself, started with [`TRIAL_COMMAND`], in the sandbox of the probe with more memory and time. It runs
//! one job on one library and sends messages. Consent is not asked for: nothing that the plugin does here reaches the user's
//! files, the network or another process.
//!
//! Input: messages of a process that runs the plugin's code. They are untrusted: the caller must accept any
//! text, and an end at any moment. Only the end of the process says that the job is done ([`Ending::Finished`]).

mod child;
mod kernels;

use std::{
    fmt,
    fs::File,
    io::{self, Read as _, Write as _},
    ops::ControlFlow,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    process::{Pid, Signal, kill_process_group},
};

pub use self::{
    child::{TrialJob, Voice, trial_child},
    kernels::{KERNELS_JOB, KernelAnswers, KernelRun, RunError, run_kernels, serve_kernels},
};
use crate::{
    file::PluginFile,
    memfd::SealError,
    plain,
    plugin::Plugin,
    probe::{Pipe, Sandbox, signal_name, system_call_name},
};

/// The argument with which this program starts itself for a trial. The child calls [`trial_child`].
pub const TRIAL_COMMAND: &str = "__trial";

/// How long a trial's child may be silent: longer than any check of a sound plugin takes.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(10);

/// How long a trial may take in all, messages or not.
pub const TOTAL_LIMIT: Duration = Duration::from_secs(900);

/// Processor time of a trial.
pub(crate) const CPU_LIMIT_S: u64 = 600;

/// Address space of the child.
pub(crate) const ADDRESS_SPACE_BYTES: u64 = 4 << 30;

/// Messages of one trial, together.
const MAX_MESSAGE_BYTES: usize = 512 << 20;

/// Most bytes that are stored of what a plugin prints.
const MAX_OUTPUT_BYTES: usize = 16 << 10;

/// How a trial is run.
#[derive(Clone, Debug)]
pub struct TrialOptions {
    /// The program to start with [`TRIAL_COMMAND`].
    pub program: PathBuf,
    /// How long it may take from one message to the next.
    pub silence_limit: Duration,
    /// How long it may take in all.
    pub total_limit: Duration,
}

impl Default for TrialOptions {
    fn default() -> Self {
        // This very program, even if its file was replaced or removed since it started.
        Self { program: PathBuf::from("/proc/self/exe"), silence_limit: SILENCE_LIMIT, total_limit: TOTAL_LIMIT }
    }
}

/// What became of a trial.
#[derive(Clone, Debug)]
pub struct Trial {
    pub ending: Ending,
    /// Names of the system calls that the sandbox refused, each once.
    pub refused: Vec<String>,
    /// What the plugin printed.
    pub output: Option<String>,
    /// The protections that were active; `None` where the child did not come that far.
    pub sandbox: Option<Sandbox>,
}

/// How the child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The job came to its end.
    Finished,
    /// The job itself says why it could not be done.
    Failed(String),
    Exited(i32),
    Killed(&'static str),
    Silent(Duration),
    /// It sent messages, and did not come to its end.
    Overtime(Duration),
    CpuLimit,
    Forbidden,
    /// It sent more than is read, or what is no message.
    Garbage,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("it came to its end"),
            Self::Failed(why) => f.write_str(why),
            Self::Exited(status) => write!(f, "the plugin ended the program: it called exit({status})"),
            Self::Killed(signal) => write!(f, "the plugin crashed: it was killed by {signal}"),
            Self::Silent(limit) => write!(f, "the plugin did not return within {} s", limit.as_secs_f64()),
            Self::Overtime(limit) => write!(f, "the plugin did not come to its end within {} s", limit.as_secs_f64()),
            Self::CpuLimit => write!(f, "the plugin used more than {CPU_LIMIT_S} s of processor time"),
            Self::Forbidden => f.write_str("the plugin was stopped at a forbidden system call"),
            Self::Garbage => f.write_str("the plugin wrote into the trial's report"),
        }
    }
}

/// A trial that could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error("{0}")]
    Seal(#[from] SealError),
    #[error("the trial's child process could not be run: {0}")]
    Io(#[from] io::Error),
}

/// The library of a trial.
#[derive(Clone, Copy, Debug)]
pub enum Library<'a> {
    File(&'a PluginFile),
    /// The bytes of a plugin that is loaded already.
    Loaded(&'a Plugin),
}

impl Library<'_> {
    fn open(self) -> Result<OwnedFd, TrialError> {
        Ok(match self {
            Library::File(file) => file.sealed()?.into_fd(),
            Library::Loaded(plugin) => File::open(plugin.library_path())?.into(),
        })
    }
}

/// Runs `job` with `input`, the pieces one behind the other, in a child process; `heard` is given each message as it comes, and breaks off
/// where no more are expected: the child is then ended, and [`Ending::Garbage`] is what became of it.
///
/// # Errors
/// The child could not be started. Whatever the plugin does there is in [`Trial::ending`].
pub fn trial(
    library: Library<'_>,
    job: &str,
    input: &[&[u8]],
    options: &TrialOptions,
    heard: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Trial, TrialError> {
    let mut child = start(library, job, input, options)?;
    let mut listener = Listener::default();
    let watched = watch(&mut child, options, &mut listener, heard);
    // The child leads its own group. It could start no process, but where seccomp was missing it could.
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let status = child.wait();
    let (output, late) = watched?;
    let text = String::from_utf8_lossy(&output);
    Ok(Trial {
        ending: conclude(&listener, status?, late),
        refused: listener.refused,
        output: (!text.trim().is_empty()).then(|| plain::one_line(&text, 300)),
        sandbox: listener.sandbox,
    })
}

fn start(library: Library<'_>, job: &str, input: &[&[u8]], options: &TrialOptions) -> Result<Child, TrialError> {
    let library = library.open()?;
    // Without CLOEXEC, so that the child has it under the same number. The child reads it first and closes it.
    let input_fd = memfd_create(c"unswag-trial", MemfdFlags::empty()).map_err(io::Error::from)?;
    let mut file = File::from(input_fd);
    for piece in input {
        file.write_all(piece)?;
    }
    let child = Command::new(&options.program)
        .arg(TRIAL_COMMAND)
        .arg(file.as_raw_fd().to_string())
        .arg(job)
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::from(library))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok(child)
}

/// Listens until the child ends, has been silent for too long or takes too long in all. Returns what it printed, and the ending of one that
/// was late.
fn watch(
    child: &mut Child,
    options: &TrialOptions,
    listener: &mut Listener,
    heard: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> io::Result<(Vec<u8>, Option<Ending>)> {
    let end = Instant::now() + options.total_limit;
    let next = || end.min(Instant::now() + options.silence_limit);
    let mut deadline = next();
    let late = |deadline| match deadline == end {
        true => Ending::Overtime(options.total_limit),
        false => Ending::Silent(options.silence_limit),
    };
    let mut report = Pipe::new(child.stdout.take().map(OwnedFd::from), usize::MAX)?;
    let mut output = Pipe::new(child.stderr.take().map(OwnedFd::from), MAX_OUTPUT_BYTES)?;
    loop {
        {
            let sources = [report.source(), output.source()].into_iter().flatten();
            let mut waits: Vec<PollFd<'_>> =
                sources.map(|source| PollFd::from_borrowed_fd(source.as_fd(), PollFlags::IN)).collect();
            // The end of both pipes: the child is done, and so is every thread that it had.
            if waits.is_empty() {
                return Ok((output.bytes, None));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut waits, Some(&timeout)) {
                Ok(0) => return Ok((output.bytes, (!listener.is_done).then(|| late(deadline)))),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        report.read()?;
        output.read()?;
        if listener.take(&mut report.bytes, heard) {
            deadline = next();
        }
        if listener.is_done || listener.is_garbled {
            return Ok((output.bytes, None));
        }
        // Printing without end is no message.
        if Instant::now() >= deadline {
            return Ok((output.bytes, Some(late(deadline))));
        }
    }
}

/// What the child said so far.
#[derive(Debug, Default)]
struct Listener {
    sandbox: Option<Sandbox>,
    refused: Vec<String>,
    failed: Option<String>,
    message: Vec<u8>,
    message_bytes: usize,
    is_done: bool,
    is_garbled: bool,
}

impl Listener {
    /// Takes the complete lines out of `bytes`; whether a message was among them.
    fn take(&mut self, bytes: &mut Vec<u8>, heard: &mut dyn FnMut(&str) -> ControlFlow<()>) -> bool {
        let Some(end) = bytes.iter().rposition(|&byte| byte == b'\n') else {
            // No line of the child's own is longer than a pipe takes in one piece.
            self.is_garbled |= bytes.len() > child::LINE_BYTES;
            return false;
        };
        let rest = bytes.split_off(end + 1);
        let lines = std::mem::replace(bytes, rest);
        let mut is_heard = false;
        for line in lines[..end].split(|&byte| byte == b'\n') {
            match self.line(line) {
                Some(Some(message)) => {
                    is_heard = true;
                    self.is_garbled |= heard(&message).is_break();
                }
                Some(None) => {}
                None => self.is_garbled = true,
            }
        }
        is_heard
    }

    /// Takes one line in: a message where it ends one; `None` where it is no line of a trial.
    fn line(&mut self, line: &[u8]) -> Option<Option<String>> {
        let (tag, content) = (*line.first()?, line.get(2..)?);
        let text = || std::str::from_utf8(content).ok();
        match tag {
            b'P' => {
                let sandbox = serde_json::from_str(text()?).ok()?;
                self.sandbox.get_or_insert(sandbox);
            }
            b'R' => {
                let name = system_call_name(text()?.parse().ok()?);
                if !self.refused.contains(&name) {
                    self.refused.push(name);
                }
            }
            b'E' => self.failed = Some(plain::one_line(&serde_json::from_str::<String>(text()?).ok()?, 4000)),
            b'm' | b'e' => {
                self.message_bytes = self.message_bytes.saturating_add(content.len());
                if self.message_bytes > MAX_MESSAGE_BYTES {
                    return None;
                }
                self.message.extend_from_slice(content);
                if tag == b'e' {
                    let message = std::mem::take(&mut self.message);
                    return Some(Some(String::from_utf8(message).ok()?));
                }
            }
            b'Z' => self.is_done = true,
            _ => return None,
        }
        Some(None)
    }
}

fn conclude(listener: &Listener, status: ExitStatus, late: Option<Ending>) -> Ending {
    if let Some(problem) = &listener.failed {
        return Ending::Failed(problem.clone());
    }
    if listener.is_garbled {
        return Ending::Garbage;
    }
    if listener.is_done {
        return Ending::Finished;
    }
    if let Some(late) = late {
        return late;
    }
    match (status.signal(), status.code()) {
        (Some(libc::SIGXCPU), _) => Ending::CpuLimit,
        (Some(libc::SIGSYS), _) => Ending::Forbidden,
        (Some(signal), _) => Ending::Killed(signal_name(signal)),
        (None, code) => Ending::Exited(code.unwrap_or(-1)),
    }
}

/// Everything that a file holds.
fn read_all(mut file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(file.metadata()?.len()).unwrap_or(0));
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
