//! The trial's child: reads its job, gives up every right, opens the library, and does the job.
//!
//! Input: the library, sealed, on standard input; the job's input under the descriptor that the second argument names.

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _},
    path::PathBuf,
};

use rustix::process::{Signal, set_parent_process_death_signal};

use super::{ADDRESS_SPACE_BYTES, CPU_LIMIT_S, read_all};
use crate::{
    digest::Sha256,
    load,
    plugin::Plugin,
    probe::{Limits, enter_sandbox, take_descriptors},
};

/// A pipe takes up to `PIPE_BUF` (4,096) bytes in one piece: a line is never mixed with that of a refused system call.
pub(super) const LINE_BYTES: usize = 4096;

/// What the child is to do.
#[derive(Debug)]
pub struct TrialJob {
    pub name: String,
    pub input: Vec<u8>,
    /// Open in this process. Its hash is not known here and stands as that of no bytes.
    pub plugin: Plugin,
}

/// Sends messages to the parent.
#[derive(Debug)]
pub struct Voice(File);

impl Voice {
    /// Sends one message: a line of text.
    ///
    /// # Errors
    /// The parent is gone.
    pub fn say(&mut self, message: &str) -> io::Result<()> {
        debug_assert!(!message.contains('\n'), "a message is one line");
        let mut pieces = message.as_bytes().chunks(LINE_BYTES - 3).peekable();
        loop {
            let piece = pieces.next().unwrap_or_default();
            let is_last = pieces.peek().is_none();
            self.line(if is_last { b'e' } else { b'm' }, piece)?;
            if is_last {
                return Ok(());
            }
        }
    }

    fn line(&mut self, tag: u8, content: &[u8]) -> io::Result<()> {
        let mut line = Vec::with_capacity(content.len() + 3);
        line.extend_from_slice(&[tag, b' ']);
        line.extend_from_slice(content);
        line.push(b'\n');
        self.0.write_all(&line)
    }
}

/// What the program does that was started with [`super::TRIAL_COMMAND`]: it never returns. Call it before anything else, while the
/// process has one thread. `run` does the job; its error is the trial's.
pub fn trial_child(run: impl FnOnce(TrialJob, &mut Voice) -> Result<(), String>) -> ! {
    // The parent is gone, or started something else: there is no one to report to but the status.
    let status = i32::from(work(run).is_err());
    // Not `exit`: that would run the library's destructors.
    // SAFETY: ends the process; it has no preconditions.
    unsafe { libc::_exit(status) }
}

fn work(run: impl FnOnce(TrialJob, &mut Voice) -> Result<(), String>) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut arguments = std::env::args().skip(2);
    let (input, name) = (arguments.next(), arguments.next().unwrap_or_default());
    let input = input.and_then(|number| number.parse::<i32>().ok()).filter(|&number| number > 2);
    let input = input.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no descriptor of a job"))?;
    // SAFETY: the parent left this descriptor open for this process, and nothing else here knows of it.
    let mut input = unsafe { File::from_raw_fd(input) };
    // The parent wrote it with the same offset.
    input.seek(SeekFrom::Start(0))?;
    let input = read_all(input)?;
    let (library, report) = take_descriptors()?;
    let report_fd = report.as_raw_fd();
    let mut voice = Voice(File::from(report));
    let done = enter_sandbox(report_fd, &Limits { cpu_s: CPU_LIMIT_S, address_space_bytes: ADDRESS_SPACE_BYTES })
        .map_err(|problem| format!("the sandbox could not be set up: {problem}"))
        .and_then(|sandbox| {
            let protections = serde_json::to_string(&sandbox).map_err(|error| error.to_string())?;
            voice.line(b'P', protections.as_bytes()).map_err(|error| error.to_string())?;
            let path = PathBuf::from(format!("/proc/self/fd/{}", library.as_raw_fd()));
            let (raw, manifest) = load::open_path(&path).map_err(|error| format!("it does not open: {error}"))?;
            let plugin = Plugin::new(raw, manifest, path.clone(), Sha256::of(&[]), path);
            run(TrialJob { name, input, plugin }, &mut voice)
        });
    match done {
        Ok(()) => voice.line(b'Z', b""),
        Err(problem) => voice.line(b'E', serde_json::to_string(&crate::plain::one_line(&problem, 600))?.as_bytes()),
    }
}
