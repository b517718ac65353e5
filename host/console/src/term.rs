//! Terminal output: everything that a command prints passes through here, where what is not the program's own styling is
//! escaped ([`text`]). Colour on a terminal only, sizes in units people read, aligned tables, progress bars on stderr.
//!
//! A command builds its answer first and it is written once, so that a closed pipe (`| head`) ends quietly.

mod table;
mod text;

use std::{
    io::{self, IsTerminal, Write},
    ops::ControlFlow,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use unswag_loader::{Log, LogLevel};

use crate::args::{Output, When};

pub use table::Table;
pub use text::{Style, paint, value};

pub const BOLD: Style = Style::Bold;
pub const DIM: Style = Style::Dim;
pub const GOOD: Style = Style::Good;
pub const BAD: Style = Style::Bad;
pub const WARN: Style = Style::Warn;
pub const NAME: Style = Style::Name;

/// Settles the question of colour for both streams.
pub fn init(output: &Output) {
    match output.color {
        When::Auto => {}
        When::Always => anstream::ColorChoice::Always.write_global(),
        When::Never => anstream::ColorChoice::Never.write_global(),
    }
}

/// Writes a page to stdout: text or one JSON document.
///
/// # Errors
/// Anything but a reader that went away: that is how `| head` says it has enough.
pub fn print(page: &str) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    let written = stdout.write_all(text::render(page).as_bytes()).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes what a model generates to stdout, at once: escaped as a page is on a terminal, and as it is where a program or a file takes it.
/// Returns whether somebody still reads it.
///
/// # Errors
/// As [`print`].
pub fn stream(generated: &str) -> io::Result<bool> {
    let mut stdout = io::stdout().lock();
    let rendered = if stdout.is_terminal() { text::render(generated) } else { generated.to_owned() };
    match stdout.write_all(rendered.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true),
    }
}

/// A line for people, on stderr; a line break in it is escaped. Where stderr is closed, nothing is lost but the line.
pub fn note(output: &Output, line: &str) {
    if !output.quiet {
        to_stderr(&value(line));
    }
}

/// Several lines for people, on stderr.
pub fn note_page(output: &Output, page: &str) {
    if !output.quiet {
        to_stderr(page);
    }
}

/// An error, on stderr: one line.
pub fn error(text: &str) {
    to_stderr(&format!("{} {}", paint(BAD, "error:"), value(text)));
}

fn to_stderr(page: &str) {
    let _ = writeln!(anstream::stderr(), "{}", text::render(page));
}

/// A line that `--quiet` does not silence: the command cannot continue before the user does something.
pub fn problem(text: &str) {
    to_stderr(&value(text));
}

/// Where plugins' lines go: stderr, unless quiet; debugging lines nowhere.
pub fn plugin_log(output: &Output) -> Log {
    let quiet = output.quiet;
    Arc::new(move |level, line| {
        let style = match level {
            LogLevel::Error => BAD,
            LogLevel::Warning => WARN,
            LogLevel::Info => DIM,
            LogLevel::Debug => return,
        };
        if !quiet {
            to_stderr(&format!("{} {}", paint(DIM, "plugin:"), paint(style, line)));
        }
    })
}

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

const INTERRUPTS: [libc::c_int; 2] = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];

/// Makes the first Ctrl-C (or SIGTERM) stop the work in hand cleanly, and the second end the program at once.
pub fn catch_interrupts() -> io::Result<()> {
    for signal in INTERRUPTS {
        signal_hook::flag::register_conditional_shutdown(signal, 130, INTERRUPTED.clone())?;
        signal_hook::flag::register(signal, INTERRUPTED.clone())?;
    }
    Ok(())
}

pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// For a process that is about to become another program by `exec`, which starts without this one's flag: from here on the
/// signals stay pending, and `exec` keeps what is pending. Returns whether one was caught before.
///
/// Another thread that does not block them could still catch one after the flag was read: their default action ends the process
/// instead.
pub fn hold_interrupts() -> bool {
    mask_interrupts(libc::SIG_BLOCK);
    for signal in INTERRUPTS {
        // SAFETY: the default action is valid for both signals, and installing it touches no memory of this process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    interrupted()
}

/// Takes what stayed pending since [`hold_interrupts`], of this process or of the one that became it.
pub fn release_interrupts() {
    mask_interrupts(libc::SIG_UNBLOCK);
}

fn mask_interrupts(how: libc::c_int) {
    // SAFETY: the set is initialised by `sigemptyset` before it is read, and lives until the last call.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        for signal in INTERRUPTS {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Reports progress to a bar, and says to stop once interrupted.
pub fn advance(bar: &ProgressBar) -> impl Fn(u64) -> ControlFlow<()> + Sync + '_ {
    |bytes| {
        bar.inc(bytes);
        if interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Whether progress is shown: on a terminal, but for `--quiet` and `--json`.
pub fn shows_progress(output: &Output) -> bool {
    !output.quiet && !output.json && io::stderr().is_terminal()
}

/// A bar over bytes, where progress is shown.
pub fn byte_bar(output: &Output, total_bytes: u64) -> ProgressBar {
    bar(output, total_bytes, "{msg:24} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}")
}

/// A bar over rows, where progress is shown.
pub fn row_bar(output: &Output, total: u64) -> ProgressBar {
    bar(output, total, "{msg:24} {wide_bar} {human_pos}/{human_len} rows {eta}")
}

/// A sign of work whose length is not known, where progress is shown.
pub fn spinner(output: &Output, doing: &'static str) -> ProgressBar {
    if !shows_progress(output) {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        spinner.set_style(style);
    }
    spinner.set_message(doing);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

fn bar(output: &Output, total: u64, template: &str) -> ProgressBar {
    if !shows_progress(output) {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// 1,234,567 for exact counts.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 step`, `1,200 steps`.
pub fn counted(n: u64, what: &str) -> String {
    format!("{} {what}{}", thousands(n), if n == 1 { "" } else { "s" })
}

/// 134.5M for parameter counts.
pub fn count(n: u64) -> String {
    scaled(n as f64, 1000.0, &["", "K", "M", "B", "T"], "")
}

/// 256.6 MiB for sizes.
pub fn bytes(n: u64) -> String {
    scaled(n as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"], " ")
}

fn scaled(mut value: f64, step: f64, units: &[&str], gap: &str) -> String {
    let mut at = 0;
    while value >= step && at + 1 < units.len() {
        value /= step;
        at += 1;
    }
    let text = if at == 0 || value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.1}") };
    format!("{text}{gap}{}", units[at]).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(269_060_552), "256.6 MiB");
        assert_eq!(count(134_515_008), "134.5M");
        assert_eq!(count(7), "7");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(999), "999");
        assert_eq!([0, 1, 2000].map(|n| counted(n, "step")), ["0 steps", "1 step", "2,000 steps"]);
    }
}
