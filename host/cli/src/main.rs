//! `unswag`: parsing and printing. What a command does is in the crates below it.
//!
//! Exit status: 0 done; 1 compared or checked, and it differs; 2 could not be done; 130 interrupted.

mod args;
mod commands;
mod term;

use std::{error::Error, process::ExitCode};

use clap::Parser;

use args::{Cli, Command};

/// How a command ended that did not fail.
pub enum Done {
    Ok,
    /// It compared or checked, and something differs.
    Differs,
}

fn main() -> ExitCode {
    // The sandboxed child of a plugin's probe: it must come first, while the process has one thread and nothing open.
    if std::env::args_os().nth(1).is_some_and(|first| first == unswag_loader::PROBE_COMMAND) {
        unswag_loader::probe_child();
    }
    let cli = Cli::parse();
    term::init(&cli.output);
    if let Err(error) = term::catch_interrupts() {
        term::note(&cli.output, &format!("cannot catch Ctrl-C ({error}); it will end the program at once"));
    }
    match run(&cli) {
        Ok(Done::Ok) => ExitCode::SUCCESS,
        Ok(Done::Differs) => ExitCode::from(1),
        Err(_) if term::interrupted() => {
            term::error("interrupted; nothing was changed");
            ExitCode::from(130)
        }
        Err(error) => {
            if cli.output.json {
                let _ = term::print(&format!("{}\n", serde_json::json!({ "error": chain(error.as_ref()) })));
            }
            term::error(&chain(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<Done, Box<dyn Error>> {
    let output = &cli.output;
    match &cli.command {
        Command::Surgery(args) => commands::surgery::run(args, output),
        Command::Inspect(args) => commands::inspect::run(args, output),
        Command::Diff(args) => commands::diff::run(args, output),
        Command::Verify(args) => commands::verify::run(args, output),
        Command::Undo(args) => commands::undo::run(args, output),
        Command::Import(args) => commands::import::run(args, output),
        Command::Plugin(args) => commands::plugin::run(&args.command, output),
        Command::Doctor => commands::doctor::run(output),
        Command::Completions(args) => commands::help::completions(args.shell),
        Command::Man { dir } => commands::help::man(dir.as_deref()),
    }
}

/// An error with all its causes; one that repeats what stands before it is left out.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
