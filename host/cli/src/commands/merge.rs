//! `unswag merge`.

use std::error::Error;

use unswag_adapter::{AdapterError, AdapterSpec, Change, MergeOptions, Rounding, merge};
use unswag_checkpoint::{RealDisk, check_outside};
use unswag_surgery::Model;

use crate::{
    Done,
    args::{Merge, MergeDtype, MergeRounding, Output},
    term::{self, BOLD, DIM, GOOD, Table, WARN, paint},
};

pub fn run(args: &Merge, output: &Output) -> Result<Done, Box<dyn Error>> {
    let model = Model::open(&args.model.path, args.model.config.as_deref())?;
    let (base, graph) = (&model.checkpoint, &model.graph);
    // Before the adapter, which may be of the plain model and have modules that the patches removed.
    if base.own_model_type().is_some() {
        return Err(AdapterError::Patched { path: base.root().to_owned() }.into());
    }
    check_outside(&args.output, &model.bases())?;
    let adapter = AdapterSpec::open(&args.adapter, graph, base)?;
    let options = MergeOptions {
        float32: args.dtype == MergeDtype::Float32,
        rounding: match args.rounding {
            MergeRounding::Nearest => Rounding::Nearest,
            MergeRounding::Stochastic => Rounding::Stochastic { seed: args.seed },
        },
    };
    let bar = term::byte_bar(output, base.files().iter().map(|file| file.bytes).sum());
    bar.set_message("merging");
    let report = merge(base, graph, &adapter, &args.output, options, &RealDisk, &term::advance(&bar))?;
    bar.finish_and_clear();
    if output.json {
        term::print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
        return Ok(Done::Ok);
    }
    if output.quiet {
        return Ok(Done::Ok);
    }
    let mut table = Table::new(&["module", ">|W|", ">|adds|", ">|W' - W|", ">arrived", ">changed"]);
    let rows = report.modules.iter().map(|module| (module.module.clone(), module.change));
    for (name, change) in rows.chain([(paint(BOLD, "all"), report.total)]) {
        table.row(row(name, change));
    }
    let mut page = table.render();
    let legend = "adds: what the adapter adds before rounding; arrived: the share of it that the merged weight has";
    page.push_str(&format!("{}\n", paint(DIM, legend)));
    for note in &report.notes {
        page.push_str(&format!("{} {}\n", paint(WARN, "note:"), term::value(note)));
    }
    term::print(&format!("{page}{} {}\n", paint(GOOD, "wrote"), term::value(args.output.display())))?;
    Ok(Done::Ok)
}

fn row(name: String, change: Change) -> [String; 6] {
    [
        name,
        format!("{:.4}", change.weight_norm),
        format!("{:.4}", change.adapter_norm),
        format!("{:.4}", change.delta_norm),
        change.arrived.map_or("-".to_owned(), |arrived| format!("{:.1} %", 100.0 * arrived)),
        format!("{:.1} %", 100.0 * change.changed as f64 / change.elements.max(1) as f64),
    ]
}
