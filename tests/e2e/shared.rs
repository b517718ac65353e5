//! The tests' own helpers: a guard that cannot fire guards nothing.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use unswag_tests::{Base, Family, Run, Tiny};

#[test]
fn a_guard_finds_every_kind_of_change() {
    type Change = fn(&std::path::Path);
    let changes: [(&str, Change); 7] = [
        ("a byte", |dir| fs::write(dir.join("a"), "xyy").unwrap()),
        ("a mode", |dir| fs::set_permissions(dir.join("a"), fs::Permissions::from_mode(0o400)).unwrap()),
        ("a time", |dir| {
            let file = fs::File::options().write(true).open(dir.join("a")).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        }),
        ("another file of the same bytes and time", |dir| {
            let time = fs::metadata(dir.join("a")).unwrap().modified().unwrap();
            fs::write(dir.join("sub/new"), "xyz").unwrap();
            fs::rename(dir.join("sub/new"), dir.join("a")).unwrap();
            fs::File::options().write(true).open(dir.join("a")).unwrap().set_modified(time).unwrap();
        }),
        ("a new file", |dir| fs::write(dir.join("b"), "").unwrap()),
        ("a lost file", |dir| fs::remove_file(dir.join("a")).unwrap()),
        ("what a link leads to", |dir| fs::write(dir.parent().unwrap().join("blob"), "other").unwrap()),
    ];
    for (what, change) in changes {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("base");
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(dir.join("a"), "xyz").unwrap();
        fs::write(temp.path().join("blob"), "blob").unwrap();
        symlink("../blob", dir.join("link")).unwrap();

        let base = Base::guard(&dir);
        assert_eq!(base.changes(), Vec::<String>::new());
        change(&dir);
        assert!(!base.changes().is_empty(), "{what} was not found");
        // Dropping it would panic, as it should.
        std::mem::forget(base);
    }
}

#[test]
fn a_run_reports_what_the_program_did() {
    let outcome = Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]).outcome();
    assert_eq!(outcome.stdout, "out\n");
    assert_eq!(outcome.code(3), "err\n");
    assert!(outcome.peak_rss_bytes > 100_000, "{outcome:?}");
}

#[test]
fn a_run_reports_the_memory_that_the_program_held() {
    // dd holds one block of 200 MiB.
    let outcome = Command::new("dd").args(["if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]).outcome();
    outcome.ok();
    assert!(outcome.peak_rss_bytes > 200 << 20, "{outcome:?}");
}

#[test]
fn a_tiny_checkpoint_is_the_same_for_the_same_seed_only() {
    let bytes = |seed| {
        let dir = tempfile::tempdir().unwrap();
        Tiny { seed, ..Tiny::new(Family::Llama) }.write(dir.path());
        fs::read(dir.path().join("model.safetensors")).unwrap()
    };
    assert_eq!(bytes(1), bytes(1));
    assert_ne!(bytes(1), bytes(2));
}

#[test]
fn shards_hold_every_tensor_once() {
    let dir = tempfile::tempdir().unwrap();
    Tiny { shards: 3, ..Tiny::new(Family::Qwen3) }.write(dir.path());
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.path().join("model.safetensors.index.json")).unwrap()).unwrap();
    let map = index["weight_map"].as_object().unwrap();
    let mut seen = 0;
    for shard in 1..=3 {
        let name = format!("model-0000{shard}-of-00003.safetensors");
        let file = fs::read(dir.path().join(&name)).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        for tensor in tensors.names() {
            assert_eq!(map[tensor], name.as_str());
            seen += 1;
        }
    }
    assert_eq!(seen, map.len());
}
