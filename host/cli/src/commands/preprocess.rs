//! `unswag preprocess`.

use std::{error::Error, path::Path, sync::Arc};

use serde_json::json;
use unswag_console::{
    chain,
    data::{self, Order},
};
use unswag_data::{
    ChatDataLoader, ChatTemplate, CompletionDataLoader, DataDescription, DataKind, EpochSize, ModelLimits, Place,
    PreviewRow, Tokenizer, preview_chat, preview_completions, report_text,
};
use unswag_surgery::Model;

use crate::{
    Done,
    args::{Output, Preprocess},
    commands::plan::model_limits,
    term::{self, BAD, BOLD, DIM, GOOD, WARN, paint},
};

pub fn run(args: &Preprocess, output: &Output) -> Result<Done, Box<dyn Error>> {
    let model: &Path = &args.model;
    let tokenizer = Arc::new(Tokenizer::load(model)?);
    let limits = limits(model, output);
    limits.check_ids(&tokenizer)?;
    data::check_rows(&args.data, limits)?;
    if let Some(note) = data::length_note(args.data.given_row_tokens(), limits) {
        term::note(output, &format!("{} {note}", paint(WARN, "note:")));
    }
    let args = &Preprocess { data: data::fitted(&args.data, limits), ..args.clone() };
    let rows = if args.debug { args.rows } else { 0 };
    let data_set = data::look(&args.data)?;
    let files = data_set.describe();
    if args.data.chat {
        return chat(args, &tokenizer, &files, rows, output);
    }
    if data_set.kind()? == DataKind::Completions {
        return completions(args, &tokenizer, &files, rows, output);
    }
    let spinner = term::spinner(output, "reading data");
    let options = data::text_options(&args.data, data_set.kind()?, Order::default())?;
    let report = report_text(&args.data.data, &tokenizer, &options, args.data.packing, rows)?;
    spinner.finish_and_clear();
    if output.json {
        let page = json!({
            "data": files,
            "epoch": report.size,
            "fault_count": report.fault_count,
            "faults": texts(&report.faults),
            "stops": texts(&report.stops),
            "rows": report.shown,
        });
        term::print(&format!("{page:#}\n"))?;
    } else {
        let mut page = format!("{}{}\n", head(&files, false, &report.shown), count(&report.size));
        page.push_str(&faults(&report.faults, report.fault_count, &report.stops));
        term::print(&page)?;
    }
    Ok(if report.fault_count == 0 { Done::Ok } else { Done::Differs })
}

/// The files and the first rows.
fn head(files: &[DataDescription], is_chat: bool, shown: &[PreviewRow]) -> String {
    let about = |file: &DataDescription| {
        let unread = warnings(&data::column_warnings(file));
        format!("{}\n{unread}", term::value(data::describe(file, is_chat)))
    };
    let files = files.iter().map(about);
    files.chain(shown.iter().enumerate().map(|(index, row)| show(index, row))).collect()
}

