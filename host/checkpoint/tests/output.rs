//! Writing an output folder: what it looks like when done, and where it is refused. The base is never changed.

#[path = "common/safetensors_bytes.rs"]
mod safetensors_bytes;
#[path = "common/watch.rs"]
mod watch;

use std::{
    fs::{self, File},
    ops::ControlFlow,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use safetensors_bytes::write_folder;
use tempfile::TempDir;
use unswag_checkpoint::{
    Checkpoint, Commit, Disk, Durability, Existing, How, RealDisk, Staging, Transferred, WriteError, atomic_write_file,
    hash_file, silent,
};
use watch::{Watched, names};

/// A scratch folder with a base checkpoint in `base`.
struct Scene {
    scratch: TempDir,
    base: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let base = scratch.path().join("base");
        write_folder(&base);
        Scene { scratch, base }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn begin(&self, out: &str) -> Result<Staging<'static>, WriteError> {
        Staging::begin(&self.path(out), &[&self.base], Existing::Refuse, &RealDisk)
    }

    #[track_caller]
    fn refused(&self, out: &Path, existing: Existing, says: &str) -> WriteError {
        let watched = Watched::new(self.scratch.path());
        let Err(error) = Staging::begin(out, &[&self.base], existing, &RealDisk) else {
            panic!("{} was not refused", out.display())
        };
        let text = error.to_string();
        assert!(text.contains(says), "expected {says:?} in: {text}");
        watched.assert_unchanged_but_for_times();
        error
    }
}

#[test]
fn an_output_appears_whole_and_only_on_commit() {
    let scene = Scene::new();
    let watched = Watched::new(&scene.base);
    let mut staging = scene.begin("out").expect("it begins");
    staging.write("config.json", b"{}").expect("written");
    staging.write("1_Pooling/config.json", b"[]").expect("written");
    let weights = scene.base.join("model.safetensors");
    let written = staging.transfer(&weights, "model.safetensors", How::CopyOrReflink, &silent).expect("copied");
    assert!(!scene.path("out").exists());
    assert!(Checkpoint::open(staging.path()).is_ok(), "what is staged can be checked before it is published");

    let published = staging.commit(Commit::default()).expect("published");
    assert_eq!((published.path, published.leftover), (scene.path("out").canonicalize().expect("there"), None));
    assert_eq!(names(scene.scratch.path()), ["base", "out"]);
    assert_eq!(names(&scene.path("out")), ["1_Pooling", "config.json", "model.safetensors"]);
    assert_eq!(fs::read(scene.path("out/1_Pooling/config.json")).expect("read"), b"[]");
    assert_eq!(fs::read(scene.path("out/model.safetensors")).expect("read"), fs::read(&weights).expect("read"));
    assert_eq!(written.hash, blake3::hash(&fs::read(&weights).expect("read")));
    assert_ne!(written.transferred, Some(Transferred::Linked));
    let (copy, original) = (scene.path("out/model.safetensors").metadata(), weights.metadata());
    assert_ne!(copy.expect("there").ino(), original.expect("there").ino(), "a copy is a file of its own");
    watched.assert_unchanged();
}

#[test]
fn what_is_dropped_leaves_nothing() {
    let scene = Scene::new();
    let mut staging = scene.begin("out").expect("it begins");
    staging.write("config.json", b"{}").expect("written");
    drop(staging);
    assert_eq!(names(scene.scratch.path()), ["base"]);
}

#[test]
fn modes_are_those_of_anything_newly_made() {
    let scene = Scene::new();
    fs::set_permissions(scene.base.join("model.safetensors"), fs::Permissions::from_mode(0o400)).expect("set");
    let watched = Watched::new(&scene.base);
    let mut staging = scene.begin("out").expect("it begins");
    let hidden = fs::metadata(staging.path()).expect("there").permissions().mode() & 0o777;
    assert_eq!(hidden, 0o700, "nobody else looks into what is not done");
    staging.transfer(&scene.base.join("model.safetensors"), "m", How::CopyOrReflink, &silent).expect("copied");
    staging.commit(Commit::default()).expect("published");
    fs::create_dir(scene.path("plain")).expect("made");
    fs::write(scene.path("plain/file"), "").expect("written");
    let mode = |name: &str| fs::metadata(scene.path(name)).expect("there").permissions().mode();
    assert_eq!((mode("out"), mode("out/m")), (mode("plain"), mode("plain/file")));
    watched.assert_unchanged();
}

