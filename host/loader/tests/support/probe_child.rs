//! Stands in for the `unswag` binary in the loader's tests: started with the hidden argument of a probe or a trial, it is the child.

use unswag_loader::{PROBE_COMMAND, TRIAL_COMMAND, probe_child, serve_kernels, trial_child};

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some(PROBE_COMMAND) => probe_child(),
        Some(TRIAL_COMMAND) => trial_child(serve_kernels),
        _ => {}
    }
    eprintln!("unswag-probe-child: started by the probe only");
    std::process::exit(2);
}
