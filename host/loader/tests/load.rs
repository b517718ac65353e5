//! Loading: only with consent to the exact bytes, and then exactly those bytes.

mod support;

use std::{
    fs,
    io::{ErrorKind, Write as _},
};

use support::{altered_plugin, library_with_constructor, probe_options, raw_plugin, write};
use tempfile::tempdir;
use unswag_loader::{Consent, LoadError, LockEntry, LockFile, OpenError, PluginFile, load, probe_with};

/// Locks the raw plugin in a folder of its own and gives the entry.
fn locked(file: &PluginFile, folder: &std::path::Path) -> LockEntry {
    let manifest = probe_with(file, &probe_options()).unwrap().manifest;
    LockFile::add(folder.join("unswag.lock"), file, manifest, false).unwrap()
}

#[test]
fn a_locked_plugin_loads() {
    let folder = tempdir().unwrap();
    let file = PluginFile::read(raw_plugin()).unwrap();
    let entry = locked(&file, folder.path());
    let plugin = load(&file, Consent::Locked(&entry)).unwrap();
    assert_eq!(plugin.manifest().name, "raw");
    assert_eq!((plugin.sha256(), plugin.path()), (file.sha256(), file.path()));
}

#[test]
fn other_bytes_than_the_locked_ones_do_not_run() {
    let folder = tempdir().unwrap();
    let file = PluginFile::read(raw_plugin()).unwrap();
    let entry = locked(&file, folder.path());
    // Its constructor would end this test at once.
    let other = PluginFile::read(library_with_constructor(folder.path(), "_exit(77);")).unwrap();
    let error = load(&other, Consent::Locked(&entry)).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, LoadError::HashMismatch { .. }));
    assert!(message.contains(&file.sha256().to_string()) && message.contains(&other.sha256().to_string()));
    assert!(message.contains("nothing of it was run; if you rebuilt it, run `unswag plugin add"), "{message}");
}

/// Between reading and loading, someone puts another library in its place.
#[test]
fn the_bytes_that_were_hashed_are_the_bytes_that_run() {
    let folder = tempdir().unwrap();
    let path = write(folder.path(), "libplugin.so", &fs::read(raw_plugin()).unwrap());
    let file = PluginFile::read(&path).unwrap();
    let entry = locked(&file, folder.path());
    let trap = library_with_constructor(folder.path(), "_exit(77);");
    fs::rename(trap, &path).unwrap();
    assert_eq!(load(&file, Consent::Locked(&entry)).unwrap().manifest().name, "raw");
    fs::remove_file(&path).unwrap();
    assert_eq!(load(&file, Consent::Unlocked).unwrap().manifest().name, "raw");
}

#[test]
fn the_same_bytes_are_loaded_once() {
    let folder = tempdir().unwrap();
    let copy = write(folder.path(), "libcopy.so", &fs::read(raw_plugin()).unwrap());
    let maps = || fs::read_to_string("/proc/self/maps").unwrap().matches("memfd:unswag-plugin").count();
    let first = load(&PluginFile::read(raw_plugin()).unwrap(), Consent::Unlocked).unwrap();
    let mapped = maps();
    let second = load(&PluginFile::read(copy).unwrap(), Consent::Unlocked).unwrap();
    assert!(mapped > 0);
    assert_eq!(maps(), mapped);
    assert!(std::ptr::eq(first.manifest(), second.manifest()));
}

/// abi_stable's own loader would give the first one twice.
#[test]
fn two_plugins_are_two_plugins() {
    let folder = tempdir().unwrap();
    let other = altered_plugin(folder.path(), r#""name":"raw""#, r#""name":"two""#);
    let first = load(&PluginFile::read(raw_plugin()).unwrap(), Consent::Unlocked).unwrap();
    let second = load(&PluginFile::read(other).unwrap(), Consent::Unlocked).unwrap();
    assert_eq!((first.manifest().name.as_str(), second.manifest().name.as_str()), ("raw", "two"));
}

#[test]
fn a_loaded_library_cannot_be_changed_by_anyone() {
    let _plugin = load(&PluginFile::read(raw_plugin()).unwrap(), Consent::Unlocked).unwrap();
    let mut seen = 0;
    for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        if target.to_string_lossy().contains("unswag-plugin") {
            let mut file = fs::OpenOptions::new().write(true).open(entry.path()).unwrap();
            assert_eq!(file.write(b"x").unwrap_err().kind(), ErrorKind::PermissionDenied);
            assert!(file.set_len(0).is_err());
            seen += 1;
        }
    }
    assert_eq!(seen, 1);
}

