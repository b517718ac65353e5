//! `unswag plugin`: start, add, list, look at, check and remove plugins.

use std::{error::Error, ops::ControlFlow, path::Path};

use serde_json::json;
use unswag_abi::doc::Manifest;
use unswag_loader::{
    Ending, Library, LibraryState, LockFile, Locks, Origin, PluginFile, TrialOptions, bundled_lock_path, probe, trial,
    user_lock_path,
};
use unswag_sdk::conformance::{Check, Outcome, Report};

use crate::{
    Done,
    args::{Output, PluginCommand},
    commands::{
        plural,
        trial::{CHECK_JOB, Said},
    },
    term::{self, BAD, BOLD, DIM, GOOD, NAME, Table, WARN, paint},
};

pub fn run(command: &PluginCommand, output: &Output) -> Result<Done, Box<dyn Error>> {
    match command {
        PluginCommand::New { name, dir } => new(name, dir.as_deref(), output),
        PluginCommand::Add { path, replace, bundled } => add(path, *replace, *bundled, output),
        PluginCommand::List => list(output),
        PluginCommand::Info { plugin } => info(plugin, output),
        PluginCommand::Check { path } => check(path, output),
        PluginCommand::Kinds => {
            term::print(&unswag_reference::kinds_page())?;
            Ok(Done::Ok)
        }
        PluginCommand::Remove { plugin } => remove(plugin, output),
    }
}

fn new(name: &str, dir: Option<&Path>, output: &Output) -> Result<Done, Box<dyn Error>> {
    let dir = dir.map_or_else(|| Path::new(".").join(name), Path::to_path_buf);
    let files = unswag_scaffold::new_plugin(name, &dir)?;
    if output.json {
        term::print(&format!("{:#}\n", json!({ "path": dir, "files": files })))?;
    } else if !output.quiet {
        let library = format!("target/release/lib{}.so", name.replace('-', "_"));
        term::print(&format!(
            "{} {}: a plugin that builds and passes its tests\n\nnext:\n  cd {}\n  cargo test\n  cargo build --release\n  \
             unswag plugin check {library}\n  unswag plugin add {library}\n",
            paint(GOOD, "wrote"),
            term::value(dir.display()),
            term::value(dir.display())
        ))?;
    }
    Ok(Done::Ok)
}

fn add(path: &Path, replace: bool, bundled: bool, output: &Output) -> Result<Done, Box<dyn Error>> {
    let lock = match bundled {
        true => {
            bundled_lock_path().ok_or("the executable's own folder is not known, so nothing can be locked beside it")?
        }
        false => user_lock_path()?,
    };
    let file = PluginFile::read(path)?;
    let probed = probe(&file)?;
    let entry = LockFile::add(&lock, &file, probed.manifest, replace)?;
    if output.json {
        let page = json!({ "lock": lock, "sha256": entry.sha256.to_string(), "manifest": entry.manifest,
            "sandbox": probed.sandbox.to_string(), "printed": probed.output });
        term::print(&format!("{page:#}\n"))?;
        return Ok(Done::Ok);
    }
    if let Some(printed) = probed.output {
        term::note(output, &format!("{} it printed while it opened: {printed}", paint(WARN, "note:")));
    }
    if !output.quiet {
        let mut page = described(&entry.manifest);
        page.push_str(&format!("sha256   {}\nprobed   in a sandbox: {}\n", entry.sha256, probed.sandbox));
        page.push_str(&format!("{} into {}\n", paint(GOOD, "locked"), term::value(lock.display())));
        term::print(&page)?;
    }
    Ok(Done::Ok)
}

fn list(output: &Output) -> Result<Done, Box<dyn Error>> {
    let locks = Locks::read()?;
    let all = locks.all();
    let origin = |origin: Origin| match origin {
        Origin::User => "user",
        Origin::Bundled => "bundled",
    };
    if output.json {
        let plugins: Vec<_> = all
            .iter()
            .map(|found| {
                json!({ "path": found.library, "sha256": found.entry.sha256.to_string(), "origin": origin(found.origin), "state": found.state(),
                    "hides_bundled": found.hides_bundled, "manifest": found.entry.manifest })
            })
            .collect();
        term::print(&format!("{:#}\n", json!(plugins)))?;
        return Ok(Done::Ok);
    }
    if all.is_empty() {
        term::print("no plugin is locked; `unswag plugin add PATH` adds one, `unswag plugin new NAME` starts one\n")?;
        return Ok(Done::Ok);
    }
    let mut table = Table::new(&["protocol", "version", "claims", "from", "library", "what it does"]);
    for found in &all {
        let state = found.state();
        for protocol in &found.entry.manifest.protocols {
            let hides = if found.hides_bundled { " (hides the bundled one)" } else { "" };
            table.row([
                paint(NAME, &protocol.id),
                protocol.version.clone(),
                protocol.claims.join(" "),
                format!("{}{hides}", origin(found.origin)),
                state_word(state),
                protocol.summary.clone(),
            ]);
        }
    }
    term::print(&table.render())?;
    Ok(Done::Ok)
}

