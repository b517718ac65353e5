//! Writes a crate as `unswag plugin new` does: `cargo run -p unswag-scaffold --example new NAME DIR`.

use std::{env, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let args = Vec::from_iter(env::args());
    let [_, name, dir] = args.as_slice() else {
        eprintln!("usage: new NAME DIR");
        return ExitCode::from(2);
    };
    match unswag_scaffold::new_plugin(name, Path::new(dir)) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
