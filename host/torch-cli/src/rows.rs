//! What is seen while rows are measured: a bar on a terminal, and nothing elsewhere.

use std::error::Error;

use indicatif::ProgressBar;
use unswag_console::{args::Output, term};
use unswag_train::Observer;

/// Counts rows, and stops where Ctrl-C says so.
pub struct Rows {
    bar: ProgressBar,
    /// Of measurements before the running one.
    before: u64,
}

impl Rows {
    /// How many rows there are, asked for only where a bar shows it: counting reads the data once more.
    ///
    /// # Errors
    /// Those of `count`.
    pub fn total(output: &Output, count: impl FnOnce() -> Result<u64, Box<dyn Error>>) -> Result<u64, Box<dyn Error>> {
        if term::shows_progress(output) { count() } else { Ok(0) }
    }

    pub fn new(output: &Output, total: u64) -> Self {
        Rows { bar: term::row_bar(output, total), before: 0 }
    }

    /// What is measured next, beside the bar.
    pub fn begin(&mut self, what: &str) {
        self.before = self.bar.position();
        self.bar.set_message(term::value(what));
    }

    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Rows {
    fn measured(&mut self, rows: u64, loss_sum: f64, tokens: u64) {
        self.bar.set_position(self.before + rows);
        if tokens > 0 {
            self.bar.set_message(format!("loss {:.4}", loss_sum / tokens as f64));
        }
    }

    fn wants_stop(&mut self) -> bool {
        term::interrupted()
    }
}
