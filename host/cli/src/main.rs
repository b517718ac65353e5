//! `unswag`: parsing and printing. What a command does is in the crates below it; what needs libtorch is in a program of its
//! own, which this one becomes.
//!
//! Exit status: 0 done; 1 compared or checked, and it differs; 2 could not be done; 130 interrupted.

mod commands;

use std::error::Error;

pub(crate) use unswag_console::{Done, args, chain, term};

use args::{Cli, Command};

fn main() {
    // The sandboxed child of a plugin's probe: it must come first, while the process has one thread and nothing open.
    if std::env::args_os().nth(1).is_some_and(|first| first == unswag_loader::PROBE_COMMAND) {
        unswag_loader::probe_child();
    }
    // That of a trial likewise.
    if std::env::args_os().nth(1).is_some_and(|first| first == unswag_loader::TRIAL_COMMAND) {
        commands::trial::serve();
    }
    let cli = args::parse();
    unswag_loader::guard_exit();
    unswag_console::begin(&cli.output);
    let result = run(&cli);
    // Each of these commands writes beside its output and renames at the end: stopped before that, it has changed nothing.
    let status = if result.is_err() && term::interrupted() {
        term::error("interrupted; nothing was changed");
        130
    } else {
        unswag_console::exit(&cli.output, result)
    };
    // The last that happens: up to here an end of the program is a plugin's doing.
    unswag_loader::end_of_program(status);
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
        Command::Plan(args) => commands::plan::run(args, output),
        Command::Train(_) | Command::Fidelity(_) | Command::Eval(_) | Command::Generate(_) => {
            commands::torch::hand_over()
        }
        Command::Run(args) => commands::run::run(args, output),
        Command::Schema { markdown } => commands::help::schema(*markdown),
        Command::Merge(args) => commands::merge::run(args, output),
        Command::Preprocess(args) => commands::preprocess::run(args, output),
        Command::Plugin(args) => commands::plugin::run(&args.command, output),
        Command::Doctor => commands::doctor::run(output),
        Command::Completions(args) => commands::help::completions(args.shell),
        Command::Man { dir } => commands::help::man(dir.as_deref()),
    }
}
