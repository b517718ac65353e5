//! What is not a plugin is told by what it is, without running it.

mod support;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use support::{compile, raw_plugin, write};
use tempfile::tempdir;
use unswag_loader::{FileError, PluginFile, Sha256};

#[track_caller]
fn error(path: impl AsRef<Path>) -> String {
    let error = PluginFile::read(path).expect_err("this is no plugin").to_string();
    println!("{error}");
    error
}

/// Byte offsets in an ELF64 header (System V ABI, figure 4-3).
const EI_CLASS: usize = 4;
const EI_DATA: usize = 5;
const E_TYPE: usize = 16;
const E_MACHINE: usize = 18;
const E_PHOFF: usize = 32;
const E_SHOFF: usize = 40;
const E_PHENTSIZE: usize = 54;
const E_PHNUM: usize = 56;
const E_SHNUM: usize = 60;

fn patched(folder: &Path, at: usize, bytes: &[u8]) -> PathBuf {
    let mut library = fs::read(raw_plugin()).unwrap();
    library[at..at + bytes.len()].copy_from_slice(bytes);
    write(folder, "libpatched.so", &library)
}

#[test]
fn a_plugin_is_read_once_and_hashed() {
    let file = PluginFile::read(raw_plugin()).unwrap();
    let bytes = fs::read(raw_plugin()).unwrap();
    assert_eq!(file.bytes(), bytes);
    assert_eq!(file.sha256(), Sha256::of(&bytes));
    let output = Command::new("sha256sum").arg(raw_plugin()).output().unwrap();
    let expected = String::from_utf8(output.stdout).unwrap();
    assert_eq!(expected.split(' ').next().unwrap(), file.sha256().to_string());
}

#[test]
fn a_link_is_followed_to_what_it_means() {
    let folder = tempdir().unwrap();
    let link = folder.path().join("liblink.so");
    symlink(raw_plugin(), &link).unwrap();
    let file = PluginFile::read(&link).unwrap();
    assert_eq!(file.path(), fs::canonicalize(raw_plugin()).unwrap());
}

#[test]
fn what_is_no_file_is_told() {
    let folder = tempdir().unwrap();
    assert!(error(folder.path()).contains("a folder, not a file"));
    assert!(error(folder.path().join("absent.so")).contains("No such file"));
    assert!(error("/dev/null").contains("a device, not a file"));
    let fifo = folder.path().join("fifo.so");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(error(&fifo).contains("a named pipe, not a file"));
    let ring = folder.path().join("ring.so");
    symlink(&ring, &ring).unwrap();
    assert!(error(&ring).contains("cannot be read"));
    assert!(error("nul\0byte.so").contains("cannot be read"));
}

#[test]
fn other_formats_are_named() {
    let folder = tempdir().unwrap();
    for (bytes, name) in [
        (&b""[..], "an empty file"),
        (b"\xcf\xfa\xed\xfe\x0c\0\0\x01", "a Mach-O file (macOS)"),
        (b"\xca\xfe\xba\xbe\0\0\0\x02", "a Mach-O universal file"),
        (b"MZ\x90\0", "a PE file (Windows)"),
        (b"!<arch>\n/               0           0", "a static library"),
        (b"!<arch>\nlib.rmeta/      0           0", "a Rust rlib"),
        (b"#!/bin/sh\n", "a script"),
        (b"[package]\nname = \"x\"\n", "a text file"),
        ("größe".as_bytes(), "a text file"),
        (b"PK\x03\x04", "a compressed archive"),
        (b"\0asm\x01", "a WebAssembly module"),
        (b"\x80\xff\x00\x01", "an unknown binary file"),
        (b"\x7fEL", "an unknown binary file"),
    ] {
        let message = error(write(folder.path(), "other.so", bytes));
        assert!(message.contains(name), "{message}: expected {name}");
        assert!(message.contains("cdylib"), "{message}: expected the next step");
    }
}

/// The rlib that cargo leaves beside the library is what people reach for by mistake.
#[test]
fn a_real_rlib_is_named() {
    let deps = raw_plugin().parent().unwrap().to_owned();
    let rlib = fs::read_dir(deps)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "rlib"))
        .expect("a build leaves rlibs");
    assert!(error(rlib).contains("a Rust rlib"));
}

#[test]
fn another_machine_is_named() {
    let folder = tempdir().unwrap();
    let (here, elsewhere, number) = match std::env::consts::ARCH {
        "x86_64" => ("x86_64", "aarch64", 183u16),
        _ => ("aarch64", "x86_64", 62),
    };
    let message = error(patched(folder.path(), E_MACHINE, &number.to_le_bytes()));
    assert!(message.contains(&format!("built for {elsewhere}, this machine is {here}")), "{message}");
    let message = error(patched(folder.path(), E_MACHINE, &243u16.to_le_bytes()));
    assert!(message.contains("built for RISC-V"), "{message}");
    let message = error(patched(folder.path(), E_MACHINE, &60000u16.to_le_bytes()));
    assert!(message.contains("built for ELF machine 60000"), "{message}");
    let message = error(patched(folder.path(), EI_CLASS, &[1]));
    assert!(message.contains("built for 32-bit"), "{message}");
    let message = error(patched(folder.path(), EI_DATA, &[2]));
    assert!(message.contains("a big-endian machine"), "{message}");
    let message = error(patched(folder.path(), EI_CLASS, &[9]));
    assert!(message.contains("damaged"), "{message}");
}