fn texts(items: &[impl ToString]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn count(size: &EpochSize) -> String {
    format!(
        "{}, {}, {} of them supervised; the longest row has {}",
        term::counted(size.rows, "row"),
        term::counted(size.tokens, "token"),
        term::thousands(size.supervised_tokens),
        term::thousands(size.longest_row_tokens)
    )
}

fn completions(
    args: &Preprocess,
    tokenizer: &Arc<Tokenizer>,
    files: &[DataDescription],
    rows: usize,
    output: &Output,
) -> Result<Done, Box<dyn Error>> {
    let options = data::completion_options(&args.data, Order::default())?;
    let patterns = &args.data.data;
    let spinner = term::spinner(output, "reading data");
    let report = CompletionDataLoader::report(patterns, tokenizer.clone(), &options)?;
    let shown = preview_completions(patterns, tokenizer.clone(), &options, rows)?;
    spinner.finish_and_clear();
    if output.json {
        let page = json!({
            "data": files,
            "epoch": report.size,
            "skipped_rows": report.skipped_rows,
            "truncated_rows": report.truncated_rows,
            "empty_completions": report.empty_completions,
            "shared_tokens": report.shared_tokens,
            "fault_count": report.fault_count,
            "faults": texts(&report.faults),
            "stops": texts(&report.stops),
            "rows": shown,
        });
        term::print(&format!("{page:#}\n"))?;
    } else {
        let mut page = head(files, false, &shown);
        page.push_str(&format!(
            "{}; {} skipped, {} truncated, {} without a completion\n",
            count(&report.size),
            term::thousands(report.skipped_rows),
            term::thousands(report.truncated_rows),
            term::thousands(report.empty_completions)
        ));
        page.push_str(&warnings(&data::row_warnings(report.remarks())));
        page.push_str(&faults(&report.faults, report.fault_count, &report.stops));
        term::print(&page)?;
    }
    Ok(if report.fault_count == 0 { Done::Ok } else { Done::Differs })
}

fn warnings(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{} {}\n", paint(WARN, "warning:"), term::value(line))).collect()
}

/// The first faults, a line each, how many more there are, and where reading stopped.
fn faults(first: &[unswag_data::Error], count: u64, stops: &[Place]) -> String {
    let mut page: String =
        first.iter().map(|fault| format!("{} {}\n", paint(BAD, "fault:"), term::value(fault))).collect();
    let more = count - first.len() as u64;
    if more > 0 {
        page.push_str(&format!("and {} more faults\n", term::thousands(more)));
    }
    for place in stops {
        let place = term::value(place);
        page.push_str(&format!(
            "{} {place}: the file cannot be read further; no row behind is counted\n",
            paint(WARN, "stopped:")
        ));
    }
    page
}

/// What the model beside the tokenizer can look up. A folder may hold a tokenizer alone.
fn limits(model: &Path, output: &Output) -> ModelLimits {
    match Model::open(model, None) {
        Ok(model) => model_limits(&model),
        Err(error) => {
            let why = chain(&error);
            term::note(output, &format!("ids and lengths were not compared with a model's tables: {why}"));
            ModelLimits::default()
        }
    }
}

fn chat(
    args: &Preprocess,
    tokenizer: &Arc<Tokenizer>,
    described: &[DataDescription],
    rows: usize,
    output: &Output,
) -> Result<Done, Box<dyn Error>> {
    let template = Arc::new(ChatTemplate::load(&args.model, tokenizer, None)?);
    let options = data::chat_options(&args.data, Order::default());
    let files = &args.data.data;
    let spinner = term::spinner(output, "reading data");
    let report = ChatDataLoader::report(files, tokenizer.clone(), template.clone(), &options)?;
    let shown = preview_chat(files, tokenizer.clone(), template, &options, rows)?;
    spinner.finish_and_clear();
    let size = EpochSize {
        rows: report.rows,
        tokens: report.tokens,
        supervised_tokens: report.supervised_tokens,
        longest_row_tokens: report.longest_row_tokens,
    };
    if output.json {
        let page = json!({
            "data": described,
            "epoch": size,
            "skipped_rows": report.skipped_rows,
            "truncated_rows": report.truncated_rows,
            "empty_completions": report.empty_completions,
            "end_of_turn_ids": report.end_of_turn_ids,
            "fault_count": report.fault_count,
            "faults": texts(&report.faults),
            "stops": texts(&report.stops),
            "rows": shown,
        });
        term::print(&format!("{page:#}\n"))?;
    } else {
        let mut page = head(described, true, &shown);
        page.push_str(&format!(
            "{}; {} skipped, {} truncated, {} with an empty turn of the assistant\n",
            count(&size),
            term::thousands(report.skipped_rows),
            term::thousands(report.truncated_rows),
            term::thousands(report.empty_completions)
        ));
        page.push_str(&warnings(&data::row_warnings(report.remarks())));
        page.push_str(&faults(&report.faults, report.fault_count, &report.stops));
        term::print(&page)?;
    }
    Ok(if report.fault_count == 0 { Done::Ok } else { Done::Differs })
}

/// A row's tokens, one per line: `loss` for a supervised one, `eos` where a text ends.
fn show(index: usize, row: &PreviewRow) -> String {
    let place = row.place.as_deref().map_or(String::new(), |place| format!(" ({})", term::value(place)));
    let mut page = format!(
        "{}{place}: {}, {} supervised{}\n",
        paint(BOLD, format!("row {}", index + 1)),
        term::counted(row.tokens.len() as u64, "token"),
        term::thousands(row.supervised_tokens as u64),
        if row.supervises_an_end { "" } else { ", no end token supervised" },
    );
    for token in &row.tokens {
        let text = token.text.escape_debug().to_string();
        let line = match (token.is_supervised, token.is_eos) {
            (true, true) => paint(GOOD, format!("{:>8}  loss eos  {text}", token.id)),
            (true, false) => paint(GOOD, format!("{:>8}  loss      {text}", token.id)),
            (false, true) => paint(WARN, format!("{:>8}  -    eos  {text}", token.id)),
            (false, false) => paint(DIM, format!("{:>8}  -         {text}", token.id)),
        };
        page.push_str(&line);
        page.push('\n');
    }
    page
}
