//! `unswag undo`.

use std::error::Error;

use serde_json::json;
use unswag_checkpoint::RealDisk;
use unswag_surgery::{WriteOptions, record_of, undo, verify_bytes};

use crate::{
    Done,
    args::{Output, Undo},
    commands::plural,
    term::{self, GOOD, paint},
};

pub fn run(args: &Undo, output: &Output) -> Result<Done, Box<dyn Error>> {
    let bar = term::byte_bar(output, verify_bytes(&record_of(&args.path)?, false));
    bar.set_message("writing weights");
    let progress = term::advance(&bar);
    let options = WriteOptions { link: false, replace: args.force, disk: &RealDisk, progress: &progress };
    let undone = undo(&args.path, args.output.as_deref(), args.all, args.base.as_deref(), options)?;
    bar.finish_and_clear();
    if output.json {
        let page = json!({ "path": undone.path, "taken_back": undone.steps, "steps_left": undone.left });
        term::print(&format!("{page:#}\n"))?;
    } else if !output.quiet {
        let left = match undone.left {
            0 => "it is a plain checkpoint again".to_owned(),
            left => format!("{left} {} left", plural(left, "step is", "steps are")),
        };
        let steps = term::value(undone.steps.join(", "));
        let path = term::value(undone.path.display());
        term::print(&format!("{} {steps} in {path}; {left}\n", paint(GOOD, "took back")))?;
    }
    if let Some(leftover) = undone.leftover {
        term::note(output, &format!("the old folder could not be removed: {}", leftover.display()));
    }
    Ok(Done::Ok)
}