#[test]
fn a_hard_link_shares_the_file_and_a_read_only_folder_keeps_its_mode() {
    let scene = Scene::new();
    let watched = Watched::new(&scene.base);
    let weights = scene.base.join("model.safetensors");
    let mut staging = scene.begin("out").expect("it begins");
    let written = staging.transfer(&weights, "model.safetensors", How::Link, &silent).expect("linked");
    assert_eq!(written.transferred, Some(Transferred::Linked));
    assert_eq!(written.hash, hash_file(&weights, &silent).expect("hashed"));
    staging.commit(Commit { read_only: true, ..Commit::default() }).expect("published");
    let inode = |path: &Path| fs::metadata(path).expect("there").ino();
    assert_eq!(inode(&scene.path("out/model.safetensors")), inode(&weights));
    assert_eq!(fs::metadata(scene.path("out")).expect("there").permissions().mode() & 0o222, 0);
    watched.assert_unchanged();

    // A read-only output can be replaced all the same, and the base lives on.
    let mut staging =
        Staging::begin(&scene.path("out"), &[&scene.base], Existing::Replace, &RealDisk).expect("it begins");
    staging.write("new", b"new").expect("written");
    let published = staging.commit(Commit { durability: Durability::Everything, read_only: false }).expect("published");
    assert!(published.leftover.is_none());
    assert_eq!(names(&scene.path("out")), ["new"]);
    assert_eq!(names(scene.scratch.path()), ["base", "out"]);
    watched.assert_unchanged();
}

#[test]
fn links_in_the_base_become_files_in_the_output() {
    let scene = Scene::new();
    let real = scene.path("blob");
    fs::rename(scene.base.join("model.safetensors"), &real).expect("moved");
    symlink("../blob", scene.base.join("model.safetensors")).expect("linked");
    for how in [How::CopyOrReflink, How::Link] {
        let mut staging = scene.begin("out").expect("it begins");
        staging.transfer(&scene.base.join("model.safetensors"), "model.safetensors", how, &silent).expect("carried");
        staging.commit(Commit::default()).expect("published");
        let metadata = fs::symlink_metadata(scene.path("out/model.safetensors")).expect("there");
        assert!(metadata.is_file(), "{how:?}");
        fs::remove_dir_all(scene.path("out")).expect("removed");
    }
}

#[test]
fn an_empty_folder_is_taken_and_a_full_one_refused() {
    let scene = Scene::new();
    fs::create_dir(scene.path("out")).expect("made");
    let mut staging = scene.begin("out").expect("an empty folder is fine");
    staging.write("a", b"a").expect("written");
    staging.commit(Commit::default()).expect("published");
    assert_eq!(names(&scene.path("out")), ["a"]);

    let error = scene.refused(&scene.path("out"), Existing::Refuse, "already there");
    assert!(matches!(error, WriteError::Exists { .. }));
    fs::write(scene.path("file"), "x").expect("written");
    scene.refused(&scene.path("file"), Existing::Replace, "already there");
}

#[test]
fn what_comes_to_stand_at_the_output_meanwhile_is_kept() {
    let scene = Scene::new();
    let mut staging = scene.begin("out").expect("it begins");
    staging.write("a", b"new").expect("written");
    fs::create_dir(scene.path("out")).expect("made");
    fs::write(scene.path("out/theirs"), "theirs").expect("written");
    let error = staging.commit(Commit::default()).expect_err("it is not replaced");
    assert!(matches!(error, WriteError::Exists { .. }), "{error}");
    assert_eq!(names(&scene.path("out")), ["theirs"]);
    assert_eq!(names(scene.scratch.path()), ["base", "out"]);
}

#[test]
fn outputs_that_are_the_base_are_refused_however_they_are_spelled() {
    let scene = Scene::new();
    for existing in [Existing::Refuse, Existing::Replace] {
        scene.refused(&scene.base, existing, "the base checkpoint itself");
        scene.refused(&scene.base.join("../base"), existing, "the base checkpoint itself");
        scene.refused(&scene.base.join("../base/"), existing, "the base checkpoint itself");
        scene.refused(&scene.base.join("model.safetensors"), existing, "inside the base");
        scene.refused(&scene.base.join("out"), existing, "inside the base");

        let link = scene.path("link-to-base");
        symlink(&scene.base, &link).expect("linked");
        scene.refused(&link, existing, "a symbolic link to it");
        scene.refused(&link.join("out"), existing, "inside the base");
        let file_link = scene.path("link-to-weights");
        symlink(scene.base.join("model.safetensors"), &file_link).expect("linked");
        scene.refused(&file_link, existing, "a symbolic link to it");
        let hard = scene.path("hard-link-to-weights");
        fs::hard_link(scene.base.join("model.safetensors"), &hard).expect("linked");
        scene.refused(&hard, existing, "a hard link to one");
        for made in [link, file_link, hard] {
            fs::remove_file(made).expect("removed");
        }
        scene.refused(scene.scratch.path(), existing, "a folder that holds the base");
    }
}

