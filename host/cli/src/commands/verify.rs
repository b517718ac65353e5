//! `unswag verify`.

use std::error::Error;

use unswag_surgery::{record_of, verify, verify_bytes};

use crate::{
    Done,
    args::{Output, Verify},
    term::{self, BAD, GOOD, WARN, paint},
};

pub fn run(args: &Verify, output: &Output) -> Result<Done, Box<dyn Error>> {
    let bar = term::byte_bar(output, verify_bytes(&record_of(&args.path)?, args.base));
    bar.set_message("hashing");
    let report = verify(&args.path, args.base, &term::advance(&bar))?;
    bar.finish_and_clear();
    if output.json {
        term::print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else if !output.quiet {
        let mut page = String::new();
        for check in &report.checks {
            match &check.fault {
                None => page.push_str(&format!("{} {}\n", paint(GOOD, "ok  "), term::value(&check.what))),
                Some(fault) => page.push_str(&format!(
                    "{} {}\n",
                    paint(BAD, "FAIL"),
                    term::value(format!("{}: {fault}", check.what))
                )),
            }
        }
        if !report.unrecorded.is_empty() {
            page.push_str(&format!(
                "{} not in the record: {}\n",
                paint(WARN, "note:"),
                term::value(report.unrecorded.join(", "))
            ));
        }
        term::print(&page)?;
    }
    Ok(if report.is_sound() { Done::Ok } else { Done::Differs })
}
