//! What the loader's tests share: the plugin on the bare frame, altered copies of it, and libraries made of a few lines of C.

#![allow(dead_code)] // Each test program uses its own part of this.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use unswag_loader::ProbeOptions;

/// The library of `unswag-raw-plugin`. Cargo builds it as a dependency of the tests and puts it beside them.
pub fn raw_plugin() -> PathBuf {
    let test = std::env::current_exe().expect("a test has an executable");
    let library = test.with_file_name("libunswag_raw_plugin.so");
    assert!(library.exists(), "{} is missing; run the tests through cargo", library.display());
    library
}

/// The bytes of the raw plugin with every `from` in them replaced by `to`, of the same length, written to `folder`.
pub fn altered_plugin(folder: &Path, from: &str, to: &str) -> PathBuf {
    assert_eq!(from.len(), to.len(), "offsets in the library must stay what they are");
    let mut bytes = fs::read(raw_plugin()).unwrap();
    let mut replaced = 0;
    for at in 0..bytes.len() - from.len() {
        if bytes[at..].starts_with(from.as_bytes()) {
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
            replaced += 1;
        }
    }
    assert!(replaced > 0, "the library does not hold {from:?}");
    write(folder, "libaltered.so", &bytes)
}

pub fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// Enough of the exported symbol to get a library as far as its constructors.
const ROOT_SYMBOL: &str = "char _1as_0lib_1header_0root_bmodule_bloader[4096] = {1};\n";

/// A shared library whose constructor runs `body`.
pub fn library_with_constructor(folder: &Path, body: &str) -> PathBuf {
    let source = format!(
        "#define _GNU_SOURCE\n\
         #include <errno.h>\n#include <fcntl.h>\n#include <pthread.h>\n#include <signal.h>\n#include <spawn.h>\n\
         #include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <sys/mman.h>\n#include <sys/ptrace.h>\n\
         #include <sys/socket.h>\n#include <sys/stat.h>\n#include <sys/syscall.h>\n#include <sys/wait.h>\n#include <unistd.h>\n\
         extern char **environ;\n{ROOT_SYMBOL}\
         static void *idle(void *p) {{ return p; }}\n\
         __attribute__((constructor)) static void start(void) {{ (void)idle; {body} }}\n"
    );
    compile(folder, &source, &["-shared", "-fPIC"])
}

/// Compiles C with the system's compiler, as the project's set-up needs one anyway.
pub fn compile(folder: &Path, source: &str, arguments: &[&str]) -> PathBuf {
    let source_path = write(folder, "library.c", source.as_bytes());
    let output = folder.join("libfrom_c.so");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let result = Command::new(&compiler)
        .args(arguments)
        .args(["-O1", "-w", "-pthread", "-o"])
        .args([&output, &source_path])
        .output()
        .unwrap_or_else(|error| panic!("the tests need a C compiler; `{compiler}`: {error}"));
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    output
}

/// The tests' own child program.
pub fn probe_options() -> ProbeOptions {
    ProbeOptions {
        program: env!("CARGO_BIN_EXE_unswag-probe-child").into(),
        // A loaded machine must not fail a test; the tests of the limit set their own.
        time_limit: Duration::from_secs(60),
    }
}
