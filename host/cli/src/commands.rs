//! One file per command: call the crates below, print what came back.

pub mod diff;
pub mod doctor;
pub mod help;
pub mod import;
pub mod inspect;
pub mod merge;
pub mod plan;
pub mod plugin;
pub mod preprocess;
pub mod run;
pub mod surgery;
pub mod torch;
pub mod undo;
pub mod verify;

use std::sync::Arc;

use unswag_loader::{Log, LogLevel};

use crate::{args::Output, term};

/// Where plugins' lines go: stderr, unless quiet; debugging lines nowhere.
fn plugin_log(output: &Output) -> Log {
    let quiet = output.quiet;
    Arc::new(move |level, line| {
        let style = match level {
            LogLevel::Error => term::BAD,
            LogLevel::Warning => term::WARN,
            LogLevel::Info => term::DIM,
            LogLevel::Debug => return,
        };
        if !quiet {
            term::plugin_line(style, line);
        }
    })
}

/// `a` in singular, `b` in plural.
fn plural<'a>(count: usize, a: &'a str, b: &'a str) -> &'a str {
    if count == 1 { a } else { b }
}
