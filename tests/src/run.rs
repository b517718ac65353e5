//! One run of a program: what it printed, how it ended, how long it took and how much memory it held at most.

use std::io::Read;
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{io, thread};

/// Runs longer than this are killed: a test that hangs says so instead of holding everything up.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// Starts commands and waits for them, measuring.
pub trait Run {
    /// Runs to its end with no input, both outputs captured.
    ///
    /// # Panics
    /// Where the program cannot be started, or runs for longer than five minutes.
    fn outcome(&mut self) -> Outcome;
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub wall: Duration,
    /// The most memory it had resident. An upper bound: the system counts what this test process held when it started it.
    pub peak_rss_bytes: u64,
    /// Time on the processor, in the program and in the system for it: unlike `wall`, hardly longer on a busy machine.
    pub cpu: Duration,
    command: String,
}

impl Outcome {
    /// Requires exit code 0 and returns standard output.
    #[track_caller]
    pub fn ok(&self) -> &str {
        self.code(0);
        &self.stdout
    }

    /// Requires this exit code and returns standard error.
    #[track_caller]
    pub fn code(&self, expected: i32) -> &str {
        assert_eq!(
            self.status.code(),
            Some(expected),
            "{}\nended with {}\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.status,
            self.stdout,
            self.stderr
        );
        &self.stderr
    }
}

impl Run for Command {
    fn outcome(&mut self) -> Outcome {
        let text = format!("{self:?}");
        let start = Instant::now();
        #[expect(clippy::zombie_processes, reason = "reaped below by wait4, which also tells what the process used")]
        let mut child = self
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{text}: {error}"));
        let stdout = capture(child.stdout.take().expect("stdout is piped"));
        let stderr = capture(child.stderr.take().expect("stderr is piped"));
        let pid = libc::pid_t::try_from(child.id()).expect("a process id fits its type");

        let (ended, watch) = mpsc::channel::<()>();
        let watchdog = thread::spawn(move || {
            let is_late = watch.recv_timeout(TIME_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout);
            if is_late {
                // SAFETY: kill takes no pointer. The child is reaped only after this thread was joined, so the id is its.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            is_late
        });
        wait_until_ended(child.id());
        let wall = start.elapsed();
        drop(ended);
        let is_late = watchdog.join().expect("the watchdog does not panic");
        let (status, usage) = reap(pid);
        assert!(!is_late, "{text}: killed after {TIME_LIMIT:?}");
        Outcome {
            status,
            stdout: stdout.join().expect("a reader does not panic"),
            stderr: stderr.join().expect("a reader does not panic"),
            wall,
            peak_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
            cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
            command: text,
        }
    }
}

fn capture(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still what the program printed.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits without reaping, so that the process id stays taken.
fn wait_until_ended(id: libc::id_t) {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        // SAFETY: the pointer is to a live local of the type that waitid writes.
        let result = unsafe { libc::waitid(libc::P_PID, id, info.as_mut_ptr(), libc::WEXITED | libc::WNOWAIT) };
        if result == 0 {
            return;
        }
        let error = io::Error::last_os_error();
        assert!(error.kind() == io::ErrorKind::Interrupted, "waiting for child {id}: {error}");
    }
}

/// Reaps an ended child and takes its resource usage, which the standard library does not give.
fn reap(pid: libc::pid_t) -> (ExitStatus, libc::rusage) {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to live locals of the types that wait4 writes.
    let waited = unsafe { libc::wait4(pid, &mut status, 0, usage.as_mut_ptr()) };
    assert_eq!(waited, pid, "reaping child {pid}: {}", io::Error::last_os_error());
    // SAFETY: zeroed is a valid rusage, and wait4 filled it.
    let usage = unsafe { usage.assume_init() };
    (ExitStatus::from_raw(status), usage)
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
    seconds + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
}
