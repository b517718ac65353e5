//! What is seen while a run is on: a bar on a terminal, plain lines where stderr is a file or a pipe.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use unswag_console::{
    args::Output,
    chain,
    term::{self, WARN, paint},
};
use unswag_train::{Observer, RunPlan, StepMetrics, TrainError};

/// How often a full disk is looked at again.
const DISK_WAIT: Duration = Duration::from_secs(10);

pub struct Live<'a> {
    output: &'a Output,
    logging_steps: u64,
    total_steps: u64,
    bar: Option<ProgressBar>,
    tokens_per_s: f64,
    /// Since the last line.
    losses: Vec<f64>,
    says_disk_full: bool,
}

impl<'a> Live<'a> {
    pub fn new(output: &'a Output, logging_steps: u64) -> Self {
        Live {
            output,
            logging_steps,
            total_steps: 0,
            bar: None,
            tokens_per_s: 0.0,
            losses: Vec::new(),
            says_disk_full: false,
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| term::note(self.output, text)),
            None => term::note(self.output, text),
        }
    }
}

impl Observer for Live<'_> {
    fn started(&mut self, plan: &RunPlan) {
        self.total_steps = plan.total_steps;
        let from = if plan.first_step > 0 { format!(" from step {}", plan.first_step) } else { String::new() };
        self.line(&format!(
            "training {} parameters, {}{from}; a checkpoint takes {}",
            term::count(plan.trainable_parameters),
            term::counted(plan.total_steps, "step"),
            term::bytes(plan.checkpoint_bytes)
        ));
        if plan.paged_bytes > 0 {
            self.line(&format!("the optimizer's state is in a file of {}", term::bytes(plan.paged_bytes)));
        }
        if !term::shows_progress(self.output) {
            return;
        }
        let bar = ProgressBar::new(plan.total_steps).with_position(plan.first_step);
        if let Ok(style) = ProgressStyle::with_template("{pos}/{len} {wide_bar} {msg} {eta}") {
            bar.set_style(style);
        }
        // The time that is left follows from this run's own steps.
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(200));
        self.bar = Some(bar);
    }

    fn stepped(&mut self, metrics: &StepMetrics) {
        self.says_disk_full = false;
        // One step's speed jumps; what people want is the speed of the last few.
        self.tokens_per_s = match self.tokens_per_s {
            0.0 => metrics.tokens_per_s,
            before => 0.8 * before + 0.2 * metrics.tokens_per_s,
        };
        if let Some(loss) = metrics.eval_loss {
            self.line(&format!("step {}: validation loss {loss:.4}", metrics.step));
        }
        if metrics.skipped {
            let what = metrics.not_finite.as_deref().unwrap_or("the loss or a gradient");
            let why = format!("{what} is not finite; no weight was updated");
            self.line(&format!("{} step {} skipped: {why}", paint(WARN, "warning:"), metrics.step));
        }
        if metrics.loss.is_finite() {
            self.losses.push(metrics.loss);
        }
        // One step's loss jumps with its text: the mean since the last line, as transformers prints it.
        let is_due =
            self.bar.is_some() || metrics.step.is_multiple_of(self.logging_steps) || metrics.step == self.total_steps;
        if !is_due {
            return;
        }
        // The sum over nothing is a number, and would be shown as a loss.
        let mean = (!self.losses.is_empty()).then(|| self.losses.iter().sum::<f64>() / self.losses.len() as f64);
        let loss = mean.map_or("no loss".to_owned(), |mean| format!("loss {mean:.4}"));
        if metrics.step.is_multiple_of(self.logging_steps) {
            self.losses.clear();
        }
        let figures = format!("{loss}  {:.0} tok/s  {}", self.tokens_per_s, term::bytes(metrics.peak_bytes));
        match &self.bar {
            Some(bar) => {
                bar.set_position(metrics.step);
                bar.set_message(figures);
                if metrics.step == self.total_steps {
                    bar.finish();
                }
            }
            None => self.line(&format!("step {}/{}  {figures}  lr {:.3e}", metrics.step, self.total_steps, metrics.lr)),
        }
    }

    fn saved(&mut self, path: &Path) {
        self.line(&format!("wrote {}", path.display()));
    }

    fn warned(&mut self, warning: &TrainError) {
        self.line(&format!("{} {}", paint(WARN, "warning:"), chain(warning)));
    }

    fn measured(&mut self, rows: u64, _loss_sum: f64, _tokens: u64) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("validation: {}", term::counted(rows, "row")));
        }
    }

    fn wants_stop(&mut self) -> bool {
        term::interrupted()
    }

    fn tries_again(&mut self, error: &TrainError) -> bool {
        if !std::mem::replace(&mut self.says_disk_full, true) {
            let text = format!(
                "{} {error}; training waits until there is free space (Ctrl-C stops it)",
                paint(WARN, "disk full:")
            );
            // An error, whatever was asked for: without it a quiet run would wait for ever and say nothing.
            match &self.bar {
                Some(bar) => bar.suspend(|| term::problem(&text)),
                None => term::problem(&text),
            }
        }
        let start = Instant::now();
        while start.elapsed() < DISK_WAIT {
            if term::interrupted() {
                return false;
            }
            thread::sleep(Duration::from_millis(100));
        }
        true
    }
}