fn state_word(state: LibraryState) -> String {
    match state {
        LibraryState::Locked => paint(GOOD, "locked"),
        LibraryState::Changed => paint(WARN, "changed"),
        LibraryState::Missing => paint(BAD, "missing"),
    }
}

/// What a library's state means for who wants to use it.
fn state_line(state: LibraryState, library: &Path) -> String {
    let library = term::value(library.display());
    let what_to_do = match state {
        LibraryState::Locked => return state_word(state),
        LibraryState::Changed => {
            format!("since it was locked, so it is not run; `unswag plugin add {library}` consents to the new bytes")
        }
        LibraryState::Missing => format!("there is no file; `unswag plugin remove {library}` forgets it"),
    };
    format!("{} {what_to_do}", state_word(state))
}

fn info(name: &str, output: &Output) -> Result<Done, Box<dyn Error>> {
    let locks = Locks::read()?;
    let (manifest, sha256, library, state) = match locks.find(name) {
        Ok(found) => {
            let state = found.state();
            (found.entry.manifest.clone(), found.entry.sha256, found.library, Some(state))
        }
        // A path that nobody locked may still be looked at: in the sandbox.
        Err(_) if name.contains('/') => {
            let file = PluginFile::read(name)?;
            (probe(&file)?.manifest, file.sha256(), file.path().to_owned(), None)
        }
        Err(error) => return Err(error.into()),
    };
    if output.json {
        let page = json!({ "path": library, "sha256": sha256.to_string(), "locked": state.is_some(), "state": state,
            "manifest": manifest });
        term::print(&format!("{page:#}\n"))?;
        return Ok(Done::Ok);
    }
    let state = match state {
        Some(state) => state_line(state, &library),
        None => paint(WARN, "not locked; this was read in a sandbox"),
    };
    let page =
        format!("{}library  {} ({state})\nsha256   {sha256}\n", described(&manifest), term::value(library.display()));
    term::print(&page)?;
    Ok(Done::Ok)
}

/// A manifest for people.
fn described(manifest: &Manifest) -> String {
    let mut page = format!("{} {}\n", paint(BOLD, &manifest.name), term::value(&manifest.version));
    for protocol in &manifest.protocols {
        page.push_str(&format!(
            "\n{} {}  {}\n",
            paint(NAME, &protocol.id),
            term::value(&protocol.version),
            term::value(&protocol.summary)
        ));
        let mut line = |title: &str, words: Vec<String>| {
            if !words.is_empty() {
                page.push_str(&format!("  {:9}{}\n", title, term::value(words.join(", "))));
            }
        };
        line("claims", protocol.claims.clone());
        line("ops", protocol.ops.clone());
        line("devices", protocol.devices.iter().map(|device| format!("{device:?}").to_lowercase()).collect());
        line("requires", protocol.requires.clone());
        if !protocol.options.is_empty() {
            let mut table = Table::new(&["  option", "default", "meaning"]);
            for (name, option) in &protocol.options {
                let default = match &option.default {
                    Some(serde_json::Value::String(text)) if text.is_empty() => "-".to_owned(),
                    Some(serde_json::Value::String(text)) => text.clone(),
                    Some(value) => value.to_string(),
                    None => paint(WARN, "needed"),
                };
                table.row([format!("  {name}"), default, option.description.clone()]);
            }
            page.push_str(&table.render());
        }
    }
    page.push('\n');
    page
}