#[test]
fn a_base_that_is_one_file_is_protected_too() {
    let scene = Scene::new();
    let weights = scene.base.join("model.safetensors");
    let hard = scene.path("hard");
    fs::hard_link(&weights, &hard).expect("linked");
    for out in [&weights, &hard] {
        let error = Staging::begin(out, &[&weights], Existing::Replace, &RealDisk).err().expect("refused");
        assert!(matches!(error, WriteError::IsBase { .. }), "{error}");
    }
    let error = Staging::begin(&scene.base, &[&weights], Existing::Replace, &RealDisk).err().expect("refused");
    assert!(matches!(error, WriteError::HoldsBase { .. }), "{error}");
    assert!(Staging::begin(&scene.base.join("out"), &[&weights], Existing::Refuse, &RealDisk).is_ok());
}

#[test]
fn outputs_that_cannot_be_are_refused_at_once() {
    let scene = Scene::new();
    symlink("nowhere", scene.path("dangling")).expect("linked");
    scene.refused(&scene.path("dangling"), Existing::Replace, "symbolic link to nowhere");
    scene.refused(&scene.path("missing/out"), Existing::Refuse, "does not exist");
    scene.refused(&scene.path("base/config.json/out"), Existing::Refuse, "");
    scene.refused(&scene.path("x/.."), Existing::Refuse, "");
    scene.refused(Path::new("/"), Existing::Replace, "not a name");
    scene.refused(Path::new(""), Existing::Replace, "not a name");
    scene.refused(&scene.path(&"n".repeat(256)), Existing::Refuse, "not a name");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    // Nobody, root included, makes files there.
    let error = Staging::begin(Path::new("/proc/out"), &[], Existing::Refuse, &RealDisk).err().expect("refused");
    assert!(error.to_string().starts_with("/proc/"), "{error}");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn the_longest_name_works() {
    let scene = Scene::new();
    let name = "ü".repeat(127);
    let mut staging = scene.begin(&name).expect("it begins");
    staging.write("a", b"a").expect("written");
    staging.commit(Commit::default()).expect("published");
    assert!(scene.path(&name).join("a").exists());
}

#[test]
fn a_second_writer_of_one_output_is_told_at_once() {
    let scene = Scene::new();
    let first = scene.begin("out").expect("it begins");
    let error = scene.begin("out").err().expect("refused");
    assert!(matches!(error, WriteError::Busy { .. }), "{error}");
    // By another spelling too, but another output is free.
    fs::create_dir(scene.path("sub")).expect("made");
    assert!(matches!(scene.begin("sub/../out").err(), Some(WriteError::Busy { .. })));
    assert!(scene.begin("other").is_ok());
    assert!(first.path().exists(), "the second left the first one's work alone");
    drop(first);
    assert!(scene.begin("out").is_ok());
}

#[test]
fn litter_of_dead_runs_is_removed_and_nothing_else() {
    let scene = Scene::new();
    let staging = scene.begin("out").expect("it begins");
    let hidden = staging.path().file_name().expect("a name").to_str().expect("UTF-8").to_owned();
    drop(staging);
    let (key, nonce) = hidden.rsplit_once('-').expect("a nonce");
    let stale = scene.path(&hidden);
    fs::create_dir(&stale).expect("made");
    symlink(&scene.base, stale.join("link")).expect("linked");
    fs::set_permissions(&stale, fs::Permissions::from_mode(0o500)).expect("set");
    let strangers = [
        format!("{key}-{nonce}0"),
        format!("{key}-mine"),
        format!("{key}-zzzzzzzzzzzzzzzz"),
        ".unswag-other".to_owned(),
    ];
    for stranger in &strangers {
        fs::create_dir(scene.path(stranger)).expect("made");
    }
    let file = format!("{key}-0123456789abcdef");
    fs::write(scene.path(&file), "a file, not a folder of ours").expect("written");

    let watched = Watched::new(&scene.base);
    drop(scene.begin("out").expect("it begins"));
    assert!(!stale.exists());
    for kept in strangers.iter().chain([&file]) {
        assert!(scene.path(kept).exists(), "{kept}");
    }
    watched.assert_unchanged();
}

#[test]
fn names_that_lead_out_of_the_output_are_refused() {
    let scene = Scene::new();
    let mut staging = scene.begin("out").expect("it begins");
    for name in ["", "/etc/passwd", "../up", "a/../../b", "a//b", ".", "a/", "a\nb", "a\0b", &"n".repeat(256)] {
        assert!(matches!(staging.write(name, b""), Err(WriteError::BadName { .. })), "{name:?}");
    }
    staging.write("a", b"1").expect("written");
    assert!(matches!(staging.write("a", b"2"), Err(WriteError::BadName { .. })));
    assert_eq!(fs::read(staging.path().join("a")).expect("read"), b"1");
}

#[test]
fn progress_hears_each_byte_once_and_can_stop_the_work() {
    let scene = Scene::new();
    let big = scene.path("big");
    fs::write(&big, vec![7; (20 << 20) + 5]).expect("written");
    for how in [How::CopyOrReflink, How::Link] {
        let heard = AtomicU64::new(0);
        let count = |bytes| {
            heard.fetch_add(bytes, Ordering::Relaxed);
            ControlFlow::Continue(())
        };
        let mut staging = scene.begin("out").expect("it begins");
        staging.transfer(&big, "big", how, &count).expect("carried");
        assert_eq!(heard.into_inner(), (20 << 20) + 5, "{how:?}");

        let stop = |_| ControlFlow::Break(());
        let error = staging.transfer(&big, "again", how, &stop).expect_err("stopped");
        assert!(matches!(error, WriteError::Cancelled), "{how:?}: {error}");
        drop(staging);
        assert_eq!(names(scene.scratch.path()), ["base", "big"]);
    }
}

#[test]
fn copies_of_sparse_files_are_equal_and_stay_sparse() {
    let scene = Scene::new();
    let sparse = scene.path("sparse");
    let file = File::create_new(&sparse).expect("made");
    file.set_len(256 << 20).expect("a hole");
    file.write_all_at(b"middle", (100 << 20) + 17).expect("written");
    file.write_all_at(b"x", (200 << 20) - 1).expect("written");
    let mut staging = scene.begin("out").expect("it begins");
    let written = staging.transfer(&sparse, "sparse", How::CopyOrReflink, &silent).expect("copied");
    let copy = staging.path().join("sparse");
    assert_eq!(hash_file(&copy, &silent).expect("hashed"), written.hash);
    assert_eq!(hash_file(&sparse, &silent).expect("hashed"), written.hash);
    let metadata = fs::metadata(copy).expect("there");
    assert_eq!(metadata.len(), 256 << 20);
    assert!(metadata.blocks() * 512 < 16 << 20, "{} blocks", metadata.blocks());
}

#[test]
fn space_that_is_not_there_is_refused_before_it_is_needed() {
    let scene = Scene::new();
    let staging = scene.begin("out").expect("it begins");
    assert!(staging.require_space(1).is_ok());
    let error = staging.require_space(u64::MAX).expect_err("nobody has that");
    assert!(matches!(error, WriteError::NoSpace { .. }));
    assert!(error.to_string().contains("are free"), "{error}");
}

#[test]
fn a_single_file_is_replaced_in_one_step_and_keeps_its_mode() {
    let scene = Scene::new();
    let path = scene.path("lock.json");
    atomic_write_file(&path, b"one", &RealDisk).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
    let link = scene.path("link.json");
    symlink("lock.json", &link).expect("linked");
    atomic_write_file(&link, b"two", &RealDisk).expect("written");
    assert_eq!(fs::read(&path).expect("read"), b"two");
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(names(scene.scratch.path()), ["base", "link.json", "lock.json"]);
    assert!(atomic_write_file(&scene.path("missing/file"), b"x", &RealDisk).is_err());
}

/// `/dev/full`'s error, by way of the real call: the message says what to do.
#[test]
fn a_full_disk_is_told_as_such() {
    let full = File::options().write(true).open("/dev/full").expect("it opens");
    let error = RealDisk.write_all_at(&full, b"x", 0).expect_err("it is full");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
}
