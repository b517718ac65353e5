//! Hands a command over to `unswag-torch`, the program that is linked to libtorch, as git does with its sub-commands.
//!
//! It is looked for beside this executable, or where `UNSWAG_TORCH` says, and nowhere else: the working directory and the
//! search path may hold anything. Before this process becomes it, the system's loader is asked whether it finds the program's
//! libraries, because the loader's own words would not say what to do.

use std::{
    env,
    error::Error,
    ffi::OsString,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use unswag_loader::device::Finding;

use crate::{Done, args::Output, term};

const PROGRAM: &str = "unswag-torch";
const VARIABLE: &str = "UNSWAG_TORCH";
/// The item of `unswag doctor` that says where libtorch was found.
const LIBTORCH: &str = "libtorch";

/// Why a command that needs libtorch cannot be run.
#[derive(Debug, thiserror::Error)]
enum Missing {
    #[error("{VARIABLE} is {}: expected the absolute path of {PROGRAM}, got no such file", path.display())]
    Named { path: PathBuf },
    #[error(
        "this command needs libtorch, and {}, the program that is linked to it, is not there; \
         build it (`make torch`), or set {VARIABLE} to its path",
        path.display()
    )]
    Program { path: PathBuf },
    #[error(
        "{}: {library} is not found; set LIBTORCH to the folder whose lib/ holds libtorch 2.11 (`scripts/fetch libtorch` \
         makes one), or LD_LIBRARY_PATH to that lib/",
        path.display()
    )]
    Library { path: PathBuf, library: String },
    #[error("{}: cannot be started", path.display())]
    Start { path: PathBuf, source: std::io::Error },
    #[error("{}: ended by signal {signal} while it checked the training; nothing was written", path.display())]
    Killed { path: PathBuf, signal: i32 },
}

/// Becomes `unswag-torch`, with this process's own arguments; comes back only where that fails.
pub fn hand_over() -> Result<Done, Box<dyn Error>> {
    hand_over_with(env::args_os().skip(1))
}

/// Becomes `unswag-torch` with these arguments; comes back only where that fails.
pub fn hand_over_with(args: impl IntoIterator<Item = OsString>) -> Result<Done, Box<dyn Error>> {
    // Asking the loader starts a process, which must not inherit blocked signals.
    let (path, _) = ready()?;
    let mut command = command(&path);
    command.args(args);
    if term::hold_interrupts() {
        return Ok(Done::Stopped);
    }
    let error = command.exec();
    term::release_interrupts();
    Err(Missing::Start { path, source: error }.into())
}

/// Lets `unswag-torch` check what this command line asks for, before work that would be for nothing: it checks a recipe's training and
/// trains nothing. What it says of a fault goes where this process's own words go.
pub fn check(output: &Output) -> Result<Done, Box<dyn Error>> {
    let (path, _) = ready()?;
    let mut check = command(&path);
    // Notes were said here; errors are said in any case.
    check.args((!output.quiet).then_some("--quiet")).args(env::args_os().skip(1));
    let spinner = term::spinner(output, "checking the training");
    let checked = check.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    spinner.finish_and_clear();
    let checked = checked.map_err(|source| Missing::Start { path: path.clone(), source })?;
    match checked.status.code() {
        Some(0) => Ok(Done::Ok),
        Some(130) => Ok(Done::Stopped),
        _ => {
            term::print(&String::from_utf8_lossy(&checked.stdout))?;
            match checked.status.signal() {
                Some(signal) => Err(Missing::Killed { path, signal }.into()),
                None => Ok(Done::Failed),
            }
        }
    }
}

/// The program, where it and its libraries are found, and the libtorch that the system's loader gives it.
fn ready() -> Result<(PathBuf, Option<PathBuf>), Missing> {
    let path = find()?;
    match libraries(&path) {
        Ok(Libraries { missing: None, libtorch }) => Ok((path, libtorch)),
        Ok(Libraries { missing: Some(library), .. }) => Err(Missing::Library { path, library }),
        Err(source) => Err(Missing::Start { path, source }),
    }
}