#[test]
fn other_kinds_of_elf_are_named() {
    let folder = tempdir().unwrap();
    for (number, name) in [(1u16, "an object file"), (2, "an executable"), (4, "a core dump"), (77, "file type 77")] {
        let message = error(patched(folder.path(), E_TYPE, &number.to_le_bytes()));
        assert!(message.contains(name), "{message}");
    }
    let message = error(std::env::current_exe().unwrap());
    assert!(message.contains("an executable, but not an unswag plugin"), "{message}");
    let library = compile(folder.path(), "int answer(void) { return 42; }", &["-shared", "-fPIC"]);
    let message = error(library);
    assert!(message.contains("a shared library, but not an unswag plugin"), "{message}");
}

#[test]
fn an_exported_name_is_not_enough() {
    let folder = tempdir().unwrap();
    let name = "_1as_0lib_1header_0root_bmodule_bloader";
    for source in [format!("void {name}(void) {{}}"), format!("char {name}[8];")] {
        let message = error(compile(folder.path(), &source, &["-shared", "-fPIC"]));
        assert!(message.contains("not a library header"), "{message}");
    }
    // A name that is only wanted, not there.
    let source = format!("extern char {name}[]; char *use(void) {{ return {name}; }}");
    let message = error(compile(folder.path(), &source, &["-shared", "-fPIC"]));
    assert!(message.contains("not an unswag plugin"), "{message}");
}

/// A library cut anywhere would raise SIGBUS in dlopen. Every boundary of its header and its tables, one byte around each,
/// and a spread of places between, must be noticed.
#[test]
fn a_library_cut_anywhere_is_noticed() {
    let folder = tempdir().unwrap();
    let library = fs::read(raw_plugin()).unwrap();
    let u64_at = |at: usize| u64::from_le_bytes(library[at..at + 8].try_into().unwrap());
    let u16_at = |at: usize| usize::from(u16::from_le_bytes(library[at..at + 2].try_into().unwrap()));
    let mut cuts = vec![1, 4, 16, 63, 64, library.len() / 3, library.len() - 1];
    cuts.extend((0..u16_at(E_PHNUM)).map(|index| u64_at(E_PHOFF) as usize + 56 * index));
    let sections = u64_at(E_SHOFF) as usize;
    for index in 0..u16_at(E_SHNUM) {
        cuts.push(sections + 64 * index);
        cuts.push(u64_at(sections + 64 * index + 24) as usize);
    }
    cuts.extend((1..40).map(|part| library.len() / 40 * part));
    let mut checked = 0;
    for cut in cuts.into_iter().flat_map(|cut| [cut.saturating_sub(1), cut, cut + 1]) {
        if cut >= library.len() {
            continue;
        }
        let path = write(folder.path(), "libcut.so", &library[..cut]);
        let error = PluginFile::read(path).expect_err(&format!("cut at {cut}"));
        let FileError::NotAPlugin { reason, .. } = &error else {
            panic!("cut at {cut}: {error}");
        };
        let message = reason.to_string();
        assert!(cut < 4 || message.contains("truncated"), "cut at {cut}: {message}");
        checked += 1;
    }
    assert!(checked > 100, "{checked} cuts");
}

/// Numbers in the header that lie: no panic, no overflow, no allocation by them.
#[test]
fn lying_headers_are_noticed() {
    let folder = tempdir().unwrap();
    for (at, bytes) in [
        (E_PHOFF, &u64::MAX.to_le_bytes()[..]),
        (E_PHOFF, &(u64::MAX - 55).to_le_bytes()),
        (E_SHOFF, &u64::MAX.to_le_bytes()),
        (E_SHOFF, &(1u64 << 40).to_le_bytes()),
        (E_PHENTSIZE, &57u16.to_le_bytes()),
        (E_PHENTSIZE, &0u16.to_le_bytes()),
        (E_PHNUM, &u16::MAX.to_le_bytes()),
        (E_PHNUM, &0u16.to_le_bytes()),
        (E_SHNUM, &u16::MAX.to_le_bytes()),
        (E_SHNUM, &0u16.to_le_bytes()),
    ] {
        error(patched(folder.path(), at, bytes));
    }
}

/// Every byte of header and program headers, each set to 0xff: an answer, whatever it is, and never a crash.
#[test]
fn no_single_byte_of_the_headers_can_crash_the_reader() {
    let folder = tempdir().unwrap();
    let library =
        compile(folder.path(), "char _1as_0lib_1header_0root_bmodule_bloader[4096] = {1};", &["-shared", "-fPIC"]);
    PluginFile::read(&library).unwrap();
    let good = fs::read(&library).unwrap();
    for at in 0..good.len().min(4096) {
        let mut bytes = good.clone();
        bytes[at] = 0xff;
        let _ = PluginFile::read(write(folder.path(), "libbyte.so", &bytes));
    }
}

/// A huge file that is no plugin costs nothing; a sparse one that claims to be one is refused by its size.
#[test]
fn a_huge_file_is_refused_unread() {
    let folder = tempdir().unwrap();
    let path = write(folder.path(), "huge.so", b"text\n");
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(error(&path).contains("not a shared library"));
    let path = write(folder.path(), "huge.so", &fs::read(raw_plugin()).unwrap()[..4096]);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(error(&path).contains("1099511627776 bytes; a plugin has at most 536870912"));
}
