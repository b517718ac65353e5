//! Every change to the disk fails once in these tests: with a full disk, a broken one, a short write, a kill. What is left
//! is the old output or the new one, never a part, and never a changed base.

#[path = "common/faulty_disk.rs"]
mod faulty_disk;
#[path = "common/safetensors_bytes.rs"]
mod safetensors_bytes;
#[path = "common/watch.rs"]
mod watch;

use std::{
    env, fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use faulty_disk::{Fault, FaultyDisk};
use rustix::io::Errno;
use safetensors_bytes::write_folder;
use tempfile::TempDir;
use unswag_abi::doc::Dtype;
use unswag_checkpoint::{
    Checkpoint, Commit, Disk, Durability, Existing, How, NewTensor, RealDisk, Staging, TensorData, WriteError,
    atomic_write_file, pytorch_metadata, silent,
};
use watch::{Watched, names};

/// Every kind of writing once. `version` tells outputs apart.
fn write_output(folder: &Path, version: u8, existing: Existing, disk: &dyn Disk) -> Result<(), WriteError> {
    let base = folder.join("base");
    let mut staging = Staging::begin(&folder.join("out"), &[&base], existing, disk)?;
    staging.write("version", &[version])?;
    staging.write("sub/config.json", b"{}")?;
    staging.transfer(&base.join("model.safetensors"), "model.safetensors", How::CopyOrReflink, &silent)?;
    staging.transfer(&base.join("README.md"), "README.md", How::Link, &silent)?;
    let weights = base.join("model.safetensors");
    let bytes = fs::metadata(&weights).map_or(0, |metadata| metadata.len());
    let tensors = vec![
        NewTensor {
            name: "bytes".to_owned(),
            dtype: Dtype::U8,
            shape: vec![3],
            data: TensorData::Bytes((&[1u8, 2, 3][..]).into()),
        },
        NewTensor {
            name: "range".to_owned(),
            dtype: Dtype::U8,
            shape: vec![bytes],
            data: TensorData::Range { path: weights, range: 0..bytes },
        },
        NewTensor {
            name: "made".to_owned(),
            dtype: Dtype::F32,
            shape: vec![1000],
            data: TensorData::Make(Box::new(|| Ok(vec![9; 4000]))),
        },
        NewTensor {
            name: "streamed".to_owned(),
            dtype: Dtype::U8,
            shape: vec![4],
            data: TensorData::Stream(Box::new(|sink| [[5, 6], [7, 8]].iter().try_for_each(|piece| sink(piece)))),
        },
    ];
    staging.write_safetensors("new.safetensors", &pytorch_metadata(), tensors, &silent)?;
    staging.commit(Commit { durability: Durability::Everything, read_only: false }).map(drop)
}

/// The version of the output, which must be whole; `None` where there is none.
#[track_caller]
fn version(folder: &Path) -> Option<u8> {
    let out = folder.join("out");
    if !out.exists() {
        return None;
    }
    assert_eq!(names(&out), ["README.md", "model.safetensors", "new.safetensors", "sub", "version"]);
    let base = folder.join("base");
    assert_eq!(fs::read(out.join("model.safetensors")).ok(), fs::read(base.join("model.safetensors")).ok());
    let new = Checkpoint::open(out.join("new.safetensors")).expect("it opens");
    assert_eq!(new.data("made").expect("data"), [9; 4000]);
    assert_eq!(new.data("streamed").expect("data"), [5, 6, 7, 8]);
    assert_eq!(new.data("range").expect("data"), fs::read(base.join("model.safetensors")).expect("read"));
    Some(fs::read(out.join("version")).expect("read")[0])
}

/// A folder with a base and, where `old` is given, an output of that version.
fn scene(old: Option<u8>) -> TempDir {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    write_folder(&scratch.path().join("base"));
    if let Some(old) = old {
        write_output(scratch.path(), old, Existing::Refuse, &FaultyDisk::sound()).expect("the first output");
    }
    scratch
}

fn existing(old: Option<u8>) -> Existing {
    match old {
        Some(_) => Existing::Replace,
        None => Existing::Refuse,
    }
}

/// After anything, a run on the same output works and leaves no litter.
#[track_caller]
fn a_new_run_works(folder: &Path) {
    let existing = existing(version(folder));
    write_output(folder, 3, existing, &FaultyDisk::sound()).expect("it works again");
    assert_eq!(version(folder), Some(3));
    assert_eq!(names(folder), ["base", "out"]);
}

#[test]
fn any_failing_change_leaves_the_old_output_or_the_new_one() {
    let faults = [
        Fault::Error(Errno::NOSPC),
        Fault::Error(Errno::IO),
        Fault::Once(Errno::DQUOT),
        Fault::Once(Errno::IO),
        Fault::Once(Errno::ROFS),
    ];
    for old in [None, Some(1)] {
        for fault in faults {
            for at in 0.. {
                let scene = scene(old);
                let watched = Watched::new(&scene.path().join("base"));
                let disk = FaultyDisk::new(at, fault);
                let result = write_output(scene.path(), 2, existing(old), &disk);
                let found = version(scene.path());
                match &result {
                    Ok(()) => assert_eq!(found, Some(2), "{fault:?} at {at}"),
                    Err(error) => {
                        assert_eq!(found, old, "{fault:?} at {at}: {error}");
                        assert!(!error.to_string().contains('\n'));
                    }
                }
                watched.assert_unchanged();
                if !disk.reached() {
                    assert!(result.is_ok());
                    assert!(at > 20, "only {at} changes were made");
                    break;
                }
                a_new_run_works(scene.path());
                watched.assert_unchanged();
            }
        }
    }
}

#[test]
fn a_full_disk_is_named_and_its_litter_removed() {
    let scene = scene(None);
    for at in 3..12 {
        let disk = FaultyDisk::new(at, Fault::Error(Errno::NOSPC));
        let error = write_output(scene.path(), 2, Existing::Refuse, &disk).expect_err("the disk is full");
        assert!(matches!(error, WriteError::DiskFull { .. }), "at {at}: {error}");
        assert!(error.to_string().contains("free some space"), "{error}");
        assert_eq!(names(scene.path()), ["base"], "at {at}");
    }
}

#[test]
fn short_writes_and_copies_are_carried_on() {
    for at in [0, 5, 10] {
        let scene = scene(None);
        write_output(scene.path(), 2, Existing::Refuse, &FaultyDisk::new(at, Fault::Short)).expect("it is written");
        assert_eq!(version(scene.path()), Some(2));
    }
}

#[test]
fn where_the_kernel_cannot_copy_bytes_are_read_and_written() {
    for errno in [Errno::XDEV, Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP] {
        // Counts the changes up to the first copy in the kernel by failing each one in turn until one is survived.
        let survived = (0..40).any(|at| {
            let scene = scene(None);
            let disk = FaultyDisk::new(at, Fault::Once(errno));
            let result = write_output(scene.path(), 2, Existing::Refuse, &disk);
            result.is_ok() && disk.reached() && version(scene.path()) == Some(2)
        });
        assert!(survived, "{errno:?}");
    }
}

#[test]
fn a_single_file_is_old_or_new_whatever_fails() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = scratch.path().join("lock.json");
    for errno in [Errno::NOSPC, Errno::IO] {
        for at in 0..8 {
            fs::write(&path, "old").expect("written");
            let disk = FaultyDisk::new(at, Fault::Once(errno));
            let result = atomic_write_file(&path, b"new", &disk);
            let expected = if result.is_ok() { "new" } else { "old" };
            assert_eq!(fs::read_to_string(&path).expect("read"), expected, "{errno:?} at {at}");
            assert_eq!(names(scratch.path()), ["lock.json"], "{errno:?} at {at}");
        }
    }
}

