//! `unswag preprocess`.

use std::{error::Error, path::Path, sync::Arc};

use serde_json::json;
use unswag_console::data::{self, Order};
use unswag_data::{ChatDataLoader, ChatTemplate, PreviewRow, Tokenizer, preview, preview_chat};

use crate::{
    Done,
    args::{Output, Preprocess},
    term::{self, BAD, BOLD, DIM, GOOD, WARN, paint},
};

pub fn run(args: &Preprocess, output: &Output) -> Result<Done, Box<dyn Error>> {
    let model: &Path = &args.model;
    let tokenizer = Arc::new(Tokenizer::load(model)?);
    let rows = if args.debug { args.rows } else { 0 };
    if args.data.chat {
        return chat(args, &tokenizer, rows, output);
    }
    let spinner = term::spinner(output, "reading data");
    let mut loader = data::open(&args.data, model, Order::default())?;
    let shown = preview(loader.as_mut(), &tokenizer, rows)?;
    let size = loader.epoch_size()?;
    spinner.finish_and_clear();
    if output.json {
        term::print(&format!("{:#}\n", json!({ "epoch": size, "rows": shown })))?;
        return Ok(Done::Ok);
    }
    let mut page: String = shown.iter().enumerate().map(|(index, row)| show(index, row)).collect();
    page.push_str(&format!(
        "{} rows, {} tokens, {} of them learned; the longest row has {}\n",
        term::thousands(size.rows),
        term::thousands(size.tokens),
        term::thousands(size.supervised_tokens),
        term::thousands(size.longest_row_tokens)
    ));
    term::print(&page)?;
    Ok(Done::Ok)
}

fn chat(args: &Preprocess, tokenizer: &Arc<Tokenizer>, rows: usize, output: &Output) -> Result<Done, Box<dyn Error>> {
    let template = Arc::new(ChatTemplate::load(&args.model, tokenizer, None)?);
    let options = data::chat_options(&args.data, Order::default());
    let files = &args.data.data;
    let spinner = term::spinner(output, "reading data");
    let report = ChatDataLoader::report(files, tokenizer.clone(), template.clone(), &options)?;
    let shown = preview_chat(files, tokenizer.clone(), template, &options, rows)?;
    spinner.finish_and_clear();
    let faults: Vec<String> = report.faults.iter().map(ToString::to_string).collect();
    if output.json {
        let page = json!({
            "epoch": {
                "rows": report.rows, "tokens": report.tokens, "supervised_tokens": report.supervised_tokens,
                "longest_row_tokens": report.longest_row_tokens,
            },
            "skipped_rows": report.skipped_rows,
            "truncated_rows": report.truncated_rows,
            "end_of_turn_ids": report.end_of_turn_ids,
            "fault_count": report.fault_count,
            "faults": faults,
            "rows": shown,
        });
        term::print(&format!("{page:#}\n"))?;
    } else {
        let mut page: String = shown.iter().enumerate().map(|(index, row)| show(index, row)).collect();
        page.push_str(&format!(
            "{} rows, {} tokens, {} of them learned; the longest row has {}; {} left out, {} cut off\n",
            term::thousands(report.rows),
            term::thousands(report.tokens),
            term::thousands(report.supervised_tokens),
            term::thousands(report.longest_row_tokens),
            term::thousands(report.skipped_rows),
            term::thousands(report.truncated_rows)
        ));
        faults.iter().for_each(|fault| page.push_str(&format!("{} {}\n", paint(BAD, "fault:"), term::value(fault))));
        let more = report.fault_count - faults.len() as u64;
        if more > 0 {
            page.push_str(&format!("and {} more faults\n", term::thousands(more)));
        }
        term::print(&page)?;
    }
    Ok(if report.fault_count == 0 { Done::Ok } else { Done::Differs })
}

/// A row's tokens: `[…]` what is learned, plain what is not, marked where a text ends.
fn show(index: usize, row: &PreviewRow) -> String {
    let place = row.place.as_deref().map_or(String::new(), |place| format!(" ({})", term::value(place)));
    let learned = row.supervised_tokens;
    let mut page = format!(
        "{}{place}: {} tokens, {learned} learned{}\n",
        paint(BOLD, format!("row {}", index + 1)),
        row.tokens.len(),
        if row.supervises_an_end { "" } else { ", no end among them" },
    );
    for token in &row.tokens {
        let text = token.text.escape_debug().to_string();
        let line = match (token.is_supervised, token.is_eos) {
            (true, true) => paint(GOOD, format!("{:>8}  learn end  {text}", token.id)),
            (true, false) => paint(GOOD, format!("{:>8}  learn      {text}", token.id)),
            (false, true) => paint(WARN, format!("{:>8}  -     end  {text}", token.id)),
            (false, false) => paint(DIM, format!("{:>8}  -          {text}", token.id)),
        };
        page.push_str(&line);
        page.push('\n');
    }
    page
}
