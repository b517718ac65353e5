//! `unswag-torch`: the commands that compute. `unswag` becomes this program when it is asked for one of them.
//!
//! Parsing and printing only, as in `unswag`: what a command does is in the crates below. Exit status as there.

mod eval;
mod fidelity;
mod generate;
mod live;
mod model;
mod rows;
mod run;
mod train;

use std::error::Error;

use unswag_console::{
    Done,
    args::{self, Cli, Command},
    term,
};

/// Blocks of at least this many bytes go back to the system when they are freed. glibc's own threshold rises with what is freed, to 32 MiB:
/// what is freed below it stays in a heap with holes, which took twice what was planned at 8,192 tokens. Tensors are not freed and
/// made again in each step, so it costs no time.
const MAPPED_BYTES: libc::c_int = 256 << 10;

fn main() {
    // SAFETY: changes one of the allocator's numbers, while the process has one thread. Where it is refused, it stays as it was.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES) };
    let cli = args::parse();
    unswag_loader::guard_exit();
    unswag_console::begin(&cli.output);
    // What came while `unswag` became this program has waited until it can be caught.
    term::release_interrupts();
    let status = unswag_console::exit(&cli.output, run(&cli));
    // The last that happens: up to here an end of the program is a plugin's doing.
    unswag_loader::end_of_program(status);
}

fn run(cli: &Cli) -> Result<Done, Box<dyn Error>> {
    if term::interrupted() {
        return Ok(Done::Stopped);
    }
    match &cli.command {
        Command::Train(args) => train::run(args, &cli.output),
        Command::Fidelity(args) => fidelity::run(args, &cli.output),
        Command::Eval(args) => eval::run(args, &cli.output),
        Command::Generate(args) => generate::run(args, &cli.output),
        Command::Run(args) => run::run(args, &cli.output),
        _ => Err("unswag-torch runs only what needs libtorch; call `unswag`, which has all commands".into()),
    }
}