const FOLDER: &str = "UNSWAG_TEST_FOLDER";
const KILL_AT: &str = "UNSWAG_TEST_KILL_AT";

/// Not a test of its own: what [`child`] runs.
#[test]
fn writes_where_the_parent_says() {
    let Some(folder) = env::var_os(FOLDER).map(PathBuf::from) else { return };
    let existing = existing(version(&folder));
    let result = match env::var(KILL_AT).ok().and_then(|at| at.parse().ok()) {
        Some(at) => write_output(&folder, 2, existing, &FaultyDisk::new(at, Fault::Kill)),
        None => write_output(&folder, 2, existing, &RealDisk),
    };
    result.expect("it is written, if it is not killed");
}

fn child(folder: &Path) -> Command {
    let mut command = Command::new(env::current_exe().expect("this test's own program"));
    command.args(["--exact", "writes_where_the_parent_says"]).env(FOLDER, folder);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command
}

#[test]
fn a_kill_before_any_change_leaves_the_old_output_or_the_new_one() {
    for old in [None, Some(1)] {
        for at in 0.. {
            let scene = scene(old);
            let watched = Watched::new(&scene.path().join("base"));
            let status = child(scene.path()).env(KILL_AT, at.to_string()).status().expect("it runs");
            let found = version(scene.path());
            assert!(found == old || found == Some(2), "at {at}: {found:?}");
            watched.assert_unchanged();
            a_new_run_works(scene.path());
            watched.assert_unchanged();
            if status.success() {
                assert_eq!(found, Some(2));
                assert!(at > 20, "only {at} changes were made");
                break;
            }
            assert_eq!(status.signal(), Some(9), "at {at}: {status}");
        }
    }
}

#[test]
fn a_kill_at_any_moment_of_a_large_copy_leaves_the_old_output_or_the_new_one() {
    let scene = scene(Some(1));
    // Large enough that most kills hit the copy.
    let weights = scene.path().join("base/model.safetensors");
    let data = vec![0x5a; 64 << 20];
    let header = safetensors_bytes::entry("w", &[16 << 20], 0, 64 << 20);
    fs::write(&weights, safetensors_bytes::file(&format!("{{{header}}}"), &data)).expect("written");
    fs::remove_dir_all(scene.path().join("out")).expect("removed");
    write_output(scene.path(), 1, Existing::Refuse, &RealDisk).expect("the first output");

    let watched = Watched::new(&scene.path().join("base"));
    for pause_ms in (0..).step_by(7).take(20) {
        let mut child = child(scene.path()).spawn().expect("it runs");
        thread::sleep(Duration::from_millis(pause_ms));
        child.kill().expect("it is killed, or has ended");
        child.wait().expect("it ended");
        let found = version(scene.path());
        assert!(matches!(found, Some(1 | 2)), "after {pause_ms} ms: {found:?}");
    }
    a_new_run_works(scene.path());
    watched.assert_unchanged();
}
