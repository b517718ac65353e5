//! `unswag fidelity`.

use std::{error::Error, rc::Rc};

use serde_json::json;
use unswag_console::{
    Done,
    args::{Fidelity, Output},
    chain,
    data::{self, Order},
    term,
};
use unswag_data::{Batch, Row};
use unswag_surgery::{Model, open_plugins, open_recorded, operate};
use unswag_train::{Exact, FidelityReport, GradientError, LoraConfig};

use crate::{model, rows::Rows};

pub fn run(args: &Fidelity, output: &Output) -> Result<Done, Box<dyn Error>> {
    let model = model::open(&args.model, args.compute, output)?;
    let limits = model::limits(&model);
    let mut loader = data::open(&args.data, model.root(), limits, Order::default())?;
    model::note_length(args.data.given_row_tokens(), limits, output);
    loader.start_epoch(0);
    let mut taken: Vec<Row> = Vec::new();
    while (taken.len() as u64) < args.rows
        && let Some(row) = loader.next_row()?
    {
        taken.push(row);
    }
    let batches: Vec<Batch> = taken.into_iter().map(|row| Batch::new(&[row], 0)).collect();
    let lora = LoraConfig { r: args.lora_r, lora_alpha: args.lora_r as f64, seed: args.seed, ..LoraConfig::default() };
    let model = model.for_fidelity(lora)?;
    let mut rows = Rows::new(output, batches.len() as u64 * (1 + args.plugins.len() as u64));
    rows.begin("the model as it is");
    let Some(exact) = Exact::new(&model, &batches, &mut rows)? else { return Ok(Done::Stopped) };

    let log = term::plugin_log(output);
    // The weights are in memory by now; the graph is asked for again.
    let plain = Model::open(&args.model, None)?;
    let mut reports = Vec::new();
    for spec in &args.plugins {
        let protocols = open_plugins(std::slice::from_ref(spec), &log)?;
        let operation = operate(&plain, &protocols)?;
        let earlier = plain.record.iter().flat_map(|record| &record.steps);
        let steps: Vec<_> = earlier.chain(&operation.steps).cloned().collect();
        let ops = Rc::new(open_recorded(&steps, &log)?);
        rows.begin(spec);
        let report =
            exact.compare(&operation.after, ops, &mut rows).map_err(|error| format!("{spec}: {}", chain(&error)))?;
        match report {
            Some(report) => reports.push((spec.as_str(), report)),
            None => return Ok(Done::Stopped),
        }
    }
    rows.clear();
    match output.json {
        true => print_json(&reports)?,
        false => print(&reports, &model.dtype().to_string())?,
    }
    Ok(Done::Ok)
}

fn print_json(reports: &[(&str, FidelityReport)]) -> Result<(), Box<dyn Error>> {
    let variant = |(plugin, report): &(&str, FidelityReport)| -> Result<serde_json::Value, serde_json::Error> {
        let mut page = json!({ "plugin": plugin });
        let report = serde_json::to_value(report)?;
        if let (Some(page), serde_json::Value::Object(report)) = (page.as_object_mut(), report) {
            page.extend(report);
        }
        Ok(page)
    };
    let variants = reports.iter().map(variant).collect::<Result<Vec<_>, _>>()?;
    Ok(term::print(&format!("{:#}\n", json!({ "variants": variants })))?)
}

fn print(reports: &[(&str, FidelityReport)], dtype: &str) -> Result<(), Box<dyn Error>> {
    let Some((_, first)) = reports.first() else { return Ok(()) };
    let mut page = format!(
        "{} tokens in {dtype}; the model as it is: loss {:.5}, tensors at most {}\n\n",
        term::thousands(first.tokens),
        first.loss_exact,
        term::bytes(first.peak_bytes_exact)
    );
    let mut table = vec![["plugin", "", "loss", "tensors", "cosine", "error"].map(str::to_owned).to_vec()];
    for (number, (plugin, report)) in reports.iter().enumerate() {
        let (cosine, error) = figures(&report.all);
        let (loss, peak) = (format!("{:.5}", report.loss), term::bytes(report.peak_bytes));
        table.push(vec![term::value(plugin), format!("#{}", number + 1), loss, peak, cosine, error]);
    }
    page.push_str(&aligned(&table));
    page.push('\n');
    let numbers = 1..=reports.len();
    let titles = numbers.flat_map(|number| [format!("#{number} cosine"), "error".to_owned()]);
    let mut table = vec![std::iter::once("layer".to_owned()).chain(titles).collect::<Vec<_>>()];
    for (index, layer) in first.layers.iter().enumerate() {
        let mut row = vec![layer.layer.clone()];
        row.extend(reports.iter().flat_map(|(_, report)| <[String; 2]>::from(figures(&report.layers[index].error))));
        table.push(row);
    }
    page.push_str(&aligned(&table));
    Ok(term::print(&page)?)
}

/// Cosine and relative error; none where a gradient is zero, and has no direction.
fn figures(of: &GradientError) -> (String, String) {
    let shown =
        |value: Option<f64>, digits: usize| value.map_or("none".to_owned(), |value| format!("{value:.digits$}"));
    (shown(of.cosine, 6), shown(of.relative_error, 4))
}

/// The first column to the left, numbers to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let width = *width;
            text.push_str(&if column == 0 { format!("{cell:width$}") } else { format!("  {cell:>width$}") });
        }
        text.push('\n');
    }
    text
}
