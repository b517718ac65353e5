//! How things look: colour on a terminal only, sizes in units people read, aligned tables, progress bars on stderr.
//!
//! A command builds its whole answer first and it is written once, so that a closed pipe (`| head`) ends quietly.

use std::{
    io::{self, IsTerminal, Write},
    ops::ControlFlow,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressStyle};
use unswag_loader::{Log, LogLevel};

use crate::args::{Output, When};

pub const BOLD: Style = Style::new().bold();
pub const DIM: Style = Style::new().dimmed();
pub const GOOD: Style = AnsiColor::Green.on_default();
pub const BAD: Style = AnsiColor::Red.on_default().bold();
pub const WARN: Style = AnsiColor::Yellow.on_default();
pub const NAME: Style = AnsiColor::Cyan.on_default();

/// `text` in `style`; whoever writes it strips the codes where there is no terminal.
pub fn paint(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Settles the question of colour for both streams.
pub fn init(output: &Output) {
    match output.color {
        When::Auto => {}
        When::Always => anstream::ColorChoice::Always.write_global(),
        When::Never => anstream::ColorChoice::Never.write_global(),
    }
}

/// Writes a whole answer to stdout.
///
/// # Errors
/// Anything but a reader that went away: that is how `| head` says it has enough.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// A line for people, on stderr; lost with good grace where stderr is closed.
pub fn note(output: &Output, text: &str) {
    if !output.quiet {
        let _ = writeln!(anstream::stderr(), "{text}");
    }
}

/// A line that `--quiet` does not silence: the command cannot go on before the user does something.
pub fn problem(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
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
            let _ = writeln!(anstream::stderr(), "{} {}", paint(DIM, "plugin:"), paint(style, line));
        }
    })
}

/// An error, on stderr.
pub fn error(text: &str) {
    let _ = writeln!(anstream::stderr(), "{} {text}", paint(BAD, "error:"));
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

/// A bar over bytes on a terminal; nothing where stderr is a file or a pipe, or with `--quiet`.
pub fn byte_bar(output: &Output, total_bytes: u64) -> ProgressBar {
    if output.quiet || output.json || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total_bytes);
    let template = "{msg:24} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
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

/// Columns aligned by their widest cell, numbers to the right. Cells may hold colour codes; they take no width.
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with these headings; those that start with `>` are aligned to the right.
    pub fn new(headings: &[&str]) -> Self {
        let right = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let first = headings.iter().map(|heading| paint(DIM, heading.trim_start_matches('>'))).collect();
        Self { rows: vec![first], right }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    pub fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.right.len())
            .map(|column| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0))
            .collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[column].saturating_sub(width(cell)));
                let gap = if column == 0 { "" } else { "  " };
                let (before, after) = if self.right[column] { (pad.as_str(), "") } else { ("", pad.as_str()) };
                line.push_str(&format!("{gap}{before}{cell}{after}"));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Characters that a terminal shows: everything but colour codes.
fn width(cell: &str) -> usize {
    let mut count = 0;
    let mut rest = cell.chars();
    while let Some(c) = rest.next() {
        if c == '\x1b' {
            rest.by_ref().find(|c| c.is_ascii_alphabetic());
        } else {
            count += 1;
        }
    }
    count
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

    #[test]
    fn colour_takes_no_width() {
        let mut table = Table::new(&["name", ">bytes"]);
        table.row([paint(NAME, "a"), "1".into()]);
        table.row(["long".into(), "1000".into()]);
        let plain: Vec<String> =
            table.render().lines().map(|line| anstream::adapter::strip_str(line).to_string()).collect();
        assert_eq!(plain, ["name  bytes", "a         1", "long   1000"]);
    }
}
