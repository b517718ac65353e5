//! `unswag merge`.

use std::error::Error;

use unswag_adapter::{Adapter, merge};
use unswag_checkpoint::{Checkpoint, RealDisk};

use crate::{
    Done,
    args::{Merge, Output},
    term::{self, GOOD, Table, paint},
};

pub fn run(args: &Merge, output: &Output) -> Result<Done, Box<dyn Error>> {
    let base = Checkpoint::open(&args.model)?;
    let adapter = Adapter::open(&args.adapter)?;
    let bar = term::byte_bar(output, base.files().iter().map(|file| file.bytes).sum());
    bar.set_message("merging");
    let report = merge(&base, &adapter, &args.output, &RealDisk, &term::advance(&bar))?;
    bar.finish_and_clear();
    if output.json {
        term::print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
        return Ok(Done::Ok);
    }
    if output.quiet {
        return Ok(Done::Ok);
    }
    let mut table = Table::new(&["module", ">|W|", ">|scale B A|", ">|W' - W|", ">changed"]);
    for module in &report.modules {
        table.row([
            module.module.clone(),
            format!("{:.4}", module.weight_norm),
            format!("{:.4}", module.adapter_norm),
            format!("{:.4}", module.delta_norm),
            format!("{:.1} %", 100.0 * module.changed as f64 / module.elements.max(1) as f64),
        ]);
    }
    term::print(&format!("{}{} {}\n", table.render(), paint(GOOD, "wrote"), term::value(args.output.display())))?;
    Ok(Done::Ok)
}