#[test]
fn a_plugin_after_one_that_does_not_fit_is_itself() {
    let folder = tempdir().unwrap();
    let bad = PluginFile::read(altered_plugin(folder.path(), "scratch_bytes", "scratch_sizes")).unwrap();
    load(&bad, Consent::Unlocked).unwrap_err();
    let good = PluginFile::read(raw_plugin()).unwrap();
    assert_eq!(load(&good, Consent::Unlocked).unwrap().manifest().name, "raw");
}

/// What fails to open is closed again; a plugin that is loaded keeps its one descriptor.
#[test]
fn a_failed_load_leaves_nothing_open() {
    let folder = tempdir().unwrap();
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    // It has one of its own for as long as it lives.
    let file = PluginFile::read(altered_plugin(folder.path(), "libgcc_s.so.1", "libnot_h.so.1")).unwrap();
    let before = descriptors();
    for _ in 0..3 {
        load(&file, Consent::Unlocked).unwrap_err();
    }
    assert_eq!(descriptors(), before);
}

/// A plugin that answered otherwise in its probe than it does here.
#[test]
fn a_manifest_that_changed_since_consent_is_refused() {
    let folder = tempdir().unwrap();
    let file = PluginFile::read(raw_plugin()).unwrap();
    let mut entry = locked(&file, folder.path());
    entry.manifest.protocols[0].summary = "Something harmless.".to_owned();
    let error = load(&file, Consent::Locked(&entry)).unwrap_err();
    assert!(error.to_string().contains("not the one that was shown"), "{error}");
}

#[test]
fn another_abi_stable_is_named() {
    let folder = tempdir().unwrap();
    let from = "abi stable library for Rust     \0\0\0\0\u{b}";
    let to = "abi stable library for Rust     \0\0\0\0\u{c}";
    let file = PluginFile::read(altered_plugin(folder.path(), from, to)).unwrap();
    let error = load(&file, Consent::Unlocked).unwrap_err();
    assert!(error.to_string().contains("built with abi_stable 0.12, this unswag with 0.11"), "{error}");
}

#[test]
fn another_frame_is_named() {
    let folder = tempdir().unwrap();
    let file = PluginFile::read(altered_plugin(folder.path(), "1.0.0", "2.0.0")).unwrap();
    let error = load(&file, Consent::Unlocked).unwrap_err();
    assert!(error.to_string().contains("version 2.0.0 of the plugin frame, this unswag has 1.0.0"), "{error}");
}

/// The layout report of abi_stable runs to a thousand lines.
#[test]
fn another_layout_is_told_in_one_line() {
    let folder = tempdir().unwrap();
    // The names of `Launch`'s fields, one after the other, as abi_stable keeps them.
    let file = PluginFile::read(altered_plugin(folder.path(), "scratch_bytes", "scratch_sizes")).unwrap();
    let error = load(&file, Consent::Unlocked).unwrap_err();
    let message = error.to_string();
    println!("{message}");
    assert!(matches!(error, LoadError::Open { reason: OpenError::Layout { .. }, .. }));
    assert!(message.contains("scratch") && message.lines().count() == 1 && message.len() < 700, "{message}");
}

#[test]
fn an_object_of_zeros_is_no_plugin() {
    let folder = tempdir().unwrap();
    let file = PluginFile::read(library_with_constructor(folder.path(), "")).unwrap();
    let error = load(&file, Consent::Unlocked).unwrap_err();
    assert!(error.to_string().contains("something else"), "{error}");
}
