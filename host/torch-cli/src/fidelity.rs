//! `unswag fidelity`.

use std::{error::Error, rc::Rc, sync::Arc};

use serde_json::json;
use unswag_abi::doc::Dtype;
use unswag_console::{
    Done,
    args::{Fidelity, Output, Precision},
    data::{self, Order},
    term,
};
use unswag_data::{Batch, Row};
use unswag_surgery::{Model, open_plugins, open_recorded, operate};
use unswag_train::{Exact, FidelityReport, LoraConfig, UnswagModel};

pub fn run(args: &Fidelity, output: &Output) -> Result<Done, Box<dyn Error>> {
    let model = UnswagModel::from_pretrained(&args.model)?;
    let model = match args.dtype {
        Precision::Auto if model.dtype() == Dtype::F16 => model.with_dtype(Dtype::F32),
        Precision::Auto => model,
        Precision::Float32 => model.with_dtype(Dtype::F32),
        Precision::Bfloat16 => model.with_dtype(Dtype::Bf16),
    };
    let mut loader = data::open(&args.data, model.root(), Order::default())?;
    loader.start_epoch(0);
    let mut rows: Vec<Row> = Vec::new();
    while (rows.len() as u64) < args.rows
        && let Some(row) = loader.next_row()?
    {
        rows.push(row);
    }
    let batches: Vec<Batch> = rows.into_iter().map(|row| Batch::new(&[row], 0)).collect();
    let lora = LoraConfig { r: args.lora_r, lora_alpha: args.lora_r as f64, seed: args.seed, ..LoraConfig::default() };
    let model = model.for_fidelity(lora)?;
    let exact = Exact::new(&model, &batches)?;

    let quiet = output.clone();
    let log: unswag_loader::Log = Arc::new(move |_, line| term::note(&quiet, line));
    // The weights are in memory by now; the graph is asked for again.
    let plain = Model::open(&args.model, None)?;
    let mut reports = Vec::new();
    for spec in &args.plugins {
        let protocols = open_plugins(std::slice::from_ref(spec), false, &log)?;
        let operation = operate(&plain, &protocols)?;
        let earlier = plain.record.iter().flat_map(|record| &record.steps);
        let steps: Vec<_> = operation.steps.iter().chain(earlier).cloned().collect();
        let ops = Rc::new(open_recorded(&steps, &log)?);
        reports.push((spec.as_str(), exact.compare(&operation.after, ops)?));
    }
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
    let mut table = vec![["plugin", "loss", "tensors", "cosine", "error"].map(str::to_owned)];
    for (plugin, report) in reports {
        let peak = term::bytes(report.peak_bytes);
        table.push([
            (*plugin).to_owned(),
            format!("{:.5}", report.loss),
            peak,
            format!("{:.6}", report.all.cosine),
            format!("{:.4}", report.all.relative_error),
        ]);
    }
    page.push_str(&aligned(&table));
    for (plugin, report) in reports {
        let mut table = vec![[*plugin, "cosine", "error"].map(str::to_owned)];
        for layer in &report.layers {
            let (cosine, error) = (layer.error.cosine, layer.error.relative_error);
            table.push([layer.layer.clone(), format!("{cosine:.6}"), format!("{error:.4}")]);
        }
        page.push('\n');
        page.push_str(&aligned(&table));
    }
    Ok(term::print(&page)?)
}

/// The first column to the left, numbers to the right.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
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
