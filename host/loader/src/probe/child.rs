//! The probe's child: gives up every right, then opens the library and sends its manifest back.
//!
//! Input: the library, sealed, on standard input. From the moment it opens, its code runs in this process; this process
//! must by then hold nothing that the code could misuse.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::PathBuf,
};

use rustix::{
    io::fcntl_dupfd_cloexec,
    process::{Signal, set_parent_process_death_signal},
    stdio::{dup2_stdin, dup2_stdout},
};

use super::{
    report::{Stage, Writer},
    sandbox,
};
use crate::load;

/// What the program does that was started with [`super::PROBE_COMMAND`]: it never returns. Call it before anything else, while
/// the process has one thread.
pub fn probe_child() -> ! {
    let status = match run() {
        Ok(()) => 0,
        // The parent is gone, or the set-up failed before there was a report; either way nobody is there to tell.
        Err(error) => {
            eprintln!("probe: {error}");
            1
        }
    };
    // Not `exit`: that would run the library's destructors.
    // SAFETY: ends the process; it has no preconditions.
    unsafe { libc::_exit(status) }
}

fn run() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let (library, report) = take_descriptors()?;
    let report_fd = report.as_raw_fd();
    let mut writer = Writer(File::from(report));
    writer.stage(Stage::Setup)?;
    let sandbox = match sandbox::enter(report_fd, &sandbox::PROBE_LIMITS) {
        Ok(sandbox) => sandbox,
        Err(problem) => return writer.error(&problem),
    };
    writer.protections(&sandbox)?;
    let opened = open(&library, &mut writer);
    match opened {
        Ok(manifest) => writer.manifest(&manifest),
        Err(OpenFailure::Plugin(problem)) => writer.error(&problem),
        Err(OpenFailure::Io(error)) => Err(error),
    }
}

enum OpenFailure {
    Plugin(String),
    Io(io::Error),
}

impl From<io::Error> for OpenFailure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<load::OpenError> for OpenFailure {
    fn from(error: load::OpenError) -> Self {
        Self::Plugin(error.to_string())
    }
}

fn open(library: &OwnedFd, writer: &mut Writer<File>) -> Result<String, OpenFailure> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", library.as_raw_fd()));
    writer.stage(Stage::Constructors)?;
    let library = load::dlopen(&path)?;
    writer.stage(Stage::RootModule)?;
    let root = load::root_module(load::library_header(library)?)?;
    writer.stage(Stage::Manifest)?;
    let manifest = root.manifest()();
    // The parent checks it. What is far too long is cut here, so that its memory is not the one to suffer.
    let text = manifest.as_str();
    Ok(text[..text.floor_char_boundary(crate::MAX_MANIFEST_BYTES + 1)].to_owned())
}

/// Moves library and report out of the way of what the plugin may print or read, and closes everything else.
pub(crate) fn take_descriptors() -> io::Result<(OwnedFd, OwnedFd)> {
    let library = above_standard(io::stdin().as_fd())?;
    let report = above_standard(io::stdout().as_fd())?;
    let null = File::open("/dev/null")?;
    dup2_stdin(&null)?;
    // Whatever is printed goes where the parent collects it, and not into the report.
    dup2_stdout(io::stderr().as_fd())?;
    drop(null);
    let (low, high) = (library.as_raw_fd().min(report.as_raw_fd()), library.as_raw_fd().max(report.as_raw_fd()));
    for (first, last) in [(3, low - 1), (low + 1, high - 1), (high + 1, i32::MAX)] {
        close_range(first, last);
    }
    Ok((library, report))
}

fn above_standard(fd: impl AsFd) -> io::Result<OwnedFd> {
    Ok(fcntl_dupfd_cloexec(fd, 64)?)
}

/// Closes descriptors that whoever started the parent left open. Before Linux 5.9 they stay open, without harm to anyone
/// but the one who left them so: the library can neither name nor send them anywhere.
fn close_range(first: i32, last: i32) {
    if first <= last {
        // SAFETY: no object in this process owns a descriptor in these ranges: it has just started.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}
