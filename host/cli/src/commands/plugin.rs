//! `unswag plugin`: start, add, list, look at, check and remove plugins.

use std::{cell::RefCell, error::Error, path::Path};

use serde_json::json;
use unswag_abi::doc::{Graph, Manifest, OpCall, OpPlan, Patch};
use unswag_graph::{Ops, apply};
use unswag_loader::{
    Consent, LockFile, Locks, Origin, Plugin, PluginFile, bundled_lock_path, load, probe, user_lock_path,
};
use unswag_sdk::conformance::{Check, Outcome, Plans, Report, Suite};

use crate::{
    Done,
    args::{Output, PluginCommand},
    commands::plural,
    term::{self, BAD, BOLD, DIM, GOOD, NAME, Table, WARN, paint},
};

pub fn run(command: &PluginCommand, output: &Output) -> Result<Done, Box<dyn Error>> {
    match command {
        PluginCommand::New { name, dir } => new(name, dir.as_deref(), output),
        PluginCommand::Add { path, replace, bundled } => add(path, *replace, *bundled, output),
        PluginCommand::List => list(output),
        PluginCommand::Info { plugin } => info(plugin, output),
        PluginCommand::Check { path } => check(path, output),
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
                json!({ "path": found.library, "sha256": found.entry.sha256.to_string(), "origin": origin(found.origin),
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
    let mut table = Table::new(&["protocol", "version", "claims", "from", "what it does"]);
    for found in &all {
        for protocol in &found.entry.manifest.protocols {
            let hides = if found.hides_bundled { " (hides the bundled one)" } else { "" };
            table.row([
                paint(NAME, &protocol.id),
                protocol.version.clone(),
                protocol.claims.join(" "),
                format!("{}{hides}", origin(found.origin)),
                protocol.summary.clone(),
            ]);
        }
    }
    term::print(&table.render())?;
    Ok(Done::Ok)
}

fn info(name: &str, output: &Output) -> Result<Done, Box<dyn Error>> {
    let locks = Locks::read()?;
    let (manifest, sha256, library, locked) = match locks.find(name) {
        Ok(found) => (found.entry.manifest.clone(), found.entry.sha256, found.library, true),
        // A path that nobody locked may still be looked at: in the sandbox.
        Err(_) if name.contains('/') => {
            let file = PluginFile::read(name)?;
            (probe(&file)?.manifest, file.sha256(), file.path().to_owned(), false)
        }
        Err(error) => return Err(error.into()),
    };
    if output.json {
        let page = json!({ "path": library, "sha256": sha256.to_string(), "locked": locked, "manifest": manifest });
        term::print(&format!("{page:#}\n"))?;
        return Ok(Done::Ok);
    }
    let state = if locked { paint(GOOD, "locked") } else { paint(WARN, "not locked; this was read in a sandbox") };
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

/// Plans through the suite's callback, as a graph's `apply` asks for them.
struct SuiteOps<'a>(&'a Plans<'a>);

impl Ops for SuiteOps<'_> {
    fn plan(&self, call: &OpCall) -> Result<OpPlan, String> {
        (self.0)(call)
    }
}

fn check(path: &Path, output: &Output) -> Result<Done, Box<dyn Error>> {
    let file = PluginFile::read(path)?;
    // The author asked for this very file to be run, by name; but first where it can do no harm.
    probe(&file)?;
    let plugin: Plugin = load(&file, Consent::Unlocked)?;
    let host_apply = |graph: &Graph, patch: &Patch, plans: &Plans<'_>| {
        apply(graph, patch, &SuiteOps(plans)).map(|applied| applied.graph).map_err(|error| crate::chain(&error))
    };
    let shown = RefCell::new(0usize);
    let live = !output.json && !output.quiet;
    let watch = |check: &Check| {
        if live && let Outcome::Failed(why) = &check.outcome {
            *shown.borrow_mut() += 1;
            term::note(output, &format!("{} {}: {}: {why}", paint(BAD, "FAIL"), check.subject, check.claim));
        }
    };
    let report = Suite::new(plugin.raw()).apply(&host_apply).watch(&watch).run();
    if output.json {
        term::print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else if live {
        term::print(&checked(&report))?;
    }
    Ok(if report.passed() { Done::Ok } else { Done::Differs })
}

fn checked(report: &Report) -> String {
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
    let verdict = if report.passed() { paint(GOOD, "conforms") } else { paint(BAD, "does not conform") };
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
