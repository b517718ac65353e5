//! Stands in for the `unswag` binary in the loader's tests: started with the probe's hidden argument, it is the child.

fn main() {
    if std::env::args_os().nth(1).as_deref() == Some(std::ffi::OsStr::new(unswag_loader::PROBE_COMMAND)) {
        unswag_loader::probe_child();
    }
    eprintln!("unswag-probe-child: started by the probe only");
    std::process::exit(2);
}
