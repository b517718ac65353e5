//! `unswag doctor`.

use std::error::Error;

use serde_json::json;
use unswag_loader::device::Machine;

use crate::{
    Done,
    args::Output,
    term::{self, BOLD, DIM, GOOD, paint},
};

pub fn run(output: &Output) -> Result<Done, Box<dyn Error>> {
    let machine = Machine::detect();
    let mut findings = machine.findings();
    super::torch::complete(&mut findings);
    if output.json {
        term::print(&format!("{:#}\n", json!({ "machine": machine, "findings": findings })))?;
        return Ok(Done::Ok);
    }
    let mut page = String::new();
    for finding in findings {
        let mark = if finding.present { paint(GOOD, "+") } else { paint(DIM, "-") };
        page.push_str(&format!(
            "{mark} {}: {}\n    {}\n",
            paint(BOLD, finding.item),
            term::value(finding.found),
            term::value(finding.means)
        ));
    }
    term::print(&page)?;
    Ok(Done::Ok)
}