/// Runs the suite where it can do no harm: the plugin's kernels may loop, crash or end the program, which are findings.
fn check(path: &Path, output: &Output) -> Result<Done, Box<dyn Error>> {
    let file = PluginFile::read(path)?;
    let probed = probe(&file)?;
    if !probed.sandbox.confines() && !is_locked(&file) {
        return Err(format!(
            "plugin {}: this kernel has neither Landlock nor seccomp ({}), so a check would run its kernels with all of your rights, and \
             ran none; `unswag plugin add {0}` consents to its bytes, and then it is checked",
            file.path().display(),
            probed.sandbox
        )
        .into());
    }
    let manifest = probed.manifest;
    let live = !output.json && !output.quiet;
    let mut checks = Vec::new();
    let mut running: Option<(String, String)> = None;
    let note = |check: &Check| {
        if live && let Outcome::Failed(why) = &check.outcome {
            let [subject, claim, why] = [&check.subject, &check.claim, why].map(term::value);
            term::note(output, &format!("{} {subject}: {claim}: {why}", paint(BAD, "FAIL")));
        }
    };
    let heard = &mut |message: &str| {
        match serde_json::from_str(message) {
            Ok(Said::Begins { subject, claim }) => running = Some((subject, claim)),
            Ok(Said::Done(check)) => {
                running = None;
                note(&check);
                checks.push(check);
            }
            // The plugin's own doing: a check that is then missing is not counted as passed.
            Err(_) => {}
        }
        ControlFlow::Continue(())
    };
    let tried = trial(Library::File(&file), CHECK_JOB, &[], &TrialOptions::default(), heard)?;
    let mut failed = |subject: String, claim: String, why: String| {
        let check = Check { subject, claim, outcome: Outcome::Failed(why) };
        note(&check);
        checks.push(check);
    };
    let is_finished = tried.ending == Ending::Finished;
    if !is_finished {
        let (subject, claim) =
            running.unwrap_or_else(|| (manifest.name.clone(), "comes to the end of the suite".to_owned()));
        failed(subject, claim, tried.ending.to_string());
    }
    if !tried.refused.is_empty() {
        let claim = "asks for no file to write, network or process".to_owned();
        failed(manifest.name.clone(), claim, format!("it tried to call {} (refused)", tried.refused.join(", ")));
    }
    let report = Report { plugin: manifest.name, version: manifest.version, checks };
    if output.json {
        term::print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else if live {
        let mut page = checked(&report, is_finished);
        if let Some(sandbox) = tried.sandbox {
            page.push_str(&format!("checked  in a sandbox: {sandbox}\n"));
        }
        term::print(&page)?;
    }
    Ok(match (is_finished, report.passed()) {
        (false, _) => Done::Unfinished,
        (true, true) => Done::Ok,
        (true, false) => Done::Differs,
    })
}

/// Whether a lock file names exactly these bytes at this path.
fn is_locked(file: &PluginFile) -> bool {
    let is_named = |path: &str| {
        let locks = Locks::read().ok()?;
        Some(locks.find(path).ok()?.entry.sha256 == file.sha256())
    };
    file.path().to_str().and_then(is_named).unwrap_or(false)
}

fn checked(report: &Report, is_finished: bool) -> String {
    let mut page = String::new();
    for check in &report.checks {
        let line = match &check.outcome {
            Outcome::Passed(None) => format!("{} {}: {}", paint(GOOD, "ok  "), check.subject, check.claim),
            Outcome::Passed(Some(measured)) => {
                format!(
                    "{} {}: {} {}",
                    paint(GOOD, "ok  "),
                    check.subject,
                    check.claim,
                    paint(DIM, format!("({measured})"))
                )
            }
            Outcome::Failed(why) => format!("{} {}: {}: {why}", paint(BAD, "FAIL"), check.subject, check.claim),
            Outcome::Skipped(why) => {
                format!("{} {}: {} {}", paint(WARN, "skip"), check.subject, check.claim, paint(DIM, format!("({why})")))
            }
        };
        page.push_str(&term::value(line));
        page.push('\n');
    }
    let [passed, failed, skipped] = report.counts();
    let verdict = match (is_finished, report.passed()) {
        (false, _) => paint(BAD, "did not finish: the checks after the last one were not run"),
        (true, true) => paint(GOOD, "conforms"),
        (true, false) => paint(BAD, "does not conform"),
    };
    page.push_str(&format!(
        "\n{} {} {verdict}: {passed} {} passed, {failed} failed, {skipped} skipped\n",
        term::value(&report.plugin),
        term::value(&report.version),
        plural(passed, "check", "checks")
    ));
    page
}

fn remove(name: &str, output: &Output) -> Result<Done, Box<dyn Error>> {
    let entry = LockFile::remove(user_lock_path()?, name)?;
    if output.json {
        term::print(&format!("{:#}\n", json!({ "removed": entry.protocols, "path": entry.path })))?;
    } else if !output.quiet {
        let page = format!(
            "{} {}; the library itself stays at {}\n",
            paint(GOOD, "removed"),
            term::value(entry.protocols.join(", ")),
            term::value(entry.path.display())
        );
        term::print(&page)?;
    }
    Ok(Done::Ok)
}
