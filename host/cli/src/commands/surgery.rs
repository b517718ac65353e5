//! `unswag surgery`.

use std::{
    collections::BTreeMap,
    error::Error,
    mem::ManuallyDrop,
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

use serde_json::json;
use unswag_abi::doc::Graph;
use unswag_checkpoint::RealDisk;
use unswag_graph::{GraphDiff, diff, saved::saved};
use unswag_loader::{Locks, device::Machine};
use unswag_surgery::{
    Model, Operation, Outcome, WriteOptions,
    auto::{Verdict, choose},
    open_plugins, operate,
    record::{Claim, How, Step, Verified},
    write,
};

use crate::{
    Done,
    args::{Output, Surgery},
    commands::plural,
    term::{self, BOLD, DIM, GOOD, NAME, Table, WARN, paint},
};

pub fn run(args: &Surgery, output: &Output) -> Result<Done, Box<dyn Error>> {
    let log = term::plugin_log(output);
    // Each takes some ten milliseconds, and neither needs the other unless the model chooses.
    let (model, plugins) = thread::scope(|scope| {
        let model = scope.spawn(|| Model::open(&args.model.path, args.model.config.as_deref()));
        let plugins = (!args.auto).then(|| open_plugins(&args.plugins, &log));
        (model.join().unwrap_or_else(|panic| resume_unwind(panic)), plugins)
    });
    // Neither these nor the operation are freed: the program ends with this command, and a graph takes a millisecond.
    let model = ManuallyDrop::new(model?);
    let verdicts = if args.auto { automatic(&model.graph)? } else { Vec::new() };
    for verdict in &verdicts {
        let (mark, style) = if verdict.chosen { ("+", GOOD) } else { ("-", DIM) };
        term::note(output, &format!("{} {}: {}", paint(style, mark), verdict.protocol, verdict.because));
    }
    let protocols = match plugins {
        Some(plugins) => plugins?,
        None => {
            let chosen = verdicts.iter().filter(|verdict| verdict.chosen);
            let specs: Vec<String> = chosen.map(|verdict| verdict.protocol.clone()).collect();
            if specs.is_empty() {
                return Err("surgery: no locked plugin suits this model and machine; the reasons are above, \
                            `unswag plugin list` shows the plugins"
                    .into());
            }
            open_plugins(&specs, &log)?
        }
    };
    let operation = ManuallyDrop::new(operate(&model, &protocols)?);
    let out = args.output.clone().unwrap_or_else(|| default_output(&model, &operation));
    let changes = diff(&operation.before, &operation.after);

    if args.dry_run {
        let steps = operation.verified_steps()?;
        if output.json {
            term::print(&format!("{:#}\n", summary(&operation, &steps, &changes, &verdicts, None)))?;
        } else {
            term::print(&format!(
                "{}\nnothing was written (--dry-run); the output would be {}\n",
                report(&operation, &steps, &changes, args.diff),
                term::value(out.display())
            ))?;
        }
        return Ok(Done::Ok);
    }

    let bar = term::byte_bar(output, operation.weight_bytes(&model));
    bar.set_message("writing weights");
    let progress = term::advance(&bar);
    let options = WriteOptions { link: args.link, replace: args.force, disk: &RealDisk, progress: &progress };
    let outcome = write(&model, &operation, &out, options)?;
    bar.finish_and_clear();

    if output.json {
        term::print(&format!("{:#}\n", summary(&operation, &outcome.steps, &changes, &verdicts, Some(&outcome))))?;
    } else if !output.quiet {
        term::print(&format!(
            "{}\n{}",
            report(&operation, &outcome.steps, &changes, args.diff),
            written(&out, &outcome)
        ))?;
    }
    Ok(Done::Ok)
}

fn automatic(graph: &Graph) -> Result<Vec<Verdict>, Box<dyn Error>> {
    let locks = Locks::read()?;
    let protocols: Vec<_> = locks.all().iter().flat_map(|found| found.entry.manifest.protocols.clone()).collect();
    let devices = Machine::detect().devices();
    Ok(choose(graph, &devices, &protocols))
}

/// `./NAME-PROTOCOLS`, in the folder where the user stands.
fn default_output(model: &Model, operation: &Operation<'_>) -> PathBuf {
    let mut name = model.name();
    for step in &operation.steps {
        name.push('-');
        name.push_str(&step.protocol);
    }
    Path::new(".").join(name)
}

/// What changed, for people: each step, the changes in short, the bytes saved for backward.
pub fn report(operation: &Operation<'_>, steps: &[Step], changes: &GraphDiff, all: bool) -> String {
    let mut text = String::new();
    for (at, step) in steps.iter().enumerate() {
        let chosen = operation.chosen_options(at);
        let options: Vec<String> = chosen.map(|(key, value)| format!("{key}={}", plain(value))).collect();
        let options = if options.is_empty() { String::new() } else { format!(" ({})", options.join(", ")) };
        text.push_str(&format!(
            "{} {}{}\n",
            paint(BOLD, &step.protocol),
            term::value(&step.version),
            paint(DIM, options)
        ));
        if let Some(lossy) = &step.patch.lossy {
            text.push_str(&format!("  {} {}\n", paint(WARN, "lossy:"), term::value(lossy)));
        }
        text.extend(step.claims.iter().map(claimed));
    }
    text.push('\n');
    if all {
        text.push_str(&format!("{changes}\n\n"));
    } else {
        text.push_str(&format!("{}\n\n", counts(changes)));
    }
    text.push_str(&saved_table(&operation.before, &operation.after));
    if let Some(note) = forward_note(steps) {
        text.push_str(&format!("\n{} {note}\n", paint(WARN, "note:")));
    }
    text
}

/// `forward: delhi.swiglu is swiglu bit for bit at 46,080 elements (30 nodes)`.
fn claimed(claim: &Claim) -> String {
    let Claim { nodes, verified, .. } = claim;
    let [op, stands_for, detail] = [&claim.op, &claim.stands_for, &claim.detail].map(term::value);
    let nodes = format!("({nodes} {})", plural(*nodes, "node", "nodes"));
    match verified {
        Verified::BitForBit | Verified::UpToRounding => {
            format!("  {} {op} equals {stands_for} {detail} {nodes}\n", paint(GOOD, "forward:"))
        }
        Verified::Unverified => {
            format!(
                "  {} {op} says that it equals {stands_for}; not verified: {detail} {nodes}\n",
                paint(WARN, "forward:")
            )
        }
    }
}

/// How other tools will treat the output, where they cannot open it as the base.
fn forward_note(steps: &[Step]) -> Option<&'static str> {
    let mut changing = steps.iter().filter(|step| !step.is_known_to_keep_forward()).peekable();
    changing.peek()?;
    Some(match changing.any(Step::is_unverified) {
        true => {
            "the forward was not verified to be unchanged: config.json says so, and transformers will refuse the output"
        }
        false => "the model computes something else now: config.json says so, and transformers will refuse the output",
    })
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `30 nodes rewritten (swiglu -> delhi.swiglu), 60 parameters added, …`
fn counts(changes: &GraphDiff) -> String {
    let mut kinds: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for change in &changes.nodes_changed {
        *kinds.entry((&change.kind_before, &change.kind_after)).or_default() += 1;
    }
    let mut parts: Vec<String> = kinds
        .into_iter()
        .map(|((before, after), count)| {
            let nodes = plural(count, "node", "nodes");
            match before == after {
                true => format!("{count} {nodes} of kind {} changed", term::value(before)),
                false => format!("{count} {nodes} rewritten ({} -> {})", term::value(before), paint(NAME, after)),
            }
        })
        .collect();
    let mut tell = |count: usize, one: &str, many: &str| {
        if count > 0 {
            parts.push(format!("{count} {}", plural(count, one, many)));
        }
    };
    tell(changes.nodes_added.len(), "node added", "nodes added");
    tell(changes.nodes_removed.len(), "node removed", "nodes removed");
    tell(changes.params_added.len(), "parameter added", "parameters added");
    tell(changes.params_changed.len(), "parameter changed", "parameters changed");
    tell(changes.params_removed.len(), "parameter dropped", "parameters dropped");
    tell(changes.cache_added.len(), "cache slot added", "cache slots added");
    tell(changes.losses_added.len(), "loss added", "losses added");
    if parts.is_empty() { "the graph did not change".to_owned() } else { parts.join(", ") }
}

/// Bytes saved for backward per token, by kind, before and after.
fn saved_table(before: &Graph, after: &Graph) -> String {
    let by_kind = |graph: &Graph| {
        let mut kinds: BTreeMap<String, (usize, f64)> = BTreeMap::new();
        let report = saved(graph);
        for (node, saved) in graph.nodes.iter().zip(&report.nodes) {
            if saved.bytes_per_token > 0.0 {
                let entry = kinds.entry(node.kind.clone()).or_default();
                entry.0 += 1;
                entry.1 += saved.bytes_per_token;
            }
        }
        (kinds, report.bytes_per_token)
    };
    let ((before, before_total), (after, after_total)) = (by_kind(before), by_kind(after));
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let size = |kinds: &BTreeMap<String, (usize, f64)>, name: &str| {
        kinds.get(name).map_or_else(|| "-".to_owned(), |(_, bytes)| term::thousands(bytes.round() as u64))
    };
    let mut table = Table::new(&["saved for backward, B/token", ">nodes", ">before", ">after", ">"]);
    for name in names {
        let nodes = after.get(name).or(before.get(name)).map_or(0, |(count, _)| *count);
        let changed = before.get(name) != after.get(name);
        let shown = if changed { paint(NAME, name) } else { name.clone() };
        let percent = match (before.get(name), after.get(name)) {
            (Some((_, before)), Some((_, after))) if before != after => change(*before, *after),
            _ => String::new(),
        };
        table.row([shown, nodes.to_string(), size(&before, name), size(&after, name), percent]);
    }
    table.row([
        paint(BOLD, "total"),
        String::new(),
        paint(BOLD, term::thousands(before_total.round() as u64)),
        paint(BOLD, term::thousands(after_total.round() as u64)),
        paint(GOOD, change(before_total, after_total)),
    ]);
    table.render()
}

fn change(before: f64, after: f64) -> String {
    if before > 0.0 { format!("{:+.1} %", (after / before - 1.0) * 100.0) } else { String::new() }
}

/// `wrote OUT (8 files, 258.9 MiB; weight files: 1 copied)`, with the path as it was asked for.
pub fn written(asked: &Path, outcome: &Outcome) -> String {
    let files = &outcome.record.files;
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let weights: Vec<_> = files.iter().filter(|file| file.name.ends_with(".safetensors")).collect();
    let how = |how: How, word: &str| {
        let count = weights.iter().filter(|file| file.how == how).count();
        (count > 0).then(|| format!("{count} {word}"))
    };
    let hows = [
        how(How::Reflinked, "reflinked"),
        how(How::Copied, "copied"),
        how(How::Linked, "hard-linked (read-only: writing to them would change the base)"),
        how(How::Written, "written anew"),
    ];
    let hows: Vec<String> = hows.into_iter().flatten().collect();
    let mut text = format!(
        "{} {} ({} files, {}; weight files: {})\n",
        paint(GOOD, "wrote"),
        term::value(asked.display()),
        files.len() + 1,
        term::bytes(bytes),
        hows.join(", ")
    );
    if let Some(leftover) = &outcome.leftover {
        text.push_str(&format!("the old output could not be removed: {}\n", term::value(leftover.display())));
    }
    text
}

fn summary(
    operation: &Operation<'_>,
    verified: &[Step],
    changes: &GraphDiff,
    verdicts: &[Verdict],
    outcome: Option<&Outcome>,
) -> serde_json::Value {
    let steps: Vec<_> = verified
        .iter()
        .map(|step| {
            json!({
                "protocol": step.protocol, "version": step.version, "plugin": step.plugin, "options": step.options,
                "lossy": step.patch.lossy, "keeps_forward": step.keeps_forward, "claims": step.claims,
            })
        })
        .collect();
    let total = |graph: &Graph| saved(graph).bytes_per_token;
    json!({
        "steps": steps,
        "keeps_forward": verified.iter().all(Step::is_known_to_keep_forward),
        "saved_bytes_per_token": { "before": total(&operation.before), "after": total(&operation.after) },
        "diff": changes,
        "auto": if verdicts.is_empty() { None } else { Some(verdicts) },
        "output": outcome.map(|outcome| json!({ "path": outcome.path, "files": outcome.record.files })),
    })
}