/// Completes what `unswag doctor` says: of the program, and of libtorch, which the program may have in a place that is not searched.
pub fn complete(findings: &mut Vec<Finding>) {
    let item = PROGRAM;
    let finding = match ready() {
        Ok((path, libtorch)) => {
            let found = libtorch.as_ref().map(|libtorch| format!(", linked to {}", libtorch.display()));
            let found = format!("{}{}", path.display(), found.unwrap_or_default());
            if let (Some(entry), Some(libtorch)) = (findings.iter_mut().find(|found| found.item == LIBTORCH), libtorch)
                && !entry.present
            {
                entry.present = true;
                entry.found = libtorch.display().to_string();
                entry.means = format!("the one that {PROGRAM} is linked to; surgery does not need it");
            }
            let means = "commands that compute (train, eval, generate, fidelity) can run".to_owned();
            Finding { item, present: true, found, means }
        }
        Err(missing) => {
            let means = "commands that compute (train, eval, generate, fidelity) cannot run; all others can".to_owned();
            Finding { item, present: false, found: missing.to_string(), means }
        }
    };
    findings.push(finding);
}

fn find() -> Result<PathBuf, Missing> {
    if let Some(path) = env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from) {
        // A relative one would be searched for in the working directory.
        return if path.is_absolute() && path.is_file() { Ok(path) } else { Err(Missing::Named { path }) };
    }
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(PROGRAM)));
    let path = beside.unwrap_or_else(|| PathBuf::from(PROGRAM));
    if path.is_absolute() && path.is_file() { Ok(path) } else { Err(Missing::Program { path }) }
}

/// How often an OpenMP thread looks for more work before it sleeps, by GNU's name for it. Its own choice, 300,000, is some
/// milliseconds: where something else wants the cores, threads that only wait then take them from those that work, and a
/// step takes four times as long. This many cost 2 % where nothing else runs.
const SPIN: (&str, &str) = ("GOMP_SPINCOUNT", "10000");

/// The program, told where `LIBTORCH` is. A program that was built with a path of its own looks there first.
fn command(path: &Path) -> Command {
    let mut command = Command::new(path);
    if ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"].iter().all(|set| env::var_os(set).is_none()) {
        command.env(SPIN.0, SPIN.1);
    }
    if let Some(libtorch) = env::var_os("LIBTORCH").filter(|path| Path::new(path).is_absolute()) {
        let mut search: OsString = Path::new(&libtorch).join("lib").into_os_string();
        if let Some(before) = env::var_os("LD_LIBRARY_PATH").filter(|before| !before.is_empty()) {
            search.push(":");
            search.push(before);
        }
        command.env("LD_LIBRARY_PATH", search);
    }
    command
}

/// What the system's loader says of a program.
struct Libraries {
    /// The first that it does not find.
    missing: Option<String>,
    libtorch: Option<PathBuf>,
}

/// The loader lists them in milliseconds, without starting the program; one that cannot list them starts it, and it prints its
/// version.
fn libraries(path: &Path) -> std::io::Result<Libraries> {
    let listed = command(path).arg("--version").env("LD_TRACE_LOADED_OBJECTS", "1").stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&listed.stdout);
    // `libtorch_cpu.so => /path/libtorch_cpu.so (0x00007f...)`, or `=> not found`.
    let entries = || text.lines().filter_map(|line| line.trim().split_once(" => "));
    let missing = entries().find(|(_, found)| found.starts_with("not found")).map(|(name, _)| name.to_owned());
    let libtorch = entries().find(|(name, _)| name.starts_with("libtorch_cpu.so"));
    let libtorch = libtorch.and_then(|(_, found)| Some(PathBuf::from(found.rsplit_once(" (")?.0)));
    Ok(Libraries { missing, libtorch })
}
